// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// One engine with one queue pair whose peer is the test: it says what arrives and looks at what leaves.
final class ScriptedPeer {
    let node: SimulatedNode
    let queues: QueuePairQueues
    let sendCompletions: CompletionQueue
    let receiveCompletions: CompletionQueue
    let memory: UnsafeMutableRawBufferPointer
    let key: MemoryKey
    let peer: GID
    let remoteQPN = QPN(truncating: 0x77_7777)
    var now: Timestamp = 1_000_000
    /// What left, in order: taken apart, and the payloads.
    var sent: [RoCEPacket] = []
    var payloads: [[UInt8]] = []
    /// The same, BTH to pad.
    var frames: [[UInt8]] = []
    /// Frames in each burst that left.
    var bursts: [[Int]] = []

    init(
        type: QueuePairType = .rc, options: ConnectionOptions = ConnectionOptions(), toReceiveOnly: Bool = false,
        segmentCountMax: Int = 64, isSameHost: Bool = false, configure: (inout EngineConfiguration) -> Void = { _ in },
        change: (inout QueuePairCreation, SimulatedNode) -> Void = { _, _ in }
    ) {
        node = SimulatedNode(
            address: 0x0A00_0001, seed: 11, segmentCountMax: segmentCountMax, configure: configure)
        peer = isSameHost ? node.gid : GID(ipv4: 0x0A00_0002)
        memory = .allocate(byteCount: 1 << 18, alignment: 4096)
        memory.initializeMemory(as: UInt8.self, repeating: 0)
        key = node.register(memory, iova: 0x10_0000)
        sendCompletions = node.makeCompletionQueue(tag: 1)
        receiveCompletions = node.makeCompletionQueue(tag: 2)
        var creation = QueuePairCreation(
            type: type, protectionDomain: 1, sendCompletionQueue: sendCompletions,
            receiveCompletionQueue: receiveCompletions, tag: 3)
        change(&creation, node)
        queues = node.makeQueuePair(creation)
        node.connect(queues.qpn, type: type, to: peer, remoteQPN, options, toReceiveOnly: toReceiveOnly)
        drain()
    }

    deinit { memory.deallocate() }

    var counters: EngineCounters { node.engine.pointee.counters }
    var state: QueuePairState { node.state(queues.qpn) }
    var events: [QueuePairEvent] {
        node.takeEvents().compactMap { if case .queuePair(let event, _) = $0 { event } else { nil } }
    }

    /// The address of an offset of the memory, for local and remote use.
    func address(_ offset: Int) -> UInt64 { 0x10_0000 &+ UInt64(bitPattern: Int64(offset)) }

    func entry(_ offset: Int, _ length: Int) -> ScatterGatherEntry {
        ScatterGatherEntry(address: address(offset), length: UInt32(length), lkey: key.rawValue)
    }

    // MARK: What the application does

    func post(
        _ operation: SendOperation, id: UInt64 = 1, length: Int = 8, flags: SendFlags = .signaled,
        _ change: (inout SendWorkRequest) -> Void = { _ in }
    ) {
        var request = SendWorkRequest(id: id, operation: operation, flags: flags)
        request.remoteAddress = 0x5000
        request.remoteKey = 0x999
        change(&request)
        node.post(queues, request, [entry(0, length)])
        drain()
    }

    func postReceive(id: UInt64 = 100, length: Int = 4096, at offset: Int = 65_536) {
        node.postReceive(queues.receiveQueue, id: id, [entry(offset, length)])
    }

    func pollSends() -> [CompletionEntry] { node.poll(sendCompletions) }
    func pollReceives() -> [CompletionEntry] { node.poll(receiveCompletions) }

    // MARK: What the network does

