// SPDX-License-Identifier: Apache-2.0

/// Immediate data: 32 bits for the receiver's completion.
public struct ImmDt: Hashable, Sendable {
    /// 4.
    @inlinable public static var byteCount: Int { 4 }

    /// The four bytes as they lie in memory, here and on the wire: `ibv_send_wr.imm_data` and `ibv_wc.imm_data` are
    /// `__be32`, so nothing on the way swaps them.
    public var networkOrderValue: UInt32

    /// Immediate data with these bytes.
    @inlinable @inline(__always)
    public init(networkOrderValue: UInt32) {
        self.networkOrderValue = networkOrderValue
    }

    /// The data at `offset`, where 4 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        networkOrderValue = bytes.loadNative(UInt32.self, at: offset)
    }

    /// Writes the 4 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeNative(networkOrderValue, at: offset)
    }
}
