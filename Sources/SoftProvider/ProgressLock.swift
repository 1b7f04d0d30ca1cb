// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The lock around the engine: whoever holds it is the network adapter.
///
/// Posts and polls only try it; they wait for nobody. Control calls and the progress thread wait, so it is one that
/// sleeps.
@safe struct ProgressLock: ~Copyable {
    /// Allocated here and freed in `deinit`: a POSIX mutex has to stay where it was initialised.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>

    init() {
        unsafe mutex = .allocate(capacity: 1)
        unsafe mutex.initialize(to: pthread_mutex_t())
        unsafe pthread_mutex_init(mutex, nil)
    }

    deinit {
        unsafe pthread_mutex_destroy(mutex)
        unsafe mutex.deallocate()
    }

    @inline(__always)
    borrowing func lock() { unsafe pthread_mutex_lock(mutex) }

    /// - Returns: false if another thread has it.
    @inline(__always)
    borrowing func lockIfAvailable() -> Bool { unsafe pthread_mutex_trylock(mutex) == 0 }

    @inline(__always)
    borrowing func unlock() { unsafe pthread_mutex_unlock(mutex) }
}
