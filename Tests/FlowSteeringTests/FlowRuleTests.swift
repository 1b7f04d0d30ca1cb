// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import FlowSteering

@Suite("Flow rules") struct FlowRuleTests {
    @Test("A rule that is built reads as its text, and the text as the rule", arguments: rules)
    func roundTrip(rule: FlowRule, text: String) throws {
        #expect(rule.description == text)
        #expect(try FlowRule(parsing: text) == rule)
        #expect(FlowRule(text) == rule)
    }

    private static let rules: [(FlowRule, String)] = [
        (
            .udp(destinationPort: 7000).ipv4(source: "10.0.0.0/24").priority(1).tag(7),
            "ip src 10.0.0.0/24 udp dst-port 7000 priority 1 action tag 7"
        ),
        (.any.dropping(), "any action drop"),
        (.sniffer, "sniffer"),
        (.allDefault.counting(), "all-default action count"),
        (.multicastDefault.tag(0), "multicast-default action tag 0"),
        (
            .ethernet(destination: "02:00:00:00:00:01", etherType: 0x88B5).vlan(100).notTrapping(),
            "eth dst 02:00:00:00:00:01 type 0x88b5 vlan 100 dont-trap"
        ),
        (
            .ethernet(destination: "01:00:00:00:00:00/01:00:00:00:00:00"),
            "eth dst 01:00:00:00:00:00/01:00:00:00:00:00"
        ),
        (.ethernet(vlanTag: FlowPattern(0x2000, mask: 0xE000)), "eth vlan-tag 0x2000/0xe000"),
        (
            .tcp(sourcePort: FlowPattern(1024, mask: 0xFC00)).ipv6(source: "2001:db8::/32", destination: "fe80::1"),
            "ip6 src 2001:db8::/32 dst fe80::1 tcp src-port 1024/0xfc00"
        ),
        (
            .ipv4(destination: "10.0.0.1/255.0.0.255").esp(securityParametersIndex: 0xC0FFEE),
            "ip dst 10.0.0.1/255.0.0.255 esp spi 0xc0ffee"
        ),
        (
            .vxlan(networkIdentifier: 5000).ipv4().inner(
                .ethernet(source: "02:00:00:00:00:02").ipv4().tcp(destinationPort: 80)),
            "ip vxlan vni 5000 inner eth src 02:00:00:00:00:02 inner ip inner tcp dst-port 80"
        ),
        (
            .ipv4().gre(key: 7).mpls(label: 17).inner(.ipv6(destination: "ff02::/16")),
            "ip gre key 0x7 mpls label 17 inner ip6 dst ff02::/16"
        ),
        (.ipv4(source: "0.0.0.0/1"), "ip src 0.0.0.0/1"),
        (
            FlowRule.any.with(
                .ipv4(
                    IPv4Specification(
                        nextProtocol: 17, typeOfService: FlowPattern(0xB8, mask: 0xFC), timeToLive: 64,
                        flags: FlowPattern(0, mask: 4)))),
            "ip proto 17 tos 0xb8/0xfc ttl 64 flags 0x0/0x4"
        ),
        (
            FlowRule.any.with(
                .ipv6(IPv6Specification(flowLabel: 0xABCDE, nextHeader: 59, trafficClass: 1, hopLimit: 1))),
            "ip6 flow-label 0xabcde next-header 59 class 0x1 hop-limit 1"
        ),
    ]

    @Test("Headers may be told in any order, in words and calls")
    func anyOrder() throws {
        let rule = FlowRule.ipv4(source: "10.0.0.1").udp(destinationPort: 53).ethernet(etherType: 0x0800)
        #expect(rule.specifications.map(\.name) == ["eth", "ip", "udp"])
        #expect(try FlowRule(parsing: "udp dst-port 53 ip src 10.0.0.1 eth type 2048") == rule)
        #expect(try FlowRule(parsing: "any priority 3 action deliver") == FlowRule.any.priority(3))
        var inDevice = FlowRule.any
        inDevice.devicePort = 2
        #expect(try FlowRule(parsing: "any device-port 2") == inDevice)
    }

