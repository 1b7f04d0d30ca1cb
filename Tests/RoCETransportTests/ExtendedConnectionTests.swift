// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

@testable import RoCETransport

@Suite("XRC") struct ExtendedConnectionTests {
    /// A target whose peer is the test, with two shared receive queues of its domain and one of another.
    private final class Target {
        let peer: ScriptedPeer
        let completions: CompletionQueue
        let otherCompletions: CompletionQueue
        let queue: (queue: ReceiveQueue, number: UInt32)
        /// Of the same XRC domain, but of another protection domain.
        let other: (queue: ReceiveQueue, number: UInt32)
        let foreign: (queue: ReceiveQueue, number: UInt32)

        init() {
            peer = ScriptedPeer(
                type: .xrcTarget,
                change: { creation, _ in
                    creation.protectionDomain = 0
                    creation.sendCompletionQueue = nil
                    creation.receiveCompletionQueue = nil
                    creation.xrcDomain = 7
                })
            let node = peer.node
            func make(_ protectionDomain: UInt32, _ xrcDomain: UInt32, _ completions: CompletionQueue) -> (
                queue: ReceiveQueue, number: UInt32
            ) {
                try! node.engine.pointee.createSharedReceiveQueue(
                    protectionDomain: protectionDomain, xrcDomain: xrcDomain, completionQueue: completions, capacity: 8,
                    scatterGatherMax: 2, tag: 4)
            }
            completions = node.makeCompletionQueue(tag: 5)
            otherCompletions = node.makeCompletionQueue(tag: 6)
            queue = make(1, 7, completions)
            other = make(2, 7, otherCompletions)
            foreign = make(1, 8, completions)
        }

        func send(
            _ opcode: Opcode, _ psn: UInt32, _ payload: [UInt8] = [1, 2, 3, 4], length: Int? = nil, to number: UInt32
        ) {
            peer.arrive(opcode.xrc, psn: psn, payload: payload, acknowledgeRequest: true) {
                if $0.descriptor.headers.contains(.reth) {
                    $0.reth = RETH(
                        virtualAddress: self.peer.address(0), rkey: self.peer.key,
                        length: UInt32(length ?? payload.count))
                }
                $0.xrceth = XRCETH(sharedReceiveQueue: number)
            }
        }

        func postReceive(_ queue: ReceiveQueue, id: UInt64) {
            peer.node.postReceive(queue, id: id, [peer.entry(65_536, 4096)])
        }

        var syndromes: [UInt8] { peer.takeSent().map(\.aeth.syndrome.rawValue) }
    }

    private let full = [UInt8](repeating: 0x44, count: 1024)

    private func initiator() -> ScriptedPeer {
        ScriptedPeer(type: .xrcInitiator, change: { creation, _ in creation.receiveCompletionQueue = nil })
    }

    // MARK: The end that sends

    @Test("Each packet of a request says which shared receive queue it is for, behind the BTH")
    func requests() {
        let peer = initiator()
        let number: UInt32 = 0xAB_CDEF
        peer.post(.send, length: 2049) { $0.remoteQPN = number }
        peer.post(.rdmaWrite, length: 8) { $0.remoteQPN = number }
        peer.post(.rdmaRead, length: 16) { $0.remoteQPN = number }
        peer.post(.compareAndSwap, length: 8) {
            $0.remoteQPN = number
            $0.compareAdd = 0x0102_0304_0506_0708
            $0.swap = 0x1112_1314_1516_1718
        }
        #expect(peer.frames.map { $0[0] } == [0xA0, 0xA1, 0xA2, 0xAA, 0xAC, 0xB3])
        #expect(peer.frames.allSatisfy { Array($0[12..<16]) == [0, 0xAB, 0xCD, 0xEF] })
        // RETH: address, key, length; AtomicETH: address, key, swap, compare.
        let prefix: [UInt8] = [0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0x09, 0x99]
        #expect(Array(peer.frames[3][16..<32]) == prefix + [0, 0, 0, 8])
        #expect(Array(peer.frames[4][16..<32]) == prefix + [0, 0, 0, 16])
        #expect(Array(peer.frames[5][16..<44]) == prefix + Array(0x11...0x18) + Array(0x01...0x08))
    }

    @Test("Responses of XRC complete the requests of an initiator; those of RC, and requests, are not for it")
    func responses() {
        let peer = initiator()
        peer.post(.send, id: 1)
        peer.post(.rdmaRead, id: 2, length: 4)
        peer.acknowledge(0x100)
        peer.arrive(Opcode.rcSendOnly.xrc, psn: 0x200, payload: [1])
        #expect(peer.pollSends().isEmpty)
        #expect(peer.counters.droppedState == 2)
        peer.respond(Opcode.rcReadResponseOnly.xrc, 0x101, [9, 8, 7, 6])
        #expect(peer.pollSends().map(\.id) == [1, 2])
        #expect(Array(peer.memory[0..<4]) == [9, 8, 7, 6])
    }

