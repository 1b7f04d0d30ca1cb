// SPDX-License-Identifier: Apache-2.0

/// What all RC queue pairs together have in flight to each process of this host, and those that wait until it is less.
///
/// A process has one receive buffer, however many queue pairs share it. The window of one queue pair is made for that
/// buffer; those of a thousand would overflow it, and on one host there is no delay that would tell them. So what is in
/// flight to a process is bounded as if it were one queue pair's, and who finds the bound reached waits its turn.
///
/// ```
///   turn comes, bound reached              acknowledgements came
///  ───────────────────────────▶ waiting ─────────────────────────▶ its turn, in the order of waiting
///                                  │      nothing came for a while
///                                  └──────────────────────────────▶ its turn all the same
/// ```
/// The second way out is there because what a queue pair without timeout has sent to nobody is in flight for ever.
@safe struct HostShares: ~Copyable {
    @safe private struct Share {
        var inFlightBytes = 0
        /// When it was last less than before, or nobody waited.
        var movedAt: Timestamp = 0
        var first: UnsafeMutablePointer<QueuePair>?
        var last: UnsafeMutablePointer<QueuePair>?
    }

    /// How long those that wait look on while nothing moves.
    static let patienceNanoseconds: UInt64 = 5_000_000

    private let bytesMax: Int
    /// One for each slot; allocated here, freed in `deinit`.
    private let shares: UnsafeMutablePointer<Share>
    /// Slots where somebody waits and may have a turn, a bit each.
    private var ready = InlineArray<4, UInt64>(repeating: 0)
    /// Slots where somebody waits, a bit each.
    private var waiting = InlineArray<4, UInt64>(repeating: 0)
    private(set) var waitingCount = 0

    init(bytesMax: Int) {
        self.bytesMax = bytesMax
        unsafe shares = .allocate(capacity: 256)
        unsafe shares.initialize(repeating: Share(), count: 256)
    }

    deinit { unsafe shares.deallocate() }

    /// Whether what is in flight to a process lets another turn start.
    @inline(__always)
    func hasRoom(_ slot: UInt8, now: Timestamp) -> Bool {
        unsafe shares[Int(slot)].inFlightBytes < bytesMax
            || now >= shares[Int(slot)].movedAt &+ Self.patienceNanoseconds
    }

    /// A queue pair's part has changed.
    @inline(__always)
    mutating func change(_ slot: UInt8, by bytes: Int, now: Timestamp) {
        unsafe shares[Int(slot)].inFlightBytes += bytes
        guard unsafe bytes < 0 || shares[Int(slot)].first == nil else { return }
        unsafe shares[Int(slot)].movedAt = now
        if unsafe shares[Int(slot)].first != nil { setReady(slot) }
    }

    private mutating func setReady(_ slot: UInt8) { ready[Int(slot >> 6)] |= 1 << UInt64(slot & 63) }

    // MARK: Waiting

    /// Puts a queue pair behind those that wait already.
    mutating func wait(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        guard unsafe !queuePair.pointee.isWaitingForHost else { return }
        let slot = unsafe Int(queuePair.pointee.hostSlot)
        unsafe queuePair.pointee.isWaitingForHost = true
        unsafe queuePair.pointee.nextWaitingForHost = nil
        if let last = unsafe shares[slot].last {
            unsafe last.pointee.nextWaitingForHost = unsafe queuePair
        } else {
            unsafe shares[slot].first = unsafe queuePair
            waiting[slot >> 6] |= 1 << UInt64(slot & 63)
        }
        unsafe shares[slot].last = unsafe queuePair
        waitingCount += 1
    }

    /// Takes one that may have its turn now.
    @inline(__always)
    mutating func next(now: Timestamp) -> UnsafeMutablePointer<QueuePair>? {
        unsafe waitingCount > 0 ? takeReady(now: now) : nil
    }

    private mutating func takeReady(now: Timestamp) -> UnsafeMutablePointer<QueuePair>? {
        for word in 0..<4 {
            while ready[word] != 0 {
                let slot = word << 6 | ready[word].trailingZeroBitCount
                if let first = unsafe shares[slot].first, hasRoom(UInt8(truncatingIfNeeded: slot), now: now) {
                    unsafe removeFirst(first, slot)
                    return unsafe first
                }
                ready[word] &= ready[word] &- 1
            }
        }
        return nil
    }

    private mutating func removeFirst(_ first: UnsafeMutablePointer<QueuePair>, _ slot: Int) {
        unsafe shares[slot].first = unsafe first.pointee.nextWaitingForHost
        if unsafe shares[slot].first == nil { leaveNobody(slot) }
        unsafe first.pointee.isWaitingForHost = false
        waitingCount -= 1
    }

    private mutating func leaveNobody(_ slot: Int) {
        unsafe shares[slot].first = nil
        unsafe shares[slot].last = nil
        waiting[slot >> 6] &= ~(1 << UInt64(slot & 63))
    }

    /// A queue pair goes: neither waits nor has anything in flight.
    mutating func remove(_ queuePair: UnsafeMutablePointer<QueuePair>, now: Timestamp) {
        let slot = unsafe Int(queuePair.pointee.hostSlot)
        if unsafe queuePair.pointee.isWaitingForHost {
            var next = unsafe shares[slot].first
            leaveNobody(slot)
            while let other = unsafe next {
                unsafe next = unsafe other.pointee.nextWaitingForHost
                unsafe other.pointee.isWaitingForHost = false
                waitingCount -= 1
                if unsafe other != queuePair { unsafe wait(other) }
            }
        }
        unsafe change(queuePair.pointee.hostSlot, by: -queuePair.pointee.hostInFlightBytes, now: now)
        unsafe queuePair.pointee.hostInFlightBytes = 0
    }

    // MARK: Time

    /// When those that wait have waited long enough; `nil` where nobody does. May be early.
    var deadline: Timestamp? {
        guard waitingCount > 0 else { return nil }
        var earliest: Timestamp?
        for word in 0..<4 {
            // Those that may go have nothing to wait for but a place in the transmit queue, which no time brings.
            var slots = waiting[word] & ~ready[word]
            while slots != 0 {
                let end = unsafe shares[word << 6 | slots.trailingZeroBitCount].movedAt &+ Self.patienceNanoseconds
                earliest = min(earliest ?? end, end)
                slots &= slots &- 1
            }
        }
        return earliest
    }

    /// Lets those go on whose share has not moved for too long.
    mutating func advance(to now: Timestamp) {
        guard waitingCount > 0 else { return }
        for word in 0..<4 {
            var slots = waiting[word]
            while slots != 0 {
                let slot = word << 6 | slots.trailingZeroBitCount
                if unsafe now >= shares[slot].movedAt &+ Self.patienceNanoseconds { setReady(UInt8(slot)) }
                slots &= slots &- 1
            }
        }
    }
}
