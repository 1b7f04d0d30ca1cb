// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("The requester of RC") struct RequesterRuleTests {
    // MARK: Acknowledgements

    @Test("One acknowledgement completes all SENDs and WRITEs up to its PSN, in order")
    func coalescedAcknowledgement() {
        let peer = ScriptedPeer()
        for id in 1...4 { peer.post(id % 2 == 0 ? .send : .rdmaWrite, id: UInt64(id)) }
        peer.acknowledge(0x102)
        #expect(peer.pollSends().map(\.id) == [1, 2, 3])
        peer.acknowledge(0x103, 0x00)
        #expect(peer.pollSends().map(\.id) == [4], "credits of any number are an acknowledgement")
    }

    @Test("An acknowledgement of what was not sent, or was acknowledged, is ignored")
    func ghosts() {
        let peer = ScriptedPeer()
        peer.post(.send)
        peer.acknowledge(0x101)
        peer.acknowledge(0x0FF)
        peer.acknowledge(0x80_0100)
        #expect(peer.pollSends().isEmpty)
        #expect(peer.counters.droppedSequence == 3)
        peer.acknowledge(0x100)
        #expect(peer.pollSends().count == 1)
    }

    @Test("A refusal outside of what is in flight does not hurt", arguments: [UInt8(0x60), 0x61, 0x62, 0x63, 0x20])
    func forgedRefusal(syndrome: UInt8) {
        let peer = ScriptedPeer()
        peer.post(.send)
        for psn in [0x0FF, 0x101, 0x200] as [UInt32] { peer.acknowledge(psn, syndrome) }
        #expect(peer.state == .readyToSend)
        #expect(peer.takeSent().count == 1)
    }

    @Test("An acknowledgement never completes a READ: beyond it, it says that the response was lost")
    func acknowledgementBeyondRead() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        peer.post(.rdmaRead, id: 2)
        peer.post(.send, id: 3)
        _ = peer.takeSent()
        peer.acknowledge(0x102)
        #expect(peer.pollSends().map(\.id) == [1])
        #expect(peer.takeSent().map(\.brief) == ["RC READ REQUEST 257", "RC SEND ONLY 258"])
        peer.respond(.rcReadResponseOnly, 0x101, [1, 2, 3, 4, 5, 6, 7, 8])
        peer.acknowledge(0x102)
        #expect(peer.pollSends().map(\.id) == [2, 3])
        #expect(Array(peer.memory[0..<8]) == [1, 2, 3, 4, 5, 6, 7, 8])
    }

    @Test("A READ response acknowledges what was sent before the READ")
    func responseAcknowledges() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        peer.post(.rdmaRead, id: 2)
        peer.respond(.rcReadResponseOnly, 0x101, [UInt8](repeating: 1, count: 8))
        #expect(peer.pollSends().map(\.id) == [1, 2])
    }

    @Test("Reserved syndromes are dropped", arguments: [UInt8(0x40), 0x5F])
    func reservedSyndrome(syndrome: UInt8) {
        let peer = ScriptedPeer()
        peer.post(.send)
        peer.acknowledge(0x100, syndrome)
        #expect(peer.pollSends().isEmpty)
        #expect(peer.state == .readyToSend)
    }

    // MARK: READ

    @Test("A lost READ response is asked for again from the first missing byte, once for each gap")
    func lostReadResponse() {
        let peer = ScriptedPeer()
        peer.post(.rdmaRead, length: 5_000)
        _ = peer.takeSent()
        let full = [UInt8](repeating: 7, count: 1024)
        peer.respond(.rcReadResponseFirst, 0x100, full)
        peer.respond(.rcReadResponseMiddle, 0x102, full)
        peer.respond(.rcReadResponseMiddle, 0x103, full)
        let again = peer.takeSent()
        #expect(again.map(\.brief) == ["RC READ REQUEST 257"])
        #expect(again.first?.reth.virtualAddress == 0x5000 + 1024)
        #expect(again.map(\.reth.length) == [5_000 - 1024])
        // rxe goes on with MIDDLE, which is accepted.
        for psn in 0x101...0x103 as ClosedRange<UInt32> { peer.respond(.rcReadResponseMiddle, psn, full) }
        peer.respond(.rcReadResponseLast, 0x104, [UInt8](repeating: 7, count: 5_000 - 4096))
        #expect(peer.pollSends().map(\.status) == [.success])
        #expect(peer.memory[0..<5_000].allSatisfy { $0 == 7 })
        #expect(peer.memory[5_000] == 0)
    }

    @Test("A response of the wrong length or kind is a bad response", arguments: [0, 7, 9, 1024])
    func badReadResponse(length: Int) {
        let peer = ScriptedPeer()
        peer.post(.rdmaRead, length: 8)
        peer.respond(.rcReadResponseOnly, 0x100, [UInt8](repeating: 1, count: length))
        #expect(peer.pollSends().map(\.status) == [.badResponseError])
        #expect(peer.state == .error)
        #expect(peer.memory.allSatisfy { $0 == 0 })
    }

    @Test("An atomic answered by READ data, or a READ by an atomic's value, is a bad response")
    func crossedResponses() {
        let atomic = ScriptedPeer()
        atomic.post(.fetchAndAdd)
        atomic.respond(.rcReadResponseOnly, 0x100, [UInt8](repeating: 1, count: 8))
        #expect(atomic.pollSends().map(\.status) == [.badResponseError])
        let read = ScriptedPeer()
        read.post(.rdmaRead)
        read.arrive(.rcAtomicAcknowledge, psn: 0x100) {
            $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 1))
        }
        #expect(read.pollSends().map(\.status) == [.badResponseError])
    }

    @Test("A READ larger than the window is asked for in parts, and a part is repeated within its bounds")
    func splitRead() {
        let peer = ScriptedPeer { $0.windowInitialBytes = 4096 }
        peer.post(.rdmaRead, length: 10 * 1024)
        let first = peer.takeSent()
        #expect(first.map { Int($0.reth.length) } == [4096])
        let full = [UInt8](repeating: 9, count: 1024)
        peer.respond(.rcReadResponseFirst, 0x100, full)
        peer.respond(.rcReadResponseMiddle, 0x101, full)
        let second = peer.takeSent()
        #expect(second.map(\.psn) == [0x104])
        peer.respond(.rcReadResponseLast, 0x103, full)
        let again = peer.takeSent()
        #expect(again.first?.psn == 0x102)
        #expect(again.first?.reth.length == 2048)
        #expect(again.first?.reth.virtualAddress == 0x5000 + 2048)
    }

    @Test("No more than max_rd_atomic READs and atomics are in flight, and what follows waits its turn")
    func readLimit() {
        var options = ConnectionOptions()
        options.readAtomicMax = 2
        let peer = ScriptedPeer(options: options)
        peer.post(.rdmaRead, id: 1)
        peer.post(.fetchAndAdd, id: 2)
        peer.post(.rdmaRead, id: 3)
        peer.post(.send, id: 4)
        #expect(peer.takeSent().map(\.brief) == ["RC READ REQUEST 256", "RC FETCH ADD 257"])
        peer.respond(.rcReadResponseOnly, 0x100, [UInt8](repeating: 1, count: 8))
        #expect(peer.takeSent().map(\.brief) == ["RC READ REQUEST 258", "RC SEND ONLY 259"])
    }

    @Test("A fenced request waits until no READ or atomic is in flight")
    func fence() {
        let peer = ScriptedPeer()
        peer.post(.rdmaRead, id: 1)
        peer.post(.rdmaWrite, id: 2)
        peer.post(.send, id: 3, flags: [.signaled, .fence])
        #expect(peer.takeSent().map(\.brief) == ["RC READ REQUEST 256", "RC WRITE ONLY 257"])
        peer.respond(.rcReadResponseOnly, 0x100, [UInt8](repeating: 1, count: 8))
        #expect(peer.takeSent().map(\.brief) == ["RC SEND ONLY 258"])
    }

    @Test("An atomic puts the value before into memory, in host order")
    func atomicResult() {
        let peer = ScriptedPeer()
        peer.post(.compareAndSwap) {
            $0.compareAdd = 0x11
            $0.swap = 0x22
        }
        let request = peer.takeSent()[0]
        #expect(request.atomicETH.compare == 0x11)
        #expect(request.atomicETH.swapOrAdd == 0x22)
        peer.arrive(.rcAtomicAcknowledge, psn: 0x100) {
            $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 1))
            $0.atomicAckETH = AtomicAckETH(originalValue: 0x0102_0304_0506_0708)
        }
        #expect(peer.memory.loadUnaligned(as: UInt64.self) == 0x0102_0304_0506_0708)
        #expect(peer.pollSends().map(\.byteLength) == [8])
    }

    // MARK: Going back

    @Test("A NAK for the sequence acknowledges what is before it, and a WRITE goes on in its middle")
    func sequenceNAK() {
        let peer = ScriptedPeer()
        peer.memory[2048] = 0x5A
        peer.post(.send, id: 1)
        peer.post(.rdmaWrite, id: 2, length: 4000)
        _ = peer.takeSent()
        peer.acknowledge(0x103, 0x60)
        #expect(peer.pollSends().map(\.id) == [1])
        #expect(peer.payloads.first?.first == 0x5A)
        #expect(peer.takeSent().map(\.brief) == ["RC WRITE MIDDLE 259", "RC WRITE LAST 260"])
        peer.acknowledge(0x103, 0x60)
        #expect(peer.takeSent().isEmpty, "the same NAK again is a copy of it")
        peer.acknowledge(0x104, 0x60)
        #expect(peer.takeSent().map(\.brief) == ["RC WRITE LAST 260"], "after progress a NAK is a new one")
    }

    @Test("Frames are built again from memory as it is by then")
    func rebuild() {
        let peer = ScriptedPeer()
        peer.post(.send)
        peer.memory[0] = 0xEE
        _ = peer.takeSent()
        peer.passTime()
        #expect(peer.payloads.first?.first == 0xEE)
    }

    @Test("retry_cnt 3 means four transmissions, then an error and flushed successors", arguments: [UInt8(0), 1, 3, 7])
    func retryBudget(count: UInt8) {
        var options = ConnectionOptions()
        options.retryCount = count
        let peer = ScriptedPeer(options: options)
        peer.post(.send, id: 1, flags: [])
        peer.post(.send, id: 2, flags: [])
        peer.postReceive(id: 50)
        for _ in 0...count { peer.passTime() }
        #expect(peer.takeSent().filter { $0.psn == 0x100 }.count == Int(count) + 1)
        let sends = peer.pollSends()
        #expect(sends.map(\.id) == [1, 2])
        #expect(sends.map(\.status) == [.retriesExceeded, .flushed])
        #expect(peer.pollReceives().map(\.status) == [.flushed])
        #expect(peer.state == .error)
        #expect(peer.counters.timeouts == UInt64(count) + 1)
    }

    @Test("Progress gives the retries back")
    func retriesComeBack() {
        var options = ConnectionOptions()
        options.retryCount = 1
        let peer = ScriptedPeer(options: options)
        for id in 1...3 { peer.post(.send, id: UInt64(id)) }
        for psn in 0x100...0x102 as ClosedRange<UInt32> {
            peer.passTime()
            peer.acknowledge(psn)
        }
        #expect(peer.pollSends().map(\.status) == [.success, .success, .success])
    }

    @Test("The timer is 4.096 µs times two to the timeout; 0 is never")
    func timer() {
        var options = ConnectionOptions()
        options.timeout = 14
        let peer = ScriptedPeer(options: options)
        peer.post(.send)
        #expect(peer.node.engine.pointee.nextDeadline == peer.now + 67_108_864)
        options.timeout = 0
        let patient = ScriptedPeer(options: options)
        patient.post(.send)
        #expect(patient.node.engine.pointee.nextDeadline == nil)
    }

    @Test("A late acknowledgement of what is being sent again counts")
    func lateAcknowledgement() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        peer.post(.send, id: 2)
        peer.now += 1_000_000_000
        peer.node.engine.pointee.advance(to: peer.now)
        peer.acknowledge(0x101)
        #expect(peer.pollSends().map(\.id) == [1, 2])
        peer.post(.send, id: 3)
        #expect(peer.takeSent().last?.psn == 0x102)
    }

    @Test("A congestion notification halves the window, once for what is in flight")
    func congestionNotification() {
        let peer = ScriptedPeer { $0.windowInitialBytes = 8 * 1024 }
        peer.post(.rdmaWrite, length: 64 * 1024)
        #expect(peer.takeSent().count == 8)
        for _ in 0..<3 { peer.arrive(.congestionNotification, psn: 0, payload: [UInt8](repeating: 0, count: 16)) }
        peer.acknowledge(0x105)
        #expect(peer.takeSent().count == 2, "two were in flight, and the window is four")
    }

    // MARK: Receiver not ready

    @Test("An RNR NAK acknowledges what is before it, and its time is kept against timers and NAKs")
    func receiverNotReady() {
        let peer = ScriptedPeer()
        for id in 1...3 { peer.post(.send, id: UInt64(id)) }
        _ = peer.takeSent()
        peer.acknowledge(0x101, 0x20 | 14)
        #expect(peer.pollSends().map(\.id) == [1])
        // rxe sends this one too, for the packet behind.
        peer.acknowledge(0x101, 0x60)
        peer.acknowledge(0x101, 0x20 | 1)
        #expect(peer.takeSent().isEmpty)
        let start = peer.now
        peer.passTime()
        #expect(peer.now == start + 1_280_000, "code 14 is 1.28 ms")
        #expect(peer.takeSent().map(\.psn) == [0x101, 0x102])
    }

    @Test("rnr_retry 2 means three transmissions")
    func receiverNotReadyBudget() {
        var options = ConnectionOptions()
        options.rnrRetry = 2
        let peer = ScriptedPeer(options: options)
        peer.post(.send)
        for _ in 0..<2 {
            peer.acknowledge(0x100, 0x21)
            peer.passTime()
        }
        #expect(peer.takeSent().count == 3)
        peer.acknowledge(0x100, 0x21)
        #expect(peer.pollSends().map(\.status) == [.receiverNotReadyRetriesExceeded])
    }

    @Test("rnr_retry 7 is without limit")
    func receiverNotReadyForever() {
        let peer = ScriptedPeer()
        peer.post(.send)
        for _ in 0..<100 {
            peer.acknowledge(0x100, 0x21)
            peer.passTime()
        }
        #expect(peer.takeSent().count == 101)
        peer.acknowledge(0x100)
        #expect(peer.pollSends().map(\.status) == [.success])
    }

    // MARK: Refusals

    @Test(
        "A refusal fails its request, completes what was before and flushes what is after",
        arguments: [
            (UInt8(0x61), CompletionStatus.remoteInvalidRequestError), (0x62, .remoteAccessError),
            (0x63, .remoteOperationError),
        ])
    func refusal(syndrome: UInt8, status: CompletionStatus) {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1, flags: [])
        peer.post(.send, id: 2, flags: [])
        peer.post(.send, id: 3, flags: [])
        peer.acknowledge(0x101, syndrome)
        let entries = peer.pollSends()
        #expect(entries.map(\.id) == [2, 3], "unsignaled success is silent, failure is not")
        #expect(entries.map(\.status) == [status, .flushed])
        #expect(peer.state == .error)
        peer.post(.send, id: 4)
        peer.postReceive(id: 5)
        peer.node.engine.pointee.doorbell(peer.queues.qpn)
        peer.drain()
        #expect(peer.pollSends().map(\.status) == [.flushed], "posted in error: flushed")
        #expect(peer.pollReceives().map(\.id) == [5])
    }

    // MARK: Local failures

    @Test("A request with a bad local key fails when those before it are complete")
    func localProtection() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        let bad = ScatterGatherEntry(address: peer.address(0), length: 8, lkey: peer.key.rawValue ^ 1)
        peer.node.post(peer.queues, SendWorkRequest(id: 2, operation: .send), [bad])
        peer.post(.send, id: 3)
        #expect(peer.pollSends().isEmpty)
        #expect(peer.takeSent().count == 1)
        peer.acknowledge(0x100)
        #expect(peer.pollSends().map(\.status) == [.success, .localProtectionError, .flushed])
    }

    @Test(
        "Operations that a service does not have fail locally",
        arguments: [
            (QueuePairType.uc, SendOperation.rdmaRead), (.uc, .fetchAndAdd), (.uc, .sendWithInvalidate),
            (.uc, .atomicWrite), (.uc, .flush),
            (.rc, SendOperation(rawValue: 10)), (.rc, SendOperation(rawValue: 200)),
        ])
    func unsupported(type: QueuePairType, operation: SendOperation) {
        let peer = ScriptedPeer(type: type)
        peer.post(operation)
        #expect(peer.pollSends().map(\.status) == [.localQueuePairOperationError])
        #expect(peer.state == (type == .rc ? .error : .sendQueueError))
    }

    @Test("An atomic of another length than 8 fails locally")
    func atomicLength() {
        let peer = ScriptedPeer()
        peer.post(.fetchAndAdd, length: 4)
        #expect(peer.pollSends().map(\.status) == [.localLengthError])
    }

    @Test("LOCAL_INV waits until the queue before it is complete")
    func localInvalidate() throws {
        let peer = ScriptedPeer()
        let window = try peer.node.engine.pointee.allocateWindow(
            protectionDomain: 1, type: .type2, using: &peer.node.generator)
        let bound = window.with(variant: window.variant &+ 1)
        var bind = SendWorkRequest(id: 1, operation: .bindWindow)
        bind.bindWindowKey = window.rawValue
        bind.bindNewKey = bound.rawValue
        bind.bindRegionKey = peer.key.rawValue
        bind.bindAddress = peer.address(0)
        bind.bindLength = 64
        bind.bindAccess = .remoteRead
        peer.node.post(peer.queues, bind)
        peer.drain()
        #expect(peer.pollSends().map(\.operation) == [.bindWindow])
        peer.post(.send, id: 2)
        var invalidate = SendWorkRequest(id: 3, operation: .localInvalidate)
        invalidate.immediate = bound.rawValue
        peer.node.post(peer.queues, invalidate)
        peer.drain()
        #expect(throws: EngineError.busy("memory windows are bound to the region")) {
            try peer.node.engine.pointee.deregisterMemory(peer.key)
        }
        peer.acknowledge(0x100)
        #expect(peer.pollSends().map(\.id) == [2, 3])
        try peer.node.engine.pointee.deregisterMemory(peer.key)
    }

    // MARK: Framing

    @Test("64 KiB at path MTU 4096 leave as FIRST and one burst of 15 equal frames")
    func bursts() {
        var options = ConnectionOptions()
        options.mtu = .bytes4096
        let peer = ScriptedPeer(options: options)
        peer.post(.rdmaWrite, length: 65_536)
        #expect(peer.bursts == [[4096 + 12 + 16 + 4], [Int](repeating: 4096 + 12 + 4, count: 15)])
        let sent = peer.takeSent()
        #expect(sent.map(\.opcode) == [6] + [UInt8](repeating: 7, count: 14) + [8])
        // A quarter of the window of 16, and the end.
        #expect(sent.map(\.bth.acknowledgeRequest) == (1...16).map { $0 % 4 == 0 })
        #expect(sent.allSatisfy { !$0.bth.migrationRequest && !$0.bth.solicitedEvent })
    }

    @Test("SE is on the last packet of a SEND or WRITE with immediate only")
    func solicited() {
        let peer = ScriptedPeer()
        let flags: SendFlags = [.signaled, .solicited]
        peer.post(.send, length: 2_000, flags: flags)
        peer.post(.rdmaWrite, flags: flags)
        peer.post(.rdmaWriteWithImmediate, flags: flags)
        #expect(peer.takeSent().map(\.bth.solicitedEvent) == [false, true, false, true])
    }

    @Test("Inline data is sent from the work request")
    func inline() {
        let peer = ScriptedPeer()
        peer.node.postInline(peer.queues, SendWorkRequest(id: 1, operation: .send), [1, 2, 3])
        peer.drain()
        #expect(peer.payloads == [[1, 2, 3]])
    }

    // MARK: States

    @Test("SQD finishes what was started, tells when it is done, and RTS goes on")
    func drained() {
        let peer = ScriptedPeer()
        peer.post(.send, id: 1)
        peer.node.modify(peer.queues.qpn, [.state, .sendQueueDrainedNotify]) {
            $0.state = .sendQueueDrained
            $0.sendQueueDrainedNotify = true
        }
        peer.post(.send, id: 2)
        #expect(peer.takeSent().map(\.psn) == [0x100])
        #expect(peer.events.isEmpty)
        peer.acknowledge(0x100)
        #expect(peer.events == [.sendQueueDrained])
        #expect(peer.pollSends().map(\.id) == [1])
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .readyToSend }
        peer.drain()
        #expect(peer.takeSent().map(\.psn) == [0x101])
    }

    @Test("RESET forgets all work requests without completions")
    func reset() {
        let peer = ScriptedPeer()
        peer.post(.send)
        peer.postReceive()
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .reset }
        peer.drain()
        peer.acknowledge(0x100)
        #expect(peer.pollSends().isEmpty && peer.pollReceives().isEmpty)
        #expect(peer.queues.sendQueue.freeCount == peer.queues.sendQueue.capacity)
        #expect(peer.queues.receiveQueue.freeCount == peer.queues.receiveQueue.capacity)
        peer.node.connect(peer.queues.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
        _ = peer.takeSent()
        peer.post(.send)
        #expect(peer.takeSent().map(\.psn) == [0x100])
    }

    @Test("A queue pair in ERR neither sends nor takes anything")
    func error() {
        let peer = ScriptedPeer()
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .error }
        peer.postReceive()
        peer.request(.rcSendOnly, 0x200, [1])
        #expect(peer.takeSent().isEmpty)
        #expect(peer.counters.droppedState == 1)
    }
}
