// SPDX-License-Identifier: Apache-2.0
import Verbs

/// One latency run of one size, at either end.
///
/// SEND and WRITE are ping and pong: one end begins, each answers what came. As in perftest the client begins with SEND
/// and the server with WRITE. READ and ATOMIC are requests of the client alone. A sample is the time from one post to the next, as perftest's.
@safe struct LatencyRun: ~Copyable {
    private static let pollCount = 16

    private let endpoint: PerfEndpoint
    private let region: MemoryRegion
    private let plan: PerfPlan
    private let size: Int
    private let isServer: Bool
    /// `Int.max` in a timed run.
    private let limit: Int
    private let flags: SendFlags
    private let operation: PerfTest.Operation
    private let isDatagram: Bool
    private let sendDepth: Int
    private let remote: RemoteMemory
    private let memory: LocalMemory
    // Live as long as the endpoint, or (the storage) as this value.
    private let queuePair: UnsafeMutablePointer<QueuePair>
    private let storage: UnsafeMutableBufferPointer<WorkCompletion>
    private var receive: SlotCursor
    private var receivesPosted: Int

    private(set) var recorder: LatencyRecorder
    private var watch: RunWatch
    private var window: DurationWindow?
    private var posted = 0
    private var completed = 0
    private var received = 0
    /// Round trips in the counted part of a timed run.
    private var counted = 0

    init(endpoint: PerfEndpoint, size: Int, watch: RunWatch, keepsSamples: Bool) {
        // Locals until all members have values, as in BandwidthRun.
        let plan = endpoint.plan
        let sends = plan.test.operation == .send
        let receivesPosted = sends ? endpoint.prepostedReceives : 0
        let storage = UnsafeMutableBufferPointer<WorkCompletion>.allocate(capacity: Self.pollCount)
        unsafe storage.initialize(repeating: WorkCompletion())
        var receive = SlotCursor(endpoint.receiveRing(0, size: size))
        for _ in 0..<receivesPosted { receive.advance() }
        self.endpoint = endpoint
        region = endpoint.region
        self.size = size
        self.watch = watch
        self.plan = plan
        unsafe self.storage = unsafe storage
        self.receive = receive
        self.receivesPosted = receivesPosted
        isServer = endpoint.isServer
        limit = plan.iterations ?? .max
        let canInline = !plan.test.isResponderPassive && size <= endpoint.inlineThreshold
        flags = canInline ? .inlined : []
        operation = plan.test.operation
        isDatagram = plan.connection == .ud
        sendDepth = PerfEndpoint.sendDepth(plan)
        recorder = LatencyRecorder(keepsSamples: keepsSamples)
        unsafe queuePair = endpoint.queues.queuePairs
        memory = LocalMemory(
            address: endpoint.sendRing(0, size: size).base, length: UInt32(size), lkey: endpoint.region.lkey)
        remote = RemoteMemory(
            address: sends ? 0 : endpoint.targetRing(0, size: size).base, rkey: endpoint.peers[0].rkey,
            length: UInt64(size))
    }

    deinit { unsafe storage.deinitialize().deallocate() }

    /// Runs to the end; `nil` where nothing was measured.
    mutating func measured() throws(PerfError) -> LatencySummary? {
        startWindow()
        switch operation {
        case .send, .write: try pingPong()
        case .read, .atomic: try requests()
        }
        watch.finish()
        recorder.drain()
        let roundTrips = plan.test.roundTripsPerLatency
        var summary = recorder.summary(size: size, iterations: plan.iterations ?? counted, roundTrips: roundTrips)
        if let window {
            let seconds = Double(max(window.countedNanoseconds, 1)) / 1e9
            summary?.transactionsPerSecond = Double(counted) / seconds
            summary?.average = seconds * 1e6 / roundTrips / Double(max(counted, 1))
        }
        return summary
    }

    private mutating func startWindow() {
        guard case .seconds(let seconds, let margin) = plan.length else { return }
        let now = monotonicNanoseconds()
        window = DurationWindow(start: now, seconds: seconds, margin: margin)
        window?.advance(to: now)
    }

    private var isOver: Bool { window?.phase == .over }

