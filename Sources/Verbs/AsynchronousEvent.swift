// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// Something that happened to a device, port or queue outside of any completion. The corresponding C type is
/// `struct ibv_async_event`.
public struct AsynchronousEvent: Hashable, Sendable {
    /// What happened; values that this library does not know are kept.
    public struct Kind: RawRepresentable, Hashable, Sendable {
        /// The number of `enum ibv_event_type`.
        public let rawValue: UInt32

        /// A kind by its number.
        public init(rawValue: UInt32) { self.rawValue = rawValue }

        private init(_ native: ibv_event_type) { rawValue = native.rawValue }

        /// A completion queue has overflown or failed.
        public static let completionQueueError = Kind(.IBV_EVENT_CQ_ERR)
        /// A queue pair failed; it is in ERR.
        public static let queuePairFatal = Kind(.IBV_EVENT_QP_FATAL)
        /// A queue pair got a request that breaks the protocol; it is in ERR.
        public static let queuePairRequestError = Kind(.IBV_EVENT_QP_REQ_ERR)
        /// A queue pair got a request that it may not carry out; it is in ERR.
        public static let queuePairAccessError = Kind(.IBV_EVENT_QP_ACCESS_ERR)
        /// The first packet came while the queue pair was at RTR.
        public static let communicationEstablished = Kind(.IBV_EVENT_COMM_EST)
        /// All sends that had begun are done, after a change to SQD.
        public static let sendQueueDrained = Kind(.IBV_EVENT_SQ_DRAINED)
        /// A connection uses its alternate path now.
        public static let pathMigrated = Kind(.IBV_EVENT_PATH_MIG)
        /// A connection could not go over to its alternate path.
        public static let pathMigrationError = Kind(.IBV_EVENT_PATH_MIG_ERR)
        /// The device failed; close it.
        public static let deviceFatal = Kind(.IBV_EVENT_DEVICE_FATAL)
        /// The port is up.
        public static let portActive = Kind(.IBV_EVENT_PORT_ACTIVE)
        /// The port is down.
        public static let portError = Kind(.IBV_EVENT_PORT_ERR)
        /// The port has another local identifier.
        public static let lidChange = Kind(.IBV_EVENT_LID_CHANGE)
        /// The port's table of partition keys changed.
        public static let partitionKeyChange = Kind(.IBV_EVENT_PKEY_CHANGE)
        /// Another subnet manager is in charge.
        public static let subnetManagerChange = Kind(.IBV_EVENT_SM_CHANGE)
        /// A shared receive queue failed.
        public static let sharedReceiveQueueError = Kind(.IBV_EVENT_SRQ_ERR)
        /// Fewer receives are left than ``SharedReceiveQueue/setLimit(_:)`` asked for.
        public static let sharedReceiveQueueLimit = Kind(.IBV_EVENT_SRQ_LIMIT_REACHED)
        /// A queue pair in error takes no more receives from its shared queue.
        public static let lastReceiveReached = Kind(.IBV_EVENT_QP_LAST_WQE_REACHED)
        /// The subnet manager asks for all subscriptions again.
        public static let clientReregister = Kind(.IBV_EVENT_CLIENT_REREGISTER)
        /// The port's table of GIDs changed.
        public static let gidChange = Kind(.IBV_EVENT_GID_CHANGE)
    }

    /// Whom it happened to.
    public enum Subject: Hashable, Sendable {
        case device
        case port(UInt8)
        /// By number; the queue pair may have ended meanwhile.
        case queuePair(UInt32)
        case completionQueue(CompletionQueue.ID)
        case sharedReceiveQueue
    }

    /// What happened.
    public let kind: Kind
    /// Whom it happened to.
    public let subject: Subject
}

extension AsynchronousEvent.Kind: CustomStringConvertible {
    /// The name in the C header, without its prefix.
    public var description: String {
        let names = [
            "CQ_ERR", "QP_FATAL", "QP_REQ_ERR", "QP_ACCESS_ERR", "COMM_EST", "SQ_DRAINED", "PATH_MIG", "PATH_MIG_ERR",
            "DEVICE_FATAL", "PORT_ACTIVE", "PORT_ERR", "LID_CHANGE", "PKEY_CHANGE", "SM_CHANGE", "SRQ_ERR",
            "SRQ_LIMIT_REACHED", "QP_LAST_WQE_REACHED", "CLIENT_REREGISTER", "GID_CHANGE", "WQ_FATAL",
        ]
        return Int(rawValue) < names.count ? names[Int(rawValue)] : "event \(rawValue)"
    }
}

extension Context {
    /// The next asynchronous event; `nil` when the time is over. `nil` waits for ever, zero looks once. Each event goes
    /// to one caller. The corresponding C function is `ibv_get_async_event`; acknowledging is the library's.
    public func nextEvent(timeout: Duration? = nil) throws(VerbsError) -> AsynchronousEvent? {
        let deadline = Deadline(timeout)
        let descriptor = unsafe path.context.pointee.async_fd
        while true {
            do throws(ProviderError) {
                let native = try unsafe path.asynchronousEvent()
                // Until it is acknowledged the object that it names cannot be destroyed.
                let event = unsafe AsynchronousEvent(native)
                unsafe path.acknowledge(native)
                return event
            } catch {
                guard error.code == EAGAIN || error.code == EINTR else { throw VerbsError(error) }
            }
            guard deadline.waitReadable(descriptor) else { return nil }
        }
    }

    /// The asynchronous events from now on, as they come; ends when the device fails or the task is cancelled. Events that
    /// have not been read when their object is destroyed are forgotten with it, as in libibverbs.
    public var events: AsyncStream<AsynchronousEvent> {
        AsyncStream { continuation in
            let source = ReadableSource(descriptor: unsafe path.context.pointee.async_fd) {
                do throws(VerbsError) {
                    while let event = try self.nextEvent(timeout: .zero) { continuation.yield(event) }
                    return true
                } catch {
                    continuation.finish()
                    return false
                }
            }
            continuation.onTermination = { _ in source.cancel() }
        }
    }
}

extension AsynchronousEvent {
    /// Copies what the event says; the objects it points to are alive until it is acknowledged.
    init(_ native: ibv_async_event) {
        kind = unsafe Kind(rawValue: native.event_type.rawValue)
        switch kind {
        case .queuePairFatal, .queuePairRequestError, .queuePairAccessError, .communicationEstablished,
            .sendQueueDrained, .pathMigrated, .pathMigrationError, .lastReceiveReached:
            subject = unsafe .queuePair(native.element.qp.pointee.qp_num)
        case .completionQueueError:
            // The address only: the queue may be on its way out on another thread.
            subject =
                unsafe native.element.cq.pointee.cq_context.map { unsafe .completionQueue(.init(userContext: $0)) }
                ?? .device
        case .sharedReceiveQueueError, .sharedReceiveQueueLimit: subject = .sharedReceiveQueue
        case .portActive, .portError, .lidChange, .partitionKeyChange, .subnetManagerChange, .clientReregister,
            .gidChange:
            subject = unsafe .port(UInt8(clamping: native.element.port_num))
        default: subject = .device
        }
    }
}
