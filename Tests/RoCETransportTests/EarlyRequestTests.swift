// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// Requests that come before the one that is expected, and repeating only what was lost.
@Suite("Requests behind a gap") struct EarlyRequestTests {
    private let full = [UInt8](repeating: 0x55, count: 1024)

    private func syndromes(_ packets: [RoCEPacket]) -> [UInt8] { packets.map(\.aeth.syndrome.rawValue) }

    private func selectivePeer(_ configure: (inout EngineConfiguration) -> Void = { _ in }) throws -> ScriptedPeer {
        let peer = ScriptedPeer(configure: configure)
        try peer.node.engine.pointee.repeatSelectively(peer.queues.qpn)
        return peer
    }

    private func nak(_ peer: ScriptedPeer, _ psn: UInt32, missing: UInt32) {
        peer.arrive(.rcAcknowledge, psn: psn) {
            $0.aeth = AETH(syndrome: .refused(.sequenceError), msn: MSN(truncating: missing))
        }
    }

    // MARK: Any peer

    @Test("are executed in their order when it is filled, whatever order they came in")
    func order() {
        let peer = ScriptedPeer()
        for id in 0..<2 { peer.postReceive(id: UInt64(id), at: 65_536 + id * 4096) }
        peer.request(.rcSendLast, 0x202, [9, 9])
        peer.request(.rcSendOnly, 0x203, [7])
        peer.request(.rcSendMiddle, 0x201, full)
        peer.request(.rcSendMiddle, 0x201, full)
        #expect(peer.counters.earlyRequests == 3)
        #expect(peer.counters.droppedSequence == 1, "the repetition")
        #expect(peer.pollReceives().isEmpty)
        peer.request(.rcSendFirst, 0x200, full)
        let receives = peer.pollReceives()
        #expect(receives.map(\.id) == [0, 1])
        #expect(receives.map(\.byteLength) == [2050, 1])
        #expect(Array(peer.memory[65_536..<65_536 + 2050]) == full + full + [9, 9])
        #expect(peer.memory[65_536 + 4096] == 7)
    }

    @Test("are acknowledged to a peer that goes back only as far as it came again")
    func acknowledgement() {
        let peer = ScriptedPeer()
        peer.request(.rcWriteOnly, 0x201, [1], at: 1)
        peer.request(.rcWriteOnly, 0x202, [2], at: 2)
        peer.request(.rcWriteOnly, 0x203, [3], at: 3)
        #expect(syndromes(peer.takeSent()) == [0x60])
        peer.request(.rcWriteOnly, 0x200, [4], at: 0)
        #expect(Array(peer.memory[0..<4]) == [4, 1, 2, 3])
        var answers = peer.takeSent()
        for psn in 0x201...0x202 as ClosedRange<UInt32> {
            peer.request(.rcWriteOnly, psn, [0xFF], at: 0)
            answers += peer.takeSent()
        }
        peer.request(.rcWriteOnly, 0x204, [5], at: 4)
        answers += peer.takeSent()
        #expect(answers.map(\.psn) == [0x200, 0x201, 0x202, 0x204])
        #expect(answers.map(\.aeth.msn.rawValue) == [1, 2, 3, 5])
        #expect(Array(peer.memory[0..<5]) == [4, 1, 2, 3, 5], "nothing is executed again")
    }

    @Test("are acknowledged at once to a peer that was not told, because the gap was filled before")
    func reordered() {
        let peer = ScriptedPeer()
        peer.request(.rcWriteOnly, 0x201, [1], drains: false)
        peer.request(.rcWriteOnly, 0x200, [1], drains: false)
        peer.drain()
        let answers = peer.takeSent()
        #expect(syndromes(answers) == [0x1F])
        #expect(answers.map(\.psn) == [0x201])
    }

    @Test("are acknowledged at once after an RNR NAK too, which told of no gap")
    func reorderedAfterUnready() {
        let peer = ScriptedPeer()
        peer.request(.rcSendOnly, 0x200, [1])
        peer.postReceive()
        peer.request(.rcSendOnly, 0x200, [1])
        _ = peer.takeSent()
        peer.request(.rcWriteOnly, 0x202, [1], drains: false)
        peer.request(.rcWriteOnly, 0x201, [1], drains: false)
        peer.drain()
        #expect(peer.takeSent().map(\.psn) == [0x202])
    }

    @Test("make a NAK for the second gap too, if the first was filled before its own could leave")
    func secondGap() {
        let peer = ScriptedPeer()
        for psn in [0x201, 0x203, 0x200] as [UInt32] { peer.request(.rcWriteOnly, psn, [1], drains: false) }
        peer.drain()
        let answers = peer.takeSent()
        #expect(syndromes(answers) == [0x60])
        #expect(answers.map(\.psn) == [0x202])
    }

