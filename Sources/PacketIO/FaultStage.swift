// SPDX-License-Identifier: Apache-2.0

/// Something that takes one burst at a time: what a ``FaultStage`` sends through.
protocol BurstSink: ~Copyable {
    /// `false` means full: offer it again later.
    mutating func sendOne(_ burst: Burst) -> Bool
    var counters: LinkCounters { get set }
}

/// Applies a ``FaultInjector`` to what is sent, and keeps the frames that are held back.
///
/// A burst of several segments shares one fate, because a burst with a hole could not be sent so that the rest keep the
/// IPv4 identifications that their ICRCs were made for. A link with faults therefore asks for bursts of one segment
/// (`maximumSegments` is 1), and then the fate is per frame.
@safe struct FaultStage: ~Copyable {
    private static let capacity = 64
    /// Longer ones are not held back but sent.
    private static let frameBytesMax = 9_216
    /// A frame that waits for others to overtake it goes after this time without.
    private static let overtakeNanoseconds: UInt64 = 2_000_000

    private struct Held {
        var burst: Burst
        /// Frames that have still to pass; `Int.max` where only time counts.
        var remaining: Int
        var releaseAt: UInt64
    }

    private var injector: FaultInjector
    /// The fate of a burst that the sink had no room for: it is not drawn again.
    private var pending: FaultInjector.Decision?
    /// `capacity` frames, by index as in `held`; entries are `nil` where free. Owned by the stage.
    private let frames: UnsafeMutableRawPointer
    private var held: [Held?]
    private var heldCount = 0
    /// For a corrupted copy.
    private let scratch: UnsafeMutableRawPointer

    init(_ plan: FaultPlan) {
        injector = FaultInjector(plan)
        unsafe frames = .allocate(byteCount: Self.capacity * Self.frameBytesMax, alignment: 64)
        unsafe scratch = .allocate(byteCount: 65_536, alignment: 64)
        held = [Held?](repeating: nil, count: Self.capacity)
    }

    deinit {
        unsafe frames.deallocate()
        unsafe scratch.deallocate()
    }

    /// Sends bursts through the sink with what the plan does to them; returns how many are done with.
    mutating func send<Sink: BurstSink & ~Copyable>(
        _ bursts: UnsafeBufferPointer<Burst>, through sink: inout Sink, now: UInt64
    ) -> Int {
        for index in 0..<bursts.count {
            let burst = unsafe bursts[index]
            guard burst.byteCount > 0, burst.byteCount <= 65_536 else { continue }
            let decision = pending ?? injector.decide(byteCount: burst.byteCount)
            guard apply(decision, to: burst, through: &sink, now: now) else {
                pending = decision
                return index
            }
            pending = nil
            pass(through: &sink)
        }
        return bursts.count
    }

    /// Sends what has waited long enough. Returns when the next is due, `UInt64.max` for none.
    mutating func release<Sink: BurstSink & ~Copyable>(through sink: inout Sink, now: UInt64) -> UInt64 {
        guard heldCount > 0 else { return .max }
        var next = UInt64.max
        for index in held.indices {
            guard let frame = held[index] else { continue }
            if frame.releaseAt <= now {
                // A full queue at this point is one more loss, which the transport is there to mend.
                if !sink.sendOne(frame.burst) { sink.counters.faultsDropped += 1 }
                held[index] = nil
                heldCount -= 1
            } else {
                next = min(next, frame.releaseAt)
            }
        }
        return next
    }

    private mutating func apply<Sink: BurstSink & ~Copyable>(
        _ decision: FaultInjector.Decision, to burst: Burst, through sink: inout Sink, now: UInt64
    ) -> Bool {
        if decision.isDropped {
            sink.counters.faultsDropped += 1
            return true
        }
        var burst = burst
        if let bit = decision.corruptBit {
            unsafe scratch.copyMemory(from: burst.base, byteCount: burst.byteCount)
            let byte = unsafe scratch.load(fromByteOffset: bit / 8, as: UInt8.self)
            unsafe scratch.storeBytes(of: byte ^ 1 << UInt8(bit % 8), toByteOffset: bit / 8, as: UInt8.self)
            unsafe burst.base = UnsafeRawPointer(scratch)
        }
        let isHeld =
            (decision.overtakenBy != nil || decision.isDelayed)
            && hold(burst, overtakenBy: decision.overtakenBy, isDelayed: decision.isDelayed, now: now)
        if !isHeld { guard sink.sendOne(burst) else { return false } }
        // Of a duplicated frame that is held back the copy goes first.
        if decision.isDuplicated {
            sink.counters.faultsDuplicated += 1
            _ = sink.sendOne(burst)
        }
        if decision.corruptBit != nil { sink.counters.faultsCorrupted += 1 }
        if isHeld, decision.isDelayed { sink.counters.faultsDelayed += 1 }
        if isHeld, !decision.isDelayed { sink.counters.faultsReordered += 1 }
        return true
    }

    /// Keeps a copy; `false` where there is no room, and the frame goes as it would have.
    private mutating func hold(_ burst: Burst, overtakenBy: Int?, isDelayed: Bool, now: UInt64) -> Bool {
        guard burst.byteCount <= Self.frameBytesMax, let index = held.firstIndex(where: { $0 == nil }) else {
            return false
        }
        let copy = unsafe frames + index * Self.frameBytesMax
        unsafe copy.copyMemory(from: burst.base, byteCount: burst.byteCount)
        var burst = burst
        unsafe burst.base = UnsafeRawPointer(copy)
        held[index] = Held(
            // The frame itself passes at once: see `send`.
            burst: burst, remaining: isDelayed ? .max : (overtakenBy ?? 1) + 1,
            releaseAt: now + (isDelayed ? injector.plan.delayNanoseconds : Self.overtakeNanoseconds))
        heldCount += 1
        return true
    }

    /// One frame has gone by: those that were waiting for it go.
    private mutating func pass<Sink: BurstSink & ~Copyable>(through sink: inout Sink) {
        guard heldCount > 0 else { return }
        for index in held.indices {
            guard var frame = held[index], frame.remaining != .max else { continue }
            frame.remaining -= 1
            held[index] = frame
            guard frame.remaining == 0 else { continue }
            if !sink.sendOne(frame.burst) { sink.counters.faultsDropped += 1 }
            held[index] = nil
            heldCount -= 1
        }
    }
}
