// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The transport service of a queue pair.
public enum QueuePairType: UInt8, Sendable {
    /// Reliable connection.
    case rc
    /// Extended reliable connection, the end that sends: a requester of RC whose requests say which shared receive queue
    /// they are for.
    case xrcInitiator
    /// Extended reliable connection, the end that receives: a responder of RC into the shared receive queues of a domain.
    case xrcTarget
    /// Unreliable connection.
    case uc
    /// Unreliable datagram.
    case ud
    /// The general services interface: queue pair number 1, otherwise as ``ud``.
    case gsi
    /// Whole frames of a network interface.
    case rawPacket
}

extension QueuePairType {
    /// RC and both ends of XRC: what is lost comes again.
    @inline(__always)
    var isReliable: Bool {
        switch self {
        case .rc, .xrcInitiator, .xrcTarget: true
        case .uc, .ud, .gsi, .rawPacket: false
        }
    }

    /// One queue pair at each end.
    @inline(__always)
    var isConnected: Bool {
        switch self {
        case .rc, .xrcInitiator, .xrcTarget, .uc: true
        case .ud, .gsi, .rawPacket: false
        }
    }

    var isExtended: Bool { self == .xrcInitiator || self == .xrcTarget }

    /// What the service adds to the opcodes of RC.
    var opcodeBits: UInt8 {
        switch self {
        case .uc: 0x20
        case .xrcInitiator, .xrcTarget: 0xA0
        case .rc, .ud, .gsi, .rawPacket: 0
        }
    }
}

/// The states of a queue pair; the numbers of `enum ibv_qp_state`.
public enum QueuePairState: UInt8, Sendable {
    /// Nothing is sent, received or posted.
    case reset = 0
    /// Receives may be posted.
    case initialized = 1
    /// Requests of the peer are served.
    case readyToReceive = 2
    /// Both directions work.
    case readyToSend = 3
    /// Requests in flight finish, no new one starts.
    case sendQueueDrained = 4
    /// A send failed; sends are flushed, receives go on (UC, UD).
    case sendQueueError = 5
    /// All work requests are flushed.
    case error = 6
}

/// Which attributes a modify changes; the bits of `enum ibv_qp_attr_mask`.
public struct QueuePairAttributeMask: OptionSet, Sendable {
    /// As the C enumeration has it.
    public let rawValue: UInt32
    /// A value from its number.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The state to enter.
    public static let state = Self(rawValue: 1)
    /// See ``QueuePairAttributes``.
    public static let currentState = Self(rawValue: 2)
    /// Event when drained.
    public static let sendQueueDrainedNotify = Self(rawValue: 4)
    /// What the peer may do.
    public static let accessFlags = Self(rawValue: 8)
    /// Always 0.
    public static let pkeyIndex = Self(rawValue: 0x10)
    /// Always 1.
    public static let port = Self(rawValue: 0x20)
    /// UD: the Q_Key to be shown.
    public static let qkey = Self(rawValue: 0x40)
    /// RC, UC: the path to the peer.
    public static let addressVector = Self(rawValue: 0x80)
    /// RC, UC: path MTU.
    public static let pathMTU = Self(rawValue: 0x100)
    /// RC: local ACK timeout.
    public static let timeout = Self(rawValue: 0x200)
    /// RC: retries.
    public static let retryCount = Self(rawValue: 0x400)
    /// RC: retries after RNR NAKs.
    public static let rnrRetry = Self(rawValue: 0x800)
    /// First PSN expected.
    public static let receivePSN = Self(rawValue: 0x1000)
    /// RC: `max_rd_atomic`.
    public static let readAtomicMax = Self(rawValue: 0x2000)
    /// Not supported.
    public static let alternatePath = Self(rawValue: 0x4000)
    /// RC: RNR NAK timer.
    public static let rnrTimerMin = Self(rawValue: 0x8000)
    /// First PSN sent.
    public static let sendPSN = Self(rawValue: 0x10000)
    /// RC: `max_dest_rd_atomic`.
    public static let destinationReadAtomicMax = Self(rawValue: 0x20000)
    /// Not supported.
    public static let pathMigrationState = Self(rawValue: 0x40000)
    /// Not supported.
    public static let capabilities = Self(rawValue: 0x80000)
    /// RC, UC: the peer's queue pair.
    public static let destinationQPN = Self(rawValue: 0x100000)
}

