// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// A failed control call of a link.
package enum PacketIOError: Error, Equatable, Sendable {
    /// A system call failed: its name and what it was for, and the `errno`.
    case system(call: String, code: Int32)
    /// UDP port 4791 of this address belongs to another program of this network namespace that is not this library:
    /// kernel rxe (its module takes the port of all addresses), or one of another user.
    case portInUse(address: GID)
    /// All 254 slots of the address are taken by living processes.
    case noSlot(address: GID)
    /// None of the addresses could be served; the error of the first.
    indirect case noAddress(first: PacketIOError?)
    /// More addresses or groups than a link has room for.
    case limit(what: String, maximum: Int)
    /// A link that was asked for cannot be had: which, why, and what to do.
    case unavailable(link: String, reason: String)
    /// The argument does not make sense: which, and why.
    case invalid(String)
}

extension PacketIOError {
    /// Another socket or program has it.
    package var isBusy: Bool {
        guard case .system(_, let code) = self else { return false }
        return code == EBUSY || code == EEXIST
    }
}

extension PacketIOError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .system(let call, let code): "\(call): \(SystemError.text(code)) (errno \(code))"
        case .portInUse(let address):
            "UDP port 4791 of \(address.addressText) is in use by another program (is the kernel's rdma_rxe module loaded?)"
        case .noSlot(let address): "all 254 process slots of \(address.addressText) are taken"
        case .noAddress(let first): "no address of the interface can be used: \(first?.description ?? "it has none")"
        case .limit(let what, let maximum): "too many \(what): the limit is \(maximum)"
        case .unavailable(let link, let reason): "the \(link) link cannot be had: \(reason)"
        case .invalid(let reason): reason
        }
    }
}

/// `errno` and its text.
enum SystemError {
    static func text(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }

    /// The error of the call that has just failed.
    static func last(_ call: String) -> PacketIOError { .system(call: call, code: clinuxnet_errno()) }
}
