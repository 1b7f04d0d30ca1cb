// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// The link of a session with `-R`: an RC queue pair that the connection manager made, over which each message of the
/// handshake is one SEND; and the place where the queue pairs of the test are connected.
///
/// As in perftest all connections of a session use one port number: first the link, then each queue pair of the test.
/// One thread uses it.
package final class ManagedConnection: PeerLink {
    package let role: PeerConnection.Role
    package let localAddress: [UInt8]
    /// The device through which the peer is reached.
    let context: Context
    /// Its port.
    let port: UInt8
    /// How long a step of the set-up may take.
    package var setUpMilliseconds: Int32 = 30_000

    let channel: ManagedChannel
    /// Of a server, where it listens for connections and for datagram services.
    let listeners: [ConnectionIdentifier.PortSpace: ConnectionIdentifier]
    /// Of the test's queue pairs, the connections that have to be ended.
    var connections: [ConnectionIdentifier] = []
    private let control: ConnectionIdentifier
    private let messages: MessageQueue
    private var lastProbe = ContinuousClock.now

    fileprivate init(
        _ role: PeerConnection.Role, _ channel: ManagedChannel, _ control: ConnectionIdentifier,
        _ messages: MessageQueue, _ context: Context,
        listeners: [ConnectionIdentifier.PortSpace: ConnectionIdentifier] = [:]
    ) {
        self.role = role
        self.channel = channel
        self.control = control
        self.messages = messages
        self.context = context
        self.listeners = listeners
        port = control.port ?? 1
        localAddress = control.localAddress?.address.bytes ?? []
    }

    /// The server's address, as a client knows it.
    var peerAddress: SocketAddress? { control.peerAddress }
}

// Making it.
extension ManagedConnection {
    /// No reads and atomics on the link.
    private static let noReads = ConnectionParameters(initiatorDepth: 0, responderResources: 0)

    /// Connects to a server. A refusal is retried for `retrySeconds`, so that both ends can be started together.
    ///
    /// - Throws: ``PerfError/peerUnreachable(_:)`` if there is no server, ``PerfError/usage(_:)`` if another device than
    ///   `-d` leads there, ``PerfError/device(_:)`` for what fails here.
    package static func connect(
        _ options: PerfOptions, host: String, port: Int, retrySeconds: Int = 10
    ) throws(PerfError) -> ManagedConnection {
        guard let address = try SocketAddress.resolve(host: host, port: port).first else {
            throw .peerUnreachable("The host \"\(host)\" has no address.")
        }
        return try connect(options, address, retrySeconds: retrySeconds)
    }

    /// Connects to a server at an address.
    static func connect(
        _ options: PerfOptions, _ address: SocketAddress, retrySeconds: Int
    ) throws(PerfError) -> ManagedConnection {
        let channel = try ManagedChannel(options)
        let end = ContinuousClock.now + .seconds(retrySeconds)
        while true {
            let control = try managed { () throws(VerbsError) in try channel.resolve(address, .tcp) }
            let context = try channel.context(of: control)
            let messages = try MessageQueue(context)
            do throws(VerbsError) {
                try messages.prepare(control)
                try messages.ask(control, noReads)
                guard try channel.response(of: control, until: end) != nil else { continue }
                try messages.activate(control)
                try control.establish()
            } catch {
                guard error.cause == .rejected else { throw .managed(error) }
                throw .peerUnreachable(
                    "No server at \(address). Start the server first, with the same test, -p and -R. (\(error))")
            }
            return ManagedConnection(.client, channel, control, messages, context)
        }
    }
}

