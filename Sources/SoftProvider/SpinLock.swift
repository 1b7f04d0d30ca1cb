// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// Orders the posts to one queue, or the polls of one completion queue, of an application with several threads.
///
/// The owner holds it for the few hundred instructions of a post, so a waiter spins; on a machine with fewer cores than
/// threads the owner may have lost its core, so the spin ends in a yield.
struct SpinLock: ~Copyable {
    /// 0: free, 1: held. Taken with acquiring, given back with releasing order: the lock's owner sees all that the one
    /// before it wrote.
    private let state = Atomic<UInt32>(0)

    @inline(__always)
    borrowing func lock() {
        if state.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged { return }
        lockContended()
    }

    @inline(__always)
    borrowing func unlock() {
        state.store(0, ordering: .releasing)
    }

    @inline(never)
    private borrowing func lockContended() {
        var spins = 0
        while true {
            if state.load(ordering: .relaxed) == 0,
                state.weakCompareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged
            {
                return
            }
            spins += 1
            if spins & 127 == 0 { sched_yield() }
        }
    }
}

/// Orders the polls of a completion queue: one call of `ibv_poll_cq` each, or all that one thread reads between `ibv_start_poll` and
/// `ibv_end_poll`. In between that thread may make control calls that want the queue for themselves.
struct PollLock: ~Copyable {
    private let lock = SpinLock()
    /// The thread that is between start and end; 0 for none. Written by who holds the lock; only whether it is oneself counts to who
    /// reads it, so it needs no order.
    private let reader = Atomic<UInt>(0)

    @inline(__always)
    borrowing func withLock<Result>(_ body: () -> Result) -> Result {
        lock.lock()
        defer { lock.unlock() }
        return body()
    }

    /// From start to end of a poll.
    @inline(__always)
    borrowing func start() {
        lock.lock()
        reader.store(UInt(pthread_self()), ordering: .relaxed)
    }

    @inline(__always)
    borrowing func end() {
        reader.store(0, ordering: .relaxed)
        lock.unlock()
    }

    /// For a control call: nobody polls while `body` runs, but for the caller, if it is between start and end.
    borrowing func withoutOtherPolls<Result, Failure: Error>(
        _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        if reader.load(ordering: .relaxed) == UInt(pthread_self()) { return try body() }
        lock.lock()
        defer { lock.unlock() }
        return try body()
    }
}
