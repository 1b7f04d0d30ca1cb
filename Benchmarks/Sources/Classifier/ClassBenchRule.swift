// SPDX-License-Identifier: Apache-2.0
import VerbsPerf

/// A line of a ClassBench filter file: two prefixes, two ranges of ports, a protocol or any.
struct ClassBenchRule {
    /// The prefixes and the protocol; its ports are not used.
    private let base: FiveTuple
    private let sourcePorts: ClosedRange<Int>
    private let destinationPorts: ClosedRange<Int>

    /// Reads a line such as `@10.0.0.0/8  0.0.0.0/0  0 : 65535  80 : 80  0x06/0xFF  0x0000/0x0000`; what follows the protocol is left
    /// out, as rte_acl does.
    init?(_ line: Substring) {
        let parts = line.dropFirst().split { " \t:".contains($0) }
        guard line.first == "@", parts.count >= 7, let source = Self.prefix(parts[0]),
            let destination = Self.prefix(parts[1]), let from = Self.range(parts[2], parts[3]),
            let to = Self.range(parts[4], parts[5]), let number = Self.number(parts[6])
        else { return nil }
        var base = FiveTuple()
        (base.source, base.sourceLength) = source
        (base.destination, base.destinationLength) = destination
        base.number = number.mask == 0 ? nil : number.value
        self.base = base
        (sourcePorts, destinationPorts) = (from, to)
    }

    private static func prefix(_ text: Substring) -> (UInt32, Int)? {
        let parts = text.split { "./".contains($0) }.compactMap { UInt32($0) }
        guard parts.count == 5, parts[4] <= 32 else { return nil }
        let address = parts[0..<4].reduce(0) { $0 << 8 | $1 }
        return (address & FiveTuple.mask32(Int(parts[4])), Int(parts[4]))
    }

    private static func range(_ low: Substring, _ high: Substring) -> ClosedRange<Int>? {
        guard let low = UInt16(low), let high = UInt16(high), low <= high else { return nil }
        return Int(low)...Int(high)
    }

    private static func number(_ text: Substring) -> (value: UInt8, mask: UInt8)? {
        let parts = text.split(separator: "/").compactMap { UInt8($0.dropFirst(2), radix: 16) }
        return parts.count == 2 ? (parts[0], parts[1]) : nil
    }

    /// A packet that fits, with all other bits at random.
    func packet(_ generator: inout SeededGenerator) -> PacketFields {
        let addresses = generator.next()
        return PacketFields(
            source: base.source | UInt32(truncatingIfNeeded: addresses) & ~FiveTuple.mask32(base.sourceLength),
            destination: base.destination
                | UInt32(truncatingIfNeeded: addresses >> 32) & ~FiveTuple.mask32(base.destinationLength),
            sourcePort: UInt16(sourcePorts.lowerBound + generator.below(sourcePorts.count)),
            destinationPort: UInt16(destinationPorts.lowerBound + generator.below(destinationPorts.count)),
            number: base.number ?? (generator.below(2) == 0 ? 6 : 17))
    }

    /// The rule as values and masks: a range of ports is the fewest prefixes that make it up, the largest first, and ports of any protocol are
    /// those of TCP and of UDP.
    var tuples: [FiveTuple] {
        let hasPorts = sourcePorts != 0...0xFFFF || destinationPorts != 0...0xFFFF
        let numbers = base.number == nil && hasPorts ? [6, 17] : [base.number]
        return numbers.flatMap { number in
            Self.prefixes(sourcePorts).flatMap { from in
                Self.prefixes(destinationPorts).map { to in
                    var tuple = base
                    tuple.number = number
                    (tuple.sourcePort, tuple.sourcePortLength) = from
                    (tuple.destinationPort, tuple.destinationPortLength) = to
                    return tuple
                }
            }
        }
    }

    private static func prefixes(_ range: ClosedRange<Int>) -> [(UInt16, Int)] {
        var found: [(UInt16, Int)] = []
        var low = range.lowerBound
        while low <= range.upperBound {
            var length = 16 - (low == 0 ? 16 : low.trailingZeroBitCount)
            while low + (1 << (16 - length)) - 1 > range.upperBound { length += 1 }
            found.append((UInt16(low), length))
            low += 1 << (16 - length)
        }
        return found.sorted { $0.1 < $1.1 }
    }
}