    // MARK: The end that receives

    @Test("A request takes its receive from the queue that it names, and completes where that queue does")
    func receives() {
        let target = Target()
        target.postReceive(target.queue.queue, id: 11)
        target.postReceive(target.other.queue, id: 22)
        target.send(.rcWriteOnlyImmediate, 0x200, to: target.queue.number)
        let answers = target.peer.takeSent()
        #expect(answers.map(\.opcode) == [0xB1] && answers.map(\.aeth.syndrome.rawValue) == [0x1F])
        let entries = target.peer.node.poll(target.completions)
        #expect(entries.map(\.id) == [11] && entries.first?.qpn == target.peer.queues.qpn.rawValue)
        #expect(entries.first?.operation == .receiveRDMAWithImmediate)
        target.send(.rcSendOnly, 0x201, [], to: target.other.number)
        #expect(target.syndromes == [0x1F])
        #expect(target.peer.node.poll(target.otherCompletions).map(\.id) == [22])
        #expect(target.peer.node.poll(target.completions).isEmpty)
    }

    @Test("A queue without receives makes the peer wait, and another is not asked")
    func receiverNotReady() {
        let target = Target()
        target.postReceive(target.other.queue, id: 22)
        target.send(.rcSendOnly, 0x200, to: target.queue.number)
        #expect(target.syndromes == [0x21])
        #expect(target.other.queue.freeCount == 7)
        target.postReceive(target.queue.queue, id: 11)
        target.send(.rcSendOnly, 0x200, to: target.queue.number)
        #expect(target.syndromes == [0x1F])
        #expect(target.peer.node.poll(target.completions).map(\.id) == [11])
    }

    @Test("A queue that is none, or of another domain, is refused with 0x62 and an access event")
    func unknownQueue() {
        for isForeign in [false, true] {
            let target = Target()
            target.postReceive(target.foreign.queue, id: 33)
            target.send(.rcWriteOnly, 0x200, to: isForeign ? target.foreign.number : target.queue.number ^ 0x1000)
            #expect(target.syndromes == [0x62])
            #expect(target.peer.state == .error && target.peer.events == [.accessError])
            #expect(target.peer.memory[0] == 0)
        }
    }

    @Test("A message is for one queue: a packet in its middle that names another is refused with 0x61")
    func otherQueueInTheMiddle() {
        let target = Target()
        target.postReceive(target.queue.queue, id: 11)
        target.send(.rcSendFirst, 0x200, full, to: target.queue.number)
        target.send(.rcSendLast, 0x201, to: target.other.number)
        #expect(target.syndromes == [0x1F, 0x61])
        let entries = target.peer.node.poll(target.completions)
        #expect(entries.map(\.id) == [11] && entries.map(\.status) == [.flushed])
    }

    @Test("The memory that a request reaches is of the protection domain of its shared receive queue")
    func protectionDomain() {
        let target = Target()
        target.send(.rcWriteOnly, 0x200, to: target.queue.number)
        #expect(target.syndromes == [0x1F] && target.peer.memory[0] == 1)
        target.send(.rcReadRequest, 0x201, [], to: target.queue.number)
        let responses = target.peer.takeSent()
        #expect(responses.map(\.opcode) == [0xB0])
        target.send(.rcWriteOnly, 0x202, [7, 7, 7, 7], to: target.other.number)
        #expect(target.syndromes == [0x62] && target.peer.memory[0] == 1)
    }

    @Test("A READ is answered again from the domain that it was for, whatever queue the target has taken up since")
    func repeatedRead() {
        let target = Target()
        target.postReceive(target.other.queue, id: 22)
        target.peer.memory[0] = 5
        func read() {
            target.peer.arrive(Opcode.rcReadRequest.xrc, psn: 0x200, acknowledgeRequest: true) {
                $0.reth = RETH(virtualAddress: target.peer.address(0), rkey: target.peer.key, length: 1)
                $0.xrceth = XRCETH(sharedReceiveQueue: target.queue.number)
            }
        }
        read()
        #expect(target.peer.payloads == [[5]])
        target.send(.rcSendOnly, 0x201, [], to: target.other.number)
        _ = target.peer.takeSent()
        read()
        #expect(target.peer.payloads == [[5]] && target.peer.takeSent().map(\.opcode) == [0xB0])
    }

    @Test("A shared receive queue may go while targets use it: what still comes for it is refused")
    func destroyedQueue() throws {
        let target = Target()
        let engine = target.peer.node.engine
        target.postReceive(target.other.queue, id: 22)
        target.send(.rcSendOnly, 0x200, [], to: target.other.number)
        target.send(.rcWriteFirst, 0x201, full, length: 1028, to: target.queue.number)
        _ = target.peer.takeSent()
        #expect(throws: EngineError.self) { try engine.pointee.destroyCompletionQueue(target.otherCompletions) }
        try engine.pointee.destroySharedReceiveQueue(target.other.queue)
        try engine.pointee.destroyCompletionQueue(target.otherCompletions)
        try engine.pointee.destroySharedReceiveQueue(target.queue.queue)
        target.send(.rcWriteLast, 0x202, to: target.queue.number)
        #expect(target.syndromes == [0x62] && target.peer.state == .error)
        try engine.pointee.destroyQueuePair(target.peer.queues.qpn)
    }