    /// Books the time since the last post, and returns the time from which the next sample counts.
    @inline(__always)
    private mutating func sample(since last: UInt64) -> UInt64 {
        let now = monotonicNanoseconds()
        var counts = last != 0
        if window != nil {
            counts = counts && window?.phase == .counting
            if counts { counted += 1 }
            window?.advance(to: now)
        }
        guard counts, recorder.add(now - last) else { return now }
        // Emptying the block takes time, which belongs to no sample.
        recorder.drain()
        return monotonicNanoseconds()
    }
}

// Ping and pong.
extension LatencyRun {
    private mutating func pingPong() throws(PerfError) {
        var last: UInt64 = 0
        let begins = isServer == (operation == .write)
        while posted < limit || received < limit {
            if received < limit, posted > 0 || !begins {
                if operation == .send { try awaitMessage() } else { try awaitWrite() }
                if isOver { break }
                received += 1
            }
            if posted < limit {
                last = sample(since: last)
                if isOver { break }
                try post()
            }
        }
        // The last round trip has no post after it.
        if plan.iterations != nil, begins { _ = sample(since: last) }
        while completed < posted, !isOver {
            if try pollSends() { watch.moved() } else { try watch.isIdle(count: completed) }
        }
    }

    private mutating func post() throws(PerfError) {
        // Not each send is waited for: when the answer is here, the message has arrived.
        while posted - completed >= sendDepth {
            if try pollSends() { watch.moved() } else { try watch.isIdle(count: completed) }
        }
        posted += 1
        prepare()
        let isSignaled = posted % 16 == 0 || posted == limit
        let flags = isSignaled ? flags.union(.signaled) : flags
        let id = UInt64(posted)
        let status =
            if isDatagram {
                unsafe queuePair.pointee.post(
                    .send, from: memory, to: endpoint.queues.destinations.pointee, id: id, flags: flags)
            } else if operation == .send {
                unsafe queuePair.pointee.post(.send, from: memory, id: id, flags: flags)
            } else {
                unsafe queuePair.pointee.post(.write(to: remote), from: memory, id: id, flags: flags)
            }
        if status != .posted { throw PerfEndpoint.refused("send", status) }
    }

    /// What goes out with this message: its number in the last byte of a WRITE, all of it with `--validate`.
    @inline(__always)
    private func prepare() {
        guard plan.validate || operation == .write else { return }
        // Inside the region. The peer has answered the message before, so nothing reads the place any more.
        let bytes = unsafe endpoint.bytes(at: memory.address, count: size)
        if plan.validate { unsafe PayloadPattern(queuePair: 0, message: posted - 1).fill(bytes) }
        if operation == .write { unsafe bytes[size - 1] = UInt8(truncatingIfNeeded: posted) }
    }

    private mutating func awaitMessage() throws(PerfError) {
        while true {
            let count = try unsafe poll(endpoint.queues.receiveCompletions)
            if count > 0 { break }
            // Polling the sends drives a device that has no thread of its own, and keeps their queue from filling.
            if try !pollSends() { try unsafe idle(endpoint.queues.receiveCompletions) }
            if window != nil {
                window?.advance(to: monotonicNanoseconds())
                if isOver { return }
            }
        }
        watch.moved()
        guard unsafe storage[0].isSuccess else { throw unsafe failure(storage[0]) }
        if plan.validate { unsafe check(storage[0]) }
        guard receivesPosted < limit else { return }
        let place = LocalMemory(
            address: receive.address, length: UInt32(endpoint.receiveLength(size)), lkey: endpoint.region.lkey)
        try endpoint.postReceive(place, index: 0, slot: receive.slot)
        receive.advance()
        receivesPosted += 1
    }

    /// Watches the last byte of the target: a WRITE of one message is placed from its first byte to its last.
    private mutating func awaitWrite() throws(PerfError) {
        let start = endpoint.layout.targetOffset(0)
        let offset = Int(start) + size - 1
        let expected = UInt8(truncatingIfNeeded: received + 1)
        while region.load(at: offset) != expected {
            if try pollSends() { watch.moved() } else { try watch.isIdle(count: received) }
            if window != nil {
                window?.advance(to: monotonicNanoseconds())
                if isOver { return }
            }
        }
        watch.moved()
        guard plan.validate else { return }
        let bytes = unsafe endpoint.bytes(at: endpoint.region.ioAddress + start, count: size)
        let pattern = PayloadPattern(queuePair: 0, message: received)
        unsafe endpoint.check.add(pattern.firstDifference(in: UnsafeRawBufferPointer(rebasing: bytes.dropLast())))
    }

