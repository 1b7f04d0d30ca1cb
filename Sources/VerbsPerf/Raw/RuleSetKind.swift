// SPDX-License-Identifier: Apache-2.0
import Verbs

/// SplitMix64: the same rules for the same seed, on every machine.
package struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }

    package mutating func below(_ bound: Int) -> Int { Int(truncatingIfNeeded: next() % UInt64(bound)) }

    /// The index of a weight, each as likely as it is heavy.
    mutating func weighted(_ weights: [Int]) -> Int {
        var left = below(weights.reduce(0, +))
        for (index, weight) in weights.enumerated() {
            if left < weight { return index }
            left -= weight
        }
        return weights.count - 1
    }
}

/// One rule of five fields as value and mask, in the form that both sides can be told.
package struct FiveTuple: Hashable {
    package var source: UInt32 = 0
    package var destination: UInt32 = 0
    package var sourceLength = 0
    package var destinationLength = 0
    /// A prefix of a port's 16 bits: 16 is one port, 0 is any, 6 of 1024 are the ports 1024 to 2047.
    package var sourcePort: UInt16 = 0
    package var sourcePortLength = 0
    package var destinationPort: UInt16 = 0
    package var destinationPortLength = 0
    /// 6, 17, or `nil` for any.
    package var number: UInt8?

    package static func mask32(_ length: Int) -> UInt32 { length == 0 ? 0 : UInt32.max << UInt32(32 - length) }
    package static func mask16(_ length: Int) -> UInt16 { length == 0 ? 0 : UInt16.max << UInt16(16 - length) }

    /// The rule for the classifier. `priority` is the index, which has no room in 16 bits: rules are created in this order, and of
    /// equal priority the first wins.
    package var rule: FlowRule {
        let rule = FlowRule.ipv4(
            source: IPv4Pattern(FlowPattern(source, mask: Self.mask32(sourceLength))),
            destination: IPv4Pattern(FlowPattern(destination, mask: Self.mask32(destinationLength))))
        let from = FlowPattern(sourcePort, mask: Self.mask16(sourcePortLength))
        let to = FlowPattern(destinationPort, mask: Self.mask16(destinationPortLength))
        switch number {
        case 6: return rule.tcp(sourcePort: from, destinationPort: to)
        case 17: return rule.udp(sourcePort: from, destinationPort: to)
        default: return rule
        }
    }

    /// A line of ClassBench's filter files, which DPDK reads.
    package var line: String {
        func dotted(_ address: UInt32) -> String {
            "\(address >> 24).\(address >> 16 & 0xFF).\(address >> 8 & 0xFF).\(address & 0xFF)"
        }
        func range(_ port: UInt16, _ length: Int) -> String { "\(port) : \(port | ~Self.mask16(length))" }
        let number = number.map { "0x" + (($0 < 16 ? "0" : "") + String($0, radix: 16)) + "/0xFF" } ?? "0x00/0x00"
        return "@\(dotted(source))/\(sourceLength)\t\(dotted(destination))/\(destinationLength)\t"
            + "\(range(sourcePort, sourcePortLength))\t\(range(destinationPort, destinationPortLength))\t\(number)\t0x0000/0x0000"
    }
}

/// The packet that a trace line stands for.
package struct PacketFields {
    package var source: UInt32
    package var destination: UInt32
    package var sourcePort: UInt16
    package var destinationPort: UInt16
    package var number: UInt8

    package var line: String { "\(source)\t\(destination)\t\(sourcePort)\t\(destinationPort)\t\(number)\t0" }
}

