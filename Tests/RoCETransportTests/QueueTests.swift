// SPDX-License-Identifier: Apache-2.0
import CVerbsABI
import RoCETransport
import RoCEWire
import Testing

@Suite("Queues and events") struct QueueTests {
    @Test("A completion entry is laid out as struct ibv_wc, and a scatter/gather entry as struct ibv_sge")
    func layout() {
        #expect(MemoryLayout<CompletionEntry>.stride == MemoryLayout<ibv_wc>.stride)
        var entry = CompletionEntry(id: 1, status: .remoteAccessError, operation: .rdmaRead, qpn: 7)
        entry.vendorError = 2
        entry.byteLength = 3
        entry.immediate = 4
        entry.sourceQPN = 5
        entry.flags = [.grh, .withInvalidate]
        entry.pkeyIndex = 8
        entry.sourceLID = 9
        entry.serviceLevel = 10
        entry.destinationPathBits = 11
        let theirs = [entry].withUnsafeBytes { $0.loadUnaligned(as: ibv_wc.self) }
        #expect(theirs.wr_id == 1)
        #expect(theirs.status == .IBV_WC_REM_ACCESS_ERR)
        #expect(theirs.opcode == .IBV_WC_RDMA_READ)
        #expect(theirs.vendor_err == 2 && theirs.byte_len == 3 && theirs.imm_data == 4)
        #expect(theirs.qp_num == 7 && theirs.src_qp == 5 && theirs.pkey_index == 8 && theirs.slid == 9)
        #expect(theirs.wc_flags == 9 && theirs.sl == 10 && theirs.dlid_path_bits == 11)
        #expect(MemoryLayout<ScatterGatherEntry>.stride == MemoryLayout<ibv_sge>.stride)
        let sge = withUnsafeBytes(of: ScatterGatherEntry(address: 1, length: 2, lkey: 3)) {
            $0.loadUnaligned(as: ibv_sge.self)
        }
        #expect(sge.addr == 1 && sge.length == 2 && sge.lkey == 3)
    }

    @Test("A queue armed for anything tells of the next completion, once")
    func armed() {
        let peer = ScriptedPeer()
        peer.sendCompletions.arm(solicitedOnly: false)
        peer.post(.send, id: 1)
        peer.post(.send, id: 2)
        #expect(peer.node.takeEvents().isEmpty)
        peer.acknowledge(0x100)
        #expect(peer.node.takeEvents() == [.completion(tag: 1)])
        peer.acknowledge(0x101)
        #expect(peer.node.takeEvents().isEmpty)
    }

