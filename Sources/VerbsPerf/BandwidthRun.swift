// SPDX-License-Identifier: Apache-2.0
import Verbs

/// One bandwidth run of one size: the loop that posts and polls, at either end, in one or both directions.
///
/// The loop allocates nothing and counts no references: queues, lanes and times are reached through pointers into
/// memory that this value and its endpoint own.
@safe struct BandwidthRun {
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
    // What the loop would otherwise ask other objects for at each message.
    let operation: PerfTest.Operation
    let isDatagram: Bool
    let measuresPeak: Bool
    let lkey: UInt32
    /// Receives posted at a time, and the bytes of each.
    let receiveDepth: Int
    let receiveLength: UInt32
    /// Receives that one lane is to post in all: a shared queue has one lane's places.
    let receiveLimit: Int
    /// Owns what the next pointers point to; the endpoint owns the rest.
    private let memory: BandwidthMemory
    let lanes: UnsafeMutablePointer<Lane>
    let storage: UnsafeMutableBufferPointer<WorkCompletion>
    let postedTimes: UnsafeMutablePointer<UInt64>
    let completedTimes: UnsafeMutablePointer<UInt64>
    /// With `--validate`, the number of the message that each queue pair is to receive next.
    let checkedMessages: UnsafeMutablePointer<Int>
    let queuePairs: UnsafeMutablePointer<QueuePair>
    let destinations: UnsafeMutablePointer<DatagramDestination>
    let sendCompletions: UnsafeMutablePointer<CompletionQueue>
    let receiveCompletions: UnsafeMutablePointer<CompletionQueue>

    var watch: RunWatch
    var window: DurationWindow?
    var posted = 0
    var completed = 0
    var received = 0
    /// Messages of the counted part of a timed run.
    var counted = 0
    var firstReceived: UInt64 = 0
    /// Looked at for unreliable transports only, where the last message is known afterwards.
    var lastReceived: UInt64 = 0
    /// A bidirectional SEND server begins when the client has: the client's receives are posted then.
    var maySend: Bool
    var isArmed = false

    init(endpoint: PerfEndpoint, size: Int, watch: RunWatch) {
        self.endpoint = endpoint
        self.size = size
        self.watch = watch
        plan = endpoint.plan
        operation = plan.test.operation
        isDatagram = plan.connection == .ud
        sends = plan.bidirectional || !endpoint.isServer
        receives = operation == .send && (plan.bidirectional || endpoint.isServer)
        maySend = !(receives && endpoint.isServer)
        measuresPeak = plan.measuresPeak && sends
        limit = plan.iterations ?? .max
        total = plan.iterations.map { [plan] in $0 * plan.queuePairs } ?? .max
        let canInline = operation == .send || operation == .write
        baseFlags = canInline && size <= endpoint.inlineThreshold ? .inlined : []
        lkey = endpoint.region.lkey
        receiveDepth = receives ? endpoint.prepostedReceives : 0
        receiveLength = UInt32(endpoint.receiveLength(size))
        receiveLimit = endpoint.queues.hasSharedReceives ? total : limit
        unsafe queuePairs = endpoint.queues.queuePairs
        unsafe destinations = endpoint.queues.destinations
        unsafe sendCompletions = endpoint.queues.sendCompletions
        unsafe receiveCompletions = endpoint.queues.receiveCompletions
        memory = BandwidthMemory(timeCount: measuresPeak ? total : 0, lanes: Self.lanes(endpoint, size, receiveDepth))
        unsafe lanes = memory.lanes
        unsafe storage = memory.storage
        unsafe postedTimes = memory.times.posted
        unsafe completedTimes = memory.times.completed
        unsafe checkedMessages = memory.checkedMessages
    }

    private static func lanes(_ endpoint: PerfEndpoint, _ size: Int, _ receiveDepth: Int) -> [Lane] {
        let isSend = endpoint.plan.test.operation == .send
        return (0..<endpoint.plan.queuePairs).map { index in
            let target = isSend ? SlotRing(base: 0, stride: 0, count: 1) : endpoint.targetRing(index, size: size)
            var receive = SlotCursor(endpoint.receiveRing(index, size: isSend ? size : 0))
            for _ in 0..<receiveDepth { receive.advance() }
            return Lane(
                receivesPosted: receiveDepth, local: SlotCursor(endpoint.sendRing(index, size: size)),
                remote: SlotCursor(target), receive: receive, rkey: endpoint.peers[index].rkey)
        }
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
        // A one-way receiver's time begins with the first message and ends with the last, not with the wait for more.
        let begin = sends ? started : received > 0 ? firstReceived : ended
        return BandwidthMeasurement(
            size: size, messages: sends ? total : received, nanoseconds: (lost > 0 ? lastReceived : ended) - begin,
            leastNanosecondsPerMessage: measuresPeak
                ? memory.times.leastNanosecondsPerMessage(postList: plan.postList) : nil)
    }

    private var isOver: Bool {
        if let window { return window.phase == .over }
        return (!sends || completed >= total) && (!receives || received >= total || isRestLost)
            && plan.iterations != nil
    }

    /// UC and UD do not repeat what is lost. The receiver of a sender that has finished need not wait for it, and two
    /// ends that have both sent all they had need not wait for each other.
    private var isRestLost: Bool {
        plan.connection != .rc && (watch.isPeerDone || (sends && completed >= total && watch.isQuiet))
    }

    /// Messages that were sent to this end and did not come, once the run is over.
    var lost: Int { receives && plan.iterations != nil ? total - received : 0 }

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
