// SPDX-License-Identifier: Apache-2.0
import CFuzzer
import RoCETransport
import RoCEWire

/// One engine with queue pairs of each type, the application above it and the network below it, all led by an input.
///
/// Two RC and two UC queue pairs are connected with each other, and the two ends of XRC, so that whatever the engine sends
/// can come back changed, late, twice or not at all; a third RC queue pair and a UD one have a peer that is made up. What must hold is checked at
/// each step; ``finish()`` checks the rest.
final class FuzzWorld {
    let engine: UnsafeMutablePointer<Engine>
    let memory = FuzzMemory()
    var generator = FuzzGenerator()
    var now: Timestamp = 1_000_000
    var windows: [MemoryKey] = []
    var queuePairs: [FuzzQueuePair] = []
    let sharedReceiveQueue: ReceiveQueue
    var sharedReceives = WorkAccount()
    /// The shared receive queue of XRC.
    private(set) var extendedQueue: (queue: ReceiveQueue, number: UInt32)
    private var extendedReceives = WorkAccount()
    /// Frames that left, the newest last, with their identification.
    var wire: [(bytes: [UInt8], path: TransmitPath, identification: UInt16)] = []
    var nextID: UInt64 = 1

    /// Whether the application keeps its hands off what it posted: then each completion is accounted for.
    let isHonest: Bool
    private let sendCompletions: CompletionQueue
    private let receiveCompletions: CompletionQueue
    private var transmitQueue: TransmitQueue
    private var polled: [CompletionEntry]
    private var postCount: UInt64 = 0
    private var completionCount: UInt64 = 0
    private var received: UInt64 = 0
    private var sent: UInt64 = 0

    static let own = GID(ipv4: 0x0A00_0001)
    static let peer = GID(ipv4: 0x0A00_0002)
    static let sourcePort: UInt16 = 0xC123
    static let wireCountMax = 32
    static let remoteQPN: UInt32 = 0x77_7777

    init(_ input: inout FuzzInput, isHonest: Bool = true) {
        self.isHonest = isHonest
        var configuration = EngineConfiguration(slot: 1)
        configuration.memoryKeyCountMax = 16
        configuration.quantumBytes = input.pick([1024, 64 * 1024])
        configuration.windowInitialBytes = input.pick([2048, 64 * 1024])
        engine = .allocate(capacity: 1)
        engine.initialize(to: Engine(configuration: configuration))
        transmitQueue = TransmitQueue(
            arenaByteCount: 8192 << input.below(3), burstCountMax: input.pick([64, 2]),
            segmentCountMax: input.pick([64, 1]))
        try! engine.pointee.setLocalAddress(0, to: LocalAddress(gid: Self.own, sourcePort: Self.sourcePort))
        let capacity = input.pick([256, 256, 256, 8])
        sendCompletions = try! engine.pointee.createCompletionQueue(capacity: capacity, tag: 1)
        receiveCompletions = try! engine.pointee.createCompletionQueue(capacity: capacity, tag: 2)
        sharedReceiveQueue = try! engine.pointee.createSharedReceiveQueue(
            protectionDomain: 1, capacity: 8, scatterGatherMax: 3, tag: 3)
        extendedQueue = try! engine.pointee.createSharedReceiveQueue(
            protectionDomain: 1, xrcDomain: 1, completionQueue: receiveCompletions, capacity: 8, scatterGatherMax: 3,
            tag: 4)
        polled = Array(repeating: CompletionEntry(id: 0, status: .success, operation: .send, qpn: 0), count: 16)
        for name in FuzzMemory.Name.allCases { memory.register(name, with: engine, &generator) }
        for type in [MemoryWindowType.type1, .type2] {
            windows.append(try! engine.pointee.allocateWindow(protectionDomain: 1, type: type, using: &generator))
        }
        for (type, remote, shared) in [
            (.rc, 1, false), (.rc, 0, true), (.uc, 3, false), (.uc, 2, false), (.rc, nil, false), (.ud, nil, true),
            (.xrcInitiator, 7, false), (.xrcTarget, 6, false),
        ] as [(QueuePairType, Int?, Bool)] {
            let queues = makeQueuePair(type, shared: shared)
            queuePairs.append(
                FuzzQueuePair(type: type, queues: queues, remote: remote, usesSharedReceiveQueue: shared))
        }
        let depth = UInt8(input.pick([4, 1, 0, 16]))
        for index in queuePairs.indices { connect(index, readAtomicMax: depth) }
    }

