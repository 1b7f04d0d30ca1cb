// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import RoCEWire
import VerbsABI

// `ibv_qp_ex`: work requests built call by call (`ibv_wr_start`, `ibv_wr_send`, `ibv_wr_set_sge`, ..., `ibv_wr_complete`).
// They are written straight into the slots of the send queue. The lock of posts is held from start to complete or
// abort, as documented; what goes wrong in between is kept, and returned by `ibv_wr_complete`, which then posts nothing.

/// The work requests of a batch that is being built, in the record of their queue pair.
struct WorkRequestBatch {
    /// Slots filled, the one being built included.
    var count = 0
    /// Free slots when the batch was started.
    var free = 0
    /// The first error.
    var code: Int32 = 0
}

extension SoftContext {
    /// The corresponding C function is `ibv_create_qp_ex`.
    func makeExtendedQueuePair(
        _ attributes: UnsafeMutablePointer<ibv_qp_init_attr_ex>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_qp> {
        let verb: StaticString = "ibv_create_qp_ex"
        let mask = unsafe attributes.pointee.comp_mask
        let known =
            IBV_QP_INIT_ATTR_PD.rawValue | IBV_QP_INIT_ATTR_XRCD.rawValue | IBV_QP_INIT_ATTR_CREATE_FLAGS.rawValue
            | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.rawValue
        guard mask & ~known == 0 else {
            throw ProviderError(
                verb, code: EOPNOTSUPP,
                detail: "comp_mask 0x\(String(mask, radix: 16)): the device has PD, XRCD, CREATE_FLAGS, SEND_OPS_FLAGS")
        }
        // A target of XRC is of an XRC domain, anything else of a protection domain.
        let isTarget = unsafe attributes.pointee.qp_type == .IBV_QPT_XRC_RECV
        let domain = unsafe !isTarget && mask & IBV_QP_INIT_ATTR_PD.rawValue != 0 ? attributes.pointee.pd : nil
        let xrcDomain = unsafe isTarget && mask & IBV_QP_INIT_ATTR_XRCD.rawValue != 0 ? attributes.pointee.xrcd : nil
        guard unsafe isTarget ? xrcDomain != nil : domain != nil else {
            throw ProviderError(
                verb, code: EINVAL, detail: isTarget ? "an XRC domain is needed" : "a protection domain is needed")
        }
        let flags = unsafe mask & IBV_QP_INIT_ATTR_CREATE_FLAGS.rawValue != 0 ? attributes.pointee.create_flags : 0
        guard flags == 0 else {
            throw ProviderError(verb, code: EOPNOTSUPP, detail: "create_flags 0x\(String(flags, radix: 16))")
        }
        var basic = unsafe ibv_qp_init_attr(
            qp_context: attributes.pointee.qp_context, send_cq: attributes.pointee.send_cq,
            recv_cq: attributes.pointee.recv_cq, srq: attributes.pointee.srq, cap: attributes.pointee.cap,
            qp_type: attributes.pointee.qp_type, sq_sig_all: attributes.pointee.sq_sig_all)
        let wanted = unsafe mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.rawValue != 0 ? attributes.pointee.send_ops_flags : 0
        let refused = unsafe wanted & ~Self.operations(of: attributes.pointee.qp_type)
        guard refused == 0 else {
            throw ProviderError(
                verb, code: EOPNOTSUPP,
                detail: "send_ops_flags 0x\(String(refused, radix: 16)): not of this transport, or not of the device")
        }
        // An ATOMIC WRITE takes its eight bytes with it, whatever was asked for inline.
        if wanted & UInt64(IBV_QP_EX_WITH_ATOMIC_WRITE.rawValue) != 0 {
            unsafe basic.cap.max_inline_data = max(basic.cap.max_inline_data, 8)
        }
        let queuePair = unsafe try makeQueuePair(domain, xrcDomain: xrcDomain, &basic)
        unsafe attributes.pointee.cap = unsafe basic.cap
        if mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.rawValue != 0 {
            let extended = unsafe UnsafeMutableRawPointer(queuePair).assumingMemoryBound(to: ibv_qp_ex.self)
            unsafe installOperations(wanted, into: &extended.pointee)
        }
        return unsafe queuePair
    }

    /// The corresponding C function is `ibv_qp_to_qp_ex`: `nil` for a queue pair that was made without operations.
    package static func extended(_ queuePair: UnsafeMutablePointer<ibv_qp>) -> UnsafeMutablePointer<ibv_qp_ex>? {
        let extended = unsafe UnsafeMutableRawPointer(queuePair).assumingMemoryBound(to: ibv_qp_ex.self)
        return unsafe extended.pointee.wr_start == nil ? nil : extended
    }

    /// Bits of `ibv_qp_create_send_ops_flags` that a transport has.
    private static func operations(of type: ibv_qp_type) -> UInt64 {
        let datagrams = IBV_QP_EX_WITH_SEND.rawValue | IBV_QP_EX_WITH_SEND_WITH_IMM.rawValue
        let writes =
            datagrams | IBV_QP_EX_WITH_RDMA_WRITE.rawValue | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM.rawValue
            | IBV_QP_EX_WITH_LOCAL_INV.rawValue | IBV_QP_EX_WITH_BIND_MW.rawValue
            | IBV_QP_EX_WITH_SEND_WITH_INV.rawValue
        let all =
            writes | IBV_QP_EX_WITH_RDMA_READ.rawValue | IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP.rawValue
            | IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD.rawValue | IBV_QP_EX_WITH_ATOMIC_WRITE.rawValue
        return switch type {
        case .IBV_QPT_RC, .IBV_QPT_XRC_SEND: UInt64(all)
        case .IBV_QPT_XRC_RECV: 0
        case .IBV_QPT_UC: UInt64(writes)
        default: UInt64(datagrams)
        }
    }

    private func installOperations(_ wanted: UInt64, into queuePair: inout ibv_qp_ex) {
        func has(_ flag: ibv_qp_create_send_ops_flags) -> Bool { wanted & UInt64(flag.rawValue) != 0 }
        unsafe queuePair.wr_start = softStartRequests
        unsafe queuePair.wr_complete = softCompleteRequests
        unsafe queuePair.wr_abort = softAbortRequests
        unsafe queuePair.wr_set_sge = softSetElement
        unsafe queuePair.wr_set_sge_list = softSetElements
        unsafe queuePair.wr_set_inline_data = softSetInline
        unsafe queuePair.wr_set_inline_data_list = softSetInlineList
        unsafe queuePair.wr_set_ud_addr = softSetDestination
        unsafe queuePair.wr_set_xrc_srqn = {
            unsafe current(record($0))?.pointee.remoteQPN = $1
        }
        if has(IBV_QP_EX_WITH_SEND) { unsafe queuePair.wr_send = { unsafe _ = begin($0, .send) } }
        if has(IBV_QP_EX_WITH_SEND_WITH_IMM) {
            unsafe queuePair.wr_send_imm = { unsafe begin($0, .sendWithImmediate)?.pointee.immediate = $1 }
        }
        if has(IBV_QP_EX_WITH_SEND_WITH_INV) {
            unsafe queuePair.wr_send_inv = { unsafe begin($0, .sendWithInvalidate)?.pointee.immediate = $1 }
        }
        if has(IBV_QP_EX_WITH_LOCAL_INV) {
            unsafe queuePair.wr_local_inv = { unsafe begin($0, .localInvalidate)?.pointee.immediate = $1 }
        }
        if has(IBV_QP_EX_WITH_RDMA_WRITE) {
            unsafe queuePair.wr_rdma_write = { unsafe _ = begin($0, .rdmaWrite, key: $1, address: $2) }
        }
        if has(IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM) {
            unsafe queuePair.wr_rdma_write_imm = {
                unsafe begin($0, .rdmaWriteWithImmediate, key: $1, address: $2)?.pointee.immediate = $3
            }
        }
        if has(IBV_QP_EX_WITH_RDMA_READ) {
            unsafe queuePair.wr_rdma_read = { unsafe _ = begin($0, .rdmaRead, key: $1, address: $2) }
        }
        if has(IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP) { unsafe queuePair.wr_atomic_cmp_swp = softCompareAndSwap }
        if has(IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD) {
            unsafe queuePair.wr_atomic_fetch_add = {
                unsafe begin($0, .fetchAndAdd, key: $1, address: $2)?.pointee.compareAdd = $3
            }
        }
        if has(IBV_QP_EX_WITH_ATOMIC_WRITE) { unsafe queuePair.wr_atomic_write = softAtomicWrite }
        if has(IBV_QP_EX_WITH_BIND_MW) { unsafe queuePair.wr_bind_mw = softBindRequest }
    }
}

/// `verbs_context.create_qp_ex`.
@c func softCreateExtendedQueuePair(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr_ex>?
) -> UnsafeMutablePointer<ibv_qp>? {
    guard let context = unsafe context, let attributes = unsafe attributes else {
        errno = EINVAL
        return nil
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(context).makeExtendedQueuePair(attributes)
    }
}

@inline(__always)
private func record(_ queuePair: UnsafeMutablePointer<ibv_qp_ex>?) -> UnsafeMutablePointer<QueuePairRecord> {
    unsafe ObjectStorage<ibv_qp_ex, QueuePairRecord>.record(UnsafeMutableRawPointer(queuePair!))
}

// MARK: The batch

/// `ibv_qp_ex.wr_start`.
@c func softStartRequests(_ queuePair: UnsafeMutablePointer<ibv_qp_ex>?) {
    let record = unsafe record(queuePair)
    unsafe record.pointee.sendLock.lock()
    unsafe record.pointee.batch = WorkRequestBatch()
    unsafe record.pointee.batch.free = record.pointee.sendQueue.freeCount
    switch unsafe queuePair!.pointee.qp_base.state {
    case .IBV_QPS_RTS, .IBV_QPS_SQD, .IBV_QPS_SQE, .IBV_QPS_ERR: break
    default: unsafe record.pointee.batch.code = EINVAL
    }
}

/// `ibv_qp_ex.wr_complete`: posts the batch as a whole, or nothing of it.
@c func softCompleteRequests(_ queuePair: UnsafeMutablePointer<ibv_qp_ex>?) -> Int32 {
    let record = unsafe record(queuePair)
    let batch = unsafe record.pointee.batch
    if batch.code == 0, batch.count > 0 { unsafe record.pointee.sendQueue.publish(batch.count) }
    unsafe record.pointee.sendLock.unlock()
    if batch.code == 0, batch.count > 0 {
        let qpn = unsafe record.pointee.qpn
        unsafe record.pointee.context._withUnsafeGuaranteedRef { $0.doorbell(qpn) }
    }
    return batch.code
}

/// `ibv_qp_ex.wr_abort`.
@c func softAbortRequests(_ queuePair: UnsafeMutablePointer<ibv_qp_ex>?) {
    unsafe record(queuePair).pointee.sendLock.unlock()
}

/// Begins a work request with the identifier and the flags that stand in the queue pair.
@inline(__always)
private func begin(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ operation: SendOperation, key: UInt32 = 0, address: UInt64 = 0
) -> UnsafeMutablePointer<SendWorkRequest>? {
    let record = unsafe record(queuePair)
    guard unsafe record.pointee.batch.code == 0 else { return nil }
    guard unsafe record.pointee.batch.count < record.pointee.batch.free else {
        unsafe record.pointee.batch.code = ENOMEM
        return nil
    }
    let slot = unsafe record.pointee.sendQueue.slot(record.pointee.batch.count)
    unsafe record.pointee.batch.count += 1
    unsafe slot.pointee.id = queuePair!.pointee.wr_id
    unsafe slot.pointee.operation = operation
    unsafe slot.pointee.flags = SendFlags(rawValue: UInt8(truncatingIfNeeded: queuePair!.pointee.wr_flags))
    // Whether the data is inline is said by the setter that follows.
    unsafe slot.pointee.flags.remove(.inline)
    unsafe slot.pointee.remoteKey = key
    unsafe slot.pointee.remoteAddress = address
    unsafe slot.pointee.scatterGatherCount = 0
    unsafe slot.pointee.inlineLength = 0
    return unsafe slot
}

/// The work request that was begun last.
@inline(__always)
private func current(
    _ record: UnsafeMutablePointer<QueuePairRecord>
) -> UnsafeMutablePointer<SendWorkRequest>? {
    let batch = unsafe record.pointee.batch
    guard batch.code == 0, batch.count > 0 else { return nil }
    return unsafe record.pointee.sendQueue.slot(batch.count - 1)
}

// MARK: Operations with more than a key and an address

@c func softCompareAndSwap(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ key: UInt32, _ address: UInt64, _ compare: UInt64, _ swap: UInt64
) {
    guard let slot = unsafe begin(queuePair, .compareAndSwap, key: key, address: address) else { return }
    unsafe slot.pointee.compareAdd = compare
    unsafe slot.pointee.swap = swap
}

/// `ibv_qp_ex.wr_atomic_write`: eight bytes, inline.
@c func softAtomicWrite(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ key: UInt32, _ address: UInt64, _ bytes: UnsafeRawPointer?
) {
    guard unsafe begin(queuePair, .atomicWrite, key: key, address: address) != nil else { return }
    let record = unsafe record(queuePair)
    guard let slot = unsafe current(record), let bytes = unsafe bytes else { return }
    unsafe record.pointee.sendQueue.inlineData(of: slot).copyMemory(from: bytes, byteCount: 8)
    unsafe slot.pointee.flags.insert(.inline)
    unsafe slot.pointee.inlineLength = 8
}

@c func softBindRequest(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ window: UnsafeMutablePointer<ibv_mw>?, _ key: UInt32,
    _ info: UnsafePointer<ibv_mw_bind_info>?
) {
    guard let slot = unsafe begin(queuePair, .bindWindow) else { return }
    guard let window = unsafe window, let info = unsafe info else {
        unsafe record(queuePair).pointee.batch.code = EINVAL
        return
    }
    let code = unsafe fillBind(slot, window: window, info: info.pointee, newKey: key)
    if code != 0 { unsafe record(queuePair).pointee.batch.code = code }
}

// MARK: Data and destination

@c func softSetDestination(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ handle: UnsafeMutablePointer<ibv_ah>?, _ number: UInt32,
    _ key: UInt32
) {
    guard let slot = unsafe current(record(queuePair)) else { return }
    guard let handle = unsafe handle else {
        unsafe record(queuePair).pointee.batch.code = EINVAL
        return
    }
    unsafe slot.pointee.address = addressHandleRecord(handle).pointee.vector
    unsafe slot.pointee.remoteQPN = number
    unsafe slot.pointee.remoteQKey = key
}

@c func softSetElement(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ key: UInt32, _ address: UInt64, _ length: UInt32
) {
    let record = unsafe record(queuePair)
    guard let slot = unsafe current(record) else { return }
    guard unsafe record.pointee.sendQueue.scatterGatherMax > 0 else {
        unsafe record.pointee.batch.code = EINVAL
        return
    }
    unsafe slot.pointee.scatterGatherCount = 1
    unsafe record.pointee.sendQueue.scatterGatherList(of: slot)[0] = ScatterGatherEntry(
        address: address, length: length, lkey: key)
}

@c func softSetElements(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ count: Int, _ list: UnsafePointer<ibv_sge>?
) {
    let record = unsafe record(queuePair)
    guard let slot = unsafe current(record) else { return }
    // A size_t above Int.max comes as a negative number.
    guard count >= 0, count <= (unsafe record.pointee.sendQueue.scatterGatherMax), let list = unsafe list else {
        // As rdma-core's providers: too many elements are a matter of memory.
        unsafe record.pointee.batch.code = ENOMEM
        return
    }
    unsafe slot.pointee.scatterGatherCount = UInt16(truncatingIfNeeded: count)
    let target = unsafe record.pointee.sendQueue.scatterGatherList(of: slot)
    for index in 0..<count {
        unsafe target[index] = unsafe ScatterGatherEntry(
            address: list[index].addr, length: list[index].length, lkey: list[index].lkey)
    }
}

@c func softSetInline(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ address: UnsafeMutableRawPointer?, _ length: Int
) {
    var buffer = unsafe ibv_data_buf(addr: address, length: length)
    unsafe softSetInlineList(queuePair, 1, &buffer)
}

/// Copies the data before the call returns, as inline promises.
@c func softSetInlineList(
    _ queuePair: UnsafeMutablePointer<ibv_qp_ex>?, _ count: Int, _ list: UnsafePointer<ibv_data_buf>?
) {
    let record = unsafe record(queuePair)
    guard let slot = unsafe current(record) else { return }
    let target = unsafe record.pointee.sendQueue.inlineData(of: slot)
    var length = 0
    for index in 0..<count {
        guard let buffer = unsafe list?[index], unsafe length + buffer.length <= record.pointee.sendQueue.inlineMax
        else {
            unsafe record.pointee.batch.code = ENOMEM
            return
        }
        if let source = unsafe buffer.addr, unsafe buffer.length > 0 {
            unsafe (target + length).copyMemory(from: source, byteCount: buffer.length)
        }
        unsafe length += buffer.length
    }
    unsafe slot.pointee.flags.insert(.inline)
    unsafe slot.pointee.inlineLength = UInt32(truncatingIfNeeded: length)
}
