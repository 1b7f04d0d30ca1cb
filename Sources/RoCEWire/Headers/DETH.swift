// SPDX-License-Identifier: Apache-2.0

/// Datagram extension header: the key that the receiving queue pair asks for, and where to answer.
///
/// ```
///  0...3  Q_Key
///  4      reserved
///  5...7  source QPN
/// ```
public struct DETH: Hashable, Sendable {
    /// 8.
    @inlinable public static var byteCount: Int { 8 }

    /// The key of the receiving queue pair.
    public var queueKey: QueueKey
    /// The sending queue pair.
    public var source: QPN

    /// A header with these fields.
    @inlinable @inline(__always)
    public init(queueKey: QueueKey, source: QPN) {
        self.queueKey = queueKey
        self.source = source
    }

    /// The header at `offset`, where 8 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        queueKey = QueueKey(rawValue: bytes.loadBigEndian(UInt32.self, at: offset))
        source = QPN(truncating: bytes.loadBigEndian(UInt32.self, at: offset &+ 4))
    }

    /// Writes the 8 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(queueKey.rawValue, at: offset)
        bytes.storeBigEndian(source.rawValue, at: offset &+ 4)
    }
}
