// SPDX-License-Identifier: Apache-2.0

/// Where peers ask for connections.
///
/// ```swift
/// let listener = try Listener(at: .any(port: 7471))
/// for try await incoming in listener.requests {
///     let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
///     try incoming.prepare(queuePair)
///     try queuePair.receive(buffer).orThrow()
///     connections.append(try await incoming.accept(queuePair))
/// }
/// ```
///
/// Connections outlive the listener. Any thread may use it.
public final class Listener: Sendable {
    /// What a listener is made with.
    public struct Options: Hashable, Sendable {
        /// Requests that nobody has taken yet; more are refused.
        public var backlog: Int
        /// The address may be bound although another listener has it.
        public var reusesAddress: Bool
        /// The wildcard `[::]` does not stand for IPv4 as well.
        public var isIPv6Only: Bool
        /// DSCP and ECN bits of the packets of its connections; `nil` leaves them to the system.
        public var typeOfService: UInt8?

        /// Options of all members.
        public init(
            backlog: Int = 128, reusesAddress: Bool = false, isIPv6Only: Bool = false, typeOfService: UInt8? = nil
        ) {
            self.backlog = backlog
            self.reusesAddress = reusesAddress
            self.isIPv6Only = isIPv6Only
            self.typeOfService = typeOfService
        }
    }

    /// Where it listens, with the port that the system chose if it was to.
    public let address: SocketAddress
    /// The connection manager's object.
    public let identifier: ConnectionIdentifier

    private let pump: ConnectionPump

    /// Listens at an address of this machine, or at all of them; port zero lets the system choose one.
    ///
    /// `device` chooses the kind of device as ``ConnectionChannel/init(on:)``. The corresponding C functions are
    /// `rdma_bind_addr` and `rdma_listen`.
    public init(
        at address: SocketAddress, options: Options = Options(), on device: Device? = nil
    ) throws(VerbsError) {
        let channel = try ConnectionChannel(forDevice: device)
        identifier = try channel.makeIdentifier(.tcp)
        if options.reusesAddress { try identifier.setReusesAddress(true) }
        if options.isIPv6Only { try identifier.setIPv6Only(true) }
        if let service = options.typeOfService { try identifier.setTypeOfService(service) }
        try identifier.bind(to: address)
        // The pump reads at once and keeps to the backlog. The system's own, for what is not read yet, only has to be large
        // enough: what passes that one is dropped without an answer, and asked for again five seconds later.
        try identifier.listen(backlog: max(128, options.backlog))
        self.address = identifier.localAddress ?? address
        pump = ConnectionPump(channel, backlog: max(1, options.backlog))
    }

    /// Takes no more requests: those that wait are refused, and whoever waits for one gets none. Letting go of the listener
    /// does the same.
    public func close() { identifier.inbox.close() }

    deinit { close() }
}

// Requests.
extension Listener {
    /// The next request; `nil` when the time is over or the listener is closed. `nil` waits for ever, zero looks once.
    public func nextRequest(timeout: Duration? = nil) throws(VerbsError) -> IncomingConnection? {
        let end = timeout.map { ContinuousClock.now + $0 }
        while let event = identifier.inbox.next(timeout: end.map { $0 - .now }) {
            if let request = try request(event) { return request }
        }
        return nil
    }

    /// The next request, suspending the task; `nil` when the time is over, the listener is closed or the task is cancelled.
    /// `nil` waits for ever.
    public nonisolated(nonsending) func nextRequest(
        timeout: Duration? = nil
    ) async throws(VerbsError) -> IncomingConnection? {
        let end = timeout.map { ContinuousClock.now + $0 }
        while let event = await identifier.inbox.next(timeout: end.map { $0 - .now }) {
            if let request = try request(event) { return request }
        }
        return nil
    }

    /// The requests as they come, for one task; ends when the listener is closed or the task is cancelled.
    public var requests: Requests { Requests(listener: self) }

    /// The requests of a listener as a sequence.
    public struct Requests: AsyncSequence, Sendable {
        let listener: Listener

        /// Gives one request after another.
        public struct Iterator: AsyncIteratorProtocol {
            let listener: Listener

            /// The next request; `nil` when the listener is closed or the task is cancelled.
            public mutating func next(
                isolation actor: isolated (any Actor)? = #isolation
            ) async throws(VerbsError) -> IncomingConnection? {
                try await listener.nextRequest()
            }
        }

        /// An iterator; requests go to whoever asks first.
        public func makeAsyncIterator() -> Iterator { Iterator(listener: listener) }
    }

    private func request(_ event: ConnectionEvent.Kind) throws(VerbsError) -> IncomingConnection? {
        switch event {
        case .connectRequest(let identifier, let parameters):
            // One whose device is gone again is refused by letting go of it.
            return try? IncomingConnection(identifier, parameters, pump)
        case .deviceRemoval:
            guard let error = event.error else { return nil }
            throw error
        default: return nil
        }
    }
}

extension ConnectionChannel {
    /// On the kind of that device, or as without one.
    convenience init(forDevice device: Device?) throws(VerbsError) {
        if let device { try self.init(on: device) } else { try self.init() }
    }
}
