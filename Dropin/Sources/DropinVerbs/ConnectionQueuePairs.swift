// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import Synchronization
import VerbsABI

// The queue pairs of identifiers, and what is made for those that leave it to the library.

/// The protection domain of each context for identifiers whose program has none; kept, as the context is.
private let domains = Mutex<[UInt: UInt]>([:])

/// The XRC domain of each context for identifiers whose program has none, likewise.
private let xrcDomains = Mutex<[UInt: UInt]>([:])

func domain(of context: UnsafeMutablePointer<ibv_context>) -> UnsafeMutablePointer<ibv_pd>? {
    let key = UInt(bitPattern: context)
    if let known = domains.withLock({ $0[key] }) { return unsafe UnsafeMutablePointer(bitPattern: known) }
    guard let made = unsafe ibv_alloc_pd(context) else { return nil }
    let address = UInt(bitPattern: made)
    domains.withLock { $0[key] = address }
    return unsafe made
}

private func xrcDomain(of context: UnsafeMutablePointer<ibv_context>) -> UnsafeMutablePointer<ibv_xrcd>? {
    let key = UInt(bitPattern: context)
    // Whoever is second waits: targets and shared receive queues must be of one domain.
    let address = xrcDomains.withLock { domains -> UInt? in
        if let known = domains[key] { return known }
        var attributes = ibv_xrcd_init_attr(
            comp_mask: IBV_XRCD_INIT_ATTR_FD.rawValue | IBV_XRCD_INIT_ATTR_OFLAGS.rawValue, fd: -1, oflags: O_CREAT)
        guard let context = unsafe UnsafeMutablePointer<ibv_context>(bitPattern: key),
            let made = unsafe ibv_open_xrcd(context, &attributes)
        else { return nil }
        domains[key] = UInt(bitPattern: made)
        return UInt(bitPattern: made)
    }
    return unsafe address.flatMap { unsafe UnsafeMutablePointer(bitPattern: $0) }
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

/// Destroys the completion queues that were made for an identifier, but those that its shared receive queue completes in.
private func destroyQueues(_ identifier: UnsafeMutablePointer<rdma_cm_id>) {
    let companion = unsafe Companions.get(identifier)
    // What is in use is refused, and stays for the end of the shared queue.
    let queues = unsafe companion.queues.filter { unsafe ibv_destroy_cq($0) != 0 }
    let channels = unsafe companion.channels.filter { unsafe ibv_destroy_comp_channel($0) != 0 }
    unsafe Companions.update(identifier) {
        unsafe $0.queues = unsafe queues
        unsafe $0.channels = unsafe channels
    }
    if let queue = unsafe identifier.pointee.send_cq, unsafe !queues.contains(queue) {
        unsafe identifier.pointee.send_cq = nil
        unsafe identifier.pointee.send_cq_channel = nil
    }
    if let queue = unsafe identifier.pointee.recv_cq, unsafe !queues.contains(queue) {
        unsafe identifier.pointee.recv_cq = nil
        unsafe identifier.pointee.recv_cq_channel = nil
    }
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
        guard unsafe agrees(identifier.pointee.send_cq, attributes.pointee.send_cq),
            unsafe agrees(identifier.pointee.recv_cq, attributes.pointee.recv_cq),
            unsafe agrees(identifier.pointee.srq, attributes.pointee.srq)
        else {
            throw ProviderError(
                "rdma_create_qp", code: EINVAL, detail: "the identifier has another completion or receive queue already"
            )
        }
        if unsafe attributes.pointee.comp_mask & UInt32(IBV_QP_INIT_ATTR_PD.rawValue) == 0 {
            unsafe attributes.pointee.comp_mask |= UInt32(IBV_QP_INIT_ATTR_PD.rawValue)
            unsafe attributes.pointee.pd = unsafe identifier.pointee.pd ?? domain(of: context)
        }
        let xrcMask = UInt32(IBV_QP_INIT_ATTR_XRCD.rawValue)
        let hasDomain = unsafe attributes.pointee.comp_mask & xrcMask != 0 && attributes.pointee.xrcd != nil
        if unsafe attributes.pointee.qp_type == .IBV_QPT_XRC_RECV && !hasDomain {
            unsafe attributes.pointee.comp_mask |= xrcMask
            unsafe attributes.pointee.xrcd = unsafe xrcDomain(of: context)
        }
        if unsafe attributes.pointee.srq == nil { unsafe attributes.pointee.srq = unsafe identifier.pointee.srq }
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

/// Whether a program asks for the queue that its identifier has, if both are given.
private func agrees<Queue>(_ own: UnsafeMutablePointer<Queue>?, _ given: UnsafeMutablePointer<Queue>?) -> Bool {
    unsafe own == nil || given == nil || own == given
}

/// Makes the completion queues that a program leaves to the library; of XRC those that the end has, and for a target one
/// to receive by, if it says how many.
private func fillQueues(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr_ex>
) throws(ProviderError) {
    let type = unsafe attributes.pointee.qp_type
    unsafe attributes.pointee.send_cq = unsafe attributes.pointee.send_cq ?? identifier.pointee.send_cq
    unsafe attributes.pointee.recv_cq = unsafe attributes.pointee.recv_cq ?? identifier.pointee.recv_cq
    if unsafe attributes.pointee.send_cq == nil && type != .IBV_QPT_XRC_RECV {
        guard let made = unsafe makeQueue(identifier, attributes.pointee.cap.max_send_wr) else {
            throw ProviderError("rdma_create_qp", code: errno)
        }
        unsafe identifier.pointee.send_cq_channel = unsafe made.channel
        unsafe attributes.pointee.send_cq = unsafe made.queue
    }
    let receives = unsafe type != .IBV_QPT_XRC_RECV || attributes.pointee.cap.max_recv_wr > 0
    if unsafe attributes.pointee.recv_cq == nil && type != .IBV_QPT_XRC_SEND && receives {
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
    var extended = unsafe ibv_srq_init_attr_ex()
    unsafe extended.srq_context = unsafe attributes.pointee.srq_context
    unsafe extended.attr = unsafe attributes.pointee.attr
    unsafe extended.comp_mask = IBV_SRQ_INIT_ATTR_TYPE.rawValue | IBV_SRQ_INIT_ATTR_PD.rawValue
    unsafe extended.srq_type = unsafe identifier.pointee.qp_type == .IBV_QPT_XRC_RECV ? IBV_SRQT_XRC : IBV_SRQT_BASIC
    unsafe extended.pd = unsafe given
    let result = unsafe rdma_create_srq_ex(identifier, &extended)
    unsafe attributes.pointee.attr = unsafe extended.attr
    return result
}

/// `rdma_create_srq_ex`
@c @implementation
public func rdma_create_srq_ex(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ attributes: UnsafeMutablePointer<ibv_srq_init_attr_ex>!
) -> Int32 {
    managed { (_) throws(ProviderError) in
        let verb: StaticString = "rdma_create_srq_ex"
        guard let context = unsafe identifier.pointee.verbs,
            unsafe attributes.pointee.comp_mask & IBV_SRQ_INIT_ATTR_TYPE.rawValue != 0
        else {
            throw ProviderError(verb, code: EINVAL, detail: "the identifier has no device yet, or no type is given")
        }
        do throws(ProviderError) {
            try unsafe complete(attributes, of: identifier, context, verb)
            guard let queue = unsafe ibv_create_srq_ex(context, attributes) else {
                throw ProviderError(verb, code: errno)
            }
            unsafe identifier.pointee.pd = unsafe attributes.pointee.pd
            unsafe identifier.pointee.srq = unsafe queue
        } catch {
            if unsafe identifier.pointee.qp == nil { unsafe destroyQueues(identifier) }
            throw error
        }
    }
}

/// What a program leaves to the library of a shared receive queue.
private func complete(
    _ attributes: UnsafeMutablePointer<ibv_srq_init_attr_ex>, of identifier: UnsafeMutablePointer<rdma_cm_id>,
    _ context: UnsafeMutablePointer<ibv_context>, _ verb: StaticString
) throws(ProviderError) {
    func has(_ attribute: ibv_srq_init_attr_mask) -> Bool {
        unsafe attributes.pointee.comp_mask & attribute.rawValue != 0
    }
    if unsafe !has(IBV_SRQ_INIT_ATTR_PD) || attributes.pointee.pd == nil {
        unsafe attributes.pointee.pd = unsafe identifier.pointee.pd ?? domain(of: context)
    }
    unsafe attributes.pointee.comp_mask |= IBV_SRQ_INIT_ATTR_PD.rawValue
    guard unsafe attributes.pointee.srq_type == IBV_SRQT_XRC else { return }
    if unsafe !has(IBV_SRQ_INIT_ATTR_XRCD) || attributes.pointee.xrcd == nil {
        unsafe attributes.pointee.xrcd = unsafe xrcDomain(of: context)
    }
    if unsafe !has(IBV_SRQ_INIT_ATTR_CQ) || attributes.pointee.cq == nil {
        guard let made = unsafe makeQueue(identifier, attributes.pointee.attr.max_wr) else {
            throw ProviderError(verb, code: errno)
        }
        unsafe identifier.pointee.recv_cq = unsafe made.queue
        unsafe identifier.pointee.recv_cq_channel = unsafe made.channel
        unsafe attributes.pointee.cq = unsafe made.queue
    }
    unsafe attributes.pointee.comp_mask |= IBV_SRQ_INIT_ATTR_XRCD.rawValue | IBV_SRQ_INIT_ATTR_CQ.rawValue
}

/// `rdma_destroy_srq`
@c @implementation
public func rdma_destroy_srq(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) {
    guard let queue = unsafe identifier.pointee.srq else { return }
    _ = unsafe ibv_destroy_srq(queue)
    unsafe identifier.pointee.srq = nil
    if unsafe identifier.pointee.qp == nil { unsafe destroyQueues(identifier) }
}
