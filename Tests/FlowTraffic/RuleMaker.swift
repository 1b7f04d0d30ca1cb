// SPDX-License-Identifier: Apache-2.0
import FlowSteering

/// Rules of random fields out of the few values that ``FrameMaker`` puts in frames, so that many match.
package struct RuleMaker {
    package var generator: SeededGenerator

    package init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

    package mutating func rule() -> FlowRule {
        var rule: FlowRule
        switch generator.below(40) {
        case 0: rule = .sniffer
        case 1: rule = .allDefault
        case 2: rule = .multicastDefault
        default: rule = normal()
        }
        if generator.oneIn(5) { rule = rule.counting() }
        if rule.kind == .normal {
            rule = rule.priority(UInt16(generator.below(4)))
            if generator.oneIn(6) { return rule.notTrapping() }
        }
        if rule.kind != .sniffer, generator.oneIn(8) { return rule.dropping() }
        return generator.oneIn(2) ? rule.tag(UInt32(generator.below(1000))) : rule
    }

    private mutating func normal() -> FlowRule {
        var rule = FlowRule.any
        if generator.oneIn(4) { rule = rule.with(ethernet(hasIP: true)) }
        switch generator.below(10) {
        case 0: return FlowRule.any.with(ethernet(hasIP: false))
        case 1: rule = rule.with(.mpls(MPLSSpecification(label: generator.pick([16, 17]))))
        case 2, 3:
            rule = rule.with(ip())
            rule = rule.with(tunnel())
        default: rule = stack(rule, inner: false)
        }
        if rule.specifications.contains(where: Self.isTunnel), generator.oneIn(2) {
            if generator.oneIn(3) { rule = rule.with(ethernet(hasIP: true), isInner: true) }
            rule = stack(rule, inner: true)
        }
        return rule
    }

    private static func isTunnel(_ specification: FlowSpecification) -> Bool {
        switch specification.header {
        case .vxlan, .gre, .mpls: true
        case .ethernet, .ipv4, .ipv6, .tcp, .udp, .esp: false
        }
    }

    /// Ones in the high bits of a field.
    private static func prefix(_ length: Int, _ bitCount: Int) -> UInt128 {
        (UInt128.max >> UInt128(128 - bitCount)) & ~(UInt128.max >> UInt128(128 - bitCount + length))
    }

    private mutating func stack(_ rule: FlowRule, inner: Bool) -> FlowRule {
        var rule = rule.with(ip(), isInner: inner)
        if generator.oneIn(3) { return rule }
        // One that the IP header does not contradict.
        let transport = transport()
        rule = rule.with(transport, isInner: inner)
        return (try? rule.validate()) == nil
            ? FlowRule.any.with(.ipv4(.init()), isInner: inner).with(transport, isInner: inner) : rule
    }

    private mutating func pattern<Value>(_ values: [Value]) -> FlowPattern<Value> {
        switch generator.below(4) {
        case 0: return .any
        case 1:
            let mask = Value(truncatingIfNeeded: generator.next())
            return FlowPattern(generator.pick(values) & mask, mask: mask)
        default: return FlowPattern(exactly: generator.pick(values))
        }
    }

    private mutating func ethernet(hasIP: Bool) -> FlowSpecification.Header {
        let mac = generator.pick(FrameMaker.macs)
        let mask: UInt64 = generator.pick([0xFFFF_FFFF_FFFF, 0xFFFF_FFFF_FF00, 0x0100_0000_0000])
        let destination = generator.oneIn(2) ? FlowPattern(mac & mask, mask: mask) : .any
        let tag: FlowPattern<UInt16> =
            generator.oneIn(3) ? FlowPattern(generator.pick(FrameMaker.tags) & 0xFFF, mask: 0xFFF) : .any
        let type: FlowPattern<UInt16> = hasIP ? .any : FlowPattern(exactly: generator.pick([0x88B5, 0x8847, 0x0800]))
        return .ethernet(
            EthernetSpecification(destination: MACPattern(destination), etherType: type, vlanTag: tag))
    }

    private mutating func ip() -> FlowSpecification.Header {
        if generator.oneIn(3) {
            func address(_ generator: inout SeededGenerator) -> IPv6Pattern {
                let length = generator.pick([0, 16, 64, 120, 128])
                let mask = Self.prefix(length, 128)
                let high: UInt64 = generator.pick([0x2001_0DB8_0000_0000, 0xFE80_0000_0000_0000])
                let low: UInt64 = generator.pick([1, 2, 0x101])
                return IPv6Pattern(FlowPattern((UInt128(high) << 64 | UInt128(low)) & mask, mask: mask))
            }
            return .ipv6(
                IPv6Specification(
                    source: address(&generator), destination: address(&generator),
                    flowLabel: generator.oneIn(5) ? 1 : .any, hopLimit: generator.oneIn(6) ? 64 : .any))
        }
        func address(_ generator: inout SeededGenerator) -> IPv4Pattern {
            let mask = generator.oneIn(5) ? 0xFF00_00FF : Self.prefix(generator.pick([0, 8, 24, 30, 32]), 32)
            let value: UInt32 = generator.pick([0x0A00_0001, 0x0A00_0002, 0x0A00_0101, 0xC0A8_0109])
            return IPv4Pattern(
                FlowPattern(value & UInt32(truncatingIfNeeded: mask), mask: UInt32(truncatingIfNeeded: mask)))
        }
        return .ipv4(
            IPv4Specification(
                source: address(&generator), destination: address(&generator),
                nextProtocol: generator.oneIn(5) ? 17 : .any,
                typeOfService: generator.oneIn(6) ? FlowPattern(0xB8, mask: 0xFC) : .any,
                timeToLive: generator.oneIn(6) ? 64 : .any,
                flags: generator.oneIn(6) ? FlowPattern(2, mask: 2) : .any))
    }

    private mutating func transport() -> FlowSpecification.Header {
        let ports = PortSpecification(source: pattern(FrameMaker.ports), destination: pattern(FrameMaker.ports))
        switch generator.below(5) {
        case 0, 1: return .tcp(ports)
        case 2, 3: return .udp(ports)
        default:
            return .esp(ESPSpecification(securityParametersIndex: pattern([0xC0FFEE, 0x1234_5678]), sequence: .any))
        }
    }

    private mutating func tunnel() -> FlowSpecification.Header {
        if generator.oneIn(2) {
            return .vxlan(VXLANSpecification(networkIdentifier: generator.pick([.any, 5, 5000])))
        }
        return .gre(
            GRESpecification(
                flagsAndVersion: generator.oneIn(3) ? FlowPattern(0x2000, mask: 0x2000) : .any,
                key: generator.pick([.any, 7, 0x0102_0304])))
    }
}
