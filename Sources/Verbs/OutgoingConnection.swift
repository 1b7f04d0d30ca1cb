// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// A connection that this side asks for: the way to a peer is known, the queue pair comes next.
///
/// ```swift
/// let outgoing = try OutgoingConnection.resolve(peer)
/// let domain = try outgoing.context.makeProtectionDomain()
/// let completions = try outgoing.context.makeCompletionQueue(capacity: 256)
/// let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
/// try outgoing.prepare(queuePair)                     // receives may be posted from here on
/// let connection = try outgoing.connect(queuePair)
/// ```
///
/// All connections through one device have the same ``context``, so domains, pools and completion queues can be shared.
public final class OutgoingConnection: Sendable {
    /// The connection manager's end of it, for options.
    public let identifier: ConnectionIdentifier
    /// The device that leads to the peer.
    public let context: Context

    private let pump: ConnectionPump
    private let answer = Mutex<Refusal?>(nil)
    private let isUsed = Atomic(false)

    /// How a peer refused.
    public struct Refusal: Hashable, Sendable {
        /// The reason code.
        public let reason: RejectReason
        /// Bytes from the peer's program, filled up with zeros.
        public let privateData: [UInt8]
    }

    /// How the peer refused, after ``connect(_:_:minRNRTimer:timeout:)-(QueuePair,_,_,_)`` failed for that.
    public var refusal: Refusal? { answer.withLock { $0 } }

    private init(_ identifier: ConnectionIdentifier, _ context: Context, _ pump: ConnectionPump) {
        self.identifier = identifier
        self.context = context
        self.pump = pump
    }
}

// Finding the peer.
extension OutgoingConnection {
    /// Finds the device and the way to a peer, within `timeout` for each of the two.
    ///
    /// `source` chooses an address of this machine, `device` the kind of device as ``ConnectionChannel/init(on:)``. The
    /// corresponding C functions are `rdma_resolve_addr` and `rdma_resolve_route`.
    public static func resolve(
        _ peer: SocketAddress, from source: SocketAddress? = nil, on device: Device? = nil,
        timeout: Duration = .seconds(5)
    ) throws(VerbsError) -> OutgoingConnection {
        let (identifier, pump) = try begin(peer, source, device, timeout)
        try identifier.inbox.drive("rdma_resolve_addr", timeout: timeout * 2) { (event) throws(VerbsError) in
            try ConnectionSteps.resolve(event, identifier, timeout: timeout)
        }
        return try resolved(identifier, pump)
    }

    /// Finds the device and the way to a peer, suspending the task. The corresponding C functions are `rdma_resolve_addr`
    /// and `rdma_resolve_route`.
    public nonisolated(nonsending) static func resolve(
        _ peer: SocketAddress, from source: SocketAddress? = nil, on device: Device? = nil,
        timeout: Duration = .seconds(5)
    ) async throws(VerbsError) -> OutgoingConnection {
        let (identifier, pump) = try begin(peer, source, device, timeout)
        try await identifier.inbox.drive("rdma_resolve_addr", timeout: timeout * 2) { (event) throws(VerbsError) in
            try ConnectionSteps.resolve(event, identifier, timeout: timeout)
        }
        return try resolved(identifier, pump)
    }

    private static func begin(
        _ peer: SocketAddress, _ source: SocketAddress?, _ device: Device?, _ timeout: Duration
    ) throws(VerbsError) -> (ConnectionIdentifier, ConnectionPump) {
        let channel = try ConnectionChannel(forDevice: device)
        let identifier = try channel.makeIdentifier(.tcp)
        let pump = ConnectionPump(channel)
        try identifier.resolveAddress(peer, from: source, timeout: timeout)
        return (identifier, pump)
    }

    private static func resolved(
        _ identifier: ConnectionIdentifier, _ pump: ConnectionPump
    ) throws(VerbsError) -> OutgoingConnection {
        OutgoingConnection(identifier, try identifier.requireContext("rdma_resolve_addr"), pump)
    }
}

// Connecting.
extension OutgoingConnection {
    /// Moves a fresh queue pair to INIT, so that receives can be posted before the peer may send.
    public func prepare(_ queuePair: borrowing QueuePair, access: AccessFlags? = nil) throws(VerbsError) {
        try identifier.prepare(queuePair, access: access)
    }

