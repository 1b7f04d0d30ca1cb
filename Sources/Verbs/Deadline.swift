// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A point in time on the monotonic clock, or never.
struct Deadline {
    private let instant: ContinuousClock.Instant?

    /// So long from now; `nil` is never.
    init(_ timeout: Duration?) { instant = timeout.map { ContinuousClock.now + $0 } }

    var isOver: Bool { instant.map { $0 <= ContinuousClock.now } ?? false }

    /// Waits until the descriptor is readable: true; false when the deadline has passed.
    func waitReadable(_ descriptor: Int32) -> Bool {
        while true {
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            // One entry, a local variable.
            let count = unsafe poll(&entry, 1, milliseconds)
            if count > 0 { return true }
            if count == 0 && isOver { return false }
            if count < 0 && errno != EINTR { return false }
        }
    }

    /// What is left, rounded up; -1 for never.
    private var milliseconds: Int32 {
        guard let instant else { return -1 }
        let (seconds, attoseconds) = (instant - ContinuousClock.now).components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        return Int32(clamping: seconds * 1000 + (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000)
    }
}
