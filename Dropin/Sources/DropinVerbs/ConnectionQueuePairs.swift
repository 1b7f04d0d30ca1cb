// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import Synchronization
import VerbsABI

// The queue pairs of identifiers, and what is made for those that leave it to the library.

/// The protection domain of each context for identifiers whose program has none; kept, as the context is.
private let domains = Mutex<[UInt: UInt]>([:])

func domain(of context: UnsafeMutablePointer<ibv_context>) -> UnsafeMutablePointer<ibv_pd>? {
    let key = UInt(bitPattern: context)
    if let known = domains.withLock({ $0[key] }) { return unsafe UnsafeMutablePointer(bitPattern: known) }
    guard let made = unsafe ibv_alloc_pd(context) else { return nil }
    let address = UInt(bitPattern: made)
    domains.withLock { $0[key] = address }
    return unsafe made
}

/// A completion queue with a channel of its own.
private func makeQueue(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ capacity: UInt32
) -> (channel: UnsafeMutablePointer<ibv_comp_channel>, queue: UnsafeMutablePointer<ibv_cq>)? {
    guard let channel = unsafe ibv_create_comp_channel(identifier.pointee.verbs) else { return nil }
    guard
        let queue = unsafe ibv_create_cq(identifier.pointee.verbs, Int32(max(capacity, 1)), identifier, channel, 0)
    else {
        _ = unsafe ibv_destroy_comp_channel(channel)
        return nil
    }
    unsafe Companions.update(identifier) {
        unsafe $0.queues.append(queue)
        unsafe $0.channels.append(channel)
    }
    return unsafe (channel, queue)
}

private func destroyQueues(_ identifier: UnsafeMutablePointer<rdma_cm_id>) {
    let companion = unsafe Companions.get(identifier)
    unsafe companion.queues.forEach { _ = unsafe ibv_destroy_cq($0) }
    unsafe companion.channels.forEach { _ = unsafe ibv_destroy_comp_channel($0) }
    unsafe Companions.update(identifier) {
        unsafe $0.queues = unsafe []
        unsafe $0.channels = unsafe []
    }
    unsafe identifier.pointee.send_cq = nil
    unsafe identifier.pointee.recv_cq = nil
    unsafe identifier.pointee.send_cq_channel = nil
    unsafe identifier.pointee.recv_cq_channel = nil
}

/// `rdma_create_qp`
@c @implementation
public func rdma_create_qp(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ domain: UnsafeMutablePointer<ibv_pd>!,
    _ attributes: UnsafeMutablePointer<ibv_qp_init_attr>!
) -> Int32 {
    // The first fields of both structures are the same.
    var extended = unsafe ibv_qp_init_attr_ex()
    let size = unsafe MemoryLayout<ibv_qp_init_attr>.size
    unsafe withUnsafeMutableBytes(of: &extended) { bytes in
        unsafe bytes.copyMemory(from: UnsafeRawBufferPointer(start: attributes, count: size))
    }
    unsafe extended.comp_mask = domain == nil ? 0 : UInt32(IBV_QP_INIT_ATTR_PD.rawValue)
    unsafe extended.pd = unsafe domain
    let result = unsafe rdma_create_qp_ex(identifier, &extended)
    unsafe attributes.pointee.cap = unsafe extended.cap
    // Not the completion queues that were made: the next identifier of a program that uses the structure again gets its own.
    return result
}

