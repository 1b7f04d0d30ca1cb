// SPDX-License-Identifier: Apache-2.0
import Dispatch
import Synchronization

/// The events of one identifier, in order, for a thread or a task that waits for them.
///
/// It is filled by the one who reads the channel. Of several who wait each event goes to one.
final class ConnectionInbox: Sendable {
    private typealias Continuation = CheckedContinuation<ConnectionEvent.Kind?, Never>

    private struct State {
        var events: [ConnectionEvent.Kind] = []
        /// Tasks that wait, in order; the ticket tells which of all waits it is.
        var waiters: [(ticket: UInt64, continuation: Continuation)] = []
        var tickets: UInt64 = 0
        /// What ends with the connection.
        var fuse: QueuePairFuse?
        var isOver = false
        var isClosed = false
    }

    private let state = Mutex(State())
    /// Signalled for each event, and at the close; a thread that waits looks again then.
    private let arrived = DispatchSemaphore(value: 0)

    /// Whether the connection has ended.
    var isOver: Bool { state.withLock { $0.isOver } }

    /// Events that wait.
    var count: Int { state.withLock { $0.events.count } }

    /// The queue pair that moves to ERR when the connection ends; at once if it has.
    func arm(_ fuse: QueuePairFuse) {
        let isOver = state.withLock { state in
            state.fuse = fuse
            return state.isOver
        }
        if isOver { fuse.blow() }
    }

    func put(_ event: ConnectionEvent.Kind) {
        let (continuation, fuse) = state.withLock { state -> (Continuation?, QueuePairFuse?) in
            var fuse: QueuePairFuse?
            if event.endsConnection {
                state.isOver = true
                fuse = state.fuse
            }
            if !state.waiters.isEmpty { return (state.waiters.removeFirst().continuation, fuse) }
            if !state.isClosed { state.events.append(event) }
            return (nil, fuse)
        }
        fuse?.blow()
        continuation?.resume(returning: event)
        if continuation == nil { arrived.signal() }
    }

    /// No event will be taken any more: all waits end with `nil`, and what has not been taken is let go.
    func close() {
        let (waiters, events) = state.withLock { state in
            state.isClosed = true
            let rest = (state.waiters, state.events)
            state.waiters = []
            state.events = []
            return rest
        }
        for waiter in waiters { waiter.continuation.resume(returning: nil) }
        arrived.signal()
        // Requests end here, outside of the lock.
        _ = consume events
    }
}

// Waiting.
extension ConnectionInbox {
    /// Waits, blocking the thread; `nil` when the time is over.
    func next(timeout: Duration?) -> ConnectionEvent.Kind? {
        let end = timeout.map { DispatchTime.now() + .milliseconds(Int($0.milliseconds)) } ?? .distantFuture
        while true {
            let (event, isClosed) = state.withLock { ($0.events.isEmpty ? nil : $0.events.removeFirst(), $0.isClosed) }
            if let event { return event }
            if isClosed {
                // For the next thread that waits.
                arrived.signal()
                return nil
            }
            // A signal may be of an event that is gone; look again.
            if arrived.wait(timeout: end) == .timedOut {
                return state.withLock { $0.events.isEmpty ? nil : $0.events.removeFirst() }
            }
        }
    }

    /// Waits, suspending the task; `nil` when the time is over or the task is cancelled.
    nonisolated(nonsending) func next(timeout: Duration?) async -> ConnectionEvent.Kind? {
        let ticket = state.withLock { state in
            state.tickets += 1
            return state.tickets
        }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let (isSettled, event) = state.withLock { state -> (Bool, ConnectionEvent.Kind?) in
                    if !state.events.isEmpty { return (true, state.events.removeFirst()) }
                    if state.isClosed || Task.isCancelled { return (true, nil) }
                    state.waiters.append((ticket, continuation))
                    return (false, nil)
                }
                if isSettled { return continuation.resume(returning: event) }
                guard let timeout else { return }
                let end = DispatchTime.now() + .milliseconds(Int(timeout.milliseconds))
                DispatchQueue.global().asyncAfter(deadline: end) { self.giveUp(ticket) }
            }
        } onCancel: {
            giveUp(ticket)
        }
    }

    private func giveUp(_ ticket: UInt64) {
        let continuation = state.withLock { state -> Continuation? in
            guard let index = state.waiters.firstIndex(where: { $0.ticket == ticket }) else { return nil }
            return state.waiters.remove(at: index).continuation
        }
        continuation?.resume(returning: nil)
    }
}

extension ConnectionEvent.Kind {
    fileprivate var endsConnection: Bool {
        switch self {
        case .disconnected, .deviceRemoval: true
        default: false
        }
    }
}
