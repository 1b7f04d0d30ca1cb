// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// The classic BPF program of a lent socket: it lets the frames pass that one of some rules matches, and came in by one interface.
///
/// The holder may bind the socket to any interface and ask for outgoing frames: so the program looks at both. It takes the headers
/// apart once, as `PacketHeaders` does, and compares rule by rule.
package struct AccessFilter {
    private var code = FilterAssembler()

    // What the kernel knows beside the bytes (`SKF_AD_…`).
    private enum Fact {
        static let packetType: UInt32 = 0xFFFF_F004
        static let interface: UInt32 = 0xFFFF_F008
        static let tag: UInt32 = 0xFFFF_F02C
        static let hasTag: UInt32 = 0xFFFF_F030
        /// PACKET_OUTGOING
        static let outgoing: UInt32 = 4
    }

    /// The program for rules that ``isExpressible(_:)`` says yes to; `nil` where they are too many.
    ///
    /// - Parameter interface: its index; `nil` for frames that are of no interface, in tests.
    package static func program(
        for rules: [FlowRule], interface: Int?
    ) -> [SteeringProgram.Instruction]? {
        var filter = AccessFilter()
        filter.checkOrigin(interface)
        filter.readEthernet()
        filter.readNetwork()
        for rule in rules { filter.match(rule) }
        filter.code.refuse()
        return filter.code.assembled()
    }

    /// Whether the program has words for a rule: addresses, VLAN tags, IP and ports; nothing of tunnels, and no actions.
    package static func isExpressible(_ rule: FlowRule) -> Bool {
        var plain = rule
        plain.priority = 0
        guard rule.kind == .normal, plain == FlowRule(specifications: rule.specifications) else { return false }
        return rule.specifications.allSatisfy { specification in
            switch specification.header {
            case .ethernet, .ipv4, .ipv6, .tcp, .udp: !specification.isInner
            case .esp, .vxlan, .gre, .mpls: false
            }
        }
    }

    // MARK: Taking apart

    private mutating func checkOrigin(_ interface: Int?) {
        let refused = code.makeLabel()
        let wanted = code.makeLabel()
        // Before any jump: the kernel wants a word stored on all ways to where it is read, and counts the way through the refusal.
        code.loadLength()
        code.store(.length)
        if let interface {
            // What is of no interface ends the program with what is in the accumulator.
            code.load(0)
            code.loadFact(Fact.interface)
            code.require(UInt32(truncatingIfNeeded: interface), else: refused)
            code.loadFact(Fact.packetType)
            code.jump(ifEqual: Fact.outgoing, to: refused)
        }
        code.load(.length)
        code.requireAtLeast(14, else: refused)
        code.jump(to: wanted)
        code.place(refused)
        code.refuse()
        code.place(wanted)
    }

    /// The first VLAN tag, which the kernel may have taken out, the type behind the last, and where that leads.
    private mutating func readEthernet() {
        let inside = code.makeLabel()
        let tagged = code.makeLabel()
        for word in [FilterAssembler.Word.tag, .version, .proto, .transport, .isTransport] {
            code.load(0)
            code.store(word)
        }
        code.loadFact(Fact.hasTag)
        code.store(.hasTag)
        code.jump(ifEqual: 0, to: inside)
        code.loadFact(Fact.tag)
        code.store(.tag)
        code.load(1)
        code.store(.hasTag)
        code.place(inside)
        code.loadHalf(at: 12)
        code.store(.type)
        code.load(14)
        code.store(.network)
        for _ in 0..<PacketHeaders.chainCountMax {
            let isTag = code.makeLabel()
            let isKnown = code.makeLabel()
            code.load(.type)
            code.jump(ifEqual: 0x8100, to: isTag)
            code.require(0x88A8, else: tagged)
            code.place(isTag)
            code.index(.network)
            code.load(.length)
            code.subtractIndex()
            code.requireAtLeast(4, else: tagged)
            code.load(.hasTag)
            code.require(0, else: isKnown)
            code.load(1)
            code.store(.hasTag)
            code.loadIndexedHalf(0)
            code.store(.tag)
            code.place(isKnown)
            code.loadIndexedHalf(2)
            code.store(.type)
            code.load(.network)
            code.add(4)
            code.store(.network)
        }
        code.place(tagged)
    }

    private mutating func readNetwork() {
        let ipv4 = code.makeLabel()
        let ipv6 = code.makeLabel()
        let done = code.makeLabel()
        code.load(.type)
        code.jump(ifEqual: 0x0800, to: ipv4)
        code.jump(ifEqual: 0x86DD, to: ipv6)
        code.jump(to: done)
        // Before IPv6, which a conditional jump does not get over.
        let far = code.makeLabel()
        code.place(ipv6)
        code.jump(to: far)
        code.place(ipv4)
        readIPv4()
        code.jump(to: done)
        code.place(far)
        readIPv6()
        code.place(done)
    }

    private mutating func readIPv4() {
        let done = code.makeLabel()
        let hasEnd = code.makeLabel()
        requireBytes(20, version: 4, else: done)
        code.loadIndexedByte(0)
        code.and(0xF)
        code.shiftLeft(2)
        code.store(.a)
        code.requireAtLeast(20, else: done)
        code.load(4)
        code.store(.version)
        code.loadIndexedByte(9)
        code.store(.proto)
        // The end, from the start of the header: of the frame, or earlier if the header says so.
        code.load(.length)
        code.subtractIndex()
        code.store(.end)
        code.loadIndexedHalf(2)
        code.store(.b)
        code.jump(ifEqual: 0, to: hasEnd)
        code.index(.a)
        code.requireAtLeastIndex(else: done)
        code.index(.b)
        code.load(.end)
        code.requireAtLeastIndex(else: hasEnd)
        code.load(.b)
        code.store(.end)
        code.place(hasEnd)
        code.load(1)
        code.store(.isTransport)
        code.index(.network)
        code.loadIndexedHalf(6)
        code.jump(ifAnyOf: 0x1FFF, to: done)
        code.index(.a)
        code.load(.end)
        code.requireAtLeastIndex(else: done)
        code.subtractIndex()
        code.requireAtLeast(4, else: done)
        code.load(.network)
        code.addIndex()
        code.store(.transport)
        code.place(done)
    }

    private mutating func readIPv6() {
        let start = code.makeLabel()
        let none = code.makeLabel()
        let done = code.makeLabel()
        requireBytes(40, version: 6, else: none)
        code.jump(to: start)
        code.place(none)
        code.jump(to: done)
        code.place(start)
        code.load(6)
        code.store(.version)
        code.load(1)
        code.store(.isTransport)
        code.loadIndexedByte(6)
        code.store(.proto)
        let hasEnd = code.makeLabel()
        code.load(.length)
        code.store(.end)
        code.loadIndexedHalf(4)
        code.jump(ifEqual: 0, to: hasEnd)
        code.addIndex()
        code.add(40)
        code.store(.b)
        code.index(.b)
        code.load(.length)
        code.requireAtLeastIndex(else: hasEnd)
        code.load(.b)
        code.store(.end)
        code.place(hasEnd)
        code.load(.network)
        code.add(40)
        code.store(.a)
        let transport = code.makeLabel()
        for _ in 0..<PacketHeaders.chainCountMax { readExtension(transport: transport, done: done) }
        code.place(transport)
        code.index(.a)
        code.load(.end)
        let tooShort = code.makeLabel()
        code.requireAtLeastIndex(else: tooShort)
        code.subtractIndex()
        code.requireAtLeast(4, else: tooShort)
        code.load(.a)
        code.store(.transport)
        code.place(tooShort)
        code.place(done)
    }

    /// One header between IPv6 and what it carries, at `a`: steps over it, or goes to `transport` if it is none.
    private mutating func readExtension(transport: FilterAssembler.Label, done: FilterAssembler.Label) {
        let ends = code.makeLabel()
        let fragment = code.makeLabel()
        let authentication = code.makeLabel()
        let general = code.makeLabel()
        let step = code.makeLabel()
        let next = code.makeLabel()
        code.index(.a)
        code.load(.end)
        code.requireAtLeastIndex(else: ends)
        code.subtractIndex()
        code.store(.c)
        code.requireAtLeast(8, else: ends)
        code.load(.proto)
        code.jump(ifEqual: 44, to: fragment)
        code.jump(ifEqual: 51, to: authentication)
        for number: UInt32 in [0, 43, 60, 135, 139] { code.jump(ifEqual: number, to: general) }
        code.require(140, else: ends)
        code.place(general)
        code.loadIndexedByte(1)
        code.shiftLeft(3)
        code.add(8)
        code.jump(to: step)
        code.place(authentication)
        code.loadIndexedByte(1)
        code.shiftLeft(2)
        code.add(8)
        code.jump(to: step)
        // Of a later fragment no more headers are looked at.
        code.place(fragment)
        let isFirst = code.makeLabel()
        let isLater = code.makeLabel()
        code.loadIndexedHalf(2)
        code.jump(ifAnyOf: 0xFFF8, to: isLater)
        code.jump(to: isFirst)
        code.place(isLater)
        code.loadIndexedByte(0)
        code.store(.proto)
        code.jump(to: done)
        code.place(isFirst)
        code.load(8)
        code.place(step)
        code.store(.b)
        code.index(.b)
        code.load(.c)
        code.requireAtLeastIndex(else: ends)
        code.index(.a)
        code.loadIndexedByte(0)
        code.store(.proto)
        code.load(.b)
        code.addIndex()
        code.store(.a)
        code.jump(to: next)
        code.place(ends)
        code.jump(to: transport)
        code.place(next)
    }

    /// Room for a header at the network offset, which stays in the index register, and its version.
    private mutating func requireBytes(_ count: UInt32, version: UInt32, else label: FilterAssembler.Label) {
        code.index(.network)
        code.load(.length)
        code.subtractIndex()
        code.requireAtLeast(count, else: label)
        code.loadIndexedByte(0)
        code.shiftRight(4)
        code.require(version, else: label)
    }

    // MARK: Comparing

    /// Accepts what the rule matches, and goes on behind it with the rest.
    private mutating func match(_ rule: FlowRule) {
        let differs = code.makeLabel()
        for specification in rule.specifications {
            switch specification.header {
            case .ethernet(let header): match(header, else: differs)
            case .ipv4(let header): match(header, else: differs)
            case .ipv6(let header): match(header, else: differs)
            case .tcp(let ports): match(ports, number: 6, else: differs)
            case .udp(let ports): match(ports, number: 17, else: differs)
            // Not expressible.
            case .esp, .vxlan, .gre, .mpls: code.jump(to: differs)
            }
        }
        code.accept()
        code.place(differs)
    }

    private mutating func match(_ header: EthernetSpecification, else differs: FilterAssembler.Label) {
        for (pattern, offset) in [(header.destination.bits, 0), (header.source.bits, 6)]
            as [(FlowPattern<UInt64>, UInt32)]
        {
            compare(pattern.value >> 16, pattern.mask >> 16, else: differs) { $0.loadWord(at: offset) }
            compare(pattern.value & 0xFFFF, pattern.mask & 0xFFFF, else: differs) { $0.loadHalf(at: offset + 4) }
        }
        compare(header.etherType, else: differs) { $0.load(.type) }
        guard !header.vlanTag.isAny else { return }
        code.load(.hasTag)
        code.require(1, else: differs)
        compare(header.vlanTag, else: differs) { $0.load(.tag) }
    }

    private mutating func match(_ header: IPv4Specification, else differs: FilterAssembler.Label) {
        code.load(.version)
        code.require(4, else: differs)
        code.index(.network)
        compare(header.source.bits, else: differs) { $0.loadIndexedWord(12) }
        compare(header.destination.bits, else: differs) { $0.loadIndexedWord(16) }
        compare(header.nextProtocol, else: differs) { $0.load(.proto) }
        compare(header.typeOfService, else: differs) { $0.loadIndexedByte(1) }
        compare(header.timeToLive, else: differs) { $0.loadIndexedByte(8) }
        // The kernel's numbers: 2 don't fragment, 4 more fragments; 1 is nothing.
        let flags = header.flags
        for (bit, inHeader) in [(2, 0x4000), (4, 0x2000)] as [(UInt8, UInt64)] where flags.mask & bit != 0 {
            compare(flags.value & bit != 0 ? inHeader : 0, inHeader, else: differs) { $0.loadIndexedHalf(6) }
        }
        if flags.mask & flags.value & 1 != 0 { code.jump(to: differs) }
    }

    private mutating func match(_ header: IPv6Specification, else differs: FilterAssembler.Label) {
        code.load(.version)
        code.require(6, else: differs)
        code.index(.network)
        for (pattern, offset) in [(header.source.bits, 8), (header.destination.bits, 24)]
            as [(FlowPattern<UInt128>, UInt32)]
        {
            for word: UInt32 in 0..<4 {
                let shift = UInt128(96 - 32 * word)
                compare(
                    UInt64(truncatingIfNeeded: pattern.value >> shift) & 0xFFFF_FFFF,
                    UInt64(truncatingIfNeeded: pattern.mask >> shift) & 0xFFFF_FFFF, else: differs
                ) { $0.loadIndexedWord(offset + 4 * word) }
            }
        }
        compare(header.nextHeader, else: differs) { $0.load(.proto) }
        compare(
            UInt64(header.trafficClass.value) << 20, UInt64(header.trafficClass.mask) << 20, else: differs
        ) { $0.loadIndexedWord(0) }
        compare(header.flowLabel, else: differs) { $0.loadIndexedWord(0) }
        compare(header.hopLimit, else: differs) { $0.loadIndexedByte(7) }
    }

    private mutating func match(_ ports: PortSpecification, number: UInt32, else differs: FilterAssembler.Label) {
        code.load(.isTransport)
        code.require(1, else: differs)
        code.load(.proto)
        code.require(number, else: differs)
        guard !ports.source.isAny || !ports.destination.isAny else { return }
        code.load(.transport)
        code.jump(ifEqual: 0, to: differs)
        code.index(.transport)
        compare(ports.source, else: differs) { $0.loadIndexedHalf(0) }
        compare(ports.destination, else: differs) { $0.loadIndexedHalf(2) }
    }

    private mutating func compare<Value>(
        _ pattern: FlowPattern<Value>, else differs: FilterAssembler.Label, _ load: (inout FilterAssembler) -> Void
    ) {
        compare(UInt64(pattern.value), UInt64(pattern.mask), else: differs, load)
    }

    private mutating func compare(
        _ value: UInt64, _ mask: UInt64, else differs: FilterAssembler.Label, _ load: (inout FilterAssembler) -> Void
    ) {
        guard mask != 0 else { return }
        load(&code)
        code.and(UInt32(truncatingIfNeeded: mask))
        code.require(UInt32(truncatingIfNeeded: value & mask), else: differs)
    }
}
