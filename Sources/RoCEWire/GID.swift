// SPDX-License-Identifier: Apache-2.0

/// A global identifier: the 16 bytes of an IPv6 address, or of an IPv4 address mapped into it (`::ffff:a.b.c.d`).
///
/// It is the address of a RoCE v2 port, so it stands for IP addresses everywhere in the package.
public struct GID: Hashable, Sendable {
    /// Bytes 0...7 as a big-endian number: the subnet prefix.
    public var high: UInt64
    /// Bytes 8...15 as a big-endian number: the interface identifier.
    public var low: UInt64

    /// A GID with these halves.
    @inlinable @inline(__always)
    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// The mapped form of an IPv4 address in host order: 10.9.2.1 is 0x0A09_0201.
    @inlinable @inline(__always)
    public init(ipv4: UInt32) {
        self.init(high: 0, low: 0xFFFF_0000_0000 | UInt64(ipv4))
    }

    /// `::`.
    @inlinable public static var zero: GID { GID(high: 0, low: 0) }

    /// Whether it is `::ffff:a.b.c.d`, whose packets are IPv4.
    @inlinable @inline(__always)
    public var isIPv4Mapped: Bool { high == 0 && low >> 32 == 0xFFFF }

    /// The IPv4 address in host order; meaningful if ``isIPv4Mapped``.
    @inlinable @inline(__always)
    public var ipv4: UInt32 { UInt32(truncatingIfNeeded: low) }

    /// Whether it is in fe80::/10, so that it means nothing without an interface.
    @inlinable public var isLinkLocal: Bool { high >> 54 == 0x3FA }

    /// Whether it is in ff00::/8, or mapped in 224.0.0.0/4.
    @inlinable public var isMulticast: Bool { isIPv4Mapped ? ipv4 >> 28 == 0xE : high >> 56 == 0xFF }

    /// Whether it is `::1` or mapped in 127.0.0.0/8.
    @inlinable public var isLoopback: Bool { isIPv4Mapped ? ipv4 >> 24 == 127 : high == 0 && low == 1 }

    /// The GID at `offset`, where 16 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        high = bytes.loadBigEndian(UInt64.self, at: offset)
        low = bytes.loadBigEndian(UInt64.self, at: offset &+ 8)
    }

    /// Writes the 16 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(high, at: offset)
        bytes.storeBigEndian(low, at: offset &+ 8)
    }

    /// The link-local address that a MAC address gives: fe80::/64 and the EUI-64. GID 0 of a kernel device.
    public init(linkLocal mac: MACAddress) {
        self.init(high: 0xFE80_0000_0000_0000, low: mac.eui64)
    }
}

// MARK: - Text

extension GID: LosslessStringConvertible {
    /// The address as RFC 5952 writes it; a mapped one as `::ffff:10.9.2.1`.
    public var description: String { isIPv4Mapped ? "::ffff:" + ipv4Text : ipv6Text }

    /// The IP address: dotted if it is mapped.
    public var addressText: String { isIPv4Mapped ? ipv4Text : ipv6Text }

    /// All eight groups with four digits each, as sysfs and `ibv_devinfo` write it.
    public var fullText: String {
        groups.map { group in
            let digits = String(group, radix: 16)
            return String(repeating: "0", count: 4 - digits.count) + digits
        }.joined(separator: ":")
    }

    private var ipv4Text: String {
        "\(ipv4 >> 24).\(ipv4 >> 16 & 0xFF).\(ipv4 >> 8 & 0xFF).\(ipv4 & 0xFF)"
    }

    private var groups: [UInt16] {
        (0..<8).map { i in UInt16(truncatingIfNeeded: (i < 4 ? high : low) >> UInt64(48 - i % 4 * 16)) }
    }

    private var ipv6Text: String {
        let groups = groups
        // The longest run of two or more zero groups, the first of equals, becomes "::".
        var best = 0..<0
        var start = 0
        for i in 0...8 where i == 8 || groups[i] != 0 {
            if i - start >= 2, i - start > best.count { best = start..<i }
            start = i + 1
        }
        func text(_ range: Range<Int>) -> String {
            groups[range].map { String($0, radix: 16) }.joined(separator: ":")
        }
        return best.isEmpty ? text(0..<8) : text(0..<best.lowerBound) + "::" + text(best.upperBound..<8)
    }

    /// Reads an IPv4 address, or an IPv6 address in any of its forms; `nil` if the text is neither. A scope (`%eth0`)
    /// is not part of a GID.
    public init?(_ text: String) {
        if let ipv4 = GID.parseIPv4(text[...]) {
            self.init(ipv4: ipv4)
            return
        }
        guard let groups = GID.parseGroups(text) else { return nil }
        func half(_ part: ArraySlice<UInt16>) -> UInt64 { part.reduce(0) { $0 << 16 | UInt64($1) } }
        self.init(high: half(groups[0..<4]), low: half(groups[4..<8]))
    }

    private static func parseIPv4(_ text: Substring) -> UInt32? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var value: UInt32 = 0
        for part in parts {
            guard part.count <= 3, part.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let byte = UInt8(part) else {
                return nil
            }
            value = value << 8 | UInt32(byte)
        }
        return value
    }

    /// Eight groups, or `nil`.
    private static func parseGroups(_ text: String) -> [UInt16]? {
        let bytes = Array(text.utf8)
        var gap: Int?
        var i = 0
        while i + 1 < bytes.count {
            if bytes[i] == UInt8(ascii: ":"), bytes[i + 1] == UInt8(ascii: ":") {
                guard gap == nil else { return nil }
                gap = i
                i += 1
            }
            i += 1
        }
        guard let gap else {
            guard let all = parseRun(text[...]) else { return nil }
            return all.count == 8 ? all : nil
        }
        let middle = text.utf8.index(text.startIndex, offsetBy: gap)
        let after = text.utf8.index(middle, offsetBy: 2)
        guard let head = middle == text.startIndex ? [] : parseRun(text[..<middle], dotted: false),
            let tail = after == text.endIndex ? [] : parseRun(text[after...]), head.count + tail.count <= 7
        else { return nil }
        return head + [UInt16](repeating: 0, count: 8 - head.count - tail.count) + tail
    }

    /// Groups between colons; the last may be a dotted IPv4 address, which makes two.
    private static func parseRun(_ text: Substring, dotted: Bool = true) -> [UInt16]? {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        var groups: [UInt16] = []
        for (i, part) in parts.enumerated() {
            if dotted, i == parts.count - 1, part.contains("."), let ipv4 = parseIPv4(part) {
                groups += [UInt16(ipv4 >> 16), UInt16(truncatingIfNeeded: ipv4)]
            } else {
                guard (1...4).contains(part.utf8.count), part.utf8.first != UInt8(ascii: "+"),
                    part.utf8.first != UInt8(ascii: "-"), let group = UInt16(part, radix: 16)
                else { return nil }
                groups.append(group)
            }
        }
        return groups
    }
}
