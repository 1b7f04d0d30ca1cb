// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// Queue pairs with new work whose poster could not enter the engine, because another thread was in it.
///
/// A stack of queue-pair indices, linked through an array, so that ringing neither allocates nor waits. Any thread
/// rings; only the holder of the engine drains. A queue pair is in the stack at most once: `rung` says whether it is.
@safe struct DoorbellQueue: ~Copyable, @unchecked Sendable {
    // Unchecked because of the pointer: what it points to are atomics.

    /// Marks the bottom. Indices are kept one higher, so that zeroed memory is an empty queue and its untouched pages
    /// cost nothing.
    private static let end: UInt32 = 0

    /// The index on top plus one, or `end`. Pushed with releasing order (the work is visible to who drains), drained with acquiring.
    private let top = Atomic<UInt32>(DoorbellQueue.end)
    /// The cell of each queue pair; written by the one ringer that found it not rung, read by who drains.
    private let cells: UnsafeMutablePointer<Cell>
    private let capacity: Int

    private struct Cell: ~Copyable {
        let rung = Atomic<Bool>(false)
        let next = Atomic<UInt32>(DoorbellQueue.end)
    }

    init(capacity: Int) {
        self.capacity = capacity
        // Zero is the initial value of both atomics. The cells live as long as this value; `deinit` frees them.
        guard let memory = unsafe calloc(capacity, MemoryLayout<Cell>.stride) else {
            preconditionFailure("no memory for \(capacity) doorbells")
        }
        unsafe cells = unsafe memory.bindMemory(to: Cell.self, capacity: capacity)
    }

    deinit {
        unsafe free(cells)
    }

    /// True if nobody has rung since the last drain. A relaxed look would do for speed, but the caller uses it after it
    /// left the engine to decide that nobody is waiting, so it is sequentially consistent with `ring`.
    var isEmpty: Bool {
        top.load(ordering: .sequentiallyConsistent) == Self.end
    }

    borrowing func ring(_ index: Int) {
        precondition(index >= 0 && index < capacity, "a queue-pair index is below the device's limit")
        if unsafe cells[index].rung.exchange(true, ordering: .acquiringAndReleasing) { return }
        var seen = top.load(ordering: .relaxed)
        while true {
            unsafe cells[index].next.store(seen, ordering: .relaxed)
            let (exchanged, original) = top.weakCompareExchange(
                expected: seen, desired: UInt32(index) + 1, successOrdering: .sequentiallyConsistent,
                failureOrdering: .relaxed)
            if exchanged { return }
            seen = original
        }
    }

    /// Takes all indices out and hands each to `body`, newest first.
    @inline(__always)
    borrowing func drain(_ body: (Int) -> Void) {
        if top.load(ordering: .relaxed) == Self.end { return }
        var index = top.exchange(Self.end, ordering: .sequentiallyConsistent)
        while index != Self.end {
            let cell = Int(index) - 1
            index = unsafe cells[cell].next.load(ordering: .relaxed)
            // Cleared before the work is looked at: who rings from now on pushes anew, so nothing is missed.
            unsafe cells[cell].rung.store(false, ordering: .sequentiallyConsistent)
            body(cell)
        }
    }
}
