// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// Whether somebody asked for the configuration to be read again, by `kill -HUP`.
enum ReloadSignal {
    private static let wasGiven = Atomic<Bool>(false)

    /// From now on SIGHUP asks for that, and ends nothing.
    static func listen() {
        // Initialised here: a signal handler must not.
        wasGiven.store(false, ordering: .relaxed)
        // Stores a flag, which a handler may.
        _ = signal(SIGHUP) { _ in ReloadSignal.wasGiven.store(true, ordering: .relaxed) }
    }

    /// Whether it was given since the last call.
    static func take() -> Bool { wasGiven.exchange(false, ordering: .relaxed) }
}
