// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// One queue pair of the workload: posts random operations to its peer, and receives.
final class WorkloadEndpoint {
    let node: Int
    let queues: QueuePairQueues
    /// Where the peer sends to: the same queue pair, but on XRC.
    let receiver: QPN
    unowned let machine: WorkloadMachine
    weak var peer: WorkloadEndpoint!
    let sends: SendChecker
    let receives: ReceiveChecker
    /// Messages that the peer has sent and that did not arrive yet.
    var messages: [ExpectedMessage] = []
    /// Where the peer writes and reads.
    let target: Range<Int>
    /// Eight words that the peer works on with atomics.
    let words: Range<Int>
    var freeSlots: [Range<Int>]
    let slots: [Range<Int>]
    var nextID: UInt64 = 1
    var remaining: Int
    var windowKey: MemoryKey?
    var isWindowBound = false
    /// When all sends were complete, or one failed.
    var endedAt: Timestamp?

    init(
        node: Int, machine: WorkloadMachine, queues: QueuePairQueues, receiver: QPN, receives: ReceiveChecker,
        options: WorkloadOptions
    ) {
        self.node = node
        self.machine = machine
        self.queues = queues
        self.receiver = receiver
        self.receives = receives
        sends = SendChecker(name: "node \(node) \(queues.qpn)", findings: machine.findings)
        target = machine.memory.allocate(options.byteCountMax * 2)
        words = machine.memory.allocate(64)
        slots = (0..<options.depth).map { _ in machine.memory.allocate(options.byteCountMax + 400) }
        freeSlots = slots
        remaining = options.operationCount
        windowKey = try? machine.node.engine.pointee.allocateWindow(
            protectionDomain: 1, type: .type2, using: &machine.node.generator)
    }
}

/// One node of the workload with its memory.
final class WorkloadMachine {
    let node: SimulatedNode
    let memory: MemoryModel
    let findings: Findings
    let sendCompletions: CompletionQueue
    let receiveCompletions: CompletionQueue
    let shared: ReceiveQueue?
    /// XRC: what peers name it by.
    let sharedNumber: UInt32
    let sharedReceives: ReceiveChecker?
    var endpoints: [UInt32: WorkloadEndpoint] = [:]
    var ordered: [WorkloadEndpoint] = []
    /// Two regions cover everything but the start and the end, with a gap between.
    var localKey = MemoryKey(rawValue: 0)
    var localOffset: UInt64 = 0
    let sharedWord: Range<Int>
    var sharedResults: [UInt64] = []
    var sharedAdds = 0
    var nextReceiveID: UInt64 = 1_000_000

    init(index: Int, options: WorkloadOptions, findings: Findings) {
        self.findings = findings
        node = SimulatedNode(
            address: 0x0A00_0001 + UInt32(index), seed: options.seed &* 31 &+ UInt64(index), ipv6: options.ipv6,
            segmentCountMax: options.segmentCountMax
        ) {
            $0.windowInitialBytes = options.windowBytes
            $0.quantumBytes = options.quantumBytes
            $0.earlyPacketCountMax = options.earlyPacketCountMax
        }
        node.transmitQueue = TransmitQueue(
            arenaByteCount: options.arenaByteCount, burstCountMax: 32, segmentCountMax: options.segmentCountMax)
        let perEndpoint =
            options.byteCountMax * 2 + 200 + options.depth * (options.byteCountMax + 500)
            + options.receiveDepth * (options.byteCountMax + 100)
        let endpointCount = (options.nodeCount - 1) * options.queuePairCount
        memory = MemoryModel(byteCount: 4096 + perEndpoint * endpointCount, canary: 0xA0 + UInt8(index))
        sendCompletions = node.makeCompletionQueue(4096)
        receiveCompletions = node.makeCompletionQueue(4096)
        if options.isExtended {
            let made = try! node.engine.pointee.createSharedReceiveQueue(
                protectionDomain: 1, xrcDomain: 5, completionQueue: receiveCompletions, capacity: options.receiveDepth,
                scatterGatherMax: options.scatterGatherMax, tag: 9)
            (shared, sharedNumber) = (made.queue, made.number)
        } else {
            shared =
                options.usesSharedReceiveQueue
                ? try! node.engine.pointee.createSharedReceiveQueue(
                    protectionDomain: 1, capacity: options.receiveDepth, scatterGatherMax: options.scatterGatherMax,
                    tag: 9)
                : nil
            sharedNumber = 0
        }
        sharedReceives =
            shared == nil ? nil : ReceiveChecker(name: "node \(index) srq", findings: findings, isShared: true)
        sharedWord = memory.allocate(8)
        memory.expectWord(0, at: sharedWord.lowerBound)
        memory.memory.storeBytes(of: 0, toByteOffset: sharedWord.lowerBound, as: UInt64.self)
    }
}

