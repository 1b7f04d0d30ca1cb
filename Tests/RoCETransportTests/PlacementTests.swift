// SPDX-License-Identifier: Apache-2.0
import Foundation
import RoCETransport
import RoCEWire
import Synchronization
import Testing

/// IBTA annex A19. ATOMIC WRITE is replayed byte for byte from rxe's packets in `CaptureReplayTests`.
@Suite("ATOMIC WRITE and FLUSH") struct PlacementTests {
    private static let everything: AccessFlags = [
        .remoteWrite, .remoteRead, .remoteAtomic, .flushGlobal, .flushPersistent,
    ]
    private let eight: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
    private let global = FETH(isGlobal: true, isPersistent: false, isWholeRegion: false)

    private func makePeer(access: AccessFlags = everything, readAtomicMax: UInt8 = 4) -> ScriptedPeer {
        var options = ConnectionOptions()
        options.access = access
        options.readAtomicMax = readAtomicMax
        return ScriptedPeer(options: options)
    }

    /// A key of the peer's memory with these permissions.
    private func register(_ peer: ScriptedPeer, _ access: AccessFlags = [.localWrite, .flushGlobal]) -> MemoryKey {
        peer.node.register(peer.memory, iova: 0x10_0000, access: access)
    }

    private func flush(
        _ peer: ScriptedPeer, _ psn: UInt32, _ header: FETH, key: MemoryKey, at offset: Int = 0, length: UInt32 = 8
    ) {
        peer.arrive(.rcFlush, psn: psn, acknowledgeRequest: true) {
            $0.feth = header
            $0.reth = RETH(virtualAddress: peer.address(offset), rkey: key, length: length)
        }
    }

    private func flush(_ peer: ScriptedPeer, id: UInt64 = 1, _ header: FETH, length: UInt64 = 0x1234) {
        peer.post(.flush, id: id) {
            $0.flushHeader = header
            $0.flushLength = length
        }
    }

    // MARK: Requester

    @Test("FLUSH leaves as FETH and RETH, without payload; of a whole region only the key is said")
    func flushFrame() {
        let peer = makePeer()
        flush(peer, global)
        flush(peer, FETH(isGlobal: true, isPersistent: true, isWholeRegion: true))
        // rxe_hdr.h: a big-endian word with the placement in bits 3...0 and the selectivity in bits 5...4, then the RETH.
        let first: [UInt8] =
            [0x1C, 0, 0xFF, 0xFF, 0, 0x77, 0x77, 0x77, 0x80, 0, 1, 0, 0, 0, 0, 1]
            + [0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0x09, 0x99, 0, 0, 0x12, 0x34]
        let second: [UInt8] =
            [0x1C, 0, 0xFF, 0xFF, 0, 0x77, 0x77, 0x77, 0x80, 0, 1, 1, 0, 0, 0, 0x13]
            + [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x09, 0x99, 0, 0, 0, 0]
        #expect(peer.frames == [first, second])
    }

