// SPDX-License-Identifier: Apache-2.0
import Foundation
import RoCETransport
import RoCEWire
import Synchronization
import Testing

/// Requests with two things wrong: which one is answered is a matter of the order of checks, and peers' tests see it.
@Suite("The order of the responder's checks") struct ResponderOrderTests {
    /// A request, and the one answer that the first of its faults earns; `nil` for silence.
    struct Fault: CustomTestStringConvertible, Sendable {
        let testDescription: String
        var access: AccessFlags = [.remoteWrite, .remoteRead, .remoteAtomic]
        var opensWrite = false
        let answer: UInt8?
        let arrive: @Sendable (ScriptedPeer, UInt32) -> Void
    }

    private static let long = [UInt8](repeating: 1, count: 1028)
    private static let wrong = MemoryKey(rawValue: 0xBAD)

    private static func writeImmediate(_ peer: ScriptedPeer, _ psn: UInt32, key: MemoryKey) {
        peer.arrive(.rcWriteOnlyImmediate, psn: psn, payload: [1], acknowledgeRequest: true) {
            $0.reth = RETH(virtualAddress: peer.address(0), rkey: key, length: 1)
        }
    }

    static let faults: [Fault] = [
        Fault(testDescription: "a foreign source before a gap", answer: nil) {
            $0.arrive(.rcSendOnly, psn: $1 + 1, acknowledgeRequest: true, from: GID(ipv4: 0x0A00_0003))
        },
        Fault(testDescription: "a wrong ICRC before a gap", answer: nil) {
            $0.arrive(.rcSendOnly, psn: $1 + 1, acknowledgeRequest: true, damage: true)
        },
        Fault(testDescription: "a gap before the opcode's place", answer: 0x60) {
            $0.request(.rcSendMiddle, $1 + 1, long)
        },
        Fault(testDescription: "a gap before a wrong key", answer: 0x60) {
            $0.request(.rcWriteOnly, $1 + 1, [1], key: wrong)
        },
        Fault(testDescription: "the opcode's place before a missing receive", opensWrite: true, answer: 0x61) {
            $0.request(.rcSendOnly, $1, [1])
        },
        Fault(testDescription: "the queue pair's permission before a missing receive", access: [], answer: 0x61) {
            writeImmediate($0, $1, key: $0.key)
        },
        Fault(testDescription: "a missing receive before the length", answer: 0x21) {
            $0.request(.rcSendOnly, $1, long)
        },
        Fault(testDescription: "a missing receive before a wrong key", answer: 0x21) {
            writeImmediate($0, $1, key: wrong)
        },
        Fault(testDescription: "the length of a WRITE before a wrong key", answer: 0x61) {
            $0.request(.rcWriteOnly, $1, [1, 2], length: 1, key: wrong)
        },
        Fault(testDescription: "the length of a READ before a wrong key", answer: 0x61) {
            $0.request(.rcReadRequest, $1, length: 0x8000_0001, key: wrong)
        },
        Fault(testDescription: "an atomic's alignment before a wrong key", answer: 0x61) {
            $0.atomic($1, add: 1, at: 4, key: wrong)
        },
    ]

    @Test("Of two faults the earlier in the order is answered", arguments: faults)
    func order(_ fault: Fault) {
        var options = ConnectionOptions()
        options.access = fault.access
        let peer = ScriptedPeer(options: options)
        var psn: UInt32 = 0x200
        if fault.opensWrite {
            peer.request(.rcWriteFirst, psn, [UInt8](repeating: 1, count: 1024), length: 3_000)
            psn += 1
            _ = peer.takeSent()
        }
        fault.arrive(peer, psn)
        #expect(peer.takeSent().map(\.aeth.syndrome.rawValue) == [fault.answer].compactMap { $0 })
    }

    @Test("Before RTR requests are dropped; in RTR they are served, and responses dropped until RTS")
    func states() {
        let peer = ScriptedPeer()
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .reset }
        peer.request(.rcWriteOnly, 0, [7])
        peer.node.modify(peer.queues.qpn, [.state, .accessFlags]) {
            $0.state = .initialized
            $0.accessFlags = .remoteWrite
        }
        peer.request(.rcWriteOnly, 0, [7])
        #expect(peer.counters.droppedState == 2)
        #expect(peer.takeSent().isEmpty && peer.memory[0] == 0)