    @Test("are not kept if they are answered by a response, which would reach a peer that has gone back")
    func responses() {
        let peer = ScriptedPeer()
        peer.atomic(0x201, add: 1, at: 0)
        peer.request(.rcWriteOnly, 0x202, [1], at: 8)
        _ = peer.takeSent()
        peer.request(.rcWriteOnly, 0x200, [1], at: 16)
        #expect(peer.takeSent().map(\.psn) == [0x200])
        #expect(peer.memory[0] == 0 && peer.memory[8] == 0)
        peer.atomic(0x201, add: 1, at: 0)
        #expect(peer.takeSent().map(\.psn) == [0x201])
        #expect(peer.memory[0] == 1 && peer.memory[8] == 1)
    }

    @Test("come again where no receive is posted for them, and are refused then if they must be")
    func unready() {
        let peer = ScriptedPeer()
        peer.request(.rcSendOnly, 0x201, [1])
        _ = peer.takeSent()
        peer.request(.rcWriteOnly, 0x200, [1])
        #expect(syndromes(peer.takeSent()) == [0x1F])
        peer.request(.rcSendOnly, 0x201, [1])
        #expect(
            peer.takeSent().map(\.aeth.syndrome.meaning).allSatisfy {
                if case .receiverNotReady = $0 { true } else { false }
            })
        peer.request(.rcWriteOnly, 0x202, [1])
        #expect(peer.counters.earlyRequests == 1, "behind an RNR NAK nothing is kept")
    }

    @Test("are bounded, for a queue pair and for all, and what is beyond comes again")
    func bounds() {
        let peer = ScriptedPeer {
            $0.earlyPacketCountMax = 100
            $0.earlyPacketPoolCountMax = 64
        }
        for psn in 0x201..<0x301 as Range<UInt32> { peer.request(.rcWriteOnly, psn, [1], at: Int(psn)) }
        #expect(peer.counters.earlyRequests == 64)
        #expect(peer.counters.droppedSequence == 192)
        _ = peer.takeSent()
        peer.request(.rcWriteOnly, 0x200, [1], at: 0x200)
        for psn in 0x201..<0x301 as Range<UInt32> { peer.request(.rcWriteOnly, psn, [1], at: Int(psn)) }
        #expect(peer.takeSent().last?.psn == 0x300)
        #expect(peer.memory[0x200...0x300].allSatisfy { $0 == 1 })
        #expect(peer.counters.duplicateRequests == 64)
    }

    @Test("leave their places when their queue pair fails, is reset or destroyed")
    func release() throws {
        let peer = ScriptedPeer { $0.earlyPacketPoolCountMax = 64 }
        func fill() {
            let before = peer.counters.earlyRequests
            for psn in 0x201..<0x241 as Range<UInt32> { peer.request(.rcWriteOnly, psn, [1]) }
            #expect(peer.counters.earlyRequests == before + 64)
        }
        func reconnect() {
            peer.node.connect(peer.queues.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
        }
        fill()
        peer.node.modify(peer.queues.qpn, [.state]) { $0.state = .error }
        peer.node.modify(peer.queues.qpn, [.state]) { $0.state = .reset }
        reconnect()
        fill()
        peer.node.modify(peer.queues.qpn, [.state]) { $0.state = .reset }
        reconnect()
        fill()
        // A refusal in front of them.
        peer.request(.rcWriteOnly, 0x200, [1], key: MemoryKey(rawValue: 1))
        #expect(peer.state == .error)
        peer.node.modify(peer.queues.qpn, [.state]) { $0.state = .reset }
        reconnect()
        fill()
        try peer.node.engine.pointee.destroyQueuePair(peer.queues.qpn)
        #expect(peer.counters.droppedSequence == 4 * 64)
    }

    // MARK: A peer of our own

    @Test("make a NAK that says how many are missing, one for each gap, and are acknowledged at once")
    func missing() throws {
        let peer = try selectivePeer()
        for psn in [0x202, 0x203, 0x206] as [UInt32] { peer.request(.rcWriteOnly, psn, [1], at: Int(psn)) }
        let first = peer.takeSent()
        #expect(syndromes(first) == [0x60])
        #expect(first.map(\.psn) == [0x200])
        #expect(first.map(\.aeth.msn.rawValue) == [2])
        peer.request(.rcWriteOnly, 0x200, [1], at: 0x200)
        _ = peer.takeSent()
        peer.request(.rcWriteOnly, 0x201, [1], at: 0x201)
        let second = peer.takeSent()
        #expect(syndromes(second) == [0x60])
        #expect(second.map(\.psn) == [0x204])
        #expect(second.map(\.aeth.msn.rawValue) == [2])
        peer.request(.rcWriteOnly, 0x204, [1], at: 0x204)
        peer.request(.rcWriteOnly, 0x205, [1], at: 0x205)
        #expect(peer.takeSent().last?.psn == 0x206)
        #expect(peer.memory[0x200...0x206].allSatisfy { $0 == 1 })
    }

    @Test("are kept too if they are answered by a response, and answered when the gap is filled")
    func keptResponses() throws {
        let peer = try selectivePeer()
        peer.memory[0x100] = 42
        peer.atomic(0x201, add: 1, at: 0)
        peer.request(.rcReadRequest, 0x202, length: 2000, at: 0x100)
        peer.request(.rcWriteOnly, 0x204, [1], at: 16)
        _ = peer.takeSent()
        peer.request(.rcWriteOnly, 0x200, [1], at: 8)
        let answers = peer.takeSent()
        #expect(answers.map(\.psn) == [0x201, 0x202, 0x203, 0x204])
        #expect(peer.memory[0] == 1 && peer.memory[8] == 1 && peer.memory[16] == 1)
    }

    @Test("make a NAK for everything where some could not be kept")
    func everything() throws {
        let peer = try selectivePeer { $0.earlyPacketCountMax = 1 }
        for psn in [0x201, 0x202, 0x203] as [UInt32] { peer.request(.rcWriteOnly, psn, [1]) }
        #expect(peer.takeSent().map(\.aeth.msn.rawValue) == [1])
        peer.request(.rcWriteOnly, 0x200, [1])
        let second = peer.takeSent()
        #expect(syndromes(second) == [0x60])
        #expect(second.map(\.psn) == [0x202])
        #expect(second.map(\.aeth.msn.rawValue) == [0])
    }

    @Test("Told how many are missing, the requester sends just those again, and goes on where it was")
    func repeats() throws {
        let peer = try selectivePeer()
        peer.post(.rdmaWrite, id: 1, length: 4 * 1024)
        peer.post(.rdmaWrite, id: 2, length: 100)
        peer.post(.rdmaRead, id: 3, length: 3 * 1024)
        peer.post(.rdmaWrite, id: 4, length: 100)
        #expect(peer.takeSent().map(\.psn) == [0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x108])
        nak(peer, 0x101, missing: 2)
        #expect(peer.takeSent().map(\.psn) == [0x101, 0x102])
        // The READ's request is one packet, and three PSNs.
        nak(peer, 0x105, missing: 3)
        let read = peer.takeSent()
        #expect(read.map(\.psn) == [0x105])
        #expect(read.map(\.reth.length) == [3072])
        peer.respond(.rcReadResponseFirst, 0x105, full)
        peer.respond(.rcReadResponseMiddle, 0x106, full)
        peer.respond(.rcReadResponseLast, 0x107, full)
        peer.post(.rdmaWrite, id: 5, length: 100)
        #expect(peer.takeSent().map(\.psn) == [0x109])
        peer.acknowledge(0x109)
        #expect(peer.pollSends().map(\.id) == [1, 2, 3, 4, 5])
        #expect(peer.counters.retransmissions == 3)
    }

    @Test("A NAK for more than is under way, or of a peer that agreed to nothing, asks for everything")
    func nonsense() throws {
        for (isOurs, count) in [(true, 0), (true, 4), (true, 0xFF_FFFF), (false, 1)] as [(Bool, UInt32)] {
            let peer = isOurs ? try selectivePeer() : ScriptedPeer()
            peer.post(.rdmaWrite, length: 4 * 1024)
            _ = peer.takeSent()
            nak(peer, 0x101, missing: count)
            #expect(peer.takeSent().map(\.psn) == [0x101, 0x102, 0x103], "\(isOurs) \(count)")
        }
    }

    @Test("What is lost again is sent again after the timeout, all of it")
    func lostAgain() throws {
        let peer = try selectivePeer()
        peer.post(.rdmaWrite, length: 4 * 1024)
        _ = peer.takeSent()
        nak(peer, 0x100, missing: 1)
        #expect(peer.takeSent().map(\.psn) == [0x100])
        peer.passTime()
        #expect(peer.takeSent().map(\.psn) == [0x100])
        peer.acknowledge(0x100)
        #expect(peer.takeSent().map(\.psn) == [0x101, 0x102])
        peer.acknowledge(0x103)
        #expect(peer.pollSends().map(\.status) == [.success])
    }

    @Test("Two of our own repeat a third or less of what others do when one packet in a hundred is lost")
    func saving() throws {
        func retransmissions(selective: Bool) throws -> UInt64 {
            var network = NetworkOptions()
            network.loss = 0.01
            let pair = ConnectedPair(network: network)
            if selective {
                for side in [pair.a, pair.b] { try side.node.engine.pointee.repeatSelectively(side.queues.qpn) }
            }
            for id in 0..<40 {
                var request = SendWorkRequest(id: UInt64(id), operation: .rdmaWrite, flags: .signaled)
                request.remoteAddress = pair.b.address(0)
                request.remoteKey = pair.b.key.rawValue
                pair.a.node.post(pair.a.queues, request, [pair.a.entry(0, 1 << 16)])
                pair.settle()
            }
            let done = pair.a.node.poll(pair.a.sendCompletions)
            #expect(done.count == 40 && done.allSatisfy { $0.status == .success })
            return pair.a.node.engine.pointee.counters.retransmissions
        }
        let all = try retransmissions(selective: false)
        let some = try retransmissions(selective: true)
        #expect(some > 0 && some * 3 <= all, "\(some) against \(all)")
    }
}
