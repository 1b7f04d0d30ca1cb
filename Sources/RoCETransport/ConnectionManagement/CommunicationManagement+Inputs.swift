// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Messages and time.
extension CommunicationManagement {
    /// A message from a peer's queue pair 1, its packet checked.
    public mutating func receive(
        _ datagram: ManagementDatagram, from peer: ManagementPeer, now: Timestamp,
        using generator: inout some RandomNumberGenerator
    ) {
        self.now = now
        counters.messagesReceived &+= 1
        switch datagram.message {
        case .connectionRequest(let request):
            receive(request, datagram.transactionID, from: peer, using: &generator)
        case .connectionReply(let reply): receive(reply, datagram.transactionID, from: peer)
        case .readyToUse(let ready): receive(ready, from: peer)
        case .receiptAcknowledgement(let receipt): receive(receipt, from: peer)
        case .rejection(let rejection): receive(rejection, from: peer)
        case .disconnectRequest(let request): receive(request, datagram.transactionID, from: peer)
        case .disconnectReply(let reply): receive(reply, from: peer)
        case .serviceRequest(let request):
            receive(request, datagram.transactionID, from: peer, using: &generator)
        case .serviceReply(let reply): receive(reply, from: peer)
        }
    }

    /// A packet came on a queue pair of ours: if its connection waits for the RTU, that was lost or overtaken, and the
    /// packet is as good.
    public mutating func communicationEstablished(on qpn: QPN, now: Timestamp) {
        self.now = now
        guard let id = repliedQueuePairs[qpn], let communication = communications[id] else { return }
        becomeEstablished(communication)
    }

    /// Sends again what was not answered, and ends what is over.
    public mutating func advance(to now: Timestamp) {
        self.now = now
        guard now >= nextScan else { return }
        var next = Timestamp.max
        for (id, communication) in communications {
            if communication.state.deadline <= now { expire(communication) }
            next = min(next, communications[id]?.state.deadline ?? .max)
        }
        nextScan = next == .max ? .max : max(next, now + 10_000_000)
    }

    private mutating func expire(_ communication: Communication) {
        switch communication.state {
        case .requestSent(let repetition):
            guard let again = sendAgain(repetition, communication) else {
                sendRejection(of: communication, .timeout, [])
                tell(communication, .unreachable)
                return remove(communication)
            }
            communications[communication.id]?.state = .requestSent(again)
        case .asksAgain(let message, _): askAgain(communication, by: message)
        case .replySent(let repetition):
            guard let again = sendAgain(repetition, communication) else {
                sendRejection(of: communication, .timeout, [])
                tell(communication, .unreachable)
                return enterTimeWait(communication)
            }
            communications[communication.id]?.state = .replySent(again)
        case .disconnectSent(let repetition):
            guard let again = sendAgain(repetition, communication) else {
                tell(communication, .disconnected)
                return enterTimeWait(communication)
            }
            communications[communication.id]?.state = .disconnectSent(again)
        case .serviceRequestSent(let repetition):
            guard let again = sendAgain(repetition, communication) else {
                tell(communication, .unreachable)
                return remove(communication)
            }
            communications[communication.id]?.state = .serviceRequestSent(again)
        case .timeWait:
            tell(communication, .timeWaitEnded)
            remove(communication)
        case .serviceReplySent: remove(communication)
        case .replyReceived, .requestReceived, .withdrawn, .established, .serviceRequestReceived: break
        }
    }

    private mutating func sendAgain(
        _ repetition: Communication.Repetition, _ communication: Communication
    ) -> Communication.Repetition? {
        guard repetition.left > 0 else { return nil }
        counters.repetitions &+= 1
        send(repetition.message, of: communication)
        var again = repetition
        again.left -= 1
        again.due = now + repetition.interval
        return again
    }

    /// Where nobody listens: another question in a moment, if there is time for it.
    private mutating func askLater(_ communication: Communication, by message: CommunicationMessage) -> Bool {
        guard now < communication.asksAgainUntil else { return false }
        let state = Communication.State.asksAgain(message, at: now + listenerInterval)
        communications[communication.id]?.state = state
        schedule(state.deadline)
        return true
    }

