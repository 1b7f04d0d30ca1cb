// SPDX-License-Identifier: Apache-2.0
import RoCETransport

/// Gilbert and Elliott's model of losses that come in bursts: a link is good or bad, and in the bad state loses more.
struct BurstLoss: CustomStringConvertible {
    /// The chance that a frame finds the link gone bad.
    var enter: Double
    /// The chance that the next frame finds it good again; bursts are `1 / leave` frames long.
    var leave: Double
    /// The loss in the bad state.
    var loss: Double

    var description: String { "\(enter)/\(leave) at \(loss)" }
}

/// When the processors of a busy host run a node: once in each period, at a time that chance chooses.
struct RunSlices: CustomStringConvertible {
    var periodNanoseconds: UInt64
    var runNanoseconds: UInt64
    var seed: UInt64
    /// Before that it runs always, and from the end on again.
    var start: Timestamp = 0
    var end: Timestamp = .max

    /// The first time from `time` on at which the node runs.
    func next(from time: Timestamp) -> Timestamp {
        if time < start || time >= end { return time }
        var period = time / periodNanoseconds
        while true {
            var generator = SeededGenerator(seed: seed &+ period &* 0x9E37_79B9)
            let begin =
                period * periodNanoseconds + generator.next() % (periodNanoseconds - runNanoseconds)
            if time < begin + runNanoseconds { return min(max(time, begin), end) }
            period += 1
        }
    }

    var description: String { "runs \(runNanoseconds) of \(periodNanoseconds) ns from \(start)" }
}

/// What the link to a node does to frames; perfect by default.
struct NetworkOptions: CustomStringConvertible {
    var loss = 0.0
    var burstLoss: BurstLoss?
    var duplication = 0.0
    var reordering = 0.0
    var corruption = 0.0
    var delayNanoseconds: UInt64 = 1_000
    var jitterNanoseconds: UInt64 = 0
    /// What the link carries; 0 for no limit. Without one there is no queue.
    var bitsPerSecond: UInt64 = 0
    /// What waits before the link at most; the rest is dropped.
    var queueBytes = Int.max
    /// Where frames that find more waiting are marked with congestion experienced, if they are capable of it.
    var markBytes = Int.max
    /// The node looks for frames at multiples of this only, as a busy host does: they come in batches.
    var pollNanoseconds: UInt64 = 0
    /// The chance that a frame finds its host asleep, and for how long: nothing behind it gets through before.
    var stall = 0.0
    var stallNanoseconds: UInt64 = 0
    /// How much later the node takes a frame that finds it idle for a tenth of a millisecond: it sleeps.
    var wakeNanoseconds: UInt64 = 0
    /// The node runs at these times only: frames and timers wait for them.
    var slices: RunSlices?

    var description: String {
        var text = "loss \(loss)"
        if let burstLoss { text += " bursts \(burstLoss)" }
        text += " duplication \(duplication) reordering \(reordering) corruption \(corruption)"
        text += " delay \(delayNanoseconds)+\(jitterNanoseconds) ns"
        if bitsPerSecond > 0 {
            text += " at \(bitsPerSecond / 1_000_000) Mb/s"
            if queueBytes < .max { text += " queue \(queueBytes)" }
            if markBytes < .max { text += " mark \(markBytes)" }
        }
        if pollNanoseconds > 0 { text += " poll \(pollNanoseconds) ns" }
        if stall > 0 { text += " stall \(stall) of \(stallNanoseconds) ns" }
        if wakeNanoseconds > 0 { text += " wakes in \(wakeNanoseconds) ns" }
        if let slices { text += " \(slices)" }
        return text
    }
}

/// One link in virtual time: the last port of a switch, with its queue, and the cable to the node behind it.
///
/// Frames stay in order, whatever the jitter, but for `reordering`, which holds one back.
struct SimulatedLink {
    /// What a link did.
    struct Counts {
        var carriedBytes = 0
        var lost = 0
        var overflowed = 0
        var marked = 0
    }

    /// What becomes of a frame that is not lost.
    struct Passage {
        var arrival: Timestamp
        /// When a copy arrives.
        var copyArrival: Timestamp?
        var isMarked = false
        var isCorrupted = false
    }

    /// Ethernet's preamble, header, check sequence and gap, and the IPv4 and UDP headers.
    static let overheadBytes = 66

    let options: NetworkOptions
    private(set) var counts = Counts()
    private var isBad = false
    /// When the last frame of the queue will have left.
    private var busyUntil: Timestamp = 0
    private var latest: Timestamp = 0

    init(options: NetworkOptions) { self.options = options }

    /// Takes a frame; `nil` if it is lost.
    mutating func carry(
        byteCount: Int, isMarkable: Bool, now: Timestamp, _ generator: inout SeededGenerator
    ) -> Passage? {
        if isLost(&generator) {
            counts.lost += 1
            return nil
        }
        guard let (departure, isMarked) = enqueue(byteCount + Self.overheadBytes, isMarkable: isMarkable, now: now)
        else {
            counts.overflowed += 1
            return nil
        }
        var time = departure + options.delayNanoseconds
        if options.jitterNanoseconds > 0 { time += generator.next() % options.jitterNanoseconds }
        if generator.chance(options.stall) { time += options.stallNanoseconds }
        if options.wakeNanoseconds > 0, time > latest + 100_000 { time += options.wakeNanoseconds }
        time = max(time, latest)
        if options.pollNanoseconds > 0 {
            time += options.pollNanoseconds - 1
            time -= time % options.pollNanoseconds
        }
        if let slices = options.slices { time = slices.next(from: time) }
        latest = time
        if generator.chance(options.reordering) {
            time += 1 + generator.next() % (4 * options.delayNanoseconds + 2_000)
        }
        var passage = Passage(arrival: time, isMarked: isMarked)
        passage.isCorrupted = generator.chance(options.corruption)
        if generator.chance(options.duplication) {
            passage.copyArrival = time + generator.next() % (2 * options.delayNanoseconds + 1)
        }
        return passage
    }

    private mutating func isLost(_ generator: inout SeededGenerator) -> Bool {
        if let burst = options.burstLoss {
            isBad = isBad ? !generator.chance(burst.leave) : generator.chance(burst.enter)
            if isBad, generator.chance(burst.loss) { return true }
        }
        return generator.chance(options.loss)
    }

    /// When a frame has left the queue, and whether it was marked there; `nil` if it found no room.
    private mutating func enqueue(
        _ byteCount: Int, isMarkable: Bool, now: Timestamp
    ) -> (departure: Timestamp, isMarked: Bool)? {
        guard options.bitsPerSecond > 0 else { return (now, false) }
        let wait = busyUntil > now ? busyUntil - now : 0
        let waitingBytes = Int(wait * options.bitsPerSecond / 8_000_000_000)
        guard waitingBytes + byteCount <= options.queueBytes else { return nil }
        let isMarked = isMarkable && waitingBytes > options.markBytes
        if isMarked { counts.marked += 1 }
        counts.carriedBytes += byteCount
        busyUntil = now + wait + max(UInt64(byteCount) * 8_000_000_000 / options.bitsPerSecond, 1)
        return (busyUntil, isMarked)
    }
}
