// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("Datagrams") struct DatagramTests {
    private func send(
        _ side: ConnectedPair.Side, to peer: ConnectedPair.Side, length: Int, qkey: UInt32 = 0x1234,
        operation: SendOperation = .send, flags: SendFlags = .signaled
    ) {
        var request = SendWorkRequest(id: 1, operation: operation, flags: flags)
        request.remoteQPN = peer.queues.qpn.rawValue
        request.remoteQKey = qkey
        request.immediate = 0x0A0B_0C0D
        request.address = AddressVector(destination: peer.node.gid, localIndex: 0)
        side.node.post(side.queues, request, [side.entry(0, length)])
    }

    @Test("A datagram arrives behind 40 bytes of route header", arguments: [false, true])
    func arrives(ipv6: Bool) {
        let pair = ConnectedPair(type: .ud, ipv6: ipv6)
        pair.a.fill(0..<100, 4)
        pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 8, [pair.b.entry(0, 140)])
        send(pair.a, to: pair.b, length: 100, operation: .sendWithImmediate)
        pair.settle()
        #expect(pair.a.node.poll(pair.a.sendCompletions).map(\.status) == [.success])
        let entries = pair.b.node.poll(pair.b.receiveCompletions)
        #expect(entries.map(\.byteLength) == [140])
        #expect(entries.map(\.sourceQPN) == [pair.a.queues.qpn.rawValue])
        #expect(entries.map(\.serviceLevel) == [ipv6 ? 1 : 2])
        #expect(entries.first?.flags == [.grh, .withImmediate])
        #expect(entries.first?.immediate == 0x0A0B_0C0D)
        #expect(Array(pair.b.memory[40..<140]) == Array(pair.a.memory[0..<100]))
        if ipv6 {
            #expect(pair.b.memory[0] >> 4 == 6)
            #expect(Array(pair.b.memory[20..<24]) == [10, 1, 0, 1])
            #expect(Array(pair.b.memory[36..<40]) == [10, 1, 0, 2])
        } else {
            #expect(pair.b.memory[0..<20].allSatisfy { $0 == 0 })
            #expect(pair.b.memory[20] == 0x45)
            // The checksum over the header is right: ones' complement sum of all its words.
            var sum = (0..<10).reduce(UInt32(0)) {
                $0 + UInt32(pair.b.memory[20 + 2 * $1]) << 8 + UInt32(pair.b.memory[21 + 2 * $1])
            }
            sum = (sum & 0xFFFF) + sum >> 16
            #expect(sum == 0xFFFF)
            #expect(Array(pair.b.memory[32..<36]) == [10, 1, 0, 1])
        }
    }

    @Test("A wrong Q_Key, a receive that is too short, or none: dropped, and no receive used up")
    func drops() {
        let pair = ConnectedPair(type: .ud)
        send(pair.a, to: pair.b, length: 8)
        pair.settle()
        #expect(pair.b.node.engine.pointee.counters.droppedNoReceive == 1)
        pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 8, [pair.b.entry(0, 60)])
        send(pair.a, to: pair.b, length: 21)
        pair.settle()
        #expect(pair.b.node.engine.pointee.counters.droppedNoReceive == 2)
        send(pair.a, to: pair.b, length: 20, qkey: 0x1235)
        pair.settle()
        #expect(pair.b.node.engine.pointee.counters.droppedKey == 1)
        #expect(pair.b.node.poll(pair.b.receiveCompletions).isEmpty)
        send(pair.a, to: pair.b, length: 20)
        pair.settle()
        #expect(pair.b.node.poll(pair.b.receiveCompletions).map(\.id) == [8])
        #expect(pair.a.node.poll(pair.a.sendCompletions).count == 4)
    }

    @Test("A Q_Key with the high bit stands for the queue pair's own")
    func controlledKey() {
        let pair = ConnectedPair(type: .ud)
        pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 8, [pair.b.entry(0, 60)])
        send(pair.a, to: pair.b, length: 4, qkey: 0x8000_0000)
        pair.settle()
        #expect(pair.b.node.poll(pair.b.receiveCompletions).count == 1)
    }

    @Test("A datagram longer than the port's MTU completes, and is not sent")
    func oversize() {
        let pair = ConnectedPair(type: .ud)
        pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 8, [pair.b.entry(0, 9_000)])
        send(pair.a, to: pair.b, length: 4_097)
        send(pair.a, to: pair.b, length: 4_096)
        pair.settle()
        #expect(pair.a.node.poll(pair.a.sendCompletions).map(\.status) == [.success, .success])
        #expect(pair.b.node.poll(pair.b.receiveCompletions).map(\.byteLength) == [4_136])
    }

    @Test("A failed send stops the sends of the unreliable services in SQE; receives go on")
    func sendQueueError() {
        let pair = ConnectedPair(type: .ud)
        let bad = ScatterGatherEntry(address: 0, length: 4, lkey: 0xBAD)
        var request = SendWorkRequest(id: 1, operation: .send)
        request.address = AddressVector(destination: pair.b.node.gid, localIndex: 0)
        pair.a.node.post(pair.a.queues, request, [bad])
        send(pair.a, to: pair.b, length: 4)
        pair.settle()
        #expect(pair.a.node.poll(pair.a.sendCompletions).map(\.status) == [.localProtectionError, .flushed])
        #expect(pair.a.node.state(pair.a.queues.qpn) == .sendQueueError)
        pair.a.node.postReceive(pair.a.queues.receiveQueue, id: 9, [pair.a.entry(0, 60)])
        send(pair.b, to: pair.a, length: 4)
        pair.settle()
        #expect(pair.a.node.poll(pair.a.receiveCompletions).map(\.id) == [9])
        pair.a.node.modify(pair.a.queues.qpn, .state) { $0.state = .readyToSend }
        send(pair.a, to: pair.b, length: 4)
        pair.settle()
        #expect(pair.a.node.poll(pair.a.sendCompletions).map(\.status) == [.success])
    }

    @Test("The general services interface has number 1 and its own Q_Key")
    func generalServices() {
        let pair = ConnectedPair(type: .gsi)
        #expect(pair.a.queues.qpn == .gsi)
        pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 8, [pair.b.entry(0, 300)])
        send(pair.a, to: pair.b, length: 256, qkey: 0x8001_0000)
        pair.settle()
        #expect(pair.b.node.poll(pair.b.receiveCompletions).map(\.sourceQPN) == [1])
    }

    @Test("A multicast datagram reaches the queue pairs that joined its group, and no others")
    func multicast() throws {
        let pair = ConnectedPair(type: .ud)
        let group = GID(ipv4: 0xEF01_0203)
        let other = pair.b.node.makeQueuePair(
            QueuePairCreation(
                type: .ud, protectionDomain: 1, sendCompletionQueue: pair.b.sendCompletions,
                receiveCompletionQueue: pair.b.receiveCompletions))
        pair.b.node.connect(other.qpn, type: .ud, to: pair.a.node.gid, pair.a.queues.qpn, ConnectionOptions())
        pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 1, [pair.b.entry(0, 60)])
        pair.b.node.postReceive(other.receiveQueue, id: 2, [pair.b.entry(100, 60)])
        try pair.b.node.engine.pointee.attachMulticast(pair.b.queues.qpn, group: group)
        var request = SendWorkRequest(id: 1, operation: .send)
        request.remoteQPN = QPN.multicast.rawValue
        request.remoteQKey = 0x1234
        request.address = AddressVector(destination: group, localIndex: 0)
        pair.a.node.post(pair.a.queues, request, [pair.a.entry(0, 4)])
        _ = pair.a.node.engine.pointee.transmit(into: &pair.a.node.transmitQueue, now: 0)
        let burst = pair.a.node.transmitQueue.burst(0)
        let frame = Array(pair.a.node.transmitQueue.bytes(of: burst))
        let origin = DatagramOrigin(
            source: pair.a.node.gid, sourcePort: burst.path.sourcePort, localIndex: 0, group: group)
        pair.b.node.receive(frame, from: origin, now: 0)
        pair.b.node.engine.pointee.publishCompletions()
        #expect(pair.b.node.poll(pair.b.receiveCompletions).map(\.id) == [1])
        #expect(throws: EngineError.busy("the queue pair is attached to a multicast group")) {
            try pair.b.node.engine.pointee.destroyQueuePair(pair.b.queues.qpn)
        }
        try pair.b.node.engine.pointee.detachMulticast(pair.b.queues.qpn, group: group)
        try pair.b.node.engine.pointee.destroyQueuePair(pair.b.queues.qpn)
    }
}

