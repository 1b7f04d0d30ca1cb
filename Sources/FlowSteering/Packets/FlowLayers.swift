// SPDX-License-Identifier: Apache-2.0

/// Which headers a packet has: the bits that a rule with a specification of a header wants.
package struct FlowLayers: OptionSet, Hashable, Sendable {
    package let rawValue: UInt16

    package init(rawValue: UInt16) {
        self.rawValue = rawValue
    }

    /// A VLAN tag.
    package static let tag = FlowLayers(rawValue: 1 << 0)
    /// An IPv4 header.
    package static let ipv4 = FlowLayers(rawValue: 1 << 1)
    /// An IPv6 header.
    package static let ipv6 = FlowLayers(rawValue: 1 << 2)
    /// IP says TCP, in fragments behind the first, too.
    package static let tcp = FlowLayers(rawValue: 1 << 3)
    /// IP says UDP, in fragments behind the first, too.
    package static let udp = FlowLayers(rawValue: 1 << 4)
    /// IP says ESP.
    package static let esp = FlowLayers(rawValue: 1 << 5)
    /// IP says GRE.
    package static let gre = FlowLayers(rawValue: 1 << 6)
    /// A VXLAN header.
    package static let vxlan = FlowLayers(rawValue: 1 << 7)
    /// An MPLS label.
    package static let mpls = FlowLayers(rawValue: 1 << 8)
    /// The fields of TCP, UDP, ESP or GRE are there: not so in later fragments, and where the packet ends too early.
    package static let transportFields = FlowLayers(rawValue: 1 << 9)
    /// An Ethernet header: each packet has the outer one, a tunnel may have none.
    package static let ethernet = FlowLayers(rawValue: 1 << 10)
}
