// SPDX-License-Identifier: Apache-2.0

/// A message sequence number: the count of messages that a responder has completed, modulo 2^24.
///
/// It travels in every AETH. A responder starts at 0, so the acknowledgement of its first SEND carries 1.
public struct MSN: Hashable, Sendable {
    /// The count, 0...0xFFFFFF.
    public let rawValue: UInt32

    /// Takes the low 24 bits of `value`.
    @inlinable @inline(__always)
    public init(truncating value: UInt32) {
        rawValue = value & 0xFF_FFFF
    }

    /// The count `messages` later.
    @inlinable @inline(__always)
    public static func + (msn: MSN, messages: Int) -> MSN {
        MSN(truncating: msn.rawValue &+ UInt32(truncatingIfNeeded: messages))
    }

    /// Counts `messages` more.
    @inlinable @inline(__always)
    public static func += (msn: inout MSN, messages: Int) {
        msn = msn + messages
    }

    /// The signed 24-bit distance from `b` to `a`.
    @inlinable @inline(__always)
    public static func - (a: MSN, b: MSN) -> Int {
        Int(Int32(bitPattern: (a.rawValue &- b.rawValue) << 8) >> 8)
    }
}

extension MSN: CustomStringConvertible {
    /// The count in decimal.
    public var description: String { String(rawValue) }
}