    @Test("Number 0 is no queue, neither before a target has taken one up nor after that is gone")
    func numberZero() throws {
        let fresh = Target()
        fresh.send(.rcSendOnly, 0x200, to: 0)
        #expect(fresh.syndromes == [0x62] && fresh.peer.state == .error)

        let left = Target()
        left.send(.rcWriteOnly, 0x200, to: left.queue.number)
        #expect(left.syndromes == [0x1F] && left.peer.memory[0] == 1)
        try left.peer.node.engine.pointee.destroySharedReceiveQueue(left.queue.queue)
        left.send(.rcWriteOnly, 0x201, [9, 9, 9, 9], to: 0)
        #expect(left.syndromes == [0x62] && left.peer.memory[0] == 1)
    }

    @Test("A number is not given again at once")
    func numbers() throws {
        let target = Target()
        let engine = target.peer.node.engine
        var seen: Set<UInt32> = [target.queue.number, target.other.number, target.foreign.number]
        #expect(seen.count == 3)
        for _ in 0..<100 {
            let made = try engine.pointee.createSharedReceiveQueue(
                protectionDomain: 1, xrcDomain: 7, completionQueue: target.completions, capacity: 1,
                scatterGatherMax: 1, tag: 4)
            #expect(seen.insert(made.number).inserted && made.number > 0 && made.number < 1 << 24)
            try engine.pointee.destroySharedReceiveQueue(made.queue)
        }
    }

    @Test("Who waits for solicited completions of a shared receive queue is woken by the packet that says so")
    func solicited() {
        let target = Target()
        for id in 1...2 { target.postReceive(target.queue.queue, id: UInt64(id)) }
        for (psn, isSolicited) in [(0x200, false), (0x201, true)] as [(UInt32, Bool)] {
            target.completions.arm(solicitedOnly: true)
            target.peer.arrive(Opcode.rcSendOnly.xrc, psn: psn, solicited: isSolicited) {
                $0.xrceth = XRCETH(sharedReceiveQueue: target.queue.number)
            }
            let isWoken = target.peer.node.takeEvents().contains { if case .completion(5) = $0 { true } else { false } }
            #expect(isWoken == isSolicited)
        }
    }

    @Test("A destroyed target answers repetitions for a while, as XRC does")
    func lingers() throws {
        let target = Target()
        target.send(.rcWriteOnly, 0x200, to: target.queue.number)
        try target.peer.node.engine.pointee.destroyQueuePair(target.peer.queues.qpn)
        _ = target.peer.takeSent()
        target.send(.rcWriteOnly, 0x200, to: target.queue.number)
        target.peer.arrive(.rcWriteOnly, psn: 0x200, payload: [1])
        #expect(target.peer.takeSent().map(\.opcode) == [0xB1])
    }

    @Test("Packets of RC are not for a target, nor are responses")
    func otherServices() {
        let target = Target()
        target.peer.request(.rcWriteOnly, 0x200, [1, 2, 3, 4])
        target.peer.arrive(Opcode.rcAcknowledge.xrc, psn: 0x100)
        #expect(target.peer.takeSent().isEmpty && target.peer.counters.droppedState == 2)
    }

    // MARK: Creation

    @Test("Queues that an end of XRC has not are refused, as their lack is of the other services")
    func creation() {
        let node = SimulatedNode(address: 0x0A00_0001, seed: 1)
        let queue = node.makeCompletionQueue()
        let shared = try! node.engine.pointee.createSharedReceiveQueue(
            protectionDomain: 1, xrcDomain: 7, completionQueue: queue, capacity: 1, scatterGatherMax: 1, tag: 1)
        for (type, sends, receives, taken) in [
            (.xrcTarget, queue, nil, nil), (.xrcTarget, nil, queue, nil), (.xrcInitiator, nil, nil, nil),
            (.xrcInitiator, queue, queue, nil), (.xrcTarget, nil, nil, shared.queue), (.rc, nil, queue, nil),
            (.rc, queue, nil, nil), (.rc, queue, queue, shared.queue),
        ] as [(QueuePairType, CompletionQueue?, CompletionQueue?, ReceiveQueue?)] {
            #expect(throws: EngineError.self, "\(type)") {
                _ = try node.engine.pointee.createQueuePair(
                    QueuePairCreation(
                        type: type, protectionDomain: 1, sendCompletionQueue: sends, receiveCompletionQueue: receives,
                        sharedReceiveQueue: taken), using: &node.generator)
            }
        }
    }
}
