// SPDX-License-Identifier: Apache-2.0
import RoCEWire

@testable import RoCETransport

/// One engine with an address, some memory and what an application would do around it, but no clock and no network.
final class SimulatedNode {
    let gid: GID
    let engine: UnsafeMutablePointer<Engine>
    var transmitQueue: TransmitQueue
    var generator: SeededGenerator
    private(set) var events: [Event] = []

    init(
        address: UInt32, seed: UInt64, slot: UInt8 = 1, ipv6: Bool = false, segmentCountMax: Int = 64,
        configure: (inout EngineConfiguration) -> Void = { _ in }
    ) {
        gid = ipv6 ? GID(high: 0xFD00_0000_0000_0000, low: UInt64(address)) : GID(ipv4: address)
        var configuration = EngineConfiguration(slot: slot)
        configuration.completionEntryCountMax = 1 << 16
        configure(&configuration)
        engine = .allocate(capacity: 1)
        engine.initialize(to: Engine(configuration: configuration))
        transmitQueue = TransmitQueue(segmentCountMax: segmentCountMax)
        generator = SeededGenerator(seed: seed)
        try! engine.pointee.setLocalAddress(0, to: LocalAddress(gid: gid, sourcePort: 0xC123, mtu: .bytes4096))
    }

    deinit {
        engine.deinitialize(count: 1)
        engine.deallocate()
    }

    func receive(_ bytes: [UInt8], from origin: DatagramOrigin, now: Timestamp) {
        bytes.withUnsafeBytes { engine.pointee.receive($0.bytes, from: origin, now: now) }
    }

    func drainEvents() {
        while let event = engine.pointee.nextEvent() { events.append(event) }
    }

    func takeEvents() -> [Event] {
        defer { events = [] }
        return events
    }

    // MARK: Shorthand for control calls

    func makeCompletionQueue(_ capacity: Int = 256, tag: UInt = 0) -> CompletionQueue {
        try! engine.pointee.createCompletionQueue(capacity: capacity, tag: tag)
    }

    func register(
        _ memory: UnsafeMutableRawBufferPointer, domain: UInt32 = 1, iova: UInt64? = nil,
        access: AccessFlags = [.localWrite, .remoteWrite, .remoteRead, .remoteAtomic, .windowBind]
    ) -> MemoryKey {
        try! engine.pointee.registerMemory(
            protectionDomain: domain, iova: iova ?? UInt64(UInt(bitPattern: memory.baseAddress!)),
            pointer: memory.baseAddress!, byteCount: memory.count, access: access, using: &generator)
    }

    func makeQueuePair(_ creation: QueuePairCreation) -> QueuePairQueues {
        try! engine.pointee.createQueuePair(creation, using: &generator)
    }

    func poll(_ queue: CompletionQueue) -> [CompletionEntry] {
        var result: [CompletionEntry] = []
        withUnsafeTemporaryAllocation(of: CompletionEntry.self, capacity: 16) { room in
            while true {
                let count = queue.poll(into: room.baseAddress!, limit: 16)
                if count == 0 { return }
                result.append(contentsOf: room[..<count])
            }
        }
        return result
    }

    func post(_ queues: QueuePairQueues, _ request: SendWorkRequest, _ list: [ScatterGatherEntry] = []) {
        let slot = queues.sendQueue.slot(0)
        slot.pointee = request
        slot.pointee.scatterGatherCount = UInt16(list.count)
        for (index, entry) in list.enumerated() { queues.sendQueue.scatterGatherList(of: slot)[index] = entry }
        queues.sendQueue.publish(1)
        engine.pointee.doorbell(queues.qpn)
    }

    func postInline(_ queues: QueuePairQueues, _ request: SendWorkRequest, _ bytes: [UInt8]) {
        let slot = queues.sendQueue.slot(0)
        slot.pointee = request
        slot.pointee.flags.insert(.inline)
        slot.pointee.inlineLength = UInt32(bytes.count)
        bytes.withUnsafeBytes {
            queues.sendQueue.inlineData(of: slot).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
        }
        queues.sendQueue.publish(1)
        engine.pointee.doorbell(queues.qpn)
    }

    func postReceive(_ queue: ReceiveQueue, id: UInt64, _ list: [ScatterGatherEntry]) {
        let slot = queue.slot(0)
        slot.pointee = ReceiveWorkRequest(id: id, scatterGatherCount: list.count)
        for (index, entry) in list.enumerated() { queue.scatterGatherList(of: slot)[index] = entry }
        queue.publish(1)
    }

    func modify(_ qpn: QPN, _ mask: QueuePairAttributeMask, _ change: (inout QueuePairAttributes) -> Void) {
        var attributes = QueuePairAttributes()
        change(&attributes)
        try! engine.pointee.modifyQueuePair(qpn, attributes, mask: mask)
    }

    /// Lets a responder begin with another message number than 0, which it reaches after 2²⁴ messages only.
    func setMessageSequence(_ qpn: QPN, _ msn: UInt32) {
        engine.pointee.queuePairs.find(qpn)!.pointee.responder.msn = MSN(truncating: msn)
    }

    func state(_ qpn: QPN) -> QueuePairState { try! engine.pointee.queryQueuePair(qpn).state }
}

/// How a queue pair is brought up.
struct ConnectionOptions {
    var mtu = PathMTU.bytes1024
    var access: AccessFlags = [.remoteWrite, .remoteRead, .remoteAtomic]
    var timeout: UInt8 = 12
    var retryCount: UInt8 = 7
    var rnrRetry: UInt8 = 7
    var rnrTimer: UInt8 = 1
    var readAtomicMax: UInt8 = 4
    var sendPSN: UInt32 = 0x100
    var receivePSN: UInt32 = 0x200
    var qkey: UInt32 = 0x1234
}

extension SimulatedNode {
    /// RESET → INIT → RTR, and RTS unless `toReceiveOnly`.
    func connect(
        _ qpn: QPN, type: QueuePairType, to peer: GID, _ remote: QPN, _ options: ConnectionOptions,
        toReceiveOnly: Bool = false
    ) {
        modify(qpn, [.state, .accessFlags, .qkey]) {
            $0.state = .initialized
            $0.accessFlags = options.access
            $0.qkey = options.qkey
        }
        modify(
            qpn,
            [.state, .addressVector, .pathMTU, .destinationQPN, .receivePSN, .destinationReadAtomicMax, .rnrTimerMin]
        ) {
            $0.state = .readyToReceive
            $0.addressVector = AddressVector(destination: peer, localIndex: 0)
            $0.pathMTU = options.mtu.rawValue
            $0.destinationQPN = remote.rawValue
            $0.receivePSN = options.receivePSN
            $0.destinationReadAtomicMax = options.readAtomicMax
            $0.rnrTimerMin = options.rnrTimer
        }
        if toReceiveOnly { return }
        modify(qpn, [.state, .timeout, .retryCount, .rnrRetry, .sendPSN, .readAtomicMax]) {
            $0.state = .readyToSend
            $0.timeout = options.timeout
            $0.retryCount = options.retryCount
            $0.rnrRetry = options.rnrRetry
            $0.sendPSN = options.sendPSN
            $0.readAtomicMax = options.readAtomicMax
        }
    }
}
