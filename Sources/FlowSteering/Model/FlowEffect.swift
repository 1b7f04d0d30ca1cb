// SPDX-License-Identifier: Apache-2.0

/// Names a rule in a set of rules, until it is removed.
package struct FlowID: RawRepresentable, Hashable, Sendable {
    package let rawValue: UInt32

    package init(rawValue: UInt32) {
        self.rawValue = rawValue
    }
}

/// One thing that happens to a packet.
package enum FlowEffect: Hashable, Sendable {
    /// The rule's owner gets the packet, or a copy, with this tag.
    case deliver(FlowID, tag: UInt32?)
    /// The rule counts the packet.
    case count(FlowID)
    /// The packet ends.
    case drop(FlowID)
}

/// All that a set of rules does with a packet.
package struct FlowVerdict: Hashable, Sendable {
    /// What becomes of the packet itself, apart from copies.
    package enum Outcome: Hashable, Sendable {
        /// A normal rule took it.
        case trapped
        /// No normal rule took it, and default rules have it.
        case left
        /// A rule ended it.
        case dropped
        /// It belongs to nobody here: in the single-user mode it goes on to the kernel's stack, in the exclusive mode it ends.
        case unmatched
    }

    /// Sniffers first, then normal rules in the order of their priority, then default rules.
    package private(set) var effects: [FlowEffect] = []
    /// What becomes of the packet.
    package private(set) var outcome = Outcome.unmatched

    /// Nothing happened so far.
    package init() {}

    /// Carries out the actions of a rule that the packet matched. Rules come in the order of ``FlowOrder``.
    package mutating func apply(_ rule: FlowRule, _ id: FlowID) {
        if rule.counts { effects.append(.count(id)) }
        if rule.drops {
            effects.append(.drop(id))
            outcome = .dropped
            return
        }
        effects.append(.deliver(id, tag: rule.tag))
        switch rule.kind {
        case .normal: if !rule.doesNotTrap { outcome = .trapped }
        case .allDefault, .multicastDefault: if outcome == .unmatched { outcome = .left }
        case .sniffer: break
        }
    }

    /// Whether rules of this kind still see the packet.
    package func isOpen(to kind: FlowRule.Kind) -> Bool {
        switch kind {
        case .sniffer: true
        case .normal: outcome == .unmatched
        case .allDefault, .multicastDefault: outcome == .unmatched || outcome == .left
        }
    }
}

/// Which of two rules acts first.
///
/// Sniffers come before normal rules and those before defaults. Among normal rules the lower priority number comes first; with
/// equal numbers, where `ibv_create_flow` promises nothing, a rule that does not trap, and then the one that was created first.
package struct FlowOrder: Comparable, Hashable, Sendable {
    /// Smaller acts first: kind (2), priority (16), traps (1), age (45).
    package let rawValue: UInt64

    /// The place of a rule that was created as the one with this number.
    package init(_ rule: FlowRule, age: UInt64) {
        let kind: UInt64 =
            switch rule.kind {
            case .sniffer: 0
            case .normal: 1
            case .allDefault, .multicastDefault: 2
            }
        let priority = rule.kind == .normal ? UInt64(rule.priority) : 0
        let traps: UInt64 = rule.kind == .normal && !rule.doesNotTrap ? 1 : 0
        rawValue = kind << 62 | priority << 46 | traps << 45 | age & 0x1FFF_FFFF_FFFF
    }

    package static func < (left: FlowOrder, right: FlowOrder) -> Bool { left.rawValue < right.rawValue }
}
