// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The transport: RC, XRC, UC and UD requester, responder and completer of one device, without input or output of its own.
///
/// Time, packets, memory and randomness are arguments. The engine never blocks, takes no lock and, but for the control
/// functions, allocates nothing. It plays the network adapter: ``SendQueue``, ``ReceiveQueue`` and ``CompletionQueue``
/// are the only memory that it shares with other threads, and it must be entered by one thread at a time.
///
/// # Grammar
/// *Control* functions make, change and destroy objects; call them between rounds.
///
/// *Inputs*, in any order and number:
/// - ``doorbell(_:)`` after work requests were published in a queue of a queue pair;
/// - ``receive(_:from:now:)`` for each UDP datagram from port 4791; the bytes are read during the call only;
/// - ``advance(to:)`` when ``nextDeadline`` has come, or more often.
///
/// *Outputs*, in this order, after any batch of inputs:
/// 1. ``transmit(into:now:)`` until it returns `false` or the queue is full; after each, the link sends the queue;
/// 2. ``publishCompletions()``: so acknowledgements leave before the receive they acknowledge is seen;
/// 3. ``nextEvent()`` until `nil`;
/// 4. ``nextDeadline`` tells when to call ``advance(to:)``.
///
/// ```
/// engine.doorbell(qpn)                        // work was posted
/// while let d = link.receive() { engine.receive(d.bytes, from: d.origin, now: now) }
/// engine.advance(to: now)
/// repeat { more = engine.transmit(into: &queue, now: now); link.send(&queue) } while more && queue.isEmpty
/// engine.publishCompletions()
/// while let event = engine.nextEvent() { … }
/// sleep(until: engine.nextDeadline)
/// ```
///
/// # Work requests
/// Each work request makes exactly one completion, in the order of its queue; one that is not signaled makes one only if
/// it fails. UC and UD sends complete when their frames are in the transmit queue, RC sends when acknowledged.
@safe public struct Engine: ~Copyable {
    var core: EngineCore
    var queuePairs = QueuePairTable()
    var timers = TimerHeap()
    var peers = PeerTable()
    var multicast: MulticastTable
    var lingering = LingerTable()
    var management = ManagementPort()

    // Queue pairs with something to send, first to last, linked through themselves.
    var workFirst: UnsafeMutablePointer<QueuePair>?
    var workLast: UnsafeMutablePointer<QueuePair>?
    // Raw packet queue pairs with something to send.
    var packetFirst: UnsafeMutablePointer<QueuePair>?
    // Objects with events, linked through themselves.
    var queuePairEvents: UnsafeMutablePointer<QueuePair>?
    var completionEvents: CompletionQueue?

    // Objects by index; control functions only.
    var completionQueues: [CompletionQueue?] = []
    var sharedReceiveQueues: [ReceiveQueue?] = []
    let vacant: VacantQueues
    var nextSerial: UInt64 = 1

    /// An engine without objects.
    public init(configuration: EngineConfiguration) {
        precondition((1...254).contains(configuration.slot), "slots are 1...254")
        precondition(configuration.readAtomicMax <= 128, "readAtomicMax is at most 128")
        precondition(
            configuration.sharedReceiveQueueCountMax <= ExtendedQueueTable.countMax,
            "sharedReceiveQueueCountMax is at most 4096")
        core = EngineCore(configuration: configuration)
        vacant = VacantQueues(configuration: configuration)
        multicast = MulticastTable(countMax: configuration.multicastAttachmentCountMax)
    }

    deinit {
        // The queue pairs, which still use these queues until they are gone, free only their own.
        for queue in completionQueues { queue?.deallocate() }
        for queue in sharedReceiveQueues { queue?.deallocate() }
        vacant.deallocate()
    }

    /// The limits.
    public var configuration: EngineConfiguration { core.configuration }

    /// What the engine counted since it was made.
    public var counters: EngineCounters { core.counters }

    /// Brings the engine's lists up to date with the marks that a call left on a queue pair.
    @inline(__always)
    mutating func settle(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        if unsafe queuePair.pointee.wantsTransmit && !queuePair.pointee.isInWorkList {
            unsafe appendWork(queuePair)
        }
        unsafe timers.update(queuePair)
        if unsafe queuePair.pointee.hostSlot != 0 {
            let bytes = unsafe queuePair.pointee.inFlightBytes
            let change = unsafe bytes - queuePair.pointee.hostInFlightBytes
            if change != 0 {
                let (slot, now) = unsafe (queuePair.pointee.hostSlot, core.now)
                unsafe queuePair.pointee.hostInFlightBytes = bytes
                core.hosts.change(slot, by: change, now: now)
            }
        }
        if unsafe queuePair.pointee.events != 0 && !queuePair.pointee.isInEventList {
            unsafe queuePair.pointee.isInEventList = true
            unsafe queuePair.pointee.nextInEventList = unsafe queuePairEvents
            unsafe queuePairEvents = unsafe queuePair
        }
    }

    @inline(__always)
    mutating func appendWork(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        unsafe queuePair.pointee.isInWorkList = true
        unsafe queuePair.pointee.nextInWorkList = nil
        if let last = unsafe workLast {
            unsafe last.pointee.nextInWorkList = unsafe queuePair
        } else {
            unsafe workFirst = unsafe queuePair
        }
        unsafe workLast = unsafe queuePair
    }
}

/// What a created queue pair has.
public struct QueuePairQueues: Sendable {
    /// Its number, which names it in every call.
    public let qpn: QPN
    /// Where sends are posted.
    public let sendQueue: SendQueue
    /// Where receives are posted; the shared queue if there is one.
    public let receiveQueue: ReceiveQueue
}
