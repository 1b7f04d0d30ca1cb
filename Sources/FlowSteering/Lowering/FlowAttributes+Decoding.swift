// SPDX-License-Identifier: Apache-2.0
import RoCEWire

extension FlowAttributes {
    /// A rule out of `ibv_flow_attr` bytes, and the counters that it counts in.
    package struct Decoded: Hashable, Sendable {
        /// The rule, valid.
        package let rule: FlowRule
        /// The address of an `ibv_counters`.
        package let counters: UInt?
    }

    /// Reads what a program gave to `ibv_create_flow`. Total: whatever the bytes are, it gives a valid rule or an error that names
    /// the specification.
    ///
    /// Value bits outside of the mask are dropped, as devices do; headers may come in any order, as the manual page says.
    package static func decode(_ bytes: RawSpan) throws(FlowRuleError) -> Decoded {
        guard bytes.byteCount >= headerByteCount else {
            throw layout(
                "ibv_flow_attr", "\(bytes.byteCount) bytes are too few", "20 are in front of the specifications")
        }
        guard let kind = FlowRule.Kind(rawValue: bytes.loadNative(UInt32.self, at: 4)) else {
            throw layout(
                "ibv_flow_attr type", "\(bytes.loadNative(UInt32.self, at: 4)) is none",
                "use IBV_FLOW_ATTR_NORMAL, ALL_DEFAULT, MC_DEFAULT or SNIFFER")
        }
        var rule = FlowRule(kind)
        rule.priority = bytes.loadNative(UInt16.self, at: 10)
        rule.devicePort = bytes.loadNative(UInt8.self, at: 13)
        let flags = bytes.loadNative(UInt32.self, at: 16)
        guard flags & ~doesNotTrap == 0 else {
            throw FlowRuleError(
                "ibv_flow_attr flags", .unsupported,
                flags & egress != 0
                    ? "egress rules are not supported" : "0x\(String(flags, radix: 16)) has unknown bits",
                remedy: "use none, or IBV_FLOW_ATTR_FLAGS_DONT_TRAP")
        }
        rule.doesNotTrap = flags & doesNotTrap != 0
        var counters: UInt?
        var offset = headerByteCount
        for index in 0..<Int(bytes.loadNative(UInt8.self, at: 12)) {
            guard bytes.byteCount - offset >= 8 else {
                throw layout("specification \(index)", "begins behind the end", "num_of_specs counts those that follow")
            }
            let byteCount = Int(bytes.loadNative(UInt16.self, at: offset + 4))
            guard byteCount >= 8, bytes.byteCount - offset >= byteCount else {
                throw layout("specification \(index)", "has a size of \(byteCount)", "give the size of its structure")
            }
            try add(bytes.extracting(offset..<offset + byteCount), index, to: &rule, &counters)
            offset += byteCount
        }
        try rule.validate()
        return Decoded(rule: rule, counters: counters)
    }

    private static func layout(_ field: String, _ explanation: String, _ remedy: String) -> FlowRuleError {
        FlowRuleError(field, .layout, explanation, remedy: remedy)
    }

    private static func add(
        _ bytes: RawSpan, _ index: Int, to rule: inout FlowRule, _ counters: inout UInt?
    ) throws(FlowRuleError) {
        let type = bytes.loadNative(UInt32.self, at: 0)
        func require(_ byteCount: Int) throws(FlowRuleError) {
            if bytes.byteCount != byteCount {
                throw layout(
                    "specification \(index)", "of type 0x\(String(type, radix: 16)) has \(bytes.byteCount) bytes",
                    "it has \(byteCount)")
            }
        }
        switch type {
        case SpecificationType.tag:
            try require(12)
            rule.tag = bytes.loadNative(UInt32.self, at: 8)
        case SpecificationType.drop:
            try require(8)
            rule.drops = true
        case SpecificationType.count:
            try require(16)
            rule.counts = true
            counters = UInt(bytes.loadNative(UInt64.self, at: 8))
        case SpecificationType.handle:
            throw FlowRuleError(
                "action handle", .unsupported, "offload of ESP is not supported", remedy: "leave the action out")
        default:
            let isInner = type & SpecificationType.inner != 0
            guard let byteCount = byteCount(of: type & ~SpecificationType.inner) else {
                throw FlowRuleError(
                    "specification \(index)", .unsupported, "the type 0x\(String(type, radix: 16)) is not known",
                    remedy: "use one of enum ibv_flow_spec_type")
            }
            try require(byteCount)
            rule = rule.with(header(type & ~SpecificationType.inner, bytes), isInner: isInner)
        }
    }

