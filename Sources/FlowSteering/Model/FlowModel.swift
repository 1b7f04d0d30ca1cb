// SPDX-License-Identifier: Apache-2.0

/// What a set of rules means, as plainly as it can be said: every rule is compared with the packet, field by field, in order.
///
/// It is the judge of all places that carry rules out, and shares none of their means: it asks the key for each field by name
/// and knows no masked words, no hash and no table.
package struct FlowModel {
    private struct Entry {
        let id: FlowID
        let rule: FlowRule
        let order: FlowOrder
    }

    private var entries: [Entry] = []
    private var age: UInt64 = 0

    /// No rules.
    package init() {}

    /// Adds a valid rule.
    package mutating func insert(_ rule: FlowRule, _ id: FlowID) {
        let entry = Entry(id: id, rule: rule, order: FlowOrder(rule, age: age))
        age += 1
        entries.insert(entry, at: entries.firstIndex { entry.order < $0.order } ?? entries.endIndex)
    }

    /// Removes a rule; `false` if it is not there.
    @discardableResult
    package mutating func remove(_ id: FlowID) -> Bool {
        guard let index = entries.firstIndex(where: { $0.id == id }) else { return false }
        entries.remove(at: index)
        return true
    }

    /// All that happens to a packet with this key.
    package func verdict(for key: FlowKey) -> FlowVerdict {
        var verdict = FlowVerdict()
        for entry in entries where verdict.isOpen(to: entry.rule.kind) && matches(entry.rule, key) {
            verdict.apply(entry.rule, entry.id)
        }
        return verdict
    }

    /// Whether the winner among normal rules is defined: no other rule of the same priority matches, too. Only then must a device
    /// agree with the model.
    package func isDefined(for key: FlowKey) -> Bool {
        let matching = entries.filter { $0.rule.kind == .normal && matches($0.rule, key) }
        guard let winner = matching.first(where: { !$0.rule.doesNotTrap }) else { return true }
        return matching.filter { $0.rule.priority == winner.rule.priority }.count == 1
    }

    private func matches(_ rule: FlowRule, _ key: FlowKey) -> Bool {
        switch rule.kind {
        case .sniffer, .allDefault: true
        case .multicastDefault: key[.ethernetDestination, inner: false] & 0x0100_0000_0000 != 0
        case .normal: rule.specifications.allSatisfy { matches($0, key) }
        }
    }

    private func matches(_ specification: FlowSpecification, _ key: FlowKey) -> Bool {
        let inner = specification.isInner
        let layers = key.layers(inner: inner)
        func fits<Value>(_ pattern: FlowPattern<Value>, _ field: FlowKeyField) -> Bool {
            pattern.matches(Value(truncatingIfNeeded: key[field, inner: inner]))
        }
        func address(_ high: FlowKeyField, _ low: FlowKeyField) -> UInt128 {
            UInt128(key[high, inner: inner]) << 64 | UInt128(key[low, inner: inner])
        }
        let hasFields = layers.contains(.transportFields)
        switch specification.header {
        case .ethernet(let header):
            return layers.contains(.ethernet) && fits(header.destination.bits, .ethernetDestination)
                && fits(header.source.bits, .ethernetSource) && fits(header.etherType, .etherType)
                && (header.vlanTag.isAny || layers.contains(.tag) && fits(header.vlanTag, .tag))
        case .ipv4(let header):
            return layers.contains(.ipv4) && fits(header.source.bits, .ipv4Source)
                && fits(header.destination.bits, .ipv4Destination) && fits(header.nextProtocol, .nextProtocol)
                && fits(header.typeOfService, .trafficClass) && fits(header.timeToLive, .hopLimit)
                && fits(header.flags, .ipv4Flags)
        case .ipv6(let header):
            return layers.contains(.ipv6)
                && header.source.bits.matches(address(.ipv6SourceHigh, .ipv6SourceLow))
                && header.destination.bits.matches(address(.ipv6DestinationHigh, .ipv6DestinationLow))
                && fits(header.nextHeader, .nextProtocol) && fits(header.trafficClass, .trafficClass)
                && fits(header.hopLimit, .hopLimit) && fits(header.flowLabel, .flowLabel)
        case .tcp(let ports), .udp(let ports):
            let isTCP = if case .tcp = specification.header { true } else { false }
            guard layers.contains(isTCP ? .tcp : .udp) else { return false }
            if ports.source.isAny && ports.destination.isAny { return true }
            return hasFields && fits(ports.source, .sourcePort) && fits(ports.destination, .destinationPort)
        case .esp(let header):
            guard layers.contains(.esp) else { return false }
            if header.securityParametersIndex.isAny && header.sequence.isAny { return true }
            return hasFields && fits(header.securityParametersIndex, .espIndex) && fits(header.sequence, .espSequence)
        case .vxlan(let header):
            return layers.contains(.vxlan) && fits(header.networkIdentifier, .vxlanIdentifier)
        case .gre(let header):
            guard layers.contains(.gre) else { return false }
            if header.flagsAndVersion.isAny && header.nextProtocol.isAny && header.key.isAny { return true }
            return hasFields && fits(header.flagsAndVersion, .greFlags) && fits(header.nextProtocol, .greProtocol)
                && fits(header.key, .greKey)
        case .mpls(let header): return layers.contains(.mpls) && fits(header.entry, .mplsEntry)
        }
    }
}