    private mutating func askAgain(_ communication: Communication, by message: CommunicationMessage) {
        let repetition = repetition(of: message, interval: requestInterval)
        let state: Communication.State =
            if case .serviceRequest = message { .serviceRequestSent(repetition) } else { .requestSent(repetition) }
        communications[communication.id]?.state = state
        send(message, of: communication)
    }

    // MARK: Requests

    /// A message with the queue pair of a connection that is there: the peer has lost its end of that one. Who only says so from
    /// another address has not.
    private mutating func endStale(_ stale: Communication, from peer: ManagementPeer) {
        if stale.peer.address == peer.address, case .established = stale.state { beginDisconnect(stale) }
    }

    private mutating func receive(
        _ request: ConnectionRequest, _ transactionID: UInt64, from peer: ManagementPeer,
        using generator: inout some RandomNumberGenerator
    ) {
        var origin = RequestOrigin(source: peer.address, remoteID: request.localID, isDatagramService: false)
        if let id = requests[origin], let known = communications[id] { return receiveAgain(request, known) }
        let remote = RemoteQueuePair(nodeGUID: request.nodeGUID, qpn: request.qpn)
        if let id = remoteQueuePairs[remote], let stale = communications[id] {
            refuse(request, transactionID, .staleConnection, to: peer)
            return endStale(stale, from: peer)
        }
        guard request.serviceID.portSpace != .udp,
            let (key, listening) = listener(for: request.serviceID, at: peer.local)
        else {
            return refuse(request, transactionID, .invalidServiceID, to: peer)
        }
        let addresses: ConnectionAddresses?
        switch judge(request, listening, at: peer) {
        case .refused(let reason, let information):
            return refuse(request, transactionID, reason, information, to: peer)
        case .accepted(let given): addresses = given
        }
        guard admits(peer, listening), let id = try? makeID(using: &generator) else {
            counters.requestsDropped &+= 1
            return
        }
        origin.listener = key
        var communication = Communication(
            id: id, tag: listening.tag, transactionID: transactionID, peer: peer, remoteID: request.localID,
            state: .requestReceived)
        communication.origin = origin
        communication.remoteQueuePair = remote
        communication.request = request
        communication.terms = terms(
            of: request, receivePSN: PSN(truncating: UInt32.random(in: 0...0xFF_FFFF, using: &generator)))
        noteUndecided(key)
        communications[id] = communication
        requests[origin] = id
        remoteQueuePairs[remote] = id
        tell(communication, .request(request, addresses, peer))
    }

    private enum Judgement {
        case accepted(ConnectionAddresses?)
        case refused(RejectionReason, [UInt8])
    }

    /// In the order in which the kernel looks, and with its reasons.
    private func judge(_ request: ConnectionRequest, _ listening: Listening, at peer: ManagementPeer) -> Judgement {
        guard request.remoteGID == peer.local else {
            var bytes = MessageInformation()
            bytes.append(peer.local)
            return .refused(.invalidGID, bytes.bytes)
        }
        if request.localGID.isIPv4Mapped != peer.local.isIPv4Mapped { return .refused(.invalidGID, []) }
        if request.hasAlternatePath { return .refused(.invalidAlternatePath, []) }
        guard request.transport == listening.transport else { return .refused(.consumer, []) }
        // A peer may not send packets longer than ours; shorter ones are the peer's choice.
        guard let mtu = PathMTU(rawValue: request.pathMTUCode), mtu <= configuration.pathMTUMax else {
            return .refused(.invalidPathMTU, [configuration.pathMTUMax.rawValue << 4])
        }
        switch request.serviceID.portSpace {
        case .tcp, .udp, .infiniBand:
            guard let addresses = ConnectionAddresses(parsing: request.privateData), addresses.destination == peer.local
            else { return .refused(.consumer, []) }
            return .accepted(addresses)
        case .none: return .accepted(nil)
        }
    }

    private func terms(of request: ConnectionRequest, receivePSN: PSN) -> ConnectionTerms {
        var terms = ConnectionTerms()
        terms.remoteQPN = request.qpn
        terms.pathMTU = PathMTU(rawValue: request.pathMTUCode) ?? .bytes1024
        terms.sendPSN = request.startingPSN
        terms.receivePSN = receivePSN
        terms.readAtomicMax = request.responderResources
        terms.destinationReadAtomicMax = request.initiatorDepth
        terms.ackTimeout = request.ackTimeout
        terms.retryCount = request.retryCount
        terms.rnrRetry = request.rnrRetry
        terms.trafficClass = request.trafficClass
        terms.flowLabel = request.flowLabel
        terms.hopLimit = max(request.hopLimit, 1)
        terms.serviceLevel = request.serviceLevel
        terms.isUnreliable = request.transport == .unreliableConnected
        return terms
    }