    /// Asks the peer for the connection and waits until it is established. Works once.
    ///
    /// `timeout` is for the peer's answer. `minRNRTimer` is how long the peer is asked to wait when no receive is posted,
    /// see ``QueuePairAttributes/minRNRTimer``. If it fails the queue pair ends, and ``refusal`` has what a peer that
    /// refused had to say. The corresponding C functions are `rdma_connect` and `rdma_establish`.
    public func connect(
        _ queuePair: consuming QueuePair, _ parameters: ConnectionParameters = ConnectionParameters(),
        minRNRTimer: UInt8 = 12, timeout: Duration = .seconds(10)
    ) throws(VerbsError) -> Connection {
        let connection = try begin(queuePair, parameters, minRNRTimer)
        try identifier.inbox.drive("rdma_connect", timeout: timeout) { (event) throws(VerbsError) in
            note(event)
            return try ConnectionSteps.connect(event, connection)
        }
        return connection
    }

    /// Asks the peer for the connection, suspending the task until it is established. Works once. The corresponding C
    /// functions are `rdma_connect` and `rdma_establish`.
    public nonisolated(nonsending) func connect(
        _ queuePair: consuming QueuePair, _ parameters: ConnectionParameters = ConnectionParameters(),
        minRNRTimer: UInt8 = 12, timeout: Duration = .seconds(10)
    ) async throws(VerbsError) -> Connection {
        let connection = try begin(queuePair, parameters, minRNRTimer)
        try await identifier.inbox.drive("rdma_connect", timeout: timeout) { (event) throws(VerbsError) in
            note(event)
            return try ConnectionSteps.connect(event, connection)
        }
        return connection
    }

    private func begin(
        _ queuePair: consuming QueuePair, _ parameters: ConnectionParameters, _ minRNRTimer: UInt8
    ) throws(VerbsError) -> Connection {
        try PrivateDataLimit.check(parameters.privateData, PrivateDataLimit.connect, "rdma_connect")
        try identifier.check(queuePair, context, "rdma_connect")
        try isUsed.useOnce("rdma_connect")
        if queuePair.state == .reset { try identifier.prepare(queuePair) }
        let asked = parameters.limited(by: try context.attributes)
        let connection = Connection(queuePair, identifier, pump, asked: asked, minRNRTimer: minRNRTimer)
        try identifier.connect(connection.queuePair, asked)
        return connection
    }

    private func note(_ event: ConnectionEvent.Kind) {
        guard case .rejected(let reason, let privateData) = event else { return }
        answer.withLock { $0 = Refusal(reason: reason, privateData: privateData) }
    }
}

// What both sides do.
extension ConnectionIdentifier {
    func requireContext(_ verb: String) throws(VerbsError) -> Context {
        if let context { return context }
        throw VerbsError(.noDevice, verb: verb, subject: "identifier", remedy: "No RDMA device leads to the peer")
    }

    /// A queue pair of another device could never reach the peer.
    func check(_ queuePair: borrowing QueuePair, _ context: Context, _ verb: String) throws(VerbsError) {
        let own = queuePair.domain.context.device.name
        guard own == context.device.name, queuePair.transport == .reliableConnected else {
            throw VerbsError(
                .invalidAttribute, verb: verb, subject: "queue pair", value: "\(queuePair.transport) on \(own)",
                limit: "RC on \(context.device.name)",
                remedy: "Make the queue pair in a protection domain of the connection's `context`")
        }
    }
}

extension ConnectionParameters {
    /// Depths that the device can.
    func limited(by device: DeviceAttributes) -> ConnectionParameters {
        var parameters = self
        // 255 means "as many as possible" in C.
        parameters.initiatorDepth = min(initiatorDepth ?? 254, UInt8(clamping: min(254, device.maxReadsAsInitiator)))
        parameters.responderResources = min(
            responderResources ?? 254, UInt8(clamping: min(254, device.maxReadsAsTarget)))
        return parameters
    }
}

extension Atomic<Bool> {
    /// True from now on; throws if it was already.
    borrowing func useOnce(_ verb: String) throws(VerbsError) {
        guard exchange(true, ordering: .acquiringAndReleasing) else { return }
        throw VerbsError(
            .invalidTransition, verb: verb, subject: "connection", value: "a second answer or attempt",
            remedy: "Each request and each resolved route makes one connection: resolve again")
    }
}
