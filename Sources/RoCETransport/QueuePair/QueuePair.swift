// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// One queue pair: its state, both halves, and what it wants of the engine.
///
/// ```
///          modify            modify            modify              modify
/// RESET ───────────▶ INIT ───────────▶ RTR ───────────▶ RTS ◀──────────────▶ SQD
///   ▲                                                    │ ▲
///   │ modify                          send failed, UC UD ▼ │ modify
///   └───────────────── any, ERR ◀── failure, modify ──── SQE
/// ```
/// It lives behind one pointer from create to destroy. Its functions change only itself, its rings and what they are
/// given; lists of the engine (work, timers, events) are kept up by the engine after each call, from the marks
/// `wantsTransmit`, `deadline` and `events`. Extensions by aspect are in the files beside this one.
@safe struct QueuePair: ~Copyable {
    // Fixed at creation.
    let qpn: QPN
    let type: QueuePairType
    let opcodeBits: UInt8
    /// Never used again in this engine, unlike the number.
    let serial: UInt64
    var tag: UInt
    let sendCompletionQueue: CompletionQueue
    let sendQueue: SendQueue
    let isReceiveQueueShared: Bool
    let signalsAll: Bool

    // Fixed at creation, too, but on a target of XRC: see `QueuePair+SharedQueues`.
    var protectionDomain: UInt32
    var receiveCompletionQueue: CompletionQueue
    var receiveQueue: ReceiveQueue
    /// XRC target: its domain, and the number of the shared receive queue that it has taken up, or 0.
    let xrcDomain: UInt32
    var xrcQueueNumber: UInt32 = 0

    // Set by modify; the hot ones taken apart.
    var attributes = QueuePairAttributes()
    var state = QueuePairState.reset
    var pathMTU: Int32 = 1024
    var pathMTUShift: UInt8 = 10
    var remoteQPN = QPN(truncating: 0)
    var path = TransmitPath(source: GID(ipv4: 0), destination: GID(ipv4: 0), sourcePort: 0, localIndex: 0)
    var timeoutNanoseconds: UInt64 = 0

    var requester: Requester
    var responder: Responder
    /// The peer is of this package and agreed to selective repetition: see `QueuePair+EarlyRequests`.
    var isSelective = false

    // Marks for the engine.
    var wantsTransmit = false
    /// An acknowledgement waited for the request that was just posted, and leaves behind it.
    var acknowledgesWithRequest = false
    /// When ``timerFired(now:_:)`` is to be called; `.max` for never.
    var deadline = Timestamp.max
    /// Bits of ``QueuePairEvent`` raw values.
    var events: UInt32 = 0
    var hasReportedCommunication = false
    /// The communication management waits for the first packet.
    var isCommunicationWatched = false

    // Kept by the engine.
    var isInWorkList = false
    var nextInWorkList: UnsafeMutablePointer<QueuePair>?
    /// The slot of the process of this host that the peer is in; 0 if it is elsewhere, or the bound of ``HostShares`` is not for it.
    var hostSlot: UInt8 = 0
    /// What ``HostShares`` knows to be in flight.
    var hostInFlightBytes = 0
    var isWaitingForHost = false
    var nextWaitingForHost: UnsafeMutablePointer<QueuePair>?
    var isInPacketList = false
    var nextInPacketList: UnsafeMutablePointer<QueuePair>?
    var isInEventList = false
    var nextInEventList: UnsafeMutablePointer<QueuePair>?
    /// Place in the timer heap, or -1.
    var timerIndex: Int32 = -1
    /// The deadline that the heap knows.
    var timerDeadline = Timestamp.max

    init(
        qpn: QPN, serial: UInt64, creation: QueuePairCreation, sendQueue: SendQueue, receiveQueue: ReceiveQueue,
        vacant: VacantQueues, readAtomicMax: Int
    ) {
        self.qpn = qpn
        self.serial = serial
        type = creation.type
        opcodeBits = creation.type.opcodeBits
        protectionDomain = creation.protectionDomain
        xrcDomain = creation.xrcDomain
        tag = creation.tag
        sendCompletionQueue = creation.sendCompletionQueue ?? vacant.completionQueue
        receiveCompletionQueue = creation.receiveCompletionQueue ?? vacant.completionQueue
        self.sendQueue = sendQueue
        self.receiveQueue = receiveQueue
        isReceiveQueueShared = creation.sharedReceiveQueue != nil || creation.type.isExtended
        signalsAll = creation.signalsAll
        let readCapacity = creation.type.isReliable ? readAtomicMax : 1
        requester = Requester(capacity: sendQueue.capacity, readCapacity: readCapacity)
        responder = Responder(scatterGatherMax: receiveQueue.scatterGatherMax, readCapacity: readCapacity)
    }

    deinit {
        requester.deallocate()
        responder.deallocate()
        sendQueue.deallocate()
        if !isReceiveQueueShared { receiveQueue.deallocate() }
    }

    /// What was sent, or asked for, and is not acknowledged yet.
    ///
    /// Mutating, though it changes nothing: the compiler would copy the queue pair to borrow it.
    var inFlightBytes: Int {
        @inline(__always) mutating get { max(requester.inFlight, 0) << Int(pathMTUShift) }
    }

    var isDatagram: Bool { type == .ud || type == .gsi }

    /// Packets of a message of this length: at least one.
    @inline(__always)
    func packetCount(_ byteLength: UInt32) -> UInt32 {
        byteLength == 0 ? 1 : (byteLength &- 1) >> UInt32(pathMTUShift) &+ 1
    }

    /// The opcode of this queue pair's service for one of RC.
    @inline(__always)
    func opcode(_ rc: Opcode) -> Opcode { Opcode(rawValue: rc.rawValue | opcodeBits) }

    /// Notes an event for the application.
    mutating func raise(_ event: QueuePairEvent) { events |= 1 << UInt32(event.rawValue) }

    /// The receive queue's domain: a shared queue may belong to another one than the queue pair.
    var receiveProtectionDomain: UInt32 {
        unsafe isReceiveQueueShared ? receiveQueue.header.pointee.protectionDomain : protectionDomain
    }
}