    /// A request that we have already: its sender has not heard us.
    private mutating func receiveAgain(_ request: ConnectionRequest, _ communication: Communication) {
        counters.duplicates &+= 1
        switch communication.state {
        case .requestReceived:
            let receipt = ReceiptAcknowledgement(
                localID: communication.id, remoteID: request.localID, subject: .connectionRequest,
                serviceTimeout: configuration.serviceTimeout)
            send(.receiptAcknowledgement(receipt), of: communication)
        case .replySent(let repetition): send(repetition.message, of: communication)
        case .timeWait: refuse(request, communication.transactionID, .staleConnection, to: communication.peer)
        default: break
        }
    }

    private mutating func refuse(
        _ request: ConnectionRequest, _ transactionID: UInt64, _ reason: RejectionReason, _ information: [UInt8] = [],
        to peer: ManagementPeer
    ) {
        counters.requestsRefused &+= 1
        let rejection = ConnectionRejection(
            localID: CommunicationID(rawValue: 0), remoteID: request.localID, subject: .connectionRequest,
            reason: reason, additionalInformation: information)
        send(.rejection(rejection), transactionID: transactionID, to: peer)
    }

    /// Whether somebody here listens to a service, at an address: for links that share it among processes.
    public func listens(to service: ServiceID, at address: GID) -> Bool { listener(for: service, at: address) != nil }

    private func listener(for service: ServiceID, at address: GID) -> (ListenerKey, Listening)? {
        guard let all = listeners[service],
            let found = all.first(where: { $0.address == address }) ?? all.first(where: { $0.address == nil })
        else { return nil }
        return (ListenerKey(service: service, serial: found.serial), found)
    }

    private mutating func admits(_ peer: ManagementPeer, _ listening: Listening) -> Bool {
        communications.count < configuration.communicationCountMax && listening.undecided < listening.backlog
            && limiter.admits(peer.address, now: now)
    }

    private mutating func noteUndecided(_ key: ListenerKey) {
        guard let place = listeners[key.service]?.firstIndex(where: { $0.serial == key.serial }) else { return }
        listeners[key.service]?[place].undecided += 1
    }

    private mutating func receive(
        _ request: ServiceRequest, _ transactionID: UInt64, from peer: ManagementPeer,
        using generator: inout some RandomNumberGenerator
    ) {
        var origin = RequestOrigin(source: peer.address, remoteID: request.requestID, isDatagramService: true)
        if let id = requests[origin], let known = communications[id] {
            counters.duplicates &+= 1
            if case .serviceReplySent(let message, _) = known.state { send(message, of: known) }
            return
        }
        let addresses = ConnectionAddresses(parsing: request.privateData)
        guard request.serviceID.portSpace != .tcp, request.serviceID.portSpace != .infiniBand,
            let (key, listening) = listener(for: request.serviceID, at: peer.local),
            request.serviceID.portSpace != .udp || addresses?.destination == peer.local
        else {
            counters.requestsRefused &+= 1
            let reply = ServiceReply(
                requestID: request.requestID, status: .unsupportedService, qpn: QPN(truncating: 0),
                serviceID: request.serviceID, queueKey: QueueKey(rawValue: 0))
            return send(.serviceReply(reply), transactionID: transactionID, to: peer)
        }
        guard admits(peer, listening), let id = try? makeID(using: &generator) else {
            counters.requestsDropped &+= 1
            return
        }
        origin.listener = key
        var communication = Communication(
            id: id, tag: listening.tag, transactionID: transactionID, peer: peer, remoteID: request.requestID,
            state: .serviceRequestReceived)
        communication.origin = origin
        communication.serviceID = request.serviceID
        noteUndecided(key)
        communications[id] = communication
        requests[origin] = id
        tell(communication, .serviceRequest(request, addresses, peer))
    }

    // MARK: Answers

