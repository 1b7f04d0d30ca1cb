// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// One end's resources: the region, the queues, and what both ends have told each other about them.
final class PerfEndpoint {
    /// perftest's key of datagrams.
    private static let qkey: UInt32 = 0x1111_1111

    let options: PerfOptions
    let plan: PerfPlan
    let layout: BufferLayout
    let isServer: Bool
    let region: MemoryRegion
    let queues: WorkQueues
    /// Messages up to this size travel inline.
    let inlineThreshold: Int
    private let choice: DeviceChoice
    private let pathMTU: MTU

    /// What this end tells the peer, one for each queue pair.
    private(set) var records: [DestinationRecord] = []
    /// What the peer told.
    private(set) var peers: [DestinationRecord]
    /// What a run checked with `--validate`.
    var check = ValidationVerdict()

    init(
        options: PerfOptions, plan: PerfPlan, choice: DeviceChoice, pathMTU: MTU, isServer: Bool, layout: BufferLayout
    ) throws(PerfError) {
        self.options = options
        self.plan = plan
        self.layout = layout
        self.choice = choice
        self.pathMTU = pathMTU
        self.isServer = isServer
        peers = []
        do throws(VerbsError) {
            let domain = try choice.context.makeProtectionDomain()
            region = try domain.makeRegion(length: layout.byteCount, access: Self.access(plan.test.operation))
            let sendDepth = Self.sendDepth(plan)
            let channel = plan.useEvents ? try choice.context.makeCompletionChannel() : nil
            let receives = plan.test.operation == .send ? plan.receiveDepth : 0
            queues = WorkQueues(
                capacity: plan.queuePairs, channel: channel,
                sendCompletions: try choice.context.makeCompletionQueue(
                    capacity: sendDepth * plan.queuePairs, channel: channel),
                receiveCompletions: try choice.context.makeCompletionQueue(
                    capacity: max(1, plan.useSharedReceiveQueue ? receives : receives * plan.queuePairs),
                    channel: channel))
            inlineThreshold = try Self.makeQueuePairs(
                plan, domain, queues, sendDepth: sendDepth, receiveDepth: receives)
            let reads = plan.test.isResponderPassive ? try Self.reads(options, choice.context) : 1
            try initialize(reads: reads)
        } catch {
            throw .device("\(error)")
        }
        fillTarget()
    }

    /// The depth of the send queue. Latency tests of SEND and WRITE do not wait for each completion, so they have more
    /// than one request in flight towards the completion queue, though only one towards the peer.
    static func sendDepth(_ plan: PerfPlan) -> Int {
        plan.test.measure == .latency ? max(plan.transmitDepth, 64) : plan.transmitDepth
    }

    private static func access(_ operation: PerfTest.Operation) -> AccessFlags {
        switch operation {
        case .send: .localWrite
        case .write: [.localWrite, .remoteWrite]
        case .read: [.localWrite, .remoteRead]
        case .atomic: [.localWrite, .remoteAtomic]
        }
    }

    /// READs and ATOMICs that this end answers, and asks for: `-o`, else what the device has.
    private static func reads(_ options: PerfOptions, _ context: Context) throws(VerbsError) -> Int {
        let attributes = try context.attributes
        let most = max(1, min(attributes.maxReadsAsTarget, attributes.maxReadsAsInitiator, 255))
        return min(options.outstandingReads ?? most, most)
    }

