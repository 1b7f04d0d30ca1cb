// SPDX-License-Identifier: Apache-2.0

/// A packet sequence number: 24 bits, arithmetic modulo 2^24.
///
/// There is no `<`: the order of sequence numbers is circular, so a comparison is a signed distance.
public struct PSN: Hashable, Sendable {
    /// The number, 0...0xFFFFFF.
    public let rawValue: UInt32

    /// Takes the low 24 bits of `value`.
    @inlinable @inline(__always)
    public init(truncating value: UInt32) {
        rawValue = value & 0xFF_FFFF
    }

    /// The number `count` packets later (earlier, if negative).
    @inlinable @inline(__always)
    public static func + (psn: PSN, count: Int) -> PSN {
        PSN(truncating: psn.rawValue &+ UInt32(truncatingIfNeeded: count))
    }

    /// The number `count` packets earlier.
    @inlinable @inline(__always)
    public static func - (psn: PSN, count: Int) -> PSN {
        PSN(truncating: psn.rawValue &- UInt32(truncatingIfNeeded: count))
    }

    /// Steps over `count` packets.
    @inlinable @inline(__always)
    public static func += (psn: inout PSN, count: Int) {
        psn = psn + count
    }

    /// The signed 24-bit distance from `b` to `a`, -0x800000...0x7FFFFF: positive if `a` is later.
    @inlinable @inline(__always)
    public static func - (a: PSN, b: PSN) -> Int {
        let shifted = (a.rawValue &- b.rawValue) << 8
        return Int(Int32(bitPattern: shifted) >> 8)
    }
}

extension PSN: CustomStringConvertible {
    /// Hexadecimal, as packet dissectors print it.
    public var description: String { "0x" + String(rawValue, radix: 16) }
}
