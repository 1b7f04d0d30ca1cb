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
    /// The protocol, `nil` for any. Ports are those of TCP (6) and UDP (17) only.
    package var number: UInt8?

    package init() {}

    package static func mask32(_ length: Int) -> UInt32 { length == 0 ? 0 : UInt32.max << UInt32(32 - length) }
    package static func mask16(_ length: Int) -> UInt16 { length == 0 ? 0 : UInt16.max << UInt16(16 - length) }

    /// The rule for the classifier. `priority` is the index, which has no room in 16 bits: rules are created in this order, and of
    /// equal priority the first wins.
    package var rule: FlowRule {
        let hasPorts = number == 6 || number == 17
        let header = IPv4Specification(
            source: IPv4Pattern(FlowPattern(source, mask: Self.mask32(sourceLength))),
            destination: IPv4Pattern(FlowPattern(destination, mask: Self.mask32(destinationLength))),
            nextProtocol: hasPorts ? .any : number.map { FlowPattern(exactly: $0) } ?? .any)
        let rule = FlowRule(specifications: [FlowSpecification(.ipv4(header))])
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

    package init(
        source: UInt32, destination: UInt32, sourcePort: UInt16, destinationPort: UInt16, number: UInt8
    ) {
        (self.source, self.destination) = (source, destination)
        (self.sourcePort, self.destinationPort) = (sourcePort, destinationPort)
        self.number = number
    }

    package var line: String { "\(source)\t\(destination)\t\(sourcePort)\t\(destinationPort)\t\(number)\t0" }
}

/// Rule sets with the statistics of those that ClassBench publishes, which were taken from sets of operators: pairs of prefix lengths,
/// ports and protocols that go with them (``RuleShape``), how many addresses there are and how they nest, and the order. The generator
/// is our own; a range of ports, which flow rules do not have, is one of the prefixes that make it up.
package enum RuleSetKind: String, CaseIterable, Sendable {
    case acl, fw, ipc

    private var shapes: [RuleShape] {
        switch self {
        case .acl: RuleShape.accessList
        case .fw: RuleShape.firewall
        case .ipc: RuleShape.chains
        }
    }

    /// The addresses that prefixes are cut from: as few as there are of them, so that prefixes repeat and nest.
    private func addressCounts(_ ruleCount: Int) -> (source: Int, destination: Int) {
        switch self {
        case .acl: (ruleCount * 8, 32)
        case .fw: (max(8, ruleCount / 8), ruleCount * 8)
        case .ipc: (ruleCount * 8, ruleCount * 8)
        }
    }

    /// Protocols with their weights: TCP, UDP, ICMP, GRE, any.
    private func protocols(_ ports: RuleShape.Ports) -> [Int] {
        switch (self, ports) {
        case (.acl, .any): [60, 0, 11, 0, 29]
        case (.acl, _): [98, 2, 0, 0, 0]
        case (.fw, .any): [46, 0, 21, 27, 6]
        case (.fw, .destination): [77, 23, 0, 0, 0]
        case (.fw, .ranges): [66, 34, 0, 0, 0]
        case (.fw, _): [0, 100, 0, 0, 0]
        case (.ipc, .any): [7, 0, 3, 0, 90]
        case (.ipc, .destinationRange): [19, 81, 0, 0, 0]
        case (.ipc, .sourceRange): [74, 26, 0, 0, 0]
        case (.ipc, .source): [49, 51, 0, 0, 0]
        case (.ipc, _): [37, 63, 0, 0, 0]
        }
    }

    private static let numbers: [UInt8?] = [6, 17, 1, 47, nil]

    /// Ports with their weights; the last weight is that of others, of which there are few, too.
    private var services: (ports: [UInt16], weights: [Int]) {
        switch self {
        case .acl: ([1521, 1526, 1221, 1433, 135, 1525, 443, 80, 22, 25], [19, 5, 4, 3, 3, 3, 3, 2, 2, 2, 54])
        case .fw: ([22, 80, 53, 25, 123, 750, 21, 544, 443, 161], [17, 11, 10, 10, 7, 3, 3, 3, 2, 2, 32])
        case .ipc: ([69, 514, 80, 9003, 53, 25, 1433, 137, 143, 161], [18, 18, 11, 8, 8, 5, 3, 3, 2, 6, 18])
        }
    }
    private static let otherServiceCount = 50

    /// A port, or a prefix of ports, as the shape wants.
    private func port(_ port: RuleShape.Port, _ generator: inout SeededGenerator) -> (value: UInt16, length: Int) {
        switch port {
        case .any: return (0, 0)
        case .one:
            let services = services
            let index = generator.weighted(services.weights)
            return (
                index < services.ports.count
                    ? services.ports[index] : 1700 + 37 * UInt16(generator.below(Self.otherServiceCount)), 16
            )
        case .range where self == .acl:
            // Tens of ports.
            let length = 11 + generator.below(3)
            return (UInt16(1024 + generator.below(4096)) & FiveTuple.mask16(length), length)
        case .range:
            // 1024 to 65535 is six prefixes.
            let length = 1 + generator.below(6)
            return (1 << UInt16(16 - length), length)
        }
    }

    /// `count` different rules, the specific ones mostly first, as people write them.
    package func rules(_ count: Int, seed: UInt64) -> [FiveTuple] {
        var generator = SeededGenerator(seed: seed)
        let (shapes, addressCounts) = (shapes, addressCounts(count))
        let weights = shapes.map(\.weight)
        var seen: Set<FiveTuple> = []
        var rules: [(rule: FiveTuple, rank: Int)] = []
        /// The prefix of one of so many addresses, which are as good as random.
        func prefix(_ scope: RuleShape.Scope, of addressCount: Int, _ salt: UInt64) -> (UInt32, Int) {
            let lengths = scope.lengths
            let length = lengths[generator.weighted(lengths.map(\.weight))].length
            var address = SeededGenerator(seed: seed ^ salt &+ UInt64(generator.below(addressCount)))
            return (UInt32(truncatingIfNeeded: address.next()) & FiveTuple.mask32(length), length)
        }
        while rules.count < count {
            let shape = shapes[generator.weighted(weights)]
            let ports = shape.ports[generator.weighted(shape.ports.map(\.weight))].0
            var rule = FiveTuple()
            (rule.source, rule.sourceLength) = prefix(shape.source, of: addressCounts.source, 1 << 40)
            (rule.destination, rule.destinationLength) = prefix(
                shape.destination, of: addressCounts.destination, 1 << 41)
            (rule.sourcePort, rule.sourcePortLength) = port(ports.source, &generator)
            (rule.destinationPort, rule.destinationPortLength) = port(ports.destination, &generator)
            rule.number = Self.numbers[generator.weighted(protocols(ports))]
            if seen.insert(rule).inserted {
                rules.append((rule, rule.sourceLength + rule.destinationLength + generator.below(8)))
            }
        }
        return rules.sorted { $0.rank > $1.rank }.map(\.rule)
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
