// SPDX-License-Identifier: Apache-2.0

/// What one header of a packet must be: one `struct ibv_flow_spec_*` of a rule.
///
/// A specification without any named field still wants its header: `.udp(PortSpecification())` takes UDP packets of any port.
public struct FlowSpecification: Hashable, Sendable {
    /// The header, with the fields that are wanted of it.
    public enum Header: Hashable, Sendable {
        /// `ibv_flow_spec_eth`.
        case ethernet(EthernetSpecification)
        /// `ibv_flow_spec_ipv4`, or `ibv_flow_spec_ipv4_ext` where a field beyond the addresses is named.
        case ipv4(IPv4Specification)
        /// `ibv_flow_spec_ipv6`.
        case ipv6(IPv6Specification)
        /// `ibv_flow_spec_tcp_udp` of type `IBV_FLOW_SPEC_TCP`.
        case tcp(PortSpecification)
        /// `ibv_flow_spec_tcp_udp` of type `IBV_FLOW_SPEC_UDP`.
        case udp(PortSpecification)
        /// `ibv_flow_spec_esp`.
        case esp(ESPSpecification)
        /// `ibv_flow_spec_tunnel` of type `IBV_FLOW_SPEC_VXLAN_TUNNEL`.
        case vxlan(VXLANSpecification)
        /// `ibv_flow_spec_gre`.
        case gre(GRESpecification)
        /// `ibv_flow_spec_mpls`.
        case mpls(MPLSSpecification)
    }

    /// The header.
    public var header: Header
    /// Whether the header inside a tunnel is meant (`IBV_FLOW_SPEC_INNER`), not the one in front of it.
    public var isInner: Bool

    /// A specification of a header.
    public init(_ header: Header, isInner: Bool = false) {
        self.header = header
        self.isInner = isInner
    }
}

/// The Ethernet header. The corresponding C type is `ibv_flow_spec_eth`.
public struct EthernetSpecification: Hashable, Sendable {
    /// Where the frame goes.
    public var destination: MACPattern
    /// Where it comes from.
    public var source: MACPattern
    /// What follows the last VLAN tag.
    public var etherType: FlowPattern<UInt16>
    /// The 16 bits of the first 802.1Q tag: priority (3), drop eligible (1), VLAN (12). A frame without a tag does not fit a mask
    /// with ones.
    public var vlanTag: FlowPattern<UInt16>

    /// A specification of these fields.
    public init(
        destination: MACPattern = .any, source: MACPattern = .any, etherType: FlowPattern<UInt16> = .any,
        vlanTag: FlowPattern<UInt16> = .any
    ) {
        self.destination = destination
        self.source = source
        self.etherType = etherType
        self.vlanTag = vlanTag
    }
}

/// The IPv4 header. The corresponding C types are `ibv_flow_spec_ipv4` and `ibv_flow_spec_ipv4_ext`.
public struct IPv4Specification: Hashable, Sendable {
    /// Where the packet comes from.
    public var source: IPv4Pattern
    /// Where it goes.
    public var destination: IPv4Pattern
    /// The protocol number.
    public var nextProtocol: FlowPattern<UInt8>
    /// DSCP and ECN.
    public var typeOfService: FlowPattern<UInt8>
    /// Hops left.
    public var timeToLive: FlowPattern<UInt8>
    /// 0x2 don't fragment, 0x4 more fragments: the kernel's `enum ib_ipv4_flags`, which is not the order of the bits in the header.
    public var flags: FlowPattern<UInt8>

    /// A specification of these fields.
    public init(
        source: IPv4Pattern = .any, destination: IPv4Pattern = .any, nextProtocol: FlowPattern<UInt8> = .any,
        typeOfService: FlowPattern<UInt8> = .any, timeToLive: FlowPattern<UInt8> = .any,
        flags: FlowPattern<UInt8> = .any
    ) {
        self.source = source
        self.destination = destination
        self.nextProtocol = nextProtocol
        self.typeOfService = typeOfService
        self.timeToLive = timeToLive
        self.flags = flags.narrowed(to: 3)
    }
}

