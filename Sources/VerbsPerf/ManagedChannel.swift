// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// The connection manager's channel of a session with `-R`, and its events that nobody has asked for yet: queue pairs
/// are connected one by one, while the peer may be ahead.
///
/// One thread uses it.
final class ManagedChannel {
    /// How long the peer may take for a step.
    static let patience = Duration.seconds(30)

    private let channel: ConnectionChannel
    private let options: PerfOptions
    private var waiting: [ConnectionEvent] = []
    /// Identifiers whose connection the peer has ended.
    private var ended: Set<ObjectIdentifier> = []

    /// - Throws: ``PerfError/device(_:)`` if there is no connection manager, or no device of that name.
    init(_ options: PerfOptions) throws(PerfError) {
        self.options = options
        do throws(VerbsError) {
            channel =
                if let name = options.device {
                    try ConnectionChannel(on: Device.named(name))
                } else {
                    try ConnectionChannel()
                }
        } catch {
            throw .device("\(error)")
        }
    }

    func makeIdentifier(_ portSpace: ConnectionIdentifier.PortSpace) throws(VerbsError) -> ConnectionIdentifier {
        try channel.makeIdentifier(portSpace)
    }

    /// The next event of an identifier; `nil` when the time is over, which without one it never is.
    func next(of identifier: ConnectionIdentifier, within time: Duration? = patience) throws(VerbsError)
        -> ConnectionEvent.Kind?
    {
        let end = time.map { ContinuousClock.now + $0 }
        while true {
            if let index = waiting.firstIndex(where: { $0.identifier === identifier }) {
                return waiting.remove(at: index).kind
            }
            guard let event = try channel.nextEvent(timeout: end.map { max(.zero, $0 - .now) }) else { return nil }
            keep(event)
        }
    }

    /// Whether the peer has ended the connection of an identifier.
    func hasEnded(_ identifier: ConnectionIdentifier) -> Bool {
        // A channel that fails has nothing more to tell.
        while let event = try? channel.nextEvent(timeout: .zero) { keep(event) }
        return ended.contains(ObjectIdentifier(identifier))
    }

    private func keep(_ event: ConnectionEvent) {
        switch event.kind {
        case .disconnected, .deviceRemoval: ended.insert(ObjectIdentifier(event.identifier))
        case .timeWaitExit, .addressChange: break
        default: waiting.append(event)
        }
    }
}

// Finding the peer.
extension ManagedChannel {
    /// Resolves an address and the route to it, through the device that was asked for.
    func resolve(
        _ address: SocketAddress, _ portSpace: ConnectionIdentifier.PortSpace
    ) throws(VerbsError) -> ConnectionIdentifier {
        let identifier = try makeIdentifier(portSpace)
        if options.trafficClass != 0 {
            try identifier.setTypeOfService(UInt8(clamping: options.trafficClass))
        }
        try identifier.resolveAddress(address, timeout: .seconds(5))
        try expect("rdma_resolve_addr", of: identifier) { if case .addressResolved = $0 { true } else { nil } }
        try identifier.resolveRoute(timeout: .seconds(5))
        try expect("rdma_resolve_route", of: identifier) { if case .routeResolved = $0 { true } else { nil } }
        return identifier
    }

    /// The next event of an identifier, which must be what `pick` takes.
    @discardableResult func expect<T>(
        _ verb: String, of identifier: ConnectionIdentifier, _ pick: (ConnectionEvent.Kind) -> T?
    ) throws(VerbsError) -> T {
        guard let kind = try next(of: identifier) else {
            throw VerbsError(
                .timedOut, verb: verb, subject: "answer", value: "\(Self.patience)",
                remedy: "The peer did not answer; is it alive, and does it run the same test with -R?")
        }
        if let found = pick(kind) { return found }
        throw kind.error
            ?? VerbsError(
                .system, verb: verb, subject: "event", value: "\(kind)",
                remedy: "The peer ended the connection; try again")
    }

    /// The device of an identifier, which must be the one that was asked for.
    func context(of identifier: ConnectionIdentifier) throws(PerfError) -> Context {
        guard let context = identifier.context else {
            throw .device("No RDMA device leads to the peer: see `verbs devices` and `ip route get`.")
        }
        guard let name = options.device, let wanted = try? Device.named(name), wanted.name != context.device.name else {
            return context
        }
        throw .usage(
            """
            -d \(name): the connection manager reaches the peer through \(context.device.name). Use an address that \
            \(name) leads to.
            """)
    }
}

// The peer's answer.
extension ManagedChannel {
    private enum Answer<Value> {
        case yes(Value)
        /// Nobody listens there yet.
        case nobodyYet
    }

    /// What the peer says to `connect`; `nil` if nobody listens there yet, and `end` has not come.
    func response(of identifier: ConnectionIdentifier, until end: ContinuousClock.Instant) throws(VerbsError)
        -> ConnectionParameters?
    {
        let answer = try expect("rdma_connect", of: identifier) { (kind) -> Answer<ConnectionParameters>? in
            switch kind {
            case .connectResponse(let parameters): .yes(parameters)
            case .rejected(.invalidServiceID, _) where ContinuousClock.now < end: .nobodyYet
            default: nil
            }
        }
        if case .yes(let parameters) = answer { return parameters }
        usleep(50_000)
        return nil
    }

    /// What the peer says to `requestService`; `nil` as above.
    func service(of identifier: ConnectionIdentifier, until end: ContinuousClock.Instant) throws(VerbsError)
        -> DatagramEndpoint?
    {
        let answer = try expect("rdma_connect", of: identifier) { (kind) -> Answer<DatagramEndpoint>? in
            switch kind {
            case .datagramEstablished(let service): .yes(service)
            case .unreachable(.datagramStatus, _) where ContinuousClock.now < end: .nobodyYet
            default: nil
            }
        }
        if case .yes(let service) = answer { return service }
        usleep(50_000)
        return nil
    }
}

/// Calls of the connection manager, whose errors become those of a measurement.
func managed<T>(_ body: () throws(VerbsError) -> T) throws(PerfError) -> T {
    do throws(VerbsError) {
        return try body()
    } catch {
        throw .managed(error)
    }
}

extension PerfError {
    /// What the connection manager says.
    static func managed(_ error: VerbsError) -> PerfError {
        switch error.cause {
        case .rejected, .unreachable, .timedOut, .addressInUse: .peerUnreachable("\(error)")
        default: .device("\(error)")
        }
    }
}
