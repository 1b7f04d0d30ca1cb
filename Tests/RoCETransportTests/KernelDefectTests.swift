// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// The faults that the kernel's soft-RoCE had, each replayed against this engine.
///
/// Those that other suites already replay:
///
/// | fault of the kernel | test |
/// |---|---|
/// | "Fix packet length checks": FIRST and MIDDLE of another length than the path MTU | `ResponderRuleTests.invalid` |
/// | "Fix integer overflow in mr_check_range()", in remote ranges | `ResponderRuleTests.accessViolation` |
/// | a forged NAK, from outside what is in flight | `RequesterRuleTests.forgedRefusal`, `ghosts` |
/// | ICRC of captured packets whose payload is not a multiple of four | `RoCEWireTests`, "Frames that the kernel sent" |
/// | CVE-2026-46133, CVE-2026-46043, in the parser alone | `ParserTests.unknownOpcodes`, `padUnderflow` |
/// | CVE-2026-45910, a timer of a destroyed queue pair, in its lists | `QueueTests.destroyBusy` |
@Suite("Faults that the kernel's soft-RoCE had") struct KernelDefectTests {
    private let full = [UInt8](repeating: 0x33, count: 1024)

    private func syndromes(_ packets: [RoCEPacket]) -> [UInt8] { packets.map(\.aeth.syndrome.rawValue) }

    // MARK: Lengths

    /// Bytes from the BTH to the pad arrive from the peer, with the right ICRC behind them.
    private func arrive(_ bytes: [UInt8], at peer: ScriptedPeer, damagedByte: Int? = nil) {
        var bytes = bytes + [0, 0, 0, 0]
        bytes.withUnsafeMutableBytes { buffer in
            var span = buffer.mutableBytes
            let flow = ICRC.Flow(source: peer.peer, destination: peer.node.gid, sourcePort: 50_000)
            ICRC.seal(&span, ICRC.seed(flow, udpPayloadByteCount: buffer.count))
        }
        if let damagedByte { bytes[damagedByte] ^= 1 }
        peer.node.receive(
            bytes, from: DatagramOrigin(source: peer.peer, sourcePort: 50_000, localIndex: 0), now: peer.now)
        peer.drain()
    }