    @Test("A queue armed for solicited completions tells of those, and of errors")
    func solicited() {
        let peer = ScriptedPeer()
        for id in 1...4 { peer.postReceive(id: UInt64(id)) }
        peer.receiveCompletions.arm(solicitedOnly: true)
        peer.request(.rcSendOnly, 0x200, [1])
        #expect(peer.node.takeEvents().isEmpty)
        peer.arrive(.rcSendOnly, psn: 0x201, solicited: true)
        #expect(peer.node.takeEvents() == [.completion(tag: 2)])
        peer.receiveCompletions.arm(solicitedOnly: true)
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .error }
        peer.drain()
        #expect(peer.node.takeEvents() == [.completion(tag: 2)], "a flush wakes the waiter too")
    }

    @Test("A full completion queue is an error of it and of its queue pairs")
    func overflow() throws {
        let peer = ScriptedPeer(change: { creation, node in
            creation.sendCompletionQueue = node.makeCompletionQueue(4, tag: 44)
        })
        for id in 0..<6 { peer.post(.send, id: UInt64(id)) }
        peer.acknowledge(0x105)
        let events = peer.node.takeEvents()
        #expect(events.contains(.completionQueueError(tag: 44)))
        #expect(events.contains(.queuePair(.fatal, tag: 3)))
        #expect(peer.state == .error)
        #expect(peer.counters.completionsLost >= 2)
    }

    @Test("A completion queue keeps what waits in it when it is resized")
    func resize() throws {
        var made: CompletionQueue?
        let peer = ScriptedPeer(change: { creation, node in
            made = node.makeCompletionQueue(8)
            creation.sendCompletionQueue = made!
        })
        let queue = try #require(made)
        for id in 0..<6 { peer.post(.send, id: UInt64(id)) }
        peer.acknowledge(0x105)
        #expect(throws: EngineError.busy("more completions wait than would fit")) {
            try peer.node.engine.pointee.resizeCompletionQueue(queue, capacity: 4)
        }
        try peer.node.engine.pointee.resizeCompletionQueue(queue, capacity: 100)
        #expect(queue.capacity == 128)
        #expect(peer.node.poll(queue).map(\.id) == Array(0..<6))
        for id in 0..<20 { peer.post(.send, id: UInt64(id)) }
        peer.acknowledge(0x106 + 19)
        #expect(peer.node.poll(queue).map(\.id) == Array(0..<20))
    }

    @Test("A shared receive queue tells once when it runs low, and is armed again by a new limit")
    func limit() throws {
        var shared: ReceiveQueue?
        let peer = ScriptedPeer(change: { creation, node in
            shared = try! node.engine.pointee.createSharedReceiveQueue(
                protectionDomain: 1, capacity: 8, scatterGatherMax: 1, tag: 9)
            creation.sharedReceiveQueue = shared
        })
        let queue = try #require(shared)
        for id in 0..<6 { peer.postReceive(id: UInt64(id)) }
        try peer.node.engine.pointee.modifySharedReceiveQueue(queue, limit: 5)
        peer.request(.rcSendOnly, 0x200, [1])
        #expect(peer.node.takeEvents().isEmpty, "five are left, which is not below five")
        peer.request(.rcSendOnly, 0x201, [1])
        #expect(peer.node.takeEvents() == [.sharedReceiveQueueLimit(tag: 9)])
        #expect(try peer.node.engine.pointee.sharedReceiveQueueLimit(queue) == 0)
        peer.request(.rcSendOnly, 0x202, [1])
        #expect(peer.node.takeEvents().isEmpty)
        #expect(throws: EngineError.busy("a queue pair uses the shared receive queue")) {
            try peer.node.engine.pointee.destroySharedReceiveQueue(queue)
        }
    }

    @Test("A shared receive queue that is resized keeps what is posted, in order, or stays as it is")
    func resizedSharedQueue() throws {
        var shared: ReceiveQueue?
        let peer = ScriptedPeer(change: { creation, node in
            shared = try! node.engine.pointee.createSharedReceiveQueue(
                protectionDomain: 1, capacity: 4, scatterGatherMax: 1, tag: 9)
            creation.sharedReceiveQueue = shared
        })
        let queue = try #require(shared)
        for id in 0..<4 { peer.postReceive(id: UInt64(id)) }
        for step in 0..<3 as Range<UInt32> { peer.request(.rcSendOnly, 0x200 + step, [1]) }
        for id in 4..<7 { peer.postReceive(id: UInt64(id)) }
        #expect(queue.freeCount == 0)
        for (capacity, limit) in [(2, nil), (0, nil), (1 << 20, nil), (16, 17)] as [(Int, Int?)] {
            #expect(throws: EngineError.self) {
                try peer.node.engine.pointee.modifySharedReceiveQueue(queue, capacity: capacity, limit: limit)
            }
            #expect(queue.capacity == 4)
        }
        try peer.node.engine.pointee.modifySharedReceiveQueue(queue, capacity: 9)
        #expect(queue.capacity == 16 && queue.freeCount == 12)
        for id in 7..<19 { peer.postReceive(id: UInt64(id)) }
        #expect(queue.freeCount == 0)
        for step in 3..<15 as Range<UInt32> { peer.request(.rcSendOnly, 0x200 + step, [1]) }
        try peer.node.engine.pointee.modifySharedReceiveQueue(queue, capacity: 4)
        #expect(queue.capacity == 4 && queue.freeCount == 0)
        for step in 15..<19 as Range<UInt32> { peer.request(.rcSendOnly, 0x200 + step, [1]) }
        #expect(peer.pollReceives().map(\.id) == Array(0..<19))
    }

    @Test("A queue pair in ERR flushes the shared receive it had taken, and tells that it takes no more")
    func lastReceive() {
        let peer = ScriptedPeer(change: { creation, node in
            creation.sharedReceiveQueue = try! node.engine.pointee.createSharedReceiveQueue(
                protectionDomain: 1, capacity: 8, scatterGatherMax: 1, tag: 9)
        })
        peer.postReceive(id: 1)
        peer.postReceive(id: 2)
        peer.request(.rcSendFirst, 0x200, [UInt8](repeating: 1, count: 1024))
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .error }
        peer.drain()
        #expect(peer.pollReceives().map(\.id) == [1])
        #expect(peer.events == [.lastReceiveReached])
        #expect(peer.queues.receiveQueue.freeCount == 7, "the other one stays for other queue pairs")
    }

    @Test("What is in use cannot be destroyed, and what is destroyed is not known")
    func lifetimes() throws {
        let node = SimulatedNode(address: 1, seed: 1)
        let queue = node.makeCompletionQueue()
        let made = node.makeQueuePair(
            QueuePairCreation(
                type: .rc, protectionDomain: 1, sendCompletionQueue: queue, receiveCompletionQueue: queue))
        #expect(throws: EngineError.busy("a queue pair uses the completion queue")) {
            try node.engine.pointee.destroyCompletionQueue(queue)
        }
        try node.engine.pointee.destroyQueuePair(made.qpn)
        #expect(throws: EngineError.unknownObject) { try node.engine.pointee.destroyQueuePair(made.qpn) }
        node.engine.pointee.doorbell(made.qpn)
        try node.engine.pointee.destroyCompletionQueue(queue)
        #expect(throws: EngineError.unknownObject) { try node.engine.pointee.destroyCompletionQueue(queue) }
    }

    @Test("A destroyed queue pair acknowledges again what it had acknowledged, for a while, and takes nothing new")
    func lingering() throws {
        let peer = ScriptedPeer()
        peer.postReceive()
        let number = peer.queues.qpn
        peer.request(.rcSendOnly, 0x200, [1])
        _ = peer.takeSent()
        try peer.node.engine.pointee.destroyQueuePair(number)
        peer.request(.rcSendOnly, 0x200, [1])
        let answers = peer.takeSent()
        #expect(answers.map(\.brief) == ["RC ACKNOWLEDGE 512"])
        #expect(answers.first?.aeth == AETH(syndrome: .acknowledged, msn: MSN(truncating: 1)))
        peer.request(.rcSendOnly, 0x201, [1])
        peer.arrive(.rcSendOnly, psn: 0x200, from: GID(ipv4: 0x0A00_0003))
        peer.arrive(.rcSendOnly, psn: 0x200, damage: true)
        peer.request(.rcReadRequest, 0x200, length: 8)
        #expect(peer.takeSent().isEmpty)
        peer.now += 2_000_000_000
        #expect(peer.node.engine.pointee.lingerDeadline(now: peer.now) == nil)
        peer.request(.rcSendOnly, 0x200, [1])
        #expect(peer.takeSent().isEmpty)
    }

    @Test("A queue pair with work, a timer and events can be destroyed at any time")
    func destroyBusy() throws {
        let pair = ConnectedPair()
        for id in 0..<8 {
            pair.a.node.post(pair.a.queues, SendWorkRequest(id: UInt64(id), operation: .send), [pair.a.entry(0, 5_000)])
        }
        _ = pair.a.node.engine.pointee.transmit(into: &pair.a.node.transmitQueue, now: 1)
        pair.a.node.engine.pointee.doorbell(pair.a.queues.qpn)
        try pair.a.node.engine.pointee.destroyQueuePair(pair.a.queues.qpn)
        #expect(pair.a.node.engine.pointee.nextDeadline == nil)
        #expect(!pair.a.node.engine.pointee.transmit(into: &pair.a.node.transmitQueue, now: 2))
        pair.a.node.engine.pointee.publishCompletions()
        #expect(pair.a.node.engine.pointee.nextEvent() == nil)
    }

    @Test("Limits are errors that name them")
    func limits() throws {
        let node = SimulatedNode(address: 1, seed: 1) {
            $0.queuePairCountMax = 1
            $0.completionQueueCountMax = 1
            $0.memoryKeyCountMax = 1
        }
        let queue = node.makeCompletionQueue()
        #expect(throws: EngineError.limitReached("completion queues")) {
            try node.engine.pointee.createCompletionQueue(capacity: 1, tag: 0)
        }
        let creation = QueuePairCreation(
            type: .rc, protectionDomain: 1, sendCompletionQueue: queue, receiveCompletionQueue: queue)
        _ = node.makeQueuePair(creation)
        #expect(throws: EngineError.limitReached("queue pairs")) {
            try node.engine.pointee.createQueuePair(creation, using: &node.generator)
        }
        var tooMany = creation
        tooMany.sendScatterGatherMax = 33
        #expect(throws: EngineError.limitReached("queue pairs")) {
            try node.engine.pointee.createQueuePair(tooMany, using: &node.generator)
        }
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 8)
        defer { memory.deallocate() }
        _ = node.register(memory)
        #expect(throws: EngineError.limitReached("memory keys")) {
            try node.engine.pointee.allocateWindow(protectionDomain: 1, type: .type1, using: &node.generator)
        }
    }

    @Test("Queue pairs with work take turns")
    func fairness() {
        let node = SimulatedNode(address: 1, seed: 3) { $0.quantumBytes = 4_000 }
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 64)
        defer { memory.deallocate() }
        memory.initializeMemory(as: UInt8.self, repeating: 1)
        let key = node.register(memory, iova: 0)
        let queue = node.makeCompletionQueue()
        let made = (0..<3).map { index in
            let queues = node.makeQueuePair(
                QueuePairCreation(
                    type: .rc, protectionDomain: 1, sendCompletionQueue: queue, receiveCompletionQueue: queue))
            node.connect(
                queues.qpn, type: .rc, to: GID(ipv4: 2), QPN(truncating: 100 + UInt32(index)), ConnectionOptions())
            return queues
        }
        for queues in made {
            node.post(
                queues, SendWorkRequest(id: 1, operation: .send),
                [ScatterGatherEntry(address: 0, length: 12_000, lkey: key.rawValue)])
        }
        _ = node.engine.pointee.transmit(into: &node.transmitQueue, now: 1)
        var order: [UInt32] = []
        for index in 0..<node.transmitQueue.count {
            let burst = node.transmitQueue.burst(index)
            for start in stride(from: 0, to: burst.byteCount, by: burst.segmentSize) {
                let destination = UInt32(node.transmitQueue.bytes(of: burst)[start + 7])
                if order.last != destination { order.append(destination) }
            }
        }
        #expect(order.prefix(6).elementsEqual([100, 101, 102, 100, 101, 102]))
    }
}

