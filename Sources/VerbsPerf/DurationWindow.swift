// SPDX-License-Identifier: Apache-2.0

/// The phases of a timed run: margin, counted part, margin, over. Time is an argument.
struct DurationWindow {
    enum Phase: Equatable {
        case warmUp, counting, coolDown, over
    }

    private let countFrom: UInt64
    private let countUntil: UInt64
    private let end: UInt64
    private(set) var phase = Phase.warmUp
    /// When the counted part began and ended as the loop saw it, which is what rates are computed with.
    private(set) var countedFrom: UInt64 = 0
    private(set) var countedUntil: UInt64 = 0

    /// - Parameter start: nanoseconds on the clock that ``advance(to:)`` is told.
    init(start: UInt64, seconds: Int, margin: Int) {
        let second: UInt64 = 1_000_000_000
        countFrom = start + UInt64(margin) * second
        end = start + UInt64(seconds) * second
        countUntil = end - UInt64(margin) * second
    }

    /// Moves through the phases that `now` has passed; a loop that looked away for long passes each all the same.
    mutating func advance(to now: UInt64) {
        if phase == .warmUp, now >= countFrom {
            phase = .counting
            countedFrom = now
        }
        if phase == .counting, now >= countUntil, now > countedFrom {
            phase = .coolDown
            countedUntil = now
        }
        if phase == .coolDown, now >= end { phase = .over }
    }

    var countedNanoseconds: UInt64 { countedUntil &- countedFrom }
}