/// The IPv6 header. The corresponding C type is `ibv_flow_spec_ipv6`.
public struct IPv6Specification: Hashable, Sendable {
    /// Where the packet comes from.
    public var source: IPv6Pattern
    /// Where it goes.
    public var destination: IPv6Pattern
    /// 20 bits.
    public var flowLabel: FlowPattern<UInt32>
    /// The protocol behind the extension headers.
    public var nextHeader: FlowPattern<UInt8>
    /// DSCP and ECN.
    public var trafficClass: FlowPattern<UInt8>
    /// Hops left.
    public var hopLimit: FlowPattern<UInt8>

    /// A specification of these fields.
    public init(
        source: IPv6Pattern = .any, destination: IPv6Pattern = .any, flowLabel: FlowPattern<UInt32> = .any,
        nextHeader: FlowPattern<UInt8> = .any, trafficClass: FlowPattern<UInt8> = .any,
        hopLimit: FlowPattern<UInt8> = .any
    ) {
        self.source = source
        self.destination = destination
        self.flowLabel = flowLabel.narrowed(to: 20)
        self.nextHeader = nextHeader
        self.trafficClass = trafficClass
        self.hopLimit = hopLimit
    }
}

/// The ports of TCP or UDP. The corresponding C type is `ibv_flow_spec_tcp_udp`.
///
/// Fragments behind the first have no ports: they fit only where no port is named.
public struct PortSpecification: Hashable, Sendable {
    /// Where the packet comes from.
    public var source: FlowPattern<UInt16>
    /// Where it goes.
    public var destination: FlowPattern<UInt16>

    /// A specification of these fields.
    public init(source: FlowPattern<UInt16> = .any, destination: FlowPattern<UInt16> = .any) {
        self.source = source
        self.destination = destination
    }
}

/// The header of an encrypted payload. The corresponding C type is `ibv_flow_spec_esp`.
public struct ESPSpecification: Hashable, Sendable {
    /// The security parameters index.
    public var securityParametersIndex: FlowPattern<UInt32>
    /// The sequence number.
    public var sequence: FlowPattern<UInt32>

    /// A specification of these fields.
    public init(securityParametersIndex: FlowPattern<UInt32> = .any, sequence: FlowPattern<UInt32> = .any) {
        self.securityParametersIndex = securityParametersIndex
        self.sequence = sequence
    }
}

/// VXLAN, over UDP to port 4789. The corresponding C type is `ibv_flow_spec_tunnel`.
public struct VXLANSpecification: Hashable, Sendable {
    /// The network identifier, 24 bits.
    public var networkIdentifier: FlowPattern<UInt32>

    /// A specification of this field.
    public init(networkIdentifier: FlowPattern<UInt32> = .any) {
        self.networkIdentifier = networkIdentifier.narrowed(to: 24)
    }
}

/// Generic routing encapsulation. The corresponding C type is `ibv_flow_spec_gre`.
public struct GRESpecification: Hashable, Sendable {
    /// The first 16 bits: 0x8000 checksum present, 0x2000 key present, 0x1000 sequence number present, version in the low three.
    public var flagsAndVersion: FlowPattern<UInt16>
    /// The EtherType of what is inside.
    public var nextProtocol: FlowPattern<UInt16>
    /// The key; a packet without one has the key 0.
    public var key: FlowPattern<UInt32>

    /// A specification of these fields.
    public init(
        flagsAndVersion: FlowPattern<UInt16> = .any, nextProtocol: FlowPattern<UInt16> = .any,
        key: FlowPattern<UInt32> = .any
    ) {
        self.flagsAndVersion = flagsAndVersion
        self.nextProtocol = nextProtocol
        self.key = key
    }
}

/// The first entry of an MPLS label stack. The corresponding C type is `ibv_flow_spec_mpls`.
public struct MPLSSpecification: Hashable, Sendable {
    /// All 32 bits: label (20), traffic class (3), bottom of stack (1), time to live (8).
    public var entry: FlowPattern<UInt32>

    /// A specification of the entry.
    public init(entry: FlowPattern<UInt32> = .any) {
        self.entry = entry
    }

    /// A label with any traffic class, bottom bit and time to live.
    ///
    /// - Parameter label: its low 20 bits.
    public init(label: UInt32) {
        entry = FlowPattern((label & 0xF_FFFF) << 12, mask: 0xFFFF_F000)
    }
}
