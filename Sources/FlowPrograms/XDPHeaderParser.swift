// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// Emits the part of a program that takes a frame's headers apart into words of ``FlowKey``, on the stack.
///
/// It reads what ``PacketHeaders`` reads, with the same bounds, so that a frame has the same key in both: eight VLAN tags and eight
/// IPv6 extension headers at most, IPv4 options, fragments, nothing behind the length that IP tells. It stops in front of tunnels.
/// An IP version that no rule looks at is not taken apart.
///
/// Registers: r6 the context, r7 the offset of the header, r8 where the packet ends, r9 the header's bytes. All else is scratch.
struct XDPHeaderParser {
    let plan: XDPRulePlan
    /// By which the frame is found. TC has a packet's first VLAN tag beside its bytes.
    let kind: BPFProgram.Kind
    /// Whether headers are copied out of the frame, which may lie in several buffers, instead of read in place. In TC always.
    let copiesHeaders: Bool

    /// Where things are on the stack.
    enum Stack {
        static func word(_ index: Int) -> Int16 { Int16(index * 8 - 88) }
        /// The key for the map.
        static func key(_ index: Int) -> Int16 { Int16(index * 8 - 184) }
        static let frameByteCount: Int16 = -192
        /// The key for arrays.
        static let number: Int16 = -196
        /// The first byte of the frame: whom it is to.
        static let destinationByte: Int16 = -197
        static let header: Int16 = -240

        static func place(_ field: FlowKeyField) -> Int16 { word(field.word) + Int16(field.shift / 8) }
    }

    /// Offsets in `struct xdp_md`.
    enum Context {
        static let data: Int16 = 0
        static let dataEnd: Int16 = 4
        static let metadata: Int16 = 8
        static let queue: Int16 = 16
    }

    /// Offsets in `struct __sk_buff`.
    enum PacketContext {
        static let byteCount: Int16 = 0
        static let hasTag: Int16 = 20
        static let tag: Int16 = 24
    }

    /// As in ``PacketHeaders``: 14 bytes of Ethernet, eight tags, an IPv6 header and eight extensions of up to 2048 bytes end before.
    private static let offsetMax: Int32 = 0x7FFF
    private static let lengthMax: Int32 = 0xFFFF

    private enum ProtocolNumber {
        static let tcp: Int32 = 6
        static let udp: Int32 = 17
        static let esp: Int32 = 50
        static let fragment: Int32 = 44
        static let authentication: Int32 = 51
        /// Extension headers whose length is in units of eight bytes.
        static let extensions: [Int32] = [0, 43, 60, 135, 139, 140]
    }

    /// The instructions that fill the words; they end at `done`, which the caller places behind them.
    func emit(_ code: inout BPFAssembler, done: BPFAssembler.Label) {
        for index in Set(plan.words + [FlowKeyField.etherType.word]).sorted() {
            code.store(constant: 0, .double, at: .stack, Stack.word(index))
        }
        code.store(constant: 0, .byte, at: .stack, Stack.destinationByte)
        measure(&code)
        parseEthernet(&code, done: done)
        let ipv4 = code.makeLabel()
        let ipv6 = code.makeLabel()
        let transport = code.makeLabel()
        let wantsTransport = [FlowLayers.tcp, .udp, .esp].contains(where: plan.wants)
        code.load(.r1, .half, at: .stack, Stack.place(.etherType))
        if plan.wants(.ipv4) { code.jump(if: .r1, .equal, 0x0800, to: ipv4) }
        if plan.wants(.ipv6) { code.jump(if: .r1, .equal, 0x86DD, to: ipv6) }
        code.jump(to: done)
        if plan.wants(.ipv4) {
            code.place(ipv4)
            parseIPv4(&code, done: done)
            code.jump(to: wantsTransport ? transport : done)
        }
        if plan.wants(.ipv6) {
            code.place(ipv6)
            parseIPv6(&code, done: done)
        }
        if wantsTransport {
            code.place(transport)
            parseTransport(&code, done: done)
        }
    }

    // MARK: Headers