/// Random operations over RC or XRC between all pairs of nodes, posted and received at random times.
final class ReliableWorkload {
    let options: WorkloadOptions
    let findings = Findings()
    let machines: [WorkloadMachine]
    let world: SimulatedWorld
    private var generator: SeededGenerator
    private var freeReceives: [ObjectIdentifier: [Range<Int>]] = [:]
    private var receiveSlots: [UInt64: Range<Int>] = [:]
    private let answers: AnswerChecker

    init(options: WorkloadOptions) {
        self.options = options
        generator = SeededGenerator(seed: options.seed &+ 0xABCD)
        let findings = findings
        let answers = AnswerChecker(findings: findings)
        self.answers = answers
        machines = (0..<options.nodeCount).map { WorkloadMachine(index: $0, options: options, findings: findings) }
        world = SimulatedWorld(
            nodes: machines.map(\.node), network: SimulatedNetwork(options: options.network, seed: options.seed))
        world.network.outage = options.outage
        world.network.observer = { answers.check($0) }
        for a in 0..<options.nodeCount {
            for b in (a + 1)..<max(options.nodeCount, a + 1) {
                for _ in 0..<options.queuePairCount { connect(a, b) }
            }
        }
        for machine in machines { register(machine) }
        for machine in machines { prepareReceives(machine) }
    }

    private func makeEndpoint(_ index: Int) -> WorkloadEndpoint {
        let machine = machines[index]
        let isExtended = options.isExtended
        let queues = machine.node.makeQueuePair(
            QueuePairCreation(
                type: isExtended ? .xrcInitiator : .rc, protectionDomain: 1,
                sendCompletionQueue: machine.sendCompletions,
                receiveCompletionQueue: isExtended ? nil : machine.receiveCompletions,
                sharedReceiveQueue: isExtended ? nil : machine.shared,
                sendCapacity: options.depth, receiveCapacity: options.receiveDepth,
                sendScatterGatherMax: options.scatterGatherMax, receiveScatterGatherMax: options.scatterGatherMax,
                inlineMax: options.inlineMax, tag: UInt(index)))
        let receives =
            machine.sharedReceives
            ?? ReceiveChecker(name: "node \(index) \(queues.qpn) rq", findings: findings, isShared: false)
        let receiver = isExtended ? makeTarget(machine) : queues.qpn
        let endpoint = WorkloadEndpoint(
            node: index, machine: machine, queues: queues, receiver: receiver, receives: receives, options: options)
        machine.endpoints[queues.qpn.rawValue] = endpoint
        machine.endpoints[receiver.rawValue] = endpoint
        machine.ordered.append(endpoint)
        return endpoint
    }

    private func makeTarget(_ machine: WorkloadMachine) -> QPN {
        var creation = QueuePairCreation(
            type: .xrcTarget, protectionDomain: 0, sendCompletionQueue: nil, receiveCompletionQueue: nil)
        creation.xrcDomain = 5
        return machine.node.makeQueuePair(creation).qpn
    }

    private func connect(_ a: Int, _ b: Int) {
        let x = makeEndpoint(a)
        let y = makeEndpoint(b)
        x.peer = y
        y.peer = x
        var forth = ConnectionOptions()
        forth.mtu = options.mtu
        forth.timeout = options.timeout
        forth.rnrTimer = options.rnrTimer
        forth.readAtomicMax = options.readAtomicMax
        forth.retryCount = options.retryCount
        forth.sendPSN = options.sendPSN
        forth.receivePSN = options.receivePSN
        var back = forth
        swap(&back.sendPSN, &back.receivePSN)
        for (from, to, forth, back) in [(x, y, forth, back), (y, x, back, forth)] {
            let (sender, receiver) = (from.machine.node, to.machine.node)
            sender.connect(
                from.queues.qpn, type: options.isExtended ? .xrcInitiator : .rc, to: receiver.gid, to.receiver, forth)
            guard options.isExtended else { continue }
            receiver.connect(to.receiver, type: .xrcTarget, to: sender.gid, from.queues.qpn, back)
        }
        if options.repeatsSelectively {
            for endpoint in [x, y] { try! endpoint.machine.node.engine.pointee.repeatSelectively(endpoint.queues.qpn) }
        }
        for (endpoint, psn) in [(x, forth.sendPSN), (y, back.sendPSN)] {
            let peer = endpoint.peer!
            peer.machine.node.setMessageSequence(peer.receiver, options.messageSequence)
            answers.expect(
                from: peer.node, to: endpoint.node, endpoint.queues.qpn, psn: psn, msn: options.messageSequence)
        }
    }

