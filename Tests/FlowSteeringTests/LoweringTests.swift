// SPDX-License-Identifier: Apache-2.0
import CFlowHeaders
import Testing

@testable import FlowSteering

private func decode(_ bytes: [UInt8]) throws(FlowRuleError) -> FlowAttributes.Decoded {
    try FlowAttributes.decode(bytes.span.bytes)
}

@Suite("Lowering of rules to C structures") struct LoweringTests {
    private static let attributes: [(String, flow_case)] = [
        ("ip src 10.0.0.0/24 udp dst-port 7000 priority 1 action tag 7", FLOW_UDP4),
        (
            "eth dst 02:00:00:00:00:01 src 66:11:00:00:00:00/ff:ff:00:00:00:00 type 0x88b5 vlan 100 dont-trap device-port 2",
            FLOW_ETHERNET
        ),
        ("ip dst 192.168.1.9 proto 17 tos 0xb8/0xfc ttl 64 flags 0/4", FLOW_IPV4_EXTENDED),
        (
            "ip6 src 2001:db8::1 dst fe80::/64 flow-label 0xabcde class 0x20/0xfc hop-limit 1 tcp src-port 1024 dst-port 80 priority 4660",
            FLOW_TCP6
        ),
        ("ip src 10.0.0.0/24 esp spi 0xc0ffee00 seq 1", FLOW_ESP),
        (
            "vxlan vni 5000 inner eth dst 02:00:00:00:00:01 src 66:11:00:00:00:00/ff:ff:00:00:00:00 type 0x88b5 vlan 100",
            FLOW_VXLAN_INNER
        ),
        (
            "gre flags 0x2000/0x2000 type 0x8847 key 0x01020304 mpls label 17 inner ip src 10.0.0.0/24 inner udp dst-port 53",
            FLOW_GRE_MPLS
        ),
        ("ip src 10.0.0.0/24 action drop action count", FLOW_DROP_COUNT),
        ("sniffer", FLOW_SNIFFER), ("all-default", FLOW_ALL_DEFAULT),
    ]

    @Test("ibv_flow_attr is what a C program fills in, and reads back as the rule", arguments: attributes)
    func attributesMatch(text: String, which: flow_case) throws {
        let counters: UInt = 0x7F00_1234_5678
        var expected = [UInt8](repeating: 0xEE, count: 512)
        let byteCount = flow_attributes(which, &expected, expected.count, counters)
        try #require(byteCount >= FlowAttributes.headerByteCount)
        let rule = try FlowRule(parsing: text)
        #expect(try FlowAttributes.encode(rule, counters: counters) == Array(expected[..<byteCount]))

        let decoded = try decode(Array(expected[..<byteCount]))
        #expect(decoded.rule == rule)
        #expect(decoded.counters == (rule.counts ? counters : nil))
    }

    @Test("Every cut of the bytes, and every other byte in them, gives a rule or an error", arguments: attributes)
    func decodingIsTotal(text: String, which: flow_case) throws {
        var bytes = [UInt8](repeating: 0, count: 512)
        bytes.removeLast(512 - flow_attributes(which, &bytes, 512, 0))
        for end in 0..<bytes.count {
            // What is cut is missed: a specification, or the end of one.
            #expect(throws: FlowRuleError.self) { try decode(Array(bytes[..<end])) }
        }
        for index in bytes.indices {
            for value in [0, 1, 0x7F, 0xFF] as [UInt8] {
                var changed = bytes
                changed[index] = value
                if let decoded = try? decode(changed) {
                    try decoded.rule.validate()
                }
            }
        }
    }

    @Test("What a device does not do is refused by name")
    func attributesRefused() throws {
        let rule = try FlowRule(parsing: "any action count")
        let error = #expect(throws: FlowRuleError.self) { try FlowAttributes.encode(rule) }
        #expect(error?.field == "action count")

        var bytes = try FlowAttributes.encode(.any)
        bytes[16] = 4
        let egress = #expect(throws: FlowRuleError.self) { try decode(bytes) }
        #expect(egress?.reason == .unsupported)
        #expect(egress?.explanation.contains("egress") == true)
    }

    private static let filters: [(String, ntuple_case, UInt32)] = [
        ("ip src 10.0.0.0/24 udp dst-port 7000", NTUPLE_UDP4, 3),
        ("ip6 src 2001:db8::1 class 0x20/0xfc tcp src-port 1024 dst-port 80", NTUPLE_TCP6, NtupleRule.anyLocation),
        ("eth dst 02:00:00:00:00:01 type 0x88b5 vlan 100", NTUPLE_ETHERNET, NtupleRule.anyLocation),
        (
            "eth dst 02:00:00:00:00:01 vlan 100 ip src 10.0.0.0/24 proto 47 tos 0x10", NTUPLE_IPV4_WITH_MAC_AND_TAG,
            NtupleRule.anyLocation
        ),
        ("ip6 src 2001:db8::1 next-header 132 action drop", NTUPLE_IPV6_DROP, NtupleRule.anyLocation),
        ("ip src 10.0.0.0/24 esp spi 0xc0ffee00", NTUPLE_ESP4, NtupleRule.anyLocation),
        ("ip6 src 2001:db8::1 esp spi 0xc0ffee00", NTUPLE_ESP6, NtupleRule.anyLocation),
    ]

    @Test("ethtool_rxnfc is what a C program fills in", arguments: filters)
    func filtersMatch(text: String, which: ntuple_case, location: UInt32) throws {
        var expected = [UInt8](repeating: 0xEE, count: NtupleRule.byteCount)
        try #require(flow_ntuple(which, &expected, expected.count) == NtupleRule.byteCount)
        #expect(try NtupleRule.encode(FlowRule(parsing: text), queue: 5, location: location) == expected)
    }

    @Test("A protocol that a header above says does not stay in the filter")
    func protocolIsImplied() throws {
        #expect(
            try NtupleRule.encode(FlowRule(parsing: "ip proto 17 udp dst-port 1"), queue: 0)
                == NtupleRule.encode(FlowRule(parsing: "ip udp dst-port 1"), queue: 0))
    }

    @Test(
        "What an adapter's filters cannot say is refused by name",
        arguments: [
            ("sniffer", "sniffer"), ("all-default", "all-default"), ("any", "any"), ("ip action tag 1", "action tag"),
            ("ip action count", "action count"), ("ip dont-trap", "dont-trap"), ("ip ttl 1", "ip ttl"),
            ("ip flags 2", "ip flags"), ("ip6 flow-label 1", "ip6 flow-label"), ("ip6 hop-limit 1", "ip6 hop-limit"),
            ("ip esp seq 1", "esp seq"), ("eth src 02:00:00:00:00:01 ip", "eth src"), ("vxlan vni 1", "vxlan"),
            ("ip gre", "gre"), ("mpls label 3", "mpls"), ("inner ip", "inner ip"),
        ])
    func filtersRefused(text: String, field: String) {
        let error = #expect(throws: FlowRuleError.self) { try NtupleRule.encode(FlowRule(parsing: text), queue: 0) }
        #expect(error?.field == field)
        #expect(error?.reason == .unsupported)
    }
}