    @Test(
        "What cannot be a rule is refused with the field's name and a way out",
        arguments: [
            ("", "rule", .syntax), ("udp", "udp", .missing), ("ip udp tcp", "tcp", .conflict),
            ("ip ip6", "ip6", .conflict), ("ip src 10.0.0.1/24", "ip src", .valueOutsideMask),
            ("ip src 10.0.0.1/33", "ip src", .syntax), ("ip src fe80::1", "ip src", .syntax),
            ("ip6 src 10.0.0.1", "ip6 src", .syntax), ("ip src", "ip src", .syntax),
            ("ip udp dst-port 65536", "udp dst-port", .syntax), ("ip udp dst-port -1", "udp dst-port", .syntax),
            ("ip udp dst-port 1 dst-port 2", "udp dst-port", .syntax), ("ip ip", "ip", .syntax),
            ("eth dst 02:00:00:00:00", "eth dst", .syntax), ("eth vlan 4096", "eth vlan", .syntax),
            ("eth type 0x86dd ip", "eth type", .conflict), ("ip proto 6 udp", "ip proto", .conflict),
            ("ip6 next-header 17 tcp", "ip6 next-header", .conflict), ("inner udp", "inner udp", .missing),
            ("ip tcp vxlan vni 5", "vxlan", .conflict), ("ip udp dst-port 53 vxlan", "udp dst-port", .conflict),
            ("ip udp gre", "gre", .conflict), ("vxlan gre", "gre", .conflict),
            ("inner vxlan vni 5", "inner vxlan", .conflict), ("vxlan vni 16777216", "vxlan vni", .syntax),
            ("ip flags 1", "ip flags", .fieldTooNarrow), ("ip6 flow-label 0x100000", "ip6 flow-label", .syntax),
            ("sniffer ip", "ip", .conflict), ("all-default dont-trap", "dont-trap", .conflict),
            ("any action drop action tag 1", "action tag", .conflict),
            ("any action drop dont-trap", "dont-trap", .conflict),
            ("sniffer action drop", "action drop", .conflict), ("any action", "action", .syntax),
            ("any action explode", "action", .syntax), ("any priority 65536", "priority", .syntax),
            ("any priority", "priority", .syntax), ("any device-port 0", "device-port", .fieldTooNarrow),
            ("host 10.0.0.1", "host", .syntax), ("inner", "inner", .syntax), ("any any", "any", .syntax),
        ] as [(String, String, FlowRuleError.Reason)])
    func refusals(text: String, field: String, reason: FlowRuleError.Reason) {
        let error = #expect(throws: FlowRuleError.self) { try FlowRule(parsing: text) }
        #expect(error?.field == field)
        #expect(error?.reason == reason)
        #expect(error?.remedy.isEmpty == false)
        #expect(FlowRule(text) == nil)
    }

    @Test("A rule that is put together by hand is judged like any other")
    func handMade() throws {
        let udp = FlowSpecification(.udp(PortSpecification(destination: 53)))
        let ip = FlowSpecification(.ipv4(IPv4Specification(source: "10.0.0.1")))
        let wrongOrder = #expect(throws: FlowRuleError.self) { try FlowRule(specifications: [udp, ip]).validate() }
        #expect(wrongOrder?.reason == .order)
        #expect(
            wrongOrder?.description == "ip: stands behind udp, which it encloses in a packet; put ip before udp")
        let twice = #expect(throws: FlowRuleError.self) { try FlowRule(specifications: [ip, ip]).validate() }
        #expect(twice?.reason == .conflict)
        try FlowRule(specifications: [ip, udp]).validate()

        let wide = FlowSpecification(.vxlan(VXLANSpecification(networkIdentifier: FlowPattern(0, mask: 0xFF00_0000))))
        let narrow = #expect(throws: FlowRuleError.self) { try FlowRule(specifications: [wide]).validate() }
        #expect(narrow?.reason == .fieldTooNarrow)
        #expect(narrow?.field == "vxlan vni")
    }

    @Test("The error says what to write instead")
    func remedy() {
        let error = #expect(throws: FlowRuleError.self) { try FlowRule(parsing: "ip src 10.0.0.1/24") }
        #expect(error?.description == "ip src: 10.0.0.1/24 has bits outside of its mask; write 10.0.0.0/24")
    }
}
