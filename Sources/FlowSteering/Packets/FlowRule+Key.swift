// SPDX-License-Identifier: Apache-2.0

/// The specifications of a rule as one comparison: a packet fits if its key under the mask is the value.
package struct FlowKeyPattern: Hashable, Sendable {
    /// The wanted bits, zero where the mask is.
    package private(set) var value = FlowKey()
    /// Ones where the packet's bit must be the value's.
    package private(set) var mask = FlowKey()

    /// The pattern of a valid rule.
    package init(_ rule: FlowRule) {
        for specification in rule.specifications { add(specification.header, inner: specification.isInner) }
    }

    /// Whether a packet with this key fits.
    package func matches(_ key: FlowKey) -> Bool {
        var difference: UInt64 = 0
        for index in 0..<FlowKey.wordCount {
            difference |= key.words[index] & mask.words[index] ^ value.words[index]
        }
        return difference == 0
    }

    private mutating func add(_ header: FlowSpecification.Header, inner: Bool) {
        switch header {
        case .ethernet(let header):
            want(.ethernet, inner)
            want(.ethernetDestination, header.destination.bits, inner)
            want(.ethernetSource, header.source.bits, inner)
            want(.etherType, header.etherType, inner)
            want(.tag, header.vlanTag, inner)
            if !header.vlanTag.isAny { want(.tag, inner) }
        case .ipv4(let header):
            want(.ipv4, inner)
            want(.ipv4Source, header.source.bits, inner)
            want(.ipv4Destination, header.destination.bits, inner)
            want(.nextProtocol, header.nextProtocol, inner)
            want(.trafficClass, header.typeOfService, inner)
            want(.hopLimit, header.timeToLive, inner)
            want(.ipv4Flags, header.flags, inner)
        case .ipv6(let header):
            want(.ipv6, inner)
            want(.ipv6SourceHigh, .ipv6SourceLow, header.source.bits, inner)
            want(.ipv6DestinationHigh, .ipv6DestinationLow, header.destination.bits, inner)
            want(.nextProtocol, header.nextHeader, inner)
            want(.trafficClass, header.trafficClass, inner)
            want(.hopLimit, header.hopLimit, inner)
            want(.flowLabel, header.flowLabel, inner)
        case .tcp(let ports): addPorts(.tcp, ports, inner)
        case .udp(let ports): addPorts(.udp, ports, inner)
        default: addTunnel(header, inner: inner)
        }
    }

    private mutating func addTunnel(_ header: FlowSpecification.Header, inner: Bool) {
        switch header {
        case .esp(let header):
            want(.esp, inner)
            want(.espIndex, header.securityParametersIndex, inner)
            want(.espSequence, header.sequence, inner)
            if !header.securityParametersIndex.isAny || !header.sequence.isAny { want(.transportFields, inner) }
        case .vxlan(let header):
            want(.vxlan, inner)
            want(.vxlanIdentifier, header.networkIdentifier, inner)
        case .gre(let header):
            want(.gre, inner)
            want(.greFlags, header.flagsAndVersion, inner)
            want(.greProtocol, header.nextProtocol, inner)
            want(.greKey, header.key, inner)
            if !header.flagsAndVersion.isAny || !header.nextProtocol.isAny || !header.key.isAny {
                want(.transportFields, inner)
            }
        case .mpls(let header):
            want(.mpls, inner)
            want(.mplsEntry, header.entry, inner)
        case .ethernet, .ipv4, .ipv6, .tcp, .udp: break
        }
    }

    private mutating func addPorts(_ layer: FlowLayers, _ ports: PortSpecification, _ inner: Bool) {
        want(layer, inner)
        want(.sourcePort, ports.source, inner)
        want(.destinationPort, ports.destination, inner)
        if !ports.source.isAny || !ports.destination.isAny { want(.transportFields, inner) }
    }

    private mutating func want(_ layers: FlowLayers, _ inner: Bool) {
        value.insert(layers, inner: inner)
        mask.insert(layers, inner: inner)
    }

    private mutating func want<Value>(_ field: FlowKeyField, _ pattern: FlowPattern<Value>, _ inner: Bool) {
        mask[field, inner: inner] = UInt64(pattern.mask)
        value[field, inner: inner] = UInt64(pattern.value & pattern.mask)
    }

    private mutating func want(
        _ high: FlowKeyField, _ low: FlowKeyField, _ pattern: FlowPattern<UInt128>, _ inner: Bool
    ) {
        want(
            high,
            FlowPattern(
                UInt64(truncatingIfNeeded: pattern.value >> 64), mask: UInt64(truncatingIfNeeded: pattern.mask >> 64)),
            inner)
        want(
            low, FlowPattern(UInt64(truncatingIfNeeded: pattern.value), mask: UInt64(truncatingIfNeeded: pattern.mask)),
            inner)
    }
}

extension FlowKeyPattern {
    /// Whether this asks for nothing that the other does not ask for, too.
    func covers(_ other: FlowKeyPattern) -> Bool {
        (0..<FlowKey.wordCount).allSatisfy { index in
            mask.words[index] & ~other.mask.words[index] == 0
                && value.words[index] == other.value.words[index] & mask.words[index]
        }
    }

    /// The same with what follows from it: a header is named by the one below it.
    var strengthened: FlowKeyPattern {
        var pattern = self
        for isInner in [false, true] {
            let layers = value.layers(inner: isInner)
            for (layer, number) in [(.tcp, 6), (.udp, 17), (.esp, 50), (.gre, 47)] as [(FlowLayers, UInt64)]
            where layers.contains(layer) {
                pattern.imply(.nextProtocol, number, inner: isInner)
            }
        }
        let layers = value.layers(inner: false)
        if layers.contains(.ipv4) { pattern.imply(.etherType, 0x0800) }
        if layers.contains(.ipv6) { pattern.imply(.etherType, 0x86DD) }
        if !layers.isEmpty { pattern.want(.ethernet, false) }
        if layers.contains(.vxlan) {
            pattern.want([.udp, .transportFields], false)
            pattern.imply(.nextProtocol, 17)
            pattern.imply(.destinationPort, UInt64(VXLANSpecification.port))
        }
        return pattern
    }

    /// Bits that are wanted otherwise stay: then no packet fits, and it does not matter.
    private mutating func imply(_ field: FlowKeyField, _ number: UInt64, inner: Bool = false) {
        value[field, inner: inner] |= number & ~mask[field, inner: inner]
        mask[field, inner: inner] = field.ones
    }
}
