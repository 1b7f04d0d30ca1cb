// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// Completion channels, completion queues, events.

/// `ibv_create_comp_channel`
@c @implementation
public func ibv_create_comp_channel(
    _ context: UnsafeMutablePointer<ibv_context>!
) -> UnsafeMutablePointer<ibv_comp_channel>! {
    if let kernel = unsafe kernelVerbs(context) { return unsafe kernel.pointee.ibv_create_comp_channel(context) }
    return unsafe softObject { () throws(ProviderError) in unsafe try SoftContext.of(context).makeCompletionChannel() }
}

/// `ibv_destroy_comp_channel`
@c @implementation
public func ibv_destroy_comp_channel(_ channel: UnsafeMutablePointer<ibv_comp_channel>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(channel.pointee.context) {
        return unsafe kernel.pointee.ibv_destroy_comp_channel(channel)
    }
    return softCode { () throws(ProviderError) in try unsafe SoftContext.of(channel.pointee.context).destroy(channel) }
}

/// `ibv_create_cq`
@c @implementation
public func ibv_create_cq(
    _ context: UnsafeMutablePointer<ibv_context>!, _ capacity: Int32, _ userContext: UnsafeMutableRawPointer!,
    _ channel: UnsafeMutablePointer<ibv_comp_channel>!, _ vector: Int32
) -> UnsafeMutablePointer<ibv_cq>! {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee.ibv_create_cq(context, capacity, userContext, channel, vector)
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(context).makeCompletionQueue(
            capacity: capacity, userContext: userContext, channel: channel, vector: vector)
    }
}

/// `ibv_resize_cq`
@c @implementation
public func ibv_resize_cq(_ queue: UnsafeMutablePointer<ibv_cq>!, _ capacity: Int32) -> Int32 {
    if let kernel = unsafe kernelVerbs(queue.pointee.context) {
        return unsafe kernel.pointee.ibv_resize_cq(queue, capacity)
    }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queue.pointee.context).resize(queue, capacity: capacity)
    }
}

/// `ibv_destroy_cq`
@c @implementation
public func ibv_destroy_cq(_ queue: UnsafeMutablePointer<ibv_cq>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(queue.pointee.context) { return unsafe kernel.pointee.ibv_destroy_cq(queue) }
    return softCode { () throws(ProviderError) in try unsafe SoftContext.of(queue.pointee.context).destroy(queue) }
}

/// `ibv_get_cq_event`
@c @implementation
public func ibv_get_cq_event(
    _ channel: UnsafeMutablePointer<ibv_comp_channel>!,
    _ queue: UnsafeMutablePointer<UnsafeMutablePointer<ibv_cq>?>!,
    _ userContext: UnsafeMutablePointer<UnsafeMutableRawPointer?>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(channel.pointee.context) {
        return unsafe kernel.pointee.ibv_get_cq_event(channel, queue, userContext)
    }
    return minusOne { () throws(ProviderError) in
        let event = unsafe try SoftContext.of(channel.pointee.context).completionEvent(on: channel)
        unsafe queue.pointee = event
        unsafe userContext.pointee = event.pointee.cq_context
    }
}

/// `ibv_ack_cq_events`
@c @implementation
public func ibv_ack_cq_events(_ queue: UnsafeMutablePointer<ibv_cq>!, _ count: UInt32) {
    if let kernel = unsafe kernelVerbs(queue.pointee.context) {
        return unsafe kernel.pointee.ibv_ack_cq_events(queue, count)
    }
    unsafe SoftContext.of(queue.pointee.context).acknowledgeCompletionEvents(queue, count: count)
}

/// `ibv_get_async_event`
@c @implementation
public func ibv_get_async_event(
    _ context: UnsafeMutablePointer<ibv_context>!, _ event: UnsafeMutablePointer<ibv_async_event>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) { return unsafe kernel.pointee.ibv_get_async_event(context, event) }
    return minusOne { () throws(ProviderError) in
        unsafe event.pointee = unsafe try SoftContext.of(context).asynchronousEvent()
    }
}

/// `ibv_ack_async_event`
@c @implementation
public func ibv_ack_async_event(_ event: UnsafeMutablePointer<ibv_async_event>!) {
    if let kernel = unsafe kernelVerbs(context(of: event.pointee)) {
        return unsafe kernel.pointee.ibv_ack_async_event(event)
    }
    unsafe SoftContext.acknowledgeEvent(event.pointee)
}

/// The context of the object that an event is about; nil for events of ports and devices, which nobody counts.
private func context(of event: ibv_async_event) -> UnsafeMutablePointer<ibv_context>? {
    switch unsafe event.event_type {
    case .IBV_EVENT_CQ_ERR: return unsafe event.element.cq.pointee.context
    case .IBV_EVENT_SRQ_ERR, .IBV_EVENT_SRQ_LIMIT_REACHED: return unsafe event.element.srq.pointee.context
    case .IBV_EVENT_WQ_FATAL: return unsafe event.element.wq.pointee.context
    case .IBV_EVENT_QP_FATAL, .IBV_EVENT_QP_REQ_ERR, .IBV_EVENT_QP_ACCESS_ERR, .IBV_EVENT_COMM_EST,
        .IBV_EVENT_SQ_DRAINED, .IBV_EVENT_PATH_MIG, .IBV_EVENT_PATH_MIG_ERR, .IBV_EVENT_QP_LAST_WQE_REACHED:
        return unsafe event.element.qp.pointee.context
    default: return nil
    }
}