    /// Makes the queue pairs, and returns up to which size messages travel inline.
    private static func makeQueuePairs(
        _ plan: PerfPlan, _ domain: ProtectionDomain, _ queues: WorkQueues, sendDepth: Int, receiveDepth: Int
    ) throws(VerbsError) -> Int {
        // Small messages of latency tests go inline where the device can; elsewhere only if asked for.
        let isLatency = plan.test.measure == .latency && !plan.test.isResponderPassive
        var inline = plan.test.isResponderPassive ? 0 : plan.inlineSize ?? (isLatency ? 220 : 0)
        if plan.useSharedReceiveQueue { queues.share(try domain.makeSharedReceiveQueue(depth: receiveDepth)) }
        let transport: Transport =
            switch plan.connection {
            case .rc: .reliableConnected
            case .uc: .unreliableConnected
            case .ud: .unreliableDatagram
            }
        while queues.count < plan.queuePairs {
            let options = QueuePairOptions(
                sendDepth: sendDepth, receiveDepth: plan.useSharedReceiveQueue ? 0 : receiveDepth, maxInline: inline)
            do throws(VerbsError) {
                if let shared = unsafe queues.shared {
                    // The queues live as long as the object that holds them, longer than this call.
                    queues.append(
                        try unsafe domain.makeQueuePair(
                            transport, options: options, sendCompletions: queues.sendCompletions.pointee,
                            receiveCompletions: queues.receiveCompletions.pointee, sharedReceives: shared.pointee))
                } else {
                    queues.append(
                        try unsafe domain.makeQueuePair(
                            transport, options: options, sendCompletions: queues.sendCompletions.pointee,
                            receiveCompletions: queues.receiveCompletions.pointee))
                }
            } catch {
                // A device without so much inline space refuses: what was not asked for is done without.
                guard inline > 0, plan.inlineSize == nil, queues.count == 0 else { throw error }
                inline = 0
            }
        }
        return inline
    }

    /// RESET to INIT, and the records that describe the queue pairs.
    private func initialize(reads: Int) throws(VerbsError) {
        for index in 0..<plan.queuePairs {
            // The connection manager moves its queue pairs itself.
            if !plan.useConnectionManager { try unsafe queues.queuePairs[index].modify(initialized) }
            records.append(
                DestinationRecord(
                    queuePairNumber: unsafe queues.queuePairs[index].number, psn: .random(in: 0...0xFF_FFFF),
                    lid: choice.port.lid, outstandingReads: UInt16(clamping: reads), rkey: region.rkey,
                    address: region.ioAddress + layout.targetOffset(index), gid: choice.gid?.gid.bytes ?? []))
        }
    }
}

// Connecting.
extension PerfEndpoint {
    private var initialized: QueuePairAttributes {
        var attributes = QueuePairAttributes(state: .initialized)
        attributes.pkeyIndex = 0
        attributes.port = choice.port.number
        if plan.connection == .ud {
            attributes.qkey = Self.qkey
        } else {
            attributes.access = Self.access(plan.test.operation)
        }
        return attributes
    }

    /// Takes the peer's record; a later round repeats it.
    func setPeer(_ record: DestinationRecord, index: Int) throws(PerfError) {
        if index < peers.count {
            peers[index] = record
        } else {
            peers.append(record)
        }
        // With -R nothing is sent to the GID of a record.
        guard !plan.useConnectionManager, let own = GID(bytes: records[index].gid), let peer = GID(bytes: record.gid)
        else { return }
        guard own.isIPv4Mapped == peer.isIPv4Mapped else {
            throw .protocolMismatch(
                "This end's GID is \(own), the peer's \(peer): one is IPv4, the other IPv6. Choose one of the same family with -x."
            )
        }
    }

    /// INIT to RTR to RTS, as perftest does it.
    func connect() throws(PerfError) {
        do throws(VerbsError) {
            for index in 0..<plan.queuePairs {
                try unsafe queues.queuePairs[index].modify(readyToReceive(index))
                try unsafe queues.queuePairs[index].modify(readyToSend(index))
                if plan.connection == .ud {
                    let handle = try region.domain.makeAddressHandle(path(to: peers[index]))
                    queues.append(
                        DatagramDestination(handle, queuePair: peers[index].queuePairNumber, qkey: Self.qkey))
                }
            }
        } catch {
            throw .device("\(error)")
        }
    }