@Suite("Unreliable connections") struct UnreliableConnectionTests {
    private let full = [UInt8](repeating: 0x44, count: 1024)

    @Test("A lost packet spoils its message only, and the receive serves the next")
    func gap() {
        let peer = ScriptedPeer(type: .uc)
        peer.postReceive(id: 1)
        peer.arrive(.ucSendFirst, psn: 0x200, payload: full)
        peer.arrive(.ucSendLast, psn: 0x202, payload: [1])
        peer.arrive(.ucSendOnly, psn: 0x203, payload: [2, 3])
        let entries = peer.pollReceives()
        #expect(entries.map(\.id) == [1])
        #expect(entries.map(\.byteLength) == [2])
        #expect(Array(peer.memory[65_536..<65_538]) == [2, 3])
        #expect(peer.takeSent().isEmpty)
    }

    @Test("Nothing is answered: not a bad key, not a missing receive, not a READ")
    func silence() {
        let peer = ScriptedPeer(type: .uc)
        peer.arrive(.ucSendOnly, psn: 0x200, payload: [1], acknowledgeRequest: true)
        peer.arrive(.ucWriteOnly, psn: 0x201, payload: [1], acknowledgeRequest: true) {
            $0.reth = RETH(virtualAddress: 0, rkey: MemoryKey(rawValue: 1), length: 1)
        }
        peer.arrive(.rcReadRequest, psn: 0x202) { $0.reth = RETH(virtualAddress: 0, rkey: peer.key, length: 1) }
        #expect(peer.takeSent().isEmpty)
        #expect(peer.state == .readyToSend)
        #expect(peer.counters.droppedNoReceive == 1)
        #expect(peer.counters.droppedRequest == 1)
    }