/// The attributes of a queue pair: what `struct ibv_qp_attr` says, in the engine's types.
public struct QueuePairAttributes: Sendable {
    /// The state to enter.
    public var state: QueuePairState = .reset
    /// `SQD` only: make an event when the send queue is drained.
    public var sendQueueDrainedNotify = false
    /// What the peer may do.
    public var accessFlags: AccessFlags = []
    /// Always 0.
    public var pkeyIndex: UInt16 = 0
    /// Always 1.
    public var port: UInt8 = 1
    /// UD: the Q_Key to be shown.
    public var qkey: UInt32 = 0
    /// RC, UC: the path to the peer.
    public var addressVector = AddressVector(destination: GID(ipv4: 0), localIndex: 0)
    /// Path MTU code 1...5 for 256...4096 bytes (`enum ibv_mtu`).
    public var pathMTU: UInt8 = 3
    /// Local ACK timeout: 4.096 µs · 2^timeout; 0 is never. 5 bits.
    public var timeout: UInt8 = 0
    /// Retransmissions without progress before `retriesExceeded`, 0...7.
    public var retryCount: UInt8 = 0
    /// Retransmissions after RNR NAKs, 0...6; 7 is without limit.
    public var rnrRetry: UInt8 = 0
    /// The code of the RNR timer that our NAKs ask for, 5 bits.
    public var rnrTimerMin: UInt8 = 0
    /// First PSN expected from the peer.
    public var receivePSN: UInt32 = 0
    /// First PSN sent.
    public var sendPSN: UInt32 = 0
    /// RC, UC: the peer's queue pair.
    public var destinationQPN: UInt32 = 0
    /// READs and atomics in flight as requester (`max_rd_atomic`).
    public var readAtomicMax: UInt8 = 0
    /// READs and atomics saved as responder (`max_dest_rd_atomic`).
    public var destinationReadAtomicMax: UInt8 = 0

    /// A value with these fields; the rest is zero.
    public init() {}
}

/// What a queue pair is created with: `struct ibv_qp_init_attr`, in the engine's types.
public struct QueuePairCreation: Sendable {
    /// Transport service.
    public var type: QueuePairType
    /// The protection domain: any number that the caller chose for it. An ``QueuePairType/xrcTarget`` has none, but that
    /// of the shared receive queue that a request is for.
    public var protectionDomain: UInt32
    /// Where sends complete. `nil` for an ``QueuePairType/xrcTarget``.
    public var sendCompletionQueue: CompletionQueue?
    /// Where receives complete. `nil` for both ends of XRC, as those of a target complete where its shared receive queues
    /// say.
    public var receiveCompletionQueue: CompletionQueue?
    /// The receive queue shared with other queue pairs; `nil` gives the queue pair one of its own, on XRC none.
    public var sharedReceiveQueue: ReceiveQueue?
    /// ``QueuePairType/xrcTarget``: the XRC domain, any number that the caller chose for it.
    public var xrcDomain: UInt32 = 0
    /// Send work requests; rounded up to a power of two.
    public var sendCapacity: Int
    /// Receive work requests; rounded up to a power of two.
    public var receiveCapacity: Int
    /// Entries of a send's list.
    public var sendScatterGatherMax: Int
    /// Entries of a receive's list.
    public var receiveScatterGatherMax: Int
    /// Inline data, bytes.
    public var inlineMax: Int
    /// Every send work request is signaled (`sq_sig_all`).
    public var signalsAll: Bool
    /// The caller's own name for the queue pair, given back in events.
    public var tag: UInt

    /// A value with these fields; the rest is zero.
    public init(
        type: QueuePairType, protectionDomain: UInt32, sendCompletionQueue: CompletionQueue?,
        receiveCompletionQueue: CompletionQueue?, sharedReceiveQueue: ReceiveQueue? = nil, sendCapacity: Int = 64,
        receiveCapacity: Int = 64, sendScatterGatherMax: Int = 4, receiveScatterGatherMax: Int = 4, inlineMax: Int = 64,
        signalsAll: Bool = false, tag: UInt = 0
    ) {
        self.type = type
        self.protectionDomain = protectionDomain
        self.sendCompletionQueue = sendCompletionQueue
        self.receiveCompletionQueue = receiveCompletionQueue
        self.sharedReceiveQueue = sharedReceiveQueue
        self.sendCapacity = sendCapacity
        self.receiveCapacity = receiveCapacity
        self.sendScatterGatherMax = sendScatterGatherMax
        self.receiveScatterGatherMax = receiveScatterGatherMax
        self.inlineMax = inlineMax
        self.signalsAll = signalsAll
        self.tag = tag
    }
}