/// Where a server of `-R` listens.
package final class ManagedListener {
    private let channel: ManagedChannel
    private let listeners: [ConnectionIdentifier.PortSpace: ConnectionIdentifier]
    /// The port it listens on, also when 0 was asked for.
    package let port: Int

    /// Listens at all addresses, for connections and for datagram services.
    ///
    /// - Throws: ``PerfError/peerUnreachable(_:)`` if the port is taken.
    package init(_ options: PerfOptions, port: Int) throws(PerfError) {
        let channel = try ManagedChannel(options)
        self.channel = channel
        let connections = try Self.listen(channel, .tcp, UInt16(clamping: port))
        let found = try managed { () throws(VerbsError) in connections.localAddress?.port } ?? UInt16(clamping: port)
        listeners = [.tcp: connections, .udp: try Self.listen(channel, .udp, found)]
        self.port = Int(found)
    }

    private static func listen(
        _ channel: ManagedChannel, _ portSpace: ConnectionIdentifier.PortSpace, _ port: UInt16
    ) throws(PerfError) -> ConnectionIdentifier {
        var failure: VerbsError?
        // IPv6 with IPv4; where there is no IPv6, IPv4.
        for address in [SocketAddress.any(port: port), .anyIPv4(port: port)] {
            do throws(VerbsError) {
                let identifier = try channel.makeIdentifier(portSpace)
                try identifier.bind(to: address)
                try identifier.listen()
                return identifier
            } catch {
                failure = failure ?? error
            }
        }
        throw .peerUnreachable(
            """
            Cannot listen on port \(port) of the connection manager: \(failure?.description ?? "") Another server may be \
            running; choose another with -p.
            """)
    }

    /// Waits for the client, for ever unless `seconds` is given.
    package func accept(seconds: Int? = nil) throws(PerfError) -> ManagedConnection {
        guard let listener = listeners[.tcp],
            let (control, _) = try managed({ () throws(VerbsError) in
                try channel.request(at: listener, within: seconds.map { .seconds($0) })
            })
        else { throw .peerUnreachable("No client connected within \(seconds ?? 0) s.") }
        let context = try channel.context(of: control)
        let messages = try MessageQueue(context)
        try managed { () throws(VerbsError) in
            try messages.prepare(control)
            try messages.activate(control)
            try messages.accept(control, ConnectionParameters(initiatorDepth: 0, responderResources: 0))
            try channel.expect("rdma_accept", of: control) { if case .established = $0 { true } else { nil } }
        }
        return ManagedConnection(.server, channel, control, messages, context, listeners: listeners)
    }
}

// Messages.
extension ManagedConnection {
    package func send(_ bytes: [UInt8]) throws(PerfError) {
        let end = ContinuousClock.now + .milliseconds(Int(setUpMilliseconds))
        guard try messages.post(bytes) else { throw Self.gone }
        // As perftest: the next step begins when the peer has it.
        while messages.unfinished > 0 {
            try poll()
            guard ContinuousClock.now < end else { throw Self.gone }
        }
    }

    package func receive(_ count: Int, patience: PeerConnection.Patience = .setUp) throws(PerfError) -> [UInt8] {
        let end = patience == .run ? nil : ContinuousClock.now + .milliseconds(Int(setUpMilliseconds))
        var looks = 0
        while messages.arrived.isEmpty {
            try poll()
            looks += 1
            if looks % 64 == 0, patience == .run { probe() }
            // What came before the end counts.
            if looks % 64 == 0, messages.arrived.isEmpty, channel.hasEnded(control) {
                try poll()
                if messages.arrived.isEmpty { throw Self.gone }
            }
            if let end, ContinuousClock.now >= end {
                throw .protocolMismatch(
                    """
                    The peer stopped answering in the handshake (no message in \(setUpMilliseconds / 1000) s). Does it \
                    run the same test with the same options?
                    """)
            }
        }
        let message = messages.arrived.removeFirst()
        guard message.count == count else {
            throw .protocolMismatch(
                """
                The peer sent \(message.count) bytes where \(count) belong. Does it run the same test, with the same -q \
                and -R?
                """)
        }
        return message
    }

    package func look() -> PeerConnection.Sight {
        probe()
        // An error is seen again, and told, by whoever receives next.
        _ = try? messages.poll()
        if !messages.arrived.isEmpty { return .message }
        return messages.hasFailed || channel.hasEnded(control) ? .closed : .nothing
    }

    /// Every two seconds.
    private func probe() {
        guard ContinuousClock.now - lastProbe > .seconds(2) else { return }
        lastProbe = .now
        messages.probe()
    }

    private func poll() throws(PerfError) {
        let found = try messages.poll()
        if messages.hasFailed, messages.arrived.isEmpty { throw Self.gone }
        if !found { usleep(100) }
    }

    private static var gone: PerfError {
        .peerGone("The peer ended its connection in the middle of the test; look at its output for the reason.")
    }

    /// Ends the connections: the client begins, the server gives it a moment to do so.
    package func finish() {
        let all = connections + [control]
        if role == .client { for identifier in all { try? identifier.disconnect() } }
        let end = ContinuousClock.now + .seconds(3)
        while ContinuousClock.now < end, !all.allSatisfy({ channel.hasEnded($0) }) { usleep(2000) }
        if role == .server { for identifier in all { try? identifier.disconnect() } }
    }
}

// The queue pairs of the test.
extension ManagedConnection {
    /// How long a server may take from its last message to listening: perftest listens only then.
    private static let listenPatience = Duration.seconds(10)