        let receiver = ScriptedPeer(toReceiveOnly: true)
        receiver.request(.rcWriteOnly, 0x200, [7])
        #expect(receiver.takeSent().map(\.opcode) == [0x11])
        #expect(receiver.memory[0] == 7)
        receiver.acknowledge(0)
        #expect(receiver.counters.droppedState == 1)
    }

    @Test("A P_Key of another partition is dropped; limited membership is enough for the default one")
    func partitionKey() {
        let peer = ScriptedPeer()
        for (key, isTaken) in [(0x8001, false), (0x0001, false), (0x7FFF, true)] as [(UInt16, Bool)] {
            let before = peer.counters.droppedKey
            peer.arrive(.rcWriteOnly, psn: 0x200, payload: [7], acknowledgeRequest: true) {
                $0.bth = BTH(
                    opcode: .rcWriteOnly, destination: peer.queues.qpn, psn: PSN(truncating: 0x200), padCount: 3,
                    acknowledgeRequest: true, partitionKey: PartitionKey(rawValue: key))
                $0.reth = RETH(virtualAddress: peer.address(0), rkey: peer.key, length: 1)
            }
            #expect(peer.counters.droppedKey == (isTaken ? before : before + 1))
            #expect(peer.takeSent().count == (isTaken ? 1 : 0))
        }
        #expect(peer.memory[0] == 7)
    }

    // MARK: Repetitions

    @Test("A repetition between the packets of a message is acknowledged and does not disturb it")
    func repetitionInside() {
        let peer = ScriptedPeer()
        let full = [UInt8](repeating: 9, count: 1024)
        peer.postReceive(id: 5)
        peer.request(.rcWriteOnly, 0x200, [1])
        peer.request(.rcSendFirst, 0x201, full)
        _ = peer.takeSent()
        peer.request(.rcWriteOnly, 0x200, [2])
        peer.request(.rcSendFirst, 0x201, full)
        #expect(peer.takeSent().map(\.brief) == ["RC ACKNOWLEDGE 513", "RC ACKNOWLEDGE 513"])
        peer.request(.rcSendLast, 0x202, [3])
        #expect(peer.pollReceives().map(\.byteLength) == [1025])
        #expect(peer.memory[0] == 1)
        #expect(peer.state == .readyToSend)
    }

    @Test("READs and atomics share the places for saved responses")
    func sharedPlaces() {
        var options = ConnectionOptions()
        options.readAtomicMax = 2
        let peer = ScriptedPeer(options: options)
        peer.atomic(0x200, add: 1, at: 0)
        peer.request(.rcReadRequest, 0x201, length: 8)
        peer.request(.rcReadRequest, 0x202, length: 8)
        _ = peer.takeSent()
        peer.atomic(0x200, add: 1, at: 0)
        #expect(peer.takeSent().isEmpty, "two READs have taken its place")
        #expect(peer.memory[0] == 1)
        peer.request(.rcReadRequest, 0x201, length: 8)
        #expect(peer.takeSent().map(\.opcode) == [0x10])
    }

    // MARK: What is seen of memory

    @Test("A READ sees the WRITE before it, though both came at once")
    func readAfterWrite() {
        let peer = ScriptedPeer()
        peer.request(.rcWriteOnly, 0x200, [1, 2, 3, 4], at: 64, drains: false)
        peer.request(.rcReadRequest, 0x201, length: 4, at: 64, drains: false)
        peer.drain()
        #expect(peer.payloads.last == [1, 2, 3, 4])
    }

    @Test("Whoever sees the last byte of a WRITE change sees all the bytes before it")
    func lastByteLast() throws {
        var options = ConnectionOptions()
        options.mtu = .bytes4096
        let peer = ScriptedPeer(options: options)
        let watcher = LastByteWatcher(peer.memory, byteCount: 4096, rounds: 2_000)
        watcher.start()
        defer { watcher.isOver.store(true, ordering: .relaxed) }
        for round in 0..<2_000 {
            let payload = [UInt8](repeating: LastByteWatcher.value(round), count: 4096)
            peer.request(.rcWriteOnly, 0x200 + UInt32(round), payload)
            try #require(peer.takeSent().map(\.aeth.syndrome) == [.acknowledged])
            while watcher.seen.load(ordering: .acquiring) <= round { sched_yield() }
        }
        #expect(watcher.incomplete.load(ordering: .acquiring) == 0)
    }

    @Test("A message that ends without asking for an acknowledgement gets one nevertheless, and its middle does not")
    func unasked() {
        let peer = ScriptedPeer()
        peer.postReceive()
        peer.arrive(.rcSendFirst, psn: 0x200, payload: [UInt8](repeating: 1, count: 1024))
        #expect(peer.takeSent().isEmpty)
        peer.arrive(.rcSendLast, psn: 0x201, payload: [1])
        #expect(peer.takeSent().map(\.brief) == ["RC ACKNOWLEDGE 513"])
    }
}

/// An application that polls the last byte of what its peer writes, as many do.
private final class LastByteWatcher: @unchecked Sendable {  // The memory is read while the engine writes it: the point.
    /// Rounds whose last byte came, and those of them that were not whole then.
    let seen = Atomic<Int>(0)
    let incomplete = Atomic<Int>(0)
    let isOver = Atomic<Bool>(false)
    private let memory: UnsafeMutableRawBufferPointer
    private let byteCount: Int
    private let rounds: Int

    init(_ memory: UnsafeMutableRawBufferPointer, byteCount: Int, rounds: Int) {
        self.memory = memory
        self.byteCount = byteCount
        self.rounds = rounds
    }

    /// The byte that a round writes: another one than the round before.
    static func value(_ round: Int) -> UInt8 { UInt8(round % 255 + 1) }

    func start() { Thread.detachNewThread { self.run() } }

    private func run() {
        let last = (memory.baseAddress! + byteCount - 1).assumingMemoryBound(to: Atomic<UInt8>.self)
        for round in 0..<rounds {
            var turns = 0
            while last.pointee.load(ordering: .acquiring) != Self.value(round) {
                turns += 1
                if turns % 4096 == 0 { sched_yield() }
                if isOver.load(ordering: .relaxed) { return }
            }
            // The byte that would be late first, at once.
            let beforeLast = memory[byteCount - 2]
            if beforeLast != Self.value(round) || !memory.prefix(byteCount).allSatisfy({ $0 == Self.value(round) }) {
                incomplete.add(1, ordering: .relaxed)
            }
            seen.store(round + 1, ordering: .releasing)
        }
    }
}