    private func path(to peer: DestinationRecord) -> PathAttributes {
        PathAttributes(
            gid: GID(bytes: peer.gid), sourceGIDIndex: UInt8(clamping: choice.gid?.index ?? 0), lid: peer.lid,
            port: choice.port.number, hopLimit: 0xFF, trafficClass: UInt8(clamping: options.trafficClass),
            serviceLevel: UInt8(clamping: options.serviceLevel))
    }

    private func readyToReceive(_ index: Int) -> QueuePairAttributes {
        var attributes = QueuePairAttributes(state: .readyToReceive)
        guard plan.connection != .ud else { return attributes }
        let peer = peers[index]
        attributes.path = path(to: peer)
        attributes.pathMTU = pathMTU
        attributes.destination = peer.queuePairNumber
        attributes.receivePSN = peer.psn
        if plan.connection == .rc {
            attributes.maxDestinationReads = UInt8(clamping: records[index].outstandingReads)
            // 0.64 ms, perftest's.
            attributes.minRNRTimer = 12
        }
        return attributes
    }

    private func readyToSend(_ index: Int) -> QueuePairAttributes {
        var attributes = QueuePairAttributes(state: .readyToSend)
        attributes.sendPSN = records[index].psn
        if plan.connection == .rc {
            attributes.timeout = UInt8(clamping: options.timeoutExponent)
            attributes.retryCount = 7
            attributes.rnrRetry = 7
            attributes.maxReads = UInt8(clamping: min(peers[index].outstandingReads, records[index].outstandingReads))
        }
        return attributes
    }

    var isEmbeddedDevice: Bool { choice.context.device.kind == .embedded }

    /// What stands above the table.
    var banner: ReportBanner {
        ReportBanner(
            plan: plan, isServer: isServer, deviceName: choice.context.device.name,
            linkLayer: choice.port.linkLayer == .ethernet ? "Ethernet" : "IB", pathMTU: pathMTU.byteCount,
            gidIndex: choice.gid?.index, inlineSize: inlineThreshold,
            outstandingReads: Int(records.first?.outstandingReads ?? 1))
    }
}

// Connecting with `-R`.
extension PerfEndpoint {
    /// Connects the queue pairs one by one: the client asks, the server answers.
    func connect(through link: ManagedConnection) throws(PerfError) {
        let access = Self.access(plan.test.operation)
        let depth = plan.test.isResponderPassive ? UInt8(clamping: records[0].outstandingReads) : 0
        for index in 0..<plan.queuePairs {
            switch (plan.connection, isServer) {
            case (.ud, true): try offerService(index, link)
            case (.ud, false): try findService(index, link)
            case (_, true): try unsafe link.accept(queues.queuePairs[index], access: access, depth: depth)
            case (_, false): try unsafe link.connect(queues.queuePairs[index], access: access, depth: depth)
            }
        }
    }

    /// Whether the server sends datagrams, too. It then learns of the client's queue pair by a first datagram, whose
    /// immediate value is the number.
    private var serverSends: Bool { plan.test.measure == .latency || plan.bidirectional }

    private func findService(_ index: Int, _ link: ManagedConnection) throws(PerfError) {
        let service = try unsafe link.findService(queues.queuePairs[index])
        try managed { () throws(VerbsError) in queues.append(try service.destination(in: region.domain)) }
        guard serverSends else { return }
        let memory = LocalMemory(address: sendRing(index, size: 4).base, length: 4, lkey: region.lkey)
        // Inside the region, and nothing else is in flight.
        let status = unsafe queues.queuePairs[index].post(
            .sendWithImmediate(queues.queuePairs[index].number), from: memory, to: queues.destinations[index], id: 0)
        if status != .posted { throw Self.refused("send", status) }
        _ = try unsafe completion(queues.sendCompletions)
    }

