// SPDX-License-Identifier: Apache-2.0

/// Which packets are steered, before or after which other rules, and what happens to them. A pure value: it becomes effective
/// where a flow is created with it.
///
/// ```swift
/// FlowRule.ipv4(source: "10.0.0.0/24").udp(destinationPort: 7000).priority(1).tag(7)
/// ```
///
/// The meaning is that of `ibv_create_flow`, wherever the rule is carried out:
///
/// - Among normal rules the one with the lowest ``priority`` number that matches wins; 0 is the highest priority. Between rules
///   of *equal* priority that match the same packet the winner is not defined: give them different priorities. The places in
///   software then take the rule that was created first, except that rules that do not trap come before rules that do.
/// - The winner takes the packet, and matching ends, unless it ``doesNotTrap``: then it has a copy of the packet, and matching
///   goes on with the rules behind it.
/// - ``Kind/allDefault`` and ``Kind/multicastDefault`` lose to every normal rule, whatever their priority: they have packets that
///   no normal rule took. Each of them that fits has a copy.
/// - ``Kind/sniffer`` rules have a copy of every packet, also of those that are dropped.
///
/// The corresponding C type is `ibv_flow_attr` with the specifications behind it.
public struct FlowRule: Hashable, Sendable {
    /// The type of a rule. The corresponding C type is `ibv_flow_attr_type`.
    public enum Kind: UInt32, Hashable, Sendable, CaseIterable {
        /// `IBV_FLOW_ATTR_NORMAL`: packets that fit the specifications; all packets if there is none.
        case normal = 0
        /// `IBV_FLOW_ATTR_ALL_DEFAULT`: packets that no normal rule took.
        case allDefault = 1
        /// `IBV_FLOW_ATTR_MC_DEFAULT`: frames to a group address (broadcast is one) that no normal rule took.
        case multicastDefault = 2
        /// `IBV_FLOW_ATTR_SNIFFER`: a copy of all traffic of the port.
        case sniffer = 3
    }

    /// The type.
    public var kind: Kind
    /// 0 is the highest priority. Counts among normal rules only.
    public var priority: UInt16
    /// What the headers must be, from the outermost to the innermost.
    public var specifications: [FlowSpecification]
    /// `IBV_FLOW_ATTR_FLAGS_DONT_TRAP`: the packet goes on to the rules behind this one.
    public var doesNotTrap: Bool
    /// The mark that completions of steered packets carry. The corresponding C type is `ibv_flow_spec_action_tag`.
    public var tag: UInt32?
    /// Whether the packet ends here. The corresponding C type is `ibv_flow_spec_action_drop`.
    public var drops: Bool
    /// Whether packets and bytes are counted. The corresponding C type is `ibv_flow_spec_counter_action`.
    public var counts: Bool
    /// The port of the device, from 1.
    public var devicePort: UInt8

    /// A rule of a type, with these specifications in this order.
    public init(_ kind: Kind = .normal, specifications: [FlowSpecification] = []) {
        self.kind = kind
        self.specifications = specifications
        priority = 0
        doesNotTrap = false
        tag = nil
        drops = false
        counts = false
        devicePort = 1
    }
}
