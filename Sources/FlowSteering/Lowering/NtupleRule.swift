// SPDX-License-Identifier: Apache-2.0

/// A rule as the filters of a network adapter take it: the 192 bytes of `struct ethtool_rxnfc` for `ETHTOOL_SRXCLSRLINS`.
///
/// Such a filter leads to a receive queue of the device; who owns the queue has the packets. It knows no tags, counters and
/// copies, and only some headers: what it cannot say is refused by name, and a rule is then to be carried out elsewhere.
package enum NtupleRule {
    /// `sizeof(struct ethtool_rxnfc)` on 64-bit machines.
    package static let byteCount = 192
    /// `RX_CLS_LOC_ANY`: the driver chooses the place.
    package static let anyLocation: UInt32 = 0xFFFF_FFFF

    private static let insertCommand: UInt32 = 0x32  // ETHTOOL_SRXCLSRLINS
    private static let discard = UInt64.max  // RX_CLS_FLOW_DISC

    enum FlowType {
        static let tcp4: UInt32 = 0x01
        static let udp4: UInt32 = 0x02
        static let tcp6: UInt32 = 0x05
        static let udp6: UInt32 = 0x06
        static let esp4: UInt32 = 0x0A
        static let esp6: UInt32 = 0x0C
        static let ipv4: UInt32 = 0x0D
        static let ipv6: UInt32 = 0x0E
        static let ethernet: UInt32 = 0x12
        /// `FLOW_EXT`: the VLAN tag counts.
        static let hasTag: UInt32 = 0x8000_0000
        /// `FLOW_MAC_EXT`: the destination's Ethernet address counts.
        static let hasMAC: UInt32 = 0x4000_0000

        static let names = [
            tcp4: "TCP_V4_FLOW", udp4: "UDP_V4_FLOW", tcp6: "TCP_V6_FLOW", udp6: "UDP_V6_FLOW", esp4: "ESP_V4_FLOW",
            esp6: "ESP_V6_FLOW", ipv4: "IP_USER_FLOW", ipv6: "IPV6_USER_FLOW", ethernet: "ETHER_FLOW",
        ]
    }

    /// Offsets in `ethtool_rxnfc`.
    enum Offset {
        static let command = 0
        static let flowType = 16
        static let value = 20
        static let valueExtension = 72
        static let mask = 92
        static let maskExtension = 144
        static let ringCookie = 168
        static let location = 176
    }

    /// The bytes of the request that adds the filter.
    ///
    /// - Parameters:
    ///   - queue: the receive queue that packets go to, unless the rule drops them.
    ///   - location: the place in the table, which is the priority: the lowest that matches wins.
    package static func encode(_ rule: FlowRule, queue: UInt32, location: UInt32 = anyLocation)
        throws(FlowRuleError) -> [UInt8]
    {
        try rule.validate()
        try refuseWhatNeedsSoftware(rule)
        var filter = Filter()
        for specification in rule.specifications { try filter.add(specification) }
        try filter.finish()

        var bytes = [UInt8](repeating: 0, count: byteCount)
        func put(_ source: [UInt8], _ offset: Int) {
            bytes.replaceSubrange(offset..<offset + source.count, with: source)
        }
        func native(_ value: some FixedWidthInteger & UnsignedInteger) -> [UInt8] {
            var writer = ByteWriter()
            writer.append(native: value)
            return writer.bytes
        }
        put(native(insertCommand), Offset.command)
        put(native(filter.flowType), Offset.flowType)
        put(filter.value, Offset.value)
        put(filter.mask, Offset.mask)
        put(filter.valueExtension, Offset.valueExtension)
        put(filter.maskExtension, Offset.maskExtension)
        put(native(rule.drops ? discard : UInt64(queue)), Offset.ringCookie)
        put(native(location), Offset.location)
        return bytes
    }

    private static func refuseWhatNeedsSoftware(_ rule: FlowRule) throws(FlowRuleError) {
        if rule.kind != .normal {
            throw unsupported(rule.kind.name, "there are normal rules only", "let the XDP program or user space do it")
        }
        if rule.tag != nil {
            throw unsupported("action tag", "a receive queue has no tags", "let the queue's owner tag")
        }
        if rule.counts {
            throw unsupported("action count", "filters have no counters", "let the queue's owner count")
        }
        if rule.doesNotTrap { throw unsupported("dont-trap", "a filter takes the packet", "leave it to user space") }
        if rule.specifications.isEmpty {
            throw unsupported("any", "a filter needs a header", "give the whole device to the queue instead")
        }
    }

    private static func unsupported(_ field: String, _ explanation: String, _ remedy: String) -> FlowRuleError {
        FlowRuleError(field, .unsupported, "in the adapter's filters " + explanation, remedy: remedy)
    }

    /// `ethtool_flow_union` and `ethtool_flow_ext`, value and mask, as they are filled.
    private struct Filter {
        var flowType: UInt32 = 0
        var value = [UInt8](repeating: 0, count: 52)
        var mask = [UInt8](repeating: 0, count: 52)
        var valueExtension = [UInt8](repeating: 0, count: 20)
        var maskExtension = [UInt8](repeating: 0, count: 20)
        private var ethernet = EthernetSpecification()
        private var network: FlowSpecification.Header?

        mutating func add(_ specification: FlowSpecification) throws(FlowRuleError) {
            if specification.isInner || specification.layer == .tunnel || specification.layer == .label {
                throw unsupported(
                    specification.name, "there are no tunnels", "leave it to the XDP program or user space")
            }
            switch specification.header {
            case .ethernet(let header): ethernet = header
            case .ipv4(let header):
                try refuse("ip ttl", header.timeToLive)
                try refuse("ip flags", header.flags)
                network = specification.header
                flowType = FlowType.ipv4
                put(header.source.bits, 0)
                put(header.destination.bits, 4)
                put(header.typeOfService, 12)
                put(header.nextProtocol, 14)
                // ip_ver, whose mask must be zero.
                value[13] = 1
            case .ipv6(let header):
                try refuse("ip6 flow-label", header.flowLabel)
                try refuse("ip6 hop-limit", header.hopLimit)
                network = specification.header
                flowType = FlowType.ipv6
                put(header.source.bits, 0)
                put(header.destination.bits, 16)
                put(header.trafficClass, 36)
                put(header.nextHeader, 37)
            case .tcp(let ports): transport(FlowType.tcp4, FlowType.tcp6, ports: ports)
            case .udp(let ports): transport(FlowType.udp4, FlowType.udp6, ports: ports)
            case .esp(let header):
                try refuse("esp seq", header.sequence)
                transport(FlowType.esp4, FlowType.esp6, ports: nil)
                put(header.securityParametersIndex, isIPv4 ? 8 : 32)
            case .vxlan, .gre, .mpls: break  // refused above
            }
        }

        private var isIPv4: Bool { if case .ipv4 = network { true } else { false } }

        /// Turns the filter for an IP header into one for what is above: the structures agree but for what is removed here.
        private mutating func transport(_ type4: UInt32, _ type6: UInt32, ports: PortSpecification?) {
            flowType = isIPv4 ? type4 : type6
            // ip_ver and proto; l4_proto: the type of the flow says both.
            for index in isIPv4 ? 13...14 : 37...37 {
                value[index] = 0
                mask[index] = 0
            }
            guard let ports else { return }
            put(ports.source, isIPv4 ? 8 : 32)
            put(ports.destination, isIPv4 ? 10 : 34)
        }

        mutating func finish() throws(FlowRuleError) {
            if network == nil {
                flowType = FlowType.ethernet
                put(ethernet.destination.bits, 0, byteCount: 6)
                put(ethernet.source.bits, 6, byteCount: 6)
                put(ethernet.etherType, 12)
            } else {
                if !ethernet.source.bits.isAny {
                    throw unsupported(
                        "eth src", "it does not go together with IP", "leave it out, or leave the rule to user space")
                }
                // An EtherType is that of the IP header: validated.
                if !ethernet.destination.bits.isAny {
                    flowType |= FlowType.hasMAC
                    Self.put(ethernet.destination.bits.value, &valueExtension, 2, byteCount: 6)
                    Self.put(ethernet.destination.bits.mask, &maskExtension, 2, byteCount: 6)
                }
            }
            if !ethernet.vlanTag.isAny {
                flowType |= FlowType.hasTag
                Self.put(ethernet.vlanTag.value, &valueExtension, 10, byteCount: 2)
                Self.put(ethernet.vlanTag.mask, &maskExtension, 10, byteCount: 2)
            }
        }

        private func refuse(
            _ field: String, _ pattern: FlowPattern<some FixedWidthInteger & UnsignedInteger & Sendable>
        ) throws(FlowRuleError) {
            if !pattern.isAny {
                throw unsupported(field, "there is no such field", "leave it out, or leave the rule to user space")
            }
        }

        private mutating func put<Value>(_ pattern: FlowPattern<Value>, _ offset: Int, byteCount: Int? = nil) {
            Self.put(pattern.value, &value, offset, byteCount: byteCount ?? Value.bitWidth / 8)
            Self.put(pattern.mask, &mask, offset, byteCount: byteCount ?? Value.bitWidth / 8)
        }

        private static func put(
            _ value: some FixedWidthInteger & UnsignedInteger, _ bytes: inout [UInt8], _ offset: Int, byteCount: Int
        ) {
            for index in 0..<byteCount {
                bytes[offset + index] = UInt8(truncatingIfNeeded: value >> ((byteCount - 1 - index) * 8))
            }
        }
    }
}
