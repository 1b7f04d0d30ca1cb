// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// One connection, or the question for a datagram service, from its first message to the end of its time-wait.
struct Communication: Sendable {
    let id: CommunicationID
    /// The caller's, for events.
    var tag: UInt
    let transactionID: UInt64
    let peer: ManagementPeer
    var remoteID: CommunicationID?
    var state: State
    /// What it was asked for with, on the passive side.
    var origin: RequestOrigin?
    /// The peer's queue pair, once it is known.
    var remoteQueuePair: RemoteQueuePair?
    var localQPN = QPN(truncating: 0)
    /// What our queue pair is to be set to; complete from ``State/replyReceived`` or ``State/replySent(_:)`` on.
    var terms = ConnectionTerms()
    /// What was asked for: on the active side with the fields that XRC does not send.
    var request: ConnectionRequest?
    /// Until when a connection or a datagram service that nobody listens for is asked for again.
    var asksAgainUntil: Timestamp = 0
    /// The service, of datagrams.
    var serviceID = ServiceID(rawValue: 0)

    /// Whether ours is a target of XRC.
    var isOfTarget: Bool { origin != nil && request?.transport == .extendedReliableConnected }

    /// Each state with what is valid in it.
    enum State: Sendable {
        /// We asked.
        case requestSent(Repetition)
        /// Nobody listened where we asked; we ask again, by the same message.
        case asksAgain(CommunicationMessage, at: Timestamp)
        /// The peer agreed; our application has not said yet that it is ready.
        case replyReceived
        /// We were asked; our application has not decided yet.
        case requestReceived
        /// The peer does not ask any more, before our application decided: it finds out when it does.
        case withdrawn
        /// Our application agreed.
        case replySent(Repetition)
        case established(reply: CommunicationMessage?)
        case disconnectSent(Repetition)
        /// Nothing of it is used again before this time.
        case timeWait(until: Timestamp)
        /// We asked for a datagram service.
        case serviceRequestSent(Repetition)
        /// We were asked for one.
        case serviceRequestReceived
        /// We answered; kept for a while, to answer again.
        case serviceReplySent(CommunicationMessage, until: Timestamp)

        /// When it wants to be looked at.
        var deadline: Timestamp {
            switch self {
            case .requestSent(let repetition), .replySent(let repetition), .disconnectSent(let repetition),
                .serviceRequestSent(let repetition):
                repetition.due
            case .timeWait(let until), .serviceReplySent(_, let until), .asksAgain(_, let until): until
            case .replyReceived, .requestReceived, .withdrawn, .established, .serviceRequestReceived: .max
            }
        }
    }

    /// A message that is sent until it is answered.
    struct Repetition: Sendable {
        let message: CommunicationMessage
        let interval: Timestamp
        var left: UInt8
        var due: Timestamp
    }
}

/// What the two ends agreed on, as our queue pair is to be set.
public struct ConnectionTerms: Sendable, Equatable {
    /// The peer's queue pair.
    public var remoteQPN = QPN(truncating: 0)
    /// The path MTU of both.
    public var pathMTU = PathMTU.bytes1024
    /// The first PSN that we send.
    public var sendPSN = PSN(truncating: 0)
    /// The first PSN that we expect.
    public var receivePSN = PSN(truncating: 0)
    /// READs and atomics of ours that may be outstanding.
    public var readAtomicMax: UInt8 = 0
    /// READs and atomics of the peer's that may be.
    public var destinationReadAtomicMax: UInt8 = 0
    /// The acknowledgement timeout: 4.096 µs · 2^n.
    public var ackTimeout: UInt8 = 0
    /// Retries of a packet.
    public var retryCount: UInt8 = 0
    /// Retries after RNR NAKs.
    public var rnrRetry: UInt8 = 0
    /// Of the path.
    public var trafficClass: UInt8 = 0
    /// Of the path.
    public var flowLabel: UInt32 = 0
    /// Of the path.
    public var hopLimit: UInt8 = 64
    /// Of the path.
    public var serviceLevel: UInt8 = 0
    /// Whether it is a UC connection.
    public var isUnreliable = false
}

/// Who listens to a service.
struct Listening: Sendable {
    /// Never used again, unlike tags.
    let serial: UInt64
    /// The address that it was asked for at; `nil` for all.
    let address: GID?
    let tag: UInt
    let transport: ConnectionRequest.Transport
    let backlog: Int
    /// Requests that the application has not decided.
    var undecided = 0
}

/// What makes a repeated request known.
struct RequestOrigin: Hashable, Sendable {
    let source: GID
    let remoteID: CommunicationID
    let isDatagramService: Bool
    /// Whose request it counts as while undecided.
    var listener: ListenerKey?

    static func == (a: RequestOrigin, b: RequestOrigin) -> Bool {
        a.source == b.source && a.remoteID == b.remoteID && a.isDatagramService == b.isDatagramService
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(source)
        hasher.combine(remoteID)
        hasher.combine(isDatagramService)
    }
}

struct ListenerKey: Hashable, Sendable {
    let service: ServiceID
    let serial: UInt64
}

/// A queue pair of the whole network.
struct RemoteQueuePair: Hashable, Sendable {
    let nodeGUID: UInt64
    let qpn: QPN
}

/// What happened to a communication.
public struct CommunicationEvent: Sendable {
    /// Which one.
    public let id: CommunicationID
    /// The caller's name of it; of a request, that of the listener.
    public let tag: UInt
    /// What.
    public let kind: Kind

    /// What happened.
    public enum Kind: Sendable {
        /// A connection is asked for: accept or reject.
        case request(ConnectionRequest, ConnectionAddresses?, ManagementPeer)
        /// The peer agreed. Set the queue pair by the terms, then `establish`.
        case reply(ConnectionReply)
        /// The peer is ready.
        case established
        /// The peer refused, or gave up.
        case rejected(RejectionReason, privateData: [UInt8])
        /// The peer does not answer.
        case unreachable
        /// The connection is over.
        case disconnected
        /// Number and queue pair may be used again.
        case timeWaitEnded
        /// A datagram service is asked for: answer it.
        case serviceRequest(ServiceRequest, ConnectionAddresses?, ManagementPeer)
        /// The answer to our question.
        case serviceReply(ServiceReply)
    }
}

/// Slows down sources that ask for connections faster than anybody should: a token bucket for each. A table of fixed
/// size: sources that share a place share a bucket.
struct RequestLimiter: Sendable {
    private struct Bucket: Sendable {
        var tokens: Double
        var at: Timestamp = 0
    }

    private let burst: Double
    private let perNanosecond: Double
    private var buckets: [Bucket]

    init(burst: Int, perSecond: Int) {
        self.burst = Double(burst)
        perNanosecond = Double(perSecond) / 1_000_000_000
        buckets = Array(repeating: Bucket(tokens: Double(burst)), count: 256)
    }

    /// Whether the source may ask once more.
    mutating func admits(_ source: GID, now: Timestamp) -> Bool {
        var hash = source.low ^ source.high
        hash ^= hash >> 32
        hash ^= hash >> 16
        hash ^= hash >> 8
        let place = Int(hash & 0xFF)
        let elapsed = now > buckets[place].at ? now - buckets[place].at : 0
        buckets[place].tokens = min(burst, buckets[place].tokens + Double(elapsed) * perNanosecond)
        buckets[place].at = now
        guard buckets[place].tokens >= 1 else { return false }
        buckets[place].tokens -= 1
        return true
    }
}
