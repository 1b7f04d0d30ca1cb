// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// A scenario of `Tests/Fixtures/Captures`: which packets the relay dropped is in its README.
struct CaptureScenario: CustomTestStringConvertible, Sendable {
    let file: String
    var dropped: Set<Int> = []
    var testDescription: String { file }

    static let both: [CaptureScenario] = {
        var scenarios = [CaptureScenario(file: "k612/rc_atomic_write.pcap")]
        let dropped: [(String, Set<Int>)] = [
            ("rc_ops", []), ("rc_drop_ack", [1]), ("rc_drop_read", [0]), ("rc_drop_write", [1]),
            ("rc_nak_access", []), ("rc_nak_read_bounds", []), ("rc_rnr", []),
        ]
        for folder in ["", "k612/"] {
            for (name, packets) in dropped {
                scenarios.append(CaptureScenario(file: folder + name + ".pcap", dropped: packets))
            }
        }
        return scenarios
    }()

    /// The peer's answers are ours to compare only where the specification leaves no choice: rxe continues a READ that
    /// is asked for again with MIDDLE, where FIRST is right.
    static let requesterOnly: [CaptureScenario] = ["", "k612/"].map {
        CaptureScenario(file: $0 + "rc_drop_read_middle.pcap", dropped: [2])
    }
}

private let client = GID(ipv4: 0x0A09_0201)
private let server = GID(ipv4: 0x0A09_0202)
private let base: UInt64 = 0x1_0000_0000

/// One engine that takes one side of a captured conversation.
private final class Replay {
    let node: SimulatedNode
    let memory: UnsafeMutableRawBufferPointer
    let key: MemoryKey
    let queues: QueuePairQueues
    let completions: CompletionQueue
    let peer: GID
    var now: Timestamp = 1_000
    /// Frames that the engine sent, BTH to pad.
    var sent: [[UInt8]] = []

    init(as gid: GID, remote: QPN, iova: UInt64) {
        peer = gid == client ? server : client
        node = SimulatedNode(address: gid.ipv4, seed: 5)
        memory = .allocate(byteCount: 1 << 17, alignment: 4096)
        memory.initializeMemory(as: UInt8.self, repeating: 0)
        key = node.register(memory, iova: iova)
        completions = node.makeCompletionQueue()
        queues = node.makeQueuePair(
            QueuePairCreation(
                type: .rc, protectionDomain: 1, sendCompletionQueue: completions,
                receiveCompletionQueue: completions))
        var options = ConnectionOptions()
        options.sendPSN = gid == client ? 0x100 : 0x200
        options.receivePSN = gid == client ? 0x200 : 0x100
        options.rnrTimer = 25
        options.timeout = 17
        node.connect(queues.qpn, type: .rc, to: peer, remote, options)
    }

    deinit { memory.deallocate() }

    /// Gives a captured packet to the engine, under our queue pair number and key.
    func feed(_ captured: CapturedPacket, rewritesKey: Bool = true) {
        var packet = captured.packet
        packet.bth.destination = queues.qpn
        if rewritesKey {
            if packet.descriptor.headers.contains(.reth) { packet.reth.rkey = key }
            if packet.descriptor.headers.contains(.atomicETH) { packet.atomicETH.rkey = key }
        }
        var bytes = captured.bytes
        bytes.withUnsafeMutableBytes { buffer in
            var span = buffer.mutableBytes
            packet.emitHeaders(into: &span)
            ICRC.seal(&span, ICRC.seed(captured.flow, udpPayloadByteCount: buffer.count))
        }
        node.receive(
            bytes, from: DatagramOrigin(source: peer, sourcePort: captured.flow.sourcePort, localIndex: 0), now: now)
        collect()
    }

    func collect() {
        repeat {
            let more = node.engine.pointee.transmit(into: &node.transmitQueue, now: now)
            let queue = node.transmitQueue.count
            for index in 0..<queue {
                let burst = node.transmitQueue.burst(index)
                let bytes = node.transmitQueue.bytes(of: burst)
                for start in stride(from: 0, to: burst.byteCount, by: burst.segmentSize) {
                    sent.append(Array(bytes[start..<min(start + burst.segmentSize, burst.byteCount) - 4]))
                }
            }
            node.transmitQueue.removeAll()
            if !more { break }
        } while true
        node.engine.pointee.publishCompletions()
    }