    // MARK: Bringing up

    private func makeQueuePair(_ type: QueuePairType, shared: Bool) -> QueuePairQueues {
        let isExtended = type == .xrcInitiator || type == .xrcTarget
        var creation = QueuePairCreation(
            type: type, protectionDomain: 1, sendCompletionQueue: type == .xrcTarget ? nil : sendCompletions,
            receiveCompletionQueue: isExtended ? nil : receiveCompletions,
            sharedReceiveQueue: shared ? sharedReceiveQueue : nil, sendCapacity: 8, receiveCapacity: 8,
            sendScatterGatherMax: 3, receiveScatterGatherMax: 3, inlineMax: 40)
        creation.xrcDomain = 1
        return try! engine.pointee.createQueuePair(creation, using: &generator)
    }

    /// Destroys the shared receive queue of XRC, whatever is in the middle of a message for it, and makes another.
    func replaceExtendedQueue() {
        engine.pointee.publishCompletions()
        poll()
        try! engine.pointee.destroySharedReceiveQueue(extendedQueue.queue)
        extendedReceives.removeAll()
        extendedQueue = try! engine.pointee.createSharedReceiveQueue(
            protectionDomain: 1, xrcDomain: 1, completionQueue: receiveCompletions, capacity: 8, scatterGatherMax: 3,
            tag: 4)
    }

    func modify(_ index: Int, _ mask: QueuePairAttributeMask, _ change: (inout QueuePairAttributes) -> Void) {
        var attributes = QueuePairAttributes()
        change(&attributes)
        try! engine.pointee.modifyQueuePair(queuePairs[index].queues.qpn, attributes, mask: mask)
    }

    func state(_ index: Int) -> QueuePairState { attributes(index).state }

    func attributes(_ index: Int) -> QueuePairAttributes {
        try! engine.pointee.queryQueuePair(queuePairs[index].queues.qpn)
    }

    /// RESET to RTS. PSNs are close to where they wrap.
    private func connect(_ index: Int, readAtomicMax: UInt8) {
        let remote = queuePairs[index].remote
        modify(index, [.state, .accessFlags, .qkey]) {
            $0.state = .initialized
            $0.accessFlags = [.remoteWrite, .remoteRead, .remoteAtomic]
            $0.qkey = 0x1234
        }
        modify(
            index,
            [.state, .addressVector, .pathMTU, .destinationQPN, .receivePSN, .destinationReadAtomicMax, .rnrTimerMin]
        ) {
            $0.state = .readyToReceive
            $0.addressVector = AddressVector(destination: remote == nil ? Self.peer : Self.own, localIndex: 0)
            $0.pathMTU = PathMTU.bytes256.rawValue
            $0.destinationQPN = remote.map { queuePairs[$0].queues.qpn.rawValue } ?? Self.remoteQPN
            $0.receivePSN = 0xFF_FFF0
            $0.destinationReadAtomicMax = readAtomicMax
            $0.rnrTimerMin = 1
        }
        modify(index, [.state, .timeout, .retryCount, .rnrRetry, .sendPSN, .readAtomicMax]) {
            $0.state = .readyToSend
            $0.timeout = 10
            $0.retryCount = 3
            $0.rnrRetry = 2
            $0.sendPSN = 0xFF_FFF0
            $0.readAtomicMax = readAtomicMax
        }
    }

