// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Synchronization

/// Puts one thread to sleep until a descriptor is readable, a time has come, or another thread wakes it.
///
/// One thread waits; any thread may ``wake()``, add, remove and change descriptors. Waking a thread that does not sleep
/// costs one atomic exchange and no system call.
@safe package final class Waiter: @unchecked Sendable {
    private static let capacity = 16
    /// The token of the wake-up descriptor; not for others.
    private static let wakeToken = UInt64.max

    /// Why a wait ended. All may be true at once.
    package struct Outcome: Sendable, Equatable {
        /// Somebody called ``Waiter/wake()``.
        package var isWoken = false
        /// Descriptors that are readable: ``Waiter/readyToken(_:)`` gives their tokens.
        package var readyCount = 0
        package var isTimedOut: Bool { !isWoken && readyCount == 0 }
    }

    /// The waiting thread's state. Written by both sides with exchanges that acquire and release, so that what the waker
    /// did before `wake` is seen after the wait.
    private enum State {
        static let running: UInt32 = 0
        static let sleeping: UInt32 = 1
        static let woken: UInt32 = 2
    }

    private let epoll: FileDescriptor
    private let event: FileDescriptor
    private let state = Atomic<UInt32>(State.running)
    /// Of the waiting thread only, allocated once. The first `readyCount` tokens count.
    private let events: UnsafeMutablePointer<epoll_event>
    private let tokens: UnsafeMutablePointer<UInt64>
    /// Of the waiting thread only: whether the kernel has `epoll_pwait2` (Linux 5.11).
    private var hasNanoseconds = true

    package init() throws(PacketIOError) {
        epoll = try FileDescriptor(epoll_create1(clinuxnet_epoll_close_on_exec), call: "epoll_create1")
        event = try FileDescriptor(eventfd(0, clinuxnet_eventfd_flags), call: "eventfd")
        unsafe events = .allocate(capacity: Self.capacity)
        unsafe tokens = .allocate(capacity: Self.capacity)
        unsafe tokens.initialize(repeating: 0, count: Self.capacity)
        try control(clinuxnet_epoll_add, event.number, clinuxnet_epoll_in, Self.wakeToken)
    }

    deinit {
        unsafe events.deallocate()
        unsafe tokens.deallocate()
    }

    /// Nanoseconds of CLOCK_MONOTONIC, the time that ``wait(until:)`` goes by.
    package static var now: UInt64 { clinuxnet_monotonic_nanoseconds() }

    /// Listens to a descriptor. The token comes back when it is readable; any but `UInt64.max`.
    package func add(_ descriptor: Int32, token: UInt64) throws(PacketIOError) {
        precondition(token != Self.wakeToken, "a token must not be UInt64.max")
        try control(clinuxnet_epoll_add, descriptor, clinuxnet_epoll_in, token)
    }

    /// Stops or resumes listening: one system call, for an application that polls by itself for a while. A sleeping
    /// waiter heeds it at once.
    package func setListening(_ isListening: Bool, to descriptor: Int32, token: UInt64) throws(PacketIOError) {
        try control(clinuxnet_epoll_modify, descriptor, isListening ? clinuxnet_epoll_in : 0, token)
    }

    /// Forgets a descriptor; closing it does that too.
    package func remove(_ descriptor: Int32) throws(PacketIOError) {
        try control(clinuxnet_epoll_delete, descriptor, 0, 0)
    }

    /// Ends the wait of the waiting thread, or its next one. Several calls before it runs are one.
    package func wake() {
        guard state.exchange(State.woken, ordering: .acquiringAndReleasing) == State.sleeping else { return }
        var one: UInt64 = 1
        // It fails when the count would overflow, and then the descriptor is readable anyway.
        _ = unsafe write(event.number, &one, 8)
    }

    /// Sleeps until `deadline` (nanoseconds of CLOCK_MONOTONIC; `UInt64.max` is never, the past only looks).
    package func wait(until deadline: UInt64) -> Outcome {
        let (isAsleep, _) = state.compareExchange(
            expected: State.running, desired: State.sleeping, ordering: .acquiringAndReleasing)
        // Woken before it could sleep: still look what is readable.
        let count = sleep(isAsleep ? deadline : 0)
        let previous = state.exchange(State.running, ordering: .acquiringAndReleasing)

        var outcome = Outcome(isWoken: previous == State.woken)
        for index in 0..<count {
            let token = unsafe clinuxnet_epoll_token(events + index)
            if token == Self.wakeToken {
                drainEvent()
            } else {
                unsafe tokens[outcome.readyCount] = token
                outcome.readyCount += 1
            }
        }
        return outcome
    }

    /// A token of the last ``wait(until:)``. For the waiting thread.
    package func readyToken(_ index: Int) -> UInt64 {
        precondition(index >= 0 && index < Self.capacity, "token out of range")
        return unsafe tokens[index]
    }

    private func sleep(_ deadline: UInt64) -> Int {
        let now = deadline == 0 || deadline == .max ? 0 : Self.now
        // At most some years, so that the kernel's signed time does not overflow.
        let remaining = deadline == .max ? -1 : Int64(min(deadline > now ? deadline - now : 0, 1 << 57))
        if hasNanoseconds {
            let count = unsafe clinuxnet_epoll_wait_nanoseconds(
                epoll.number, events, Int32(Self.capacity), remaining)
            if count >= 0 { return Int(count) }
            guard clinuxnet_errno() == ENOSYS || clinuxnet_errno() == EPERM else { return 0 }
            // EPERM is what some container runtimes answer for a call that they do not know.
            hasNanoseconds = false
        }
        // Rounded up: waking before the deadline would only mean to sleep again.
        let milliseconds = remaining < 0 ? -1 : Int32(clamping: (remaining + 999_999) / 1_000_000)
        return unsafe max(0, Int(epoll_wait(epoll.number, events, Int32(Self.capacity), milliseconds)))
    }

    private func drainEvent() {
        var count: UInt64 = 0
        _ = unsafe read(event.number, &count, 8)
    }

    private func control(
        _ operation: Int32, _ descriptor: Int32, _ events: UInt32, _ token: UInt64
    ) throws(PacketIOError) {
        guard clinuxnet_epoll_control(epoll.number, operation, descriptor, events, token) == 0 else {
            throw SystemError.last("epoll_ctl")
        }
    }
}
