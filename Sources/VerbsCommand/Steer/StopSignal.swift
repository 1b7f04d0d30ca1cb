// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// Whether the user asked for the end: by Ctrl-C, or by `kill`. The second time the program ends at once.
enum StopSignal {
    private static let wasGiven = Atomic<Bool>(false)

    static var isGiven: Bool { wasGiven.load(ordering: .relaxed) }

    /// From now on SIGINT and SIGTERM ask for the end.
    static func listen() {
        // Initialised here: a signal handler must not.
        wasGiven.store(false, ordering: .relaxed)
        for number in [SIGINT, SIGTERM] {
            // Stores a flag, which a handler may.
            _ = signal(number) { number in
                StopSignal.wasGiven.store(true, ordering: .relaxed)
                _ = signal(number, SIG_DFL)
            }
        }
    }
}
