// SPDX-License-Identifier: Apache-2.0

/// Tells an application that drives the device from one that only looks once in a while, by how many rounds it makes.
struct RoundCount {
    /// How long an application may compute between two polls before the progress thread takes over.
    static let tickNanoseconds: UInt64 = 1_000_000
    /// As many rounds in a tick as say that the application drives the device.
    static let drivingRounds: UInt64 = 4

    /// When the count was begun, CLOCK_MONOTONIC in nanoseconds.
    private(set) var begin: UInt64 = 0
    private var first: UInt64 = 0

    /// Begins anew.
    /// - Parameter rounds: how many rounds the application made so far.
    mutating func restart(rounds: UInt64, now: UInt64) {
        begin = now
        first = rounds
    }

    /// Whether the application made enough rounds in each tick, on average, since the count was begun.
    /// - Parameter now: asked for only if there were enough for one tick.
    @inline(__always)
    func isDriven(rounds: UInt64, now: () -> UInt64) -> Bool {
        let made = rounds &- first
        guard made >= Self.drivingRounds else { return false }
        let ticks = (now() &- begin) / Self.tickNanoseconds
        return made >= Self.drivingRounds &* max(1, ticks)
    }
}
