// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Takes the headers of an Ethernet frame apart, down to the first tunnel and what is inside of it.
///
/// Total: the bytes come from the network and may be anything. Each header is looked at only if it is there as a whole and within the
/// length that the header below it tells; where a chain of headers may be long, it is bounded. A frame that ends or contradicts
/// itself keeps what was read before that.
package struct PacketHeaders: ~Escapable {
    private let bytes: RawSpan
    private var key = FlowKey()
    /// Behind the last byte of the header that is being read.
    private var end: Int

    /// VLAN tags, IPv6 extension headers and MPLS entries: no more than this of each are walked through.
    package static let chainCountMax = 8

    /// The key of a frame.
    ///
    /// - Parameter strippedTag: the first VLAN tag, where the kernel took it out of the frame and tells it apart.
    package static func key(of frame: RawSpan, strippedTag: UInt16? = nil) -> FlowKey {
        var headers = PacketHeaders(bytes: frame)
        if let strippedTag {
            headers.key[.tag, inner: false] = UInt64(strippedTag)
            headers.key.insert(.tag, inner: false)
        }
        headers.parseEthernet(0, inner: false)
        return headers.key
    }

    @_lifetime(copy bytes)
    private init(bytes: RawSpan) {
        self.bytes = bytes
        end = bytes.byteCount
    }

    private func byte(_ offset: Int) -> UInt8 { bytes.loadBigEndian(UInt8.self, at: offset) }
    private func half(_ offset: Int) -> UInt16 { bytes.loadBigEndian(UInt16.self, at: offset) }
    private func word(_ offset: Int) -> UInt32 { bytes.loadBigEndian(UInt32.self, at: offset) }

    // MARK: Ethernet and MPLS

    private mutating func parseEthernet(_ start: Int, inner: Bool) {
        guard end - start >= 14 else { return }
        key.insert(.ethernet, inner: inner)
        key[.ethernetDestination, inner: inner] = MACAddress(parsing: bytes, at: start).rawValue
        key[.ethernetSource, inner: inner] = MACAddress(parsing: bytes, at: start + 6).rawValue
        var type = half(start + 12)
        var offset = start + 14
        for _ in 0..<Self.chainCountMax where Self.isTag(type) {
            guard end - offset >= 4 else { break }
            if !key.layers(inner: inner).contains(.tag) {
                key[.tag, inner: inner] = UInt64(half(offset))
                key.insert(.tag, inner: inner)
            }
            type = half(offset + 2)
            offset += 4
        }
        key[.etherType, inner: inner] = UInt64(type)
        switch type {
        case 0x0800, 0x86DD: parseIP(offset, version: type == 0x0800 ? 4 : 6, inner: inner)
        case 0x8847, 0x8848: if !inner { parseMPLS(offset) }
        default: break
        }
    }

    /// 802.1Q and 802.1ad.
    private static func isTag(_ type: UInt16) -> Bool { type == 0x8100 || type == 0x88A8 }

    /// What is behind the label stack is inside of a tunnel.
    private mutating func parseMPLS(_ start: Int) {
        var offset = start
        for index in 0..<Self.chainCountMax {
            guard end - offset >= 4 else { return }
            let entry = word(offset)
            offset += 4
            if index == 0 {
                key[.mplsEntry, inner: false] = UInt64(entry)
                key.insert(.mpls, inner: false)
            }
            if entry & 0x100 != 0 { return parseInnerIP(offset) }
        }
    }

    /// An IP packet whose version nothing else tells.
    private mutating func parseInnerIP(_ offset: Int) {
        guard end - offset >= 1 else { return }
        parseIP(offset, version: byte(offset) >> 4, inner: true)
    }

    // MARK: IP

    private mutating func parseIP(_ offset: Int, version: UInt8, inner: Bool) {
        switch version {
        case 4: parseIPv4(offset, inner: inner)
        case 6: parseIPv6(offset, inner: inner)
        default: break
        }
    }

    private mutating func parseIPv4(_ start: Int, inner: Bool) {
        guard end - start >= 20, byte(start) >> 4 == 4 else { return }
        let headerByteCount = Int(byte(start) & 0xF) * 4
        let totalByteCount = Int(half(start + 2))
        guard headerByteCount >= 20 else { return }
        key.insert(.ipv4, inner: inner)
        key[.trafficClass, inner: inner] = UInt64(byte(start + 1))
        key[.hopLimit, inner: inner] = UInt64(byte(start + 8))
        key[.nextProtocol, inner: inner] = UInt64(byte(start + 9))
        key[.ipv4Source, inner: inner] = UInt64(word(start + 12))
        key[.ipv4Destination, inner: inner] = UInt64(word(start + 16))
        let fragment = half(start + 6)
        // The kernel's numbers: 2 don't fragment, 4 more fragments.
        key[.ipv4Flags, inner: inner] = UInt64((fragment & 0x4000) >> 13 | (fragment & 0x2000) >> 11)
        // 0 is a packet of over 64 KiB that was not segmented: it goes to the end of the frame.
        if totalByteCount != 0 {
            guard totalByteCount >= headerByteCount else { return }
            end = min(end, start + totalByteCount)
        }
        parseTransport(
            start + headerByteCount, number: byte(start + 9), isFirst: fragment & 0x1FFF == 0, inner: inner)
    }

    private mutating func parseIPv6(_ start: Int, inner: Bool) {
        guard end - start >= 40, byte(start) >> 4 == 6 else { return }
        let first = word(start)
        key.insert(.ipv6, inner: inner)
        key[.trafficClass, inner: inner] = UInt64(first >> 20 & 0xFF)
        key[.flowLabel, inner: inner] = UInt64(first & 0xF_FFFF)
        key[.hopLimit, inner: inner] = UInt64(byte(start + 7))
        let source = GID(parsing: bytes, at: start + 8)
        let destination = GID(parsing: bytes, at: start + 24)
        key[.ipv6SourceHigh, inner: inner] = source.high
        key[.ipv6SourceLow, inner: inner] = source.low
        key[.ipv6DestinationHigh, inner: inner] = destination.high
        key[.ipv6DestinationLow, inner: inner] = destination.low
        let payloadByteCount = Int(half(start + 4))
        // 0 is a packet of over 64 KiB, or one without payload.
        if payloadByteCount != 0 { end = min(end, start + 40 + payloadByteCount) }

        var number = byte(start + 6)
        var offset = start + 40
        var isFirst = true
        for _ in 0..<Self.chainCountMax {
            guard let byteCount = extensionByteCount(number, offset) else { break }
            if number == 44, isFirst { isFirst = half(offset + 2) & 0xFFF8 == 0 }
            number = byte(offset)
            offset += byteCount
            // A later fragment continues what the first began: no more headers.
            if !isFirst { break }
        }
        key[.nextProtocol, inner: inner] = UInt64(number)
        parseTransport(offset, number: number, isFirst: isFirst, inner: inner)
    }

    /// The length of the extension header at `offset`; `nil` if `number` is no extension header, or ends behind the packet.
    private func extensionByteCount(_ number: UInt8, _ offset: Int) -> Int? {
        guard end - offset >= 8, let byteCount = Self.extensionByteCount(number, byte(offset + 1)),
            end - offset >= byteCount
        else { return nil }
        return byteCount
    }

    /// The length of the IPv6 extension header of a number, from its second byte; `nil` if that is the number of none.
    static func extensionByteCount(_ number: UInt8, _ length: UInt8) -> Int? {
        switch number {
        case 0, 43, 60, 135, 139, 140: Int(length) * 8 + 8
        case 44: 8
        case 51: Int(length) * 4 + 8
        default: nil
        }
    }

    // MARK: Behind IP

    private mutating func parseTransport(_ offset: Int, number: UInt8, isFirst: Bool, inner: Bool) {
        let available = isFirst ? end - offset : 0
        switch number {
        case 6, 17:
            key.insert(number == 6 ? .tcp : .udp, inner: inner)
            guard available >= 4 else { return }
            key.insert(.transportFields, inner: inner)
            key[.sourcePort, inner: inner] = UInt64(half(offset))
            key[.destinationPort, inner: inner] = UInt64(half(offset + 2))
            if number == 17, !inner, available >= 8 { parseOverUDP(offset + 8, port: half(offset + 2)) }
        case 50:
            key.insert(.esp, inner: inner)
            guard available >= 8 else { return }
            key.insert(.transportFields, inner: inner)
            key[.espIndex, inner: inner] = UInt64(word(offset))
            key[.espSequence, inner: inner] = UInt64(word(offset + 4))
        case 47 where !inner:
            key.insert(.gre, inner: false)
            if available >= 4 { parseGRE(offset) }
        case 4 where !inner && isFirst: parseIPv4(offset, inner: true)
        case 41 where !inner && isFirst: parseIPv6(offset, inner: true)
        default: break
        }
    }

    private mutating func parseOverUDP(_ offset: Int, port: UInt16) {
        switch port {
        case VXLANSpecification.port:
            // The I flag: a network identifier is there.
            guard end - offset >= 8, byte(offset) & 0x08 != 0 else { return }
            key.insert(.vxlan, inner: false)
            key[.vxlanIdentifier, inner: false] = UInt64(word(offset + 4) >> 8)
            parseEthernet(offset + 8, inner: true)
        case 6635: parseMPLS(offset)
        default: break
        }
    }

    private mutating func parseGRE(_ start: Int) {
        let flags = half(start)
        let type = half(start + 2)
        let hasKey = flags & 0x2000 != 0
        var offset = start + 4
        if flags & 0x8000 != 0 { offset += 4 }
        if hasKey {
            guard end - offset >= 4 else { return }
            key[.greKey, inner: false] = UInt64(word(offset))
            offset += 4
        }
        if flags & 0x1000 != 0 { offset += 4 }
        key.insert(.transportFields, inner: false)
        key[.greFlags, inner: false] = UInt64(flags)
        key[.greProtocol, inner: false] = UInt64(type)
        // Version 1 carries PPP; the routing flag, long out of use, would move what follows.
        guard flags & 0x4007 == 0, offset <= end else { return }
        switch type {
        case 0x0800: parseIPv4(offset, inner: true)
        case 0x86DD: parseIPv6(offset, inner: true)
        case 0x6558: parseEthernet(offset, inner: true)
        case 0x8847, 0x8848: parseMPLS(offset)
        default: break
        }
    }
}
