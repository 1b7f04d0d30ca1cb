// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// A rule as `ibv_create_flow` takes it: `struct ibv_flow_attr` with its specifications behind it, byte for byte.
///
/// The structure is the processor's: types, sizes, priority and tag are in native order, what is compared with packets in
/// network order.
package enum FlowAttributes {
    /// `sizeof(struct ibv_flow_attr)`.
    package static let headerByteCount = 20

    /// `enum ibv_flow_spec_type`.
    enum SpecificationType {
        static let ethernet: UInt32 = 0x20
        static let ipv4: UInt32 = 0x30
        static let ipv6: UInt32 = 0x31
        static let ipv4Extended: UInt32 = 0x32
        static let esp: UInt32 = 0x34
        static let tcp: UInt32 = 0x40
        static let udp: UInt32 = 0x41
        static let vxlan: UInt32 = 0x50
        static let gre: UInt32 = 0x51
        static let mpls: UInt32 = 0x60
        static let inner: UInt32 = 0x100
        static let tag: UInt32 = 0x1000
        static let drop: UInt32 = 0x1001
        static let handle: UInt32 = 0x1002
        static let count: UInt32 = 0x1003
    }

    /// `enum ibv_flow_flags`.
    static let doesNotTrap: UInt32 = 1 << 1
    static let egress: UInt32 = 1 << 2

    /// The bytes for `rule`.
    ///
    /// - Parameter counters: the address of the `ibv_counters` that a counting rule counts in. The bytes hold it as it is.
    package static func encode(_ rule: FlowRule, counters: UInt? = nil) throws(FlowRuleError) -> [UInt8] {
        try rule.validate()
        var specifications: [[UInt8]] = rule.specifications.map(encode)
        if let tag = rule.tag {
            var writer = ByteWriter()
            writer.append(native: tag)
            specifications.append(specification(SpecificationType.tag, writer.bytes))
        }
        if rule.drops { specifications.append(specification(SpecificationType.drop, [])) }
        if rule.counts {
            guard let counters else {
                throw FlowRuleError(
                    "action count", .missing, "the verbs device counts in an object of its own",
                    remedy: "create counters on the device and pass them with the rule")
            }
            var writer = ByteWriter()
            writer.append(native: UInt64(counters))
            specifications.append(specification(SpecificationType.count, writer.bytes, alignment: 8))
        }
        let byteCount = headerByteCount + specifications.reduce(0) { $0 + $1.count }
        var writer = ByteWriter()
        writer.append(native: UInt32(0))
        writer.append(native: rule.kind.rawValue)
        // At most eight headers and three actions: both numbers fit.
        writer.append(native: UInt16(byteCount))
        writer.append(native: rule.priority)
        writer.append(UInt8(specifications.count))
        writer.append(rule.devicePort)
        writer.pad(to: 16)
        writer.append(native: rule.doesNotTrap ? doesNotTrap : UInt32(0))
        return specifications.reduce(writer.bytes, +)
    }

    /// One specification: type, size, value, mask, and the padding of the structure in C.
    private static func specification(_ type: UInt32, _ body: [UInt8], alignment: Int = 4) -> [UInt8] {
        // Behind type (4) and size (2): where members of this alignment begin.
        let start = body.isEmpty ? 8 : alignment == 2 ? 6 : 8
        let byteCount = (start + body.count + 3) / 4 * 4
        var writer = ByteWriter()
        writer.append(native: type)
        writer.append(native: UInt16(byteCount))
        writer.pad(to: start)
        var bytes = writer.bytes + body
        bytes += [UInt8](repeating: 0, count: byteCount - bytes.count)
        return bytes
    }

    private static func encode(_ specification: FlowSpecification) -> [UInt8] {
        let (type, alignment) = typeAndAlignment(specification.header)
        let values = filter(specification.header) { value, _ in value }
        let masks = filter(specification.header) { _, mask in mask }
        return self.specification(
            type | (specification.isInner ? SpecificationType.inner : 0), values + masks, alignment: alignment)
    }

    private static func typeAndAlignment(_ header: FlowSpecification.Header) -> (UInt32, alignment: Int) {
        switch header {
        case .ethernet: (SpecificationType.ethernet, 2)
        case .ipv4(let header):
            (header.isExtended ? SpecificationType.ipv4Extended : SpecificationType.ipv4, 4)
        case .ipv6: (SpecificationType.ipv6, 4)
        case .tcp: (SpecificationType.tcp, 2)
        case .udp: (SpecificationType.udp, 2)
        case .esp: (SpecificationType.esp, 4)
        case .vxlan: (SpecificationType.vxlan, 4)
        case .gre: (SpecificationType.gre, 4)
        case .mpls: (SpecificationType.mpls, 4)
        }
    }

    /// The `ibv_flow_*_filter` of a header, of its values or of its masks.
    private static func filter(
        _ header: FlowSpecification.Header, _ side: (_ value: UInt128, _ mask: UInt128) -> UInt128
    ) -> [UInt8] {
        var writer = ByteWriter()
        func put<Value>(_ pattern: FlowPattern<Value>) {
            writer.append(Value(truncatingIfNeeded: side(UInt128(pattern.value), UInt128(pattern.mask))))
        }
        func put(_ pattern: MACPattern) {
            let chosen = side(UInt128(pattern.bits.value), UInt128(pattern.bits.mask))
            writer.append(UInt64(truncatingIfNeeded: chosen), byteCount: 6)
        }
        switch header {
        case .ethernet(let header):
            put(header.destination)
            put(header.source)
            put(header.etherType)
            put(header.vlanTag)
        case .ipv4(let header):
            put(header.source.bits)
            put(header.destination.bits)
            guard header.isExtended else { break }
            put(header.nextProtocol)
            put(header.typeOfService)
            put(header.timeToLive)
            put(header.flags)
        case .ipv6(let header):
            put(header.source.bits)
            put(header.destination.bits)
            put(header.flowLabel)
            put(header.nextHeader)
            put(header.trafficClass)
            put(header.hopLimit)
            writer.pad(to: 40)
        case .tcp(let header), .udp(let header):
            put(header.destination)
            put(header.source)
        case .esp(let header):
            put(header.securityParametersIndex)
            put(header.sequence)
        case .vxlan(let header): put(header.networkIdentifier)
        case .gre(let header):
            put(header.flagsAndVersion)
            put(header.nextProtocol)
            put(header.key)
        case .mpls(let header): put(header.entry)
        }
        return writer.bytes
    }
}

extension IPv4Specification {
    /// Whether it names more than addresses.
    var isExtended: Bool { !(nextProtocol.isAny && typeOfService.isAny && timeToLive.isAny && flags.isAny) }
}
