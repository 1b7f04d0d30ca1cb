// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// How much a requester may have unacknowledged: a window of packets, which may be less than one.
///
/// *Start.* The window begins with `EngineConfiguration.windowInitialBytes` and doubles with every round trip until
/// something says that it is too large; from then on it grows by an eighth of a packet a round trip, after a while by a
/// whole one, and the less the nearer the delay is to its target. It grows only where it is what limits the sender.
///
/// *Delay.* One packet at a time is timed until it is acknowledged. The lowest round trip of the last 30 to 60 seconds is
/// the way itself; what is above it is a queue, on the way or at the peer. Where that is longer than the target, the window
/// shrinks in proportion, by half at most and once a round trip, as in Swift (SIGCOMM 2020). The target is
/// `delayTargetNanoseconds` and more for small windows, half more at one packet and five times as much at the most, so that
/// they grow while large ones shrink.
///
/// *Noise.* A host that sleeps makes some round trips long, a queue makes them all so: the lower of the last two counts; and
/// below the initial window delay is believed only after a loss or a mark, or sixteen long round trips in a row; and below
/// four packets only for a second after a loss or a mark, since the fewer packets there are the longer a host sleeps before
/// each. No queue that loses nothing and marks nothing is 4 ms long, and few others are 16 ms, but the pauses of a process on
/// a busy machine are, so these are not looked at. And a queue shortens as windows do: where the delay is all gone after the
/// first cut, there was none, and the window is what it was. On one host there is no queue but only sleeping, so there the
/// delay is not looked at.
///
/// *Marks.* A notification of congestion, or a READ response with the mark, halves the window if nothing narrowed it for
/// twelve round trips, and otherwise takes off an eighth, once a round trip: the same for all that share a queue.
///
/// *Loss* halves the window, once for what was in flight. After a timeout it starts again from one packet, on one host from
/// four.
///
/// *Minimum and pacing.* The window may shrink to 1/64 packet, so that hundreds of senders share one link. Below four
/// packets it is paced: a packet leaves every `roundTrip / window`, and at least every 16 ms; what a late timer missed is
/// made up for, over a round trip. Larger windows leave in bursts, which cost the kernel little more than a packet. On one
/// host the minimum is two packets, and nothing is paced.
struct CongestionWindow {
    /// A window of one packet.
    private static let packet: Int32 = 256
    private static let pauseNanosecondsMax: UInt64 = 16_000_000
    /// The longest way that is believed at once.
    private static let nearNanoseconds: UInt32 = 100_000
    /// For how long a loss or a mark is remembered.
    private static let evidenceNanoseconds: UInt64 = 1_000_000_000
    /// Smaller windows are paced.
    private static let pacedMax: Int32 = 4 * Self.packet
    /// What is longer is a process that does not run.
    private static let queueNanosecondsMax: Int64 = 4_000_000
    private static let crowdedMax: Int32 = 16
    private static let calmMax: Int32 = 12
    private static let cutsInVainMax: UInt8 = 6
    /// The lowest round trip is kept for one to two of these.
    private static let basePeriodNanoseconds: UInt64 = 30_000_000_000

    /// Whole packets that may be in flight.
    private(set) var limit: Int32 = 2
    /// No packet may leave before, if the window is paced; 0 otherwise.
    private(set) var pauseEnd: Timestamp = 0
    /// Sending stopped because the window was full, so it is worth enlarging, and has to do with the delay.
    var isLimiting = false

    // In 1/256 packet.
    private var size: Int32 = 512
    private var sizeMin: Int32 = 512
    private var sizeMax: Int32 = 512
    /// Where slow start ends.
    private var threshold: Int32 = 512
    private var isPaced = false
    /// Acknowledged since the last increase.
    private var credit: Int32 = 0
    /// Never narrowed nor widened: congestion control is off.
    private var isFixed = false

    /// The window was narrowed, and packets before `recoveryPSN` are not acknowledged: what happens to them has the same
    /// cause.
    private var isRecovering = false
    private var recoveryPSN = PSN(truncating: 0)

