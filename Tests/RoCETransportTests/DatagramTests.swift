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

    @Test("A management datagram that was to leave from an address that went is counted")
    func goneAddress() throws {
        let pair = ConnectedPair(type: .ud)
        let engine = pair.a.node.engine
        var management = CommunicationManagement(configuration: CommunicationConfiguration(slot: 1, nodeGUID: 7))
        let peer = ManagementPeer(address: pair.b.node.gid, local: pair.a.node.gid, localIndex: 0)
        var generator = SeededGenerator(seed: 1)
        _ = try management.requestService(
            ServiceID(portSpace: .udp, port: 9), of: peer, privateData: [], tag: 1, now: 0, using: &generator)
        let next = management.nextMessage()
        let message = try #require(next)
        engine.pointee.send(message)
        pair.settle()
        #expect(engine.pointee.counters.managementDropped == 0)
        engine.pointee.send(message)
        try engine.pointee.setLocalAddress(0, to: nil)
        pair.settle()
        #expect(engine.pointee.counters.managementDropped == 1)
        #expect(pair.b.node.engine.pointee.counters.packetsReceived == 1)
    }

    @Test("AckReq, which rxe sets on datagrams to queue pair 1, is not answered")
    func acknowledgeRequest() {
        let peer = ScriptedPeer(type: .ud)
        peer.postReceive(id: 3)
        peer.arrive(.udSendOnly, psn: 9, payload: [1], acknowledgeRequest: true) {
            $0.deth = DETH(queueKey: QueueKey(rawValue: 0x1234), source: QPN(truncating: 1))
        }
        #expect(peer.pollReceives().map(\.id) == [3])
        #expect(peer.takeSent().isEmpty)
    }

    @Test("Datagrams are taken with any PSN, and each as often as it comes")
    func noSequence() {
        let peer = ScriptedPeer(type: .ud)
        for id in 0..<3 { peer.postReceive(id: UInt64(id)) }
        for psn in [7, 7, 0xFF_FFF0] as [UInt32] {
            peer.arrive(.udSendOnly, psn: psn, payload: [1]) {
                $0.deth = DETH(queueKey: QueueKey(rawValue: 0x1234), source: QPN(truncating: 9))
            }
        }
        #expect(peer.pollReceives().count == 3)
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

@Suite("Multicast groups") struct MulticastTests {
    private let group = GID(ipv4: 0xEF01_0203)

    /// A datagram to a group arrives.
    private func arrive(
        _ peer: ScriptedPeer, group: GID, qkey: UInt32 = 0x1234, from source: QPN = QPN(truncating: 0x99)
    ) {
        var packet = RoCEPacket(
            bth: BTH(opcode: .udSendOnly, destination: .multicast, psn: PSN(truncating: 5)), payloadByteCount: 4)
        packet.deth = DETH(queueKey: QueueKey(rawValue: qkey), source: source)
        var bytes = [UInt8](repeating: 0x5C, count: packet.byteCount)
        bytes.withUnsafeMutableBytes { buffer in
            var span = buffer.mutableBytes
            packet.emitHeaders(into: &span)
            let flow = ICRC.Flow(source: peer.peer, destination: group, sourcePort: 50_000)
            ICRC.seal(&span, ICRC.seed(flow, udpPayloadByteCount: buffer.count))
        }
        peer.node.receive(
            bytes, from: DatagramOrigin(source: peer.peer, sourcePort: 50_000, localIndex: 0, group: group),
            now: peer.now)
        peer.drain()
    }

    @Test("A queue pair that left a group receives nothing of it any more, but goes on with its other groups")
    func leave() throws {
        let other = GID(ipv4: 0xEF01_0204)
        let peer = ScriptedPeer(type: .ud)
        for id in 0..<4 { peer.postReceive(id: UInt64(id)) }
        for joined in [group, other] { try peer.node.engine.pointee.attachMulticast(peer.queues.qpn, group: joined) }
        arrive(peer, group: group)
        #expect(peer.pollReceives().map(\.id) == [0])
        try peer.node.engine.pointee.detachMulticast(peer.queues.qpn, group: group)
        arrive(peer, group: group)
        #expect(peer.pollReceives().isEmpty)
        arrive(peer, group: other)
        #expect(peer.pollReceives().map(\.id) == [1])
        #expect(throws: EngineError.invalidArgument("the queue pair is not attached to the group")) {
            try peer.node.engine.pointee.detachMulticast(peer.queues.qpn, group: group)
        }
    }

    @Test("Joining twice is joining once: one copy arrives, and one leaving ends it")
    func joinTwice() throws {
        let peer = ScriptedPeer(type: .ud)
        for id in 0..<4 { peer.postReceive(id: UInt64(id)) }
        for _ in 0..<2 { try peer.node.engine.pointee.attachMulticast(peer.queues.qpn, group: group) }
        arrive(peer, group: group)
        #expect(peer.pollReceives().count == 1)
        try peer.node.engine.pointee.detachMulticast(peer.queues.qpn, group: group)
        try peer.node.engine.pointee.destroyQueuePair(peer.queues.qpn)
    }

    @Test("Every member gets a copy of its own; one with another Q_Key, or without a receive, misses it alone")
    func members() throws {
        let peer = ScriptedPeer(type: .ud)
        let node = peer.node
        func member(_ qkey: UInt32, receive id: UInt64?) throws -> QPN {
            let made = node.makeQueuePair(
                QueuePairCreation(
                    type: .ud, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                    receiveCompletionQueue: peer.receiveCompletions))
            var options = ConnectionOptions()
            options.qkey = qkey
            node.connect(made.qpn, type: .ud, to: peer.peer, peer.remoteQPN, options)
            if let id { node.postReceive(made.receiveQueue, id: id, [peer.entry(Int(id) * 100, 100)]) }
            try node.engine.pointee.attachMulticast(made.qpn, group: group)
            return made.qpn
        }
        let first = try member(0x1234, receive: 1)
        _ = try member(0x1235, receive: 2)
        _ = try member(0x1234, receive: nil)
        let last = try member(0x1234, receive: 3)
        arrive(peer, group: group)
        let entries = peer.pollReceives()
        #expect(Set(entries.map(\.qpn)) == [first.rawValue, last.rawValue])
        #expect(Set(entries.map(\.id)) == [1, 3])
        #expect(peer.memory[140] == 0x5C && peer.memory[340] == 0x5C && peer.memory[240] == 0)
        #expect(peer.counters.droppedKey == 1 && peer.counters.droppedNoReceive == 1)
    }

    @Test("Only datagram queue pairs join, and only groups")
    func whoJoins() throws {
        let connected = ScriptedPeer()
        #expect(throws: EngineError.invalidArgument("only UD can join a multicast group")) {
            try connected.node.engine.pointee.attachMulticast(connected.queues.qpn, group: group)
        }
        let peer = ScriptedPeer(type: .ud)
        #expect(throws: EngineError.invalidArgument("the address is not that of a multicast group")) {
            try peer.node.engine.pointee.attachMulticast(peer.queues.qpn, group: GID(ipv4: 0x0A00_0001))
        }
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
