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
