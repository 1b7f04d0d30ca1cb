// SPDX-License-Identifier: Apache-2.0
import Verbs

/// One bandwidth run of one size: the loop that posts and polls, at either end, in one or both directions.
///
/// The loop allocates nothing and counts no references: queues, lanes and times are reached through pointers into
/// memory that this value and its endpoint own.
@safe struct BandwidthRun: ~Copyable {
    /// One queue pair's progress.
    struct Lane {
        /// Messages posted and known to be done.
        var posted = 0
        var completed = 0
        /// Posted since the last one that asked for a completion.
        var unsignaled = 0
        var received = 0
        /// Receives posted since the run began, those before it included.
        var receivesPosted = 0
        var local: SlotCursor
        var remote: SlotCursor
        var receive: SlotCursor
        var rkey: UInt32
    }

    static let pollCount = 16

    let endpoint: PerfEndpoint
    let plan: PerfPlan
    let size: Int
    let sends: Bool
    let receives: Bool
    /// Messages for each queue pair; `Int.max` in a timed run.
    let limit: Int
    /// Messages that end the run; `Int.max` in a timed run.
    let total: Int
    let baseFlags: SendFlags
    // Elements live as long as the endpoint or this value, whose deinit frees the lanes and the storage.
    let lanes: UnsafeMutablePointer<Lane>
    let storage: UnsafeMutableBufferPointer<WorkCompletion>
    let queuePairs: UnsafeMutablePointer<QueuePair>
    /// With `--validate`, the number of the message that each queue pair is to receive next.
    let checkedMessages: UnsafeMutablePointer<Int>

    var watch: RunWatch
    var window: DurationWindow?
    var times: BandwidthTimes
    var posted = 0
    var completed = 0
    var received = 0
    /// Messages of the counted part of a timed run.
    var counted = 0
    var firstReceived: UInt64 = 0
    /// A bidirectional SEND server begins when the client has: the client's receives are posted then.
    var maySend: Bool
    var isArmed = false

    init(endpoint: PerfEndpoint, size: Int, watch: RunWatch) {
        // Locals until all members have values: the optimiser destroys members of a partly initialised noncopyable
        // value whose others are read.
        let plan = endpoint.plan
        let sends = plan.bidirectional || !endpoint.isServer
        let receives = plan.test.operation == .send && (plan.bidirectional || endpoint.isServer)
        let total = plan.iterations.map { $0 * plan.queuePairs } ?? .max
        self.endpoint = endpoint
        self.size = size
        self.watch = watch
        self.plan = plan
        self.sends = sends
        self.receives = receives
        self.total = total
        limit = plan.iterations ?? .max
        maySend = !(receives && endpoint.isServer)
        let canInline = plan.test.operation == .send || plan.test.operation == .write
        baseFlags = canInline && size <= endpoint.inlineThreshold ? .inlined : []
        unsafe queuePairs = endpoint.queues.queuePairs
        unsafe storage = .allocate(capacity: Self.pollCount)
        unsafe storage.initialize(repeating: WorkCompletion())
        let lanes = UnsafeMutablePointer<Lane>.allocate(capacity: plan.queuePairs)
        unsafe checkedMessages = .allocate(capacity: plan.queuePairs)
        unsafe checkedMessages.initialize(repeating: 0, count: plan.queuePairs)
        let receiveSize = plan.test.operation == .send ? size : 0
        for index in 0..<plan.queuePairs {
            let target =
                plan.test.operation == .send
                ? SlotRing(base: 0, stride: 0, count: 1) : endpoint.targetRing(index, size: size)
            var receive = SlotCursor(endpoint.receiveRing(index, size: receiveSize))
            for _ in 0..<(receives ? endpoint.prepostedReceives : 0) { receive.advance() }
            unsafe (lanes + index).initialize(
                to: Lane(
                    receivesPosted: receives ? endpoint.prepostedReceives : 0,
                    local: SlotCursor(endpoint.sendRing(index, size: size)), remote: SlotCursor(target),
                    receive: receive, rkey: endpoint.peers[index].rkey))
        }
        unsafe self.lanes = lanes
        times = BandwidthTimes(count: plan.measuresPeak && sends ? total : 0)
    }

    deinit {
        unsafe storage.deinitialize().deallocate()
        unsafe lanes.deinitialize(count: plan.queuePairs).deallocate()
        unsafe checkedMessages.deallocate()
    }

    /// Runs to the end and says what was counted.
    mutating func measured() throws(PerfError) -> BandwidthMeasurement {
        let started = monotonicNanoseconds()
        if maySend { startWindow(at: started) }
        while !isOver {
            var moved = false
            if sends, maySend { moved = try postRound() }
            if sends, try pollSends() { moved = true }
            if receives, try pollReceives() { moved = true }
            if window != nil { window?.advance(to: monotonicNanoseconds()) }
            if moved {
                watch.moved()
            } else {
                try idle()
            }
        }
        let ended = monotonicNanoseconds()
        watch.finish()
        if let window {
            return BandwidthMeasurement(size: size, messages: counted, nanoseconds: window.countedNanoseconds)
        }
        // A one-way receiver's time begins with the first message.
        let begin = sends ? started : firstReceived
        return BandwidthMeasurement(
            size: size, messages: total, nanoseconds: ended - begin,
            leastNanosecondsPerMessage: times.count > 0
                ? times.leastNanosecondsPerMessage(postList: plan.postList) : nil)
    }

    private var isOver: Bool {
        if let window { return window.phase == .over }
        return (!sends || completed >= total) && (!receives || received >= total) && plan.iterations != nil
    }

    private mutating func startWindow(at now: UInt64) {
        guard case .seconds(let seconds, let margin) = plan.length, window == nil else { return }
        window = DurationWindow(start: now, seconds: seconds, margin: margin)
        window?.advance(to: now)
    }

    mutating func firstMessage() {
        firstReceived = monotonicNanoseconds()
        maySend = sends
        startWindow(at: firstReceived)
    }

    /// Nothing to post and nothing to poll.
    @inline(never)
    private mutating func idle() throws(PerfError) {
        guard let channel = endpoint.queues.channel else {
            return try watch.isIdle(count: completed + received)
        }
        do throws(VerbsError) {
            // Armed first, then polled once more, then waited for: a completion between would make no event.
            if !isArmed {
                if sends { try unsafe endpoint.queues.sendCompletions.pointee.arm() }
                if receives { try unsafe endpoint.queues.receiveCompletions.pointee.arm() }
                isArmed = true
                return
            }
            isArmed = false
            _ = try channel.wait(timeout: .milliseconds(100))
        } catch {
            throw .device("\(error)")
        }
        try watch.look(completed + received)
    }
}