    // Delay.
    private var usesDelay = false
    private var targetNanoseconds: UInt32 = 0
    private var isTiming = false
    private var timedPSN = PSN(truncating: 0)
    private var timedAt: Timestamp = 0
    /// The last round trip, and the one before.
    private var last: UInt32 = .max
    private var previous: UInt32 = .max
    /// The lowest of this period, and of the one before.
    private var base: UInt32 = .max
    private var previousBase: UInt32 = .max
    private var basePeriodEnd: Timestamp = 0
    /// A longer way than this is believed only after the window was narrowed in vain: what looks like the way may be a queue
    /// that stood there at the start, and who takes it for the way would never let it drain.
    private var baseMax: UInt32 = Self.nearNanoseconds
    private var cutsInVain: UInt8 = 0
    /// The window before them.
    private var sizeBeforeCuts: Int32 = 0
    /// What is left until the delay reaches its target, in 1/256 of it.
    private var headroom: Int32 = 256

    /// Below this, delay alone does not narrow the window.
    private var sizeInitial: Int32 = 512
    /// Round trips in a row with a queue beyond the target.
    private var crowded: Int32 = 0
    /// Until when a loss or a mark is remembered.
    private var evidenceEnd: Timestamp = 0
    /// Round trips since the window was narrowed.
    private var calm = Self.calmMax

    /// The start of a connection.
    mutating func open(_ configuration: EngineConfiguration, mtuShift: UInt8, isSameHost: Bool) {
        let packetsMax = Swift.max(2, Swift.min(configuration.windowMaxBytes >> Int(mtuShift), 1 << 20))
        let initial = configuration.windowInitialBytes >> Int(mtuShift)
        self = CongestionWindow()
        isFixed = !configuration.congestionControl
        usesDelay = !isFixed && !isSameHost
        targetNanoseconds = configuration.delayTargetNanoseconds
        sizeMax = Int32(packetsMax) * Self.packet
        sizeMin = usesDelay ? Self.packet / 64 : 2 * Self.packet
        threshold = sizeMax
        sizeInitial = Int32(Swift.max(2, Swift.min(initial, packetsMax))) * Self.packet
        set(isFixed ? sizeMax : sizeInitial)
    }

    private mutating func set(_ new: Int32) {
        size = Swift.max(sizeMin, Swift.min(new, sizeMax))
        isPaced = usesDelay && size < Self.pacedMax
        limit = isPaced ? (size + Self.packet - 1) / Self.packet : size / Self.packet
        if !isPaced { pauseEnd = 0 }
    }

    // MARK: Sending

    /// A packet that will be answered leaves, for the first time.
    @inline(__always)
    mutating func noteSent(_ psn: PSN, isAnswered: Bool, now: Timestamp) {
        if isAnswered, !isTiming {
            isTiming = true
            timedPSN = psn
            timedAt = now
        }
        if isPaced { pause(after: psn, now) }
    }

    private mutating func pause(after psn: PSN, _ now: Timestamp) {
        let lower = Swift.min(last, previous)
        let roundTrip = UInt64(lower == .max ? 0 : lower)
        // Half to one and a half of it, by chance (PSNs start at random): senders that were stopped together would go on
        // in step, and meet the queue that they make themselves.
        let chance = UInt64((psn.rawValue &* 0x9E37_79B1) >> 24)
        let interval = Swift.min(roundTrip * (128 + chance) / UInt64(size), Self.pauseNanosecondsMax)
        pauseEnd = Swift.max(pauseEnd, now &- Swift.min(roundTrip, now)) &+ interval
    }

    /// What was sent is sent again, so an acknowledgement does not tell which of the two it is for.
    mutating func forgetTiming() { isTiming = false }

    // MARK: Acknowledgements

    /// Packets before `unackedPSN` were acknowledged.
    mutating func noteAcknowledged(
        _ packets: Int, unackedPSN: PSN, endPSN: PSN, inFlight: Int, now: Timestamp
    ) {
        if isFixed { return }
        if isRecovering { isRecovering = unackedPSN - recoveryPSN < 0 }
        if isTiming, unackedPSN - timedPSN > 0 {
            isTiming = false
            noteRoundTrip(
                now &- timedAt, isUsed: isLimiting || inFlight >= Int(limit) / 2, endPSN: endPSN, now: now)
        }
        if !isRecovering, isLimiting, size < sizeMax, headroom > 0 { widen(by: packets) }
        if inFlight < Int(limit) / 2 { isLimiting = false }
    }

    private mutating func widen(by packets: Int) {
        let acknowledged = Int32(Swift.min(packets, 1 << 20)) * Self.packet
        if size < threshold, size >= Self.packet {
            set(size + acknowledged)
            return
        }
        let growth = headroom * step / Self.packet
        if size < Self.packet {
            // A packet is more than a window, and stands for the round trips between two.
            set(size + Swift.max(Swift.min(growth * Self.packet / size, size / 2), 1))
            return
        }
        credit += acknowledged
        guard credit >= size else { return }
        credit = Swift.min(credit - size, size)
        set(size + growth)
    }