/// Rule sets with the traits of those that operators have: nested prefixes out of a tree of networks, few ports, pairs of prefix lengths
/// that are typical for access lists, firewalls and chains of Linux hosts. ClassBench's published statistics were the
/// model; the generator is our own.
package enum RuleSetKind: String, CaseIterable, Sendable {
    case acl, fw, ipc

    /// Weights of source lengths and destination lengths, of shapes of the ports, and of protocols TCP, UDP, any.
    private var traits: (source: [(Int, Int)], destination: [(Int, Int)], ports: [Int], protocols: [Int], networks: Int)
    {
        switch self {
        case .acl:
            // Specific on both sides; the destination a host or a small network, one port of it.
            (
                [(0, 4), (16, 4), (20, 6), (24, 25), (27, 8), (28, 8), (30, 6), (32, 39)],
                [(16, 2), (24, 20), (25, 4), (27, 6), (28, 8), (30, 8), (32, 52)], [20, 55, 15, 10, 0], [70, 20, 10],
                2000
            )
        case .fw:
            // Often one side is open, and ports are ranges or any.
            (
                [(0, 38), (8, 2), (16, 6), (24, 14), (28, 5), (32, 35)],
                [(0, 22), (16, 6), (24, 16), (28, 8), (32, 48)],
                [30, 30, 12, 18, 10], [62, 26, 12], 400
            )
        case .ipc:
            // Both sides vary; many exact pairs.
            (
                [(0, 8), (8, 2), (16, 10), (20, 6), (24, 16), (26, 4), (28, 6), (32, 48)],
                [(0, 6), (16, 8), (22, 6), (24, 16), (27, 6), (32, 58)], [38, 30, 12, 15, 5], [50, 30, 20], 1000
            )
        }
    }

    private static let services: [UInt16] = [
        80, 443, 53, 25, 22, 110, 143, 389, 1433, 1521, 3306, 8080, 123, 161, 514, 5060,
    ]

    /// `count` different rules, the specific ones mostly first, as people write them.
    package func rules(_ count: Int, seed: UInt64) -> [FiveTuple] {
        var generator = SeededGenerator(seed: seed)
        let traits = traits
        // Networks of /16 with subnets below, so that prefixes nest.
        let networks = (0..<max(8, min(traits.networks, count / 8))).map { _ in
            UInt32(truncatingIfNeeded: generator.next())
        }
        var seen: Set<FiveTuple> = []
        var rules: [FiveTuple] = []
        func address(_ length: Int) -> UInt32 {
            let network = networks[generator.below(networks.count)]
            // The upper 16 bits of a network, 8 bits out of a few subnets, the rest at random.
            let subnet = UInt32(generator.below(64)) * 4 << 8
            let host = UInt32(truncatingIfNeeded: generator.next()) & 0x3FF
            return (network & 0xFFFF_0000 | (subnet &+ host) & 0xFFFF) & FiveTuple.mask32(length)
        }
        func port(_ rule: inout FiveTuple, isSource: Bool, wants shape: Int) {
            var (value, length): (UInt16, Int) = (0, 0)
            switch shape {
            case 0: break
            case 1: (value, length) = (Self.services[generator.below(Self.services.count)], 16)
            case 2: (value, length) = (UInt16(truncatingIfNeeded: generator.next()) | 1024, 16)
            case 3: (value, length) = (UInt16(1) << UInt16(10 + generator.below(6)), 0)
            default: (value, length) = (UInt16(generator.below(64)) << 10, 6)
            }
            // 1024 to 65535 is six prefixes; a rule gets one of them.
            if shape == 3 { length = value.leadingZeroBitCount + 1 }
            if isSource {
                (rule.sourcePort, rule.sourcePortLength) = (value, length)
            } else {
                (rule.destinationPort, rule.destinationPortLength) = (value, length)
            }
        }
        while rules.count < count {
            var rule = FiveTuple()
            rule.sourceLength = traits.source[generator.weighted(traits.source.map(\.1))].0
            rule.destinationLength = traits.destination[generator.weighted(traits.destination.map(\.1))].0
            if rule.sourceLength + rule.destinationLength < 16, count > 2000, generator.below(16) != 0 { continue }
            rule.source = address(rule.sourceLength)
            rule.destination = address(rule.destinationLength)
            switch generator.weighted(traits.protocols) {
            case 0: rule.number = 6
            case 1: rule.number = 17
            default: break
            }
            if rule.number != nil {
                port(&rule, isSource: false, wants: generator.weighted(traits.ports))
                port(&rule, isSource: true, wants: self == .acl ? 0 : generator.weighted([80, 8, 4, 6, 2]))
            }
            if seen.insert(rule).inserted { rules.append(rule) }
        }
        // Within windows the more specific first; over all as generated.
        let window = max(1, count / 10)
        return stride(from: 0, to: count, by: window).flatMap { start in
            rules[start..<min(count, start + window)].sorted {
                ($0.sourceLength + $0.destinationLength, $0.destinationPortLength)
                    > ($1.sourceLength + $1.destinationLength, $1.destinationPortLength)
            }
        }
    }

    /// Packets that fit one rule each, drawn evenly, with all other bits at random.
    package static func trace(_ rules: [FiveTuple], _ count: Int, seed: UInt64) -> [PacketFields] {
        var generator = SeededGenerator(seed: seed)
        return (0..<count).map { _ in
            let rule = rules[generator.below(rules.count)]
            let addresses = generator.next()
            let ports = generator.next()
            return PacketFields(
                source: rule.source | UInt32(truncatingIfNeeded: addresses) & ~FiveTuple.mask32(rule.sourceLength),
                destination: rule.destination
                    | UInt32(truncatingIfNeeded: addresses >> 32) & ~FiveTuple.mask32(rule.destinationLength),
                sourcePort: rule.sourcePort | UInt16(truncatingIfNeeded: ports) & ~FiveTuple.mask16(
                    rule.sourcePortLength),
                destinationPort: rule.destinationPort
                    | UInt16(truncatingIfNeeded: ports >> 16) & ~FiveTuple.mask16(rule.destinationPortLength),
                number: rule.number ?? (ports >> 40 & 1 == 0 ? 6 : 17))
        }
    }
}