    @inline(never)
    private func check(_ completion: WorkCompletion) {
        let header = isDatagram ? BufferLayout.headerBytes : 0
        guard completion.byteCount == size + header else { return endpoint.check.add(0) }
        let ring = endpoint.receiveRing(0, size: size)
        let bytes = unsafe endpoint.bytes(
            at: ring.address(of: Int(completion.id >> 32)) + UInt64(header), count: size)
        unsafe endpoint.check.add(
            PayloadPattern(queuePair: 0, message: received).firstDifference(in: UnsafeRawBufferPointer(bytes)))
    }
}

// Requests that the peer's device answers.
extension LatencyRun {
    private mutating func requests() throws(PerfError) {
        var last: UInt64 = 0
        while posted < limit {
            last = sample(since: last)
            if isOver { return }
            if plan.validate { clear() }
            let status = unsafe queuePair.pointee.post(request, from: memory, id: UInt64(posted + 1), flags: .signaled)
            if status != .posted { throw PerfEndpoint.refused("request", status) }
            posted += 1
            while try !pollSends() { try unsafe idle(endpoint.queues.sendCompletions) }
            watch.moved()
            if plan.validate { checkResult() }
        }
        _ = sample(since: last)
    }

    private var request: SendOperation {
        guard operation == .atomic else { return .read(from: remote) }
        if plan.atomic == .fetchAndAdd { return .fetchAndAdd(at: remote, 1) }
        return .compareAndSwap(at: remote, expected: UInt64(posted), desired: UInt64(posted) + 1)
    }

    private func clear() {
        // Inside the region, and nothing is in flight.
        unsafe endpoint.bytes(at: memory.address, count: size).initializeMemory(as: UInt8.self, repeating: 0xFF)
    }

    private func checkResult() {
        let bytes = unsafe UnsafeRawBufferPointer(endpoint.bytes(at: memory.address, count: size))
        if operation == .atomic {
            let found = unsafe bytes.loadUnaligned(as: UInt64.self)
            endpoint.check.add(found == UInt64(posted - 1) ? nil : 0)
        } else {
            unsafe endpoint.check.add(PayloadPattern(queuePair: 0, message: 0).firstDifference(in: bytes))
        }
    }
}

// Polling.
extension LatencyRun {
    /// Takes completions of sends, which are in order: the id is the number of the last that is done.
    @inline(__always)
    private mutating func pollSends() throws(PerfError) -> Bool {
        let count = try unsafe poll(endpoint.queues.sendCompletions)
        guard count > 0 else { return false }
        for entry in 0..<count {
            guard unsafe storage[entry].isSuccess else { throw unsafe failure(storage[entry]) }
            completed = unsafe Int(truncatingIfNeeded: storage[entry].id)
        }
        return true
    }

    @inline(__always)
    private func poll(_ queue: UnsafeMutablePointer<CompletionQueue>) throws(PerfError) -> Int {
        var span = unsafe storage.mutableSpan
        do throws(VerbsError) {
            return try unsafe queue.pointee.poll(into: &span)
        } catch {
            throw .device("\(error)")
        }
    }

    @inline(__always)
    private mutating func idle(_ queue: UnsafeMutablePointer<CompletionQueue>) throws(PerfError) {
        if plan.useEvents {
            do throws(VerbsError) {
                _ = try unsafe queue.pointee.wait(timeout: .milliseconds(100))
            } catch {
                throw .device("\(error)")
            }
            try watch.look(received + completed)
        } else {
            try watch.isIdle(count: received + completed)
        }
    }

    @inline(never)
    private func failure(_ completion: WorkCompletion) -> PerfError {
        .device("\(completion). \(received) messages were received and \(completed) completed before.")
    }
}
