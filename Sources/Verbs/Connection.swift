// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// A queue pair that is connected to a peer's.
///
/// An ``OutgoingConnection`` or an ``IncomingConnection`` makes it. It owns the queue pair, which is used as any other:
/// work is posted to ``queuePair`` and completes on the completion queues that it was made with.
///
/// When the connection ends, by ``disconnect(timeout:)``, by the peer, or because the device goes, the queue pair moves to
/// ERR and everything in flight is flushed: each work request resolves by exactly one completion. A connection that is let
/// go tells the peer too, without waiting for its consent.
///
/// It has one owner and one thread at a time, as its queue pair.
public final class Connection {
    /// The connected queue pair.
    public let queuePair: QueuePair
    /// The connection manager's end of it.
    public let identifier: ConnectionIdentifier
    /// What the peer said when the connection was made, its private data among it.
    public internal(set) var peerParameters = ConnectionParameters()
    /// Reads and atomics that this side may have outstanding.
    public private(set) var initiatorDepth: UInt8 = 0
    /// Reads and atomics of the peer that this side answers at a time.
    public private(set) var responderResources: UInt8 = 0

    private let pump: ConnectionPump
    private let fuse: QueuePairFuse
    private let asked: ConnectionParameters
    private let minRNRTimer: UInt8

    /// Takes a queue pair that is at INIT.
    init(
        _ queuePair: consuming QueuePair, _ identifier: ConnectionIdentifier, _ pump: ConnectionPump,
        asked: ConnectionParameters, minRNRTimer: UInt8
    ) {
        fuse = QueuePairFuse(queuePair)
        self.queuePair = queuePair
        self.identifier = identifier
        self.pump = pump
        self.asked = asked
        self.minRNRTimer = minRNRTimer
        identifier.inbox.arm(fuse)
    }

    deinit {
        fuse.remove()
        // Of a connection that has ended already this fails.
        try? identifier.disconnect()
        // The queue pair drains as it goes.
    }

    /// This side's address.
    public var localAddress: SocketAddress? { identifier.localAddress }
    /// The peer's address.
    public var peerAddress: SocketAddress? { identifier.peerAddress }
    /// Whether the connection has ended; what was in flight then is flushed.
    public var hasEnded: Bool { identifier.inbox.isOver }

    /// Brings the queue pair to RTS, with the depths that both sides can.
    func agree(on peer: ConnectionParameters) throws(VerbsError) {
        peerParameters = peer
        initiatorDepth = min(asked.initiatorDepth ?? .max, peer.initiatorDepth ?? .max)
        responderResources = min(asked.responderResources ?? .max, peer.responderResources ?? .max)
        try identifier.activate(
            queuePair, depths: (initiator: initiatorDepth, responder: responderResources), minRNRTimer: minRNRTimer)
    }
}

@available(*, unavailable) extension Connection: Sendable {}

// The end.
extension Connection {
    /// Ends the connection: what is in flight is flushed, the peer is told, and its consent is waited for.
    ///
    /// Afterwards every work request has its completion on the completion queue. Throws if the peer does not answer in
    /// time; the connection has ended on this side all the same. The corresponding C function is `rdma_disconnect`.
    public func disconnect(timeout: Duration = .seconds(10)) throws(VerbsError) {
        defer { queuePair.core.drain() }
        guard try beginDisconnect() else { return }
        try identifier.inbox.drive("rdma_disconnect", timeout: timeout, ConnectionSteps.end)
    }

    /// Ends the connection, suspending the task while the peer answers. The corresponding C function is
    /// `rdma_disconnect`.
    public nonisolated(nonsending) func disconnect(timeout: Duration = .seconds(10)) async throws(VerbsError) {
        defer { queuePair.core.drain() }
        guard try beginDisconnect() else { return }
        try await identifier.inbox.drive("rdma_disconnect", timeout: timeout, ConnectionSteps.end)
    }

    /// Waits until the peer ends the connection: true, or false when the time is over. `nil` waits for ever.
    public func waitForEnd(timeout: Duration? = nil) -> Bool {
        if hasEnded { return true }
        do throws(VerbsError) {
            try identifier.inbox.drive("rdma_get_cm_event", timeout: timeout, ConnectionSteps.end)
            return true
        } catch {
            return hasEnded
        }
    }

    /// Waits until the peer ends the connection, suspending the task: true, or false when the time is over or the task is
    /// cancelled. `nil` waits for ever.
    public nonisolated(nonsending) func waitForEnd(timeout: Duration? = nil) async -> Bool {
        if hasEnded { return true }
        do throws(VerbsError) {
            try await identifier.inbox.drive("rdma_get_cm_event", timeout: timeout, ConnectionSteps.end)
            return true
        } catch {
            return hasEnded
        }
    }

    /// False if the connection has ended already.
    private func beginDisconnect() throws(VerbsError) -> Bool {
        if hasEnded { return false }
        try queuePair.modify(QueuePairAttributes(state: .error))
        do throws(VerbsError) {
            try identifier.disconnect()
        } catch {
            // The peer may have been faster.
            if hasEnded { return false }
            throw error
        }
        return true
    }
}
