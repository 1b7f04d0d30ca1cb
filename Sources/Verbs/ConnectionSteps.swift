// SPDX-License-Identifier: Apache-2.0

/// How a connection is made, one event at a time: each function handles an event and says whether it was the last.
///
/// The same steps are driven by a thread that blocks and by a task that suspends.
enum ConnectionSteps {
    /// After `resolveAddress`.
    static func resolve(
        _ event: ConnectionEvent.Kind, _ identifier: ConnectionIdentifier, timeout: Duration
    ) throws(VerbsError) -> Bool {
        switch event {
        case .addressResolved:
            try identifier.resolveRoute(timeout: timeout)
            return false
        case .routeResolved: return true
        default:
            if let error = event.error { throw error }
            return false
        }
    }

    /// After `connect`.
    static func connect(_ event: ConnectionEvent.Kind, _ connection: Connection) throws(VerbsError) -> Bool {
        switch event {
        case .connectResponse(let parameters):
            try connection.agree(on: parameters)
            try connection.identifier.establish()
            return true
        default:
            if let error = event.error { throw error }
            return false
        }
    }

    /// After `accept`.
    static func accept(_ event: ConnectionEvent.Kind) throws(VerbsError) -> Bool {
        if case .established = event { return true }
        if let error = event.error { throw error }
        return false
    }

    /// After `disconnect`, or before the peer's.
    static func end(_ event: ConnectionEvent.Kind) -> Bool {
        switch event {
        case .disconnected, .deviceRemoval: true
        default: false
        }
    }
}

// Drivers.
extension ConnectionInbox {
    /// Waits for events until a step says that it was the last, blocking the thread.
    func drive(
        _ verb: String, timeout: Duration?, _ step: (ConnectionEvent.Kind) throws(VerbsError) -> Bool
    ) throws(VerbsError) {
        let end = timeout.map { ContinuousClock.now + $0 }
        while true {
            guard let event = next(timeout: end.map { $0 - .now }) else { throw Self.nothing(verb, timeout) }
            if try step(event) { return }
        }
    }

    /// Waits for events until a step says that it was the last, suspending the task.
    nonisolated(nonsending) func drive(
        _ verb: String, timeout: Duration?, _ step: (ConnectionEvent.Kind) throws(VerbsError) -> Bool
    ) async throws(VerbsError) {
        let end = timeout.map { ContinuousClock.now + $0 }
        while true {
            guard let event = await next(timeout: end.map { $0 - .now }) else { throw Self.nothing(verb, timeout) }
            if try step(event) { return }
        }
    }

    private static func nothing(_ verb: String, _ timeout: Duration?) -> VerbsError {
        if Task.isCancelled {
            return VerbsError(.cancelled, verb: verb, subject: "task", value: "cancelled", remedy: "")
        }
        return VerbsError(
            .timedOut, verb: verb, subject: "answer", value: timeout.map { "\($0)" },
            remedy: "The other side did not answer; give it longer, or check that it is alive")
    }
}