    func passTime() {
        guard let deadline = node.engine.pointee.nextDeadline else { return }
        now = max(now, deadline)
        node.engine.pointee.advance(to: now)
        collect()
    }
}

@Suite("Conversations captured from kernel rxe") struct CaptureReplayTests {
    @Test("Our responder answers rxe's requests with rxe's bytes", arguments: CaptureScenario.both)
    func responder(scenario: CaptureScenario) throws {
        let packets = try capturedPackets(scenario.file)
        let answers = packets.filter { $0.flow.source == server }
        let remote = try #require(answers.first).packet.bth.destination
        let replay = Replay(as: server, remote: remote, iova: 0)
        // Without these two the same requests are refused, as they were then.
        let isBounds = scenario.file.contains("nak_read_bounds")
        let isAccess = scenario.file.contains("nak_access")
        let requests = packets.filter { $0.flow.source == client }
        let lowest =
            requests.filter { $0.packet.descriptor.headers.contains(.reth) }
            .map(\.packet.reth.virtualAddress).min() ?? 0
        let key = replay.node.register(
            replay.memory, iova: isBounds ? lowest &- UInt64(replay.memory.count) + 8 : lowest)
        if !scenario.file.contains("rnr") { for id in 0..<8 { replay.postReceive(UInt64(id)) } }
        for (index, packet) in packets.enumerated() where packet.flow.source == client {
            if scenario.dropped.contains(index) { continue }
            if scenario.file.contains("rnr"), packet.bytes == requests.last?.bytes, index == packets.count - 2 {
                replay.postReceive(0)
            }
            replay.prepareMemory(for: packet, from: packets[index...], lowest: lowest)
            replay.feed(
                packet.with(key: isAccess ? MemoryKey(rawValue: key.rawValue ^ 0x100) : key), rewritesKey: false)
        }
        #expect(replay.sent.count == answers.count)
        for (ours, theirs) in zip(replay.sent, answers) {
            #expect(ours == Array(theirs.bytes.dropLast(4)), "\(theirs.packet.bth)")
        }
        #expect(replay.node.engine.pointee.counters.droppedICRC == 0)
    }

    @Test(
        "Our requester, told to do the same, sends rxe's requests byte for byte",
        arguments: CaptureScenario.both + CaptureScenario.requesterOnly)
    func requester(scenario: CaptureScenario) throws {
        let packets = try capturedPackets(scenario.file)
        let requests = packets.filter { $0.flow.source == client }
        let first = try #require(requests.first).packet
        let replay = Replay(as: client, remote: first.bth.destination, iova: base)
        var next = PSN(truncating: 0x100)
        var taken = 0
        var position = 0
        for (index, packet) in packets.enumerated() {
            guard packet.flow.source == client else {
                if !scenario.dropped.contains(index) { replay.feed(packet) }
                continue
            }
            if packet.packet.bth.psn - next >= 0, packet.packet.descriptor.startsMessage {
                next = replay.postSame(as: packets[index...], at: &position)
                replay.collect()
            }
            if taken == replay.sent.count { replay.passTime() }
            try #require(taken < replay.sent.count, "nothing sent where rxe sent \(packet.packet.bth)")
            #expect(replay.sent[taken] == Array(packet.bytes.dropLast(4)), "\(packet.packet.bth)")
            taken += 1
        }
        #expect(taken == replay.sent.count)
        let statuses = replay.node.poll(replay.completions).map(\.status)
        let isRefused = scenario.file.contains("_nak_")
        #expect(statuses.allSatisfy { $0 == (isRefused ? .remoteAccessError : .success) })
        #expect(!statuses.isEmpty)
    }

    @Test("A READ that is asked for again is answered with the bytes that rxe sends, FIRST in front")
    func resumedRead() throws {
        let packets = try capturedPackets("rc_drop_read_middle.pcap")
        let requests = packets.filter { $0.flow.source == client }
        let answers = packets.filter { $0.flow.source == server }
        let replay = Replay(as: server, remote: answers[0].packet.bth.destination, iova: 0)
        let lowest = requests[0].packet.reth.virtualAddress
        let key = replay.node.register(replay.memory, iova: lowest)
        for (index, packet) in packets.enumerated() where packet.flow.source == client {
            replay.prepareMemory(for: packet, from: packets[index...], lowest: lowest)
            replay.feed(packet.with(key: key), rewritesKey: false)
        }
        #expect(replay.sent.map { $0[0] } == [0x0D, 0x0E, 0x0E, 0x0F, 0x0D, 0x0E, 0x0F])
        let payloads = replay.sent.map { bytes in Array(bytes.dropFirst(bytes[0] == 0x0E ? 12 : 16)) }
        #expect(payloads == answers.map(\.payload))
        #expect(replay.sent.map { $0[9...11] } == answers.map { $0.bytes[9...11] })
    }
}

