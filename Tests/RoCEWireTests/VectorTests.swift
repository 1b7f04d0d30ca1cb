// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

/// Frames of a ConnectX-4 Lx (scapy's test suite) and of kernel rxe, with what another decoder says of them.
@Suite("Frames of hardware and of rxe, field by field")
struct VectorTests {
    private struct Vector {
        let outer: RoCEFrame
        let packet: RoCEPacket
        let icrc: UInt32
        let verdict: ICRCVerifier.Verdict

        init(_ hex: String) throws {
            let frame = [UInt8](hex: hex)
            guard case .frame(let outer) = RoCEFrame.parse(ethernet: frame.span.bytes),
                case .packet(let packet) = RoCEPacket.parse(frame.span.bytes.extracting(outer.udpPayload))
            else { throw Refused() }
            let payload = frame.span.bytes.extracting(outer.udpPayload)
            self.outer = outer
            self.packet = packet
            icrc =
                ICRC.compute(
                    ICRC.seed(outer.flow, udpPayloadByteCount: payload.byteCount, identification: outer.identification),
                    over: payload.extracting(0..<packet.icrcOffset)
                ).byteSwapped
            var verifier = ICRCVerifier()
            verdict = verifier.check(payload, outer.flow, expecting: 0)
        }

        struct Refused: Error {}
    }

    @Test("congestion notification of a ConnectX-4 Lx")
    func congestionNotification() throws {
        let v = try Vector(
            """
            e41d2dab2bc27cfe90643b32080045c2003c718c4000401191610a0011010a001201000012b7002800008100ffff40000118 \
            0000000000000000000000000000000000000000 82fd002a
            """)
        #expect(v.icrc == 0x82FD_002A)
        #expect(v.verdict == .explained(identification: 0x718C, dontFragment: true))
        #expect(v.packet.descriptor.operation == .congestionNotification)
        #expect(v.packet.bth.becn && !v.packet.bth.fecn && !v.packet.bth.acknowledgeRequest)
        #expect(v.packet.bth.destination == QPN(truncating: 0x118) && v.packet.bth.psn == PSN(truncating: 0))
        #expect(v.outer.flow.sourcePort == 0 && v.outer.trafficClass == 0xC2)
        #expect(v.outer.flow.source == GID("10.0.17.1") && v.outer.flow.destination == GID("10.0.18.1"))
        #expect(v.packet.payloadByteCount == 16 && !v.packet.descriptor.isRequest && !v.packet.descriptor.isResponse)
    }

    @Test("acknowledge")
    func acknowledge() throws {
        let v = try Vector(
            """
            0200000000020200000000010800450000300f6c400040110ffdc0a84d01c0a84d02c67e12b7001c00001100ffff00000011003b4a\
            f91f000001 6cd17339
            """)
        #expect(v.icrc == 0x6CD1_7339)
        #expect(v.packet.aeth == AETH(syndrome: .acknowledged, msn: MSN(truncating: 1)))
        #expect(v.packet.bth.destination == QPN(truncating: 0x11) && v.packet.bth.psn == PSN(truncating: 0x3B4AF9))
        #expect(v.packet.descriptor.isResponse && v.packet.payloadByteCount == 0)
    }

    @Test("READ request")
    func readRequest() throws {
        let v = try Vector(
            """
            02000000000202000000000108004500003c0f6d400040110ff0c0a84d01c0a84d02c67e12b7002800000c00ffff00000011801a18\
            a20000563d390f13700000055300000040 b1d092cf
            """)
        #expect(v.icrc == 0xB1D0_92CF)
        let reth = RETH(virtualAddress: 0x563D_390F_1370, rkey: MemoryKey(rawValue: 0x553), length: 64)
        #expect(v.packet.reth == reth)
        #expect(v.packet.bth.acknowledgeRequest && v.packet.bth.psn == PSN(truncating: 0x1A18A2))
        #expect(v.verdict == .explained(identification: 0x0F6D, dontFragment: true))
    }

    @Test("WRITE of five bytes with three of pad")
    func writeWithPad() throws {
        let v = try Vector(
            """
            02000000000202000000000108004500004418f3400040110662c0a84d01c0a84d02c24012b7003000000a30ffff00000018801821\
            b100005650e449600000000c4c000000050000000001000000 7b4b87a3
            """)
        #expect(v.icrc == 0x7B4B_87A3)
        #expect(v.packet.bth.padCount == 3 && v.packet.payloadByteCount == 5)
        #expect(v.packet.reth.length == 5 && v.packet.reth.rkey == MemoryKey(rawValue: 0xC4C))
    }

