// SPDX-License-Identifier: Apache-2.0

/// One piece of a work request's local memory; the layout of `struct ibv_sge`.
public struct ScatterGatherEntry: Sendable, BitwiseCopyable, Equatable {
    /// Address in the region's address space (its IOVA).
    public var address: UInt64
    /// Length in bytes.
    public var length: UInt32
    /// Local key of the memory region.
    public var lkey: UInt32

    /// A value with these fields; the rest is zero.
    @inlinable
    public init(address: UInt64, length: UInt32, lkey: UInt32) {
        self.address = address
        self.length = length
        self.lkey = lkey
    }
}
