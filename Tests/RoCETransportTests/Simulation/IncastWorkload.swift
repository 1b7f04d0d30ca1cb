// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// Many senders and one receiver behind one link, the last of a switch; with READs it is the receiver that asks.
struct IncastOptions: CustomStringConvertible {
    var seed: UInt64 = 1
    var senderCount = 32
    var operation = SendOperation.rdmaWrite
    /// Of every link.
    var bitsPerSecond: UInt64 = 10_000_000_000
    var delayNanoseconds: UInt64 = 5_000
    // Of the link to the receiver.
    var queueBytes = 1 << 20
    var markBytes = Int.max
    var pollNanoseconds: UInt64 = 0
    var stall = 0.0
    var stallNanoseconds: UInt64 = 0
    /// Of all.
    var wakeNanoseconds: UInt64 = 0
    /// Of the receiver, and of the senders.
    var slices: [RunSlices?] = [nil, nil]
    /// Of the frames to the receiver.
    var loss = 0.0

    var durationNanoseconds: UInt64 = 60_000_000
    /// From when on bytes are counted.
    var warmUpNanoseconds: UInt64 = 20_000_000
    var messageBytes = 32 * 1024
    var depth = 8
    var timeout: UInt8 = 10
    var hasCongestionControl = true
    /// Of every sender; as the engine has it if 0.
    var windowMaxBytes = 0

    var description: String {
        "seed \(seed): \(senderCount) senders of \(operation), \(bitsPerSecond / 1_000_000) Mb/s, "
            + "delay \(delayNanoseconds) ns, queue \(queueBytes), mark \(markBytes), poll \(pollNanoseconds) ns, "
            + "stall \(stall) of \(stallNanoseconds) ns, loss \(loss), wakes in \(wakeNanoseconds) ns, slices \(slices), \(durationNanoseconds) ns after \(warmUpNanoseconds) ns, "
            + "messages of \(messageBytes), depth \(depth), timeout \(timeout), control \(hasCongestionControl)"
    }
}

/// Every sender has a queue pair to the receiver, which is kept busy.
final class IncastWorkload: CustomStringConvertible {
    private final class Flow {
        /// Who posts, and the data's way to or from there.
        let node: SimulatedNode
        let queues: QueuePairQueues
        let completions: CompletionQueue
        let localKey: MemoryKey
        let remoteKey: MemoryKey
        var completedBytes = 0
        var hasFailed = false

        init(
            node: SimulatedNode, queues: QueuePairQueues, completions: CompletionQueue, localKey: MemoryKey,
            remoteKey: MemoryKey
        ) {
            self.node = node
            self.queues = queues
            self.completions = completions
            self.localKey = localKey
            self.remoteKey = remoteKey
        }
    }

    private let options: IncastOptions
    private let world: SimulatedWorld
    private var flows: [Flow] = []
    private var generator: SeededGenerator
    private let memory: UnsafeMutableRawBufferPointer

    init(_ options: IncastOptions) {
        self.options = options
        generator = SeededGenerator(seed: options.seed)
        memory = .allocate(byteCount: options.messageBytes, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0x5A)
        let nodes = (0...options.senderCount).map { index in
            SimulatedNode(address: 0x0A02_0001 + UInt32(index), seed: options.seed &* 77 &+ UInt64(index)) {
                $0.congestionControl = options.hasCongestionControl
                if options.windowMaxBytes > 0 { $0.windowMaxBytes = options.windowMaxBytes }
            }
        }
        world = SimulatedWorld(nodes: nodes, network: Self.makeNetwork(options))
        let keys = nodes.map { $0.register(memory) }
        for index in 1...options.senderCount {
            flows.append(
                options.operation == .rdmaRead
                    ? connect(nodes[0], keys[0], to: nodes[index], keys[index])
                    : connect(nodes[index], keys[index], to: nodes[0], keys[0]))
        }
    }

    deinit { memory.deallocate() }

    private static func makeNetwork(_ options: IncastOptions) -> SimulatedNetwork {
        var link = NetworkOptions()
        link.bitsPerSecond = options.bitsPerSecond
        link.delayNanoseconds = options.delayNanoseconds
        link.wakeNanoseconds = options.wakeNanoseconds
        link.slices = options.slices[1]
        let network = SimulatedNetwork(options: link, seed: options.seed)
        network.uplinkBitsPerSecond = options.bitsPerSecond
        link.queueBytes = options.queueBytes
        link.markBytes = options.markBytes
        link.pollNanoseconds = options.pollNanoseconds
        link.stall = options.stall
        link.stallNanoseconds = options.stallNanoseconds
        link.slices = options.slices[0]
        link.loss = options.loss
        network.setLink(0, link)
        return network
    }

