// SPDX-License-Identifier: Apache-2.0

/// Prefix lengths and ports that belong together in rules of a kind, and how many of a thousand rules are such.
///
/// The figures were counted in rule sets of 100,000 that ClassBench makes of its parameter files fw1, acl1 and ipc1, and rounded.
struct RuleShape {
    /// Ranges of prefix lengths.
    enum Scope {
        case open, wide, medium, small, host

        /// Lengths with their weights.
        var lengths: [(length: Int, weight: Int)] {
            switch self {
            case .open: [(0, 64), (1, 33), (2, 3)]
            case .wide: [(15, 25), (16, 45), (17, 30)]
            case .medium: [(22, 18), (23, 38), (24, 28), (25, 16)]
            case .small: [(28, 25), (29, 15), (30, 60)]
            case .host: [(31, 36), (32, 64)]
            }
        }
    }

    /// What a rule says of ports: nothing, one port, or a range, of the source and of the destination.
    enum Ports {
        case any, destination, source, both, destinationRange, sourceRange, ranges, rangeToPort, portToRange

        var source: Port {
            switch self {
            case .any, .destination, .destinationRange: .any
            case .source, .both, .portToRange: .one
            case .sourceRange, .ranges, .rangeToPort: .range
            }
        }
        var destination: Port {
            switch self {
            case .any, .source, .sourceRange: .any
            case .destination, .both, .rangeToPort: .one
            case .destinationRange, .ranges, .portToRange: .range
            }
        }
    }

    enum Port { case any, one, range }

    let source: Scope
    let destination: Scope
    let weight: Int
    let ports: [(Ports, weight: Int)]

    private init(_ source: Scope, _ destination: Scope, _ weight: Int, _ ports: [(Ports, weight: Int)]) {
        (self.source, self.destination) = (source, destination)
        (self.weight, self.ports) = (weight, ports)
    }

    /// Open on one side; most name a service of many hosts.
    static let firewall = [
        RuleShape(.open, .host, 568, [(.destination, 92), (.ranges, 6), (.rangeToPort, 2)]),
        RuleShape(.host, .open, 133, [(.source, 53), (.any, 23), (.portToRange, 9), (.destination, 8), (.both, 7)]),
        RuleShape(.open, .small, 70, [(.destination, 96), (.ranges, 4)]),
        RuleShape(.small, .open, 50, [(.any, 80), (.source, 17), (.portToRange, 3)]),
        RuleShape(
            .host, .host, 45, [(.ranges, 27), (.any, 22), (.rangeToPort, 18), (.portToRange, 18), (.destination, 15)]),
        RuleShape(.medium, .open, 44, [(.any, 1)]), RuleShape(.small, .host, 19, [(.any, 1)]),
        RuleShape(.host, .small, 18, [(.any, 1)]), RuleShape(.host, .medium, 17, [(.ranges, 1)]),
        RuleShape(.wide, .open, 16, [(.any, 1)]),
        RuleShape(.open, .open, 10, [(.destination, 75), (.any, 13), (.source, 12)]),
        RuleShape(.small, .small, 6, [(.both, 88), (.any, 12)]), RuleShape(.medium, .medium, 4, [(.destination, 1)]),
    ]

    /// Hosts to hosts; most name a service.
    static let accessList = [
        RuleShape(.host, .host, 610, [(.destination, 69), (.destinationRange, 16), (.any, 15)]),
        RuleShape(.host, .medium, 134, [(.any, 55), (.destination, 45)]),
        RuleShape(.medium, .host, 77, [(.destination, 50), (.any, 45), (.destinationRange, 5)]),
        RuleShape(.medium, .wide, 46, [(.any, 1)]),
        RuleShape(.host, .small, 41, [(.destination, 84), (.destinationRange, 11), (.any, 5)]),
        RuleShape(.small, .medium, 33, [(.destination, 64), (.any, 36)]),
        RuleShape(.small, .host, 26, [(.destination, 48), (.any, 32), (.destinationRange, 20)]),
        RuleShape(.medium, .small, 14, [(.destination, 85), (.any, 15)]), RuleShape(.medium, .open, 8, [(.any, 1)]),
        RuleShape(.medium, .medium, 8, [(.any, 1)]), RuleShape(.wide, .open, 2, [(.any, 1)]),
        RuleShape(.open, .wide, 1, [(.any, 1)]),
    ]

    /// All lengths on both sides.
    static let chains = [
        RuleShape(.medium, .medium, 195, [(.any, 80), (.destination, 15), (.source, 5)]),
        RuleShape(.host, .host, 147, [(.destination, 66), (.destinationRange, 26), (.source, 6), (.both, 2)]),
        RuleShape(.medium, .host, 128, [(.destination, 64), (.destinationRange, 19), (.source, 14), (.any, 3)]),
        RuleShape(.host, .medium, 67, [(.source, 78), (.sourceRange, 17), (.destination, 5)]),
        RuleShape(.open, .host, 60, [(.destination, 56), (.source, 31), (.destinationRange, 11), (.any, 2)]),
        RuleShape(.medium, .wide, 58, [(.any, 97), (.destination, 3)]),
        RuleShape(.medium, .open, 56, [(.any, 53), (.destination, 47)]),
        RuleShape(.open, .medium, 52, [(.any, 50), (.destination, 42), (.source, 8)]),
        RuleShape(.wide, .medium, 38, [(.any, 1)]),
        RuleShape(.medium, .small, 37, [(.any, 52), (.destination, 40), (.source, 6), (.destinationRange, 2)]),
        RuleShape(.small, .medium, 21, [(.any, 58), (.source, 42)]),
        RuleShape(.host, .open, 19, [(.source, 43), (.destination, 26), (.sourceRange, 14), (.any, 17)]),
        RuleShape(.small, .host, 16, [(.destination, 67), (.destinationRange, 28), (.any, 3), (.source, 2)]),
        RuleShape(.wide, .host, 15, [(.destinationRange, 42), (.destination, 38), (.source, 20)]),
        RuleShape(.wide, .wide, 13, [(.any, 59), (.destination, 41)]),
        RuleShape(.host, .small, 12, [(.source, 74), (.destination, 12), (.sourceRange, 7), (.destinationRange, 7)]),
        RuleShape(.small, .wide, 11, [(.source, 50), (.any, 50)]),
        RuleShape(.open, .small, 11, [(.source, 57), (.destination, 24), (.any, 19)]),
        RuleShape(.host, .wide, 10, [(.sourceRange, 43), (.destination, 35), (.source, 22)]),
        RuleShape(.wide, .small, 9, [(.destination, 56), (.any, 44)]),
        RuleShape(.wide, .open, 7, [(.any, 79), (.destination, 21)]),
        RuleShape(.open, .wide, 6, [(.any, 78), (.destination, 22)]),
        RuleShape(.small, .small, 6, [(.destination, 52), (.source, 33), (.any, 15)]),
        RuleShape(.open, .open, 2, [(.destination, 80), (.any, 20)]),
    ]
}
