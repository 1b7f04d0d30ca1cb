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
    unsafe softObject { () throws(ProviderError) in unsafe try SoftContext.of(context).makeCompletionChannel() }
}

/// `ibv_destroy_comp_channel`
@c @implementation
public func ibv_destroy_comp_channel(_ channel: UnsafeMutablePointer<ibv_comp_channel>!) -> Int32 {
    softCode { () throws(ProviderError) in try unsafe SoftContext.of(channel.pointee.context).destroy(channel) }
}

/// `ibv_create_cq`
@c @implementation
public func ibv_create_cq(
    _ context: UnsafeMutablePointer<ibv_context>!, _ capacity: Int32, _ userContext: UnsafeMutableRawPointer!,
    _ channel: UnsafeMutablePointer<ibv_comp_channel>!, _ vector: Int32
) -> UnsafeMutablePointer<ibv_cq>! {
    unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(context).makeCompletionQueue(
            capacity: capacity, userContext: userContext, channel: channel, vector: vector)
    }
}

/// `ibv_resize_cq`
@c @implementation
public func ibv_resize_cq(_ queue: UnsafeMutablePointer<ibv_cq>!, _ capacity: Int32) -> Int32 {
    softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queue.pointee.context).resize(queue, capacity: capacity)
    }
}

/// `ibv_destroy_cq`
@c @implementation
public func ibv_destroy_cq(_ queue: UnsafeMutablePointer<ibv_cq>!) -> Int32 {
    softCode { () throws(ProviderError) in try unsafe SoftContext.of(queue.pointee.context).destroy(queue) }
}

/// `ibv_get_cq_event`
@c @implementation
public func ibv_get_cq_event(
    _ channel: UnsafeMutablePointer<ibv_comp_channel>!,
    _ queue: UnsafeMutablePointer<UnsafeMutablePointer<ibv_cq>?>!,
    _ userContext: UnsafeMutablePointer<UnsafeMutableRawPointer?>!
) -> Int32 {
    minusOne { () throws(ProviderError) in
        let event = unsafe try SoftContext.of(channel.pointee.context).completionEvent(on: channel)
        unsafe queue.pointee = event
        unsafe userContext.pointee = event.pointee.cq_context
    }
}

/// `ibv_ack_cq_events`
@c @implementation
public func ibv_ack_cq_events(_ queue: UnsafeMutablePointer<ibv_cq>!, _ count: UInt32) {
    unsafe SoftContext.of(queue.pointee.context).acknowledgeCompletionEvents(queue, count: count)
}

/// `ibv_get_async_event`
@c @implementation
public func ibv_get_async_event(
    _ context: UnsafeMutablePointer<ibv_context>!, _ event: UnsafeMutablePointer<ibv_async_event>!
) -> Int32 {
    minusOne { () throws(ProviderError) in
        unsafe event.pointee = unsafe try SoftContext.of(context).asynchronousEvent()
    }
}

/// `ibv_ack_async_event`
@c @implementation
public func ibv_ack_async_event(_ event: UnsafeMutablePointer<ibv_async_event>!) {
    unsafe SoftContext.acknowledgeEvent(event.pointee)
}