    /// A packet of the peer arrives. The ICRC is right unless `damage`.
    func arrive(
        _ opcode: Opcode, psn: UInt32, payload: [UInt8] = [], acknowledgeRequest: Bool = false,
        solicited: Bool = false, from source: GID? = nil, to qpn: QPN? = nil, damage: Bool = false, drains: Bool = true,
        trafficClass: UInt8 = 0, isSealed: Bool = true, _ fill: (inout RoCEPacket) -> Void = { _ in }
    ) {
        var packet = RoCEPacket(
            bth: BTH(
                opcode: opcode, destination: qpn ?? queues.qpn, psn: PSN(truncating: psn),
                solicitedEvent: solicited, acknowledgeRequest: acknowledgeRequest),
            payloadByteCount: payload.count)
        fill(&packet)
        var bytes = [UInt8](repeating: 0, count: packet.byteCount)
        let source = source ?? peer
        bytes.withUnsafeMutableBytes { buffer in
            buffer[packet.payloadOffset..<packet.payloadOffset + payload.count].copyBytes(from: payload)
            var span = buffer.mutableBytes
            packet.emitHeaders(into: &span)
            let flow = ICRC.Flow(source: source, destination: node.gid, sourcePort: 50_000)
            ICRC.seal(&span, ICRC.seed(flow, udpPayloadByteCount: buffer.count))
        }
        if damage { bytes[bytes.count - 1] ^= 1 }
        var origin = DatagramOrigin(source: source, sourcePort: 50_000, localIndex: 0, trafficClass: trafficClass)
        origin.isSealed = isSealed
        node.receive(bytes, from: origin, now: now)
        if drains { drain() }
    }

    func acknowledge(_ psn: UInt32, _ syndrome: UInt8 = 0x1F) {
        arrive(.rcAcknowledge, psn: psn) {
            $0.aeth = AETH(syndrome: Syndrome(rawValue: syndrome), msn: MSN(truncating: 0))
        }
    }

    func respond(_ opcode: Opcode, _ psn: UInt32, _ payload: [UInt8]) {
        arrive(opcode, psn: psn, payload: payload) {
            if $0.descriptor.headers.contains(.aeth) {
                $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 0))
            }
        }
    }

    func request(
        _ opcode: Opcode, _ psn: UInt32, _ payload: [UInt8] = [], length: Int? = nil, at offset: Int = 0,
        key: MemoryKey? = nil, drains: Bool = true
    ) {
        arrive(opcode, psn: psn, payload: payload, acknowledgeRequest: true, drains: drains) {
            if $0.descriptor.headers.contains(.reth) {
                $0.reth = RETH(
                    virtualAddress: address(offset), rkey: key ?? self.key, length: UInt32(length ?? payload.count))
            }
        }
    }

    func atomic(_ psn: UInt32, add: UInt64, at offset: Int, key: MemoryKey? = nil) {
        arrive(.rcFetchAdd, psn: psn, acknowledgeRequest: true) {
            $0.atomicETH = AtomicETH(
                virtualAddress: address(offset), rkey: key ?? self.key, swapOrAdd: add, compare: 0)
        }
    }

    /// Lets the next deadline come.
    func passTime() {
        guard let deadline = node.engine.pointee.nextDeadline else { return }
        now = max(now, deadline)
        node.engine.pointee.advance(to: now)
        drain()
    }

    // MARK: What leaves

    func drain() {
        while true {
            let more = node.engine.pointee.transmit(into: &node.transmitQueue, now: now)
            for index in 0..<node.transmitQueue.count { take(node.transmitQueue.burst(index)) }
            node.transmitQueue.removeAll()
            if !more { break }
        }
        node.engine.pointee.publishCompletions()
        node.drainEvents()
    }

    private func take(_ burst: TransmitBurst) {
        let bytes = node.transmitQueue.bytes(of: burst)
        var sizes: [Int] = []
        for start in stride(from: 0, to: burst.byteCount, by: burst.segmentSize) {
            let frame = Array(bytes[start..<min(start + burst.segmentSize, burst.byteCount)])
            sizes.append(frame.count)
            frames.append(Array(frame.dropLast(4)))
            guard case .packet(let packet) = RoCEPacket.parse(frame.span.bytes) else { continue }
            sent.append(packet)
            payloads.append(
                Array(frame[packet.payloadOffset..<packet.payloadOffset + packet.payloadByteCount]))
        }
        bursts.append(sizes)
    }

    /// What left since the last call.
    func takeSent() -> [RoCEPacket] {
        defer {
            sent = []
            payloads = []
            frames = []
            bursts = []
        }
        return sent
    }
}

extension RoCEPacket {
    var psn: UInt32 { bth.psn.rawValue }
    var opcode: UInt8 { bth.opcode.rawValue }
    /// Opcode and PSN, for comparisons that read well.
    var brief: String { "\(bth.opcode) \(bth.psn.rawValue)" }
}
