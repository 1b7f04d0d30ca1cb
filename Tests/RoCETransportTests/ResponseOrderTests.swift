// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// What is answered late, out of turn, or by somebody else; and how long the requester tries.
@Suite("Responses out of turn") struct ResponseOrderTests {
    private let eight = [UInt8](repeating: 7, count: 8)

    private func acknowledgeAtomic(_ peer: ScriptedPeer, _ psn: UInt32, _ value: UInt64) {
        peer.arrive(.rcAtomicAcknowledge, psn: psn) {
            $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 0))
            $0.atomicAckETH = AtomicAckETH(originalValue: value)
        }
    }

    @Test(
        "An acknowledgement does not complete what has a response of its own, nor what is behind it",
        arguments: [SendOperation.rdmaRead, .fetchAndAdd, .compareAndSwap, .atomicWrite])
    func acknowledgementIsNoResponse(operation: SendOperation) {
        let peer = ScriptedPeer()
        peer.post(operation, id: 1)
        peer.post(.send, id: 2)
        _ = peer.takeSent()
        peer.acknowledge(0x100)
        peer.acknowledge(0x101)
        #expect(peer.pollSends().isEmpty)
        #expect(peer.takeSent().map(\.psn) == [0x100, 0x101], "asked for again, once")
        #expect(peer.counters.responsesLost == 2)
    }

    @Test(
        "A response beyond a READ or atomic that is outstanding says that its response was lost",
        arguments: [true, false])
    func responseBeyond(firstIsRead: Bool) {
        let peer = ScriptedPeer()
        peer.post(firstIsRead ? .rdmaRead : .fetchAndAdd, id: 1)
        peer.post(firstIsRead ? .fetchAndAdd : .rdmaRead, id: 2)
        _ = peer.takeSent()
        if firstIsRead {
            acknowledgeAtomic(peer, 0x101, 9)
        } else {
            peer.respond(.rcReadResponseOnly, 0x101, eight)
        }
        #expect(peer.pollSends().isEmpty)
        #expect(peer.memory[0..<8].allSatisfy { $0 == 0 }, "what came too early is not placed")
        #expect(peer.takeSent().map(\.psn) == [0x100, 0x101])
    }

    @Test("A response that came already is ignored, and writes nothing")
    func lateResponse() {
        let peer = ScriptedPeer()
        peer.post(.rdmaRead, id: 1, length: 2_048)
        peer.post(.fetchAndAdd, id: 2)
        let full = [UInt8](repeating: 1, count: 1024)
        peer.respond(.rcReadResponseFirst, 0x100, full)
        peer.memory[0] = 0xEE
        peer.respond(.rcReadResponseFirst, 0x100, full)
        #expect(peer.memory[0] == 0xEE)
        peer.respond(.rcReadResponseLast, 0x101, full)
        acknowledgeAtomic(peer, 0x102, 5)
        #expect(peer.pollSends().map(\.status) == [.success, .success])
        acknowledgeAtomic(peer, 0x102, 6)
        peer.respond(.rcReadResponseLast, 0x101, full)
        #expect(peer.memory[0] == 5)
        #expect(peer.counters.droppedSequence == 3)
    }

    @Test("A READ or atomic response to what is neither is ignored")
    func responseToSend() {
        let peer = ScriptedPeer()
        peer.post(.send)
        peer.respond(.rcReadResponseOnly, 0x100, eight)
        acknowledgeAtomic(peer, 0x100, 5)
        #expect(peer.pollSends().isEmpty)
        #expect(peer.counters.droppedSequence == 2)
        peer.post(.rdmaRead, id: 2, length: 2_048)
        peer.respond(.rcReadResponseOnly, 0x100, eight)
        #expect(peer.counters.droppedSequence == 3, "the READ is behind it")
        #expect(peer.memory[0] == 0)
    }

    @Test(
        "A NAK beyond a READ that is not answered means the READ, not what it names",
        arguments: [UInt8(0x60), 0x61, 0x62, 0x63, 0x2E])
    func refusalBeyondRead(syndrome: UInt8) {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        peer.post(.rdmaRead, id: 2)
        peer.post(.send, id: 3)
        _ = peer.takeSent()
        peer.acknowledge(0x102, syndrome)
        #expect(peer.pollSends().map(\.id) == [1], "what is before the READ is acknowledged")
        #expect(peer.state == .readyToSend)
        #expect(peer.takeSent().map(\.brief) == ["RC READ REQUEST 257", "RC SEND ONLY 258"])
        peer.respond(.rcReadResponseOnly, 0x101, eight)
        #expect(peer.pollSends().map(\.status) == [.success])
        peer.acknowledge(0x102, syndrome)
        #expect(peer.state == (0x61...0x63 ~= syndrome ? .error : .readyToSend), "now it is in its turn")
    }

    @Test("A READ is never asked for from an earlier place than before")
    func neverBackwards() {
        let peer = ScriptedPeer()
        let full = [UInt8](repeating: 1, count: 1024)
        peer.post(.rdmaRead, length: 8 * 1024)
        peer.respond(.rcReadResponseFirst, 0x100, full)
        peer.respond(.rcReadResponseMiddle, 0x103, full)
        peer.passTime()
        peer.respond(.rcReadResponseMiddle, 0x101, full)
        // Late ones of the first time, and one from behind a gap.
        peer.respond(.rcReadResponseFirst, 0x100, full)
        peer.respond(.rcReadResponseMiddle, 0x105, full)
        peer.passTime()
        let places = peer.takeSent().map(\.psn)
        #expect(places == places.sorted())
        #expect(places.first == 0x100 && places.last == 0x102)
        #expect(places.count == 5)
    }

    // MARK: How long

    @Test("A NAK for the sequence and a lost response spend a retry, as a timeout does", arguments: [true, false])
    func retriesOfNAK(isRead: Bool) {
        var options = ConnectionOptions()
        options.retryCount = 1
        let peer = ScriptedPeer(options: options)
        peer.post(isRead ? .rdmaRead : .send, id: 1)
        peer.post(.send, id: 2)
        if isRead { peer.acknowledge(0x101) } else { peer.acknowledge(0x100, 0x60) }
        #expect(peer.takeSent().count == 4)
        peer.passTime()
        #expect(peer.pollSends().map(\.status) == [.retriesExceeded, .flushed])
    }

    @Test("Timeouts in a row wait twice and four times as long, no longer; progress ends that")
    func backOff() {
        let peer = ScriptedPeer()
        let timeout: Timestamp = 4_096 << 12
        peer.post(.send, id: 1)
        peer.post(.send, id: 2)
        var waits: [Timestamp] = []
        for _ in 0..<5 {
            let before = peer.now
            peer.passTime()
            waits.append((peer.now - before) / timeout)
        }
        #expect(waits == [1, 2, 4, 4, 4])
        peer.now += timeout / 2
        peer.acknowledge(0x100)
        let before = peer.now
        let sentBefore = peer.counters.retransmissions
        while peer.counters.retransmissions == sentBefore { peer.passTime() }
        #expect(peer.now - before == timeout)
    }

    @Test("The timer runs while something is unacknowledged, from the last progress on")
    func timerRuns() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        peer.post(.send, id: 2)
        peer.now += 10_000_000
        peer.acknowledge(0x100)
        peer.now += 10_000_000
        peer.node.engine.pointee.advance(to: peer.now)
        peer.drain()
        #expect(peer.counters.timeouts == 0)
        peer.acknowledge(0x101)
        peer.passTime()
        #expect(peer.counters.timeouts == 0)
        #expect(peer.node.engine.pointee.nextDeadline == nil, "nothing is left to wait for")
        #expect(peer.takeSent().count == 2)
    }
}
