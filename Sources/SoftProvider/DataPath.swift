// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import RoCEWire
import VerbsABI

// The operations that programs call through `context->ops`: posts, polls, notifications. Each translates C structures
// into ring entries, rings, and makes progress inline. Pointers come from the program and are valid for the call, as
// verbs demand; the records behind the objects live until the destroy verb, which a correct program does not call
// while it posts.

@inline(__always)
func queuePairRecord(_ queuePair: UnsafeMutablePointer<ibv_qp>) -> UnsafeMutablePointer<QueuePairRecord> {
    unsafe ObjectStorage<ibv_qp_ex, QueuePairRecord>.record(queuePair)
}

@inline(__always)
func completionQueueRecord(_ queue: UnsafeMutablePointer<ibv_cq>) -> UnsafeMutablePointer<CompletionQueueRecord> {
    unsafe ObjectStorage<ibv_cq_ex, CompletionQueueRecord>.record(queue)
}

@inline(__always)
func sharedReceiveQueueRecord(
    _ queue: UnsafeMutablePointer<ibv_srq>
) -> UnsafeMutablePointer<SharedReceiveQueueRecord> {
    unsafe ObjectStorage<ibv_srq, SharedReceiveQueueRecord>.record(queue)
}

@inline(__always)
func addressHandleRecord(_ handle: UnsafeMutablePointer<ibv_ah>) -> UnsafeMutablePointer<AddressHandleRecord> {
    unsafe ObjectStorage<ibv_ah, AddressHandleRecord>.record(handle)
}

@inline(__always)
func protectionDomainRecord(_ domain: UnsafeMutablePointer<ibv_pd>) -> UnsafeMutablePointer<ProtectionDomainRecord> {
    unsafe ObjectStorage<ibv_pd, ProtectionDomainRecord>.record(domain)
}

// MARK: - Send

/// `ibv_context_ops.post_send`.
@c func softPostSend(
    _ queuePair: UnsafeMutablePointer<ibv_qp>?, _ first: UnsafeMutablePointer<ibv_send_wr>?,
    _ bad: UnsafeMutablePointer<UnsafeMutablePointer<ibv_send_wr>?>?
) -> Int32 {
    guard let queuePair = unsafe queuePair else { return EINVAL }
    let record = unsafe queuePairRecord(queuePair)
    // In the error state work requests are taken and flushed: draining relies on it.
    switch unsafe queuePair.pointee.state {
    case .IBV_QPS_RTS, .IBV_QPS_SQD, .IBV_QPS_SQE, .IBV_QPS_ERR: break
    default:
        unsafe bad?.pointee = unsafe first
        return EINVAL
    }
    let service = unsafe queuePair.pointee.qp_type
    if service == .IBV_QPT_XRC_RECV {
        unsafe bad?.pointee = unsafe first
        return EINVAL
    }
    let queue = unsafe record.pointee.sendQueue
    var code: Int32 = 0
    var count = 0
    var next = unsafe first

    unsafe record.pointee.sendLock.lock()
    var free = queue.freeCount
    while let request = unsafe next {
        if free == 0 {
            code = ENOMEM
            break
        }
        code = unsafe fill(queue, slot: count, from: request, service: service)
        if code != 0 { break }
        count += 1
        free -= 1
        unsafe next = unsafe request.pointee.next
    }
    if count > 0 { queue.publish(count) }
    unsafe record.pointee.sendLock.unlock()

    if code != 0 { unsafe bad?.pointee = unsafe next }
    if count > 0 {
        let qpn = unsafe record.pointee.qpn
        unsafe record.pointee.context._withUnsafeGuaranteedRef { $0.doorbell(qpn) }
    }
    return code
}

