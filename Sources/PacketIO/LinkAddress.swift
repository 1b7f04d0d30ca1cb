// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// One local address of a link: its sockets, its slot, and its steering.
struct LinkAddress: ~Copyable {
    let gid: GID
    /// `sin6_scope_id` for link-local destinations.
    let scope: UInt32
    let claim: SlotClaim
    let transmit: FileDescriptor
    let sourcePort: UInt16
    /// `nil` while another user's process has the port: then what is for us comes through the mailbox.
    var receiver: FileDescriptor?
    /// That user, trusted to hand datagrams over.
    var ownerUID: UInt32?
    /// For addressing other processes' mailboxes.
    var peerName: SlotName
    var learner: SteeringLearner
    /// Held while learning.
    var steeringLock: FileDescriptor?
    /// Whether the kernel takes steering programs for this group.
    var canSteer = true
    /// Whether the sending socket is in the poll set, to be told when there is room again.
    var transmitIsPolled = false
}

/// What the data path needs of a ``LinkAddress``, apart from it: reading a member of an optional noncopyable value
/// copies the whole value.
struct AddressSockets {
    /// -1 where there is none.
    var receiver: Int32 = -1
    var sender: Int32 = -1
    var scope: UInt32 = 0
    var sourcePort: UInt16 = 0
    var gid = GID.zero
}

/// A multicast group, or broadcast address, that the link listens to.
struct LinkGroup: ~Copyable {
    let gid: GID
    let localIndex: Int
    let socket: FileDescriptor
    var members: Int
}

// Reading what a table entry holds without taking it out.
extension Optional where Wrapped == LinkAddress {
    var isVacant: Bool {
        switch self {
        case .none: true
        case .some: false
        }
    }

    /// The descriptor of the receiving socket.
    @inline(__always) var receiverNumber: Int32? {
        switch self {
        case .none: nil
        case .some(let address): address.receiver.number
        }
    }

    /// The descriptor of the sending socket, and the scope of its destinations.
    @inline(__always) var sender: (descriptor: Int32, scope: UInt32)? {
        switch self {
        case .none: nil
        case .some(let address): (address.transmit.number, address.scope)
        }
    }

    /// The port of the sending socket.
    var sourcePort: UInt16? {
        switch self {
        case .none: nil
        case .some(let address): address.sourcePort
        }
    }

    /// The descriptor of the mailbox, and who else may write to it.
    var mailbox: (descriptor: Int32, ownerUID: UInt32?)? {
        switch self {
        case .none: nil
        case .some(let address): (address.claim.socket.number, address.ownerUID)
        }
    }

    var state: LinkAddressState? {
        switch self {
        case .none: return nil
        case .some(let address):
            let receiver = address.receiver.number
            return LinkAddressState(
                gid: address.gid, scope: address.scope, sourcePort: address.sourcePort,
                reception: receiver == nil ? .served(byUID: address.ownerUID) : .bound,
                receiveBufferBytes: receiver.map { SocketOption.receiveBuffer($0) } ?? 0)
        }
    }

    /// The address itself.
    @inline(__always) var gid: GID? {
        switch self {
        case .none: nil
        case .some(let address): address.gid
        }
    }
}

extension Optional where Wrapped == LinkGroup {
    @inline(__always) var entry: (gid: GID, localIndex: Int, descriptor: Int32)? {
        switch self {
        case .none: nil
        case .some(let group): (group.gid, group.localIndex, group.socket.number)
        }
    }
}

extension Optional where Wrapped == FileDescriptor {
    /// The number, without taking the descriptor.
    @inline(__always) var number: Int32? {
        switch self {
        case .none: nil
        case .some(let descriptor): descriptor.number
        }
    }
}

/// What is told of a local address.
package struct LinkAddressState: Sendable, Equatable {
    /// Whose socket receives what is sent to the address.
    package enum Reception: Sendable, Equatable {
        /// Our own socket on port 4791.
        case bound
        /// Another user's process has the port and hands over what is for us. The user, where it is known.
        case served(byUID: UInt32?)
    }

    package let gid: GID
    package let scope: UInt32
    /// The UDP source port that all its packets carry; the ICRC covers it.
    package let sourcePort: UInt16
    package let reception: Reception
    /// Bytes of the kernel's receive buffer as it accounts them: each packet is charged with its overhead, so allow a
    /// peer about half of it. 0 where the address is served by another process.
    package let receiveBufferBytes: Int
}

/// Which user owns a UDP port: from /proc/net/udp, which every process may read.
enum PortOwner {
    /// The user of a socket bound to port 4791 of this address or of all; `nil` where there is none or it is not told.
    static func uid(of address: GID) -> UInt32? {
        let table = try? TextFile.read(address.isIPv4Mapped ? "/proc/net/udp" : "/proc/net/udp6")
        return table.flatMap { uid(of: address, in: $0) }
    }

    /// The same from the text of the table: the address in hexadecimal words of host byte order, a colon, the port.
    static func uid(of address: GID, in table: String) -> UInt32? {
        let own: [UInt32] =
            address.isIPv4Mapped
            ? [address.ipv4.bigEndian]
            : [address.high >> 32, address.high, address.low >> 32, address.low].map {
                UInt32(truncatingIfNeeded: $0).bigEndian
            }
        for line in table.split(separator: "\n").dropFirst() {
            let fields = line.split(separator: " ", omittingEmptySubsequences: true)
            guard fields.count > 7 else { continue }
            let local = fields[1].split(separator: ":")
            guard local.count == 2, UInt16(local[1], radix: 16) == roceUDPPort, local[0].utf8.count == own.count * 8
            else { continue }
            var digits = local[0]
            var words: [UInt32] = []
            while !digits.isEmpty {
                words.append(UInt32(digits.prefix(8), radix: 16) ?? 0)
                digits = digits.dropFirst(8)
            }
            if words == own || words.allSatisfy({ $0 == 0 }) { return UInt32(fields[7]) }
        }
        return nil
    }
}