    /// Connects a queue pair to the server's next.
    ///
    /// - Parameter depth: READs and atomics in flight, both ways.
    func connect(_ queuePair: borrowing QueuePair, access: AccessFlags, depth: UInt8) throws(PerfError) {
        guard let address = peerAddress else { throw Self.gone }
        let own = ConnectionParameters(initiatorDepth: depth, responderResources: depth)
        let end = ContinuousClock.now + Self.listenPatience
        var isPrepared = false
        do throws(VerbsError) {
            while true {
                let identifier = try channel.resolve(address, .tcp)
                if !isPrepared { try identifier.prepare(queuePair, access: access) }
                isPrepared = true
                try identifier.connect(queuePair, own)
                guard let peer = try channel.response(of: identifier, until: end) else { continue }
                try identifier.activate(queuePair, depths: own.depths(with: peer))
                try identifier.establish()
                connections.append(identifier)
                return
            }
        } catch {
            throw .managed(error)
        }
    }

    /// Takes the client's next connection for a queue pair.
    func accept(_ queuePair: borrowing QueuePair, access: AccessFlags, depth: UInt8) throws(PerfError) {
        let (identifier, peer) = try request(.tcp)
        do throws(VerbsError) {
            let depths = ConnectionParameters(initiatorDepth: depth, responderResources: depth).depths(with: peer)
            try identifier.prepare(queuePair, access: access)
            try identifier.activate(queuePair, depths: depths)
            try identifier.accept(
                queuePair, ConnectionParameters(initiatorDepth: depths.initiator, responderResources: depths.responder))
            try channel.expect("rdma_accept", of: identifier) { if case .established = $0 { true } else { nil } }
            connections.append(identifier)
        } catch {
            throw .managed(error)
        }
    }

    /// Asks the server for its next datagram service, and readies a UD queue pair.
    func findService(_ queuePair: borrowing QueuePair) throws(PerfError) -> DatagramEndpoint {
        guard let address = peerAddress else { throw Self.gone }
        let end = ContinuousClock.now + Self.listenPatience
        var isPrepared = false
        do throws(VerbsError) {
            while true {
                let identifier = try channel.resolve(address, .udp)
                if !isPrepared { try identifier.prepare(queuePair) }
                isPrepared = true
                try identifier.requestService()
                if let service = try channel.service(of: identifier, until: end) { return service }
            }
        } catch {
            throw .managed(error)
        }
    }

    /// The client's next question for a datagram service.
    func request(_ portSpace: ConnectionIdentifier.PortSpace) throws(PerfError) -> (
        ConnectionIdentifier, ConnectionParameters
    ) {
        guard let listener = listeners[portSpace],
            let found = try managed({ () throws(VerbsError) in
                try channel.request(at: listener, within: ManagedChannel.patience)
            })
        else {
            throw .peerUnreachable(
                "The client did not connect its queue pairs. Does it run the same test, with the same -c, -q and -R?")
        }
        return found
    }
}

extension ManagedChannel {
    /// The next request at a listener; `nil` when the time is over.
    func request(at listener: ConnectionIdentifier, within time: Duration?) throws(VerbsError) -> (
        ConnectionIdentifier, ConnectionParameters
    )? {
        while let kind = try next(of: listener, within: time) {
            if case .connectRequest(let identifier, let parameters) = kind { return (identifier, parameters) }
            if let error = kind.error { throw error }
        }
        return nil
    }
}

extension ConnectionParameters {
    /// What both sides can.
    fileprivate func depths(with peer: ConnectionParameters) -> (initiator: UInt8, responder: UInt8) {
        (
            min(initiatorDepth ?? 0, peer.initiatorDepth ?? 0),
            min(responderResources ?? 0, peer.responderResources ?? 0)
        )
    }
}

// Both ends on this machine, which know each other by a socket.
extension ManagedListener {
    /// Tells the client its port.
    package func introduce(over connection: PeerConnection) throws(PerfError) {
        try connection.send(UInt16(clamping: port).bigEndianBytes)
    }
}

extension ManagedConnection {
    /// Connects to the server that tells its port over a socket, at an address of the device.
    package static func connect(
        _ options: PerfOptions, introducedOver connection: PeerConnection
    ) throws(PerfError) -> ManagedConnection {
        let port = UInt16(bigEndianBytes: try connection.receive(2))
        let choice = try DeviceChoice(options, localAddress: connection.localAddress)
        let table = choice.port.gids.map(\.gid).filter { !$0.isLinkLocal }
        guard let address = table.first(where: { $0.isIPv4Mapped }) ?? table.first else {
            throw .device("\(choice.context.device.name) has no address: give its network interface one.")
        }
        return try connect(options, SocketAddress(address, port: port), retrySeconds: 10)
    }
}
