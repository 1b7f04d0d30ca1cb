// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// What a connection is asked for with.
public struct ConnectOptions: Sendable {
    /// The service.
    public var serviceID: ServiceID
    /// The way to it.
    public var peer: ManagementPeer
    /// Our queue pair.
    public var qpn: QPN
    /// RC, UC, or XRC, of which ``qpn`` is an initiator then.
    public var transport = ConnectionRequest.Transport.reliableConnected
    /// The path MTU of both.
    public var pathMTU: PathMTU
    /// READs and atomics that we take at a time.
    public var responderResources: UInt8 = 1
    /// READs and atomics that we want to have outstanding.
    public var initiatorDepth: UInt8 = 1
    /// Retries of a packet.
    public var retryCount: UInt8 = 7
    /// Retries after RNR NAKs.
    public var rnrRetry: UInt8 = 7
    /// The acknowledgement timeout: 4.096 µs · 2^n.
    public var ackTimeout: UInt8 = 17
    /// Whether our receives come from a shared queue.
    public var usesSharedReceives = false
    /// Of the path.
    public var trafficClass: UInt8 = 0
    /// Of the path.
    public var flowLabel: UInt32 = 0
    /// All of it, ``ConnectionAddresses`` included: at most 92 bytes.
    public var privateData: [UInt8] = []
    /// For how long a connection that nobody listens for is asked for again before it is rejected, in nanoseconds.
    public var asksAgainFor: Timestamp = 0

    /// The defaults, for a service.
    public init(serviceID: ServiceID, peer: ManagementPeer, qpn: QPN, pathMTU: PathMTU) {
        self.serviceID = serviceID
        self.peer = peer
        self.qpn = qpn
        self.pathMTU = pathMTU
    }
}

/// What a connection is accepted with.
public struct AcceptOptions: Sendable {
    /// Our queue pair, a target if XRC was asked for. It is ready to receive.
    public var qpn: QPN
    /// READs and atomics that we take at a time.
    public var responderResources: UInt8
    /// READs and atomics that we want to have outstanding.
    public var initiatorDepth: UInt8
    /// Retries after RNR NAKs that the peer should make.
    public var rnrRetry: UInt8 = 7
    /// Whether our receives come from a shared queue.
    public var usesSharedReceives = false
    /// At most 196 bytes.
    public var privateData: [UInt8] = []

    /// The defaults, for a queue pair.
    public init(qpn: QPN, responderResources: UInt8, initiatorDepth: UInt8) {
        self.qpn = qpn
        self.responderResources = responderResources
        self.initiatorDepth = initiatorDepth
    }
}

// What the application wants.
extension CommunicationManagement {
    /// Takes requests for a service from now on.
    ///
    /// - Parameters:
    ///   - address: the one of our addresses that it serves; `nil` for all.
    ///   - tag: stands in the events of its requests, and ends it.
    ///   - transport: what kind of connection; others are refused.
    ///   - backlog: requests that may wait for a decision; further ones are dropped, and their senders repeat them.
    /// - Throws: `busy` if somebody listens to that.
    public mutating func listen(
        to service: ServiceID, on address: GID?, tag: UInt,
        transport: ConnectionRequest.Transport = .reliableConnected, backlog: Int
    ) throws(EngineError) {
        let others = listeners[service] ?? []
        guard !others.contains(where: { $0.address == address }) else { throw .busy("somebody listens there") }
        let listening = Listening(
            serial: nextListenerSerial, address: address, tag: tag, transport: transport, backlog: backlog)
        nextListenerSerial += 1
        listeners[service] = others + [listening]
    }

    /// Takes no more requests for a listener. What it has got already stays to be decided.
    public mutating func stopListening(to service: ServiceID, on address: GID?, tag: UInt) {
        listeners[service]?.removeAll { $0.tag == tag && $0.address == address }
        if listeners[service]?.isEmpty == true { listeners[service] = nil }
    }