    private func header(_ opcode: UInt8, pad: UInt8 = 0, to qpn: QPN, psn: UInt32 = 0x200) -> [UInt8] {
        func bytes(_ value: UInt32) -> [UInt8] { [16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) } }
        return [opcode, pad << 4, 0xFF, 0xFF, 0] + bytes(qpn.rawValue) + [0x80] + bytes(psn)
    }

    @Test("CVE-2026-46133: an unknown opcode is dropped before its headers are looked for, however short the packet")
    func unknownOpcode() {
        let peer = ScriptedPeer()
        peer.postReceive()
        var count: UInt64 = 0
        for opcode in 0...UInt8.max where !Opcode(rawValue: opcode).descriptor.isKnown {
            for length in [0, 4, 8, 16, 40, 1024] {
                arrive(header(opcode, to: peer.queues.qpn) + [UInt8](repeating: 0, count: length), at: peer)
                count += 1
            }
        }
        #expect(count > 1_000)
        #expect(peer.counters.droppedMalformed == count)
        #expect(peer.takeSent().isEmpty)
        #expect(peer.pollReceives().isEmpty)
    }

    @Test(
        "CVE-2026-46043: pad and ICRC that do not fit behind the headers are no payload of four gigabytes",
        arguments: [Opcode.rcSendOnly, .rcWriteOnly, .rcFetchAdd, .rcAcknowledge, .rcReadResponseOnly])
    func padUnderflow(opcode: Opcode) {
        let peer = ScriptedPeer()
        peer.postReceive()
        peer.post(.send, length: 8)
        _ = peer.takeSent()
        for pad in 1...3 as ClosedRange<UInt8> {
            var bytes = header(opcode.rawValue, pad: pad, to: peer.queues.qpn)
            bytes.append(contentsOf: [UInt8](repeating: 0, count: opcode.descriptor.headerByteCount - bytes.count))
            arrive(bytes, at: peer)
            arrive(Array(bytes.dropLast(4)), at: peer)
        }
        #expect(peer.counters.droppedMalformed == 6)
        #expect(peer.takeSent().isEmpty)
        #expect(peer.pollReceives().isEmpty && peer.pollSends().isEmpty)
    }

    @Test("\"Correctly calculate iCRC for unaligned payloads\": the pad is covered", arguments: 1...3)
    func padIsCovered(pad: Int) {
        let peer = ScriptedPeer()
        peer.postReceive(id: 1)
        let payload = [UInt8](repeating: 7, count: 8 - pad)
        let bytes =
            header(0x04, pad: UInt8(pad), to: peer.queues.qpn) + payload + [UInt8](repeating: 0, count: pad)
        arrive(bytes, at: peer, damagedByte: bytes.count - 1)
        #expect(peer.counters.droppedICRC == 1)
        #expect(peer.pollReceives().isEmpty)
        arrive(bytes, at: peer)
        #expect(peer.pollReceives().map(\.byteLength) == [UInt32(payload.count)])
    }

    @Test("\"Reject non-8-byte ATOMIC_WRITE payloads\": nothing is stored", arguments: [0, 4, 7, 9, 12, 16, 1024])
    func atomicWriteLength(payload: Int) {
        let peer = ScriptedPeer()
        let bytes = [UInt8](repeating: 0xEE, count: payload)
        peer.request(.rcAtomicWrite, 0x200, bytes, length: 8, at: 24)
        #expect(peer.counters.droppedMalformed == 1)
        #expect(peer.memory.allSatisfy { $0 == 0 })
        #expect(peer.takeSent().isEmpty)
        #expect(peer.state == .readyToSend)
    }

    @Test(
        "An ATOMIC WRITE whose RETH says another length than eight is refused", arguments: [0, 1, 4, 16, 0xFFFF_FFFF])
    func atomicWriteReth(length: Int) {
        let peer = ScriptedPeer()
        peer.request(.rcAtomicWrite, 0x200, [UInt8](repeating: 0xEE, count: 8), length: length, at: 24)
        #expect(syndromes(peer.takeSent()) == [0x61])
        #expect(peer.memory.allSatisfy { $0 == 0 })
    }

    // MARK: Ranges

    @Test("\"Fix integer overflow in mr_check_range()\": a local range that wraps around is in no region")
    func localRangeWraps() {
        let peer = ScriptedPeer()
        for (address, length) in [
            (UInt64.max, UInt32(8)), (.max - 1, 0x10_0010), (peer.address(-1), .max), (0, .max),
            (peer.address(1), .max),
        ] as [(UInt64, UInt32)] {
            peer.node.postReceive(
                peer.queues.receiveQueue, id: 1,
                [ScatterGatherEntry(address: address, length: length, lkey: peer.key.rawValue)])
            peer.request(.rcSendOnly, 0x200, [1, 2, 3, 4])
            #expect(syndromes(peer.takeSent()) == [0x63], "\(address), \(length)")
            #expect(peer.pollReceives().map(\.status) == [.localProtectionError])
            peer.node.modify(peer.queues.qpn, .state) { $0.state = .reset }
            peer.node.connect(peer.queues.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
        }
        #expect(peer.memory.allSatisfy { $0 == 0 })
    }

    @Test("\"Fix integer overflow in mr_check_range()\": a region at the end of the address space has no other side")
    func regionAtTheEnd() {
        let peer = ScriptedPeer()
        let room = UnsafeMutableRawBufferPointer(rebasing: peer.memory[4096..<8192])
        let key = peer.node.register(room, iova: UInt64.max - 4095)
        peer.arrive(.rcWriteOnly, psn: 0x200, payload: [9], acknowledgeRequest: true) {
            $0.reth = RETH(virtualAddress: .max, rkey: key, length: 1)
        }
        #expect(syndromes(peer.takeSent()) == [0x1F])
        #expect(peer.memory[8191] == 9)
        peer.arrive(.rcWriteOnly, psn: 0x201, payload: [9, 9], acknowledgeRequest: true) {
            $0.reth = RETH(virtualAddress: .max, rkey: key, length: 2)
        }
        #expect(syndromes(peer.takeSent()) == [0x62])
        #expect(peer.memory[8192] == 0 && peer.memory[4096] == 0)
    }

    // MARK: Work requests that change under the engine's hands

    @Test(
        "\"Copy WQE to local buffer\", \"Fix TOCTOU in get_srq_wqe\": a receive is as it was when it was taken",
        arguments: [false, true])
    func receiveSnapshot(isShared: Bool) {
        let peer = ScriptedPeer(change: { creation, node in
            guard isShared else { return }
            creation.sharedReceiveQueue = try! node.engine.pointee.createSharedReceiveQueue(
                protectionDomain: 1, capacity: 4, scatterGatherMax: 4, tag: 9)
        })
        let slot = peer.queues.receiveQueue.slot(0)
        peer.node.postReceive(peer.queues.receiveQueue, id: 5, [peer.entry(8192, 1000), peer.entry(20_000, 1048)])
        peer.request(.rcSendFirst, 0x200, full)
        slot.pointee.id = 6
        slot.pointee.scatterGatherCount = .max
        for index in 0..<2 {
            peer.queues.receiveQueue.scatterGatherList(of: slot)[index] = ScatterGatherEntry(
                address: peer.address(100_000), length: .max, lkey: peer.key.rawValue)
        }
        peer.request(.rcSendLast, 0x201, full)
        let entries = peer.pollReceives()
        #expect(entries.map(\.id) == [5])
        #expect(entries.map(\.byteLength) == [2048])
        #expect(peer.memory[8192..<9192].allSatisfy { $0 == 0x33 })
        #expect(peer.memory[20_000..<21_048].allSatisfy { $0 == 0x33 })
        #expect(peer.memory[21_048] == 0 && peer.memory[100_000] == 0)
    }

    @Test("CVE-2026-92525: more scatter/gather entries than the queue has are not read", arguments: [5, 0xFFFF])
    func entryCount(count: UInt32) {
        let peer = ScriptedPeer(change: { creation, _ in
            creation.sendScatterGatherMax = 4
            creation.receiveScatterGatherMax = 4
            creation.inlineMax = 0
        })
        let receive = peer.queues.receiveQueue.slot(0)
        peer.node.postReceive(peer.queues.receiveQueue, id: 1, (0..<4).map { peer.entry(8192 + $0 * 4, 4) })
        receive.pointee.scatterGatherCount = count
        peer.request(.rcSendOnly, 0x200, [UInt8](repeating: 1, count: 17))
        #expect(syndromes(peer.takeSent()) == [0x61], "four entries of four bytes hold sixteen")
        #expect(peer.pollReceives().map(\.status) == [.localLengthError])
        #expect(peer.memory.allSatisfy { $0 == 0 })

        let sender = ScriptedPeer(change: { creation, _ in
            creation.sendScatterGatherMax = 4
            creation.inlineMax = 0
        })
        let slot = sender.queues.sendQueue.slot(0)
        slot.pointee = SendWorkRequest(id: 1, operation: .send)
        slot.pointee.scatterGatherCount = UInt16(count)
        for index in 0..<4 { sender.queues.sendQueue.scatterGatherList(of: slot)[index] = sender.entry(0, 4) }
        sender.queues.sendQueue.publish(1)
        sender.node.engine.pointee.doorbell(sender.queues.qpn)
        sender.drain()
        #expect(sender.takeSent().isEmpty)
        #expect(sender.pollSends().map(\.status) == [.localQueuePairOperationError])
    }

    @Test("A send that is changed after it was posted keeps its packets, or fails; another's do not suffer")
    func sendSnapshot() {
        let peer = ScriptedPeer()
        let slot = peer.queues.sendQueue.slot(0)
        peer.post(.send, id: 1, length: 2000)
        peer.post(.send, id: 2, length: 8)
        #expect(peer.takeSent().map(\.psn) == [0x100, 0x101, 0x102])
        slot.pointee.operation = .rdmaRead
        slot.pointee.scatterGatherCount = .max
        peer.queues.sendQueue.scatterGatherList(of: slot)[0].length = .max
        peer.passTime()
        let again = peer.takeSent()
        #expect(again.allSatisfy { (0x100...0x102).contains($0.psn) && $0.payloadByteCount <= 1024 })
        peer.acknowledge(0x102)
        let entries = peer.pollSends()
        #expect(entries.map(\.id) == [1, 2])
        #expect(entries.map(\.status) == [.success, .success] || entries.last?.status == .flushed)
    }

    @Test("CVE-2026-92525: a count that grows after it was judged leads no repetition beyond the list")
    func entryCountGrows() {
        let peer = ScriptedPeer()
        let slot = peer.queues.sendQueue.slot(0)
        let next = peer.queues.sendQueue.slot(1)
        peer.post(.send, id: 1, length: 16)
        _ = peer.takeSent()
        for index in 0..<peer.queues.sendQueue.scatterGatherMax {
            peer.queues.sendQueue.scatterGatherList(of: slot)[index] = ScatterGatherEntry(
                address: 0, length: 0, lkey: 0)
        }
        slot.pointee.scatterGatherCount = .max
        // What lies behind the list, the next slot, reads as an entry that would do.
        next.pointee.id = peer.address(0)
        next.pointee.remoteAddress = UInt64(peer.key.rawValue) << 32 | 16
        peer.passTime()
        #expect(peer.takeSent().isEmpty)
        #expect(peer.pollSends().map(\.status) == [.localProtectionError])
    }

    // MARK: Packets and the end of a queue pair

    @Test("CVE-2026-93107: the packet that ends a queue pair is not put into the receives that are flushed")
    func packetAfterError() {
        let peer = ScriptedPeer()
        peer.postReceive(id: 1, length: 16, at: 0)
        for id in 2...5 as ClosedRange<UInt64> { peer.postReceive(id: id, length: 4096, at: Int(id) * 8192) }
        peer.request(.rcSendOnly, 0x200, full)
        #expect(syndromes(peer.takeSent()) == [0x61])
        let entries = peer.pollReceives()
        #expect(entries.map(\.id) == [1, 2, 3, 4, 5])
        #expect(entries.map(\.status) == [.localLengthError, .flushed, .flushed, .flushed, .flushed])
        #expect(peer.memory[16...].allSatisfy { $0 == 0 })
        let drops = peer.counters.droppedState
        peer.postReceive(id: 6, at: 65_536)
        peer.request(.rcSendOnly, 0x200, full)
        peer.request(.rcSendOnly, 0x201, full)
        #expect(peer.counters.droppedState == drops + 2)
        #expect(peer.memory[16...].allSatisfy { $0 == 0 })
        #expect(peer.takeSent().isEmpty)
    }

    @Test("CVE-2026-45910: the timer of a destroyed queue pair does not fire, not even for the next one in its place")
    func timerAfterDestroy() throws {
        let peer = ScriptedPeer()
        peer.post(.send, length: 8)
        let next = peer.node.engine.pointee.nextDeadline
        let deadline = try #require(next)
        try peer.node.engine.pointee.destroyQueuePair(peer.queues.qpn)
        #expect(peer.node.engine.pointee.nextDeadline == nil)
        let successor = peer.node.makeQueuePair(
            QueuePairCreation(
                type: .rc, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                receiveCompletionQueue: peer.receiveCompletions))
        peer.node.connect(successor.qpn, type: .rc, to: peer.peer, peer.remoteQPN, ConnectionOptions())
        _ = peer.takeSent()
        for step in 0..<20 as Range<UInt64> { peer.node.engine.pointee.advance(to: deadline + step << 26) }
        peer.drain()
        #expect(peer.counters.timeouts == 0)
        #expect(peer.takeSent().isEmpty)
        #expect(peer.pollSends().isEmpty)
        #expect(peer.node.state(successor.qpn) == .readyToSend)
    }

    // MARK: Responder resources

    private func setResponderResources(_ peer: ScriptedPeer, to count: UInt8) {
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .sendQueueDrained }
        peer.node.modify(peer.queues.qpn, .destinationReadAtomicMax) { $0.destinationReadAtomicMax = count }
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .readyToSend }
    }

    @Test(
        "\"Fix responder UAF on MAX_DEST_RD_ATOMIC modify_qp\": the newest results survive, the others are not answered"
    )
    func fewerResources() {
        let peer = ScriptedPeer()
        for psn in 0x200...0x203 as ClosedRange<UInt32> { peer.atomic(psn, add: 1, at: 0) }
        _ = peer.takeSent()
        setResponderResources(peer, to: 2)
        setResponderResources(peer, to: 16)
        for psn in 0x200...0x203 as ClosedRange<UInt32> { peer.atomic(psn, add: 1, at: 0) }
        #expect(peer.takeSent().map(\.atomicAckETH.originalValue) == [2, 3])
        for psn in 0x204...0x213 as ClosedRange<UInt32> { peer.atomic(psn, add: 1, at: 0) }
        #expect(peer.takeSent().map(\.atomicAckETH.originalValue) == Array(4...19))
        #expect(peer.memory.load(as: UInt64.self) == 20, "no repetition was executed")
    }

    @Test(
        "\"Fix OOB in free_rd_atomic_resources\": answers that wait are dropped with their resources, and the rest goes on"
    )
    func fewerResourcesWhileAnswering() {
        let peer = ScriptedPeer()
        for psn in 0x200...0x203 as ClosedRange<UInt32> {
            peer.request(.rcReadRequest, psn, length: 8, drains: false)
        }
        setResponderResources(peer, to: 1)
        peer.drain()
        #expect(peer.takeSent().filter { $0.opcode == 0x10 }.map(\.psn) == [0x203])
        setResponderResources(peer, to: 0)
        peer.request(.rcReadRequest, 0x203, length: 8)
        #expect(peer.takeSent().isEmpty, "what would answer the repetition is gone")
        #expect(peer.state == .readyToSend)
        setResponderResources(peer, to: 4)
        peer.request(.rcReadRequest, 0x204, length: 8)
        #expect(peer.takeSent().map(\.psn) == [0x204])
    }

    // MARK: Multicast

    @Test("\"Insert mcg into tree only after add\": an attachment that fails leaves nothing, one that ends neither")
    func multicastAttachment() throws {
        let group = GID(ipv4: 0xEF01_0203)
        let peer = ScriptedPeer(type: .ud, configure: { $0.multicastAttachmentCountMax = 1 })
        let other = peer.node.makeQueuePair(
            QueuePairCreation(
                type: .ud, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                receiveCompletionQueue: peer.receiveCompletions))
        peer.node.connect(other.qpn, type: .ud, to: peer.peer, peer.remoteQPN, ConnectionOptions())
        for id in 0..<4 as Range<UInt64> {
            peer.postReceive(id: id, length: 100)
            peer.node.postReceive(other.receiveQueue, id: 10 + id, [peer.entry(0, 100)])
        }
        try peer.node.engine.pointee.attachMulticast(peer.queues.qpn, group: group)
        try peer.node.engine.pointee.attachMulticast(peer.queues.qpn, group: group)
        #expect(throws: EngineError.limitReached("multicast attachments")) {
            try peer.node.engine.pointee.attachMulticast(other.qpn, group: group)
        }
        arriveByMulticast(group, at: peer)
        #expect(peer.pollReceives().map(\.id) == [0], "once, although it joined twice; not the one that could not")
        try peer.node.engine.pointee.destroyQueuePair(other.qpn)
        try peer.node.engine.pointee.detachMulticast(peer.queues.qpn, group: group)
        #expect(throws: EngineError.self) {
            try peer.node.engine.pointee.detachMulticast(peer.queues.qpn, group: group)
        }
        arriveByMulticast(group, at: peer)
        #expect(peer.pollReceives().isEmpty)
        try peer.node.engine.pointee.attachMulticast(peer.queues.qpn, group: group)
        arriveByMulticast(group, at: peer)
        #expect(peer.pollReceives().map(\.id) == [1])
    }

    @Test("\"Handle skb_clone failure\": a member that cannot take the datagram costs the others nothing")
    func multicastMemberWithoutReceive() throws {
        let group = GID(ipv4: 0xEF01_0203)
        let peer = ScriptedPeer(type: .ud)
        try peer.node.engine.pointee.attachMulticast(peer.queues.qpn, group: group)
        var members: [QueuePairQueues] = []
        for id in 0..<2 as Range<UInt64> {
            let member = peer.node.makeQueuePair(
                QueuePairCreation(
                    type: .ud, protectionDomain: 1, sendCompletionQueue: peer.sendCompletions,
                    receiveCompletionQueue: peer.receiveCompletions))
            peer.node.connect(member.qpn, type: .ud, to: peer.peer, peer.remoteQPN, ConnectionOptions())
            try peer.node.engine.pointee.attachMulticast(member.qpn, group: group)
            peer.node.postReceive(member.receiveQueue, id: id, [peer.entry(Int(id) * 100, 100)])
            members.append(member)
        }
        arriveByMulticast(group, at: peer)
        #expect(peer.pollReceives().map(\.id).sorted() == [0, 1])
        #expect(peer.counters.droppedNoReceive == 1)
        #expect(peer.memory[40] == 5 && peer.memory[140] == 5)
    }

    private func arriveByMulticast(_ group: GID, at peer: ScriptedPeer) {
        var packet = RoCEPacket(
            bth: BTH(opcode: .udSendOnly, destination: .multicast, psn: PSN(truncating: 1)), payloadByteCount: 4)
        packet.deth = DETH(queueKey: QueueKey(rawValue: 0x1234), source: QPN(truncating: 9))
        var bytes = [UInt8](repeating: 5, count: packet.byteCount)
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
}
