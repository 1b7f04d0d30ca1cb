// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// Why an XDP program cannot carry out a set of flow rules. The set is then to be carried out in user space.
package enum XDPRuleError: Error, Equatable, Sendable {
    /// The program cannot do what this rule says: the rule, and what of it.
    case unsupported(FlowID, rule: String, reason: String)
    /// With this rule the set looks at packets in more ways than the program tries one after another.
    case masks(FlowID, rule: String, maximum: Int)
    /// The table has no room for more rules.
    case full(maximum: Int)
    /// There is a rule with this identifier already.
    case duplicate(FlowID)
    /// The kernel refuses a map, the program or its exchange.
    case system(PacketIOError)
}

extension XDPRuleError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .unsupported(let id, let rule, let reason):
            "rule \(id.rawValue) (\(rule)) cannot be carried out in XDP: \(reason); carry the rules out in user space"
        case .masks(let id, let rule, let maximum):
            "rule \(id.rawValue) (\(rule)) looks at bits that no other rule looks at in this way, and an XDP program tries \(maximum) ways at most; name the same fields with the same masks in more of the rules, or carry them out in user space"
        case .full(let maximum):
            "the XDP program has no room for more than \(maximum) rules; make the table larger, or carry the rules out in user space"
        case .duplicate(let id): "rule \(id.rawValue) is there already; remove it first, or give another identifier"
        case .system(let error): error.description
        }
    }
}
