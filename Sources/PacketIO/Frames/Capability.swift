// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A privilege of this thread, as the kernel numbers them (`linux/capability.h`).
package enum Capability: UInt64, Sendable, CaseIterable {
    case netAdmin = 12
    case netRaw = 13
    case sysAdmin = 21
    case performance = 38
    case bpf = 39

    package var name: String {
        switch self {
        case .netAdmin: "CAP_NET_ADMIN"
        case .netRaw: "CAP_NET_RAW"
        case .sysAdmin: "CAP_SYS_ADMIN"
        case .performance: "CAP_PERFMON"
        case .bpf: "CAP_BPF"
        }
    }

    /// What AF_XDP wants to receive: a socket, a program on the interface, a map of sockets.
    package static let forXDP: [Capability] = [.netRaw, .netAdmin, .bpf]

    /// Those of a list that the calling thread lacks. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON.
    ///
    /// In a user namespace the kernel wants CAP_BPF of the first one, whatever this says: `bpf` fails with EPERM there.
    package static func missing(
        of wanted: [Capability], effective: UInt64 = clinuxnet_effective_capabilities()
    ) -> [Capability] {
        wanted.filter { capability in
            if effective >> capability.rawValue & 1 != 0 { return false }
            return !([.bpf, .performance].contains(capability) && effective >> Capability.sysAdmin.rawValue & 1 != 0)
        }
    }
}