    private func parseEthernet(_ code: inout BPFAssembler, done: BPFAssembler.Label) {
        code.compute(.r7, .move, 0)
        fetch(14, &code, else: done)
        insert(.ethernet, &code)
        code.load(.r1, .byte, at: .r9, 0)
        code.store(.r1, .byte, at: .stack, Stack.destinationByte)
        if plan.words.contains(FlowKeyField.ethernetDestination.word) {
            code.load(.r1, .word, at: .r9, 0)
            code.swapToNetworkOrder(.r1, bits: 32)
            code.compute(.r1, .shiftLeft, 32)
            loadNetworkHalf(.r2, 4, &code)
            code.compute(.r2, .shiftLeft, 16)
            code.compute(.r1, .or, .r2)
            code.store(.r1, .double, at: .stack, Stack.word(FlowKeyField.ethernetDestination.word))
        }
        if plan.words.contains(FlowKeyField.ethernetSource.word) {
            loadNetworkHalf(.r1, 6, &code)
            code.compute(.r1, .shiftLeft, 48)
            code.load(.r2, .word, at: .r9, 8)
            code.swapToNetworkOrder(.r2, bits: 32)
            code.compute(.r2, .shiftLeft, 16)
            code.compute(.r1, .or, .r2)
            code.store(.r1, .double, at: .stack, Stack.word(FlowKeyField.ethernetSource.word))
        }
        loadNetworkHalf(.r1, 12, &code)
        code.store(.r1, .half, at: .stack, Stack.place(.etherType))
        code.compute(.r7, .add, 14)
        let end = code.makeLabel()
        let second = code.makeLabel()
        if kind == .ingress { takeTagBeside(&code, then: second) }
        for index in 0..<PacketHeaders.chainCountMax {
            let tag = code.makeLabel()
            if index == 1, kind == .ingress { code.place(second) }
            code.load(.r1, .half, at: .stack, Stack.place(.etherType))
            code.jump(if: .r1, .equal, 0x8100, to: tag)
            code.jump(if: .r1, .notEqual, 0x88A8, to: end)
            code.place(tag)
            fetch(4, &code, else: end)
            if index == 0 {
                loadNetworkHalf(.r1, 0, &code)
                keep(.r1, .tag, &code)
                insert(.tag, &code)
            }
            loadNetworkHalf(.r1, 2, &code)
            code.store(.r1, .half, at: .stack, Stack.place(.etherType))
            code.compute(.r7, .add, 4)
        }
        code.place(end)
        forgetOffset(upTo: 0x3F, &code)
    }

    /// The kernel has taken the first tag off: what follows the addresses is the second, if any.
    private func takeTagBeside(_ code: inout BPFAssembler, then second: BPFAssembler.Label) {
        let none = code.makeLabel()
        code.load(.r1, .word, at: .r6, PacketContext.hasTag)
        code.jump(if: .r1, .equal, 0, to: none)
        code.load(.r1, .word, at: .r6, PacketContext.tag)
        keep(.r1, .tag, &code)
        insert(.tag, &code)
        code.jump(to: second)
        code.place(none)
    }

    private func parseIPv4(_ code: inout BPFAssembler, done: BPFAssembler.Label) {
        fetch(20, &code, else: done)
        code.load(.r4, .byte, at: .r9, 0)
        code.compute(.r1, .move, .r4)
        code.compute(.r1, .shiftRight, 4)
        code.jump(if: .r1, .notEqual, 4, to: done)
        code.compute(.r4, .and, 0xF)
        code.compute(.r4, .shiftLeft, 2)
        code.jump(if: .r4, .less, 20, to: done)
        insert(.ipv4, &code)
        for (field, offset) in [(FlowKeyField.trafficClass, Int16(1)), (.hopLimit, 8), (.nextProtocol, 9)] {
            code.load(.r1, .byte, at: .r9, offset)
            keep(.r1, field, &code)
        }
        for (field, offset) in [(FlowKeyField.ipv4Source, Int16(12)), (.ipv4Destination, 16)] {
            code.load(.r1, .word, at: .r9, offset)
            code.swapToNetworkOrder(.r1, bits: 32)
            keep(.r1, field, &code)
        }
        loadNetworkHalf(.r5, 6, &code)
        // Don't fragment from 0x4000 to 2, more fragments from 0x2000 to 4.
        code.compute(.r1, .move, .r5)
        code.compute(.r1, .shiftRight, 13)
        code.compute(.r2, .move, .r1)
        code.compute(.r1, .and, 2)
        code.compute(.r2, .and, 1)
        code.compute(.r2, .shiftLeft, 2)
        code.compute(.r1, .or, .r2)
        keep(.r1, .ipv4Flags, &code)

        let hasEnd = code.makeLabel()
        loadNetworkHalf(.r2, 2, &code)
        code.jump(if: .r2, .equal, 0, to: hasEnd)
        code.jump(if: .r2, .less, .r4, to: done)
        code.compute(.r2, .add, .r7)
        shorten(to: .r2, &code)
        code.place(hasEnd)
        code.compute(.r7, .add, .r4)
        code.compute(.r5, .and, 0x1FFF)
        let isFirst = code.makeLabel()
        code.jump(if: .r5, .equal, 0, to: isFirst)
        hideTransport(&code)
        code.place(isFirst)
    }