    private func offerService(_ index: Int, _ link: ManagedConnection) throws(PerfError) {
        let (identifier, _) = try link.request(.udp)
        try managed { () throws(VerbsError) in try unsafe identifier.prepare(queues.queuePairs[index]) }
        if serverSends {
            let ring = receiveRing(index, size: 4)
            try postReceive(
                LocalMemory(
                    address: ring.base, length: UInt32(BufferLayout.headerBytes + 4), lkey: region.lkey),
                index: index, slot: 0)
        }
        let qkey = try managed { () throws(VerbsError) in
            try unsafe identifier.accept(queues.queuePairs[index])
            return try identifier.queuePairAttributes(for: .initialized).qkey ?? Self.qkey
        }
        guard serverSends else { return }
        let first = try unsafe completion(queues.receiveCompletions)
        guard let gid = identifier.peerAddress?.address else {
            throw .device("The connection manager does not tell the address of the client.")
        }
        let path = PathAttributes(
            gid: gid, sourceGIDIndex: UInt8(clamping: choice.gid?.index ?? 0), lid: 0, port: choice.port.number,
            hopLimit: 64, trafficClass: UInt8(clamping: options.trafficClass), serviceLevel: 0)
        try managed { () throws(VerbsError) in
            let handle = try region.domain.makeAddressHandle(path)
            queues.append(
                DatagramDestination(handle, queuePair: first.immediate ?? first.sourceQueuePair, qkey: qkey))
        }
    }

    /// The next completion, which must be there soon and be a success.
    private func completion(_ queue: UnsafeMutablePointer<CompletionQueue>) throws(PerfError) -> WorkCompletion {
        let end = ContinuousClock.now + ManagedChannel.patience
        while ContinuousClock.now < end {
            // The queue lives as long as the endpoint.
            let found = try managed { () throws(VerbsError) in try unsafe queue.pointee.next()?.workCompletion }
            guard let found else {
                usleep(100)
                continue
            }
            guard found.isSuccess else { throw .device("\(found)") }
            return found
        }
        throw .peerGone("The client's first datagram did not come in \(ManagedChannel.patience).")
    }
}

// Receives and targets.
extension PerfEndpoint {
    /// The bytes that a completed message occupies, at the raw address that a ring gave.
    func bytes(at address: UInt64, count: Int) -> UnsafeMutableRawBufferPointer {
        // The region outlives the endpoint's runs; rings give addresses inside it.
        let start = Int(address - region.ioAddress)
        return unsafe UnsafeMutableRawBufferPointer(rebasing: region.bytes[start..<(start + count)])
    }

    /// Where queue pair `index` receives, as addresses.
    ///
    /// Receives that lost messages leave behind meet the messages of the next size: over UC and UD all have room for
    /// the largest.
    func receiveRing(_ index: Int, size: Int) -> SlotRing {
        var ring = layout.receiveRing(queues.hasSharedReceives ? 0 : index, size: receivePlace(size))
        ring.base += region.ioAddress
        return ring
    }

    /// Where queue pair `index` sends from, as addresses.
    func sendRing(_ index: Int, size: Int) -> SlotRing {
        var ring = layout.sendRing(index, size: size)
        ring.base += region.ioAddress
        return ring
    }

    /// Where queue pair `index` reaches the peer's memory.
    func targetRing(_ index: Int, size: Int) -> SlotRing {
        layout.targetRing(at: peers[index].address, size: size)
    }

    private func receivePlace(_ size: Int) -> Int { plan.connection == .rc ? size : plan.largestSize }

    /// Bytes of a receive: a datagram's has its GRH in front.
    func receiveLength(_ size: Int) -> Int {
        plan.connection == .ud ? receivePlace(size) + BufferLayout.headerBytes : receivePlace(size)
    }

    /// Receives that a run posts beforehand, for each queue pair (in all with a shared queue).
    var prepostedReceives: Int {
        let total = plan.iterations.map { queues.hasSharedReceives ? $0 * plan.queuePairs : $0 }
        return min(plan.receiveDepth, total ?? .max)
    }

