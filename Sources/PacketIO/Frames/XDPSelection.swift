// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Whether AF_XDP is to be used on an interface, and the words for why not.
package enum XDPSelection {
    /// Drivers on which AF_XDP was measured to be faster than UDP sockets, native and all in all (see
    /// Documentation/SoftwareDevice.md). Others stay with UDP unless asked.
    static let fasterDrivers: Set<String> = []

    /// Why ``LinkPreference/automatic`` does not take it; `nil` where it does.
    static func reasonAgainst(_ interface: NetworkInterface) -> String? {
        if let reason = impossibility(interface) { return reason }
        let driver = InterfaceDriver.name(of: interface.name) ?? "unknown"
        guard fasterDrivers.contains(driver) else {
            return
                "AF_XDP was not measured to be faster all in all with the driver \(driver); VERBS_SOFT_LINK=xdp takes it, and packet takes AF_PACKET"
        }
        return nil
    }

    /// Why it cannot be had at all; `nil` where that has to be tried.
    package static func impossibility(_ interface: NetworkInterface) -> String? {
        let missing = Capability.missing(of: Capability.forXDP)
        guard missing.isEmpty else {
            return
                "AF_XDP needs \(missing.map(\.name).joined(separator: ", ")): run as root, or give the program the capabilities (setcap cap_net_raw,cap_net_admin,cap_bpf+ep)"
        }
        guard interface.hardwareAddress.contains(where: { $0 != 0 }) || interface.isLoopback else {
            return "\(interface.name) is no Ethernet interface"
        }
        return nil
    }

    /// Whether another mode may do where this error came.
    static func isOfMode(_ error: PacketIOError) -> Bool {
        guard case .system(_, let code) = error else { return false }
        return [EOPNOTSUPP, ERANGE, EINVAL].contains(code)
    }

    /// What an error means here.
    package static func reason(_ error: PacketIOError, _ interface: NetworkInterface) -> String {
        guard case .system(let call, let code) = error else { return error.description }
        let isAttach = call.contains("BPF_LINK_CREATE")
        switch code {
        case EPERM:
            return
                "the kernel refuses \(call): capabilities of a user namespace do not count for bpf; run as root outside of it"
        case EBUSY, EEXIST:
            return
                "\(interface.name) is in use for XDP by another process (\(call)): end that one, or let this one do without"
        case EOPNOTSUPP where isAttach:
            let driver = InterfaceDriver.name(of: interface.name) ?? "none"
            return "the driver of \(interface.name) (\(driver)) has no native XDP"
        case ERANGE where isAttach:
            return "the MTU of \(interface.name), \(interface.mtu), is too large for XDP in its driver"
        case ENOBUFS, ENOMEM:
            return "the memory for frames cannot be locked: raise the limit (ulimit -l), or give CAP_IPC_LOCK"
        case EAFNOSUPPORT, ENOSYS:
            return "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"
        default: return error.description
        }
    }
}
