// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// In whose name a raw packet queue pair may send: the addresses that frames may have for their source.
///
/// A frame passes if it says in each place who sent it, and each is allowed:
///
/// - the Ethernet source, always;
/// - the source of an IPv4 or IPv6 packet, behind up to two VLAN tags;
/// - the sender of an ARP packet, both its addresses;
/// - the target of a neighbour advertisement, and the link-layer addresses in the options of solicitations and
///   advertisements (of routers and neighbours).
///
/// Everything else is refused: frames that are neither IP nor ARP unless ``allowsOtherTypes`` is set, headers that contradict themselves or
/// are cut off, and chains of IPv6 extension headers that do not end within the first 256 bytes of the frame. A fragment has the source of its
/// packet; what is inside of a tunnel is not looked at.
///
/// In text, for environment variables and access files, it is what is allowed, between commas:
///
/// | part | allows |
/// |---|---|
/// | `own` | the Ethernet address and the IP addresses of the interface |
/// | `02:00:00:00:00:01` | an Ethernet address, or several with a mask behind `/` |
/// | `10.0.0.0/8`, `fd00::1` | an IP address, or a network |
/// | `other` | frames that are neither IP nor ARP, of an allowed Ethernet address |
public struct SourceCheck: Hashable, Sendable {
    /// The addresses of the interface are allowed, as they were when the context was opened.
    public var allowsOwn: Bool
    /// Ethernet addresses that are allowed.
    public var ethernet: [MACPattern]
    /// IPv4 addresses that are allowed.
    public var ipv4: [IPv4Pattern]
    /// IPv6 addresses that are allowed.
    public var ipv6: [IPv6Pattern]
    /// Frames that are neither IP nor ARP are allowed: of them only the Ethernet source is known.
    public var allowsOtherTypes: Bool

    /// Allows what the parameters say, and nothing else.
    public init(
        own: Bool = false, ethernet: [MACPattern] = [], ipv4: [IPv4Pattern] = [], ipv6: [IPv6Pattern] = [],
        otherTypes: Bool = false
    ) {
        allowsOwn = own
        self.ethernet = ethernet
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        allowsOtherTypes = otherTypes
    }

    /// The addresses of the interface alone.
    public static var own: SourceCheck { SourceCheck(own: true) }

    /// What either allows.
    package func union(_ other: SourceCheck) -> SourceCheck {
        SourceCheck(
            own: allowsOwn || other.allowsOwn, ethernet: ethernet + other.ethernet, ipv4: ipv4 + other.ipv4,
            ipv6: ipv6 + other.ipv6, otherTypes: allowsOtherTypes || other.allowsOtherTypes)
    }

    /// The same with the addresses of an interface in the place of ``allowsOwn``.
    package func resolved(ethernet own: MACAddress, addresses: [GID]) -> SourceCheck {
        guard allowsOwn else { return self }
        var check = self
        check.allowsOwn = false
        check.ethernet.append(MACPattern(FlowPattern(own.rawValue, mask: 0xFFFF_FFFF_FFFF)))
        for address in addresses {
            if address.isIPv4Mapped {
                check.ipv4.append(IPv4Pattern(FlowPattern(exactly: address.ipv4)))
            } else {
                let value = UInt128(address.high) << 64 | UInt128(address.low)
                check.ipv6.append(IPv6Pattern(FlowPattern(exactly: value)))
            }
        }
        return check
    }
}

// MARK: - Text

extension SourceCheck: LosslessStringConvertible {
    /// Reads the textual form; `nil` if it is none. ``init(parsing:)`` says why.
    public init?(_ text: String) {
        guard let check = try? SourceCheck(parsing: text) else { return nil }
        self = check
    }

    /// Reads the textual form.
    /// - Throws: the part that cannot be, and what to write.
    public init(parsing text: String) throws(FlowRuleError) {
        self.init()
        for part in text.split(separator: ",", omittingEmptySubsequences: false) { try add(String(part)) }
        guard allowsOwn || !ethernet.isEmpty else {
            throw FlowRuleError(
                "sources", .missing, "'\(text.prefix(80))' allows no Ethernet address, so that no frame could be sent",
                remedy: "add `own`, or an address such as 02:00:00:00:00:01")
        }
    }

    private mutating func add(_ part: String) throws(FlowRuleError) {
        if part == "own" {
            allowsOwn = true
        } else if part == "other" {
            allowsOtherTypes = true
        } else if let pattern = MACPattern(part) {
            try Self.check(pattern.bits, part)
            ethernet.append(pattern)
        } else if let pattern = IPv4Pattern(part) {
            try Self.check(pattern.bits, part)
            ipv4.append(pattern)
        } else if let pattern = IPv6Pattern(part) {
            try Self.check(pattern.bits, part)
            ipv6.append(pattern)
        } else {
            throw FlowRuleError(
                "sources", .syntax, "`\(part.prefix(80))` is no source",
                remedy: "write `own`, `other`, Ethernet addresses, IP addresses and networks, between commas")
        }
    }

    /// 10.0.0.1/8 may be meant as one address or as all of the network.
    private static func check<Value>(_ bits: FlowPattern<Value>, _ part: String) throws(FlowRuleError) {
        guard bits.value & ~bits.mask == 0 else {
            throw FlowRuleError(
                "sources", .valueOutsideMask, "`\(part.prefix(80))` has bits behind its prefix or outside of its mask",
                remedy: "leave the prefix out for one address, or set those bits to 0 for the network")
        }
    }

    /// The textual form, which ``init(parsing:)`` reads as the same check.
    public var description: String {
        let parts =
            (allowsOwn ? ["own"] : []) + ethernet.map(\.description) + ipv4.map(\.description) + ipv6.map(\.description)
        return (parts + (allowsOtherTypes ? ["other"] : [])).joined(separator: ",")
    }
}
