// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("States of a queue pair") struct QueuePairStateTests {
    private let full = [UInt8](repeating: 0x55, count: 1024)

    private func drain(_ peer: ScriptedPeer, notify: Bool = true) {
        peer.node.modify(peer.queues.qpn, notify ? [.state, .sendQueueDrainedNotify] : .state) {
            $0.state = .sendQueueDrained
            $0.sendQueueDrainedNotify = notify
        }
        peer.drain()
    }

    private func resume(_ peer: ScriptedPeer) {
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .readyToSend }
        peer.drain()
    }

    // MARK: SQD

    @Test("SQD finishes a WRITE and a READ that have begun, though the window held their rest back")
    func drainFinishesWhatBegan() {
        let peer = ScriptedPeer { $0.windowInitialBytes = 4096 }
        peer.post(.rdmaWrite, id: 1, length: 6 * 1024)
        peer.post(.send, id: 2)
        drain(peer)
        peer.acknowledge(0x103)
        #expect(peer.takeSent().map(\.psn) == [0x100, 0x101, 0x102, 0x103, 0x104, 0x105])
        #expect(peer.events.isEmpty, "the rest is not acknowledged")
        peer.acknowledge(0x105)
        #expect(peer.events == [.sendQueueDrained])
        #expect(peer.pollSends().map(\.id) == [1])

        let reader = ScriptedPeer { $0.windowInitialBytes = 4096 }
        reader.post(.rdmaRead, id: 1, length: 6 * 1024)
        reader.post(.send, id: 2)
        drain(reader)
        for psn in 0x100...0x105 as ClosedRange<UInt32> { reader.respond(.rcReadResponseMiddle, psn, full) }
        #expect(reader.takeSent().map(\.opcode) == [0x0C, 0x0C])
        #expect(reader.events == [.sendQueueDrained])
        #expect(reader.memory[0..<6 * 1024].allSatisfy { $0 == 0x55 })
    }

    @Test("SQD repeats what is lost, and the event waits for that")
    func drainRepeats() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        drain(peer)
        peer.passTime()
        #expect(peer.takeSent().map(\.psn) == [0x100, 0x100])
        #expect(peer.events.isEmpty)
        peer.acknowledge(0x100)
        #expect(peer.events == [.sendQueueDrained])
    }

    @Test("The event of SQD comes if it was asked for, at once where nothing is in flight, and once")
    func drainEvent() {
        let peer = ScriptedPeer()
        drain(peer, notify: false)
        #expect(peer.events.isEmpty)
        resume(peer)
        drain(peer)
        #expect(peer.events == [.sendQueueDrained])
        drain(peer, notify: false)
        #expect(peer.events.isEmpty, "SQD again is no news")
        peer.post(.send)
        resume(peer)
        peer.acknowledge(0x100)
        drain(peer, notify: false)
        #expect(peer.events.isEmpty)
        #expect(peer.pollSends().count == 1)
    }

    @Test("Attributes that are changed in SQD leave the wish for its event alone")
    func modifyWhileDraining() {
        let peer = ScriptedPeer()
        peer.post(.send)
        drain(peer)
        peer.node.modify(peer.queues.qpn, [.timeout, .retryCount]) {
            $0.timeout = 14
            $0.retryCount = 3
        }
        peer.acknowledge(0x100)
        #expect(peer.events == [.sendQueueDrained])
    }

    @Test("In SQD the responder goes on")
    func drainServes() {
        let peer = ScriptedPeer()
        drain(peer)
        peer.postReceive(id: 4)
        peer.request(.rcSendOnly, 0x200, [1])
        peer.request(.rcReadRequest, 0x201, length: 4)
        #expect(peer.takeSent().map(\.opcode) == [0x11, 0x10])
        #expect(peer.pollReceives().map(\.id) == [4])
    }

    @Test("A datagram queue pair in SQD keeps what is posted until RTS")
    func drainDatagrams() {
        let peer = ScriptedPeer(type: .ud)
        drain(peer)
        #expect(peer.events == [.sendQueueDrained])
        peer.post(.send) {
            $0.address = AddressVector(destination: peer.peer, localIndex: 0)
            $0.remoteQPN = 0x77
        }
        #expect(peer.takeSent().isEmpty)
        resume(peer)
        #expect(peer.takeSent().count == 1)
        #expect(peer.pollSends().map(\.status) == [.success])
    }

    // MARK: Errors

    @Test("An error of a send wakes who waits for solicited completions, as its flush does")
    func errorIsSolicited() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        peer.sendCompletions.arm(solicitedOnly: true)
        peer.receiveCompletions.arm(solicitedOnly: true)
        peer.postReceive()
        peer.acknowledge(0x100, 0x62)
        let events = peer.node.takeEvents()
        #expect(events.contains(.completion(tag: 1)) && events.contains(.completion(tag: 2)))
        peer.sendCompletions.arm(solicitedOnly: true)
        peer.post(.send, id: 2)
        #expect(peer.node.takeEvents() == [.completion(tag: 1)], "posted in error, and flushed")
    }

    @Test("A success that nobody solicited wakes nobody who waits for solicited ones")
    func successIsNotSolicited() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1, flags: [.signaled, .solicited])
        peer.sendCompletions.arm(solicitedOnly: true)
        peer.acknowledge(0x100)
        #expect(peer.node.takeEvents().isEmpty, "the mark is for the receiver")
        #expect(peer.pollSends().count == 1)
    }

    @Test("A refused request flushes the message that had begun, and what is posted; later packets are not served")
    func refusalFlushes() {
        let peer = ScriptedPeer()
        peer.postReceive(id: 1)
        peer.postReceive(id: 2)
        peer.request(.rcSendFirst, 0x200, full)
        peer.request(.rcWriteOnly, 0x201, [1])
        let entries = peer.pollReceives()
        #expect(entries.map(\.id) == [1, 2])
        #expect(entries.map(\.status) == [.flushed, .flushed])
        _ = peer.takeSent()
        peer.request(.rcSendOnly, 0x201, [1])
        #expect(peer.takeSent().isEmpty && peer.counters.droppedState == 1)
    }

    // MARK: Shared receive queues

    private func shared(_ limit: Int = 0) -> (ScriptedPeer, ReceiveQueue) {
        var made: ReceiveQueue?
        let peer = ScriptedPeer(change: { creation, node in
            made = try! node.engine.pointee.createSharedReceiveQueue(
                protectionDomain: 1, capacity: 8, scatterGatherMax: 1, tag: 9)
            creation.sharedReceiveQueue = made
        })
        return (peer, made!)
    }

    @Test("An empty shared receive queue makes the peer wait")
    func emptySharedQueue() {
        let (peer, _) = shared()
        peer.request(.rcSendOnly, 0x200, [1])
        #expect(peer.takeSent().map(\.aeth.syndrome.rawValue) == [0x21])
        peer.postReceive(id: 3)
        peer.request(.rcSendOnly, 0x200, [1])
        #expect(peer.pollReceives().map(\.id) == [3])
    }

    @Test("The limit of a shared receive queue fires once each time that it is set")
    func limitAgain() throws {
        let (peer, queue) = shared()
        for id in 0..<6 { peer.postReceive(id: UInt64(id)) }
        for round in 0..<2 as Range<UInt32> {
            try peer.node.engine.pointee.modifySharedReceiveQueue(queue, limit: 6)
            peer.request(.rcSendOnly, 0x200 + 2 * round, [1])
            #expect(peer.node.takeEvents() == [.sharedReceiveQueueLimit(tag: 9)])
            peer.request(.rcSendOnly, 0x201 + 2 * round, [1])
            #expect(peer.node.takeEvents().isEmpty)
        }
        try peer.node.engine.pointee.modifySharedReceiveQueue(queue, limit: 6)
        try peer.node.engine.pointee.modifySharedReceiveQueue(queue, limit: 0)
        peer.request(.rcSendOnly, 0x204, [1])
        #expect(peer.node.takeEvents().isEmpty, "0 disarms")
    }

    @Test("The last shared receive is told of once, however the queue pair came to its end", arguments: [true, false])
    func lastReceiveOnce(byPeer: Bool) {
        let (peer, _) = shared()
        if byPeer {
            peer.request(.rcSendMiddle, 0x200, full)
            #expect(Set(peer.events) == [.requestError, .lastReceiveReached])
        } else {
            peer.post(.send)
            peer.acknowledge(0x100, 0x61)
            #expect(peer.events == [.lastReceiveReached])
        }
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .error }
        peer.drain()
        #expect(peer.events.isEmpty)
    }

    @Test("A queue pair with receives of its own does not tell of the last")
    func noLastReceive() {
        let peer = ScriptedPeer()
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .error }
        peer.drain()
        #expect(peer.events.isEmpty)
    }
}
