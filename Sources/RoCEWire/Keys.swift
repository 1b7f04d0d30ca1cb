// SPDX-License-Identifier: Apache-2.0

/// An L_Key or R_Key: names a memory region or window.
public struct MemoryKey: Hashable, Sendable, RawRepresentable {
    /// All 32 bits, as `ibv_mr.rkey`.
    public let rawValue: UInt32

    /// A key with these bits.
    @inlinable @inline(__always)
    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// The low 8 bits, which the owner of a type 2 window chooses at each bind (`ibv_inc_rkey`).
    @inlinable public var variant: UInt8 { UInt8(truncatingIfNeeded: rawValue) }

    /// The same region or window under another variant.
    @inlinable
    public func with(variant: UInt8) -> MemoryKey {
        MemoryKey(rawValue: rawValue & 0xFFFF_FF00 | UInt32(variant))
    }
}

/// A Q_Key: what a datagram must show to be taken by an unreliable datagram queue pair.
public struct QueueKey: Hashable, Sendable, RawRepresentable {
    /// All 32 bits.
    public let rawValue: UInt32

    /// A key with these bits.
    @inlinable @inline(__always)
    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// The well-known key of queue pair 1.
    @inlinable public static var gsi: QueueKey { QueueKey(rawValue: 0x8001_0000) }

    /// The key that the RDMA connection manager gives to its datagram queue pairs (`RDMA_UDP_QKEY`).
    @inlinable public static var connectionManager: QueueKey { QueueKey(rawValue: 0x0123_4567) }

    /// Bit 31: a work request that names such a key means the key of its own queue pair instead.
    @inlinable public var isControlled: Bool { rawValue & 0x8000_0000 != 0 }
}

/// A P_Key: a partition (15 bits) and whether its holder is a full member (bit 15).
public struct PartitionKey: Hashable, Sendable, RawRepresentable {
    /// All 16 bits.
    public let rawValue: UInt16

    /// A key with these bits.
    @inlinable @inline(__always)
    public init(rawValue: UInt16) {
        self.rawValue = rawValue
    }

    /// 0xFFFF, full member of the default partition: the only key in use on Ethernet.
    @inlinable public static var `default`: PartitionKey { PartitionKey(rawValue: 0xFFFF) }

    /// Whether two ports with these keys may talk: the same partition, not the invalid partition 0, and at least one
    /// of them a full member.
    @inlinable
    public func matches(_ other: PartitionKey) -> Bool {
        (rawValue ^ other.rawValue) & 0x7FFF == 0 && rawValue & 0x7FFF != 0 && (rawValue | other.rawValue) & 0x8000 != 0
    }
}
