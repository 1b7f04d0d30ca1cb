// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("Memory windows") struct MemoryWindowTests {
    /// A queue pair with a window that is not bound.
    private final class Owner {
        let peer = ScriptedPeer()
        let window: MemoryKey

        init(_ type: MemoryWindowType) {
            window = try! peer.node.engine.pointee.allocateWindow(
                protectionDomain: 1, type: type, using: &peer.node.generator)
        }

        func request(
            _ old: MemoryKey, _ new: MemoryKey, _ range: Range<Int>, access: AccessFlags = .remoteWrite, id: UInt64 = 1,
            flags: SendFlags = .signaled, region: MemoryKey? = nil
        ) -> SendWorkRequest {
            var request = SendWorkRequest(id: id, operation: .bindWindow, flags: flags)
            request.bindWindowKey = old.rawValue
            request.bindNewKey = new.rawValue
            request.bindRegionKey = (region ?? peer.key).rawValue
            request.bindAddress = peer.address(range.lowerBound)
            request.bindLength = UInt64(range.count)
            request.bindAccess = access
            return request
        }

        func bind(
            _ old: MemoryKey, _ new: MemoryKey, _ range: Range<Int>, access: AccessFlags = .remoteWrite,
            region: MemoryKey? = nil
        ) -> CompletionStatus? {
            peer.node.post(peer.queues, request(old, new, range, access: access, region: region))
            peer.drain()
            return peer.pollSends().last?.status
        }

        func invalidate(_ key: MemoryKey) -> CompletionStatus? {
            var request = SendWorkRequest(id: 2, operation: .localInvalidate)
            request.immediate = key.rawValue
            peer.node.post(peer.queues, request)
            peer.drain()
            return peer.pollSends().last?.status
        }

        /// Writes a byte through a key; the syndrome of the answer.
        func write(_ psn: UInt32, _ byte: UInt8, at offset: Int, _ key: MemoryKey) -> UInt8? {
            _ = peer.takeSent()
            peer.request(.rcWriteOnly, psn, [byte], at: offset, key: key)
            return peer.takeSent().last?.aeth.syndrome.rawValue
        }
    }

    private func next(_ key: MemoryKey) -> MemoryKey { key.with(variant: key.variant &+ 1) }

    // MARK: Binding

    @Test("A type 2 window is bound once, and again after it was invalidated")
    func type2BindsOnce() {
        let owner = Owner(.type2)
        let first = next(owner.window)
        let second = next(first)
        #expect(owner.bind(owner.window, first, 0..<64) == .success)
        #expect(owner.invalidate(first) == .success)
        #expect(owner.bind(first, second, 64..<128) == .success)
        #expect(owner.write(0x200, 5, at: 64, second) == 0x1F)
        #expect(owner.bind(second, next(second), 0..<64) == .windowBindError, "it is bound")
    }

    @Test("A type 2 bind under the key that it has, of another window, or of no length fails", arguments: 0..<3)
    func type2BadBinds(which: Int) {
        let owner = Owner(.type2)
        let status =
            switch which {
            case 0: owner.bind(owner.window, owner.window, 0..<64)
            case 1: owner.bind(owner.window, MemoryKey(rawValue: next(owner.window).rawValue ^ 0x100), 0..<64)
            default: owner.bind(owner.window, next(owner.window), 0..<0)
            }
        #expect(status == .windowBindError)
        #expect(owner.peer.state == .error)
    }

    @Test("A type 1 window is bound again at will, which ends the key before, and bound to nothing by length 0")
    func type1Rebinds() throws {
        let owner = Owner(.type1)
        let first = next(owner.window)
        let second = next(first)
        #expect(owner.bind(owner.window, first, 0..<64) == .success)
        #expect(owner.write(0x200, 1, at: 0, first) == 0x1F)
        #expect(owner.bind(first, second, 64..<128) == .success)
        #expect(owner.write(0x201, 2, at: 64, second) == 0x1F)
        #expect(owner.bind(second, next(second), 0..<0) == .success)
        try owner.peer.node.engine.pointee.deregisterMemory(owner.peer.key)
        #expect(owner.write(0x202, 3, at: 64, next(second)) == 0x62)
        #expect(owner.peer.memory[0] == 1 && owner.peer.memory[64] == 2)
    }

    @Test("A type 1 window serves every queue pair of its domain")
    func type1ServesAll() {
        let owner = Owner(.type1)
        let peer = owner.peer
        let key = next(owner.window)
        #expect(owner.bind(owner.window, key, 0..<64) == .success)
        let other = peer.node.makeQueuePair(
            QueuePairCreation(
                type: .rc, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                receiveCompletionQueue: peer.receiveCompletions))
        peer.node.connect(other.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
        peer.arrive(.rcWriteOnly, psn: 0x200, payload: [6], to: other.qpn) {
            $0.reth = RETH(virtualAddress: peer.address(0), rkey: key, length: 1)
        }
        #expect(peer.memory[0] == 6)
    }

    @Test("A window that permits writing needs a region that is written locally")
    func windowNeedsLocalWrite() {
        for (access, status) in [(.remoteWrite, .windowBindError), (.remoteRead, .success)]
            as [(AccessFlags, CompletionStatus)]
        {
            let owner = Owner(.type2)
            let region = owner.peer.node.register(owner.peer.memory, iova: 0x10_0000, access: [.windowBind])
            #expect(owner.bind(owner.window, next(owner.window), 0..<64, access: access, region: region) == status)
        }
    }

    @Test("A zero-based window counts its addresses from its start")
    func zeroBased() {
        let owner = Owner(.type2)
        let key = next(owner.window)
        #expect(owner.bind(owner.window, key, 128..<192, access: [.remoteWrite, .zeroBased]) == .success)
        owner.peer.arrive(.rcWriteOnly, psn: 0x200, payload: [9]) {
            $0.reth = RETH(virtualAddress: 8, rkey: key, length: 1)
        }
        #expect(owner.peer.memory[136] == 9)
        #expect(owner.write(0x201, 1, at: 128, key) == 0x62)
    }

    // MARK: Order

    @Test("A bind takes effect in its turn, does not wait for acknowledgements, and completes behind what is before it")
    func bindOrder() {
        let owner = Owner(.type2)
        let peer = owner.peer
        let key = next(owner.window)
        peer.post(.send, id: 1)
        peer.node.post(peer.queues, owner.request(owner.window, key, 0..<64, id: 2))
        peer.post(.send, id: 3)
        #expect(owner.peer.takeSent().map(\.psn) == [0x100, 0x101], "the SEND that tells the peer of the key")
        #expect(owner.write(0x200, 5, at: 0, key) == 0x1F, "the peer knows the key, so it must be open")
        #expect(peer.pollSends().isEmpty)
        peer.acknowledge(0x100)
        #expect(peer.pollSends().map(\.id) == [1, 2])
        peer.acknowledge(0x101)
        #expect(peer.pollSends().map(\.id) == [3])
    }

    @Test("A fenced bind waits for READs and atomics before it")
    func fencedBind() {
        let owner = Owner(.type2)
        let peer = owner.peer
        let key = next(owner.window)
        peer.post(.rdmaRead, id: 1)
        peer.node.post(peer.queues, owner.request(owner.window, key, 0..<64, id: 2, flags: [.signaled, .fence]))
        peer.drain()
        peer.respond(.rcReadResponseOnly, 0x100, [UInt8](repeating: 1, count: 8))
        #expect(peer.pollSends().map(\.id) == [1, 2])

        let early = Owner(.type2)
        early.peer.post(.rdmaRead, id: 1)
        early.peer.node.post(
            early.peer.queues, early.request(early.window, next(early.window), 0..<64, flags: [.signaled, .fence]))
        early.peer.drain()
        #expect(early.write(0x200, 5, at: 0, next(early.window)) == 0x62)
    }

    @Test("A bind that fails ends the queue pair in its turn: what is before it completes, what is behind is flushed")
    func failedBindOrder() {
        let owner = Owner(.type2)
        let peer = owner.peer
        peer.post(.send, id: 1)
        peer.node.post(peer.queues, owner.request(owner.window, owner.window, 0..<64, id: 2))
        peer.post(.send, id: 3)
        #expect(peer.takeSent().count == 1)
        #expect(peer.pollSends().isEmpty)
        peer.acknowledge(0x100)
        #expect(peer.pollSends().map(\.status) == [.success, .windowBindError, .flushed])
    }

    // MARK: Invalidation

    @Test("LOCAL_INV of what is no bound type 2 window of the domain fails", arguments: 0..<5)
    func badLocalInvalidate(which: Int) throws {
        let owner = Owner(which == 1 ? .type1 : .type2)
        let bound = next(owner.window)
        if which > 0 { #expect(owner.bind(owner.window, bound, 0..<64) == .success) }
        let foreign = try owner.peer.node.engine.pointee.allocateWindow(
            protectionDomain: 2, type: .type2, using: &owner.peer.node.generator)
        let key =
            switch which {
            case 0: owner.window  // not bound
            case 1: bound  // type 1
            case 2: owner.peer.key  // a region
            case 3: owner.window  // its key of before
            default: foreign
            }
        #expect(owner.invalidate(key) == .localQueuePairOperationError)
        #expect(owner.peer.state == .error)
    }

    @Test("SEND with invalidate places its data first, also where the key is none to invalidate", arguments: 0..<5)
    func badSendWithInvalidate(which: Int) {
        let owner = Owner(which == 2 ? .type1 : .type2)
        let peer = owner.peer
        let bound = next(owner.window)
        if which > 0 { #expect(owner.bind(owner.window, bound, 0..<64) == .success) }
        peer.postReceive(id: 6)
        var target = peer.queues.qpn
        let key: MemoryKey
        switch which {
        case 0: key = owner.window  // not bound
        case 1: key = owner.window  // its key of before
        case 2: key = bound  // type 1
        case 3: key = peer.key  // a region
        default:
            // A window that another queue pair bound.
            let other = peer.node.makeQueuePair(
                QueuePairCreation(
                    type: .rc, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                    receiveCompletionQueue: peer.receiveCompletions))
            peer.node.connect(other.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
            peer.node.postReceive(other.receiveQueue, id: 6, [peer.entry(65_536, 64)])
            target = other.qpn
            key = bound
        }
        _ = peer.takeSent()
        peer.arrive(.rcSendOnlyInvalidate, psn: 0x200, payload: [4, 4], acknowledgeRequest: true, to: target) {
            $0.ieth = IETH(rkey: key)
        }
        #expect(peer.takeSent().map(\.aeth.syndrome.rawValue) == [0x62])
        #expect(Array(peer.memory[65_536..<65_538]) == [4, 4])
        let entries = peer.pollReceives()
        #expect(entries.map(\.id) == [6])
        #expect(entries.map(\.status) == [.remoteInvalidRequestError])
        #expect(peer.node.state(target) == .error)
        if which == 4 { #expect(owner.write(0x200, 8, at: 0, bound) == 0x1F, "the window is as it was") }
    }

    @Test("A SEND with invalidate of many packets invalidates at its end, not before")
    func longSendWithInvalidate() {
        let owner = Owner(.type2)
        let peer = owner.peer
        let key = next(owner.window)
        #expect(owner.bind(owner.window, key, 0..<64) == .success)
        peer.postReceive(id: 6)
        peer.request(.rcSendFirst, 0x200, [UInt8](repeating: 3, count: 1024))
        #expect(throws: EngineError.busy("memory windows are bound to the region")) {
            try peer.node.engine.pointee.deregisterMemory(peer.key)
        }
        peer.arrive(.rcSendLastInvalidate, psn: 0x201, payload: [1], acknowledgeRequest: true) {
            $0.ieth = IETH(rkey: key)
        }
        #expect(peer.pollReceives().map(\.immediate) == [key.rawValue])
        #expect(owner.write(0x202, 8, at: 0, key) == 0x62)
    }

    @Test("A type 2 window opens nothing to a queue pair that came after its own")
    func ownerIsGone() throws {
        let owner = Owner(.type2)
        let peer = owner.peer
        let key = next(owner.window)
        #expect(owner.bind(owner.window, key, 0..<64) == .success)
        try peer.node.engine.pointee.destroyQueuePair(peer.queues.qpn)
        let successor = peer.node.makeQueuePair(
            QueuePairCreation(
                type: .rc, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                receiveCompletionQueue: peer.receiveCompletions))
        peer.node.connect(successor.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
        peer.arrive(.rcWriteOnly, psn: 0x200, payload: [6], to: successor.qpn) {
            $0.reth = RETH(virtualAddress: peer.address(0), rkey: key, length: 1)
        }
        #expect(peer.takeSent().last?.aeth.syndrome.rawValue == 0x62)
        #expect(peer.memory[0] == 0)
    }
}
