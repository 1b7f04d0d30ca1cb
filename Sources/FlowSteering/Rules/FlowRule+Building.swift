// SPDX-License-Identifier: Apache-2.0

// Each call gives the rule with one thing more. Headers may come in any order: they are put where they stand in a packet.
extension FlowRule {
    /// All packets.
    public static var any: FlowRule { FlowRule() }
    /// Packets that no normal rule took. The corresponding C constant is `IBV_FLOW_ATTR_ALL_DEFAULT`.
    public static var allDefault: FlowRule { FlowRule(.allDefault) }
    /// Frames to group addresses that no normal rule took. The corresponding C constant is `IBV_FLOW_ATTR_MC_DEFAULT`.
    public static var multicastDefault: FlowRule { FlowRule(.multicastDefault) }
    /// A copy of all traffic. The corresponding C constant is `IBV_FLOW_ATTR_SNIFFER`.
    public static var sniffer: FlowRule { FlowRule(.sniffer) }

    // MARK: What a rule starts with

    /// Frames with these fields.
    public static func ethernet(
        destination: MACPattern = .any, source: MACPattern = .any, etherType: FlowPattern<UInt16> = .any,
        vlanTag: FlowPattern<UInt16> = .any
    ) -> FlowRule {
        any.ethernet(destination: destination, source: source, etherType: etherType, vlanTag: vlanTag)
    }

    /// IPv4 packets with these addresses.
    public static func ipv4(source: IPv4Pattern = .any, destination: IPv4Pattern = .any) -> FlowRule {
        any.ipv4(source: source, destination: destination)
    }

    /// IPv6 packets with these addresses.
    public static func ipv6(source: IPv6Pattern = .any, destination: IPv6Pattern = .any) -> FlowRule {
        any.ipv6(source: source, destination: destination)
    }

    /// TCP segments with these ports; an `ipv4` or `ipv6` must follow.
    public static func tcp(sourcePort: FlowPattern<UInt16> = .any, destinationPort: FlowPattern<UInt16> = .any)
        -> FlowRule
    {
        any.tcp(sourcePort: sourcePort, destinationPort: destinationPort)
    }

    /// UDP datagrams with these ports; an `ipv4` or `ipv6` must follow.
    public static func udp(sourcePort: FlowPattern<UInt16> = .any, destinationPort: FlowPattern<UInt16> = .any)
        -> FlowRule
    {
        any.udp(sourcePort: sourcePort, destinationPort: destinationPort)
    }

    /// VXLAN packets.
    public static func vxlan(networkIdentifier: FlowPattern<UInt32> = .any) -> FlowRule {
        any.vxlan(networkIdentifier: networkIdentifier)
    }

    // MARK: Headers

    /// Only frames with these fields.
    public func ethernet(
        destination: MACPattern = .any, source: MACPattern = .any, etherType: FlowPattern<UInt16> = .any,
        vlanTag: FlowPattern<UInt16> = .any
    ) -> FlowRule {
        with(
            .ethernet(
                EthernetSpecification(
                    destination: destination, source: source, etherType: etherType, vlanTag: vlanTag)))
    }

    /// Only frames whose first tag has this VLAN, whatever its priority.
    public func vlan(_ identifier: UInt16) -> FlowRule {
        let tag = FlowPattern<UInt16>(identifier, mask: 0xFFF)
        var rule = self
        for index in rule.specifications.indices where !rule.specifications[index].isInner {
            if case .ethernet(var header) = rule.specifications[index].header {
                header.vlanTag = tag
                rule.specifications[index].header = .ethernet(header)
                return rule
            }
        }
        return ethernet(vlanTag: tag)
    }

    /// Only IPv4 packets with these addresses.
    public func ipv4(source: IPv4Pattern = .any, destination: IPv4Pattern = .any) -> FlowRule {
        with(.ipv4(IPv4Specification(source: source, destination: destination)))
    }

