// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

// Acknowledging of events. As in libibverbs, an object whose events were read is destroyed only when all of them are
// acknowledged, so that no thread is left with a dangling pointer from an event; unread ones are forgotten.

extension SoftContext {
    package func acknowledge(_ event: ibv_async_event) { unsafe Self.acknowledgeEvent(event) }

    /// An event leads to its object, so the context is not needed.
    package static func acknowledgeEvent(_ event: ibv_async_event) {
        switch unsafe subject(of: event) {
        case .completionQueue(let queue):
            unsafe acknowledgeOne(&queue.pointee.mutex, &queue.pointee.cond, &queue.pointee.async_events_completed)
        case .queuePair(let queuePair):
            unsafe acknowledgeOne(
                &queuePair.pointee.mutex, &queuePair.pointee.cond, &queuePair.pointee.events_completed)
        case .sharedReceiveQueue(let queue):
            unsafe acknowledgeOne(&queue.pointee.mutex, &queue.pointee.cond, &queue.pointee.events_completed)
        case .port: break
        }
    }

    /// Counts an event that the application has just read.
    func countDelivery(of event: ibv_async_event) {
        switch unsafe Self.subject(of: event) {
        case .completionQueue(let queue):
            unsafe completionQueueRecord(queue).pointee.deliveredAsynchronousEvents.wrappingAdd(1, ordering: .relaxed)
        case .queuePair(let queuePair):
            unsafe queuePairRecord(queuePair).pointee.deliveredAsynchronousEvents.wrappingAdd(1, ordering: .relaxed)
        case .sharedReceiveQueue(let queue):
            unsafe sharedReceiveQueueRecord(queue).pointee.deliveredAsynchronousEvents.wrappingAdd(
                1, ordering: .relaxed)
        case .port: break
        }
    }

    func forgetEvents(of queue: UnsafeMutablePointer<ibv_cq>) {
        unsafe asynchronousEvents.remove { unsafe Self.isEvent($0, about: queue) }
        let delivered = unsafe completionQueueRecord(queue).pointee.deliveredAsynchronousEvents.load(ordering: .relaxed)
        unsafe waitForAcknowledgement(
            &queue.pointee.mutex, &queue.pointee.cond, &queue.pointee.async_events_completed, delivered)
    }

    func forgetEvents(of queuePair: UnsafeMutablePointer<ibv_qp>) {
        unsafe asynchronousEvents.remove { unsafe Self.isEvent($0, about: queuePair) }
        let delivered = unsafe queuePairRecord(queuePair).pointee.deliveredAsynchronousEvents.load(ordering: .relaxed)
        unsafe waitForAcknowledgement(
            &queuePair.pointee.mutex, &queuePair.pointee.cond, &queuePair.pointee.events_completed, delivered)
    }

    func forgetEvents(of queue: UnsafeMutablePointer<ibv_srq>) {
        unsafe asynchronousEvents.remove { unsafe Self.isEvent($0, about: queue) }
        let delivered = unsafe sharedReceiveQueueRecord(queue).pointee.deliveredAsynchronousEvents
            .load(ordering: .relaxed)
        unsafe waitForAcknowledgement(
            &queue.pointee.mutex, &queue.pointee.cond, &queue.pointee.events_completed, delivered)
    }

    /// Blocks until the application has acknowledged `delivered` events. The three are members of the C object.
    func waitForAcknowledgement(
        _ mutex: UnsafeMutablePointer<pthread_mutex_t>, _ condition: UnsafeMutablePointer<pthread_cond_t>,
        _ completed: UnsafeMutablePointer<UInt32>, _ delivered: UInt32
    ) {
        unsafe pthread_mutex_lock(mutex)
        while unsafe completed.pointee != delivered { unsafe pthread_cond_wait(condition, mutex) }
        unsafe pthread_mutex_unlock(mutex)
    }

    private static func acknowledgeOne(
        _ mutex: UnsafeMutablePointer<pthread_mutex_t>, _ condition: UnsafeMutablePointer<pthread_cond_t>,
        _ completed: UnsafeMutablePointer<UInt32>
    ) {
        unsafe pthread_mutex_lock(mutex)
        unsafe completed.pointee &+= 1
        unsafe pthread_cond_signal(condition)
        unsafe pthread_mutex_unlock(mutex)
    }

    /// The object that an event is about.
    @safe private enum Subject {
        case completionQueue(UnsafeMutablePointer<ibv_cq>)
        case queuePair(UnsafeMutablePointer<ibv_qp>)
        case sharedReceiveQueue(UnsafeMutablePointer<ibv_srq>)
        case port
    }

    private static func subject(of event: ibv_async_event) -> Subject {
        switch unsafe event.event_type {
        case .IBV_EVENT_CQ_ERR:
            return unsafe event.element.cq.map { unsafe .completionQueue($0) } ?? .port
        case .IBV_EVENT_SRQ_ERR, .IBV_EVENT_SRQ_LIMIT_REACHED:
            return unsafe event.element.srq.map { unsafe .sharedReceiveQueue($0) } ?? .port
        case .IBV_EVENT_QP_FATAL, .IBV_EVENT_QP_REQ_ERR, .IBV_EVENT_QP_ACCESS_ERR, .IBV_EVENT_COMM_EST,
            .IBV_EVENT_SQ_DRAINED, .IBV_EVENT_QP_LAST_WQE_REACHED:
            return unsafe event.element.qp.map { unsafe .queuePair($0) } ?? .port
        default: return .port
        }
    }

    /// Whether an event is about the object at this address; objects of all kinds have addresses of their own.
    private static func isEvent(_ event: ibv_async_event, about object: UnsafeMutableRawPointer) -> Bool {
        switch unsafe subject(of: event) {
        case .completionQueue(let queue): unsafe UnsafeMutableRawPointer(queue) == object
        case .queuePair(let queuePair): unsafe UnsafeMutableRawPointer(queuePair) == object
        case .sharedReceiveQueue(let queue): unsafe UnsafeMutableRawPointer(queue) == object
        case .port: false
        }
    }
}
