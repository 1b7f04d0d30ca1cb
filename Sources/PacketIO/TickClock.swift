// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// CLOCK_MONOTONIC for who asks for it all the time: the processor's counter tells what has passed since the kernel's clock
/// was last read.
///
/// Reading the counter takes some 10 ns. Reading the clock takes twice that; where the kernel does not trust the counter,
/// as in many virtual machines, it takes a system call and a device besides, a microsecond or more.
///
/// The counter is believed for ``trustNanoseconds`` after the clock was read, and no longer. So one that differs between
/// processors, stands still while they sleep, or changes its rate makes the time wrong by as much at most; and the time never
/// goes back. Without a counter the clock is read each time.
package struct TickClock {
    /// How long the counter is believed.
    package static let trustNanoseconds: UInt64 = 50_000
    /// The rate is measured anew after so long, if not after so much longer that its arithmetic would overflow.
    private static let measureNanoseconds: ClosedRange<UInt64> = 10_000_000...4_000_000_000

    /// When the clock was last read, and the counter right before.
    private var readAt: UInt64 = 0
    private var ticksThen: UInt64 = 0
    /// The same when the measurement of the rate began.
    private var measuredFrom: UInt64 = 0
    private var ticksFrom: UInt64 = 0
    /// Nanoseconds in 2^32 ticks; 0 while unknown.
    private var rate: UInt64 = 0
    /// What ``trustNanoseconds`` are in ticks; 0 while unknown.
    private var trustTicks: UInt64 = 0
    private var latest: UInt64 = 0

    package init() {}

    /// Nanoseconds of CLOCK_MONOTONIC.
    @inline(__always)
    package mutating func now() -> UInt64 { time(atTicks: clinuxnet_ticks()) ?? read() }

    /// The same without the counter's help.
    package mutating func read() -> UInt64 {
        let ticks = clinuxnet_ticks()
        return note(clinuxnet_monotonic_nanoseconds(), atTicks: ticks)
    }

    /// The time at a count; `nil` to read the clock.
    @inline(__always)
    mutating func time(atTicks ticks: UInt64) -> UInt64? {
        let passed = ticks &- ticksThen
        guard passed < trustTicks else { return nil }
        latest = max(latest, readAt &+ (passed &* rate) >> 32)
        return latest
    }

    /// Takes note of what the clock said at a count, and returns the time.
    mutating func note(_ nanoseconds: UInt64, atTicks ticks: UInt64) -> UInt64 {
        readAt = nanoseconds
        ticksThen = ticks
        let passed = nanoseconds &- measuredFrom
        if passed >= Self.measureNanoseconds.lowerBound {
            measure(nanoseconds: passed, ticks: ticks &- ticksFrom)
            measuredFrom = nanoseconds
            ticksFrom = ticks
        }
        latest = max(latest, nanoseconds)
        return latest
    }

    private mutating func measure(nanoseconds: UInt64, ticks: UInt64) {
        guard measuredFrom > 0, nanoseconds <= Self.measureNanoseconds.upperBound else { return }
        // A counter that stands still, or goes back, tells nothing.
        guard ticks > 0, ticks < 1 << 48 else {
            rate = 0
            trustTicks = 0
            return
        }
        rate = max(nanoseconds << 32 / ticks, 1)
        trustTicks = (Self.trustNanoseconds << 32) / rate
    }
}