/// Writes one work request into the slot `offset` places after the last published one. 0 or the `errno` of the refusal.
@inline(__always)
private func fill(
    _ queue: SendQueue, slot offset: Int, from request: UnsafeMutablePointer<ibv_send_wr>, service: ibv_qp_type
) -> Int32 {
    let slot = unsafe queue.slot(offset)
    let opcode = unsafe request.pointee.opcode
    unsafe slot.pointee.id = unsafe request.pointee.wr_id
    unsafe slot.pointee.operation = SendOperation(rawValue: UInt8(truncatingIfNeeded: opcode.rawValue))
    unsafe slot.pointee.flags = SendFlags(rawValue: UInt8(truncatingIfNeeded: request.pointee.send_flags))
    unsafe slot.pointee.immediate = unsafe request.pointee.imm_data
    if service == .IBV_QPT_XRC_SEND {
        unsafe slot.pointee.remoteQPN = unsafe request.pointee.qp_type.xrc.remote_srqn
    } else if service == .IBV_QPT_UD {
        guard opcode == .IBV_WR_SEND || opcode == .IBV_WR_SEND_WITH_IMM else { return EINVAL }
        guard let handle = unsafe request.pointee.wr.ud.ah else { return EINVAL }
        unsafe slot.pointee.address = unsafe addressHandleRecord(handle).pointee.vector
        unsafe slot.pointee.remoteQPN = unsafe request.pointee.wr.ud.remote_qpn
        unsafe slot.pointee.remoteQKey = unsafe request.pointee.wr.ud.remote_qkey
        return unsafe fillData(queue, slot, from: request)
    }
    switch opcode {
    case .IBV_WR_SEND, .IBV_WR_SEND_WITH_IMM, .IBV_WR_SEND_WITH_INV: break
    case .IBV_WR_RDMA_WRITE, .IBV_WR_RDMA_WRITE_WITH_IMM, .IBV_WR_RDMA_READ, .IBV_WR_ATOMIC_WRITE:
        unsafe slot.pointee.remoteAddress = unsafe request.pointee.wr.rdma.remote_addr
        unsafe slot.pointee.remoteKey = unsafe request.pointee.wr.rdma.rkey
    case .IBV_WR_ATOMIC_CMP_AND_SWP, .IBV_WR_ATOMIC_FETCH_AND_ADD:
        unsafe slot.pointee.remoteAddress = unsafe request.pointee.wr.atomic.remote_addr
        unsafe slot.pointee.remoteKey = unsafe request.pointee.wr.atomic.rkey
        unsafe slot.pointee.compareAdd = unsafe request.pointee.wr.atomic.compare_add
        unsafe slot.pointee.swap = unsafe request.pointee.wr.atomic.swap
    case .IBV_WR_LOCAL_INV: break
    case .IBV_WR_BIND_MW: return unsafe fillBind(slot, from: request)
    case cverbs_wr_flush:
        // In the fields of an atomic; see ControlPath.postsPlacement.
        unsafe slot.pointee.remoteAddress = unsafe request.pointee.wr.atomic.remote_addr
        unsafe slot.pointee.remoteKey = unsafe request.pointee.wr.atomic.rkey
        unsafe slot.pointee.flushLength = unsafe request.pointee.wr.atomic.compare_add
        unsafe slot.pointee.flushHeader = unsafe FETH(
            rawValue: UInt32(truncatingIfNeeded: request.pointee.wr.atomic.swap))
        unsafe slot.pointee.scatterGatherCount = 0
        unsafe slot.pointee.inlineLength = 0
        return 0
    default: return EINVAL
    }
    return unsafe fillData(queue, slot, from: request)
}

/// The scatter/gather list, or the data itself if the request is inline.
@inline(__always)
private func fillData(
    _ queue: SendQueue, _ slot: UnsafeMutablePointer<SendWorkRequest>,
    from request: UnsafeMutablePointer<ibv_send_wr>
) -> Int32 {
    let count = unsafe Int(request.pointee.num_sge)
    guard count >= 0, count <= queue.scatterGatherMax else { return EINVAL }
    guard let list = unsafe request.pointee.sg_list, count > 0 else {
        unsafe slot.pointee.scatterGatherCount = 0
        unsafe slot.pointee.inlineLength = 0
        return count > 0 ? EINVAL : 0
    }
    if unsafe slot.pointee.flags.contains(.inline) {
        return unsafe fillInline(queue, slot, list: list, count: count)
    }
    unsafe slot.pointee.scatterGatherCount = UInt16(truncatingIfNeeded: count)
    unsafe slot.pointee.inlineLength = 0
    let target = unsafe queue.scatterGatherList(of: slot)
    for index in 0..<count {
        unsafe target[index] = unsafe ScatterGatherEntry(
            address: list[index].addr, length: list[index].length, lkey: list[index].lkey)
    }
    return 0
}

@inline(__always)
private func fillInline(
    _ queue: SendQueue, _ slot: UnsafeMutablePointer<SendWorkRequest>, list: UnsafeMutablePointer<ibv_sge>, count: Int
) -> Int32 {
    let target = unsafe queue.inlineData(of: slot)
    var length = 0
    for index in 0..<count {
        let piece = unsafe Int(list[index].length)
        guard length + piece <= queue.inlineMax else { return EINVAL }
        // The program's own memory at the program's own address, copied before the post returns, as inline promises.
        if piece > 0, let source = unsafe UnsafeRawPointer(bitPattern: UInt(list[index].addr)) {
            unsafe (target + length).copyMemory(from: source, byteCount: piece)
        }
        length += piece
    }
    unsafe slot.pointee.scatterGatherCount = 0
    unsafe slot.pointee.inlineLength = UInt32(truncatingIfNeeded: length)
    return 0
}