    /// RESET and up again, on both sides if there are two.
    func reconnect(_ index: Int, readAtomicMax: UInt8) {
        engine.pointee.publishCompletions()
        poll()
        for index in [index, queuePairs[index].remote].compactMap({ $0 }) {
            modify(index, .state) { $0.state = .reset }
            forget(index)
            connect(index, readAtomicMax: readAtomicMax)
        }
    }

    /// Destroys a queue pair whatever it is doing, and makes another in its place.
    func replace(_ index: Int) {
        engine.pointee.publishCompletions()
        poll()
        try! engine.pointee.destroyQueuePair(queuePairs[index].queues.qpn)
        forget(index)
        queuePairs[index].queues = makeQueuePair(
            queuePairs[index].type, shared: queuePairs[index].usesSharedReceiveQueue)
        reconnect(index, readAtomicMax: 4)
    }

    /// What RESET and destruction leave without a completion; what had one before must be polled first.
    private func forget(_ index: Int) {
        queuePairs[index].sends.removeAll()
        queuePairs[index].receives.removeAll()
    }

    // MARK: The application

    func noteSend(_ index: Int, id: UInt64, isSignaled: Bool) {
        postCount += 1
        queuePairs[index].sends.post(id, isSignaled: isSignaled)
    }

    func noteReceive(_ index: Int, id: UInt64) {
        postCount += 1
        if queuePairs[index].type == .xrcTarget {
            extendedReceives.post(id)
        } else if queuePairs[index].usesSharedReceiveQueue {
            sharedReceives.post(id)
        } else {
            queuePairs[index].receives.post(id)
        }
    }

    /// A queue pair's queue for receives, and whether receives may be posted to it.
    func receiveQueue(_ index: Int) -> ReceiveQueue? {
        if queuePairs[index].type == .xrcInitiator { return nil }
        let isTarget = queuePairs[index].type == .xrcTarget
        let queue = isTarget ? extendedQueue.queue : queuePairs[index].queues.receiveQueue
        return queue.freeCount > 0 ? queue : nil
    }

    func poll() {
        for (queue, isSend) in [(sendCompletions, true), (receiveCompletions, false)] {
            while true {
                let count = polled.withUnsafeMutableBufferPointer { queue.poll(into: $0.baseAddress!, limit: $0.count) }
                if count == 0 { break }
                completionCount += UInt64(count)
                require(completionCount <= postCount, "more completions than work requests")
                if isHonest { for entry in polled[..<count] { account(entry, isSend: isSend) } }
            }
        }
    }

    private func account(_ entry: CompletionEntry, isSend: Bool) {
        // Those of a queue pair that is gone went with it: `forget`.
        guard let index = queuePairs.firstIndex(where: { $0.queues.qpn.rawValue == entry.qpn }) else { return }
        let mayHaveLost = engine.pointee.counters.completionsLost > 0
        if isSend {
            queuePairs[index].sends.complete(entry, mayHaveLost: mayHaveLost)
        } else if queuePairs[index].type == .xrcTarget {
            extendedReceives.completeAnywhere(entry)
        } else if queuePairs[index].usesSharedReceiveQueue {
            sharedReceives.completeAnywhere(entry)
        } else {
            queuePairs[index].receives.complete(entry, mayHaveLost: mayHaveLost)
        }
    }

    // MARK: The network

    /// Runs a call of the data path, which may neither allocate nor free.
    func onDataPath(_ call: () -> Void) {
        let before = __sanitizer_get_current_allocated_bytes()
        call()
        let after = __sanitizer_get_current_allocated_bytes()
        require(before == after, "the data path allocated \(after - before) bytes")
    }

    func receive(_ bytes: [UInt8], from origin: DatagramOrigin) {
        received += 1
        bytes.withUnsafeBytes { buffer in onDataPath { engine.pointee.receive(buffer.bytes, from: origin, now: now) } }
    }

