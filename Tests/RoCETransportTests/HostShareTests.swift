// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// Many queue pairs with peers in one process of this host, whose receive buffer they share.
@Suite("What is in flight to one process") struct HostShareTests {
    /// A peer with room for eight packets, in turns of four, and so many queue pairs that have 16 packets each to send.
    private func world(
        _ count: Int, isSameHost: Bool = true, byteCount: Int = 16 * 1024
    ) -> (ScriptedPeer, [QPN]) {
        let peer = ScriptedPeer(isSameHost: isSameHost) {
            $0.hostBytesMax = 8 * 1024
            $0.quantumBytes = 4 * 1024
        }
        var qpns: [QPN] = []
        for index in 0..<count {
            let queues = peer.node.makeQueuePair(
                QueuePairCreation(
                    type: .rc, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                    receiveCompletionQueue: peer.receiveCompletions, tag: 9))
            peer.node.connect(
                queues.qpn, type: .rc, to: peer.peer, QPN(truncating: peer.remoteQPN.rawValue - 1 - UInt32(index)),
                ConnectionOptions())
            var request = SendWorkRequest(id: UInt64(index), operation: .rdmaWrite, flags: .signaled)
            request.remoteAddress = 0x5000
            peer.node.post(queues, request, [peer.entry(0, byteCount)])
            qpns.append(queues.qpn)
        }
        peer.drain()
        return (peer, qpns)
    }

    private func index(_ packet: RoCEPacket, _ peer: ScriptedPeer) -> Int {
        Int(peer.remoteQPN.rawValue - 1 - packet.bth.destination.rawValue)
    }

    private func acknowledge(_ peer: ScriptedPeer, _ psn: UInt32, _ qpn: QPN) {
        peer.arrive(.rcAcknowledge, psn: psn, to: qpn) {
            $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 0))
        }
    }

    @Test("is bounded for all queue pairs together, and each has its turn in the order of waiting")
    func turns() {
        let (peer, qpns) = world(6)
        var sent = peer.takeSent()
        #expect(sent.map { index($0, peer) } == [0, 0, 0, 0, 1, 1, 1, 1])
        var order: [Int] = []
        var completed: [UInt64] = []
        while !sent.isEmpty {
            // The last packet of the turn that was first.
            let first = index(sent[0], peer)
            let last = sent.last { index($0, peer) == first }!
            sent.removeAll { index($0, peer) == first }
            acknowledge(peer, last.psn, qpns[first])
            let next = peer.takeSent()
            #expect(sent.count + next.count <= 8)
            if let next = next.first { order.append(index(next, peer)) }
            sent += next
            completed += peer.pollSends().map(\.id)
        }
        let turns = (0..<3).flatMap { _ in Array(0..<6) }
        #expect(order == Array((turns + [0, 1, 2, 3, 4, 5]).dropFirst(2)))
        #expect(completed == [0, 1, 2, 3, 4, 5])
        #expect(peer.counters.retransmissions == 0)
    }

    @Test("is not bounded for peers elsewhere")
    func elsewhere() {
        let (peer, _) = world(6, isSameHost: false)
        #expect(peer.takeSent().count == 6 * 16)
    }

    @Test("holds nobody up for longer than some milliseconds, though nothing of it is ever acknowledged")
    func patience() {
        let (peer, qpns) = world(6)
        var seen = Set(peer.takeSent().map { index($0, peer) })
        let start = peer.now
        while seen.count < qpns.count, peer.now < start + 20_000_000 {
            peer.passTime()
            seen.formUnion(peer.takeSent().map { index($0, peer) })
        }
        #expect(seen == Set(0..<6))
    }

    @Test("is less when a queue pair fails, is reset or destroyed, and who waited goes on")
    func endings() throws {
        let (peer, qpns) = world(6)
        _ = peer.takeSent()
        // One that has something in flight, and one that waits.
        peer.node.modify(qpns[0], [.state]) { $0.state = .error }
        peer.drain()
        #expect(peer.takeSent().map { index($0, peer) } == [2, 2, 2, 2])
        try peer.node.engine.pointee.destroyQueuePair(qpns[3])
        peer.drain()
        #expect(peer.takeSent().isEmpty)
        try peer.node.engine.pointee.destroyQueuePair(qpns[1])
        peer.drain()
        #expect(peer.takeSent().map { index($0, peer) } == [4, 4, 4, 4])
        peer.node.modify(qpns[2], [.state]) { $0.state = .reset }
        peer.node.modify(qpns[4], [.state]) { $0.state = .reset }
        peer.drain()
        #expect(peer.takeSent().map { index($0, peer) } == [5, 5, 5, 5, 5, 5, 5, 5])
    }

    @Test("forgets a queue pair that waited when it is reset, whatever process its next peer is in")
    func movesToAnotherProcess() throws {
        // Two have sent all that they had; the third alone waits.
        let (peer, qpns) = world(3, byteCount: 4 * 1024)
        _ = peer.takeSent()
        peer.node.modify(qpns[2], [.state]) { $0.state = .reset }
        let elsewhere = QPN(truncating: peer.remoteQPN.rawValue ^ 0x10_0000)
        peer.node.connect(qpns[2], type: .rc, to: peer.peer, elsewhere, ConnectionOptions())
        try peer.node.engine.pointee.destroyQueuePair(qpns[2])
        // Nobody is left who waits: what comes next is a timeout of the two, 17 ms after they sent.
        #expect(peer.node.engine.pointee.nextDeadline.map { $0 > peer.now + 10_000_000 } ?? false)
    }

    @Test("names no deadline that is over for those who may go and find the transmit queue full")
    func deadlineOfReady() {
        let (peer, _) = world(6)
        _ = peer.takeSent()
        let later = peer.now + 6_000_000
        peer.now = later
        peer.node.engine.pointee.advance(to: later)
        #expect(peer.node.engine.pointee.nextDeadline.map { $0 > later } ?? true)
        peer.drain()
        #expect(Set(peer.takeSent().map { index($0, peer) }).isSuperset(of: [2, 3, 4, 5]))
    }

    @Test("is bounded for a process that was quiet, though others wait for another one")
    func quietProcess() {
        let (peer, qpns) = world(3)
        _ = peer.takeSent()
        // Two packets' time for the first process, in which nothing is sent to the second.
        for step in 1...2 {
            peer.now += 4_000_000
            acknowledge(peer, UInt32(0x100 + step - 1), qpns[0])
        }
        _ = peer.takeSent()
        for number in 0..<4 {
            let queues = peer.node.makeQueuePair(
                QueuePairCreation(
                    type: .rc, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                    receiveCompletionQueue: peer.receiveCompletions, tag: 9))
            let other = QPN(truncating: (peer.remoteQPN.rawValue ^ 0x10_0000) - UInt32(number))
            peer.node.connect(queues.qpn, type: .rc, to: peer.peer, other, ConnectionOptions())
            var request = SendWorkRequest(id: 50, operation: .rdmaWrite, flags: .signaled)
            request.remoteAddress = 0x5000
            peer.node.post(queues, request, [peer.entry(0, 16 * 1024)])
        }
        peer.drain()
        let toOther = peer.takeSent().filter { $0.bth.destination.slot != peer.remoteQPN.slot }
        #expect(toOther.count == 8)
    }
}