    /// The most that a round trip adds: the same for all that share a queue, whatever their windows, so they become equal.
    private var step: Int32 { !usesDelay ? Self.packet : isPaced ? Self.packet / 8 : Self.packet / 8 << (calm / 4) }

    private mutating func noteRoundTrip(_ nanoseconds: UInt64, isUsed: Bool, endPSN: PSN, now: Timestamp) {
        previous = last
        last = UInt32(clamping: Swift.max(nanoseconds, 1))
        if now >= basePeriodEnd {
            basePeriodEnd = now &+ Self.basePeriodNanoseconds
            previousBase = base
            base = last
        }
        base = Swift.min(base, last)
        calm = Swift.min(calm + 1, Self.calmMax)
        guard usesDelay else { return }
        let hasEvidence = now < evidenceEnd
        if isPaced, !hasEvidence {
            headroom = 256
            crowded = 0
            return
        }
        let delay = Swift.min(last, previous)
        let queue = Int64(delay) - wayNanoseconds
        guard queue < Self.queueNanosecondsMax * (hasEvidence ? 4 : 1) else { return }
        let target = target
        headroom = Int32(clamping: Swift.max(target - queue, 0) * 256 / target)
        guard queue > target else {
            cutsInVain = 0
            crowded = 0
            return
        }
        crowded = Swift.min(crowded + 1, Self.crowdedMax)
        guard isUsed, !isRecovering else { return }
        doubtQueue()
        guard cutsInVain < Self.cutsInVainMax || size > sizeBeforeCuts / 2 else { return believeWay(delay) }
        let floor =
            hasEvidence ? sizeMin : crowded == Self.crowdedMax ? Swift.min(Self.pacedMax, sizeInitial) : sizeInitial
        guard size > floor else { return }
        // The queue's part of the delay above the target, but for a fifth.
        let cut = Int64(size) * (queue - target) * 4 / (5 * Int64(delay))
        narrow(to: Swift.max(size - Int32(Swift.min(cut, Int64(size / 2))), floor), endPSN: endPSN)
    }

    /// The round trip without a queue, as far as known.
    private var wayNanoseconds: Int64 { Int64(Swift.min(base, previousBase, baseMax)) }

    /// A queue was seen, but no round trip was ever so short as to tell it from a long way.
    private mutating func doubtQueue() {
        guard Swift.min(base, previousBase) > baseMax else { return cutsInVain = 0 }
        if cutsInVain == 0 { sizeBeforeCuts = size }
        cutsInVain = Swift.min(cutsInVain + 1, Self.cutsInVainMax)
    }

    /// The window shrank to a half, and the delay did not: the peer is far away, and the window is what it was.
    private mutating func believeWay(_ delay: UInt32) {
        cutsInVain = 0
        baseMax = delay
        threshold = sizeMax
        set(sizeBeforeCuts)
    }

    private var target: Int64 {
        let target = Float(Swift.max(targetNanoseconds, 1))
        let packets = Float(size) / Float(Self.packet)
        return Int64(target + Swift.min(4 * target, target / 2 / packets.squareRoot()))
    }

    // MARK: Congestion

    private mutating func narrow(to new: Int32, endPSN: PSN) {
        isRecovering = true
        recoveryPSN = endPSN
        set(new)
        threshold = size
        credit = 0
        calm = 0
    }

    /// Packets were lost.
    mutating func noteLoss(endPSN: PSN, now: Timestamp) {
        if isFixed || isRecovering { return }
        evidenceEnd = now &+ Self.evidenceNanoseconds
        narrow(to: size / 2, endPSN: endPSN)
    }

    /// A packet met congestion on its way.
    mutating func noteMark(endPSN: PSN, now: Timestamp) {
        if isFixed || isRecovering { return }
        evidenceEnd = now &+ Self.evidenceNanoseconds
        narrow(to: size - size / (calm == Self.calmMax ? 2 : 8), endPSN: endPSN)
    }

    /// Nothing came back at all.
    mutating func noteTimeout(now: Timestamp) {
        if isFixed { return }
        evidenceEnd = now &+ Self.evidenceNanoseconds
        threshold = usesDelay ? sizeMin : size / 2
        set(usesDelay ? Swift.min(size / 2, Self.packet) : Swift.min(size / 2, 4 * Self.packet))
        credit = 0
        calm = 0
        isRecovering = false
    }
}
