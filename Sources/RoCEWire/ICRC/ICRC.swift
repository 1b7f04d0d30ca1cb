// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// The invariant CRC: the last four bytes of a packet.
///
/// It is the CRC-32 of Ethernet, stored little-endian, over eight bytes of ones, the IP and UDP headers and the packet
/// up to the pad, where what routers may change counts as ones: type of service, time to live and checksum of IPv4;
/// traffic class, flow label and hop limit of IPv6; the UDP checksum; byte 4 of the BTH. The IPv4 identification and
/// flags *are* covered, although a UDP socket neither sets nor shows them: see ``ICRCVerifier``.
public enum ICRC {
    /// What the ICRC covers of the way that a packet takes.
    public struct Flow: Hashable, Sendable {
        /// The sender's address.
        public var source: GID
        /// The receiver's address; the same family.
        public var destination: GID
        /// The UDP source port.
        public var sourcePort: UInt16

        /// A flow with these ends. The destination port is 4791.
        @inlinable @inline(__always)
        public init(source: GID, destination: GID, sourcePort: UInt16) {
            self.source = source
            self.destination = destination
            self.sourcePort = sourcePort
        }
    }

    /// The CRC register behind the UDP header: what is left to add is the packet.
    public struct Seed: Hashable, Sendable {
        /// The raw register.
        public let register: UInt32

        @inlinable @inline(__always)
        init(register: UInt32) {
            self.register = register
        }
    }

    /// The seed for a packet of a flow.
    ///
    /// - Parameters:
    ///   - udpPayloadByteCount: the bytes from the BTH to the ICRC, both included.
    ///   - identification: of the IPv4 header; 0 from an unconnected UDP socket with don't fragment, i for segment i of
    ///     a GSO send. Ignored for IPv6.
    ///   - dontFragment: the IPv4 flag, which every RoCE sender sets.
    @inlinable
    public static func seed(
        _ flow: Flow, udpPayloadByteCount: Int, identification: UInt16 = 0, dontFragment: Bool = true
    ) -> Seed {
        let udp = UInt32(truncatingIfNeeded: udpPayloadByteCount &+ UDPHeader.byteCount)
        let ports = UInt32(flow.sourcePort) << 16 | UInt32(UDPHeader.rocePort)
        let udpTail = udp << 16 | 0xFFFF
        if flow.source.isIPv4Mapped {
            let total = (udp &+ UInt32(IPv4Header.byteCount)) & 0xFFFF
            let flags: UInt32 = dontFragment ? 0x4000 : 0
            let block: InlineArray<7, UInt32> = [
                (0x45FF_0000 | total).bigEndian,
                (UInt32(identification) << 16 | flags).bigEndian,
                (0xFF11_FFFF as UInt32).bigEndian,
                flow.source.ipv4.bigEndian, flow.destination.ipv4.bigEndian,
                ports.bigEndian, udpTail.bigEndian,
            ]
            // Safe: an integer has no padding bytes.
            return unsafe Seed(register: crc32(afterLRH, of: block.span.bytes))
        }
        let block: InlineArray<6, UInt64> = [
            (0x6FFF_FFFF_0000_11FF | UInt64(udp & 0xFFFF) << 16).bigEndian,
            flow.source.high.bigEndian, flow.source.low.bigEndian,
            flow.destination.high.bigEndian, flow.destination.low.bigEndian,
            (UInt64(ports) << 32 | UInt64(udpTail)).bigEndian,
        ]
        // Safe: an integer has no padding bytes.
        return unsafe Seed(register: crc32(afterLRH, of: block.span.bytes))
    }

    /// The ICRC of a packet: a number whose little-endian bytes go behind it.
    ///
    /// - Parameter covered: the packet from the BTH to the pad, without the ICRC.
    @inlinable @inline(__always)
    public static func compute(_ seed: Seed, over covered: RawSpan) -> UInt32 {
        // The pointer is used during the call only, for as many bytes as the span has.
        unsafe covered.withUnsafeBytes { unsafe ~clinuxnet_crc32_bth(seed.register, $0.baseAddress, $0.count) }
    }

    /// Computes the ICRC of a packet and writes it into the packet's last four bytes. Traps below four bytes.
    ///
    /// - Parameter packet: the UDP payload: BTH, extension headers, payload, pad, and room for the ICRC.
    @inlinable @inline(__always)
    public static func seal(_ packet: inout MutableRawSpan, _ seed: Seed) {
        let end = packet.byteCount &- RoCEPacket.icrcByteCount
        let value = compute(seed, over: packet.bytes.extracting(0..<end))
        packet.storeBytes(of: value.littleEndian, toByteOffset: end, as: UInt32.self)
    }

    /// The ICRC that stands in the last four bytes of a packet. Traps below four bytes.
    @inlinable @inline(__always)
    public static func stored(in packet: RawSpan) -> UInt32 {
        UInt32(littleEndian: packet.loadNative(UInt32.self, at: packet.byteCount &- RoCEPacket.icrcByteCount))
    }

    /// Whether the ICRC of a packet is right, where the IP header is known: all 32 bits of it.
    ///
    /// - Parameter packet: the UDP payload, BTH to ICRC.
    @inlinable
    public static func isValid(_ packet: RawSpan, _ seed: Seed) -> Bool {
        guard packet.byteCount >= RoCEPacket.byteCountMin else { return false }
        let covered = packet.extracting(0..<packet.byteCount &- RoCEPacket.icrcByteCount)
        return compute(seed, over: covered) == stored(in: packet)
    }

    /// The register after the eight bytes of ones that stand for the local route header of InfiniBand.
    @inlinable static var afterLRH: UInt32 { 0xDEBB_20E3 }

    @inlinable @inline(__always)
    static func crc32(_ register: UInt32, of bytes: RawSpan) -> UInt32 {
        // The pointer is used during the call only, for as many bytes as the span has.
        unsafe bytes.withUnsafeBytes { unsafe clinuxnet_crc32(register, $0.baseAddress, $0.count) }
    }
}