/// `rdma_create_qp_ex`
@c @implementation
public func rdma_create_qp_ex(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr_ex>!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        guard let context = unsafe identifier.pointee.verbs, unsafe identifier.pointee.qp == nil else {
            throw ProviderError(
                "rdma_create_qp", code: EINVAL, detail: "the identifier has no device yet, or a queue pair already")
        }
        if unsafe attributes.pointee.comp_mask & UInt32(IBV_QP_INIT_ATTR_PD.rawValue) == 0 {
            unsafe attributes.pointee.comp_mask |= UInt32(IBV_QP_INIT_ATTR_PD.rawValue)
            unsafe attributes.pointee.pd = unsafe identifier.pointee.pd ?? domain(of: context)
        }
        do throws(ProviderError) {
            try unsafe fillQueues(identifier, attributes)
            guard let queuePair = unsafe ibv_create_qp_ex(context, attributes) else {
                throw ProviderError("rdma_create_qp", code: errno)
            }
            unsafe identifier.pointee.qp = unsafe queuePair
            unsafe identifier.pointee.pd = unsafe attributes.pointee.pd
            try unsafe move(identifier, to: .IBV_QPS_INIT, path)
            if unsafe queuePair.pointee.qp_type == .IBV_QPT_UD {
                try unsafe move(identifier, to: .IBV_QPS_RTR, path)
                try unsafe move(identifier, to: .IBV_QPS_RTS, path)
            }
        } catch {
            unsafe rdma_destroy_qp(identifier)
            throw error
        }
    }
}

/// Makes the completion queues that a program leaves to the library.
private func fillQueues(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr_ex>
) throws(ProviderError) {
    if unsafe attributes.pointee.send_cq == nil {
        guard let made = unsafe makeQueue(identifier, attributes.pointee.cap.max_send_wr) else {
            throw ProviderError("rdma_create_qp", code: errno)
        }
        unsafe identifier.pointee.send_cq_channel = unsafe made.channel
        unsafe attributes.pointee.send_cq = unsafe made.queue
    }
    if unsafe attributes.pointee.recv_cq == nil {
        guard let made = unsafe makeQueue(identifier, attributes.pointee.cap.max_recv_wr) else {
            throw ProviderError("rdma_create_qp", code: errno)
        }
        unsafe identifier.pointee.recv_cq_channel = unsafe made.channel
        unsafe attributes.pointee.recv_cq = unsafe made.queue
    }
    unsafe identifier.pointee.send_cq = unsafe attributes.pointee.send_cq
    unsafe identifier.pointee.recv_cq = unsafe attributes.pointee.recv_cq
}

/// `rdma_destroy_qp`
@c @implementation
public func rdma_destroy_qp(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) {
    if let queuePair = unsafe identifier.pointee.qp {
        _ = unsafe ibv_destroy_qp(queuePair)
        unsafe identifier.pointee.qp = nil
    }
    unsafe destroyQueues(identifier)
}

/// `rdma_create_srq`
@c @implementation
public func rdma_create_srq(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ given: UnsafeMutablePointer<ibv_pd>!,
    _ attributes: UnsafeMutablePointer<ibv_srq_init_attr>!
) -> Int32 {
    guard let context = unsafe identifier.pointee.verbs,
        let domain = unsafe given ?? domain(of: context), let queue = unsafe ibv_create_srq(domain, attributes)
    else { return -1 }
    unsafe identifier.pointee.pd = unsafe domain
    unsafe identifier.pointee.srq = unsafe queue
    return 0
}

/// `rdma_create_srq_ex`
@c @implementation
public func rdma_create_srq_ex(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ attributes: UnsafeMutablePointer<ibv_srq_init_attr_ex>!
) -> Int32 {
    guard unsafe attributes.pointee.srq_type == IBV_SRQT_BASIC else {
        return refuse("rdma_create_srq_ex", "only basic shared receive queues are offered, no XRC")
    }
    var basic = unsafe ibv_srq_init_attr()
    unsafe basic.srq_context = unsafe attributes.pointee.srq_context
    unsafe basic.attr = unsafe attributes.pointee.attr
    return unsafe rdma_create_srq(identifier, attributes.pointee.pd, &basic)
}

/// `rdma_destroy_srq`
@c @implementation
public func rdma_destroy_srq(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) {
    guard let queue = unsafe identifier.pointee.srq else { return }
    _ = unsafe ibv_destroy_srq(queue)
    unsafe identifier.pointee.srq = nil
}
