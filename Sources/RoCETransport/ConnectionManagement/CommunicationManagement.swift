// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The communication management of one device: the protocol on queue pair 1 by which queue pairs are connected, without
/// input or output of its own. Time, messages and randomness are arguments.
///
/// ```
///  active                                   passive
///     connect ──REQ────────────────────────►   .request
///  REQUEST SENT ◄───MRA─────────────────────   (asked again while the application thinks)
///     .reply ◄──────────────REP────────────   accept          or reject ──REJ──► .rejected
///  REPLY RECEIVED                           REPLY SENT
///     establish ──RTU──────────────────────►   .established    (the first data packet does as well)
///  ESTABLISHED                              ESTABLISHED
///     disconnect ──DREQ────────────────────►   .disconnected
///  DISCONNECT SENT ◄────────DREP────────────
///     .disconnected, TIME WAIT              TIME WAIT
///     .timeWaitEnded                           .timeWaitEnded
/// ```
/// Where nobody listens, the active side may ask again for a while (``ConnectOptions/asksAgainFor``) before it is told; of a
/// datagram service likewise.
/// What is not answered is sent again; after `retryCountMax` repetitions the application gets `.unreachable` (of a DREQ:
/// `.disconnected`). For datagram services there is one question and one answer (SIDR_REQ, SIDR_REP).
///
/// # Grammar
/// *Control* functions and *inputs* (``receive(_:from:)``, ``advance(to:)``) in any order; afterwards ``nextMessage()``
/// and ``nextEvent()`` until they return `nil`. ``nextDeadline`` tells when to call ``advance(to:)``.
///
/// Everything has a limit (``CommunicationConfiguration``): what passes it is dropped and counted, and the protocol's own
/// repetition makes up for it. This is no data path: messages and private data are allocated.
public struct CommunicationManagement: Sendable {
    /// The limits, and who we are.
    public let configuration: CommunicationConfiguration
    /// What was counted since it was made.
    public internal(set) var counters = CommunicationCounters()

    var communications: [CommunicationID: Communication] = [:]
    var listeners: [ServiceID: [Listening]] = [:]
    /// Requests by their origin, to know repeated ones.
    var requests: [RequestOrigin: CommunicationID] = [:]
    /// Queue pairs of peers that are connected, or were a moment ago.
    var remoteQueuePairs: [RemoteQueuePair: CommunicationID] = [:]
    /// Our queue pairs whose connection waits for the RTU.
    var repliedQueuePairs: [QPN: CommunicationID] = [:]
    var limiter: RequestLimiter
    var nextListenerSerial: UInt64 = 1

    var outgoing = Outbox<OutgoingManagementDatagram>()
    var events = Outbox<CommunicationEvent>()
    var now: Timestamp = 0
    /// When timers are to be looked at: never earlier than ten milliseconds after the last time.
    var nextScan = Timestamp.max

    /// A manager without connections.
    public init(configuration: CommunicationConfiguration) {
        self.configuration = configuration
        limiter = RequestLimiter(
            burst: configuration.requestBurstPerSource, perSecond: configuration.requestsPerSecondPerSource)
    }

    // MARK: Outputs

    /// The next datagram to send, to queue pair 1 of its destination; `nil` when there is none.
    public mutating func nextMessage() -> OutgoingManagementDatagram? { outgoing.next() }

    /// The next event for the application; `nil` when there is none.
    public mutating func nextEvent() -> CommunicationEvent? { events.next() }

    /// Whether ``nextEvent()`` has one.
    public var hasEvents: Bool { events.count > 0 }

    /// When ``advance(to:)`` has something to do; `nil` for never.
    public var nextDeadline: Timestamp? { nextScan == .max ? nil : nextScan }

    /// Whether a communication is there and has this tag: ids are used again, so an owner that comes late asks first.
    public func owns(_ tag: UInt, _ id: CommunicationID) -> Bool { communications[id]?.tag == tag }

    /// Connections, requests and time-waits that there are.
    public var communicationCount: Int { communications.count }
}