    /// The communication that a message names, if it comes from its peer; a stray one is counted.
    private mutating func find(
        _ id: CommunicationID, remote: CommunicationID?, from peer: ManagementPeer
    ) -> Communication? {
        guard let communication = communications[id], communication.peer.address == peer.address,
            remote == nil || communication.remoteID == nil || communication.remoteID == remote
        else {
            counters.unexpected &+= 1
            return nil
        }
        return communication
    }

    private mutating func receive(_ reply: ConnectionReply, _ transactionID: UInt64, from peer: ManagementPeer) {
        guard let communication = find(reply.remoteID, remote: reply.localID, from: peer) else {
            // Its sender waits for an RTU that will never come.
            guard communications[reply.remoteID] == nil else { return }
            let rejection = ConnectionRejection(
                localID: CommunicationID(rawValue: 0), remoteID: reply.localID, subject: .connectionReply,
                reason: .invalidCommunicationID)
            return send(.rejection(rejection), transactionID: transactionID, to: peer)
        }
        switch communication.state {
        case .requestSent: becomeReplied(communication, reply)
        case .replyReceived:
            counters.duplicates &+= 1
            let receipt = ReceiptAcknowledgement(
                localID: communication.id, remoteID: reply.localID, subject: .connectionReply,
                serviceTimeout: configuration.replyServiceTimeout)
            send(.receiptAcknowledgement(receipt), of: communication)
        case .established(let ready):
            counters.duplicates &+= 1
            if let ready { send(ready, of: communication) }
        default: counters.unexpected &+= 1
        }
    }

    private mutating func becomeReplied(_ communication: Communication, _ reply: ConnectionReply) {
        guard let request = communication.request else { return }
        var communication = communication
        let remote = RemoteQueuePair(nodeGUID: reply.nodeGUID, qpn: reply.queuePair(of: request.transport))
        communication.remoteID = reply.localID
        if let id = remoteQueuePairs[remote], let stale = communications[id] {
            communication.state = .replyReceived
            sendRejection(of: communication, .staleConnection, [])
            tell(communication, .rejected(.staleConnection, privateData: []))
            remove(communication)
            return endStale(stale, from: communication.peer)
        }
        communication.remoteQueuePair = remote
        communication.terms = terms(of: request, reply)
        communication.state = .replyReceived
        remoteQueuePairs[remote] = communication.id
        communications[communication.id] = communication
        tell(communication, .reply(reply))
    }

    /// Crosswise: where the peer starts is where we expect, what it takes is what we may have outstanding.
    private func terms(of request: ConnectionRequest, _ reply: ConnectionReply) -> ConnectionTerms {
        var terms = terms(of: request, receivePSN: request.startingPSN)
        terms.remoteQPN = reply.queuePair(of: request.transport)
        terms.sendPSN = reply.startingPSN
        terms.readAtomicMax = min(request.initiatorDepth, reply.responderResources)
        terms.destinationReadAtomicMax = min(request.responderResources, max(reply.initiatorDepth, 1))
        terms.rnrRetry = reply.rnrRetry
        return terms
    }

    private mutating func receive(_ ready: ReadyToUse, from peer: ManagementPeer) {
        guard let communication = find(ready.remoteID, remote: ready.localID, from: peer) else { return }
        switch communication.state {
        case .replySent: becomeEstablished(communication)
        case .established: counters.duplicates &+= 1
        default: counters.unexpected &+= 1
        }
    }

    private mutating func becomeEstablished(_ communication: Communication) {
        guard case .replySent = communication.state else { return }
        communications[communication.id]?.state = .established(reply: nil)
        repliedQueuePairs[communication.localQPN] = nil
        tell(communication, .established)
    }

    /// The answer takes longer: the wait begins anew, and lasts as long as the peer asks for.
    private mutating func receive(_ receipt: ReceiptAcknowledgement, from peer: ManagementPeer) {
        guard let communication = find(receipt.remoteID, remote: receipt.localID, from: peer) else { return }
        let wait = min(Timestamp.duration(code: receipt.serviceTimeout), 2 * intervalMax)
        switch (communication.state, receipt.subject) {
        case (.requestSent(var repetition), .connectionRequest):
            repetition.due = now + repetition.interval + wait
            communications[communication.id]?.state = .requestSent(repetition)
        case (.replySent(var repetition), .connectionReply):
            repetition.due = now + repetition.interval + wait
            communications[communication.id]?.state = .replySent(repetition)
        default: counters.unexpected &+= 1
        }
    }

