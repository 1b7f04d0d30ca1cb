// SPDX-License-Identifier: Apache-2.0
import FlowTraffic
import Testing

@testable import FlowSteering

@Suite("What a rule may ask for under another") struct FlowCoveringTests {
    @Test(
        "A rule that covers another matches, in the model, every frame that the other has",
        arguments: 1...10 as ClosedRange<UInt64>)
    func coveringIsSound(seed: UInt64) {
        var rules = RuleMaker(seed: seed)
        var frames = FrameMaker(seed: seed &* 7)
        let keys = (0..<400).map { _ in key(of: frames.frame()) }
        var pairs = 0
        var hits = 0
        for _ in 0..<2000 {
            // Few specifications: those that may cover others.
            let allowed = plain(rules.rule())
            var other = rules.rule()
            other.drops = false
            guard allowed.specifications.count < 3, allowed.covers(other) else { continue }
            pairs += 1
            for key in keys where has(other, key) {
                hits += 1
                #expect(has(allowed, key), "seed \(seed): '\(allowed)' covers '\(other)', but not key \(key)")
            }
        }
        #expect(pairs > 20 && hits > 100)
    }

    @Test(
        "A rule is covered by what is left of it without some of its headers",
        arguments: 1...5 as ClosedRange<UInt64>)
    func coveringIsComplete(seed: UInt64) {
        var rules = RuleMaker(seed: seed)
        var count = 0
        for _ in 0..<300 {
            let rule = plain(rules.rule())
            var wider = rule
            while !wider.specifications.isEmpty {
                #expect(wider.covers(rule), "seed \(seed): '\(wider)' and '\(rule)'")
                wider.specifications.removeLast()
                count += 1
            }
            #expect(FlowRule.any.covers(rule))
        }
        #expect(count > 300)
    }

    @Test(
        "What is wider, beside it, or of all traffic is not covered",
        arguments: [
            ("ip udp dst-port 7000", "ip udp dst-port 7001", false), ("ip udp dst-port 7000", "ip udp", false),
            ("ip udp dst-port 7000", "ip6 udp dst-port 7000", false), ("ip udp dst-port 7000", "any", false),
            ("ip udp dst-port 7000", "sniffer", false), ("ip udp dst-port 7000", "all-default", false),
            ("ip udp dst-port 7000", "multicast-default", false),
            ("ip udp dst-port 7000", "ip src 10.0.0.1 udp dst-port 7000 priority 3 action tag 1", true),
            ("ip udp dst-port 0x1000/0xf000", "ip udp dst-port 0x1234", true),
            ("ip udp dst-port 0x1000/0xf000", "ip udp dst-port 0x2234", false),
            ("ip dst 10.0.0.0/8", "ip dst 10.9.0.0/16 tcp", true), ("ip dst 10.9.0.0/16", "ip dst 10.0.0.0/8", false),
            ("ip proto 17", "ip udp", true), ("eth type 0x0800", "ip tcp", true), ("eth", "ip", true),
            ("ip udp dst-port 4789", "ip vxlan vni 5 inner ip", true), ("any", "sniffer", true),
            ("eth dst 01:00:00:00:00:00/01:00:00:00:00:00", "multicast-default", true),
            ("eth vlan 5", "eth vlan 5 type 0x88b5", true), ("eth vlan 5", "eth vlan 6", false),
            ("eth vlan 5", "ip", false),
        ])
    func examples(allowed: String, other: String, isCovered: Bool) throws {
        #expect(try FlowRule(parsing: allowed).covers(FlowRule(parsing: other)) == isCovered)
    }

    private func plain(_ rule: FlowRule) -> FlowRule {
        var rule = rule
        rule.drops = false
        rule.doesNotTrap = false
        return rule
    }

    /// Whether the rule, alone, has the packet in the model.
    private func has(_ rule: FlowRule, _ key: FlowKey) -> Bool {
        var model = FlowModel()
        model.insert(rule, FlowID(rawValue: 0))
        return !model.verdict(for: key).effects.isEmpty
    }
}
