// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// Responses that come before the one that is due, and asking for only what was lost.
@Suite("Responses behind a gap") struct EarlyResponseTests {
    private func peer(isSelective: Bool, _ configure: (inout EngineConfiguration) -> Void = { _ in }) throws
        -> ScriptedPeer
    {
        let peer = ScriptedPeer(configure: configure)
        if isSelective { try peer.node.engine.pointee.repeatSelectively(peer.queues.qpn) }
        return peer
    }

    private func packet(_ value: UInt8) -> [UInt8] { [UInt8](repeating: value, count: 1024) }

    private func acknowledgeAtomic(_ peer: ScriptedPeer, _ psn: UInt32, _ value: UInt64) {
        peer.arrive(.rcAtomicAcknowledge, psn: psn) {
            $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 0))
            $0.atomicAckETH = AtomicAckETH(originalValue: value)
        }
    }

    @Test("are placed when it is filled, and nothing before", arguments: [false, true])
    func placement(isSelective: Bool) throws {
        let peer = try peer(isSelective: isSelective)
        peer.post(.rdmaRead, id: 1, length: 4096)
        _ = peer.takeSent()
        peer.respond(.rcReadResponseMiddle, 0x102, packet(3))
        peer.respond(.rcReadResponseFirst, 0x100, packet(1))
        peer.respond(.rcReadResponseLast, 0x103, packet(4))
        #expect(peer.counters.earlyResponses == 2)
        #expect(peer.memory[1024..<4096].allSatisfy { $0 == 0 })
        #expect(peer.pollSends().isEmpty)
        peer.respond(.rcReadResponseMiddle, 0x101, packet(2))
        #expect(peer.pollSends().map(\.status) == [.success])
        #expect(Array(peer.memory[0..<4096]) == packet(1) + packet(2) + packet(3) + packet(4))
    }

    @Test("are all asked for again of a peer that we do not know, and ignored then")
    func goingBack() throws {
        let peer = try peer(isSelective: false)
        peer.post(.rdmaRead, id: 1, length: 4096)
        _ = peer.takeSent()
        for psn in [0x100, 0x102, 0x103] as [UInt32] {
            peer.respond(psn == 0x100 ? .rcReadResponseFirst : .rcReadResponseMiddle, psn, packet(UInt8(psn & 0xFF)))
        }
        let repeated = peer.takeSent()
        #expect(repeated.map(\.psn) == [0x101])
        #expect(repeated.map(\.reth.length) == [3072])
        // rxe answers with MIDDLE, and serves everything from there on.
        for psn in [0x101, 0x102, 0x103] as [UInt32] {
            peer.respond(psn == 0x103 ? .rcReadResponseLast : .rcReadResponseMiddle, psn, packet(UInt8(psn & 0xFF)))
        }
        #expect(peer.pollSends().map(\.status) == [.success])
        #expect(peer.counters.droppedSequence == 2)
        #expect(peer.takeSent().isEmpty)
    }

    @Test("are not asked for again of a peer of our own, gap by gap")
    func selective() throws {
        let peer = try peer(isSelective: true)
        peer.post(.rdmaRead, id: 1, length: 8192)
        peer.post(.send, id: 2)
        _ = peer.takeSent()
        for psn in [0x100, 0x102, 0x103, 0x106, 0x107] as [UInt32] {
            peer.respond(psn == 0x100 ? .rcReadResponseFirst : .rcReadResponseMiddle, psn, packet(UInt8(psn & 0xFF)))
        }
        var repeated = peer.takeSent()
        #expect(repeated.map(\.brief) == ["\(Opcode.rcReadRequest) \(0x101)"])
        #expect(repeated.map(\.reth.length) == [1024])
        #expect(repeated.map(\.reth.virtualAddress) == [0x5000 + 1024])
        peer.respond(.rcReadResponseOnly, 0x101, packet(1))
        repeated = peer.takeSent()
        #expect(repeated.map(\.psn) == [0x104])
        #expect(repeated.map(\.reth.length) == [2048])
        peer.respond(.rcReadResponseFirst, 0x104, packet(4))
        peer.respond(.rcReadResponseLast, 0x105, packet(5))
        #expect(peer.pollSends().map(\.id) == [1])
        peer.acknowledge(0x108)
        #expect(peer.pollSends().map(\.id) == [2])
        #expect(peer.takeSent().isEmpty, "the SEND behind it was not lost")
        #expect((0..<8).allSatisfy { peer.memory[$0 * 1024 + 1023] == UInt8($0) })
        #expect(peer.counters.selectiveRepetitions == 2)
    }

    @Test("of an atomic are kept too, and the READ before is asked for alone")
    func atomic() throws {
        let peer = try peer(isSelective: true)
        peer.post(.rdmaRead, id: 1, length: 2048) { _ in }
        peer.post(.fetchAndAdd, id: 2)
        _ = peer.takeSent()
        acknowledgeAtomic(peer, 0x102, 77)
        #expect(peer.takeSent().map(\.reth.length) == [2048])
        peer.respond(.rcReadResponseFirst, 0x100, packet(1))
        peer.respond(.rcReadResponseLast, 0x101, packet(1))
        #expect(peer.pollSends().map(\.id) == [1, 2])
        #expect(peer.memory[0] == 77)
    }

    @Test("leave nothing out where a request behind was lost as well")
    func lossOfBoth() throws {
        let peer = try peer(isSelective: true)
        peer.post(.rdmaRead, id: 1, length: 3072)
        peer.post(.send, id: 2)
        peer.post(.send, id: 3)
        _ = peer.takeSent()
        peer.respond(.rcReadResponseFirst, 0x100, packet(1))
        peer.respond(.rcReadResponseLast, 0x102, packet(1))
        #expect(peer.takeSent().map(\.psn) == [0x101])
        peer.arrive(.rcAcknowledge, psn: 0x103) {
            $0.aeth = AETH(syndrome: .refused(.sequenceError), msn: MSN(truncating: 1))
        }
        #expect(peer.takeSent().map(\.psn) == [0x101, 0x103, 0x104])
        peer.respond(.rcReadResponseOnly, 0x101, packet(1))
        peer.acknowledge(0x104)
        #expect(peer.pollSends().map(\.id) == [1, 2, 3])
    }

    @Test("are bounded, for a queue pair and for all")
    func bounds() throws {
        let peer = try peer(isSelective: false) {
            $0.earlyPacketCountMax = 4
            $0.earlyPacketPoolCountMax = 64
        }
        peer.post(.rdmaRead, id: 1, length: 16384)
        for psn in 0x101..<0x110 as Range<UInt32> { peer.respond(.rcReadResponseMiddle, psn, packet(1)) }
        #expect(peer.counters.earlyResponses == 4)
        #expect(peer.counters.droppedSequence == 11)
        for psn in 0x100..<0x110 as Range<UInt32> {
            peer.respond(psn == 0x10F ? .rcReadResponseLast : .rcReadResponseMiddle, psn, packet(2))
        }
        #expect(peer.pollSends().map(\.status) == [.success])
    }

    @Test("leave their places when their queue pair fails, is reset or destroyed")
    func release() throws {
        let peer = try peer(isSelective: false) {
            $0.earlyPacketPoolCountMax = 64
            $0.windowInitialBytes = 1 << 20
        }
        func fill() {
            let before = peer.counters.earlyResponses
            peer.post(.rdmaRead, id: 1, length: 66 * 1024)
            let first = peer.takeSent()[0].psn
            for psn in first + 1..<first + 65 { peer.respond(.rcReadResponseMiddle, psn, packet(1)) }
            #expect(peer.counters.earlyResponses == before + 64)
        }
        func reconnect() {
            peer.node.modify(peer.queues.qpn, [.state]) { $0.state = .reset }
            peer.node.connect(peer.queues.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
            peer.drain()
            _ = peer.takeSent()
        }
        fill()
        peer.node.modify(peer.queues.qpn, [.state]) { $0.state = .error }
        reconnect()
        fill()
        reconnect()
        fill()
        // Too short, in front of them.
        peer.respond(.rcReadResponseFirst, 0x100, [1])
        #expect(peer.state == .error)
        reconnect()
        fill()
        try peer.node.engine.pointee.destroyQueuePair(peer.queues.qpn)
        #expect(peer.counters.droppedSequence == 4 * 64)
    }

    @Test("A responder that is asked for a part while it answers the whole goes on to the end")
    func partWhileAnswering() {
        let peer = ScriptedPeer()
        peer.node.transmitQueue = TransmitQueue(arenaByteCount: 65_536, burstCountMax: 4)
        func read(_ psn: UInt32, packets: Int) {
            peer.arrive(.rcReadRequest, psn: psn, drains: false) {
                $0.reth = RETH(
                    virtualAddress: peer.address((Int(psn) - 0x200) * 1024), rkey: peer.key,
                    length: UInt32(packets * 1024))
            }
        }
        read(0x200, packets: 250)
        _ = peer.node.engine.pointee.transmit(into: &peer.node.transmitQueue, now: peer.now)
        let isUnderWay = !peer.node.transmitQueue.isEmpty
        #expect(isUnderWay)
        read(0x201, packets: 1)
        peer.drain()
        let psns = peer.takeSent().map(\.psn)
        #expect(Set(psns) == Set(0x200..<0x200 + 250))
        let end: [UInt32] = [0x200 + 248, 0x200 + 249]
        #expect(psns.suffix(2) == end[...])
        #expect(psns.filter { $0 == 0x201 }.count == 2)
    }
}
