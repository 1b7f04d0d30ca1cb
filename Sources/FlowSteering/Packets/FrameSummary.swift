// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// What a person wants to know of an Ethernet frame: its addresses, in front of a tunnel.
package struct FrameSummary: Sendable {
    /// An address and, with TCP and UDP, a port.
    package struct End: Sendable {
        package let address: String
        package let port: UInt16?

        /// `10.0.0.7:7000`, `[fe80::1]:7000`, `10.0.0.7`
        package var text: String {
            guard let port else { return address }
            return (address.contains(":") ? "[\(address)]" : address) + ":\(port)"
        }
    }

    package let destination: MACAddress
    package let source: MACAddress
    /// What follows the last VLAN tag.
    package let etherType: UInt16
    /// The number of the protocol over IP, `nil` without IP.
    package let nextProtocol: UInt8?
    /// Who sent the IP packet, and who is to have it; `nil` without IP.
    package let from: End?
    package let to: End?
    /// `TCP`, `UDP`, `VXLAN`, `IPv4 protocol 89`, `type 0x88b5`.
    package let kind: String

    /// Reads the headers that are there; a frame may end anywhere.
    package init(of frame: RawSpan) {
        let key = PacketHeaders.key(of: frame)
        let layers = key.layers(inner: false)
        destination = MACAddress(truncating: key[.ethernetDestination, inner: false])
        source = MACAddress(truncating: key[.ethernetSource, inner: false])
        etherType = UInt16(truncatingIfNeeded: key[.etherType, inner: false])
        let isIP = layers.contains(.ipv4) || layers.contains(.ipv6)
        nextProtocol = isIP ? UInt8(truncatingIfNeeded: key[.nextProtocol, inner: false]) : nil
        let hasPorts =
            layers.contains(.transportFields) && (layers.contains(.tcp) || layers.contains(.udp))
        func end(_ address: GID, _ port: FlowKeyField) -> End {
            End(
                address: address.addressText,
                port: hasPorts ? UInt16(truncatingIfNeeded: key[port, inner: false]) : nil)
        }
        if layers.contains(.ipv4) {
            from = end(GID(ipv4: UInt32(truncatingIfNeeded: key[.ipv4Source, inner: false])), .sourcePort)
            to = end(GID(ipv4: UInt32(truncatingIfNeeded: key[.ipv4Destination, inner: false])), .destinationPort)
        } else if layers.contains(.ipv6) {
            from = end(
                GID(high: key[.ipv6SourceHigh, inner: false], low: key[.ipv6SourceLow, inner: false]), .sourcePort)
            to = end(
                GID(high: key[.ipv6DestinationHigh, inner: false], low: key[.ipv6DestinationLow, inner: false]),
                .destinationPort)
        } else {
            from = nil
            to = nil
        }
        kind = Self.kind(layers, etherType, nextProtocol)
    }

    private static func kind(_ layers: FlowLayers, _ type: UInt16, _ number: UInt8?) -> String {
        let named: [(FlowLayers, String)] = [
            (.vxlan, "VXLAN"), (.tcp, "TCP"), (.udp, "UDP"), (.esp, "ESP"), (.gre, "GRE"), (.mpls, "MPLS"),
        ]
        for (layer, name) in named where layers.contains(layer) { return name }
        switch (number, type) {
        case (1?, 0x0800): return "ICMP"
        case (58?, _): return "ICMPv6"
        case (let number?, _): return "\(layers.contains(.ipv4) ? "IPv4" : "IPv6") protocol \(number)"
        case (nil, 0x0806): return "ARP"
        case (nil, _): return "type 0x\(String(type, radix: 16))"
        }
    }
}