    private func parseIPv6(_ code: inout BPFAssembler, done: BPFAssembler.Label) {
        fetch(40, &code, else: done)
        code.load(.r1, .word, at: .r9, 0)
        code.swapToNetworkOrder(.r1, bits: 32)
        code.compute(.r2, .move, .r1)
        code.compute(.r2, .shiftRight, 28)
        code.jump(if: .r2, .notEqual, 6, to: done)
        code.compute(.r2, .move, .r1)
        code.compute(.r2, .shiftRight, 20)
        keep(.r2, .trafficClass, &code)
        code.compute(.r1, .and, 0xF_FFFF)
        keep(.r1, .flowLabel, &code)
        insert(.ipv6, &code)
        for (field, offset) in [(FlowKeyField.nextProtocol, Int16(6)), (.hopLimit, 7)] {
            code.load(.r1, .byte, at: .r9, offset)
            keep(.r1, field, &code)
        }
        let addresses: [(FlowKeyField, Int16)] = [
            (.ipv6SourceHigh, 8), (.ipv6SourceLow, 16), (.ipv6DestinationHigh, 24), (.ipv6DestinationLow, 32),
        ]
        for (field, offset) in addresses where plan.words.contains(field.word) {
            code.load(.r1, .double, at: .r9, offset)
            code.swapToNetworkOrder(.r1, bits: 64)
            keep(.r1, field, &code)
        }
        let hasEnd = code.makeLabel()
        loadNetworkHalf(.r2, 4, &code)
        code.jump(if: .r2, .equal, 0, to: hasEnd)
        code.compute(.r2, .add, 40)
        code.compute(.r2, .add, .r7)
        shorten(to: .r2, &code)
        code.place(hasEnd)
        code.compute(.r7, .add, 40)
        let end = code.makeLabel()
        for _ in 0..<PacketHeaders.chainCountMax { parseExtension(&code, end: end) }
        code.place(end)
    }

    /// One extension header; goes to `end` where there is none, or nothing can follow.
    private func parseExtension(_ code: inout BPFAssembler, end: BPFAssembler.Label) {
        let ordinary = code.makeLabel()
        let authentication = code.makeLabel()
        let fragment = code.makeLabel()
        let step = code.makeLabel()
        let next = code.makeLabel()
        code.load(.r1, .byte, at: .stack, Stack.place(.nextProtocol))
        for number in ProtocolNumber.extensions { code.jump(if: .r1, .equal, number, to: ordinary) }
        code.jump(if: .r1, .equal, ProtocolNumber.fragment, to: fragment)
        code.jump(if: .r1, .equal, ProtocolNumber.authentication, to: authentication)
        code.jump(to: end)

        code.place(fragment)
        fetch(8, &code, else: end)
        code.load(.r1, .byte, at: .r9, 0)
        keep(.r1, .nextProtocol, &code)
        code.compute(.r7, .add, 8)
        loadNetworkHalf(.r1, 2, &code)
        code.compute(.r1, .and, 0xFFF8)
        code.jump(if: .r1, .equal, 0, to: next)
        hideTransport(&code)
        code.jump(to: end)

        code.place(authentication)
        fetch(8, &code, else: end)
        code.load(.r1, .byte, at: .r9, 1)
        code.compute(.r1, .shiftLeft, 2)
        code.jump(to: step)
        code.place(ordinary)
        fetch(8, &code, else: end)
        code.load(.r1, .byte, at: .r9, 1)
        code.compute(.r1, .shiftLeft, 3)
        code.place(step)
        code.compute(.r1, .add, 8)
        code.compute(.r1, .add, .r7)
        code.jump(if: .r1, .greater, .r8, to: end)
        code.jump(if: .r1, .greater, Self.offsetMax, to: end)
        code.compute(.r7, .move, .r1)
        code.load(.r1, .byte, at: .r9, 0)
        keep(.r1, .nextProtocol, &code)
        code.place(next)
        forgetOffset(upTo: Self.offsetMax, &code)
    }

    private func parseTransport(_ code: inout BPFAssembler, done: BPFAssembler.Label) {
        let tcp = code.makeLabel()
        let udp = code.makeLabel()
        let ports = code.makeLabel()
        code.load(.r1, .byte, at: .stack, Stack.place(.nextProtocol))
        code.jump(if: .r1, .equal, ProtocolNumber.udp, to: udp)
        code.jump(if: .r1, .equal, ProtocolNumber.tcp, to: tcp)
        code.jump(if: .r1, .notEqual, ProtocolNumber.esp, to: done)
        insert(.esp, &code)
        fetch(8, &code, else: done)
        insert(.transportFields, &code)
        for (field, offset) in [(FlowKeyField.espIndex, Int16(0)), (.espSequence, 4)] {
            code.load(.r1, .word, at: .r9, offset)
            code.swapToNetworkOrder(.r1, bits: 32)
            keep(.r1, field, &code)
        }
        code.jump(to: done)
        code.place(tcp)
        insert(.tcp, &code)
        code.jump(to: ports)
        code.place(udp)
        insert(.udp, &code)
        code.place(ports)
        fetch(4, &code, else: done)
        insert(.transportFields, &code)
        for (field, offset) in [(FlowKeyField.sourcePort, Int16(0)), (.destinationPort, 2)] {
            loadNetworkHalf(.r1, offset, &code)
            keep(.r1, field, &code)
        }
    }

