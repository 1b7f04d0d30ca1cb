// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// What becomes of completions when a queue pair is moved to RESET: those of it that were not polled are gone, those of
/// others in the same queue stay in their order, as `ibv_modify_qp` of adapters does it.
@Suite("Completions of a queue pair that is reset") struct CompletionRemovalTests {
    private let peer = ScriptedPeer()

    private func other() -> QueuePairQueues {
        let queues = peer.node.makeQueuePair(
            QueuePairCreation(
                type: .rc, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                receiveCompletionQueue: peer.receiveCompletions, tag: 9))
        peer.node.connect(
            queues.qpn, type: .rc, to: peer.peer, QPN(truncating: peer.remoteQPN.rawValue - 1), ConnectionOptions())
        return queues
    }

    private func complete(_ queues: QueuePairQueues, id: UInt64, psn: UInt32, drains: Bool = true) {
        peer.node.post(queues, SendWorkRequest(id: id, operation: .send, flags: .signaled), [peer.entry(0, 8)])
        if drains {
            peer.drain()
        } else {
            _ = peer.node.engine.pointee.transmit(into: &peer.node.transmitQueue, now: peer.now)
        }
        peer.arrive(.rcAcknowledge, psn: psn, to: queues.qpn, drains: drains) {
            $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 0))
        }
    }

    @Test("go, and those of others stay in order, however often the ring has wrapped")
    func sharedQueue() {
        let other = other()
        for round in 0..<UInt32(peer.sendCompletions.capacity) {
            let psn = 0x100 + 2 * round
            complete(peer.queues, id: 1, psn: psn)
            complete(other, id: 2, psn: psn)
            complete(peer.queues, id: 3, psn: psn + 1)
            complete(other, id: 4, psn: psn + 1)
            #expect(peer.sendCompletions.count == 4)
            peer.node.engine.pointee.removeCompletions(of: peer.queues.qpn, from: peer.sendCompletions)
            #expect(peer.pollSends().map(\.id) == [2, 4])
        }
    }

    @Test("do not take others with them that are not to be seen yet")
    func unpublished() {
        let other = other()
        complete(peer.queues, id: 1, psn: 0x100)
        complete(other, id: 2, psn: 0x100)
        complete(peer.queues, id: 3, psn: 0x101, drains: false)
        complete(other, id: 4, psn: 0x101, drains: false)
        #expect(peer.sendCompletions.count == 2)
        peer.node.engine.pointee.removeCompletions(of: peer.queues.qpn, from: peer.sendCompletions)
        #expect(peer.pollSends().map(\.id) == [2], "4 comes with the next publication")
        peer.node.engine.pointee.publishCompletions()
        #expect(peer.pollSends().map(\.id) == [4])
    }

    @Test("are no room that is lost: the queue holds as many as before")
    func capacity() {
        let other = other()
        let capacity = peer.sendCompletions.capacity
        complete(peer.queues, id: 1, psn: 0x100)
        peer.node.engine.pointee.removeCompletions(of: peer.queues.qpn, from: peer.sendCompletions)
        #expect(peer.sendCompletions.count == 0)
        for index in 0..<capacity { complete(other, id: UInt64(index), psn: 0x100 + UInt32(index)) }
        #expect(peer.sendCompletions.count == capacity)
        #expect(peer.pollSends().map(\.id) == (0..<UInt64(capacity)).map { $0 })
    }

    @Test("that wait are not lost by a resize: it is refused below their number, and moves them else")
    func resize() throws {
        let other = other()
        for index in 0..<5 { complete(other, id: UInt64(index), psn: 0x100 + UInt32(index)) }
        #expect(throws: EngineError.self) {
            try peer.node.engine.pointee.resizeCompletionQueue(peer.sendCompletions, capacity: 4)
        }
        #expect(peer.sendCompletions.count == 5)
        try peer.node.engine.pointee.resizeCompletionQueue(peer.sendCompletions, capacity: 8)
        #expect(peer.sendCompletions.capacity == 8)
        #expect(peer.pollSends().map(\.id) == [0, 1, 2, 3, 4])
    }
}
