// SPDX-License-Identifier: Apache-2.0

/// All that rules can ask of a packet, in 20 words of 64 bits.
///
/// A rule is a value and a mask of the same shape. The words are laid out so that the common rules look at few of them: an IPv4 rule with
/// ports at the first two, an IPv6 one at the first five. IPv4 and IPv6 share words, as the layers tell them apart; what a packet
/// does not have is zero.
///
/// ```
/// word  outer  inner
///   layers 16, protocol 8, traffic class 8, source port 16, destination port 16          0     11
///   IPv4 source 32, destination 32; or the upper half of the IPv6 source                 1     12
///   upper half of the IPv6 destination, lower of the source, lower of the destination   2...4  13...15
///   Ethernet destination 48, EtherType 16                                                5     16
///   Ethernet source 48, VLAN tag 16                                                      6     17
///   hop limit 8, IPv4 flags 8, 0 16, flow label 32                                       7     18
///   ESP index 32, sequence number 32                                                     8     19
///   GRE flags 16, protocol 16, key 32                                                    9
///   VXLAN network identifier 32, MPLS entry 32                                          10
/// ```
package struct FlowKey: Hashable, Sendable {
    /// The number of words.
    package static let wordCount = 20
    /// How many of them are about the headers in front of a tunnel and the tunnel's own.
    package static let outerWordCount = 11

    /// The words.
    package var words = InlineArray<20, UInt64>(repeating: 0)

    /// A key of zeros: no header at all.
    package init() {}

    package static func == (left: FlowKey, right: FlowKey) -> Bool {
        var difference: UInt64 = 0
        for index in 0..<wordCount { difference |= left.words[index] ^ right.words[index] }
        return difference == 0
    }

    package func hash(into hasher: inout Hasher) {
        for index in 0..<Self.wordCount { hasher.combine(words[index]) }
    }
}

/// Some bits of one word of a ``FlowKey``. The inner field has the same place ``FlowKey/outerWordCount`` words further.
package struct FlowKeyField: Sendable {
    package let word: Int
    package let shift: UInt64
    package let bitCount: UInt64

    private init(_ word: Int, _ shift: UInt64, _ bitCount: UInt64) {
        self.word = word
        self.shift = shift
        self.bitCount = bitCount
    }

    package static let layers = FlowKeyField(0, 48, 16)
    package static let nextProtocol = FlowKeyField(0, 40, 8)
    package static let trafficClass = FlowKeyField(0, 32, 8)
    package static let sourcePort = FlowKeyField(0, 16, 16)
    package static let destinationPort = FlowKeyField(0, 0, 16)
    package static let ipv4Source = FlowKeyField(1, 32, 32)
    package static let ipv4Destination = FlowKeyField(1, 0, 32)
    package static let ipv6SourceHigh = FlowKeyField(1, 0, 64)
    package static let ipv6DestinationHigh = FlowKeyField(2, 0, 64)
    package static let ipv6SourceLow = FlowKeyField(3, 0, 64)
    package static let ipv6DestinationLow = FlowKeyField(4, 0, 64)
    package static let ethernetDestination = FlowKeyField(5, 16, 48)
    package static let etherType = FlowKeyField(5, 0, 16)
    package static let ethernetSource = FlowKeyField(6, 16, 48)
    package static let tag = FlowKeyField(6, 0, 16)
    package static let hopLimit = FlowKeyField(7, 56, 8)
    package static let ipv4Flags = FlowKeyField(7, 48, 8)
    package static let flowLabel = FlowKeyField(7, 0, 32)
    package static let espIndex = FlowKeyField(8, 32, 32)
    package static let espSequence = FlowKeyField(8, 0, 32)
    package static let greFlags = FlowKeyField(9, 48, 16)
    package static let greProtocol = FlowKeyField(9, 32, 16)
    package static let greKey = FlowKeyField(9, 0, 32)
    package static let vxlanIdentifier = FlowKeyField(10, 32, 32)
    package static let mplsEntry = FlowKeyField(10, 0, 32)

    /// Those whose masks are prefixes in most rules.
    static let addresses = [ipv4Source, ipv4Destination]

    var ones: UInt64 { UInt64.max >> (64 - bitCount) }
}

extension FlowKey {
    @inline(__always)
    subscript(field: FlowKeyField, inner isInner: Bool) -> UInt64 {
        get { words[field.word + (isInner ? Self.outerWordCount : 0)] >> field.shift & field.ones }
        set {
            let index = field.word + (isInner ? Self.outerWordCount : 0)
            words[index] = words[index] & ~(field.ones << field.shift) | (newValue & field.ones) << field.shift
        }
    }

    /// The headers that the packet has, in front of a tunnel or inside of it.
    package func layers(inner: Bool) -> FlowLayers {
        FlowLayers(rawValue: UInt16(truncatingIfNeeded: self[.layers, inner: inner]))
    }

    mutating func insert(_ layers: FlowLayers, inner: Bool) {
        self[.layers, inner: inner] |= UInt64(layers.rawValue)
    }

    /// Whether the frame goes to a group, of which broadcast is one.
    var isMulticast: Bool { words[5] >> 56 & 1 != 0 }
}

extension FlowKey: CustomStringConvertible {
    /// The words that are not zero.
    package var description: String {
        (0..<Self.wordCount).filter { words[$0] != 0 }.map { "\($0): 0x\(String(words[$0], radix: 16))" }
            .joined(separator: ", ")
    }
}
