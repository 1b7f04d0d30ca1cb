// SPDX-License-Identifier: Apache-2.0

/// Atomic acknowledge extension header: what memory held before the operation, big-endian on the wire.
public struct AtomicAckETH: Hashable, Sendable {
    /// 8.
    @inlinable public static var byteCount: Int { 8 }

    /// The value before the operation.
    public var originalValue: UInt64

    /// A header with this value.
    @inlinable @inline(__always)
    public init(originalValue: UInt64) {
        self.originalValue = originalValue
    }

    /// The header at `offset`, where 8 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        originalValue = bytes.loadBigEndian(UInt64.self, at: offset)
    }

    /// Writes the 8 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(originalValue, at: offset)
    }
}
