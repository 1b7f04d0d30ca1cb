// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import VerbsABI

// `ibv_cq_ex`: completions read field by field, between `ibv_start_poll` and `ibv_end_poll`. The entry that is being read
// stands in the queue's record; the lock of polls is held from start to end, so other threads wait, as documented.

extension SoftContext {
    /// What of `ibv_create_cq_wc_flags` the device can fill in.
    private static let readableFields =
        UInt64(IBV_WC_EX_WITH_BYTE_LEN.rawValue | IBV_WC_EX_WITH_IMM.rawValue | IBV_WC_EX_WITH_QP_NUM.rawValue)
        | UInt64(IBV_WC_EX_WITH_SRC_QP.rawValue | IBV_WC_EX_WITH_SLID.rawValue | IBV_WC_EX_WITH_SL.rawValue)
        | UInt64(IBV_WC_EX_WITH_DLID_PATH_BITS.rawValue | IBV_WC_EX_WITH_COMPLETION_TIMESTAMP.rawValue)
        | UInt64(IBV_WC_EX_WITH_COMPLETION_TIMESTAMP_WALLCLOCK.rawValue)

    /// The corresponding C function is `ibv_create_cq_ex`.
    func makeExtendedCompletionQueue(
        _ attributes: ibv_cq_init_attr_ex
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_cq_ex> {
        let verb: StaticString = "ibv_create_cq_ex"
        let unknownFields = unsafe attributes.wc_flags & ~Self.readableFields
        guard unknownFields == 0 else {
            throw ProviderError(
                verb, code: EOPNOTSUPP,
                detail: "wc_flags 0x\(String(unknownFields, radix: 16)): the device has no such field")
        }
        let known = UInt32(IBV_CQ_INIT_ATTR_MASK_FLAGS.rawValue | IBV_CQ_INIT_ATTR_MASK_PD.rawValue)
        guard unsafe attributes.comp_mask & ~known == 0 else {
            throw ProviderError(verb, code: EINVAL, detail: "comp_mask \(unsafe attributes.comp_mask)")
        }
        if unsafe attributes.comp_mask & UInt32(IBV_CQ_INIT_ATTR_MASK_FLAGS.rawValue) != 0 {
            let known = UInt32(
                IBV_CREATE_CQ_ATTR_SINGLE_THREADED.rawValue | IBV_CREATE_CQ_ATTR_IGNORE_OVERRUN.rawValue)
            guard unsafe attributes.flags & ~known == 0 else {
                throw ProviderError(verb, code: EOPNOTSUPP, detail: "flags \(unsafe attributes.flags)")
            }
        }
        let queue = unsafe try makeCompletionQueue(
            capacity: Int32(clamping: attributes.cqe), userContext: attributes.cq_context,
            channel: attributes.channel, vector: Int32(clamping: attributes.comp_vector))
        let extended = unsafe UnsafeMutableRawPointer(queue).assumingMemoryBound(to: ibv_cq_ex.self)
        unsafe extended.pointee.start_poll = softStartPoll
        unsafe extended.pointee.next_poll = softNextPoll
        unsafe extended.pointee.end_poll = softEndPoll
        unsafe extended.pointee.read_opcode = { unsafe ibv_wc_opcode(rawValue: entry($0).operation.rawValue)! }
        unsafe extended.pointee.read_vendor_err = { unsafe entry($0).vendorError }
        unsafe extended.pointee.read_byte_len = { unsafe entry($0).byteLength }
        unsafe extended.pointee.read_imm_data = { unsafe entry($0).immediate }
        unsafe extended.pointee.read_qp_num = { unsafe entry($0).qpn }
        unsafe extended.pointee.read_src_qp = { unsafe entry($0).sourceQPN }
        unsafe extended.pointee.read_wc_flags = { unsafe entry($0).flags.rawValue }
        unsafe extended.pointee.read_slid = { unsafe UInt32(entry($0).sourceLID) }
        unsafe extended.pointee.read_sl = { unsafe entry($0).serviceLevel }
        unsafe extended.pointee.read_dlid_path_bits = { unsafe entry($0).destinationPathBits }
        unsafe extended.pointee.read_completion_ts = { unsafe record($0).pointee.takenAt }
        unsafe extended.pointee.read_completion_wallclock_ns = { queue in
            // The clocks go alike for the moment between the poll and this call.
            unsafe realtimeNanoseconds() &- (monotonicNanoseconds() &- record(queue).pointee.takenAt)
        }
        return unsafe extended
    }
}

/// `verbs_context.create_cq_ex`.
@c func softCreateExtendedCompletionQueue(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_cq_init_attr_ex>?
) -> UnsafeMutablePointer<ibv_cq_ex>? {
    guard let context = unsafe context, let attributes = unsafe attributes else {
        errno = EINVAL
        return nil
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(context).makeExtendedCompletionQueue(attributes.pointee)
    }
}

@inline(__always)
private func record(_ queue: UnsafeMutablePointer<ibv_cq_ex>?) -> UnsafeMutablePointer<CompletionQueueRecord> {
    unsafe ObjectStorage<ibv_cq_ex, CompletionQueueRecord>.record(UnsafeMutableRawPointer(queue!))
}

@inline(__always)
private func entry(_ queue: UnsafeMutablePointer<ibv_cq_ex>?) -> CompletionEntry {
    unsafe record(queue).pointee.current
}

/// `ibv_cq_ex.start_poll`: ENOENT, with nothing to end, if there is no completion.
@c func softStartPoll(
    _ queue: UnsafeMutablePointer<ibv_cq_ex>?, _ attributes: UnsafeMutablePointer<ibv_poll_cq_attr>?
) -> Int32 {
    guard let queue = unsafe queue else { return EINVAL }
    if let attributes = unsafe attributes, unsafe attributes.pointee.comp_mask != 0 { return EINVAL }
    let record = unsafe record(queue)
    unsafe record.pointee.pollLock.start()
    if unsafe take(from: queue, record) { return 0 }
    unsafe record.pointee.pollLock.end()
    // Without the lock, since others poll the same queue in their rounds.
    unsafe record.pointee.context._withUnsafeGuaranteedRef { $0.applicationRound() }
    unsafe record.pointee.pollLock.start()
    if unsafe take(from: queue, record) { return 0 }
    unsafe record.pointee.pollLock.end()
    return ENOENT
}

/// `ibv_cq_ex.next_poll`: ENOENT if there is no further completion; the poll is still to be ended.
@c func softNextPoll(_ queue: UnsafeMutablePointer<ibv_cq_ex>?) -> Int32 {
    guard let queue = unsafe queue else { return EINVAL }
    return unsafe take(from: queue, record(queue)) ? 0 : ENOENT
}

/// `ibv_cq_ex.end_poll`.
@c func softEndPoll(_ queue: UnsafeMutablePointer<ibv_cq_ex>?) {
    unsafe record(queue).pointee.pollLock.end()
}

/// Takes the oldest completion; the caller holds the lock of polls.
private func take(
    from queue: UnsafeMutablePointer<ibv_cq_ex>, _ record: UnsafeMutablePointer<CompletionQueueRecord>
) -> Bool {
    guard unsafe record.pointee.queue.poll(into: &record.pointee.current, limit: 1) == 1 else { return false }
    unsafe record.pointee.takenAt = monotonicNanoseconds()
    unsafe queue.pointee.wr_id = record.pointee.current.id
    unsafe queue.pointee.status = ibv_wc_status(rawValue: record.pointee.current.status.rawValue)!
    return true
}

private func realtimeNanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
}
