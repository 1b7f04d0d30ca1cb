// SPDX-License-Identifier: Apache-2.0

/// A flow label: 20 bits that are the same for all packets of a connection, and give its UDP source port.
///
/// The rules are Linux' (`rdma_get_udp_sport`, `rdma_calc_flow_label`, `cma_get_roce_udp_flow_label`), so that load
/// balancers see our traffic as they see hardware's. Receivers must not care.
public struct FlowLabel: Hashable, Sendable {
    /// The label, 0...0xFFFFF; 0 is none.
    public let rawValue: UInt32

    /// Takes the low 20 bits of `value`.
    @inlinable
    public init(truncating value: UInt32) {
        rawValue = value & 0xF_FFFF
    }

    /// The label of a connection that was given none, from its two queue pairs: the same at both ends.
    public init(_ local: QPN, _ remote: QPN) {
        var product = UInt64(local.rawValue) * UInt64(remote.rawValue)
        product ^= product >> 20
        product ^= product >> 40
        self.init(truncating: UInt32(truncatingIfNeeded: product & 0xF_FFFF))
    }

    /// The label that the RDMA connection manager asks for, from the port numbers of its port space.
    public init(sourcePort: UInt16, destinationPort: UInt16) {
        self.init(truncating: UInt32(sourcePort) * 31 + UInt32(destinationPort))
    }

    /// The UDP source port of the label's packets, 0xC000...0xFFFF.
    public var udpSourcePort: UInt16 {
        UInt16(truncatingIfNeeded: (rawValue & 0x3FFF) ^ rawValue >> 14) | 0xC000
    }
}

extension QPN {
    /// The UDP source port of a queue pair that has no address vector yet, or none at all (datagrams), as rxe hashes it.
    public var udpSourcePort: UInt16 {
        0xC000 + UInt16(truncatingIfNeeded: rawValue &* 0x61C8_8647 >> 18)
    }
}
