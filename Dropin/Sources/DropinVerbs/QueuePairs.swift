// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// Queue pairs and shared receive queues.

/// `ibv_create_qp`
@c @implementation
public func ibv_create_qp(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr>!
) -> UnsafeMutablePointer<ibv_qp>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_create_qp(domain, attributes)
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(domain.pointee.context).makeQueuePair(domain, attributes)
    }
}

/// `ibv_modify_qp`
@c @implementation
public func ibv_modify_qp(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ attributes: UnsafeMutablePointer<ibv_qp_attr>!, _ mask: Int32
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_modify_qp(queuePair, attributes, mask)
    }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queuePair.pointee.context).modify(
            queuePair, attributes, mask: ibv_qp_attr_mask(rawValue: UInt32(bitPattern: mask)))
    }
}

/// `ibv_query_qp`
@c @implementation
public func ibv_query_qp(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ attributes: UnsafeMutablePointer<ibv_qp_attr>!, _ mask: Int32,
    _ initial: UnsafeMutablePointer<ibv_qp_init_attr>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_query_qp(queuePair, attributes, mask, initial)
    }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queuePair.pointee.context).query(
            queuePair, attributes, mask: ibv_qp_attr_mask(rawValue: UInt32(bitPattern: mask)), initial)
    }
}

/// `ibv_query_qp_data_in_order`
@c @implementation
public func ibv_query_qp_data_in_order(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ opcode: ibv_wr_opcode, _ flags: UInt32
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_query_qp_data_in_order(queuePair, opcode, flags)
    }
    // The device copies forward, but a later retransmission may write again what was seen.
    return 0
}

/// `ibv_destroy_qp`
@c @implementation
public func ibv_destroy_qp(_ queuePair: UnsafeMutablePointer<ibv_qp>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_destroy_qp(queuePair)
    }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queuePair.pointee.context).destroy(queuePair)
    }
}

/// `ibv_create_srq`
@c @implementation
public func ibv_create_srq(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ attributes: UnsafeMutablePointer<ibv_srq_init_attr>!
) -> UnsafeMutablePointer<ibv_srq>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_create_srq(domain, attributes)
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(domain.pointee.context).makeSharedReceiveQueue(domain, attributes)
    }
}

/// `ibv_modify_srq`
@c @implementation
public func ibv_modify_srq(
    _ queue: UnsafeMutablePointer<ibv_srq>!, _ attributes: UnsafeMutablePointer<ibv_srq_attr>!, _ mask: Int32
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queue.pointee.context) {
        return unsafe kernel.pointee.ibv_modify_srq(queue, attributes, mask)
    }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queue.pointee.context).modify(
            queue, attributes, mask: ibv_srq_attr_mask(rawValue: UInt32(bitPattern: mask)))
    }
}

/// `ibv_query_srq`
@c @implementation
public func ibv_query_srq(
    _ queue: UnsafeMutablePointer<ibv_srq>!, _ attributes: UnsafeMutablePointer<ibv_srq_attr>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queue.pointee.context) {
        return unsafe kernel.pointee.ibv_query_srq(queue, attributes)
    }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queue.pointee.context).query(queue, attributes)
    }
}

/// `ibv_destroy_srq`
@c @implementation
public func ibv_destroy_srq(_ queue: UnsafeMutablePointer<ibv_srq>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(queue.pointee.context) { return unsafe kernel.pointee.ibv_destroy_srq(queue) }
    return softCode { () throws(ProviderError) in try unsafe SoftContext.of(queue.pointee.context).destroy(queue) }
}

/// `ibv_attach_mcast`
@c @implementation
public func ibv_attach_mcast(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ gid: UnsafePointer<ibv_gid>!, _ lid: UInt16
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_attach_mcast(queuePair, gid, lid)
    }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queuePair.pointee.context).attach(queuePair, multicast: gid.pointee, lid: lid)
    }
}

/// `ibv_detach_mcast`
@c @implementation
public func ibv_detach_mcast(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ gid: UnsafePointer<ibv_gid>!, _ lid: UInt16
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_detach_mcast(queuePair, gid, lid)
    }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(queuePair.pointee.context).detach(queuePair, multicast: gid.pointee, lid: lid)
    }
}

/// `ibv_qp_to_qp_ex`
@c @implementation
public func ibv_qp_to_qp_ex(_ queuePair: UnsafeMutablePointer<ibv_qp>!) -> UnsafeMutablePointer<ibv_qp_ex>! {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_qp_to_qp_ex(queuePair)
    }
    return unsafe SoftContext.extended(queuePair)
}