    private mutating func receive(_ rejection: ConnectionRejection, from peer: ManagementPeer) {
        // A peer that gave up before it heard our id names itself only.
        let id =
            rejection.remoteID.rawValue != 0
            ? rejection.remoteID
            : requests[RequestOrigin(source: peer.address, remoteID: rejection.localID, isDatagramService: false)]
        guard let id, let communication = find(id, remote: nil, from: peer) else { return }
        switch communication.state {
        case .requestSent(let repetition)
        where rejection.reason == .invalidServiceID && askLater(communication, by: repetition.message):
            break
        case .requestSent, .replyReceived, .replySent:
            tell(communication, .rejected(rejection.reason, privateData: rejection.privateData))
            if case .replySent = communication.state { return enterTimeWait(communication) }
            remove(communication)
        case .requestReceived: withdraw(communication, rejection)
        default: counters.unexpected &+= 1
        }
    }

    /// It counts against the backlog until the application decides: else requests that are taken back at once would pile
    /// up before an application that does not look.
    private mutating func withdraw(_ communication: Communication, _ rejection: ConnectionRejection) {
        remove(communication)
        var withdrawn = communication
        withdrawn.state = .withdrawn
        communications[communication.id] = withdrawn
        // Who listens still has the request before it, as an event: then there is nobody else to tell.
        let isOffered = communication.origin?.listener.map { key in
            listeners[key.service]?.contains { $0.serial == key.serial && $0.tag == communication.tag } ?? false
        }
        if isOffered == false {
            tell(communication, .rejected(rejection.reason, privateData: rejection.privateData))
        }
    }

    private mutating func receive(_ reply: ServiceReply, from peer: ManagementPeer) {
        guard let communication = find(reply.requestID, remote: nil, from: peer) else { return }
        guard case .serviceRequestSent(let repetition) = communication.state else {
            counters.unexpected &+= 1
            return
        }
        if reply.status == .unsupportedService, askLater(communication, by: repetition.message) { return }
        tell(communication, .serviceReply(reply))
        remove(communication)
    }

    // MARK: Ends

    private mutating func receive(_ request: DisconnectRequest, _ transactionID: UInt64, from peer: ManagementPeer) {
        let answer = CommunicationMessage.disconnectReply(
            DisconnectReply(localID: request.remoteID, remoteID: request.localID))
        guard let communication = communications[request.remoteID] else {
            // Its sender has more than we: it may rest.
            counters.duplicates &+= 1
            return send(answer, transactionID: transactionID, to: peer)
        }
        guard communication.peer.address == peer.address, communication.remoteID == request.localID,
            communication.localQPN == request.remoteQPN
        else {
            counters.unexpected &+= 1
            return
        }
        switch communication.state {
        case .established, .replySent, .replyReceived, .disconnectSent:
            send(answer, transactionID: transactionID, to: peer)
            tell(communication, .disconnected)
            enterTimeWait(communication)
        case .timeWait:
            counters.duplicates &+= 1
            send(answer, transactionID: transactionID, to: peer)
        default: counters.unexpected &+= 1
        }
    }

    private mutating func receive(_ reply: DisconnectReply, from peer: ManagementPeer) {
        guard let communication = find(reply.remoteID, remote: reply.localID, from: peer) else { return }
        guard case .disconnectSent = communication.state else {
            counters.duplicates &+= 1
            return
        }
        tell(communication, .disconnected)
        enterTimeWait(communication)
    }

    /// Packets of the connection may be under way still.
    private mutating func enterTimeWait(_ communication: Communication) {
        let wait = Timestamp.duration(code: min(communication.terms.ackTimeout, 20))
        let state = Communication.State.timeWait(until: now + max(wait, intervalMin))
        communications[communication.id]?.state = state
        repliedQueuePairs[communication.localQPN] = nil
        schedule(state.deadline)
    }
}

/// Additional information of a refusal.
private struct MessageInformation {
    private(set) var bytes: [UInt8] = []

    mutating func append(_ address: GID) {
        for half in [address.high, address.low] {
            for shift in stride(from: 56, through: 0, by: -8) {
                bytes.append(UInt8(truncatingIfNeeded: half >> UInt64(shift)))
            }
        }
    }
}
