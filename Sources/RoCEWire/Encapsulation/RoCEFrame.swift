// SPDX-License-Identifier: Apache-2.0

/// Where the UDP payload of a RoCE v2 frame lies, and what surrounds it: for links that see whole frames (AF_XDP,
/// AF_PACKET, captures).
public struct RoCEFrame: Hashable, Sendable {
    /// Addresses and source port.
    public let flow: ICRC.Flow
    /// The IPv4 identification; 0 for IPv6.
    public let identification: UInt16
    /// Whether the IPv4 header forbids fragments; true for IPv6.
    public let dontFragment: Bool
    /// DSCP and ECN.
    public let trafficClass: UInt8
    /// Hops left.
    public let hopLimit: UInt8
    /// The UDP payload: BTH to ICRC. The frame may go on behind it (padding of short frames).
    public let udpPayload: Range<Int>

    /// Why a frame carries no RoCE packet.
    public enum Refusal: UInt8, Sendable, CaseIterable {
        /// The bytes end inside a header, or before the length that a header tells.
        case truncated
        /// Not IPv4 nor IPv6, IPv4 with options, a fragment, a protocol other than UDP.
        case notUDP
        /// Another UDP port.
        case notRoCE
        /// The lengths of IP and UDP contradict each other, or an IPv4 checksum is wrong.
        case inconsistent
    }

    /// A frame, or why it is none.
    public enum ParseResult: Sendable {
        /// The frame carries a RoCE packet, not yet looked at.
        case frame(RoCEFrame)
        /// The frame is someone else's.
        case refused(Refusal)
    }

    /// Takes an Ethernet frame apart. Total.
    public static func parse(ethernet bytes: RawSpan) -> ParseResult {
        guard let ethernet = EthernetHeader(parsing: bytes) else { return .refused(.truncated) }
        guard ethernet.etherType == .ipv4 || ethernet.etherType == .ipv6 else { return .refused(.notUDP) }
        return parse(ip: bytes, at: ethernet.byteCount)
    }

    /// Takes an IPv4 or IPv6 packet at `offset` apart. Total.
    public static func parse(ip bytes: RawSpan, at offset: Int = 0) -> ParseResult {
        guard offset >= 0, offset < bytes.byteCount else { return .refused(.truncated) }
        switch bytes.loadBigEndian(UInt8.self, at: offset) >> 4 {
        case 4:
            guard bytes.byteCount - offset >= IPv4Header.byteCount else { return .refused(.truncated) }
            guard let ip = IPv4Header(parsing: bytes, at: offset), ip.nextProtocol == IPv4Header.udp, !ip.isFragment
            else { return .refused(.notUDP) }
            guard ip.isChecksumValid else { return .refused(.inconsistent) }
            return parse(
                udp: bytes, at: offset + IPv4Header.byteCount,
                byteCount: Int(ip.totalByteCount) - IPv4Header.byteCount,
                source: GID(ipv4: ip.source), destination: GID(ipv4: ip.destination),
                Network(
                    identification: ip.identification, dontFragment: ip.flagsAndOffset & 0x4000 != 0,
                    trafficClass: ip.typeOfService, hopLimit: ip.timeToLive))
        case 6:
            guard let ip = IPv6Header(parsing: bytes, at: offset) else { return .refused(.truncated) }
            guard ip.nextHeader == IPv4Header.udp else { return .refused(.notUDP) }
            return parse(
                udp: bytes, at: offset + IPv6Header.byteCount, byteCount: Int(ip.payloadByteCount),
                source: ip.source, destination: ip.destination,
                Network(
                    identification: 0, dontFragment: true, trafficClass: ip.trafficClass, hopLimit: ip.hopLimit))
        default:
            return .refused(.notUDP)
        }
    }

    private struct Network {
        let identification: UInt16
        let dontFragment: Bool
        let trafficClass: UInt8
        let hopLimit: UInt8
    }

    private static func parse(
        udp bytes: RawSpan, at offset: Int, byteCount: Int, source: GID, destination: GID, _ network: Network
    ) -> ParseResult {
        guard byteCount >= UDPHeader.byteCount else { return .refused(.inconsistent) }
        guard bytes.byteCount - offset >= byteCount, let udp = UDPHeader(parsing: bytes, at: offset) else {
            return .refused(.truncated)
        }
        guard udp.destinationPort == UDPHeader.rocePort else { return .refused(.notRoCE) }
        // RoCE v2 wants the UDP length to be that of the IP payload: bytes between them would be outside of the ICRC.
        guard Int(udp.byteCount) == byteCount else { return .refused(.inconsistent) }
        return .frame(
            RoCEFrame(
                flow: ICRC.Flow(source: source, destination: destination, sourcePort: udp.sourcePort),
                identification: network.identification,
                dontFragment: network.dontFragment, trafficClass: network.trafficClass, hopLimit: network.hopLimit,
                udpPayload: offset + UDPHeader.byteCount..<offset + byteCount))
    }
}