/// Who a manager is, and what it holds at most.
public struct CommunicationConfiguration: Sendable {
    /// The high 8 bits of every communication id: which process of the host it belongs to.
    public var slot: UInt8
    /// The node GUID, in host order.
    public var nodeGUID: UInt64
    /// Connections, requests and time-waits together.
    public var communicationCountMax = 65_536
    /// Connection requests that one source may make at once.
    public var requestBurstPerSource = 4_096
    /// Connection requests that one source may make a second, in the long run.
    public var requestsPerSecondPerSource = 4_096
    /// How long a peer may take to answer, and we say that we do: 4.096 µs · 2^n. 18 is about a second; the kernel's 20
    /// would let a lost message cost four.
    public var responseTimeout: UInt8 = 18
    /// The longest packet that our port takes.
    public var pathMTUMax = PathMTU.bytes4096
    /// How long a packet may be under way, likewise.
    public var packetLifetime: UInt8 = 16
    /// How often a message is sent again.
    public var retryCountMax: UInt8 = 15
    /// What an MRA asks for, where the application has the request but has not decided: about a minute, as the kernel.
    public var serviceTimeout: UInt8 = 24
    /// The same where the application has the reply: it has only to set its queue pair, and until the peer asks again a
    /// lost RTU is not made up for. Four seconds.
    public var replyServiceTimeout: UInt8 = 20

    /// The defaults, for a slot and a node.
    public init(slot: UInt8, nodeGUID: UInt64) {
        self.slot = slot
        self.nodeGUID = nodeGUID
    }
}

/// What a manager counts.
public struct CommunicationCounters: Sendable, Equatable {
    /// Messages sent, repetitions among them.
    public var messagesSent: UInt64 = 0
    /// Messages received.
    public var messagesReceived: UInt64 = 0
    /// Messages sent again because no answer came.
    public var repetitions: UInt64 = 0
    /// Messages received again.
    public var duplicates: UInt64 = 0
    /// Messages for a communication that does not exist, or not in that state, or from another address.
    public var unexpected: UInt64 = 0
    /// Requests dropped because their source made too many, or a limit of ours or of the listener was reached.
    public var requestsDropped: UInt64 = 0
    /// Requests that we refused.
    public var requestsRefused: UInt64 = 0

    /// All zero.
    public init() {}

    /// The counters by name.
    public var named: [(name: String, value: UInt64)] {
        [
            ("cm_messages_sent", messagesSent), ("cm_messages_received", messagesReceived),
            ("cm_repetitions", repetitions), ("cm_duplicates", duplicates), ("cm_unexpected", unexpected),
            ("cm_requests_dropped", requestsDropped), ("cm_requests_refused", requestsRefused),
        ]
    }
}

/// A datagram to send from our queue pair 1 to a peer's.
public struct OutgoingManagementDatagram: Sendable {
    /// To whom.
    public let peer: ManagementPeer
    /// What.
    public let datagram: ManagementDatagram
}

/// The other end of a communication, and the address of ours that it uses.
public struct ManagementPeer: Hashable, Sendable {
    /// Its address: where its messages came from, or where the route leads.
    public var address: GID
    /// Our address.
    public var local: GID
    /// Index of our address.
    public var localIndex: UInt8

    /// A peer.
    public init(address: GID, local: GID, localIndex: UInt8) {
        self.address = address
        self.local = local
        self.localIndex = localIndex
    }
}

/// First in, first out, without moving what waits.
struct Outbox<Element: Sendable>: Sendable {
    private var elements: [Element] = []
    private var first = 0

    var count: Int { elements.count - first }

    /// The oldest, without taking it.
    var oldest: Element? { first < elements.count ? elements[first] : nil }

    mutating func append(_ element: Element) {
        if first > 1_024, first * 2 > elements.count {
            elements.removeFirst(first)
            first = 0
        }
        elements.append(element)
    }

    mutating func next() -> Element? {
        guard first < elements.count else { return nil }
        defer {
            first += 1
            if first == elements.count {
                elements.removeAll(keepingCapacity: true)
                first = 0
            }
        }
        return elements[first]
    }
}

extension Timestamp {
    /// 4.096 µs · 2^code in nanoseconds: the unit of all times that the protocol names.
    static func duration(code: UInt8) -> Timestamp { 4_096 << Timestamp(code & 31) }
}
