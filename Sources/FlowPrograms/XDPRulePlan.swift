// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// A rule for an ``XDPRuleTable``, with its place among the others and where its packets go.
package struct XDPRule: Sendable {
    /// Its name, which frames can be marked with.
    package var id: FlowID
    /// What it says. A rule that drops needs no socket.
    package var rule: FlowRule
    /// Which rules act before it.
    package var order: FlowOrder
    /// The entry of the table's socket map that its packets go to; `nil` for the one with the number of the receive queue.
    package var socket: Int?

    package init(_ rule: FlowRule, id: FlowID, order: FlowOrder, socket: Int? = nil) {
        self.id = id
        self.rule = rule
        self.order = order
        self.socket = socket
    }
}

/// How a set of rules is looked up in XDP: a tuple-space search. Pure: nothing is loaded here.
///
/// The rules that look at the same bits (have the same mask) are a tuple. All tuples share one hash map: its key is the number of
/// the tuple and the words of the packet under the tuple's mask, so a tuple costs one lookup, however many rules it has. The
/// tuples are tried in the order of their best rules (a mask that is exchanged takes the place of another), and the search ends when no
/// rule left can be better than what was found.
///
/// ```
/// key    word 0 of FlowKey, whose highest 4 bits (no layer has them) are the tuple's number; the other words that some rule looks at
///        or, where masks are exchanged (XDPMaskTable): the mask's tag, word 0, the other words
/// value  order, identifier 32 | record 32 (low half first), action 32 | socket 32
/// ```
struct XDPRulePlan {
    /// The masks that a program tries: each costs every packet that matches nothing a lookup, 30 to 60 ns.
    static let maskCountMax = 16
    /// Where the number of the tuple stands in word 0.
    static let tupleShift: UInt64 = 60
    static let valueWordCount = 3

    /// The masks, in the order in which they are tried.
    private(set) var masks: [FlowKey]
    /// The words of the packet's key that are in the map's, ascending.
    let words: [Int]
    /// The headers that some mask looks at.
    private let layers: FlowLayers
    /// What acts where no normal rule matches: each with what it applies to, at most one of each.
    let defaults: [XDPRule]
    private var tuples: [FlowKey: Int]

    /// The plan of no rules.
    init() {
        masks = []
        words = [0]
        layers = []
        defaults = []
        tuples = [:]
    }

    /// The plan of a set of rules, each of which ``check(_:)`` lets through.
    ///
    /// - Parameter previous: what its program reads of packets, this one's does, too.
    /// - Throws: `masks` for too many of them, with the first rule that is too much, `unsupported` where packets would have to be copied.
    init(_ rules: [XDPRule], growing previous: XDPRulePlan = XDPRulePlan()) throws(XDPRuleError) {
        var best: [FlowKey: FlowOrder] = [:]
        for rule in rules where rule.rule.kind == .normal {
            let mask = FlowKeyPattern(rule.rule).mask
            best[mask] = min(best[mask] ?? rule.order, rule.order)
            guard best.count <= Self.maskCountMax else {
                throw .masks(rule.id, rule: rule.rule.description, maximum: Self.maskCountMax)
            }
        }
        let masks = best.sorted { $0.value < $1.value }.map(\.key)
        self.masks = masks
        tuples = Dictionary(uniqueKeysWithValues: masks.enumerated().map { ($1, $0) })
        words = (0..<FlowKey.outerWordCount).filter { index in
            previous.words.contains(index) || masks.contains { $0.words[index] != 0 }
        }
        layers = masks.reduce(previous.layers) { $0.union($1.layers(inner: false)) }
        defaults = try Self.effectiveDefaults(
            rules.filter { $0.rule.kind != .normal }.sorted { $0.order < $1.order })
    }

    /// Refuses what no program here does, whatever the other rules are.
    static func check(_ rule: XDPRule) throws(XDPRuleError) {
        if let reason = reasonAgainst(rule.rule) {
            throw .unsupported(rule.id, rule: rule.rule.description, reason: reason)
        }
    }

    private static func reasonAgainst(_ rule: FlowRule) -> String? {
        if rule.kind == .sniffer { return "a sniffer has copies, and XDP gives a frame to one receiver" }
        if rule.doesNotTrap { return "a rule that does not trap has a copy, and XDP gives a frame to one receiver" }
        for specification in rule.specifications {
            if specification.isInner { return "headers inside of a tunnel are not parsed" }
            switch specification.header {
            case .vxlan: return "the VXLAN header is not parsed"
            case .gre: return "the GRE header is not parsed"
            case .mpls: return "MPLS labels are not parsed"
            case .ethernet, .ipv4, .ipv6, .tcp, .udp, .esp: break
            }
        }
        return nil
    }

    /// The default rules that ever see a packet. Each that delivers would have a copy, so it must be the last of them.
    private static func effectiveDefaults(_ sorted: [XDPRule]) throws(XDPRuleError) -> [XDPRule] {
        var effective: [XDPRule] = []
        for rule in sorted {
            if let last = effective.last {
                guard last.rule.drops else {
                    throw .unsupported(
                        rule.id, rule: rule.rule.description,
                        reason: "rule \(last.id.rawValue) has the packets, too, and XDP gives a frame to one receiver")
                }
                // Everything that gets here is dropped already.
                if last.rule.kind == .allDefault { break }
                if last.rule.kind == rule.rule.kind { continue }
            }
            effective.append(rule)
        }
        return effective
    }

    /// The number of the tuple of a mask; `nil` where the program does not try the mask.
    func tuple(of mask: FlowKey) -> Int? { tuples[mask] }

    /// The key in the map of rules with this pattern.
    ///
    /// - Parameter tag: that of the mask, where masks are exchanged.
    func key(_ pattern: FlowKeyPattern, tuple: Int, tag: UInt64?) -> [UInt64] {
        var key = words.map { pattern.value.words[$0] }
        if let tag {
            key.insert(tag, at: 0)
        } else {
            key[0] |= UInt64(tuple) << Self.tupleShift
        }
        return key
    }

    /// Whether some rule looks at a header.
    func wants(_ layer: FlowLayers) -> Bool { layers.isSuperset(of: layer) }

    /// Whether a program of this plan has what a mask looks at in the packet's key.
    func covers(_ mask: FlowKey) -> Bool {
        wants(mask.layers(inner: false))
            && (0..<FlowKey.wordCount).allSatisfy { mask.words[$0] == 0 || words.contains($0) }
    }

    /// Has another mask tried in the place of one, or behind all.
    mutating func setMask(_ mask: FlowKey, tuple: Int) {
        if tuple < masks.count {
            tuples[masks[tuple]] = nil
            masks[tuple] = mask
        } else {
            masks.append(mask)
        }
        tuples[mask] = tuple
    }
}

/// What happens to the packets of a rule, as the program reads it in the map's value.
struct XDPRuleAction {
    static let drop: UInt32 = 0
    static let toOwnQueue: UInt32 = 1
    static let toSocket: UInt32 = 2

    /// Identifier and record.
    let name: UInt64
    /// Action and socket.
    let action: UInt64

    init(_ rule: XDPRule, record: UInt32) {
        name = UInt64(rule.id.rawValue) | UInt64(record) << 32
        let kind = rule.rule.drops ? Self.drop : rule.socket == nil ? Self.toOwnQueue : Self.toSocket
        action = UInt64(kind) | UInt64(UInt32(rule.socket ?? 0)) << 32
    }
}