    /// Posts the receives of a run, where this end receives.
    func postReceives(size: Int) throws(PerfError) {
        guard plan.test.operation == .send, plan.test.measure == .latency || isServer || plan.bidirectional else {
            return
        }
        let length = UInt32(receiveLength(size))
        for index in 0..<(queues.hasSharedReceives ? 1 : plan.queuePairs) {
            let ring = receiveRing(index, size: size)
            // Receives of the size before are left where messages were lost.
            let room =
                if let shared = unsafe queues.shared {
                    unsafe shared.pointee.depth - shared.pointee.receivesInFlight
                } else {
                    unsafe queues.queuePairs[index].receiveRoom
                }
            for message in 0..<min(prepostedReceives, room) {
                let memory = LocalMemory(address: ring.address(of: message), length: length, lkey: region.lkey)
                try postReceive(memory, index: index, slot: UInt64(message) % ring.count)
            }
        }
    }

    /// Posts one receive. The region is registered for as long as the queues exist, and checked only when it completed.
    @inline(__always)
    func postReceive(_ memory: LocalMemory, index: Int, slot: UInt64) throws(PerfError) {
        let id = UInt64(index) | slot << 32
        let status =
            if let shared = unsafe queues.shared {
                unsafe shared.pointee.receive(into: memory, id: id)
            } else {
                unsafe queues.queuePairs[index].receive(into: memory, id: id)
            }
        if status != .posted { throw Self.refused("receive", status) }
    }

    /// A batch of receives of a queue pair, or of the queue that all share.
    @inline(__always)
    func receiveBatch(_ index: Int) -> ReceiveBatch {
        if let shared = unsafe queues.shared { return unsafe shared.pointee.receiveBatch() }
        return unsafe queues.queuePairs[index].receiveBatch()
    }

    @inline(never)
    static func refused(_ verb: String, _ status: PostStatus) -> PerfError {
        switch status {
        case .posted, .full: .device("Posting a \(verb) failed: the queue is full.")
        case .refused(let error): .device("Posting a \(verb) failed: \(error).")
        }
    }

    /// With `--validate`: what a passive end offers to READ.
    private func fillTarget() {
        guard plan.validate, plan.test.operation == .read else { return }
        for index in 0..<plan.queuePairs {
            let ring = layout.targetRing(at: region.ioAddress + layout.targetOffset(index), size: plan.largestSize)
            for slot in 0..<Int(ring.count) {
                unsafe PayloadPattern(queuePair: index, message: slot)
                    .fill(bytes(at: ring.address(of: slot), count: plan.largestSize))
            }
        }
    }

    /// What was checked here: during the run, or for WRITE the memory as it is at the end.
    func verdict() throws(PerfError) -> ValidationVerdict {
        guard plan.test == .writeBandwidth, isServer, let count = plan.iterations else { return check }
        let ring = layout.targetRing(at: region.ioAddress + layout.targetOffset(0), size: plan.largestSize)
        for slot in 0..<min(Int(ring.count), count) {
            // The last message that went to this slot.
            let last = (count - 1 - slot) / Int(ring.count) * Int(ring.count) + slot
            let pattern = PayloadPattern(queuePair: 0, message: last)
            unsafe check.add(
                pattern.firstDifference(
                    in: UnsafeRawBufferPointer(bytes(at: ring.address(of: slot), count: plan.largestSize))))
        }
        return check
    }
}

extension ValidationVerdict {
    /// Counts one message that was checked.
    mutating func add(_ firstDifference: Int?) {
        checked += 1
        guard let firstDifference else { return }
        if wrong == 0 { firstWrongOffset = UInt64(firstDifference) }
        wrong += 1
    }
}

extension SendFlags {
    /// `IBV_SEND_INLINE`: at the raw level the flag itself, over memory whose bytes are copied during the post.
    static let inlined = SendFlags(rawValue: 8)
}
