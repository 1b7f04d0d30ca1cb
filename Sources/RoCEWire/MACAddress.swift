// SPDX-License-Identifier: Apache-2.0

/// An Ethernet address: 48 bits.
public struct MACAddress: Hashable, Sendable {
    /// The address as a big-endian number of six bytes.
    public let rawValue: UInt64

    /// Takes the low 48 bits of `value`.
    @inlinable @inline(__always)
    public init(truncating value: UInt64) {
        rawValue = value & 0xFFFF_FFFF_FFFF
    }

    /// The address at `offset`, where 6 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        rawValue =
            UInt64(bytes.loadBigEndian(UInt32.self, at: offset)) << 16
            | UInt64(bytes.loadBigEndian(UInt16.self, at: offset &+ 4))
    }

    /// Writes the 6 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(UInt32(truncatingIfNeeded: rawValue >> 16), at: offset)
        bytes.storeBigEndian(UInt16(truncatingIfNeeded: rawValue), at: offset &+ 4)
    }

    /// The address that frames to a multicast group go to: 01:00:5e and 23 bits of an IPv4 group, 33:33 and 32 bits of
    /// an IPv6 group.
    public init(multicast group: GID) {
        if group.isIPv4Mapped {
            self.init(truncating: 0x0100_5E00_0000 | UInt64(group.ipv4 & 0x7F_FFFF))
        } else {
            self.init(truncating: 0x3333_0000_0000 | group.low & 0xFFFF_FFFF)
        }
    }

    /// The modified EUI-64: the universal bit flipped, ff:fe in the middle. Interface identifiers and GUIDs of kernel
    /// devices are made so.
    public var eui64: UInt64 {
        let flipped = rawValue ^ 0x0200_0000_0000
        return (flipped & 0xFFFF_FF00_0000) << 16 | 0xFF_FE00_0000 | flipped & 0xFF_FFFF
    }
}

extension MACAddress: CustomStringConvertible {
    /// Six pairs of digits between colons.
    public var description: String {
        (0..<6).map { i in
            let byte = rawValue >> UInt64(40 - i * 8) & 0xFF
            return (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }.joined(separator: ":")
    }
}
