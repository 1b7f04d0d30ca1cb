// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Testing

@testable import PacketIO

@Suite("The clock by ticks") struct TickClockTests {
    /// A clock that has measured a counter of three ticks a nanosecond, and was last read at 1 s and tick 3e9.
    private static func measured() -> TickClock {
        var clock = TickClock()
        #expect(clock.time(atTicks: 7) == nil, "nothing is known yet")
        _ = clock.note(900_000_000, atTicks: 2_700_000_000)
        _ = clock.note(1_000_000_000, atTicks: 3_000_000_000)
        return clock
    }

    @Test("counts on from the last reading, and asks for another one when that is old")
    func counts() {
        var clock = Self.measured()
        #expect(clock.time(atTicks: 3_000_000_000) == 1_000_000_000)
        let later = clock.time(atTicks: 3_000_030_000)
        #expect(later.map { (1_000_009_999...1_000_010_000).contains($0) } == true)
        #expect(clock.time(atTicks: 3_000_160_000) == nil)
    }

    @Test("never goes back, whatever the counter does")
    func monotonic() {
        var clock = Self.measured()
        let first = clock.time(atTicks: 3_000_090_000)
        #expect(clock.time(atTicks: 3_000_060_000) == first, "another processor's counter is behind")
        #expect(clock.time(atTicks: 2_999_999_999) == nil, "before the last reading")
        #expect(clock.note(1_000_001_000, atTicks: 3_000_100_000) == first, "the counter was ahead of the clock")
        #expect(clock.note(1_000_050_000, atTicks: 3_000_150_000) == 1_000_050_000)
    }

    @Test("trusts no counter that stands still")
    func still() {
        var clock = TickClock()
        for time in stride(from: UInt64(1_000_000_000), through: 2_000_000_000, by: 100_000_000) {
            #expect(clock.note(time, atTicks: 0) == time)
            #expect(clock.time(atTicks: 0) == nil)
        }
    }

    @Test("measures again when the rate has changed")
    func rate() {
        var clock = Self.measured()
        _ = clock.note(1_100_000_000, atTicks: 3_050_000_000)
        let later = clock.time(atTicks: 3_050_010_000)
        #expect(later.map { (1_100_019_999...1_100_020_000).contains($0) } == true, "half a tick a nanosecond")
    }

    @Test("is as far from the kernel's clock as it says, at most")
    func kernel() {
        var clock = TickClock()
        var last: UInt64 = 0
        var wrong = 0
        for _ in 0..<500_000 {
            let before = clinuxnet_monotonic_nanoseconds()
            let time = clock.now()
            let after = clinuxnet_monotonic_nanoseconds()
            let range = before - TickClock.trustNanoseconds...after + TickClock.trustNanoseconds
            if time < last || !range.contains(time) { wrong += 1 }
            last = time
        }
        #expect(wrong == 0)
    }
}