    /// Asks for a connection.
    public mutating func connect(
        _ options: ConnectOptions, tag: UInt, now: Timestamp, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> CommunicationID {
        self.now = now
        let startingPSN = PSN(truncating: UInt32.random(in: 0...0xFF_FFFF, using: &generator))
        let id = try makeID(using: &generator)
        var request = ConnectionRequest(
            localID: id, serviceID: options.serviceID, nodeGUID: configuration.nodeGUID, qpn: options.qpn,
            transport: options.transport, startingPSN: startingPSN, pathMTU: options.pathMTU,
            localGID: options.peer.local, remoteGID: options.peer.address, privateData: options.privateData)
        request.responderResources = options.responderResources
        request.initiatorDepth = options.initiatorDepth
        request.remoteResponseTimeout = configuration.responseTimeout
        request.localResponseTimeout = configuration.responseTimeout
        request.retryCountMax = configuration.retryCountMax
        request.retryCount = options.retryCount
        request.rnrRetry = options.rnrRetry
        request.ackTimeout = options.ackTimeout
        request.usesSharedReceives = options.usesSharedReceives
        request.trafficClass = options.trafficClass
        request.flowLabel = options.flowLabel
        let message = CommunicationMessage.connectionRequest(request.sent)
        var communication = Communication(
            id: id, tag: tag, transactionID: UInt64(id.rawValue) << 32 | UInt64(generator.next() as UInt32),
            peer: options.peer, state: .requestSent(repetition(of: message, interval: requestInterval)))
        communication.localQPN = options.qpn
        communication.request = request
        communication.asksAgainUntil = now + options.asksAgainFor
        communications[id] = communication
        send(message, of: communication)
        schedule(communication.state.deadline)
        return id
    }

    /// Agrees to a request. The queue pair is ready to receive, and may be ready to send: set by
    /// ``terms(of:accepting:)`` before.
    public mutating func accept(
        _ id: CommunicationID, _ options: AcceptOptions, now: Timestamp
    ) throws(EngineError) {
        self.now = now
        guard var communication = communications[id] else { throw .unknownObject }
        guard case .requestReceived = communication.state, let request = communication.request,
            let remoteID = communication.remoteID
        else { throw .invalidArgument("there is no request to accept") }
        var reply = ConnectionReply(
            localID: id, remoteID: remoteID, qpn: options.qpn, startingPSN: communication.terms.receivePSN,
            responderResources: options.responderResources, initiatorDepth: options.initiatorDepth,
            rnrRetry: options.rnrRetry, nodeGUID: configuration.nodeGUID, privateData: options.privateData)
        reply.usesSharedReceives = options.usesSharedReceives
        if request.transport == .extendedReliableConnected { reply.becomeTarget() }
        decide(communication)
        communication.localQPN = options.qpn
        communication.terms.readAtomicMax = options.initiatorDepth
        communication.terms.destinationReadAtomicMax = options.responderResources
        let interval = min(max(Timestamp.duration(code: request.localResponseTimeout), intervalMin), intervalMax)
        communication.state = .replySent(
            repetition(
                of: .connectionReply(reply), interval: interval, count: min(request.retryCountMax, 15)))
        communications[id] = communication
        repliedQueuePairs[options.qpn] = id
        send(.connectionReply(reply), of: communication)
        schedule(communication.state.deadline)
    }

    /// Refuses a request, or a reply.
    public mutating func reject(
        _ id: CommunicationID, reason: RejectionReason = .consumer, privateData: [UInt8] = [], now: Timestamp
    ) throws(EngineError) {
        self.now = now
        guard let communication = communications[id] else { throw .unknownObject }
        switch communication.state {
        case .requestReceived, .replyReceived: sendRejection(of: communication, reason, privateData)
        case .withdrawn: break
        case .serviceRequestReceived:
            return try answerService(
                id, status: .rejected, qpn: QPN(truncating: 0), queueKey: QueueKey(rawValue: 0),
                privateData: privateData, now: now)
        default: throw .invalidArgument("there is nothing to reject")
        }
        decide(communication)
        remove(communication)
    }

    /// Our queue pair is ready: tells the peer, which then is connected.
    public mutating func establish(_ id: CommunicationID, now: Timestamp) throws(EngineError) {
        self.now = now
        guard let communication = communications[id] else { throw .unknownObject }
        guard case .replyReceived = communication.state, let remoteID = communication.remoteID else {
            throw .invalidArgument("there is no reply to answer")
        }
        let ready = CommunicationMessage.readyToUse(ReadyToUse(localID: id, remoteID: remoteID))
        communications[id]?.state = .established(reply: ready)
        send(ready, of: communication)
    }

    /// Ends a connection. `.disconnected` follows when the peer has heard it, or never will.
    public mutating func disconnect(_ id: CommunicationID, now: Timestamp) throws(EngineError) {
        self.now = now
        guard let communication = communications[id] else { throw .unknownObject }
        switch communication.state {
        case .established, .replySent, .replyReceived: beginDisconnect(communication)
        case .disconnectSent, .timeWait: break
        default: throw .invalidArgument("there is no connection to end")
        }
    }

    /// Lets go of a communication, whatever it is at: a request is rejected, a connection ended, without further events. A
    /// connection of an XRC target goes on, as the target may: others have handles of it (`cm_destroy_id` of the kernel).
    public mutating func forget(_ id: CommunicationID, now: Timestamp) {
        self.now = now
        guard let communication = communications[id] else { return }
        communications[id]?.tag = 0
        switch communication.state {
        case .requestSent:
            sendRejection(of: communication, .timeout, [])
            remove(communication)
        case .requestReceived, .withdrawn, .replyReceived, .serviceRequestReceived:
            try? reject(id, now: now)
        case .established where communication.isOfTarget: remove(communication)
        case .established, .replySent: beginDisconnect(communication)
        case .serviceRequestSent, .asksAgain: remove(communication)
        case .disconnectSent, .timeWait, .serviceReplySent: break
        }
    }

    /// Names a communication of the passive side for its events.
    public mutating func setTag(_ tag: UInt, of id: CommunicationID) { communications[id]?.tag = tag }

    /// Asks for the queue pair of a datagram service.
    ///
    /// - Parameter asksAgainFor: for how long a service that nobody has is asked for again before its absence is told, in
    ///   nanoseconds.
    public mutating func requestService(
        _ service: ServiceID, of peer: ManagementPeer, privateData: [UInt8], asksAgainFor: Timestamp = 0, tag: UInt,
        now: Timestamp, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> CommunicationID {
        self.now = now
        let id = try makeID(using: &generator)
        let message = CommunicationMessage.serviceRequest(
            ServiceRequest(requestID: id, serviceID: service, privateData: privateData))
        var communication = Communication(
            id: id, tag: tag, transactionID: UInt64(id.rawValue) << 32 | UInt64(generator.next() as UInt32), peer: peer,
            state: .serviceRequestSent(repetition(of: message, interval: requestInterval)))
        communication.asksAgainUntil = now + asksAgainFor
        communications[id] = communication
        send(message, of: communication)
        schedule(communication.state.deadline)
        return id
    }

    /// Answers a request for a datagram service.
    public mutating func answerService(
        _ id: CommunicationID, status: ServiceReply.Status, qpn: QPN, queueKey: QueueKey, privateData: [UInt8],
        now: Timestamp
    ) throws(EngineError) {
        self.now = now
        guard var communication = communications[id] else { throw .unknownObject }
        guard case .serviceRequestReceived = communication.state, let remoteID = communication.remoteID else {
            throw .invalidArgument("there is no question for a service")
        }
        let message = CommunicationMessage.serviceReply(
            ServiceReply(
                requestID: remoteID, status: status, qpn: qpn, serviceID: communication.serviceID, queueKey: queueKey,
                privateData: privateData))
        decide(communication)
        communication.state = .serviceReplySent(message, until: now + requestInterval * 2)
        communications[id] = communication
        send(message, of: communication)
        schedule(communication.state.deadline)
    }

    /// What our queue pair is to be set to, from the reply or the request on; `nil` before.
    public func terms(of id: CommunicationID) -> ConnectionTerms? {
        guard let communication = communications[id] else { return nil }
        switch communication.state {
        case .requestSent, .asksAgain, .serviceRequestSent, .serviceRequestReceived, .serviceReplySent: return nil
        default: return communication.terms
        }
    }

    /// The other end.
    public func peer(of id: CommunicationID) -> ManagementPeer? { communications[id]?.peer }

    // MARK: Parts

    /// Shortest and longest time between repetitions, whatever a peer says.
    var intervalMin: Timestamp { 50_000_000 }
    var intervalMax: Timestamp { 60_000_000_000 }

    /// How long to wait before a connection or a service that nobody listened for is asked for again.
    var listenerInterval: Timestamp { 20_000_000 }

    /// How long to wait for an answer: there, thought, and back.
    var requestInterval: Timestamp {
        2 * .duration(code: configuration.packetLifetime) + .duration(code: configuration.responseTimeout)
    }

    func repetition(
        of message: CommunicationMessage, interval: Timestamp, count: UInt8? = nil
    ) -> Communication.Repetition {
        Communication.Repetition(
            message: message, interval: interval, left: count ?? configuration.retryCountMax, due: now + interval)
    }

    func makeID(using generator: inout some RandomNumberGenerator) throws(EngineError) -> CommunicationID {
        guard communications.count < configuration.communicationCountMax else { throw .limitReached("connections") }
        while true {
            let bits: UInt32 = .random(in: 1...0xFF_FFFF, using: &generator)
            let id = CommunicationID(rawValue: UInt32(configuration.slot) << 24 | bits)
            if communications[id] == nil { return id }
        }
    }

    mutating func beginDisconnect(_ communication: Communication) {
        guard let remoteID = communication.remoteID else { return remove(communication) }
        let message = CommunicationMessage.disconnectRequest(
            DisconnectRequest(
                localID: communication.id, remoteID: remoteID, remoteQPN: communication.terms.remoteQPN))
        let state = Communication.State.disconnectSent(repetition(of: message, interval: requestInterval))
        communications[communication.id]?.state = state
        repliedQueuePairs[communication.localQPN] = nil
        send(message, of: communication)
        schedule(state.deadline)
    }

    mutating func sendRejection(of communication: Communication, _ reason: RejectionReason, _ privateData: [UInt8]) {
        let subject: MessageSubject =
            switch communication.state {
            case .requestReceived: .connectionRequest
            case .replyReceived: .connectionReply
            default: .other
            }
        let rejection = ConnectionRejection(
            localID: communication.id, remoteID: communication.remoteID ?? CommunicationID(rawValue: 0),
            subject: subject, reason: reason, privateData: privateData)
        send(.rejection(rejection), of: communication)
    }

    /// A request is decided: it does not count against its listener's backlog any more.
    mutating func decide(_ communication: Communication) {
        switch communication.state {
        case .requestReceived, .withdrawn, .serviceRequestReceived: break
        default: return
        }
        guard let key = communication.origin?.listener,
            let place = listeners[key.service]?.firstIndex(where: { $0.serial == key.serial })
        else { return }
        listeners[key.service]?[place].undecided -= 1
    }

    mutating func remove(_ communication: Communication) {
        communications[communication.id] = nil
        if let origin = communication.origin, requests[origin] == communication.id { requests[origin] = nil }
        if let remote = communication.remoteQueuePair, remoteQueuePairs[remote] == communication.id {
            remoteQueuePairs[remote] = nil
        }
        if repliedQueuePairs[communication.localQPN] == communication.id {
            repliedQueuePairs[communication.localQPN] = nil
        }
    }

    mutating func send(_ message: CommunicationMessage, of communication: Communication) {
        send(message, transactionID: communication.transactionID, to: communication.peer)
    }

    mutating func send(_ message: CommunicationMessage, transactionID: UInt64, to peer: ManagementPeer) {
        counters.messagesSent &+= 1
        outgoing.append(
            OutgoingManagementDatagram(
                peer: peer, datagram: ManagementDatagram(transactionID: transactionID, message: message)))
    }

    mutating func tell(_ communication: Communication, _ kind: CommunicationEvent.Kind) {
        // 0 is whom nobody listens for any more.
        guard communication.tag != 0 else { return }
        events.append(CommunicationEvent(id: communication.id, tag: communication.tag, kind: kind))
    }

    mutating func schedule(_ deadline: Timestamp) { nextScan = min(nextScan, deadline) }
}

extension ConnectionRequest {
    /// What is said of it to the peer. An initiator of XRC is sent no requests: what is of those is zero, and so are the
    /// retries (`cm_format_req` of the kernel).
    fileprivate var sent: ConnectionRequest {
        guard transport == .extendedReliableConnected else { return self }
        var request = self
        request.responderResources = 0
        request.retryCount = 0
        request.rnrRetry = 0
        request.usesSharedReceives = false
        return request
    }
}

extension ConnectionReply {
    /// Names a target of XRC, which sends no requests and receives into shared queues (`cm_format_rep` of the kernel).
    fileprivate mutating func becomeTarget() {
        eecn = qpn
        qpn = QPN(truncating: 0)
        initiatorDepth = 0
        usesSharedReceives = true
    }
}
