// SPDX-License-Identifier: Apache-2.0

/// Acknowledge extension header: the responder's verdict and its count of completed messages.
///
/// ```
///  0      syndrome
///  1...3  MSN
/// ```
public struct AETH: Hashable, Sendable {
    /// 4.
    @inlinable public static var byteCount: Int { 4 }

    /// The verdict.
    public var syndrome: Syndrome
    /// The messages that the responder has completed.
    public var msn: MSN

    /// A header with these fields.
    @inlinable @inline(__always)
    public init(syndrome: Syndrome, msn: MSN) {
        self.syndrome = syndrome
        self.msn = msn
    }

    /// The header at `offset`, where 4 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        self.init(word: bytes.loadBigEndian(UInt32.self, at: offset))
    }

    /// The header from its four bytes as a number.
    @inlinable @inline(__always)
    init(word: UInt32) {
        syndrome = Syndrome(rawValue: UInt8(truncatingIfNeeded: word >> 24))
        msn = MSN(truncating: word)
    }

    /// The four bytes as a number.
    @inlinable @inline(__always)
    var word: UInt32 { UInt32(syndrome.rawValue) << 24 | msn.rawValue }

    /// Writes the 4 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(word, at: offset)
    }
}
