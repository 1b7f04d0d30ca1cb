// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension TestDevice {
    static func channel() throws(VerbsError) -> ConnectionChannel { try ConnectionChannel(on: Device.named(name)) }

    /// Why there is no connection manager; `nil` if there is one.
    static let connectionProblem: VerbsError? = {
        do throws(VerbsError) {
            _ = try channel()
            return nil
        } catch {
            return error
        }
    }()

    /// For suites that need a connection manager.
    static var hasConnections: ConditionTrait {
        .enabled(
            if: connectionProblem == nil,
            "\(name) has no connection manager: \(connectionProblem?.description ?? "")")
    }

    /// An address of the device, IPv4 if it has one, without a port.
    static func address(port: UInt16 = 0) throws -> SocketAddress {
        SocketAddress(try #require(addresses.first { $0.isIPv4Mapped } ?? addresses.first), port: port)
    }

    static let addressIPv6: SocketAddress? = addresses.first { !$0.isIPv4Mapped }.map { SocketAddress($0, port: 0) }

    private static let addresses: [GID] = {
        let gids = (try? open().port(1).gids.map(\.gid)) ?? []
        return gids.filter { !$0.isLinkLocal }
    }()
}

extension ConnectionChannel {
    /// The next event, which must come in time.
    func event(_ sourceLocation: SourceLocation = #_sourceLocation) throws -> ConnectionEvent {
        if let event = try nextEvent(timeout: TestDevice.patience) { return event }
        throw TimeoutError(description: "no event")
    }

    /// The request that comes next.
    func request() throws -> (ConnectionIdentifier, ConnectionParameters) {
        let event = try event()
        guard case .connectRequest(let identifier, let parameters) = event.kind else {
            throw TimeoutError(description: "no request but \(event.kind)")
        }
        return (identifier, parameters)
    }

    /// Events until one is of the kind that is asked for.
    @discardableResult func await<T>(_ what: String, _ pick: (ConnectionEvent) throws -> T?) throws -> T {
        let end = ContinuousClock.now + TestDevice.patience
        while ContinuousClock.now < end {
            guard let event = try nextEvent(timeout: .milliseconds(100)) else { continue }
            if let found = try pick(event) { return found }
        }
        throw TimeoutError(description: "waited in vain for \(what)")
    }
}

/// An identifier that listens and one that has resolved the way to it, each with a channel of its own.
struct Introduction {
    let serverChannel: ConnectionChannel
    let clientChannel: ConnectionChannel
    let listener: ConnectionIdentifier
    let client: ConnectionIdentifier

    init(
        _ portSpace: ConnectionIdentifier.PortSpace = .tcp, backlog: Int = 16, wildcard: Bool = false
    ) throws {
        serverChannel = try TestDevice.channel()
        clientChannel = try TestDevice.channel()
        listener = try serverChannel.makeIdentifier(portSpace)
        try listener.bind(to: wildcard ? .anyIPv4() : try TestDevice.address())
        try listener.listen(backlog: backlog)
        client = try clientChannel.makeIdentifier(portSpace)
        try Self.resolve(
            client, SocketAddress(TestDevice.address().address, port: #require(listener.localAddress).port))
    }

    /// Resolves address and route.
    static func resolve(_ identifier: ConnectionIdentifier, _ address: SocketAddress) throws {
        try identifier.resolveAddress(address, timeout: TestDevice.patience)
        let resolved = try identifier.channel.event().kind
        guard case .addressResolved = resolved else { throw TimeoutError(description: "\(resolved)") }
        try identifier.resolveRoute(timeout: TestDevice.patience)
        let routed = try identifier.channel.event().kind
        guard case .routeResolved = routed else { throw TimeoutError(description: "\(routed)") }
    }
}

/// A queue pair on the context of an identifier, with its completion queue and buffers.
final class Equipment {
    let domain: ProtectionDomain
    let pool: BufferPool
    let completions: CompletionQueue
    let queuePair: QueuePair

    init(_ context: Context, _ transport: Transport = .reliableConnected, drain: Duration = .seconds(1)) throws {
        domain = try context.makeProtectionDomain()
        pool = try domain.makeBufferPool(count: 32, size: 4096, access: .remote)
        completions = try context.makeCompletionQueue(capacity: 64)
        queuePair = try domain.makeQueuePair(
            transport, options: QueuePairOptions(sendDepth: 16, receiveDepth: 16, drainTimeout: drain),
            completions: completions)
    }

    convenience init(_ identifier: ConnectionIdentifier, _ transport: Transport = .reliableConnected) throws {
        try self.init(#require(identifier.context), transport)
        try identifier.prepare(queuePair)
    }

    func buffer(_ bytes: [UInt8]) throws -> RegisteredBuffer {
        var buffer = try unwrap(pool.take())
        buffer.fill(from: bytes)
        return buffer
    }

    func postReceive() throws { expectPosted(queuePair.receive(try unwrap(pool.take()))) }

    func completion() throws -> Completion { try nextCompletion(completions) }
}

/// The next completion of a queue, which must come in time.
func nextCompletion(_ queue: borrowing CompletionQueue) throws -> Completion {
    let end = ContinuousClock.now + TestDevice.patience
    while ContinuousClock.now < end {
        if let completion = try queue.next() { return completion }
        usleep(20)
    }
    throw TimeoutError(description: "no completion")
}
