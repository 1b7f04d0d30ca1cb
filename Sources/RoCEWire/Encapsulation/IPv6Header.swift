// SPDX-License-Identifier: Apache-2.0

/// IPv6 header; RoCE has no extension headers behind it. Also the layout of the global route header (GRH).
public struct IPv6Header: Hashable, Sendable {
    /// 40.
    @inlinable public static var byteCount: Int { 40 }

    /// DSCP and ECN.
    public var trafficClass: UInt8 = 0
    /// 20 bits.
    public var flowLabel: UInt32 = 0
    /// Everything behind the header, in bytes.
    public var payloadByteCount: UInt16
    /// What is behind the header: UDP (17), or in a GRH the BTH (0x1B).
    public var nextHeader: UInt8 = IPv4Header.udp
    /// Hops left.
    public var hopLimit: UInt8 = 64
    /// The sender.
    public var source: GID
    /// The receiver.
    public var destination: GID

    /// A header for UDP.
    public init(source: GID, destination: GID, payloadByteCount: UInt16) {
        self.source = source
        self.destination = destination
        self.payloadByteCount = payloadByteCount
    }

    /// The header at `offset`; `nil` if the bytes end before it does, or it is another version.
    public init?(parsing bytes: RawSpan, at offset: Int = 0) {
        guard offset >= 0, bytes.byteCount - offset >= IPv6Header.byteCount else { return nil }
        let word = bytes.loadBigEndian(UInt32.self, at: offset)
        guard word >> 28 == 6 else { return nil }
        trafficClass = UInt8(truncatingIfNeeded: word >> 20)
        flowLabel = word & 0xF_FFFF
        payloadByteCount = bytes.loadBigEndian(UInt16.self, at: offset + 4)
        nextHeader = bytes.loadBigEndian(UInt8.self, at: offset + 6)
        hopLimit = bytes.loadBigEndian(UInt8.self, at: offset + 7)
        source = GID(parsing: bytes, at: offset + 8)
        destination = GID(parsing: bytes, at: offset + 24)
    }

    /// Writes the 40 bytes at `offset`.
    public func emit(into bytes: inout MutableRawSpan, at offset: Int = 0) {
        bytes.storeBigEndian(0x6000_0000 | UInt32(trafficClass) << 20 | flowLabel & 0xF_FFFF, at: offset)
        bytes.storeBigEndian(
            UInt32(payloadByteCount) << 16 | UInt32(nextHeader) << 8 | UInt32(hopLimit), at: offset + 4)
        source.emit(into: &bytes, at: offset + 8)
        destination.emit(into: &bytes, at: offset + 24)
    }
}
