// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("The responder of RC") struct ResponderRuleTests {
    private let full = [UInt8](repeating: 0x33, count: 1024)

    private func syndromes(_ packets: [RoCEPacket]) -> [UInt8] { packets.map(\.aeth.syndrome.rawValue) }

    // MARK: Sequence

    @Test("A gap earns one NAK with the expected PSN, then silence until it is filled")
    func gap() {
        let peer = ScriptedPeer()
        for id in 0..<4 { peer.postReceive(id: UInt64(id)) }
        peer.request(.rcSendOnly, 0x201, [1])
        peer.request(.rcSendOnly, 0x202, [2])
        peer.request(.rcSendOnly, 0x203, [3])
        let naks = peer.takeSent()
        #expect(syndromes(naks) == [0x60])
        #expect(naks.map(\.psn) == [0x200])
        peer.request(.rcSendOnly, 0x200, [0])
        #expect(peer.takeSent().map(\.psn) == [0x200])
        for psn in 0x201...0x203 as ClosedRange<UInt32> { peer.request(.rcSendOnly, psn, [0]) }
        _ = peer.takeSent()
        peer.request(.rcSendOnly, 0x205, [5])
        let again = peer.takeSent()
        #expect(syndromes(again) == [0x60], "a new gap, a new NAK")
        #expect(again.map(\.psn) == [0x204])
        #expect(peer.pollReceives().map(\.id) == [0, 1, 2, 3])
    }

    @Test("What is reordered within one batch is not refused for it")
    func reorderedInBatch() {
        let peer = ScriptedPeer()
        peer.postReceive(id: 1)
        peer.postReceive(id: 2)
        peer.request(.rcSendOnly, 0x201, [1], drains: false)
        peer.request(.rcSendOnly, 0x200, [1], drains: false)
        peer.drain()
        #expect(syndromes(peer.takeSent()) == [0x1F])
    }

    @Test("A batch of requests is acknowledged once, for all")
    func coalescing() {
        let peer = ScriptedPeer()
        for psn in 0x200...0x207 as ClosedRange<UInt32> {
            peer.postReceive(id: UInt64(psn))
            peer.request(.rcSendOnly, psn, [1], drains: false)
        }
        peer.drain()
        let answers = peer.takeSent()
        #expect(answers.map(\.psn) == [0x207])
        #expect(answers.first?.aeth.msn == MSN(truncating: 8))
    }

    @Test("The acknowledgement leaves before the receive is seen")
    func acknowledgeFirst() {
        let peer = ScriptedPeer()
        peer.postReceive()
        peer.request(.rcSendOnly, 0x200, [1], drains: false)
        _ = peer.node.engine.pointee.transmit(into: &peer.node.transmitQueue, now: peer.now)
        #expect(peer.node.transmitQueue.count == 1)
        #expect(peer.pollReceives().isEmpty)
        peer.node.engine.pointee.publishCompletions()
        #expect(peer.pollReceives().count == 1)
    }

    // MARK: Repetitions

    @Test("A repeated SEND or WRITE is acknowledged with the latest PSN and MSN, and not executed")
    func repeatedSend() {
        let peer = ScriptedPeer()
        peer.postReceive(id: 1)
        peer.postReceive(id: 2)
        peer.request(.rcSendOnly, 0x200, [1])
        peer.request(.rcWriteOnly, 0x201, [5, 5, 5, 5])
        peer.memory[0] = 9
        _ = peer.takeSent()
        peer.request(.rcSendOnly, 0x200, [1])
        peer.request(.rcWriteOnly, 0x201, [5, 5, 5, 5])
        let answers = peer.takeSent()
        #expect(answers.map(\.psn) == [0x201, 0x201])
        #expect(answers.map(\.aeth.msn) == [MSN(truncating: 2), MSN(truncating: 2)])
        #expect(peer.memory[0] == 9)
        #expect(peer.pollReceives().count == 1)
    }

    @Test("A repeated atomic gets the saved value and changes nothing")
    func repeatedAtomic() {
        let peer = ScriptedPeer()
        peer.memory.storeBytes(of: 40, toByteOffset: 8, as: UInt64.self)
        for _ in 0..<3 { peer.atomic(0x200, add: 2, at: 8) }
        let answers = peer.takeSent()
        #expect(answers.map(\.atomicAckETH.originalValue) == [40, 40, 40])
        #expect(answers.map(\.aeth.msn) == [MSN(truncating: 1), MSN(truncating: 1), MSN(truncating: 1)])
        #expect(peer.memory.load(fromByteOffset: 8, as: UInt64.self) == 42)
    }

    @Test("A repeated READ reads again, also a part of it, and must be a part of it")
    func repeatedRead() {
        let peer = ScriptedPeer()
        peer.memory[1024] = 1
        peer.request(.rcReadRequest, 0x200, length: 3_000)
        #expect(peer.takeSent().map(\.opcode) == [0x0D, 0x0E, 0x0F])
        peer.memory[1024] = 2
        peer.request(.rcReadRequest, 0x201, length: 3_000 - 1024, at: 1024)
        #expect(peer.payloads.first?.first == 2)
        #expect(peer.takeSent().map(\.brief) == ["RC READ RESPONSE FIRST 513", "RC READ RESPONSE LAST 514"])
        peer.request(.rcReadRequest, 0x201, length: 3_000 - 1024, at: 1000)
        peer.request(.rcReadRequest, 0x201, length: 3_000, at: 1024)
        peer.request(.rcReadRequest, 0x201, length: 100, at: 1024, key: MemoryKey(rawValue: 7))
        peer.request(.rcReadRequest, 0x1FF, length: 100)
        #expect(peer.takeSent().isEmpty)
        #expect(peer.state == .readyToSend)
    }

    @Test("Only max_dest_rd_atomic responses are saved: an older one is not answered")
    func savedLimit() {
        var options = ConnectionOptions()
        options.readAtomicMax = 2
        let peer = ScriptedPeer(options: options)
        for psn in 0x200...0x202 as ClosedRange<UInt32> { peer.atomic(psn, add: 1, at: 0) }
        _ = peer.takeSent()
        peer.atomic(0x200, add: 1, at: 0)
        #expect(peer.takeSent().isEmpty)
        peer.atomic(0x201, add: 1, at: 0)
        #expect(peer.takeSent().map(\.atomicAckETH.originalValue) == [1])
    }

    // MARK: Invalid requests

    /// Packets that are refused with 0x61, from a peer that has written FIRST of a WRITE before, or not.
    struct Invalid: CustomTestStringConvertible, Sendable {
        let testDescription: String
        var opensWrite = false
        let arrive: @Sendable (ScriptedPeer, UInt32) -> Void
    }

    static let invalid: [Invalid] = [
        Invalid(testDescription: "MIDDLE without FIRST") {
            $0.request(.rcSendMiddle, $1, [UInt8](repeating: 1, count: 1024))
        },
        Invalid(testDescription: "LAST without FIRST") { $0.request(.rcWriteLast, $1, [1]) },
        Invalid(testDescription: "FIRST inside a message", opensWrite: true) {
            $0.request(.rcSendFirst, $1, [UInt8](repeating: 1, count: 1024))
        },
        Invalid(testDescription: "READ inside a message", opensWrite: true) {
            $0.request(.rcReadRequest, $1, length: 8)
        },
        Invalid(testDescription: "SEND goes on a WRITE", opensWrite: true) {
            $0.request(.rcSendLast, $1, [1])
        },
        Invalid(testDescription: "FIRST shorter than the path MTU") {
            $0.request(.rcSendFirst, $1, [UInt8](repeating: 1, count: 1020))
        },
        Invalid(testDescription: "MIDDLE shorter than the path MTU", opensWrite: true) {
            $0.request(.rcWriteMiddle, $1, [1, 2, 3, 4])
        },
        Invalid(testDescription: "LAST without payload", opensWrite: true) { $0.request(.rcWriteLast, $1) },
        Invalid(testDescription: "ONLY longer than the path MTU") {
            $0.request(.rcSendOnly, $1, [UInt8](repeating: 1, count: 1028))
        },
        Invalid(testDescription: "WRITE longer than its DMA length") {
            $0.request(.rcWriteOnly, $1, [1, 2], length: 1)
        },
        Invalid(testDescription: "WRITE shorter than its DMA length") {
            $0.request(.rcWriteOnly, $1, [1, 2], length: 3)
        },
        Invalid(testDescription: "LAST ends before the DMA length", opensWrite: true) {
            $0.request(.rcWriteLast, $1, [1])
        },
        Invalid(testDescription: "WRITE of more than 2 GiB") {
            $0.request(.rcWriteFirst, $1, [UInt8](repeating: 1, count: 1024), length: 0x8000_0001)
        },
        Invalid(testDescription: "READ of more than 2 GiB") { $0.request(.rcReadRequest, $1, length: 0x8000_0001) },
        Invalid(testDescription: "an atomic that is not aligned") { $0.atomic($1, add: 1, at: 4) },
    ]

    @Test("An invalid request is refused with 0x61 at its PSN, and ends the queue pair", arguments: invalid)
    func invalidRequest(_ invalid: Invalid) {
        let peer = ScriptedPeer()
        peer.postReceive()
        var psn: UInt32 = 0x200
        if invalid.opensWrite {
            peer.request(.rcWriteFirst, psn, full, length: 3_000, at: 8192)
            psn += 1
        }
        _ = peer.takeSent()
        let before = Array(peer.memory)
        invalid.arrive(peer, psn)
        let answers = peer.takeSent()
        #expect(syndromes(answers) == [0x61])
        #expect(answers.map(\.psn) == [psn])
        #expect(peer.state == .error)
        #expect(peer.events == [.requestError])
        #expect(Array(peer.memory) == before)
        #expect(peer.pollReceives().map(\.status) == [.flushed])
    }

    @Test(
        "What the queue pair does not permit is refused with 0x61, not 0x62",
        arguments: [Opcode.rcWriteOnly, .rcReadRequest, .rcFetchAdd, .rcAtomicWrite])
    func permission(opcode: Opcode) {
        var options = ConnectionOptions()
        options.access = []
        let peer = ScriptedPeer(options: options)
        if opcode == .rcFetchAdd {
            peer.atomic(0x200, add: 1, at: 0)
        } else {
            let payload = [UInt8](repeating: 0, count: opcode.descriptor.exactPayloadByteCount ?? 0)
            peer.request(opcode, 0x200, payload)
        }
        #expect(syndromes(peer.takeSent()) == [0x61])
    }

    @Test("Without responder resources, READs and atomics are refused with 0x61")
    func noResources() {
        var options = ConnectionOptions()
        options.readAtomicMax = 0
        let peer = ScriptedPeer(options: options)
        peer.request(.rcReadRequest, 0x200, length: 8)
        #expect(syndromes(peer.takeSent()) == [0x61])
    }

    @Test("More READs at a time than were agreed are refused with 0x61, after the answers to the others")
    func tooManyReads() {
        var options = ConnectionOptions()
        options.readAtomicMax = 2
        let peer = ScriptedPeer(options: options)
        for psn in 0x200...0x202 as ClosedRange<UInt32> {
            peer.request(.rcReadRequest, psn, length: 8, drains: false)
        }
        peer.drain()
        let answers = peer.takeSent()
        #expect(answers.map(\.opcode) == [0x10, 0x10, 0x11])
        #expect(answers.map(\.psn) == [0x200, 0x201, 0x202], "answers are in the order of their PSNs")
        #expect(answers.last?.aeth.syndrome.rawValue == 0x61)
    }

    // MARK: Receives

    @Test("Without a receive the peer is told to wait, and nothing advances")
    func receiverNotReady() {
        var options = ConnectionOptions()
        options.rnrTimer = 25
        let peer = ScriptedPeer(options: options)
        peer.request(.rcSendOnly, 0x200, [1])
        peer.request(.rcSendOnly, 0x201, [2])
        let naks = peer.takeSent()
        #expect(syndromes(naks) == [0x20 | 25])
        #expect(naks.map(\.psn) == [0x200])
        peer.postReceive()
        peer.request(.rcSendOnly, 0x200, [1])
        #expect(syndromes(peer.takeSent()) == [0x1F])
    }

    @Test("WRITE with immediate uses a receive up, but not its memory")
    func writeWithImmediate() {
        let peer = ScriptedPeer()
        peer.arrive(.rcWriteOnlyImmediate, psn: 0x200, payload: [1, 2, 3], acknowledgeRequest: true) {
            $0.reth = RETH(virtualAddress: peer.address(16), rkey: peer.key, length: 3)
        }
        #expect(syndromes(peer.takeSent()) == [0x21])
        peer.postReceive(id: 4)
        peer.arrive(.rcWriteOnlyImmediate, psn: 0x200, payload: [1, 2, 3], acknowledgeRequest: true) {
            $0.reth = RETH(virtualAddress: peer.address(16), rkey: peer.key, length: 3)
            $0.immDt = ImmDt(networkOrderValue: 0xAABB_CCDD)
        }
        let entries = peer.pollReceives()
        #expect(entries.map(\.operation) == [.receiveRDMAWithImmediate])
        #expect(entries.map(\.byteLength) == [3])
        #expect(entries.map(\.immediate) == [0xAABB_CCDD])
        #expect(entries.first?.flags.contains(.withImmediate) == true)
        #expect(Array(peer.memory[16..<20]) == [1, 2, 3, 0])
        #expect(peer.memory[65_536] == 0)
    }

    @Test("A SEND longer than the receive is refused with 0x61; the receive tells of the length")
    func tooLong() {
        let peer = ScriptedPeer()
        peer.postReceive(length: 1500)
        peer.request(.rcSendFirst, 0x200, full)
        peer.request(.rcSendLast, 0x201, full)
        let answers = peer.takeSent()
        #expect(answers.last?.aeth.syndrome.rawValue == 0x61)
        #expect(peer.pollReceives().map(\.status) == [.localLengthError])
        #expect(peer.memory[65_536 + 1500] == 0)
    }

    @Test("A receive whose memory is gone is refused with 0x63")
    func receiveProtection() {
        let peer = ScriptedPeer()
        peer.node.postReceive(
            peer.queues.receiveQueue, id: 6,
            [ScatterGatherEntry(address: peer.address(0), length: 64, lkey: peer.key.rawValue ^ 0x100)])
        peer.request(.rcSendOnly, 0x200, [1])
        #expect(syndromes(peer.takeSent()) == [0x63])
        #expect(peer.pollReceives().map(\.status) == [.localProtectionError])
        #expect(peer.events == [.fatal])
    }

    // MARK: Keys

    @Test("Whatever of key, bounds, domain and permission is wrong earns 0x62 and an access event", arguments: 0..<6)
    func accessViolation(which: Int) {
        let peer = ScriptedPeer()
        let foreign = peer.node.register(peer.memory, domain: 2, iova: 0x10_0000)
        let readOnly = peer.node.register(peer.memory, iova: 0x10_0000, access: [.localWrite, .remoteRead])
        let before = Array(peer.memory)
        switch which {
        case 0: peer.request(.rcWriteOnly, 0x200, [1], key: MemoryKey(rawValue: peer.key.rawValue ^ 1))
        case 1: peer.request(.rcWriteOnly, 0x200, [1, 2], at: peer.memory.count - 1)
        case 2: peer.request(.rcWriteOnly, 0x200, [1], key: foreign)
        case 3: peer.request(.rcWriteOnly, 0x200, [1], key: readOnly)
        case 4: peer.request(.rcWriteOnly, 0x200, [1], at: -1)
        // The end of the range wraps around to the start of the region.
        default:
            peer.arrive(.rcReadRequest, psn: 0x200) {
                $0.reth = RETH(virtualAddress: .max - 1, rkey: peer.key, length: 0x10_0010)
            }
        }
        let answers = peer.takeSent()
        #expect(syndromes(answers) == [0x62])
        #expect(peer.events == [.accessError])
        #expect(peer.state == .error)
        #expect(Array(peer.memory) == before)
    }

    @Test("The whole range of a WRITE is checked at FIRST, before any byte is written")
    func wholeRange() {
        let peer = ScriptedPeer()
        peer.request(.rcWriteFirst, 0x200, full, length: 3_000, at: peer.memory.count - 2048)
        #expect(syndromes(peer.takeSent()) == [0x62])
        #expect(peer.memory.allSatisfy { $0 == 0 })
    }

    @Test("Every packet of a WRITE is checked: the region may be gone")
    func regionGoes() throws {
        let peer = ScriptedPeer()
        let key = peer.node.register(peer.memory, iova: 0x10_0000)
        peer.request(.rcWriteFirst, 0x200, full, length: 2048, key: key)
        try peer.node.engine.pointee.deregisterMemory(key)
        _ = peer.takeSent()
        peer.request(.rcWriteLast, 0x201, full)
        #expect(syndromes(peer.takeSent()) == [0x62])
        #expect(peer.memory[1024] == 0)
    }

    @Test("A READ whose region goes while it is answered is refused in its middle")
    func regionGoesDuringRead() throws {
        let peer = ScriptedPeer { $0.quantumBytes = 1024 }
        let key = peer.node.register(peer.memory, iova: 0x10_0000)
        peer.request(.rcReadRequest, 0x200, length: 3_000, key: key, drains: false)
        peer.node.transmitQueue = TransmitQueue(arenaByteCount: 8192, burstCountMax: 1)
        _ = peer.node.engine.pointee.transmit(into: &peer.node.transmitQueue, now: peer.now)
        try peer.node.engine.pointee.deregisterMemory(key)
        peer.drain()
        let answers = peer.takeSent()
        #expect(answers.map(\.opcode) == [0x0D, 0x11])
        #expect(answers.last?.brief == "RC ACKNOWLEDGE 513")
        #expect(answers.last?.aeth.syndrome.rawValue == 0x62)
    }

    @Test("Length zero needs neither key nor address", arguments: [Opcode.rcWriteOnly, .rcReadRequest])
    func zeroLength(opcode: Opcode) {
        let peer = ScriptedPeer()
        peer.request(opcode, 0x200, length: 0, at: -5_000, key: MemoryKey(rawValue: 0xDEAD))
        #expect(syndromes(peer.takeSent()) == [0x1F])
        #expect(peer.state == .readyToSend)
    }

    // MARK: Silent drops

    @Test("What the link vouches for needs no ICRC, and is judged otherwise as ever")
    func unsealed() {
        let peer = ScriptedPeer()
        peer.postReceive()
        peer.arrive(.rcSendOnly, psn: 0x200, payload: [1, 2, 3, 4], damage: true, isSealed: false)
        #expect(peer.pollReceives().map(\.status) == [.success])
        peer.arrive(.rcSendOnly, psn: 0x201, from: GID(ipv4: 0x0A00_0003), damage: true, isSealed: false)
        #expect(peer.counters.droppedAddress == 1)
        peer.arrive(
            .rcWriteOnly, psn: 0x201, payload: [1], acknowledgeRequest: true, damage: true, isSealed: false
        ) {
            $0.reth = RETH(virtualAddress: peer.address(0), rkey: MemoryKey(rawValue: 1), length: 1)
        }
        #expect(peer.takeSent().last?.aeth.syndrome == .refused(.remoteAccessError))
    }

    @Test("What is not for this connection is dropped without a word, and counted")
    func drops() {
        let peer = ScriptedPeer()
        peer.postReceive()
        peer.arrive(.rcSendOnly, psn: 0x200, from: GID(ipv4: 0x0A00_0003))
        #expect(peer.counters.droppedAddress == 1)
        peer.arrive(.ucSendOnly, psn: 0x200)
        #expect(peer.counters.droppedState == 1)
        peer.arrive(.udSendOnly, psn: 0x200)
        #expect(peer.counters.droppedState == 2)
        peer.arrive(.rcSendOnly, psn: 0x200, to: QPN(truncating: peer.queues.qpn.rawValue ^ 0x1_0000))
        #expect(peer.counters.droppedUnknownQueuePair == 1)
        peer.arrive(.rcSendOnly, psn: 0x200, payload: [1, 2, 3, 4], damage: true)
        #expect(peer.counters.droppedICRC == 1)
        #expect(peer.takeSent().isEmpty)
        #expect(peer.pollReceives().isEmpty)
    }

    @Test("MigReq, congestion marks and reserved bits are of no concern")
    func liberal() {
        let peer = ScriptedPeer()
        peer.postReceive()
        peer.arrive(.rcSendOnly, psn: 0x200, payload: [1], acknowledgeRequest: true) {
            $0.bth.migrationRequest = true
            $0.bth.fecn = true
        }
        #expect(syndromes(peer.takeSent()) == [0x1F])
    }

    // MARK: Congestion

    @Test("A packet with the mark of congestion earns a ConnectX-4's notification, at most one in 50 µs")
    func congestion() {
        let peer = ScriptedPeer()
        var notifications: [[UInt8]] { peer.frames.filter { $0[0] == 0x81 } }
        for id in 0..<4 { peer.postReceive(id: UInt64(id)) }
        peer.arrive(.rcSendOnly, psn: 0x200, payload: [1], trafficClass: 0x02)
        #expect(notifications.isEmpty, "capable is not experienced")
        peer.arrive(.rcSendOnly, psn: 0x201, payload: [1], trafficClass: 0x03)
        peer.arrive(.rcSendOnly, psn: 0x202, payload: [1], trafficClass: 0xC3)
        // scapy, test/contrib/roce.uts, but for the queue pair: 0x000118 there.
        let captured: [UInt8] =
            [0x81, 0x00, 0xFF, 0xFF, 0x40, 0x77, 0x77, 0x77, 0, 0, 0, 0] + [UInt8](repeating: 0, count: 16)
        #expect(notifications == [captured])
        peer.now += 50_000
        peer.arrive(.rcSendOnly, psn: 0x203, payload: [1], trafficClass: 0x03)
        #expect(notifications.count == 2)
        peer.arrive(.congestionNotification, psn: 0, payload: [UInt8](repeating: 0, count: 16), trafficClass: 0x03)
        #expect(notifications.count == 2)
        #expect(peer.counters.congestionNotifications == 1)
    }

    // MARK: Events

    @Test("The first packet in RTR is an event, once")
    func communicationEstablished() {
        let peer = ScriptedPeer(toReceiveOnly: true)
        peer.postReceive(id: 1)
        peer.postReceive(id: 2)
        peer.request(.rcSendOnly, 0x200, [1])
        peer.request(.rcSendOnly, 0x201, [1])
        #expect(peer.events == [.communicationEstablished])
        #expect(peer.takeSent().count == 2)
    }

    @Test("SEND with invalidate takes a window out of use, and the receive says which")
    func sendWithInvalidate() throws {
        let peer = ScriptedPeer()
        let window = try peer.node.engine.pointee.allocateWindow(
            protectionDomain: 1, type: .type2, using: &peer.node.generator)
        let bound = window.with(variant: window.variant &+ 1)
        var bind = SendWorkRequest(id: 1, operation: .bindWindow)
        bind.bindWindowKey = window.rawValue
        bind.bindNewKey = bound.rawValue
        bind.bindRegionKey = peer.key.rawValue
        bind.bindAddress = peer.address(64)
        bind.bindLength = 16
        bind.bindAccess = [.remoteWrite]
        peer.node.post(peer.queues, bind)
        peer.drain()
        peer.request(.rcWriteOnly, 0x200, [8, 8], at: 64, key: bound)
        #expect(peer.memory[64] == 8)
        peer.postReceive()
        peer.arrive(.rcSendOnlyInvalidate, psn: 0x201, acknowledgeRequest: true) { $0.ieth = IETH(rkey: bound) }
        let entries = peer.pollReceives()
        #expect(entries.map(\.status) == [.success])
        #expect(entries.first?.flags.contains(.withInvalidate) == true)
        #expect(entries.first?.immediate == bound.rawValue)
        _ = peer.takeSent()
        peer.request(.rcWriteOnly, 0x202, [9], at: 64, key: bound)
        #expect(syndromes(peer.takeSent()) == [0x62])
        #expect(peer.memory[64] == 8)
    }

    @Test("ATOMIC WRITE stores eight bytes and is answered by an empty READ response")
    func atomicWrite() {
        let peer = ScriptedPeer()
        peer.request(.rcAtomicWrite, 0x200, [1, 2, 3, 4, 5, 6, 7, 8], at: 24)
        #expect(peer.takeSent().map(\.opcode) == [0x10])
        #expect(Array(peer.memory[24..<32]) == [1, 2, 3, 4, 5, 6, 7, 8])
    }
}