    /// `sizeof` the structure.
    private static func byteCount(of type: UInt32) -> Int? {
        switch type {
        case SpecificationType.ethernet: 40
        case SpecificationType.ipv4: 24
        case SpecificationType.ipv4Extended: 32
        case SpecificationType.ipv6: 88
        case SpecificationType.tcp, SpecificationType.udp: 16
        case SpecificationType.esp: 24
        case SpecificationType.vxlan: 16
        case SpecificationType.gre: 24
        case SpecificationType.mpls: 16
        default: nil
        }
    }

    private static func header(_ type: UInt32, _ bytes: RawSpan) -> FlowSpecification.Header {
        /// The pattern whose value is at `offset`, and whose mask is `distance` further.
        func pattern<Value>(_ offset: Int, _ distance: Int, _: Value.Type = Value.self) -> FlowPattern<Value>
        where Value: FixedWidthInteger & UnsignedInteger & BitwiseCopyable & Sendable {
            let mask = bytes.loadBigEndian(Value.self, at: offset + distance)
            return FlowPattern(bytes.loadBigEndian(Value.self, at: offset) & mask, mask: mask)
        }
        func mac(_ offset: Int) -> MACPattern {
            let mask = MACAddress(parsing: bytes, at: offset + 16).rawValue
            return MACPattern(FlowPattern(MACAddress(parsing: bytes, at: offset).rawValue & mask, mask: mask))
        }
        switch type {
        case SpecificationType.ethernet:
            return .ethernet(
                EthernetSpecification(
                    destination: mac(6), source: mac(12), etherType: pattern(18, 16), vlanTag: pattern(20, 16)))
        case SpecificationType.ipv4:
            return .ipv4(
                IPv4Specification(source: IPv4Pattern(pattern(8, 8)), destination: IPv4Pattern(pattern(12, 8))))
        case SpecificationType.ipv4Extended:
            return .ipv4(
                IPv4Specification(
                    source: IPv4Pattern(pattern(8, 12)), destination: IPv4Pattern(pattern(12, 12)),
                    nextProtocol: pattern(16, 12), typeOfService: pattern(17, 12), timeToLive: pattern(18, 12),
                    flags: pattern(19, 12)))
        case SpecificationType.ipv6:
            return .ipv6(
                IPv6Specification(
                    source: IPv6Pattern(pattern(8, 40)), destination: IPv6Pattern(pattern(24, 40)),
                    flowLabel: pattern(40, 40), nextHeader: pattern(44, 40), trafficClass: pattern(45, 40),
                    hopLimit: pattern(46, 40)))
        case SpecificationType.tcp:
            return .tcp(PortSpecification(source: pattern(8, 4), destination: pattern(6, 4)))
        case SpecificationType.udp:
            return .udp(PortSpecification(source: pattern(8, 4), destination: pattern(6, 4)))
        case SpecificationType.esp:
            return .esp(ESPSpecification(securityParametersIndex: pattern(8, 8), sequence: pattern(12, 8)))
        case SpecificationType.vxlan: return .vxlan(VXLANSpecification(networkIdentifier: pattern(8, 4)))
        case SpecificationType.gre:
            return .gre(
                GRESpecification(flagsAndVersion: pattern(8, 8), nextProtocol: pattern(10, 8), key: pattern(12, 8)))
        default: return .mpls(MPLSSpecification(entry: pattern(8, 4)))
        }
    }
}
