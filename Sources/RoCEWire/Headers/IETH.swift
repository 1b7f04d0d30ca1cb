// SPDX-License-Identifier: Apache-2.0

/// Invalidate extension header: the key that the receiver of a SEND with invalidate takes out of use.
public struct IETH: Hashable, Sendable {
    /// 4.
    @inlinable public static var byteCount: Int { 4 }

    /// The key to invalidate.
    public var rkey: MemoryKey

    /// A header with this key.
    @inlinable @inline(__always)
    public init(rkey: MemoryKey) {
        self.rkey = rkey
    }

    /// The header at `offset`, where 4 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        rkey = MemoryKey(rawValue: bytes.loadBigEndian(UInt32.self, at: offset))
    }

    /// Writes the 4 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(rkey.rawValue, at: offset)
    }
}