    /// Only IPv6 packets with these addresses.
    public func ipv6(source: IPv6Pattern = .any, destination: IPv6Pattern = .any) -> FlowRule {
        with(.ipv6(IPv6Specification(source: source, destination: destination)))
    }

    /// Only TCP segments with these ports.
    public func tcp(sourcePort: FlowPattern<UInt16> = .any, destinationPort: FlowPattern<UInt16> = .any) -> FlowRule {
        with(.tcp(PortSpecification(source: sourcePort, destination: destinationPort)))
    }

    /// Only UDP datagrams with these ports.
    public func udp(sourcePort: FlowPattern<UInt16> = .any, destinationPort: FlowPattern<UInt16> = .any) -> FlowRule {
        with(.udp(PortSpecification(source: sourcePort, destination: destinationPort)))
    }

    /// Only packets encrypted with this security association.
    public func esp(
        securityParametersIndex: FlowPattern<UInt32> = .any, sequence: FlowPattern<UInt32> = .any
    ) -> FlowRule {
        with(.esp(ESPSpecification(securityParametersIndex: securityParametersIndex, sequence: sequence)))
    }

    /// Only packets of this VXLAN.
    public func vxlan(networkIdentifier: FlowPattern<UInt32> = .any) -> FlowRule {
        with(.vxlan(VXLANSpecification(networkIdentifier: networkIdentifier)))
    }

    /// Only packets in a GRE tunnel.
    public func gre(key: FlowPattern<UInt32> = .any, nextProtocol: FlowPattern<UInt16> = .any) -> FlowRule {
        with(.gre(GRESpecification(nextProtocol: nextProtocol, key: key)))
    }

    /// Only packets with this MPLS label first.
    public func mpls(label: UInt32) -> FlowRule {
        with(.mpls(MPLSSpecification(label: label)))
    }

    /// Only packets that have in their tunnel the headers that `other` names; nothing else of `other` counts.
    public func inner(_ other: FlowRule) -> FlowRule {
        other.specifications.reduce(self) { $0.with($1.header, isInner: true) }
    }

    /// The rule with a header more, behind those that stand before it in a packet.
    public func with(_ header: FlowSpecification.Header, isInner: Bool = false) -> FlowRule {
        let addition = FlowSpecification(header, isInner: isInner)
        let place = specifications.firstIndex { $0.layer > addition.layer } ?? specifications.endIndex
        var rule = self
        rule.specifications.insert(addition, at: place)
        return rule
    }

    // MARK: The rest

    /// The rule at this priority; 0 is the highest.
    public func priority(_ priority: UInt16) -> FlowRule { changed { $0.priority = priority } }

    /// The rule with this mark in the completions of its packets.
    public func tag(_ tag: UInt32) -> FlowRule { changed { $0.tag = tag } }

    /// The rule that ends packets.
    public func dropping() -> FlowRule { changed { $0.drops = true } }

    /// The rule that counts packets and bytes.
    public func counting() -> FlowRule { changed { $0.counts = true } }

    /// The rule that leaves packets to the rules behind it, too.
    public func notTrapping() -> FlowRule { changed { $0.doesNotTrap = true } }

    private func changed(_ change: (inout FlowRule) -> Void) -> FlowRule {
        var rule = self
        change(&rule)
        return rule
    }
}

extension FlowSpecification {
    /// Where the header stands in a packet, from the outside.
    enum Layer: Int, Comparable {
        case ethernet, network, transport, tunnel, label, innerEthernet, innerNetwork, innerTransport

        static func < (left: Layer, right: Layer) -> Bool { left.rawValue < right.rawValue }
    }

    var layer: Layer {
        switch header {
        case .ethernet: isInner ? .innerEthernet : .ethernet
        case .ipv4, .ipv6: isInner ? .innerNetwork : .network
        case .tcp, .udp, .esp: isInner ? .innerTransport : .transport
        case .vxlan, .gre: .tunnel
        case .mpls: .label
        }
    }

    /// The words of the textual form.
    package var name: String { isInner ? "inner \(header.name)" : header.name }
}
