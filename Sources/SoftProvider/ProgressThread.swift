// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import Synchronization

/// Makes progress when the application does not.
///
/// Whoever polls drives the device. A program that sleeps on a completion channel, or that is only the target of
/// one-sided operations, does not poll; for it this thread listens to the sockets and keeps the timers.
///
/// ```
///            application made hardly a round in a tick, or armed a queue
///  standby ────────────────────────────────────────────────────────► serving
///     ▲      wakes by the tick alone                  listens to sockets, timers
///     └──────────────────────────────────────────────────────────────┘
///            application made several rounds by itself in a tick
/// ```
///
/// In standby the thread leaves the sockets alone: a wake-up for each packet would cost the polling application more
/// than the packet does. An application that looks once in a while, as one that waits in `poll` for something else with a
/// timeout, does not drive the device: what peers ask of it would wait for its next look.
@safe final class ProgressThread: @unchecked Sendable {
    /// What the thread serves. One round processes what has arrived and what is due.
    ///
    /// The context joins this thread before it goes, so the reference need not be counted.
    private var context: Unmanaged<SoftContext>?
    private let waiter: Waiter
    /// Readable when the link has something.
    private let socket: Int32
    private static let socketToken: UInt64 = 1
    /// Until when the thread sleeps in `serveOnce`; 0 while it does not, or wakes by its tick anyway. Written by the
    /// thread, read by who made an earlier deadline.
    private let sleepsUntil = Atomic<UInt64>(0)
    /// Written by the thread, read by who arms a queue, to decide whether a wake-up is needed.
    private let isStandingBy = Atomic<Bool>(false)
    /// Set by who arms a queue: the application is about to sleep, whatever it polled until now.
    private let isAwaited = Atomic<Bool>(false)
    private let isStopping = Atomic<Bool>(false)
    /// Of the application's rounds. Used by the thread alone.
    private var count = RoundCount()
    private var thread = pthread_t()

    /// Rounds without anything before the thread sleeps: together they take about what a wake-up does.
    private static let idleRoundsMax = 64

    init(waiter: Waiter, socket: Int32) throws(PacketIOError) {
        self.waiter = waiter
        self.socket = socket
        try waiter.add(socket, token: Self.socketToken)
    }

    func start(serving context: SoftContext) throws(PacketIOError) {
        unsafe self.context = .passUnretained(context)
        thread = try startThread { self.run() }
    }

    /// Ends the thread and waits for its end.
    func stop() {
        isStopping.store(true, ordering: .releasing)
        waiter.wake()
        pthread_join(thread, nil)
    }

    /// The application armed a completion queue or rang with nobody to carry the work out: serve at once.
    func serve() {
        isAwaited.store(true, ordering: .sequentiallyConsistent)
        if isStandingBy.load(ordering: .sequentiallyConsistent) { waiter.wake() }
    }

    /// Whether the thread sleeps, or is about to, so that a round that makes a deadline has to tell it. To be asked while the
    /// engine is entered: who enters it after the thread's last round before its sleep sees that it sleeps.
    @inline(__always)
    var maySleepOn: Bool { sleepsUntil.load(ordering: .relaxed) != 0 }

    /// A round of the application's left `deadline` to be kept: wakes the thread if it would sleep past it.
    @inline(__always)
    func expect(_ deadline: UInt64) {
        if deadline < sleepsUntil.load(ordering: .relaxed) { waiter.wake() }
    }

    private func run() {
        guard let context = unsafe context else { return }
        unsafe context._withUnsafeGuaranteedRef { context in
            var isServing = true
            while !isStopping.load(ordering: .acquiring) {
                let serves = isServing ? serveOnce(context) : standBy(context)
                // Cannot fail: the descriptor stays open as long as this thread runs.
                if serves != isServing { try? waiter.setListening(serves, to: socket, token: Self.socketToken) }
                isServing = serves
            }
        }
    }

    /// - Returns: whether to go on serving.
    private func serveOnce(_ context: SoftContext) -> Bool {
        let now = monotonicNanoseconds()
        if now &- count.begin > RoundCount.tickNanoseconds {
            count.restart(rounds: context.applicationRounds, now: now)
        }
        let deadline = serveUntilQuiet(context)
        sleepsUntil.store(deadline, ordering: .relaxed)
        _ = waiter.wait(until: deadline)
        sleepsUntil.store(0, ordering: .relaxed)
        if isAwaited.exchange(false, ordering: .sequentiallyConsistent) { return serveAnew(context) }
        return !isDriven(context)
    }

    /// Somebody waits: what was polled before says nothing about what will be.
    private func serveAnew(_ context: SoftContext) -> Bool {
        count.restart(rounds: context.applicationRounds, now: monotonicNanoseconds())
        return true
    }

    private func isDriven(_ context: SoftContext) -> Bool {
        count.isDriven(rounds: context.applicationRounds, now: monotonicNanoseconds)
    }

    /// Takes what comes, until nothing has for some rounds: a sender that finds this thread asleep pays for a wake-up, and
    /// one that finds it awake does not even notice it. Each idle round gives the core away, because who sends may want it.
    /// - Returns: when the next round is due.
    @inline(__always)
    private func serveUntilQuiet(_ context: SoftContext) -> UInt64 {
        var idleRounds = Self.idleRoundsMax
        while true {
            let sleepsNext = idleRounds >= Self.idleRoundsMax
            // Announced before the round, so that a deadline made after it finds the thread asleep.
            if sleepsNext { sleepsUntil.store(.max, ordering: .sequentiallyConsistent) }
            let deadline = context.serviceRound(sleepsNext: sleepsNext)
            if deadline == 0 {
                idleRounds = 0
                if sleepsNext { sleepsUntil.store(0, ordering: .relaxed) }
            } else if sleepsNext {
                return deadline
            } else {
                idleRounds += 1
                sched_yield()
            }
            // The application drives the device again, or ends it.
            if isDriven(context) || isStopping.load(ordering: .relaxed) { return 0 }
        }
    }

    /// - Returns: whether to serve now.
    private func standBy(_ context: SoftContext) -> Bool {
        isStandingBy.store(true, ordering: .sequentiallyConsistent)
        defer { isStandingBy.store(false, ordering: .relaxed) }
        if isAwaited.exchange(false, ordering: .sequentiallyConsistent) { return serveAnew(context) }
        count.restart(rounds: context.applicationRounds, now: monotonicNanoseconds())
        _ = waiter.wait(until: count.begin + RoundCount.tickNanoseconds)
        if isAwaited.exchange(false, ordering: .sequentiallyConsistent) { return serveAnew(context) }
        return !isDriven(context)
    }
}

/// CLOCK_MONOTONIC in nanoseconds: the only clock that the device reads, and the engine's argument.
@inline(__always)
func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}

/// Sleeps for less than a second.
func sleepNanoseconds(_ duration: UInt64) {
    var time = timespec(tv_sec: 0, tv_nsec: Int(min(duration, 999_999_999)))
    unsafe nanosleep(&time, nil)
}
