// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// What a queue pair is made with. The corresponding C type is `struct ibv_qp_init_attr`.
public struct QueuePairOptions: Hashable, Sendable {
    /// Work requests of the send queue that may be in flight.
    public var sendDepth: Int
    /// Work requests of the receive queue that may be in flight; not used with a shared receive queue.
    public var receiveDepth: Int
    /// Scatter/gather elements of a send.
    public var sendElements: Int
    /// Scatter/gather elements of a receive.
    public var receiveElements: Int
    /// Bytes that a send may carry inline.
    public var maxInline: Int
    /// Every send completes visibly, whatever its flags.
    public var signalsAll: Bool
    /// How long the end of a queue pair may wait for the device to flush what is in flight.
    public var drainTimeout: Duration

    /// Options of all members.
    public init(
        sendDepth: Int = 128, receiveDepth: Int = 128, sendElements: Int = 1, receiveElements: Int = 1,
        maxInline: Int = 0, signalsAll: Bool = false, drainTimeout: Duration = .seconds(1)
    ) {
        self.sendDepth = sendDepth
        self.receiveDepth = receiveDepth
        self.sendElements = sendElements
        self.receiveElements = receiveElements
        self.maxInline = maxInline
        self.signalsAll = signalsAll
        self.drainTimeout = drainTimeout
    }
}

/// A send queue and a receive queue, and the connection between them and a peer's.
///
/// From making one to using it:
/// ```swift
/// let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
/// let mine = try queuePair.prepare()            // INIT; receives may be posted from here on
/// let theirs = exchange(mine)                   // by whatever means, as text or bytes
/// try queuePair.connect(to: theirs)             // RTR, RTS
/// ```
///
/// Work requests are posted by the methods of `QueuePair+Posting.swift` (ownership of buffers), `QueuePair+Raw.swift`
/// (addresses and keys), ``batch()`` and ``receiveBatch()`` (many requests, one doorbell). Every one that was accepted resolves exactly
/// once, by a completion: when the queue pair is let go, it moves to ERR, what the device flushes is collected within
/// ``QueuePairOptions/drainTimeout``, and for what the device lost a flush is made up. These completions are polled from
/// the completion queue as all others, with their buffers.
///
/// A queue pair has one owner and one thread at a time; keep it in a `let`, its methods do not mutate it. To keep many
/// in a collection, wrap each in a final class of your own. The corresponding C type is `struct ibv_qp`.
@frozen @safe public struct QueuePair: ~Copyable {
    @usableFromInline let native: UnsafeMutablePointer<ibv_qp>
    @usableFromInline let slots: UnsafeMutablePointer<cverbs_slots>
    @usableFromInline let sends: UnsafeMutablePointer<cverbs_queue>
    @usableFromInline let receives: UnsafeMutablePointer<cverbs_queue>
    @usableFromInline let core: QueuePairCore

    init(_ core: QueuePairCore) {
        self.core = core
        unsafe native = core.native
        unsafe slots = core.slots.slots
        unsafe sends = core.sends.queue
        unsafe receives = core.receives.queue
    }

    deinit { try? core.end() }

    /// Ends the queue pair now, and tells if the device failed to. Letting go of it does the same.
    /// The corresponding C function is `ibv_destroy_qp`.
    public consuming func destroy() throws(VerbsError) { try core.end() }

    /// The queue pair number, 24 bits.
    public var number: UInt32 { unsafe native.pointee.qp_num }
    /// The service that it was made for.
    public var transport: Transport { core.transport }
    /// What was asked for, with what the device granted above it in ``QueuePairOptions/maxInline``.
    public var options: QueuePairOptions { core.options }
    /// The domain that it was made in.
    public var domain: ProtectionDomain { core.domain }

    /// Sends in flight: posted, and not proved done by a completion that was polled.
    @inlinable public var sendsInFlight: Int { unsafe Int(sends.pointee.posted &- sends.pointee.retired) }
    /// Receives in flight (zero with a shared receive queue).
    @inlinable public var receivesInFlight: Int { unsafe Int(receives.pointee.posted &- receives.pointee.retired) }
    /// Sends that can be posted before the next poll.
    @inlinable public var sendRoom: Int { unsafe Int(sends.pointee.limit) - sendsInFlight }
    /// Receives that can be posted before the next poll.
    @inlinable public var receiveRoom: Int { unsafe Int(receives.pointee.limit) - receivesInFlight }
}

@available(*, unavailable) extension QueuePair: Sendable {}

extension ProtectionDomain {
    /// Makes a queue pair whose sends and receives complete on one queue. The completion queue must have room for both
    /// depths. The corresponding C function is `ibv_create_qp`.
    public func makeQueuePair(
        _ transport: Transport, options: QueuePairOptions = QueuePairOptions(),
        completions: borrowing CompletionQueue
    ) throws(VerbsError) -> QueuePair {
        QueuePair(
            try QueuePairCore(
                domain: self, transport: transport, options: options, sendCompletions: completions.core,
                receiveCompletions: completions.core, shared: nil))
    }

    /// Makes a queue pair that completes on two queues. The corresponding C function is `ibv_create_qp`.
    public func makeQueuePair(
        _ transport: Transport, options: QueuePairOptions = QueuePairOptions(),
        sendCompletions: borrowing CompletionQueue, receiveCompletions: borrowing CompletionQueue
    ) throws(VerbsError) -> QueuePair {
        QueuePair(
            try QueuePairCore(
                domain: self, transport: transport, options: options, sendCompletions: sendCompletions.core,
                receiveCompletions: receiveCompletions.core, shared: nil))
    }

    /// Makes a queue pair that takes its receives from a shared queue, whose depth is charged once against the
    /// completion queue. The corresponding C function is `ibv_create_qp`.
    public func makeQueuePair(
        _ transport: Transport, options: QueuePairOptions = QueuePairOptions(),
        sendCompletions: borrowing CompletionQueue, receiveCompletions: borrowing CompletionQueue,
        sharedReceives: borrowing SharedReceiveQueue
    ) throws(VerbsError) -> QueuePair {
        QueuePair(
            try QueuePairCore(
                domain: self, transport: transport, options: options, sendCompletions: sendCompletions.core,
                receiveCompletions: receiveCompletions.core, shared: sharedReceives.core))
    }
}