    @Test("An empty READ response completes them; anything else is a bad response", arguments: [true, false])
    func responses(isFlush: Bool) {
        func post(_ peer: ScriptedPeer) { if isFlush { flush(peer, global) } else { peer.post(.atomicWrite) } }
        let peer = makePeer()
        post(peer)
        peer.respond(.rcReadResponseOnly, 0x100, [])
        let entries = peer.pollSends()
        #expect(entries.map(\.status) == [.success])
        #expect(entries.map(\.operation) == [isFlush ? .flush : .atomicWrite])
        #expect(entries.map(\.operation.rawValue) == [isFlush ? 8 : 9])

        let full = makePeer()
        post(full)
        full.respond(.rcReadResponseOnly, 0x100, eight)
        #expect(full.pollSends().map(\.status) == [.badResponseError])
        #expect(full.memory.allSatisfy { $0 == 0 })

        let crossed = makePeer()
        post(crossed)
        crossed.arrive(.rcAtomicAcknowledge, psn: 0x100) {
            $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 1))
        }
        #expect(crossed.pollSends().map(\.status) == [.badResponseError])
    }

    @Test("They take the places of READs, and need one", arguments: [true, false])
    func places(isFlush: Bool) {
        let peer = makePeer(readAtomicMax: 2)
        for id in 1...3 as ClosedRange<UInt64> {
            if isFlush { flush(peer, id: id, global) } else { peer.post(.atomicWrite, id: id) }
        }
        peer.post(.send, id: 4)
        #expect(peer.takeSent().map(\.psn) == [0x100, 0x101])
        peer.respond(.rcReadResponseOnly, 0x100, [])
        #expect(peer.takeSent().map(\.psn) == [0x102, 0x103])

        let none = makePeer(readAtomicMax: 0)
        if isFlush { flush(none, global) } else { none.post(.atomicWrite) }
        #expect(none.pollSends().map(\.status) == [.localQueuePairOperationError])
    }

    @Test("A fenced request waits for them")
    func fence() {
        let peer = makePeer()
        peer.post(.atomicWrite, id: 1)
        flush(peer, id: 2, global)
        peer.post(.send, id: 3, flags: [.signaled, .fence])
        #expect(peer.takeSent().map(\.opcode) == [0x1D, 0x1C])
        peer.respond(.rcReadResponseOnly, 0x100, [])
        #expect(peer.takeSent().isEmpty)
        peer.respond(.rcReadResponseOnly, 0x101, [])
        #expect(peer.takeSent().map(\.opcode) == [0x04])
    }

    @Test("A lost response is asked for again by the same request")
    func lostResponse() {
        let peer = makePeer()
        flush(peer, id: 1, global)
        peer.post(.atomicWrite, id: 2)
        let first = peer.takeSent().map(\.brief)
        peer.respond(.rcReadResponseOnly, 0x101, [])
        #expect(peer.takeSent().map(\.brief) == first, "the answer to the second says that the first's was lost")
        peer.acknowledge(0x101)
        #expect(peer.pollSends().isEmpty)
        peer.respond(.rcReadResponseOnly, 0x100, [])
        #expect(peer.pollSends().map(\.id) == [1, 2], "the second's was kept")
        peer.respond(.rcReadResponseOnly, 0x101, [])
        #expect(peer.takeSent().isEmpty)
    }

    @Test("An ATOMIC WRITE takes 8 bytes, from a list or inline")
    func atomicWriteLength() {
        for length in [0, 4, 16] {
            let peer = makePeer()
            peer.post(.atomicWrite, length: length)
            #expect(peer.pollSends().map(\.status) == [.localLengthError])
        }
        let peer = makePeer()
        var request = SendWorkRequest(id: 1, operation: .atomicWrite)
        request.remoteAddress = 0x5000
        peer.node.postInline(peer.queues, request, eight)
        peer.drain()
        #expect(peer.payloads == [eight])
        #expect(peer.takeSent().map(\.reth.length) == [8])
    }

    @Test(
        "A FLUSH without placement, of unknown bits, or of more than 2 GiB fails locally",
        arguments: [
            (UInt32(0), UInt64(8), CompletionStatus.localQueuePairOperationError),
            (0x4, 8, .localQueuePairOperationError), (0x21, 8, .localQueuePairOperationError),
            (0x1, 0x8000_0001, .localLengthError), (0x11, 0x8000_0001, .success),
        ])
    func badFlush(header: UInt32, length: UInt64, status: CompletionStatus) {
        let peer = makePeer()
        flush(peer, FETH(rawValue: header), length: length)
        peer.respond(.rcReadResponseOnly, 0x100, [])
        #expect(peer.pollSends().map(\.status) == [status])
    }

    // MARK: Responder

    @Test("ATOMIC WRITE is checked as a WRITE, and for 8 aligned bytes", arguments: 0..<7)
    func atomicWriteRefusals(which: Int) {
        let peer = makePeer(access: which == 4 ? [.remoteRead] : Self.everything, readAtomicMax: which == 5 ? 0 : 4)
        let readOnly = register(peer, [.localWrite, .remoteRead, .remoteAtomic])
        let syndrome: UInt8
        switch which {
        case 0:
            peer.request(.rcAtomicWrite, 0x200, eight, at: 4)
            syndrome = 0x61
        case 1:
            peer.request(.rcAtomicWrite, 0x200, eight, length: 16)
            syndrome = 0x61
        case 2:
            peer.request(.rcAtomicWrite, 0x200, eight, at: peer.memory.count)
            syndrome = 0x62
        case 3:
            peer.request(.rcAtomicWrite, 0x200, eight, key: readOnly)
            syndrome = 0x62
        case 4, 5:
            peer.request(.rcAtomicWrite, 0x200, eight)
            syndrome = 0x61
        default:
            peer.request(.rcWriteFirst, 0x200, [UInt8](repeating: 0, count: 1024), length: 2_000)
            _ = peer.takeSent()
            peer.request(.rcAtomicWrite, 0x201, eight)
            syndrome = 0x61
        }
        #expect(peer.takeSent().map(\.aeth.syndrome.rawValue) == [syndrome])
        #expect(peer.memory.allSatisfy { $0 == 0 })
    }

    @Test("A repeated ATOMIC WRITE is answered again, and not executed", arguments: [8, 4, 16])
    func repeatedAtomicWrite(length: Int) {
        let peer = makePeer()
        peer.request(.rcAtomicWrite, 0x200, eight)
        peer.request(.rcWriteOnly, 0x201, [9])
        _ = peer.takeSent()
        peer.request(.rcAtomicWrite, 0x200, eight, length: length)
        let answers = peer.takeSent()
        #expect(answers.map(\.brief) == ["RC READ RESPONSE ONLY 512"])
        #expect(answers.first?.aeth == AETH(syndrome: .acknowledged, msn: MSN(truncating: 1)))
        #expect(peer.memory[0] == 9)
    }

    @Test("ATOMIC WRITE comes behind the WRITEs before it, and its answer behind theirs")
    func atomicWriteOrder() {
        let peer = makePeer()
        peer.request(.rcWriteOnly, 0x200, [9, 9, 9, 9, 9, 9, 9, 9, 9], at: 8, drains: false)
        peer.request(.rcAtomicWrite, 0x201, eight, at: 8, drains: false)
        peer.request(.rcReadRequest, 0x202, length: 9, at: 8, drains: false)
        peer.drain()
        #expect(peer.payloads.last == eight + [9])
        #expect(peer.takeSent().map(\.brief) == ["RC READ RESPONSE ONLY 513", "RC READ RESPONSE ONLY 514"])
    }

    @Test("Whoever reads the eight bytes of an ATOMIC WRITE sees all of one value")
    func wholeValue() {
        let peer = makePeer()
        let reader = WordReader(peer.memory)
        reader.start()
        for round in 0..<20_000 {
            let value = [UInt8](repeating: round % 2 == 0 ? 0xFF : 0, count: 8)
            peer.request(.rcAtomicWrite, UInt32(0x200 + round), value, drains: round % 4 == 3)
            if round % 4 == 3 { _ = peer.takeSent() }
        }
        reader.stop()
        #expect(peer.counters.refusalsSent == 0)
        #expect(reader.torn.load(ordering: .acquiring) == 0)
    }

    @Test("FLUSH is answered by an empty READ response, and counted as a message")
    func flushAnswer() {
        let peer = makePeer()
        let key = register(peer, [.localWrite, .remoteWrite, .flushGlobal])
        peer.request(.rcWriteOnly, 0x200, [1], key: key, drains: false)
        flush(peer, 0x201, global, key: key)
        flush(peer, 0x202, global, key: key, at: peer.memory.count - 8)
        let answers = peer.takeSent()
        #expect(answers.map(\.brief) == ["RC READ RESPONSE ONLY 513", "RC READ RESPONSE ONLY 514"])
        #expect(answers.map(\.aeth.msn) == [MSN(truncating: 2), MSN(truncating: 3)])
        flush(peer, 0x201, global, key: key)
        #expect(peer.takeSent().map(\.brief) == ["RC READ RESPONSE ONLY 513"], "repeated, it is answered again")
        #expect(peer.counters.duplicateRequests == 1)
    }

    @Test("Queue pair (0x61) and region (0x62) must permit each placement that is asked for")
    func flushPermissions() {
        for asked in 1...3 as ClosedRange<UInt32> {
            for permitted in 0...3 as ClosedRange<UInt32> {
                let access = AccessFlags(rawValue: permitted << 8)
                let isPermitted = permitted & asked == asked
                let closed = makePeer(access: access)
                flush(closed, 0x200, FETH(rawValue: asked), key: register(closed, Self.everything.union(.localWrite)))
                #expect(closed.takeSent().map(\.aeth.syndrome.rawValue) == [isPermitted ? 0x1F : 0x61])
                let open = makePeer()
                flush(open, 0x200, FETH(rawValue: asked), key: register(open, access.union(.localWrite)))
                #expect(open.takeSent().map(\.aeth.syndrome.rawValue) == [isPermitted ? 0x1F : 0x62])
            }
        }
    }

    /// A FLUSH with something wrong, and its answer.
    struct Flawed: CustomTestStringConvertible, Sendable {
        let testDescription: String
        var header: UInt32 = 0x1
        var offset = 0
        var length: UInt32 = 8
        var keyFlaw: UInt32 = 0
        let answer: UInt8
    }

    static let flawed: [Flawed] = [
        Flawed(testDescription: "no placement", header: 0, answer: 0x61),
        Flawed(testDescription: "an unknown placement", header: 0x5, answer: 0x61),
        Flawed(testDescription: "an unknown selectivity", header: 0x21, answer: 0x61),
        Flawed(testDescription: "more than 2 GiB", length: 0x8000_0001, answer: 0x61),
        Flawed(testDescription: "beyond the end", offset: (1 << 18) - 7, answer: 0x62),
        Flawed(testDescription: "before the start", offset: -1, answer: 0x62),
        Flawed(testDescription: "a wrong key", keyFlaw: 1, answer: 0x62),
        Flawed(testDescription: "no bytes and a wrong key", length: 0, keyFlaw: 1, answer: 0x62),
        Flawed(testDescription: "the whole region and a wrong key", header: 0x11, keyFlaw: 1, answer: 0x62),
        Flawed(testDescription: "nothing: no bytes", length: 0, answer: 0x1F),
        Flawed(testDescription: "nothing: the whole region, wherever", header: 0x11, offset: -1, answer: 0x1F),
        Flawed(testDescription: "nothing: reserved bits", header: 0xFFFF_FF01, answer: 0x1F),
    ]

    @Test("A FLUSH is refused as a READ of its range would be", arguments: flawed)
    func flushRefusals(_ flawed: Flawed) {
        let peer = makePeer()
        let key = MemoryKey(rawValue: register(peer).rawValue ^ flawed.keyFlaw)
        flush(
            peer, 0x200, FETH(rawValue: flawed.header), key: key, at: flawed.offset, length: flawed.length)
        #expect(peer.takeSent().map(\.aeth.syndrome.rawValue) == [flawed.answer])
    }

    @Test("A FLUSH without responder resources is refused; so is one through a key of another domain")
    func flushResources() {
        let none = makePeer(readAtomicMax: 0)
        flush(none, 0x200, global, key: register(none))
        #expect(none.takeSent().map(\.aeth.syndrome.rawValue) == [0x61])
        let peer = makePeer()
        let foreign = peer.node.register(peer.memory, domain: 2, iova: 0x10_0000, access: [.localWrite, .flushGlobal])
        flush(peer, 0x200, FETH(rawValue: 0x11), key: foreign)
        #expect(peer.takeSent().map(\.aeth.syndrome.rawValue) == [0x62])
    }

    @Test("A window permits a FLUSH where it says so, and its region too", arguments: [true, false])
    func flushThroughWindow(regionPermits: Bool) throws {
        let peer = makePeer()
        let region = register(
            peer, regionPermits ? [.localWrite, .windowBind, .flushGlobal] : [.localWrite, .windowBind])
        let window = try peer.node.engine.pointee.allocateWindow(
            protectionDomain: 1, type: .type2, using: &peer.node.generator)
        let key = window.with(variant: window.variant &+ 1)
        var bind = SendWorkRequest(id: 1, operation: .bindWindow)
        bind.bindWindowKey = window.rawValue
        bind.bindNewKey = key.rawValue
        bind.bindRegionKey = region.rawValue
        bind.bindAddress = peer.address(64)
        bind.bindLength = 64
        bind.bindAccess = .flushGlobal
        peer.node.post(peer.queues, bind)
        peer.drain()
        #expect(peer.pollSends().map(\.status) == [regionPermits ? .success : .windowBindError])
        guard regionPermits else { return }
        flush(peer, 0x200, global, key: key, at: 64, length: 64)
        flush(peer, 0x201, global, key: key, at: 64, length: 65)
        #expect(peer.takeSent().map(\.aeth.syndrome.rawValue) == [0x1F, 0x62])
    }

    @Test("A destroyed queue pair answers them again for a while, as it does SENDs and WRITEs")
    func lingering() throws {
        let peer = makePeer()
        let key = register(peer)
        peer.request(.rcAtomicWrite, 0x200, eight)
        flush(peer, 0x201, global, key: key)
        peer.request(.rcWriteOnly, 0x202, [1])
        _ = peer.takeSent()
        peer.memory[0] = 0x77
        try peer.node.engine.pointee.destroyQueuePair(peer.queues.qpn)
        peer.request(.rcAtomicWrite, 0x200, eight)
        flush(peer, 0x201, global, key: key)
        peer.request(.rcWriteOnly, 0x202, [1])
        peer.request(.rcAtomicWrite, 0x203, eight)
        #expect(
            peer.takeSent().map(\.brief) == [
                "RC READ RESPONSE ONLY 512", "RC READ RESPONSE ONLY 513", "RC ACKNOWLEDGE 514",
            ])
        #expect(peer.memory[0] == 0x77)
        peer.request(.rcWriteOnly, 0x202, [1], drains: false)
        peer.request(.rcAtomicWrite, 0x200, eight, drains: false)
        flush(peer, 0x201, global, key: key)
        #expect(
            peer.takeSent().map(\.brief) == ["RC READ RESPONSE ONLY 512"],
            "the earliest of a burst: the peer goes on from there")
    }

    // MARK: Between two engines

    @Test("Over a lossy network each is executed, in order, and completes once", arguments: 0..<10)
    func lossy(seed: UInt64) {
        var network = NetworkOptions()
        network.loss = 0.03
        network.duplication = 0.05
        network.reordering = seed % 2 == 0 ? 0 : 0.05
        var options = ConnectionOptions()
        options.access = Self.everything
        let pair = ConnectedPair(options: options, network: network)
        let key = pair.b.node.register(
            pair.b.memory, access: [.localWrite, .remoteWrite, .flushGlobal])
        for id in 0..<60 as Range<UInt64> {
            let operations: [SendOperation] = [.rdmaWrite, .flush, .atomicWrite]
            var request = SendWorkRequest(id: id, operation: operations[Int(id % 3)])
            request.remoteAddress = pair.b.address(id % 3 == 2 ? 0 : 8)
            request.remoteKey = key.rawValue
            if request.operation == .flush {
                request.flushHeader = FETH(isGlobal: true, isPersistent: false, isWholeRegion: id % 2 == 0)
                request.flushLength = 2_000
            }
            let length = request.operation == .rdmaWrite ? 2_000 : 8
            pair.a.fill(Int(id) * 2_048..<Int(id) * 2_048 + length, UInt8(id))
            pair.a.node.post(pair.a.queues, request, [pair.a.entry(Int(id) * 2_048, length)])
            if id % 4 == seed % 4 { pair.settle() }
        }
        pair.settle()
        let entries = pair.a.node.poll(pair.a.sendCompletions)
        #expect(entries.map(\.id) == Array(0..<60))
        #expect(entries.allSatisfy { $0.status == .success })
        #expect(Array(pair.b.memory[0..<8]) == Array(pair.a.memory[59 * 2_048..<59 * 2_048 + 8]))
        #expect(Array(pair.b.memory[8..<2_008]) == Array(pair.a.memory[57 * 2_048..<57 * 2_048 + 2_000]))
    }
}

/// Reads eight bytes as long as it may, and counts the values that are neither all zeros nor all ones.
private final class WordReader: @unchecked Sendable {  // The memory is read while the engine writes it: the point.
    let torn = Atomic<Int>(0)
    private let word: UnsafeMutablePointer<Atomic<UInt64>>
    private let isOver = Atomic<Bool>(false)
    private let hasEnded = DispatchSemaphore(value: 0)

    init(_ memory: UnsafeMutableRawBufferPointer) {
        word = memory.baseAddress!.assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    func start() {
        Thread.detachNewThread {
            while !self.isOver.load(ordering: .relaxed) {
                let value = self.word.pointee.load(ordering: .relaxed)
                if value != 0 && value != .max { self.torn.add(1, ordering: .relaxed) }
            }
            self.hasEnded.signal()
        }
    }

    func stop() {
        isOver.store(true, ordering: .relaxed)
        hasEnded.wait()
    }
}
