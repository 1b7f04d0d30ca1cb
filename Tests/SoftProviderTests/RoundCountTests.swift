// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import SoftProvider

@Suite("Who drives the device") struct RoundCountTests {
    private func isDriven(rounds: UInt64, ticks: UInt64) -> Bool {
        var count = RoundCount()
        count.restart(rounds: 1_000, now: 7)
        return count.isDriven(rounds: 1_000 + rounds) { 7 + ticks * RoundCount.tickNanoseconds }
    }

    @Test("An application that polls without pause drives it, from the first microseconds on")
    func polling() {
        #expect(isDriven(rounds: 4, ticks: 0))
        #expect(isDriven(rounds: 10_000, ticks: 10))
    }

    @Test(
        "One that looks once or twice in each tick does not, however long it goes on",
        arguments: [1, 10, 10_000] as [UInt64])
    func looking(ticks: UInt64) {
        #expect(!isDriven(rounds: ticks, ticks: ticks))
        #expect(!isDriven(rounds: 2 * ticks, ticks: ticks))
    }

    @Test("One that stopped does not")
    func stopped() {
        #expect(!isDriven(rounds: 0, ticks: 0))
        #expect(!isDriven(rounds: 5, ticks: 2))
    }
}
