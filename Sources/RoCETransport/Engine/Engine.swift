// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The transport: RC, UC and UD requester, responder and completer of one device, without input or output of its own.
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
public struct Engine: ~Copyable {
    /// What the engine counted since it was made.
    public private(set) var counters = EngineCounters()
    /// The limits.
    public let configuration: EngineConfiguration

    /// An engine without objects.
    public init(configuration: EngineConfiguration) {
        self.configuration = configuration
    }

    // MARK: Control: addresses

    /// Sets or clears one of our addresses. Queue pairs that use it keep the address they were given.
    public mutating func setLocalAddress(_ index: Int, to address: LocalAddress?) throws(EngineError) {
        throw .limitReached("local addresses")
    }

    // MARK: Control: memory

    /// Registers memory.
    ///
    /// - Parameters:
    ///   - protectionDomain: as in ``QueuePairCreation``.
    ///   - iova: the address by which work requests and peers name `pointer` (with `zeroBased`, 0).
    ///   - pointer: the memory; it must stay until the region is deregistered.
    /// - Returns: the key, which is both L_Key and R_Key.
    public mutating func registerMemory(
        protectionDomain: UInt32, iova: UInt64, pointer: UnsafeMutableRawPointer, byteCount: Int, access: AccessFlags,
        using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        throw .limitReached("memory keys")
    }

    /// Deregisters memory; busy while windows are bound to it. From the return on, nothing of it is touched.
    public mutating func deregisterMemory(_ key: MemoryKey) throws(EngineError) {
        throw .unknownObject
    }

    /// Allocates a window, bound to nothing. Binding is a work request (``SendOperation/bindWindow``), for both types.
    public mutating func allocateWindow(
        protectionDomain: UInt32, type: MemoryWindowType, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        throw .limitReached("memory keys")
    }

    /// Frees a window, bound or not; `key` may have any variant.
    public mutating func deallocateWindow(_ key: MemoryKey) throws(EngineError) {
        throw .unknownObject
    }

    // MARK: Control: queues

    /// Makes a completion queue of at least `capacity` entries.
    public mutating func createCompletionQueue(capacity: Int, tag: UInt) throws(EngineError) -> CompletionQueue {
        throw .limitReached("completion queues")
    }

    /// Changes the capacity. Nobody may poll meanwhile. Busy if more entries wait.
    public mutating func resizeCompletionQueue(_ queue: CompletionQueue, capacity: Int) throws(EngineError) {
        throw .unknownObject
    }

    /// Destroys a completion queue; busy while a queue pair uses it.
    public mutating func destroyCompletionQueue(_ queue: CompletionQueue) throws(EngineError) {
        throw .unknownObject
    }

    /// Makes a shared receive queue.
    public mutating func createSharedReceiveQueue(
        protectionDomain: UInt32, capacity: Int, scatterGatherMax: Int, tag: UInt
    ) throws(EngineError) -> ReceiveQueue {
        throw .limitReached("shared receive queues")
    }

    /// Arms the limit event: it fires once, when a take leaves fewer than `limit`; 0 disarms.
    public mutating func setSharedReceiveQueueLimit(_ queue: ReceiveQueue, limit: Int) throws(EngineError) {
        throw .unknownObject
    }

    /// The limit that is armed; 0 if it fired or none was set.
    public func sharedReceiveQueueLimit(_ queue: ReceiveQueue) throws(EngineError) -> Int {
        throw .unknownObject
    }

    /// Destroys a shared receive queue; busy while a queue pair uses it.
    public mutating func destroySharedReceiveQueue(_ queue: ReceiveQueue) throws(EngineError) {
        throw .unknownObject
    }

    // MARK: Control: queue pairs

    /// Makes a queue pair in RESET. Its number is random below the slot's 8 bits; a ``QueuePairType/gsi`` has number 1.
    public mutating func createQueuePair(
        _ creation: QueuePairCreation, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> QueuePairQueues {
        throw .limitReached("queue pairs")
    }

    /// Sets the attributes in `mask` and enters their state, if the mask has one. Which transitions and attributes are
    /// allowed is the caller's to check (`QueuePairTransition`); ranges are checked here.
    public mutating func modifyQueuePair(
        _ qpn: QPN, _ attributes: QueuePairAttributes, mask: QueuePairAttributeMask
    ) throws(EngineError) {
        throw .unknownObject
    }

    /// The present attributes and state.
    public func queryQueuePair(_ qpn: QPN) throws(EngineError) -> QueuePairAttributes {
        throw .unknownObject
    }

    /// Destroys a queue pair and its queues, without completions. Its windows of type 2 are useless from then on.
    public mutating func destroyQueuePair(_ qpn: QPN) throws(EngineError) {
        throw .unknownObject
    }

    /// Lets a UD queue pair receive what is sent to a multicast group.
    public mutating func attachMulticast(_ qpn: QPN, group: GID) throws(EngineError) {
        throw .unknownObject
    }

    /// Ends ``attachMulticast(_:group:)``.
    public mutating func detachMulticast(_ qpn: QPN, group: GID) throws(EngineError) {
        throw .unknownObject
    }

    // MARK: Inputs

    /// Work requests were published in a queue of this queue pair. A number that is not in use is ignored.
    public mutating func doorbell(_ qpn: QPN) {}

    /// One UDP payload, from BTH to ICRC. Read during the call only.
    public mutating func receive(_ bytes: RawSpan, from origin: DatagramOrigin, now: Timestamp) {}

    /// Runs the timers up to `now`.
    public mutating func advance(to now: Timestamp) {}

    // MARK: Outputs

    /// When ``advance(to:)`` has something to do; `nil` for never. May be earlier than needed, never later.
    public var nextDeadline: Timestamp? { nil }

    /// Writes frames for one round of the queue pairs that have work.
    ///
    /// - Returns: whether there may be more to send at once.
    public mutating func transmit(into queue: inout TransmitQueue, now: Timestamp) -> Bool { false }

    /// Shows the completions since the last call to their pollers.
    public mutating func publishCompletions() {}

    /// The next asynchronous event, or `nil`. Events are never lost: each is a mark on its object.
    public mutating func nextEvent() -> Event? { nil }
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