    private func connect(_ node: SimulatedNode, _ key: MemoryKey, to peer: SimulatedNode, _ peerKey: MemoryKey) -> Flow
    {
        let completions = node.makeCompletionQueue()
        let queues = node.makeQueuePair(creation(completions))
        let remote = peer.makeQueuePair(creation(peer.makeCompletionQueue()))
        var forth = ConnectionOptions()
        forth.mtu = .bytes4096
        forth.timeout = options.timeout
        forth.readAtomicMax = 16
        forth.sendPSN = UInt32(truncatingIfNeeded: generator.next())
        forth.receivePSN = UInt32(truncatingIfNeeded: generator.next())
        var back = forth
        swap(&back.sendPSN, &back.receivePSN)
        node.connect(queues.qpn, type: .rc, to: peer.gid, remote.qpn, forth)
        peer.connect(remote.qpn, type: .rc, to: node.gid, queues.qpn, back)
        return Flow(node: node, queues: queues, completions: completions, localKey: key, remoteKey: peerKey)
    }

    private func creation(_ completions: CompletionQueue) -> QueuePairCreation {
        QueuePairCreation(
            type: .rc, protectionDomain: 1, sendCompletionQueue: completions, receiveCompletionQueue: completions,
            sendCapacity: options.depth)
    }

    // MARK: Running

    /// Runs to the end of the time.
    func run() {
        world.afterRound = { [unowned self] index in
            if options.operation == .rdmaRead {
                if index == 0 { for flow in flows { turn(flow) } }
            } else if index > 0 {
                turn(flows[index - 1])
            }
        }
        world.run(stepMax: .max) { [unowned self] in world.now >= options.durationNanoseconds }
    }

    private func turn(_ flow: Flow) {
        for entry in flow.node.poll(flow.completions) {
            if entry.status != .success { flow.hasFailed = true }
            guard entry.status == .success, world.now >= options.warmUpNanoseconds else { continue }
            flow.completedBytes += options.messageBytes
        }
        var hasPosted = false
        while !flow.hasFailed, flow.queues.sendQueue.freeCount > 0 {
            let address = UInt64(UInt(bitPattern: memory.baseAddress!))
            var request = SendWorkRequest(id: 1, operation: options.operation)
            request.remoteAddress = address
            request.remoteKey = flow.remoteKey.rawValue
            let entry = ScatterGatherEntry(
                address: address, length: UInt32(options.messageBytes), lkey: flow.localKey.rawValue)
            flow.node.post(flow.queues, request, [entry])
            hasPosted = true
        }
        if hasPosted { world.wake(at: world.now) }
    }

    // MARK: Results

    private var bytes: [Double] { flows.map { Double($0.completedBytes) } }

    /// Data that has arrived, as those who asked for it know, as a share of what the link carries.
    var goodput: Double {
        let seconds = Double(options.durationNanoseconds - options.warmUpNanoseconds) / 1e9
        return bytes.reduce(0, +) * 8 / (Double(options.bitsPerSecond) * seconds)
    }

    /// The least of a sender, as a share of the mean.
    var least: Double { bytes.min()! * Double(bytes.count) / max(bytes.reduce(0, +), 1) }

    /// Jain's index: 1 if all have the same, 1/n if one has everything.
    var fairness: Double {
        let sum = bytes.reduce(0, +)
        let squares = bytes.reduce(0) { $0 + $1 * $1 }
        return sum * sum / max(Double(bytes.count) * squares, 1)
    }

    var failureCount: Int { flows.count { $0.hasFailed } }

    /// Notifications of congestion that the receiver sent.
    var notificationsSent: UInt64 { world.nodes[0].engine.pointee.counters.congestionNotificationsSent }

    var description: String {
        let counters = world.nodes.map { $0.engine.pointee.counters }
        let counts = world.network.link(0).counts
        return
            "\(options)\ngoodput \(goodput), least of mean \(least), fairness \(fairness), failures \(failureCount), "
            + "overflowed \(counts.overflowed), marked \(counts.marked), "
            + "sent again \(counters.reduce(0) { $0 + $1.retransmissions }), "
            + "timeouts \(counters.reduce(0) { $0 + $1.timeouts }), notifications \(notificationsSent)"
    }
}