    func advance(by nanoseconds: UInt64) {
        now += nanoseconds
        onDataPath { engine.pointee.advance(to: now) }
    }

    /// To the next deadline, if there is one within a minute.
    func advanceToDeadline() {
        guard let deadline = engine.pointee.nextDeadline, deadline < now + 60_000_000_000 else { return }
        advance(by: deadline > now ? deadline - now : 0)
    }

    /// The outputs of the engine, in the order of its grammar.
    func drain() {
        var more = true
        // A queue pair that sends to another may do so for ever only if somebody delivers; this is one burst of each turn.
        for _ in 0..<256 where more {
            onDataPath { more = engine.pointee.transmit(into: &transmitQueue, now: now) }
            for index in 0..<transmitQueue.count { take(transmitQueue.burst(index)) }
            transmitQueue.removeAll()
        }
        onDataPath { engine.pointee.publishCompletions() }
        while engine.pointee.nextEvent() != nil {}
        checkEveryStep()
    }

    /// What leaves must be a packet that any receiver takes, to somebody the queue pair may speak to.
    private func take(_ burst: TransmitBurst) {
        let bytes = transmitQueue.bytes(of: burst)
        require(burst.byteCount <= 65_000 && burst.segmentCount <= 64, "a burst of \(burst.byteCount) bytes")
        var index: UInt16 = 0
        for start in stride(from: 0, to: burst.byteCount, by: burst.segmentSize) {
            let frame = Array(bytes[start..<min(start + burst.segmentSize, burst.byteCount)])
            guard case .packet(let packet) = RoCEPacket.parse(frame.span.bytes) else {
                fatalError("a frame of \(frame.count) bytes left that no parser takes")
            }
            let flow = ICRC.Flow(
                source: burst.path.source, destination: burst.path.destination, sourcePort: burst.path.sourcePort)
            let seed = ICRC.seed(flow, udpPayloadByteCount: frame.count, identification: index)
            require(ICRC.isValid(frame.span.bytes, seed), "a wrong ICRC left: \(packet.bth)")
            require(packet.payloadByteCount <= 1024, "\(packet.payloadByteCount) bytes left in one packet")
            sent += 1
            if wire.count == Self.wireCountMax { wire.removeFirst() }
            wire.append((frame, burst.path, index))
            index += 1
        }
    }

    func checkEveryStep() {
        let counters = engine.pointee.counters
        require(counters.packetsReceived == received, "\(counters.packetsReceived) packets received, not \(received)")
        require(counters.packetsSent == sent, "\(counters.packetsSent) packets sent, not \(sent)")
        let dropped =
            counters.droppedMalformed + counters.droppedICRC + counters.droppedUnknownQueuePair + counters.droppedState
            + counters.droppedAddress + counters.droppedKey + counters.droppedNoReceive + counters.droppedSequence
            + counters.droppedRequest
        require(dropped <= received, "\(dropped) packets dropped of \(received)")
    }

    // MARK: The end

    /// Takes all queue pairs to ERR, which completes what is outstanding, and looks at what is left of the memory.
    func finish() {
        for index in queuePairs.indices {
            modify(index, .state) { $0.state = .error }
            engine.pointee.doorbell(queuePairs[index].queues.qpn)
            drain()
            poll()
        }
        if isHonest, engine.pointee.counters.completionsLost == 0 {
            for queuePair in queuePairs {
                queuePair.sends.requireSettled("sends of \(queuePair.queues.qpn) (\(queuePair.type))")
                queuePair.receives.requireSettled("receives of \(queuePair.queues.qpn) (\(queuePair.type))")
            }
        }
        engine.deinitialize(count: 1)
        engine.deallocate()
        memory.checkAndFree()
    }
}

/// The engine's randomness, the same in every run: an input must always do the same.
struct FuzzGenerator: RandomNumberGenerator {
    private var state: UInt64 = 0x9E37_79B9_7F4A_7C15

    mutating func next() -> UInt64 {
        // splitmix64
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }
}