    private func register(_ machine: WorkloadMachine) {
        // The region leaves out both ends, and has an address of its own half of the time.
        let inner = UnsafeMutableRawBufferPointer(
            rebasing: machine.memory.memory[32..<machine.memory.memory.count - 32])
        let base: UInt64? = generator.chance(0.5) ? (generator.next() >> 16) << 12 : nil
        machine.localKey = machine.node.register(inner, iova: base)
        machine.localOffset = (base ?? UInt64(UInt(bitPattern: inner.baseAddress!))) &- 32
    }

    private func prepareReceives(_ machine: WorkloadMachine) {
        let queues = machine.shared == nil ? machine.ordered.map(\.receives) : [machine.sharedReceives!]
        for checker in queues {
            freeReceives[ObjectIdentifier(checker)] = (0..<options.receiveDepth).map { _ in
                machine.memory.allocate(options.byteCountMax)
            }
        }
    }

    // MARK: Running

    /// Runs to the end and checks everything.
    func run() {
        world.afterRound = { [unowned self] index in turn(machines[index]) }
        let isDone = world.run(stepMax: 60_000) { [unowned self] in
            !findings.isEmpty || machines.allSatisfy { $0.ordered.allSatisfy { isFinished($0) } }
        }
        guard findings.isEmpty else { return }
        if !isDone { findings.add("no progress: \(progressText)") }
        if let checker = OutageChecker(options: options, findings: findings) {
            for endpoint in machines.flatMap(\.ordered) {
                checker.check(
                    "\(endpoint.queues.qpn)", node: endpoint.node, peer: endpoint.peer.node, endedAt: endpoint.endedAt)
            }
        }
        finish()
    }

    private var progressText: String {
        machines.flatMap(\.ordered).map { "\($0.queues.qpn): \($0.remaining) to post, \($0.sends.posted.count) posted" }
            .joined(separator: "; ")
    }

    private func isFinished(_ endpoint: WorkloadEndpoint) -> Bool {
        endpoint.sends.isDead
            ? endpoint.sends.posted.isEmpty : endpoint.remaining == 0 && endpoint.sends.posted.isEmpty
    }

    /// Ends all queue pairs, and compares memory.
    private func finish() {
        for machine in machines {
            for endpoint in machine.ordered {
                machine.node.modify(endpoint.queues.qpn, .state) { $0.state = .error }
                machine.node.modify(endpoint.receiver, .state) { $0.state = .error }
            }
            machine.node.engine.pointee.publishCompletions()
            poll(machine)
            for endpoint in machine.ordered {
                endpoint.sends.checkEmpty()
                if machine.shared == nil { endpoint.receives.checkEmpty() }
                guard endpoint.sends.isDead else {
                    if !endpoint.peer.messages.isEmpty { findings.add("\(endpoint.queues.qpn): a message was lost") }
                    continue
                }
                // Cut off: what it was doing to its peer is not known.
                machines[endpoint.peer.node].memory.forget(endpoint.peer.target)
                machines[endpoint.peer.node].memory.forget(endpoint.peer.words)
                for slot in endpoint.slots { machine.memory.forget(slot) }
            }
            if machine.shared != nil, machine.ordered.contains(where: { $0.peer.sends.isDead }) {
                // A shared receive that a cut off message had taken is lost with it.
                for pieces in machine.sharedReceives!.posted.values {
                    for piece in pieces { machine.memory.forget(piece.offset..<piece.offset + piece.count) }
                }
            }
        }
        for machine in machines {
            checkSharedWord(machine)
            machine.memory.check("node \(machine.node.gid)", findings)
        }
    }

