// SPDX-License-Identifier: Apache-2.0

/// Extended reliable connection header (IBTA annex A14): the shared receive queue that a request of XRC is for.
///
/// ```
///  0      reserved
///  1...3  XRC shared receive queue number
/// ```
public struct XRCETH: Hashable, Sendable {
    /// 4.
    @inlinable public static var byteCount: Int { 4 }

    /// The number of the shared receive queue, 24 bits.
    public var sharedReceiveQueue: UInt32

    /// A header with the low 24 bits of a number.
    @inlinable @inline(__always)
    public init(sharedReceiveQueue: UInt32) {
        self.sharedReceiveQueue = sharedReceiveQueue & 0xFF_FFFF
    }

    /// The header at `offset`, where 4 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        self.init(sharedReceiveQueue: bytes.loadBigEndian(UInt32.self, at: offset))
    }

    /// Writes the 4 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(sharedReceiveQueue, at: offset)
    }
}
