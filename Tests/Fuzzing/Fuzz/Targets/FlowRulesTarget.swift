// SPDX-License-Identifier: Apache-2.0
import FlowSteering

extension FuzzTarget {
    /// Flow rules from three hostile sides: frames, text, and the bytes that a program gives to ibv_create_flow.
    static let flowRules = FuzzTarget(
        name: "flow-rules",
        seeds: { frames in
            let texts = [
                "ip src 10.0.0.0/24 udp dst-port 7000 priority 1 action tag 7",
                "eth dst 01:00:00:00:00:00/01:00:00:00:00:00 vlan 100 dont-trap",
                "ip6 src 2001:db8::/32 flow-label 0x5 tcp src-port 1024/0xfc00 action drop action count",
                "ip gre flags 0x2000/0x2000 key 7 mpls label 17 inner ip6 hop-limit 1 inner esp spi 1",
                "udp ip vxlan vni 5 inner eth type 0x800", "sniffer", "all-default", "multicast-default device-port 2",
            ]
            return frames.map { [0] + $0 } + texts.map { [1] + Array($0.utf8) }
                + texts.compactMap { text in
                    guard let rule = FlowRule(text), let bytes = try? FlowAttributes.encode(rule, counters: 1) else {
                        return nil
                    }
                    return [2] + bytes
                }
        }
    ) { bytes in
        guard let first = bytes.first else { return }
        let rest = UnsafeRawBufferPointer(rebasing: bytes.dropFirst())
        switch first % 3 {
        case 0: checkFrame(rest)
        case 1: checkText(String(decoding: rest, as: UTF8.self))
        default:
            if let decoded = try? FlowAttributes.decode(rest.bytes) { checkRule(decoded.rule) }
        }
    }

    private static func checkFrame(_ bytes: UnsafeRawBufferPointer) {
        let key = PacketHeaders.key(of: bytes.bytes)
        for inner in [false, true] {
            let layers = key.layers(inner: inner)
            require(!layers.isSuperset(of: [.ipv4, .ipv6]), "two IP headers in one place")
            require(!layers.isSuperset(of: [.tcp, .udp]), "two transports in one place")
            require(
                layers.isDisjoint(with: [.tcp, .udp, .esp, .gre]) || !layers.isDisjoint(with: [.ipv4, .ipv6]),
                "a transport over nothing")
        }
        // What a shorter frame has is what the longer one has.
        let half = PacketHeaders.key(of: bytes.bytes.extracting(first: bytes.count / 2))
        require(key.layers(inner: false).isSuperset(of: half.layers(inner: false)), "a cut frame gained a header")
    }

    private static func checkText(_ text: String) {
        guard let rule = FlowRule(text) else { return }
        checkRule(rule)
    }

    /// A rule that was accepted is valid, has a text and bytes that give the same rule, and can be carried out.
    private static func checkRule(_ rule: FlowRule) {
        require((try? rule.validate()) != nil, "an invalid rule was accepted")
        require(FlowRule(rule.description) == rule, "another rule by its text: \(rule)")
        guard let bytes = try? FlowAttributes.encode(rule, counters: 0x1234) else { fatalError("no bytes for \(rule)") }
        require((try? FlowAttributes.decode(bytes.span.bytes))?.rule == rule, "another rule by its bytes: \(rule)")
        _ = try? NtupleRule.encode(rule, queue: 0)
        let classifier = FlowClassifier()
        guard let id = try? classifier.insert(rule) else { fatalError("not inserted: \(rule)") }
        let pattern = FlowKeyPattern(rule)
        if rule.kind == .normal {
            require(
                classifier.verdict(for: pattern.value).effects.contains {
                    $0 == .drop(id) || $0 == .deliver(id, tag: rule.tag)
                },
                "a rule does not take the packet that it describes: \(rule)")
        }
        require(classifier.remove(id) && classifier.count == 0, "not removed: \(rule)")
    }
}