extension CapturedPacket {
    fileprivate func with(key: MemoryKey) -> CapturedPacket {
        var packet = packet
        if packet.descriptor.headers.contains(.reth) { packet.reth.rkey = key }
        if packet.descriptor.headers.contains(.atomicETH) { packet.atomicETH.rkey = key }
        return CapturedPacket(flow: flow, packet: packet, bytes: bytes)
    }
}

extension Replay {
    func postReceive(_ id: UInt64) {
        node.postReceive(
            queues.receiveQueue, id: id,
            [ScatterGatherEntry(address: UInt64(65536 + 4096 * id), length: 4096, lkey: key.rawValue)])
    }

    /// Puts what rxe's memory held where our READ or atomic will look for it.
    func prepareMemory(for request: CapturedPacket, from rest: ArraySlice<CapturedPacket>, lowest: UInt64) {
        let packet = request.packet
        switch packet.descriptor.operation {
        case .readRequest:
            var offset = Int(packet.reth.virtualAddress &- lowest)
            for answer in rest.dropFirst().prefix(while: { $0.flow.source == server }) {
                guard offset + answer.payload.count <= memory.count else { return }
                memory[offset..<offset + answer.payload.count].copyBytes(from: answer.payload)
                offset += answer.payload.count
            }
        case .compareSwap, .fetchAdd:
            if let answer = rest.dropFirst().first(where: { $0.packet.descriptor.operation == .atomicAcknowledge }) {
                memory.storeBytes(
                    of: answer.packet.atomicAckETH.originalValue,
                    toByteOffset: Int(packet.atomicETH.virtualAddress &- lowest), as: UInt64.self)
            }
        default: break
        }
    }

    /// Posts the work request that the captured packets carry out; returns the PSN after it.
    func postSame(as packets: ArraySlice<CapturedPacket>, at position: inout Int) -> PSN {
        let first = packets.first!.packet
        var message: [CapturedPacket] = []
        for packet in packets where packet.flow.source == client {
            message.append(packet)
            if packet.packet.descriptor.endsMessage { break }
        }
        let last = message.last!.packet
        var request = SendWorkRequest(id: UInt64(first.bth.psn.rawValue), operation: .send)
        if last.bth.solicitedEvent { request.flags.insert(.solicited) }
        var bytes = message.flatMap(\.payload)
        let hasImmediate = last.descriptor.headers.contains(.immDt)
        if hasImmediate { request.immediate = last.immDt.networkOrderValue }
        if first.descriptor.headers.contains(.reth) {
            request.remoteAddress = first.reth.virtualAddress
            request.remoteKey = first.reth.rkey.rawValue
        }
        var end = last.bth.psn + 1
        switch first.descriptor.operation {
        case .write: request.operation = hasImmediate ? .rdmaWriteWithImmediate : .rdmaWrite
        case .atomicWrite: request.operation = .atomicWrite
        case .readRequest:
            request.operation = .rdmaRead
            bytes = [UInt8](repeating: 0, count: Int(first.reth.length))
            end = first.bth.psn + max(1, (bytes.count + 1023) / 1024)
        case .compareSwap, .fetchAdd:
            request.operation = first.descriptor.operation == .fetchAdd ? .fetchAndAdd : .compareAndSwap
            request.remoteAddress = first.atomicETH.virtualAddress
            request.remoteKey = first.atomicETH.rkey.rawValue
            let isAdd = request.operation == .fetchAndAdd
            request.compareAdd = isAdd ? first.atomicETH.swapOrAdd : first.atomicETH.compare
            request.swap = isAdd ? 0 : first.atomicETH.swapOrAdd
            bytes = [UInt8](repeating: 0, count: 8)
        default: request.operation = hasImmediate ? .sendWithImmediate : .send
        }
        memory[position..<position + bytes.count].copyBytes(from: bytes)
        node.post(
            queues, request,
            [ScatterGatherEntry(address: base + UInt64(position), length: UInt32(bytes.count), lkey: key.rawValue)])
        position += (bytes.count + 63) & ~63
        return end
    }
}