@Suite("Memory keys") struct MemoryKeyTests {
    @Test("Thousands of keys come and go, and each opens its own memory only")
    func table() throws {
        let node = SimulatedNode(address: 1, seed: 9)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 8)
        defer { memory.deallocate() }
        var generator = SeededGenerator(seed: 4)
        var live: [MemoryKey] = []
        var seen: Set<UInt32> = []
        for _ in 0..<5_000 {
            if live.isEmpty || generator.chance(0.6) {
                let key = node.register(memory)
                #expect(
                    seen.insert(key.rawValue >> 8).inserted || !live.contains { $0.rawValue >> 8 == key.rawValue >> 8 })
                live.append(key)
            } else {
                let key = live.remove(at: generator.below(live.count))
                try node.engine.pointee.deregisterMemory(key)
                #expect(throws: EngineError.unknownObject) { try node.engine.pointee.deregisterMemory(key) }
            }
        }
        for key in live { try node.engine.pointee.deregisterMemory(key) }
    }

    @Test(
        "Keys and queue pair numbers are the generator's: every bit of them varies, and none of the special numbers occurs"
    )
    func randomness() {
        let node = SimulatedNode(address: 1, seed: 12, slot: 0xFE)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 8)
        defer { memory.deallocate() }
        var keyBits: (some: UInt32, all: UInt32) = (0, .max)
        var numberBits: (some: UInt32, all: UInt32) = (0, .max)
        let queue = node.makeCompletionQueue()
        for _ in 0..<200 {
            let key = node.register(memory).rawValue
            keyBits = (keyBits.some | key, keyBits.all & key)
            let made = node.makeQueuePair(
                QueuePairCreation(
                    type: .ud, protectionDomain: 1, sendCompletionQueue: queue, receiveCompletionQueue: queue,
                    sendCapacity: 1, receiveCapacity: 1))
            #expect(made.qpn.rawValue > 1 && made.qpn != .multicast)
            numberBits = (numberBits.some | made.qpn.rawValue, numberBits.all & made.qpn.rawValue)
        }
        #expect(keyBits.some == .max && keyBits.all == 0)
        #expect(
            numberBits.some == 0xFE_FFFF && numberBits.all == 0xFE_0000, "the process's slot, and 16 bits that vary")
        let other = SimulatedNode(address: 1, seed: 13)
        let same = SimulatedNode(address: 1, seed: 12)
        let first = SimulatedNode(address: 1, seed: 12).register(memory)
        #expect(same.register(memory) == first && other.register(memory) != first)
    }

    @Test("Remote write without local write is refused")
    func writeNeedsLocalWrite() {
        let node = SimulatedNode(address: 1, seed: 9)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 8)
        defer { memory.deallocate() }
        #expect(throws: EngineError.invalidArgument("access")) {
            try node.engine.pointee.registerMemory(
                protectionDomain: 1, iova: 0, pointer: memory.baseAddress!, byteCount: 64, access: .remoteWrite,
                using: &node.generator)
        }
    }

    /// Binds a window over `range` of the peer's memory and returns the key that it has then.
    private func bind(
        _ peer: ScriptedPeer, _ window: MemoryKey, _ range: Range<Int>, access: AccessFlags, region: MemoryKey? = nil
    ) -> (MemoryKey, CompletionStatus?) {
        let bound = window.with(variant: window.variant &+ 1)
        var request = SendWorkRequest(id: 1, operation: .bindWindow)
        request.bindWindowKey = window.rawValue
        request.bindNewKey = bound.rawValue
        request.bindRegionKey = (region ?? peer.key).rawValue
        request.bindAddress = peer.address(range.lowerBound)
        request.bindLength = UInt64(range.count)
        request.bindAccess = access
        peer.node.post(peer.queues, request)
        peer.drain()
        return (bound, peer.pollSends().first?.status)
    }

    @Test(
        "A window opens its range with its permissions, and its old key nothing",
        arguments: [MemoryWindowType.type1, .type2])
    func window(type: MemoryWindowType) throws {
        let peer = ScriptedPeer()
        let window = try peer.node.engine.pointee.allocateWindow(
            protectionDomain: 1, type: type, using: &peer.node.generator)
        let (key, status) = bind(peer, window, 64..<128, access: .remoteRead)
        #expect(status == .success)
        peer.request(.rcReadRequest, 0x200, length: 64, at: 64, key: key)
        #expect(peer.takeSent().last?.opcode == 0x10)
        peer.request(.rcReadRequest, 0x201, length: 65, at: 64, key: key)
        #expect(peer.takeSent().last?.aeth.syndrome.rawValue == 0x62)
    }

    @Test("The key before the bind, and writing where reading is permitted, are refused", arguments: [true, false])
    func windowRefusal(usesOldKey: Bool) throws {
        let peer = ScriptedPeer()
        let window = try peer.node.engine.pointee.allocateWindow(
            protectionDomain: 1, type: .type2, using: &peer.node.generator)
        let (key, _) = bind(peer, window, 64..<128, access: .remoteRead)
        if usesOldKey {
            peer.request(.rcReadRequest, 0x200, length: 8, at: 64, key: window)
        } else {
            peer.request(.rcWriteOnly, 0x200, [1], at: 64, key: key)
        }
        #expect(peer.takeSent().last?.aeth.syndrome.rawValue == 0x62)
        #expect(peer.memory[64] == 0)
    }

    @Test("A type 2 window serves the queue pair that bound it only")
    func foreignQueuePair() throws {
        let peer = ScriptedPeer()
        let window = try peer.node.engine.pointee.allocateWindow(
            protectionDomain: 1, type: .type2, using: &peer.node.generator)
        let (key, _) = bind(peer, window, 0..<64, access: .remoteRead)
        let other = peer.node.makeQueuePair(
            QueuePairCreation(
                type: .rc, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                receiveCompletionQueue: peer.receiveCompletions))
        peer.node.connect(other.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
        peer.arrive(.rcReadRequest, psn: 0x200, to: other.qpn) {
            $0.reth = RETH(virtualAddress: peer.address(0), rkey: key, length: 8)
        }
        #expect(peer.takeSent().last?.aeth.syndrome.rawValue == 0x62)
        peer.request(.rcReadRequest, 0x200, length: 8, key: key)
        #expect(peer.takeSent().last?.opcode == 0x10)
    }

    @Test("A bind outside of its region, or to one that does not permit it, fails")
    func badBind() throws {
        for which in 0..<3 {
            let peer = ScriptedPeer()
            let window = try peer.node.engine.pointee.allocateWindow(
                protectionDomain: which == 0 ? 2 : 1, type: .type2, using: &peer.node.generator)
            let region = peer.node.register(peer.memory, iova: 0x10_0000, access: [.localWrite])
            let range = which == 1 ? peer.memory.count - 8..<peer.memory.count + 8 : 0..<64
            let (_, status) = bind(peer, window, range, access: .remoteRead, region: which == 2 ? region : nil)
            #expect(status == .windowBindError)
        }
    }

    @Test("A region cannot go while a window is bound to it")
    func boundRegion() throws {
        let peer = ScriptedPeer()
        let window = try peer.node.engine.pointee.allocateWindow(
            protectionDomain: 1, type: .type1, using: &peer.node.generator)
        let (key, _) = bind(peer, window, 0..<64, access: .remoteRead)
        #expect(throws: EngineError.busy("memory windows are bound to the region")) {
            try peer.node.engine.pointee.deregisterMemory(peer.key)
        }
        try peer.node.engine.pointee.deallocateWindow(key)
        try peer.node.engine.pointee.deregisterMemory(peer.key)
    }
}
