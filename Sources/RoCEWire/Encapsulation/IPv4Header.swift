// SPDX-License-Identifier: Apache-2.0

/// IPv4 header without options, the only form that carries RoCE.
public struct IPv4Header: Hashable, Sendable {
    /// 20.
    @inlinable public static var byteCount: Int { 20 }
    /// The protocol number of UDP.
    @inlinable public static var udp: UInt8 { 17 }

    /// DSCP and ECN.
    public var typeOfService: UInt8 = 0
    /// Header and everything behind it, in bytes.
    public var totalByteCount: UInt16
    /// Covered by the ICRC, and not visible through a UDP socket.
    public var identification: UInt16 = 0
    /// Reserved, don't fragment (0x4000), more fragments (0x2000), fragment offset; covered by the ICRC.
    public var flagsAndOffset: UInt16 = 0x4000
    /// Hops left.
    public var timeToLive: UInt8 = 64
    /// What is behind the header.
    public var nextProtocol: UInt8 = IPv4Header.udp
    /// As received; ``emit(into:at:)`` writes the right one whatever this holds.
    public private(set) var checksum: UInt16 = 0
    /// The sender in host order.
    public var source: UInt32
    /// The receiver in host order.
    public var destination: UInt32

    /// A header for UDP with don't fragment set.
    public init(source: UInt32, destination: UInt32, totalByteCount: UInt16) {
        self.source = source
        self.destination = destination
        self.totalByteCount = totalByteCount
    }

    /// The header at `offset`; `nil` if the bytes end before it does, or it is another version or has options.
    public init?(parsing bytes: RawSpan, at offset: Int = 0) {
        guard offset >= 0, bytes.byteCount - offset >= IPv4Header.byteCount,
            bytes.loadBigEndian(UInt8.self, at: offset) == 0x45
        else { return nil }
        typeOfService = bytes.loadBigEndian(UInt8.self, at: offset + 1)
        totalByteCount = bytes.loadBigEndian(UInt16.self, at: offset + 2)
        identification = bytes.loadBigEndian(UInt16.self, at: offset + 4)
        flagsAndOffset = bytes.loadBigEndian(UInt16.self, at: offset + 6)
        timeToLive = bytes.loadBigEndian(UInt8.self, at: offset + 8)
        nextProtocol = bytes.loadBigEndian(UInt8.self, at: offset + 9)
        checksum = bytes.loadBigEndian(UInt16.self, at: offset + 10)
        source = bytes.loadBigEndian(UInt32.self, at: offset + 12)
        destination = bytes.loadBigEndian(UInt32.self, at: offset + 16)
    }

    /// Writes the 20 bytes at `offset`, with the right checksum.
    public func emit(into bytes: inout MutableRawSpan, at offset: Int = 0) {
        let words = (
            0x4500_0000 | UInt32(typeOfService) << 16 | UInt32(totalByteCount),
            UInt32(identification) << 16 | UInt32(flagsAndOffset),
            UInt32(timeToLive) << 24 | UInt32(nextProtocol) << 16
        )
        bytes.storeBigEndian(words.0, at: offset)
        bytes.storeBigEndian(words.1, at: offset + 4)
        bytes.storeBigEndian(words.2 | UInt32(computedChecksum), at: offset + 8)
        bytes.storeBigEndian(source, at: offset + 12)
        bytes.storeBigEndian(destination, at: offset + 16)
    }

    /// The checksum that these fields need: the complement of the one's complement sum of the 16-bit words.
    public var computedChecksum: UInt16 {
        var sum = 0x4500 | UInt32(typeOfService)
        sum += UInt32(totalByteCount) + UInt32(identification) + UInt32(flagsAndOffset)
        sum += UInt32(timeToLive) << 8 | UInt32(nextProtocol)
        sum += source >> 16 + source & 0xFFFF
        sum += destination >> 16 + destination & 0xFFFF
        sum = sum >> 16 + sum & 0xFFFF
        sum = sum >> 16 + sum & 0xFFFF
        return ~UInt16(truncatingIfNeeded: sum)
    }

    /// Whether a received header's checksum is right.
    public var isChecksumValid: Bool { checksum == computedChecksum }

    /// Whether the packet is a piece of a larger one.
    public var isFragment: Bool { flagsAndOffset & 0x3FFF != 0 }
}
