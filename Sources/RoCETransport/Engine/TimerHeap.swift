// SPDX-License-Identifier: Apache-2.0

/// The queue pairs with a deadline, the earliest first: a binary heap with one entry for each.
///
/// A deadline that moves later, as it does with every acknowledgement, does not touch the heap: the entry stays at the
/// earlier time, and is moved when that comes. So most packets cost nothing here, and a wake-up may be in vain.
@safe struct TimerHeap: ~Copyable {
    /// Allocated here; grows when queue pairs are created, so that there is a place for each.
    private var entries: UnsafeMutablePointer<UnsafeMutablePointer<QueuePair>>
    private var capacity = 16
    private var count = 0

    init() { unsafe entries = .allocate(capacity: capacity) }

    deinit { unsafe entries.deallocate() }

    /// Makes room for so many queue pairs.
    mutating func reserve(_ queuePairCount: Int) {
        guard queuePairCount > capacity else { return }
        let grown = max(capacity * 2, queuePairCount)
        let new = UnsafeMutablePointer<UnsafeMutablePointer<QueuePair>>.allocate(capacity: grown)
        unsafe new.moveInitialize(from: entries, count: count)
        unsafe entries.deallocate()
        unsafe entries = unsafe new
        capacity = grown
    }

    /// The time of the first entry; `nil` if there is none.
    var earliest: Timestamp? { unsafe count == 0 ? nil : entries[0].pointee.timerDeadline }

    /// Takes note of a queue pair's deadline, if it is earlier than what the heap knows.
    @inline(__always)
    mutating func update(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        if unsafe queuePair.pointee.deadline < queuePair.pointee.timerDeadline { unsafe insert(queuePair) }
    }

    private mutating func insert(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        unsafe queuePair.pointee.timerDeadline = queuePair.pointee.deadline
        if unsafe queuePair.pointee.timerIndex < 0 {
            unsafe entries[count] = unsafe queuePair
            unsafe queuePair.pointee.timerIndex = Int32(count)
            count += 1
        }
        unsafe siftUp(Int(queuePair.pointee.timerIndex))
    }

    /// The queue pair whose deadline has come at `now`, taken out; `nil` if there is none.
    mutating func popExpired(_ now: Timestamp) -> UnsafeMutablePointer<QueuePair>? {
        while count > 0 {
            let first = unsafe entries[0]
            guard unsafe first.pointee.timerDeadline <= now else { return nil }
            unsafe remove(first)
            if unsafe first.pointee.deadline <= now { return unsafe first }
            unsafe update(first)
        }
        return nil
    }

    /// Takes a queue pair out, if it is in.
    mutating func remove(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        let index = unsafe Int(queuePair.pointee.timerIndex)
        guard index >= 0 else { return }
        unsafe queuePair.pointee.timerIndex = -1
        unsafe queuePair.pointee.timerDeadline = .max
        count -= 1
        guard index < count else { return }
        unsafe place(entries[count], at: index)
        siftUp(index)
        siftDown(index)
    }

    private mutating func place(_ queuePair: UnsafeMutablePointer<QueuePair>, at index: Int) {
        unsafe entries[index] = unsafe queuePair
        unsafe queuePair.pointee.timerIndex = Int32(index)
    }

    private func time(_ index: Int) -> Timestamp { unsafe entries[index].pointee.timerDeadline }

    private mutating func siftUp(_ start: Int) {
        var index = start
        while index > 0, time(index) < time((index - 1) / 2) {
            swap(index, (index - 1) / 2)
            index = (index - 1) / 2
        }
    }

    private mutating func siftDown(_ start: Int) {
        var index = start
        while true {
            var least = index
            let left = 2 * index + 1
            if left < count, time(left) < time(least) { least = left }
            if left + 1 < count, time(left + 1) < time(least) { least = left + 1 }
            if least == index { return }
            swap(index, least)
            index = least
        }
    }

    private mutating func swap(_ a: Int, _ b: Int) {
        let held = unsafe entries[a]
        unsafe place(entries[b], at: a)
        unsafe place(held, at: b)
    }
}
