// SPDX-License-Identifier: Apache-2.0

/// The payload of a full packet. The raw value is the code of the verbs (`IBV_MTU_256` is 1) and of the wire.
public enum PathMTU: UInt8, Sendable, CaseIterable, Comparable {
    /// 256 bytes.
    case bytes256 = 1
    /// 512 bytes.
    case bytes512
    /// 1024 bytes, what fits a standard Ethernet frame.
    case bytes1024
    /// 2048 bytes.
    case bytes2048
    /// 4096 bytes.
    case bytes4096

    /// The payload in bytes.
    @inlinable @inline(__always)
    public var byteCount: Int { 128 << Int(rawValue) }

    /// The largest path MTU which an interface of `interfaceMTU` bytes carries under any headers, or `nil` below 352.
    ///
    /// The overhead is that of Linux' `rdma_cm` (96 bytes: IPv6 40, UDP 8, BTH 12, immediate 4, AtomicETH 28, ICRC 4);
    /// its rxe counts 80, which matters only for interfaces within 16 bytes of a step.
    @inlinable
    public init?(interfaceMTU: Int) {
        switch interfaceMTU - 96 {
        case 4096...: self = .bytes4096
        case 2048...: self = .bytes2048
        case 1024...: self = .bytes1024
        case 512...: self = .bytes512
        case 256...: self = .bytes256
        default: return nil
        }
    }

    /// The smaller MTU is the lesser.
    @inlinable
    public static func < (a: PathMTU, b: PathMTU) -> Bool { a.rawValue < b.rawValue }
}
