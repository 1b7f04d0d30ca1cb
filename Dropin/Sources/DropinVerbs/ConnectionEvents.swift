// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// Events: what the program reads, and what happens to the queue pair of an identifier on the way.

/// The next event of a channel, after the identifier's queue pair has followed it.
func nextEvent(
    on channel: UnsafeMutablePointer<rdma_event_channel>, _ path: any ConnectionPath
) throws(ProviderError) -> UnsafeMutablePointer<rdma_cm_event> {
    let event = unsafe try path.event(on: channel)
    if let identifier = unsafe event.pointee.id { unsafe takeDomain(identifier) }
    guard let identifier = unsafe event.pointee.id, let queuePair = unsafe identifier.pointee.qp else {
        return unsafe event
    }
    switch unsafe event.pointee.event {
    case .RDMA_CM_EVENT_CONNECT_RESPONSE:
        do throws(ProviderError) {
            try unsafe move(identifier, to: .IBV_QPS_RTR, path)
            try unsafe move(identifier, to: .IBV_QPS_RTS, path)
            try unsafe path.establish(identifier)
            unsafe event.pointee.event = .RDMA_CM_EVENT_ESTABLISHED
        } catch {
            try? unsafe path.reject(identifier, privateData: nil, count: 0)
            unsafe event.pointee.event = .RDMA_CM_EVENT_CONNECT_ERROR
            unsafe event.pointee.status = -error.code
        }
    case .RDMA_CM_EVENT_REJECTED: unsafe fail(queuePair)
    case .RDMA_CM_EVENT_MULTICAST_JOIN:
        var group = unsafe event.pointee.param.ud.ah_attr.grh.dgid
        let code = unsafe ibv_attach_mcast(queuePair, &group, 0)
        if code != 0 {
            unsafe event.pointee.event = .RDMA_CM_EVENT_MULTICAST_ERROR
            unsafe event.pointee.status = -code
        }
    default: break
    }
    return unsafe event
}

/// Nanoseconds of CLOCK_MONOTONIC.
func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// Brings the queue pair of an identifier to a state of its connection.
func move(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>, to state: ibv_qp_state, _ path: any ConnectionPath,
    limits: UnsafeMutablePointer<rdma_conn_param>? = nil
) throws(ProviderError) {
    guard let queuePair = unsafe identifier.pointee.qp else { return }
    var attributes = ibv_qp_attr()
    attributes.qp_state = state
    let mask = try unsafe path.queuePairAttributes(identifier, &attributes)
    if let limits = unsafe limits {
        // RDMA_MAX_RESP_RES and RDMA_MAX_INIT_DEPTH: as much as both have.
        if unsafe limits.pointee.responder_resources != 255 {
            attributes.max_dest_rd_atomic = unsafe limits.pointee.responder_resources
        }
        if unsafe limits.pointee.initiator_depth != 255 {
            attributes.max_rd_atomic = unsafe limits.pointee.initiator_depth
        }
    }
    try unsafe SoftContext.of(queuePair.pointee.context).modify(queuePair, &attributes, mask: mask)
}

/// Takes a queue pair out of its connection.
func fail(_ queuePair: UnsafeMutablePointer<ibv_qp>) {
    var attributes = ibv_qp_attr()
    attributes.qp_state = .IBV_QPS_ERR
    _ = unsafe ibv_modify_qp(queuePair, &attributes, Int32(bitPattern: ibv_qp_attr_mask.IBV_QP_STATE.rawValue))
}

/// `rdma_get_cm_event`
@c @implementation
public func rdma_get_cm_event(
    _ channel: UnsafeMutablePointer<rdma_event_channel>!,
    _ result: UnsafeMutablePointer<UnsafeMutablePointer<rdma_cm_event>?>!
) -> Int32 {
    managed { (path) throws(ProviderError) in unsafe result.pointee = try nextEvent(on: channel, path) }
}

/// `rdma_ack_cm_event`
@c @implementation
public func rdma_ack_cm_event(_ event: UnsafeMutablePointer<rdma_cm_event>!) -> Int32 {
    managed { (path) throws(ProviderError) in
        guard let event = unsafe event else { throw ProviderError("rdma_ack_cm_event", code: EINVAL) }
        try unsafe path.acknowledge(event)
    }
}

/// By the numbers of the events. C keeps the pointers, so the strings are static.
private let eventNames: [StaticString] = [
    "RDMA_CM_EVENT_ADDR_RESOLVED", "RDMA_CM_EVENT_ADDR_ERROR", "RDMA_CM_EVENT_ROUTE_RESOLVED",
    "RDMA_CM_EVENT_ROUTE_ERROR", "RDMA_CM_EVENT_CONNECT_REQUEST", "RDMA_CM_EVENT_CONNECT_RESPONSE",
    "RDMA_CM_EVENT_CONNECT_ERROR", "RDMA_CM_EVENT_UNREACHABLE", "RDMA_CM_EVENT_REJECTED", "RDMA_CM_EVENT_ESTABLISHED",
    "RDMA_CM_EVENT_DISCONNECTED", "RDMA_CM_EVENT_DEVICE_REMOVAL", "RDMA_CM_EVENT_MULTICAST_JOIN",
    "RDMA_CM_EVENT_MULTICAST_ERROR", "RDMA_CM_EVENT_ADDR_CHANGE", "RDMA_CM_EVENT_TIMEWAIT_EXIT",
    "RDMA_CM_EVENT_ADDRINFO_RESOLVED", "RDMA_CM_EVENT_ADDRINFO_ERROR", "RDMA_CM_EVENT_USER", "UNKNOWN EVENT",
]

/// `rdma_event_str`
@c @implementation
public func rdma_event_str(_ event: rdma_cm_event_type) -> UnsafePointer<CChar>! {
    let index = min(Int(event.rawValue), eventNames.count - 1)
    return unsafe UnsafeRawPointer(eventNames[index].utf8Start).assumingMemoryBound(to: CChar.self)
}
