// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// A connection that a peer asks for: accept it with a queue pair, or reject it.
///
/// ```swift
/// let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
/// try incoming.prepare(queuePair)                     // receives may be posted from here on
/// let connection = try incoming.accept(queuePair)     // the peer may send from here on
/// ```
///
/// One that is let go without an answer is refused.
public final class IncomingConnection: Sendable {
    /// The connection manager's end of it.
    public let identifier: ConnectionIdentifier
    /// The device that the request came through; the same for all requests through it.
    public let context: Context
    /// What the peer asks for and offers, its private data among it.
    public let parameters: ConnectionParameters

    private let pump: ConnectionPump
    private let isAnswered = Atomic(false)

    init(
        _ identifier: ConnectionIdentifier, _ parameters: ConnectionParameters, _ pump: ConnectionPump
    ) throws(VerbsError) {
        self.identifier = identifier
        self.parameters = parameters
        self.pump = pump
        context = try identifier.requireContext("rdma_get_cm_event")
    }

    /// Our address that the peer asked at.
    public var localAddress: SocketAddress? { identifier.localAddress }
    /// The peer's address.
    public var peerAddress: SocketAddress? { identifier.peerAddress }

    /// Moves a fresh queue pair to INIT, so that receives can be posted before the peer may send.
    public func prepare(_ queuePair: borrowing QueuePair, access: AccessFlags? = nil) throws(VerbsError) {
        try identifier.prepare(queuePair, access: access)
    }

    /// Accepts, and waits until the connection is established. Works once.
    ///
    /// `timeout` is for the peer's last word. `minRNRTimer` is how long the peer is asked to wait when no receive is posted,
    /// see ``QueuePairAttributes/minRNRTimer``. If it fails the queue pair ends. The corresponding C function is
    /// `rdma_accept`.
    public func accept(
        _ queuePair: consuming QueuePair, _ parameters: ConnectionParameters = ConnectionParameters(),
        minRNRTimer: UInt8 = 12, timeout: Duration = .seconds(10)
    ) throws(VerbsError) -> Connection {
        let connection = try begin(queuePair, parameters, minRNRTimer)
        try identifier.inbox.drive("rdma_accept", timeout: timeout, ConnectionSteps.accept)
        return connection
    }

    /// Accepts, suspending the task until the connection is established. Works once. The corresponding C function is
    /// `rdma_accept`.
    public nonisolated(nonsending) func accept(
        _ queuePair: consuming QueuePair, _ parameters: ConnectionParameters = ConnectionParameters(),
        minRNRTimer: UInt8 = 12, timeout: Duration = .seconds(10)
    ) async throws(VerbsError) -> Connection {
        let connection = try begin(queuePair, parameters, minRNRTimer)
        try await identifier.inbox.drive("rdma_accept", timeout: timeout, ConnectionSteps.accept)
        return connection
    }

    /// Refuses, with at most ``PrivateDataLimit/reject`` bytes for the peer's program. The corresponding C function is
    /// `rdma_reject`.
    public func reject(privateData: [UInt8] = []) throws(VerbsError) {
        try PrivateDataLimit.check(privateData, PrivateDataLimit.reject, "rdma_reject")
        try isAnswered.useOnce("rdma_reject")
        try identifier.reject(privateData: privateData)
    }

    private func begin(
        _ queuePair: consuming QueuePair, _ parameters: ConnectionParameters, _ minRNRTimer: UInt8
    ) throws(VerbsError) -> Connection {
        try PrivateDataLimit.check(parameters.privateData, PrivateDataLimit.accept, "rdma_accept")
        try identifier.check(queuePair, context, "rdma_accept")
        try isAnswered.useOnce("rdma_accept")
        if queuePair.state == .reset { try identifier.prepare(queuePair) }
        let asked = parameters.limited(by: try context.attributes)
        let connection = Connection(queuePair, identifier, pump, asked: asked, minRNRTimer: minRNRTimer)
        // The peer may send as soon as it has our answer.
        try connection.agree(on: self.parameters)
        var answer = asked
        answer.initiatorDepth = connection.initiatorDepth
        answer.responderResources = connection.responderResources
        try identifier.accept(connection.queuePair, answer)
        return connection
    }
}