    // MARK: Steps

    /// The length of the frame to the stack, and to r8, as far as headers can reach.
    private func measure(_ code: inout BPFAssembler) {
        if kind == .ingress {
            code.load(.r8, .word, at: .r6, PacketContext.byteCount)
        } else if copiesHeaders {
            code.compute(.r1, .move, .r6)
            code.call(.frameByteCount)
            code.compute(.r8, .move, .r0)
        } else {
            code.load(.r8, .word, at: .r6, Context.dataEnd)
            code.load(.r1, .word, at: .r6, Context.data)
            code.compute(.r8, .subtract, .r1)
        }
        code.store(.r8, .double, at: .stack, Stack.frameByteCount)
        let isShort = code.makeLabel()
        code.jump(if: .r8, .lessOrEqual, Self.lengthMax, to: isShort)
        code.compute(.r8, .move, Self.lengthMax)
        code.place(isShort)
    }

    /// r9 = the address of the `count` bytes at r7, if the packet has them; at most 40. Calls lose r0 to r5.
    private func fetch(_ count: Int32, _ code: inout BPFAssembler, else missing: BPFAssembler.Label) {
        code.compute(.r1, .move, .r7)
        code.compute(.r1, .add, count)
        code.jump(if: .r1, .greater, .r8, to: missing)
        if copiesHeaders || kind == .ingress {
            code.compute(.r1, .move, .r6)
            code.compute(.r2, .move, .r7)
            code.compute(.r3, .move, .stack)
            code.compute(.r3, .add, Int32(Stack.header))
            code.compute(.r4, .move, count)
            code.call(kind == .xdp ? .loadFrameBytes : .loadPacketBytes)
            code.jump(if: .r0, .notEqual, 0, to: missing)
            code.compute(.r9, .move, .stack)
            code.compute(.r9, .add, Int32(Stack.header))
        } else {
            code.load(.r9, .word, at: .r6, Context.data)
            code.load(.r2, .word, at: .r6, Context.dataEnd)
            code.compute(.r9, .add, .r7)
            // True always, after the comparison above; the verifier wants the addresses compared.
            code.compute(.r1, .move, .r9)
            code.compute(.r1, .add, count)
            code.jump(if: .r1, .greater, .r2, to: missing)
        }
    }

    /// Leaves r7 as it is, which is at most a number of ones. The verifier knows other bounds of it for each way that leads here, and
    /// would go through what follows once for each.
    private func forgetOffset(upTo ones: Int32, _ code: inout BPFAssembler) {
        loadUnknown(.r1, &code)
        code.compute(.r7, .exclusiveOr, .r1)
        code.compute(.r7, .exclusiveOr, .r1)
        code.compute(.r7, .and, ones)
    }

    /// A number that the verifier knows nothing of.
    func loadUnknown(_ register: BPFRegister, _ code: inout BPFAssembler) {
        code.load(register, .word, at: .r6, kind == .xdp ? Context.queue : PacketContext.byteCount)
    }

    /// The packet ends at the offset in a register, unless it ends before.
    private func shorten(to register: BPFRegister, _ code: inout BPFAssembler) {
        let isKept = code.makeLabel()
        code.jump(if: register, .greaterOrEqual, .r8, to: isKept)
        code.compute(.r8, .move, register)
        code.place(isKept)
    }

    /// A fragment behind the first: whatever follows is no header.
    private func hideTransport(_ code: inout BPFAssembler) { code.compute(.r8, .move, 0) }

    /// Two bytes of the header.
    private func loadNetworkHalf(_ register: BPFRegister, _ offset: Int16, _ code: inout BPFAssembler) {
        code.load(register, .half, at: .r9, offset)
        code.swapToNetworkOrder(register, bits: 16)
    }

    /// Stores a field where the words are looked at. This machine is little-endian, so a field of whole bytes is memory of its own.
    private func keep(_ register: BPFRegister, _ field: FlowKeyField, _ code: inout BPFAssembler) {
        guard plan.words.contains(field.word) else { return }
        let size: BPFSize =
            switch field.bitCount {
            case 8: .byte
            case 16: .half
            case 32: .word
            default: .double
            }
        code.store(register, size, at: .stack, Stack.place(field))
    }

    private func insert(_ layers: FlowLayers, _ code: inout BPFAssembler) {
        code.load(.r1, .half, at: .stack, Stack.place(.layers))
        code.compute(.r1, .or, Int32(layers.rawValue))
        code.store(.r1, .half, at: .stack, Stack.place(.layers))
    }
}