    @Test("WRITE with immediate arrives")
    func writeWithImmediate() {
        let pair = ConnectedPair(type: .uc)
        pair.a.fill(0..<3_000, 1)
        pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 7, [])
        var request = SendWorkRequest(id: 1, operation: .rdmaWriteWithImmediate)
        request.remoteAddress = pair.b.address(5)
        request.remoteKey = pair.b.key.rawValue
        request.immediate = 77
        pair.a.node.post(pair.a.queues, request, [pair.a.entry(0, 3_000)])
        pair.settle()
        let entries = pair.b.node.poll(pair.b.receiveCompletions)
        #expect(entries.map(\.byteLength) == [3_000])
        #expect(entries.map(\.immediate) == [77])
        #expect(Array(pair.b.memory[5..<3_005]) == Array(pair.a.memory[0..<3_000]))
        #expect(pair.a.node.poll(pair.a.sendCompletions).map(\.status) == [.success])
    }

    @Test("Over a lossy network what arrives is whole, and in the order of the packets", arguments: 0..<40)
    func lossy(seed: UInt64) {
        var network = NetworkOptions()
        network.loss = 0.1
        network.reordering = seed % 2 == 0 ? 0 : 0.05
        let pair = ConnectedPair(
            type: .uc, network: network,
            change: { creation in
                creation.sendCapacity = 64
                creation.receiveCapacity = 64
            })
        var g = SeededGenerator(seed: seed)
        var messages: [[UInt8]] = []
        for id in 0..<40 {
            pair.b.node.postReceive(pair.b.queues.receiveQueue, id: UInt64(id), [pair.b.entry(id * 3_200, 3_100)])
            let length = 4 + g.below(3_000)
            var bytes = [UInt8](repeating: UInt8(id), count: length)
            bytes[0] = UInt8(truncatingIfNeeded: g.next())
            pair.a.memory[id * 3_200..<id * 3_200 + length].copyBytes(from: bytes)
            messages.append(bytes)
            pair.a.node.post(
                pair.a.queues, SendWorkRequest(id: UInt64(id), operation: .send), [pair.a.entry(id * 3_200, length)])
        }
        pair.settle()
        #expect(pair.a.node.poll(pair.a.sendCompletions).map(\.id) == Array(0..<40))
        var rest = messages[...]
        for entry in pair.b.node.poll(pair.b.receiveCompletions) {
            let start = Int(entry.id) * 3_200
            let bytes = Array(pair.b.memory[start..<start + Int(entry.byteLength)])
            guard let index = rest.firstIndex(of: bytes) else {
                Issue.record("seed \(seed): receive \(entry.id) is no message, or out of order")
                return
            }
            // A message that is one packet is taken whenever that comes.
            if network.reordering == 0 { rest = rest[(index + 1)...] } else { rest.remove(at: index) }
        }
    }
}