    private func checkSharedWord(_ machine: WorkloadMachine) {
        let value = machine.memory.word(at: machine.sharedWord.lowerBound)
        let isSure = machine.ordered.allSatisfy { !$0.peer.sends.isDead }
        if isSure, value != UInt64(machine.sharedAdds) {
            findings.add("shared word is \(value) after \(machine.sharedAdds) additions")
        }
        if Set(machine.sharedResults).count != machine.sharedResults.count {
            findings.add("two additions to the shared word got the same value")
        }
        machine.memory.forget(machine.sharedWord)
    }

    private func turn(_ machine: WorkloadMachine) {
        poll(machine)
        if machine.shared != nil {
            postReceives(machine, machine.shared!, machine.sharedReceives!)
        } else {
            for endpoint in machine.ordered {
                postReceives(machine, endpoint.queues.receiveQueue, endpoint.receives)
            }
        }
        for endpoint in machine.ordered where endpoint.remaining > 0 && !endpoint.sends.isDead {
            var posted = 0
            while canPost(endpoint), posted < 4, generator.chance(0.8) {
                OperationGenerator.post(endpoint, options, &generator)
                posted += 1
            }
            if posted > 0 { world.wake(at: world.now) }
            if canPost(endpoint) { world.wake(at: world.now + 1 + generator.next() % 20_000) }
        }
    }

    private func canPost(_ endpoint: WorkloadEndpoint) -> Bool {
        endpoint.remaining > 0 && !endpoint.freeSlots.isEmpty && endpoint.queues.sendQueue.freeCount > 0
            && !endpoint.sends.isDead
    }

    private func postReceives(_ machine: WorkloadMachine, _ queue: ReceiveQueue, _ checker: ReceiveChecker) {
        let key = ObjectIdentifier(checker)
        var isReady = true
        while isReady, queue.freeCount > 0, let slot = freeReceives[key]?.last {
            isReady = generator.chance(options.receiveReadiness)
            if !isReady { break }
            freeReceives[key]!.removeLast()
            let id = machine.nextReceiveID
            machine.nextReceiveID += 1
            receiveSlots[id &+ machine.node.gid.low << 32] = slot
            let pieces = OperationGenerator.split(slot, options.scatterGatherMax, gap: false, &generator)
            checker.add(id, pieces)
            machine.node.postReceive(
                queue, id: id,
                pieces.map {
                    ScatterGatherEntry(
                        address: UInt64($0.offset) &+ machine.localOffset, length: UInt32($0.count),
                        lkey: machine.localKey.rawValue)
                })
        }
        if !isReady { world.wake(at: world.now + 1 + generator.next() % 100_000) }
    }

    private func poll(_ machine: WorkloadMachine) {
        for entry in machine.node.poll(machine.sendCompletions) {
            guard let endpoint = machine.endpoints[entry.qpn] else {
                findings.add("send completion of unknown queue pair \(entry.qpn)")
                continue
            }
            let mayFail = options.mayLoseConnection(endpoint.node, endpoint.peer.node)
            for send in endpoint.sends.complete(entry, mayFail: mayFail) { finishSend(send, endpoint) }
            if isFinished(endpoint), endpoint.endedAt == nil { endpoint.endedAt = world.now }
        }
        for entry in machine.node.poll(machine.receiveCompletions) {
            guard let endpoint = machine.endpoints[entry.qpn] else {
                findings.add("receive completion of unknown queue pair \(entry.qpn)")
                continue
            }
            let slotKey = entry.id &+ machine.node.gid.low << 32
            _ = endpoint.receives.complete(
                entry, message: { endpoint.messages.isEmpty ? nil : endpoint.messages.removeFirst() },
                memory: machine.memory)
            if let slot = receiveSlots.removeValue(forKey: slotKey) {
                freeReceives[ObjectIdentifier(endpoint.receives)]?.append(slot)
            }
        }
    }

    /// A send is complete: what it brought must lie there.
    private func finishSend(_ send: PostedSend, _ endpoint: WorkloadEndpoint) {
        let memory = endpoint.machine.memory
        for piece in send.result {
            memory.expect(piece.bytes, at: piece.offset)
            if let offset = memory.firstDifference(in: piece.offset..<piece.offset + piece.bytes.count) {
                findings.add("\(endpoint.queues.qpn): \(send.id) brought a wrong byte to \(offset)")
            }
        }
        if let offset = send.sharedResult {
            let value = memory.word(at: offset)
            memory.expectWord(value, at: offset)
            endpoint.peer.machine.sharedResults.append(value)
        }
        endpoint.freeSlots.append(endpoint.slots[send.slot])
    }
}