    @Test("compare and swap, and its answer")
    func atomics() throws {
        let v = try Vector(
            """
            02000000000102000000000208004500004 81a2a400040110527c0a84d02c0a84d01c21112b7003400001300ffff0000001780\
            29bea80000565212ea500000000a6100000000000000000000000000000000 dea23d24
            """)
        #expect(v.icrc == 0xDEA2_3D24)
        let operands = AtomicETH(
            virtualAddress: 0x5652_12EA_5000, rkey: MemoryKey(rawValue: 0xA61), swapOrAdd: 0, compare: 0)
        #expect(v.packet.atomicETH == operands)
        let answer = try Vector(
            """
            020000000002020000000001080045000038171f400040110842c0a84d01c0a84d02c1e412b7002400001200ffff0000001600222a\
            fd1f000001a182fee31366994e e7689c6a
            """)
        #expect(answer.icrc == 0xE768_9C6A)
        #expect(answer.packet.atomicAckETH.originalValue == 0xA182_FEE3_1366_994E)
        #expect(answer.packet.aeth.syndrome == .acknowledged)
    }

    @Test("acknowledge over IPv6")
    func acknowledgeIPv6() throws {
        let v = try Vector(
            """
            8e832a4eb47602000000000c86dd60000000001c1140fd000008000000000000000000000002fd0000080000000000000000000000\
            01fbf912b7001c00001100ffff00001234006f363d1f000001 b0c5ec5d
            """)
        #expect(v.icrc == 0xB0C5_EC5D)
        #expect(v.verdict == .exact)
        #expect(v.outer.flow.source == GID("fd00:8::2") && v.outer.flow.destination == GID("fd00:8::1"))
    }

    // No capture of XRC was at hand. These were put together field by field in the order that the annexes give, their ICRC
    // is zlib's; tshark 4.0 knows the opcodes.

    @Test("XRC SEND and WRITE with immediate")
    func extendedSendAndWrite() throws {
        let send = try Vector(
            """
            02000000000202000000000108004500003c0000400040111f5dc0a84d01c0a84d02c00012b700280000a530ffff00000011800012\
            3400abcdef0102030468656c6c6f000000 ca7c545a
            """)
        #expect(send.verdict == .exact)
        #expect("\(send.packet.descriptor)" == "XRC SEND ONLY with immediate")
        #expect(send.packet.xrceth == XRCETH(sharedReceiveQueue: 0xAB_CDEF))
        #expect(send.packet.immDt == ImmDt(networkOrderValue: UInt32(0x0102_0304).bigEndian))
        #expect(send.packet.payloadOffset == 20 && send.packet.payloadByteCount == 5)
        let write = try Vector(
            """
            02000000000202000000000108004500004c0000400040111f4dc0a84d01c0a84d02c00012b700380000ab30ffff00000011800012\
            3400abcdef112233445566778899aabbcc000000050102030468656c6c6f000000 6b65d61f
            """)
        #expect(write.verdict == .exact)
        #expect(write.packet.xrceth == XRCETH(sharedReceiveQueue: 0xAB_CDEF))
        let rkey = MemoryKey(rawValue: 0x99AA_BBCC)
        #expect(write.packet.reth == RETH(virtualAddress: 0x1122_3344_5566_7788, rkey: rkey, length: 5))
        #expect(write.packet.immDt == ImmDt(networkOrderValue: UInt32(0x0102_0304).bigEndian))
    }

    @Test("XRC COMPARE SWAP, FLUSH and acknowledge")
    func extendedAtomicAndFlush() throws {
        let swap = try Vector(
            """
            02000000000202000000000108004500004c0000400040111f4dc0a84d01c0a84d02c00012b700380000b300ffff00000011800012\
            3400abcdef112233445566778899aabbcc01020304050607081112131415161718 f1907527
            """)
        let rkey = MemoryKey(rawValue: 0x99AA_BBCC)
        #expect(swap.verdict == .exact)
        #expect(swap.packet.xrceth == XRCETH(sharedReceiveQueue: 0xAB_CDEF))
        let atomic = AtomicETH(
            virtualAddress: 0x1122_3344_5566_7788, rkey: rkey, swapOrAdd: 0x0102_0304_0506_0708,
            compare: 0x1112_1314_1516_1718)
        #expect(swap.packet.atomicETH == atomic)
        let flush = try Vector(
            """
            0200000000020200000000010800450000440000400040111f55c0a84d01c0a84d02c00012b700300000bc00ffff00000011800012\
            3400abcdef00000001112233445566778899aabbcc00000005 6a20d5f3
            """)
        #expect(flush.verdict == .exact)
        #expect(flush.packet.feth == FETH(isGlobal: true, isPersistent: false, isWholeRegion: false))
        #expect(flush.packet.reth == RETH(virtualAddress: 0x1122_3344_5566_7788, rkey: rkey, length: 5))
        let acknowledge = try Vector(
            """
            0200000000020200000000010800450000300000400040111f69c0a84d01c0a84d02c00012b7001c0000b100ffff00000011800012\
            341f000007 082fb119
            """)
        #expect(acknowledge.packet.descriptor.isResponse && acknowledge.packet.descriptor.transport == .xrc)
        #expect(acknowledge.packet.aeth == AETH(syndrome: .acknowledged, msn: MSN(truncating: 7)))
    }
}
