// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// Connections: both sides.

/// The parameters of a program, completed from the identifier's queue pair; those of librdmacm where there are none.
private func parameters(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ given: UnsafeMutablePointer<rdma_conn_param>?
) -> rdma_conn_param {
    var result = unsafe rdma_conn_param()
    if let given = unsafe given {
        unsafe result = unsafe given.pointee
    } else {
        unsafe result.responder_resources = 255
        unsafe result.initiator_depth = 255
        unsafe result.retry_count = 7
        unsafe result.rnr_retry_count = 7
    }
    if let queuePair = unsafe identifier.pointee.qp {
        unsafe result.qp_num = unsafe queuePair.pointee.qp_num
        unsafe result.srq = unsafe queuePair.pointee.srq == nil ? 0 : 1
    }
    return unsafe result
}

/// `rdma_connect`
@c @implementation
public func rdma_connect(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ given: UnsafeMutablePointer<rdma_conn_param>!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        var values = unsafe parameters(identifier, given)
        // Programs stop listening between two connections, and some (perftest with -R) do not survive a rejection in that moment.
        unsafe SoftProvider.shared.askAgain(identifier, forNanoseconds: 1_000_000_000)
        try unsafe path.connect(identifier, &values)
        try unsafe complete(identifier, "rdma_connect", path)
    }
}

/// `rdma_listen`
@c @implementation
public func rdma_listen(_ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ backlog: Int32) -> Int32 {
    managed { (path) throws(ProviderError) in try unsafe path.listen(identifier, backlog: backlog) }
}

/// `rdma_accept`
@c @implementation
public func rdma_accept(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ given: UnsafeMutablePointer<rdma_conn_param>!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        var values = unsafe parameters(identifier, given)
        let isDatagram = unsafe identifier.pointee.ps == .RDMA_PS_UDP
        if !isDatagram {
            try unsafe move(identifier, to: .IBV_QPS_RTR, path, limits: given)
            try unsafe move(identifier, to: .IBV_QPS_RTS, path, limits: given)
        }
        try unsafe path.accept(identifier, &values)
        if !isDatagram { try unsafe complete(identifier, "rdma_accept", path) }
    }
}

/// `rdma_reject`
@c @implementation
public func rdma_reject(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ privateData: UnsafeRawPointer!, _ count: UInt8
) -> Int32 {
    managed { (path) throws(ProviderError) in try unsafe path.reject(identifier, privateData: privateData, count: count)
    }
}

/// `rdma_reject_ece`
@c @implementation
public func rdma_reject_ece(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ privateData: UnsafeRawPointer!, _ count: UInt8
) -> Int32 { refuse("rdma_reject_ece", "enhanced connection establishment is not offered") }

/// `rdma_set_local_ece`
@c @implementation
public func rdma_set_local_ece(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ options: UnsafeMutablePointer<ibv_ece>!
) -> Int32 { refuse("rdma_set_local_ece", "enhanced connection establishment is not offered") }

/// `rdma_get_remote_ece`
@c @implementation
public func rdma_get_remote_ece(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ options: UnsafeMutablePointer<ibv_ece>!
) -> Int32 { refuse("rdma_get_remote_ece", "enhanced connection establishment is not offered") }

/// -1 with EOPNOTSUPP.
func refuse(_ function: StaticString, _ reason: String) -> Int32 {
    minusOne { () throws(ProviderError) in throw ProviderError(function, code: EOPNOTSUPP, detail: reason) }
}

/// `rdma_establish`
@c @implementation
public func rdma_establish(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) -> Int32 {
    managed { (path) throws(ProviderError) in try unsafe path.establish(identifier) }
}

/// `rdma_notify`
@c @implementation
public func rdma_notify(_ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ event: ibv_event_type) -> Int32 {
    managed { (path) throws(ProviderError) in try unsafe path.notify(identifier, event) }
}

/// `rdma_disconnect`
@c @implementation
public func rdma_disconnect(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) -> Int32 {
    managed { (path) throws(ProviderError) in
        if let queuePair = unsafe identifier.pointee.qp { unsafe fail(queuePair) }
        try unsafe path.disconnect(identifier)
        try unsafe complete(identifier, "rdma_disconnect", path)
    }
}

/// `rdma_init_qp_attr`
@c @implementation
public func rdma_init_qp_attr(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ attributes: UnsafeMutablePointer<ibv_qp_attr>!,
    _ mask: UnsafeMutablePointer<Int32>!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        let wanted = try unsafe path.queuePairAttributes(identifier, attributes)
        unsafe mask.pointee = Int32(bitPattern: wanted.rawValue)
    }
}

/// `rdma_join_multicast`
@c @implementation
public func rdma_join_multicast(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ address: UnsafeMutablePointer<sockaddr>!,
    _ context: UnsafeMutableRawPointer!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        try unsafe path.joinMulticast(identifier, address, context: context)
        try unsafe complete(identifier, "rdma_join_multicast", path)
    }
}

/// `rdma_join_multicast_ex`
@c @implementation
public func rdma_join_multicast_ex(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ attributes: UnsafeMutablePointer<rdma_cm_join_mc_attr_ex>!,
    _ context: UnsafeMutableRawPointer!
) -> Int32 {
    unsafe rdma_join_multicast(identifier, attributes.pointee.addr, context)
}

/// `rdma_leave_multicast`
@c @implementation
public func rdma_leave_multicast(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ address: UnsafeMutablePointer<sockaddr>!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        try unsafe path.leaveMulticast(identifier, address)
        // The event of the join attached the queue pair. It may not have been read yet, or a program detached: no failure then.
        if let queuePair = unsafe identifier.pointee.qp, var group = unsafe SoftProvider.shared.group(of: address) {
            _ = unsafe ibv_detach_mcast(queuePair, &group, 0)
        }
    }
}
