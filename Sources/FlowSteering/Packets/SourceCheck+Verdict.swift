// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// What a ``SourceCheck`` says of a frame.
package enum SourceVerdict: Sendable, Equatable {
    case allowed
    /// No Ethernet header is there: it is no frame.
    case tooShort
    /// The Ethernet source, or one in the payload of ARP or neighbour discovery, is another's.
    case foreignEthernet
    /// The same of an IP address.
    case foreignAddress
    /// Neither IP nor ARP.
    case otherType
    /// A header is cut off, contradicts itself, or is behind the bytes that are looked at.
    case unreadable
}

extension SourceCheck {
    /// The first bytes of a frame, which are looked at: Ethernet, two VLAN tags, IPv6 and some extension headers, or any header of IPv4.
    package static var headerByteCountMax: Int { 256 }

    /// Judges a frame. ``allowsOwn`` counts for nothing here: see ``resolved(ethernet:addresses:)``.
    ///
    /// - Parameter header: all of the frame, or its first ``headerByteCountMax`` bytes: memory that nobody else writes to.
    package func verdict(on header: RawSpan) -> SourceVerdict {
        guard header.byteCount >= 14 else { return .tooShort }
        guard allows(header, ethernetAt: 6) else { return .foreignEthernet }
        var type = header.loadBigEndian(UInt16.self, at: 12)
        var offset = 14
        while Self.isTag(type) {
            guard offset < 22, header.byteCount - offset >= 4 else { return .unreadable }
            type = header.loadBigEndian(UInt16.self, at: offset + 2)
            offset += 4
        }
        switch type {
        case 0x0800: return verdict(onIPv4: header, offset)
        case 0x86DD: return verdict(onIPv6: header, offset)
        case 0x0806: return verdict(onARP: header, offset)
        default: return allowsOtherTypes ? .allowed : .otherType
        }
    }

    /// 802.1Q and 802.1ad.
    private static func isTag(_ type: UInt16) -> Bool { type == 0x8100 || type == 0x88A8 }

    // MARK: Addresses

    private func allows(_ bytes: RawSpan, ethernetAt offset: Int) -> Bool {
        let address = MACAddress(parsing: bytes, at: offset).rawValue
        let patterns = ethernet.span
        for index in patterns.indices where patterns[index].bits.matches(address) { return true }
        return false
    }

    private func allows(_ bytes: RawSpan, ipv4At offset: Int) -> Bool {
        let address = bytes.loadBigEndian(UInt32.self, at: offset)
        let patterns = ipv4.span
        for index in patterns.indices where patterns[index].bits.matches(address) { return true }
        return false
    }

    private func allows(_ bytes: RawSpan, ipv6At offset: Int) -> Bool {
        let address = GID(parsing: bytes, at: offset)
        let value = UInt128(address.high) << 64 | UInt128(address.low)
        let patterns = ipv6.span
        for index in patterns.indices where patterns[index].bits.matches(value) { return true }
        return false
    }

    // MARK: Packets

    private func verdict(onIPv4 bytes: RawSpan, _ start: Int) -> SourceVerdict {
        guard bytes.byteCount - start >= 20 else { return .unreadable }
        let first = bytes.loadBigEndian(UInt8.self, at: start)
        let headerByteCount = Int(first & 0xF) * 4
        guard first >> 4 == 4, headerByteCount >= 20, bytes.byteCount - start >= headerByteCount else {
            return .unreadable
        }
        return allows(bytes, ipv4At: start + 12) ? .allowed : .foreignAddress
    }

    /// RFC 826, of Ethernet and IPv4 alone.
    private func verdict(onARP bytes: RawSpan, _ start: Int) -> SourceVerdict {
        guard bytes.byteCount - start >= 28, bytes.loadBigEndian(UInt64.self, at: start) >> 16 == 0x0001_0800_0604
        else {
            return .unreadable
        }
        guard allows(bytes, ethernetAt: start + 8) else { return .foreignEthernet }
        return allows(bytes, ipv4At: start + 14) ? .allowed : .foreignAddress
    }

    private func verdict(onIPv6 bytes: RawSpan, _ start: Int) -> SourceVerdict {
        guard bytes.byteCount - start >= 40, bytes.loadBigEndian(UInt8.self, at: start) >> 4 == 6 else {
            return .unreadable
        }
        guard allows(bytes, ipv6At: start + 8) else { return .foreignAddress }
        // Behind any of them may be neighbour discovery; behind the end of the packet, padding.
        let packetEnd = start + 40 + Int(bytes.loadBigEndian(UInt16.self, at: start + 4))
        let end = min(packetEnd, bytes.byteCount)
        var number = bytes.loadBigEndian(UInt8.self, at: start + 6)
        var offset = start + 40
        while let byteCount = PacketHeaders.extensionByteCount(
            number, end - offset < 2 ? 0 : bytes.loadBigEndian(UInt8.self, at: offset + 1))
        {
            guard end - offset >= byteCount else { return .unreadable }
            // Neighbour discovery is never in fragments (RFC 6980): that of the first is judged, and no later one begins with it.
            if number == 44, bytes.loadBigEndian(UInt16.self, at: offset + 2) & 0xFFF8 != 0 { return .allowed }
            number = bytes.loadBigEndian(UInt8.self, at: offset)
            offset += byteCount
        }
        return number == 58 ? verdict(onICMPv6: bytes, offset, end: packetEnd) : .allowed
    }

    /// RFC 4861: solicitations and advertisements of routers (133, 134) and neighbours (135, 136).
    private func verdict(onICMPv6 bytes: RawSpan, _ start: Int, end: Int) -> SourceVerdict {
        guard min(end, bytes.byteCount) - start >= 4 else { return .unreadable }
        let type = bytes.loadBigEndian(UInt8.self, at: start)
        guard (133...136).contains(type) else { return .allowed }
        var offset = start + (type == 133 ? 8 : type == 134 ? 16 : 24)
        // The options go to the end of the packet, which has to be there.
        guard end <= bytes.byteCount, offset <= end else { return .unreadable }
        if type == 136, !allows(bytes, ipv6At: start + 8) { return .foreignAddress }
        while offset < end {
            guard end - offset >= 8 else { return .unreadable }
            let option = bytes.loadBigEndian(UInt8.self, at: offset)
            let byteCount = Int(bytes.loadBigEndian(UInt8.self, at: offset + 1)) * 8
            guard byteCount > 0, byteCount <= end - offset else { return .unreadable }
            if option == 1 || option == 2 {
                guard allows(bytes, ethernetAt: offset + 2) else { return .foreignEthernet }
            }
            offset += byteCount
        }
        return .allowed
    }
}
