// SPDX-License-Identifier: Apache-2.0

/// Why a rule cannot be: which part of it, what is wrong with it, and what to do.
public struct FlowRuleError: Error, Hashable, Sendable {
    /// What is wrong.
    public enum Reason: Hashable, Sendable {
        /// The text is no rule.
        case syntax
        /// The bytes are no `ibv_flow_attr`.
        case layout
        /// Bits of the value where the mask has none.
        case valueOutsideMask
        /// Bits that the field does not have.
        case fieldTooNarrow
        /// Headers not in the order in which they stand in packets.
        case order
        /// Two parts that no packet fits both of, or that contradict each other.
        case conflict
        /// A part without another that it needs.
        case missing
        /// The place cannot do this.
        case unsupported
    }

    /// The part, in the words of the textual form: `udp dst-port`, `priority`.
    public let field: String
    /// What is wrong.
    public let reason: Reason
    /// The same for people, with the value.
    public let explanation: String
    /// What to do.
    public let remedy: String

    init(_ field: String, _ reason: Reason, _ explanation: String, remedy: String) {
        self.field = field
        self.reason = reason
        self.explanation = explanation
        self.remedy = remedy
    }
}

extension FlowRuleError: CustomStringConvertible {
    /// `udp dst-port: 70000 does not fit in 16 bits; give a number up to 65535`
    public var description: String { "\(field): \(explanation); \(remedy)" }
}