/// A type 2 bind that is posted as a work request.
private func fillBind(
    _ slot: UnsafeMutablePointer<SendWorkRequest>, from request: UnsafeMutablePointer<ibv_send_wr>
) -> Int32 {
    guard let window = unsafe request.pointee.bind_mw.mw, unsafe window.pointee.type == .IBV_MW_TYPE_2 else {
        return EINVAL
    }
    return unsafe fillBind(
        slot, window: window, info: request.pointee.bind_mw.bind_info, newKey: request.pointee.bind_mw.rkey)
}

func fillBind(
    _ slot: UnsafeMutablePointer<SendWorkRequest>, window: UnsafeMutablePointer<ibv_mw>, info: ibv_mw_bind_info,
    newKey: UInt32
) -> Int32 {
    // Length 0 unbinds, and then there need not be a region.
    guard let region = unsafe info.mr ?? nil else {
        guard unsafe info.length == 0 else { return EINVAL }
        return unsafe fillBind(slot, window: window, regionKey: 0, info: info, newKey: newKey)
    }
    return unsafe fillBind(slot, window: window, regionKey: region.pointee.lkey, info: info, newKey: newKey)
}

private func fillBind(
    _ slot: UnsafeMutablePointer<SendWorkRequest>, window: UnsafeMutablePointer<ibv_mw>, regionKey: UInt32,
    info: ibv_mw_bind_info, newKey: UInt32
) -> Int32 {
    unsafe slot.pointee.scatterGatherCount = 0
    unsafe slot.pointee.inlineLength = 0
    unsafe slot.pointee.bindWindowKey = unsafe window.pointee.rkey
    unsafe slot.pointee.bindNewKey = newKey
    unsafe slot.pointee.bindRegionKey = regionKey
    unsafe slot.pointee.bindAddress = unsafe info.addr
    unsafe slot.pointee.bindLength = unsafe info.length
    unsafe slot.pointee.bindAccess = unsafe AccessFlags(rawValue: info.mw_access_flags)
    return 0
}

/// `ibv_context_ops.bind_mw`: binds a type 1 window through the send queue; the window's key changes at once.
@c func softBindWindow(
    _ queuePair: UnsafeMutablePointer<ibv_qp>?, _ window: UnsafeMutablePointer<ibv_mw>?,
    _ bind: UnsafeMutablePointer<ibv_mw_bind>?
) -> Int32 {
    guard let queuePair = unsafe queuePair, let window = unsafe window, let bind = unsafe bind else { return EINVAL }
    guard unsafe queuePair.pointee.state == .IBV_QPS_RTS else { return EINVAL }
    let record = unsafe queuePairRecord(queuePair)
    let queue = unsafe record.pointee.sendQueue
    // The low eight bits of a key are the bind's own; the next bind has the next ones, so an old key names nothing.
    let key = unsafe window.pointee.rkey & ~0xFF | (window.pointee.rkey &+ 1) & 0xFF
    unsafe record.pointee.sendLock.lock()
    guard queue.freeCount > 0 else {
        unsafe record.pointee.sendLock.unlock()
        return ENOMEM
    }
    let slot = unsafe queue.slot(0)
    unsafe slot.pointee = SendWorkRequest(id: bind.pointee.wr_id, operation: .bindWindow, flags: [])
    unsafe slot.pointee.flags = SendFlags(rawValue: UInt8(truncatingIfNeeded: bind.pointee.send_flags))
    let code = unsafe fillBind(slot, window: window, info: bind.pointee.bind_info, newKey: key)
    if code == 0 {
        queue.publish(1)
        unsafe window.pointee.rkey = key
    }
    unsafe record.pointee.sendLock.unlock()
    if code == 0 {
        let qpn = unsafe record.pointee.qpn
        unsafe record.pointee.context._withUnsafeGuaranteedRef { $0.doorbell(qpn) }
    }
    return code
}

// MARK: - Receive

/// `ibv_context_ops.post_recv`.
@c func softPostReceive(
    _ queuePair: UnsafeMutablePointer<ibv_qp>?, _ first: UnsafeMutablePointer<ibv_recv_wr>?,
    _ bad: UnsafeMutablePointer<UnsafeMutablePointer<ibv_recv_wr>?>?
) -> Int32 {
    guard let queuePair = unsafe queuePair else { return EINVAL }
    let state = unsafe queuePair.pointee.state
    // Both ends of XRC are without receives of their own, and so without a completion queue for them.
    guard unsafe state != .IBV_QPS_RESET && queuePair.pointee.srq == nil && queuePair.pointee.recv_cq != nil else {
        unsafe bad?.pointee = unsafe first
        return EINVAL
    }
    let record = unsafe queuePairRecord(queuePair)
    unsafe record.pointee.receiveLock.lock()
    let code = unsafe post(first, to: record.pointee.receiveQueue, bad: bad)
    unsafe record.pointee.receiveLock.unlock()
    // The engine looks at receive requests when a packet needs one; only in the error state it has to be told, to flush.
    if unsafe record.pointee.receiveQueue.needsDoorbell {
        let qpn = unsafe record.pointee.qpn
        unsafe record.pointee.context._withUnsafeGuaranteedRef { $0.doorbell(qpn) }
    }
    return code
}

/// `ibv_context_ops.post_srq_recv`.
@c func softPostSharedReceive(
    _ queue: UnsafeMutablePointer<ibv_srq>?, _ first: UnsafeMutablePointer<ibv_recv_wr>?,
    _ bad: UnsafeMutablePointer<UnsafeMutablePointer<ibv_recv_wr>?>?
) -> Int32 {
    guard let queue = unsafe queue else { return EINVAL }
    let record = unsafe sharedReceiveQueueRecord(queue)
    unsafe record.pointee.postLock.lock()
    let code = unsafe post(first, to: record.pointee.queue, bad: bad)
    unsafe record.pointee.postLock.unlock()
    return code
}

@inline(__always)
private func post(
    _ first: UnsafeMutablePointer<ibv_recv_wr>?, to queue: ReceiveQueue,
    bad: UnsafeMutablePointer<UnsafeMutablePointer<ibv_recv_wr>?>?
) -> Int32 {
    var code: Int32 = 0
    var posted = 0
    var free = queue.freeCount
    var next = unsafe first
    while let request = unsafe next {
        if free == 0 {
            code = ENOMEM
            break
        }
        let count = unsafe Int(request.pointee.num_sge)
        guard count >= 0, count <= queue.scatterGatherMax else {
            code = EINVAL
            break
        }
        let slot = unsafe queue.slot(posted)
        unsafe slot.pointee = ReceiveWorkRequest(id: request.pointee.wr_id, scatterGatherCount: count)
        if count > 0, let list = unsafe request.pointee.sg_list {
            let target = unsafe queue.scatterGatherList(of: slot)
            for index in 0..<count {
                unsafe target[index] = unsafe ScatterGatherEntry(
                    address: list[index].addr, length: list[index].length, lkey: list[index].lkey)
            }
        }
        posted += 1
        free -= 1
        unsafe next = unsafe request.pointee.next
    }
    if posted > 0 { queue.publish(posted) }
    if code != 0 { unsafe bad?.pointee = unsafe next }
    return code
}

// MARK: - Completion

/// `ibv_context_ops.poll_cq`. Takes what is there; where nothing is, makes one round of progress and looks again.
@c func softPollCompletionQueue(
    _ queue: UnsafeMutablePointer<ibv_cq>?, _ limit: Int32, _ completions: UnsafeMutablePointer<ibv_wc>?
) -> Int32 {
    guard let queue = unsafe queue, let completions = unsafe completions else { return -EINVAL }
    let record = unsafe completionQueueRecord(queue)
    // The engine's entry has exactly the layout of ibv_wc; CompletionEntry says so and a test holds it to that.
    let entries = unsafe UnsafeMutableRawPointer(completions).assumingMemoryBound(to: CompletionEntry.self)
    let count = unsafe poll(record, into: entries, limit: Int(limit))
    if count > 0 { return Int32(truncatingIfNeeded: count) }
    unsafe record.pointee.context._withUnsafeGuaranteedRef { $0.applicationRound() }
    return unsafe Int32(truncatingIfNeeded: poll(record, into: entries, limit: Int(limit)))
}

@inline(__always)
private func poll(
    _ record: UnsafeMutablePointer<CompletionQueueRecord>, into entries: UnsafeMutablePointer<CompletionEntry>,
    limit: Int
) -> Int {
    unsafe record.pointee.pollLock.withLock { unsafe record.pointee.queue.poll(into: entries, limit: limit) }
}

/// `ibv_context_ops.req_notify_cq`.
@c func softRequestNotification(_ queue: UnsafeMutablePointer<ibv_cq>?, _ solicitedOnly: Int32) -> Int32 {
    guard let queue = unsafe queue else { return EINVAL }
    let record = unsafe completionQueueRecord(queue)
    unsafe record.pointee.queue.arm(solicitedOnly: solicitedOnly != 0)
    unsafe record.pointee.context._withUnsafeGuaranteedRef { $0.serveInBackground() }
    return 0
}
