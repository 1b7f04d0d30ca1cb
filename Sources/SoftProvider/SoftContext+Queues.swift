// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import RoCETransport
import RoCEWire
import VerbsABI

// Completion channels, completion queues and queue pairs.

private typealias ChannelStorage = ObjectStorage<ibv_comp_channel, CompletionChannelRecord>

extension SoftContext {
    // MARK: Completion channels

    package func makeCompletionChannel() throws(ProviderError) -> UnsafeMutablePointer<ibv_comp_channel> {
        let descriptor: EventDescriptor
        do throws(PacketIOError) {
            descriptor = try EventDescriptor()
        } catch {
            throw ProviderError("ibv_create_comp_channel", error)
        }
        let number = descriptor.number
        let channel = unsafe ChannelStorage().initialize(CompletionChannelRecord(descriptor: descriptor))
        unsafe channel.pointee.context = unsafe context
        unsafe channel.pointee.fd = number
        objects.add(1, ordering: .relaxed)
        return unsafe channel
    }

    package func destroy(_ channel: UnsafeMutablePointer<ibv_comp_channel>) throws(ProviderError) {
        guard unsafe ChannelStorage.record(channel).pointee.users.load(ordering: .acquiring) == 0 else {
            throw ProviderError(
                "ibv_destroy_comp_channel", code: EBUSY, detail: "completion queues of the channel still exist")
        }
        unsafe ChannelStorage.free(channel)
        objects.subtract(1, ordering: .relaxed)
    }

    package func completionEvent(
        on channel: UnsafeMutablePointer<ibv_comp_channel>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_cq> {
        let (queue, code) = unsafe ChannelStorage.record(channel).pointee.next()
        guard let queue = unsafe queue else { throw ProviderError("ibv_get_cq_event", code: code) }
        return unsafe queue
    }

    package func acknowledgeCompletionEvents(_ queue: UnsafeMutablePointer<ibv_cq>, count: UInt32) {
        unsafe pthread_mutex_lock(&queue.pointee.mutex)
        unsafe queue.pointee.comp_events_completed &+= count
        unsafe pthread_cond_signal(&queue.pointee.cond)
        unsafe pthread_mutex_unlock(&queue.pointee.mutex)
    }

    /// Tells the channel of an armed queue that got an entry. Called by the holder of the engine.
    func notify(_ queue: UnsafeMutablePointer<ibv_cq>) {
        guard let channel = unsafe queue.pointee.channel else { return }
        unsafe ChannelStorage.record(channel).pointee.post(queue)
    }

    // MARK: Completion queues

    package func makeCompletionQueue(
        capacity: Int32, userContext: UnsafeMutableRawPointer?, channel: UnsafeMutablePointer<ibv_comp_channel>?,
        vector: Int32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_cq> {
        guard capacity > 0, Int(capacity) <= DeviceLimits.completionQueueEntries else {
            throw ProviderError(
                "ibv_create_cq", code: EINVAL, detail: "cqe \(capacity): 1 to \(DeviceLimits.completionQueueEntries)")
        }
        guard vector == 0 else {
            throw ProviderError(
                "ibv_create_cq", code: EINVAL, detail: "comp_vector \(vector): the device has vector 0 alone")
        }
        let memory = unsafe ObjectStorage<ibv_cq_ex, CompletionQueueRecord>()
        let queue = try withEngine("ibv_create_cq") { engine throws(EngineError) in
            unsafe try engine.createCompletionQueue(capacity: Int(capacity), tag: memory.tag)
        }
        let record = unsafe CompletionQueueRecord(context: .passUnretained(self), queue: queue)
        let object = unsafe UnsafeMutableRawPointer(memory.initialize(record)).assumingMemoryBound(to: ibv_cq.self)
        unsafe object.pointee.context = unsafe context
        unsafe object.pointee.channel = unsafe channel
        unsafe object.pointee.cq_context = unsafe userContext
        unsafe object.pointee.cqe = Int32(queue.capacity)
        if let channel = unsafe channel {
            unsafe channel.pointee.refcnt += 1
            unsafe ChannelStorage.record(channel).pointee.users.add(1, ordering: .relaxed)
        }
        objects.add(1, ordering: .relaxed)
        return unsafe object
    }

    package func resize(_ queue: UnsafeMutablePointer<ibv_cq>, capacity: Int32) throws(ProviderError) {
        guard capacity > 0, Int(capacity) <= DeviceLimits.completionQueueEntries else {
            throw ProviderError(
                "ibv_resize_cq", code: EINVAL, detail: "cqe \(capacity): 1 to \(DeviceLimits.completionQueueEntries)")
        }
        let record = unsafe completionQueueRecord(queue)
        let ring = unsafe record.pointee.queue
        // Nobody polls while the ring moves.
        try unsafe record.pointee.pollLock.withoutOtherPolls { () throws(ProviderError) in
            guard ring.count <= Int(capacity) else {
                throw ProviderError(
                    "ibv_resize_cq", code: EINVAL,
                    detail: "cqe \(capacity): \(ring.count) completions wait in the queue")
            }
            try withEngine("ibv_resize_cq") { engine throws(EngineError) in
                try engine.resizeCompletionQueue(ring, capacity: Int(capacity))
            }
        }
        unsafe queue.pointee.cqe = Int32(ring.capacity)
    }

    package func destroy(_ queue: UnsafeMutablePointer<ibv_cq>) throws(ProviderError) {
        let record = unsafe completionQueueRecord(queue)
        guard unsafe record.pointee.users.load(ordering: .acquiring) == 0 else {
            throw ProviderError("ibv_destroy_cq", code: EBUSY, detail: "queue pairs that complete here still exist")
        }
        let ring = unsafe record.pointee.queue
        try withEngine("ibv_destroy_cq") { engine throws(EngineError) in try engine.destroyCompletionQueue(ring) }
        if let channel = unsafe queue.pointee.channel {
            let delivered = unsafe ChannelStorage.record(channel).pointee.remove(queue)
            unsafe waitForAcknowledgement(
                &queue.pointee.mutex, &queue.pointee.cond, &queue.pointee.comp_events_completed, delivered)
            unsafe channel.pointee.refcnt -= 1
            unsafe ChannelStorage.record(channel).pointee.users.subtract(1, ordering: .releasing)
        }
        unsafe forgetEvents(of: queue)
        unsafe ObjectStorage<ibv_cq_ex, CompletionQueueRecord>.free(queue)
        objects.subtract(1, ordering: .relaxed)
    }

    // MARK: Queue pairs

    package func makeQueuePair(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_qp> {
        guard unsafe attributes.pointee.qp_type != .IBV_QPT_XRC_RECV else {
            throw ProviderError(
                "ibv_create_qp", code: EINVAL, detail: "qp_type XRC_RECV: ibv_create_qp_ex makes one in an XRC domain")
        }
        return unsafe try makeQueuePair(domain, xrcDomain: nil, attributes)
    }

    /// - Parameters:
    ///   - domain: `nil` for a target of XRC.
    ///   - xrcDomain: a target's; `nil` for all others.
    func makeQueuePair(
        _ domain: UnsafeMutablePointer<ibv_pd>?, xrcDomain: UnsafeMutablePointer<ibv_xrcd>?,
        _ attributes: UnsafeMutablePointer<ibv_qp_init_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_qp> {
        let asked = unsafe attributes.pointee
        let verb: StaticString = "ibv_create_qp"
        let type = unsafe try Self.engineType(asked.qp_type, verb)
        // What an end of XRC has not is not looked at, as by the kernel.
        let sendQueue = unsafe type == .xrcTarget ? nil : asked.send_cq
        let receiveQueue = unsafe type == .xrcTarget || type == .xrcInitiator ? nil : asked.recv_cq
        let shared = unsafe type == .xrcTarget || type == .xrcInitiator ? nil : asked.srq
        let lacksSend = unsafe type != .xrcTarget && sendQueue == nil
        let lacksReceive = unsafe type != .xrcTarget && type != .xrcInitiator && receiveQueue == nil
        guard !lacksSend, !lacksReceive else {
            throw ProviderError(verb, code: EINVAL, detail: "send_cq and recv_cq: a queue pair completes somewhere")
        }
        let cap = unsafe asked.cap
        try Self.check(cap.max_send_wr, 0, DeviceLimits.workRequests, "max_send_wr", verb)
        try Self.check(cap.max_recv_wr, 0, DeviceLimits.workRequests, "max_recv_wr", verb)
        try Self.check(cap.max_send_sge, 0, DeviceLimits.scatterGatherEntries, "max_send_sge", verb)
        try Self.check(cap.max_recv_sge, 0, DeviceLimits.scatterGatherEntries, "max_recv_sge", verb)
        try Self.check(cap.max_inline_data, 0, DeviceLimits.inlineBytes, "max_inline_data", verb)

        let memory = unsafe ObjectStorage<ibv_qp_ex, QueuePairRecord>()
        let number = unsafe domain.map { unsafe protectionDomainRecord($0).pointee.domain } ?? 0
        let sendElements = max(1, Int(cap.max_send_sge))
        // As rxe: inline data has the place of the list, so there is as much of it at least. rdma_xclient relies on it, which asks for none.
        let inlineMax = max(Int(cap.max_inline_data), sendElements * MemoryLayout<ibv_sge>.stride)
        var creation = unsafe QueuePairCreation(
            type: type, protectionDomain: number,
            sendCompletionQueue: sendQueue.map { unsafe completionQueueRecord($0).pointee.queue },
            receiveCompletionQueue: receiveQueue.map { unsafe completionQueueRecord($0).pointee.queue },
            sharedReceiveQueue: shared.map { unsafe sharedReceiveQueueRecord($0).pointee.queue },
            sendCapacity: max(1, Int(cap.max_send_wr)), receiveCapacity: max(1, Int(cap.max_recv_wr)),
            sendScatterGatherMax: sendElements, receiveScatterGatherMax: max(1, Int(cap.max_recv_sge)),
            inlineMax: inlineMax, signalsAll: asked.sq_sig_all != 0, tag: memory.tag)
        if let xrcDomain = unsafe xrcDomain {
            creation.xrcDomain = unsafe xrcDomainRecord(xrcDomain).pointee.number
        }
        let queues = try withEngine(verb) { engine throws(EngineError) in
            var generator = SystemRandomNumberGenerator()
            return try engine.createQueuePair(creation, using: &generator)
        }
        let receives = unsafe shared == nil && receiveQueue != nil
        let sends = unsafe sendQueue != nil
        let granted = ibv_qp_cap(
            max_send_wr: sends ? UInt32(queues.sendQueue.capacity) : 0,
            max_recv_wr: receives ? UInt32(queues.receiveQueue.capacity) : 0,
            max_send_sge: sends ? UInt32(queues.sendQueue.scatterGatherMax) : 0,
            max_recv_sge: receives ? UInt32(queues.receiveQueue.scatterGatherMax) : 0,
            max_inline_data: sends ? UInt32(queues.sendQueue.inlineMax) : 0)
        let record = unsafe QueuePairRecord(
            context: .passUnretained(self), qpn: queues.qpn, sendQueue: queues.sendQueue,
            receiveQueue: queues.receiveQueue, capabilities: granted, signalsAll: asked.sq_sig_all != 0,
            xrcDomain: xrcDomain)
        let object = unsafe UnsafeMutableRawPointer(memory.initialize(record)).assumingMemoryBound(to: ibv_qp.self)
        unsafe object.pointee.context = unsafe context
        unsafe object.pointee.qp_context = unsafe asked.qp_context
        unsafe object.pointee.pd = unsafe domain
        unsafe object.pointee.send_cq = unsafe sendQueue
        unsafe object.pointee.recv_cq = unsafe receiveQueue
        unsafe object.pointee.srq = unsafe shared
        unsafe object.pointee.handle = queues.qpn.rawValue
        unsafe object.pointee.qp_num = queues.qpn.rawValue
        unsafe object.pointee.state = .IBV_QPS_RESET
        unsafe object.pointee.qp_type = unsafe asked.qp_type
        unsafe attributes.pointee.cap = granted
        unsafe countUsers(of: object, by: 1)
        if type == .xrcTarget { unsafe addTargetHandle(object) }
        return unsafe object
    }

    private static func engineType(
        _ type: ibv_qp_type, _ verb: StaticString
    ) throws(ProviderError) -> QueuePairType {
        switch type {
        case .IBV_QPT_RC: .rc
        case .IBV_QPT_UC: .uc
        case .IBV_QPT_UD: .ud
        case .IBV_QPT_RAW_PACKET: .rawPacket
        case .IBV_QPT_XRC_SEND: .xrcInitiator
        case .IBV_QPT_XRC_RECV: .xrcTarget
        default:
            throw ProviderError(
                verb, code: EOPNOTSUPP,
                detail: "qp_type \(type.rawValue): the software device has RC, XRC, UC, UD and raw packets")
        }
    }

    package func modify(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_qp_attr>,
        mask: ibv_qp_attr_mask
    ) throws(ProviderError) {
        let qpn = unsafe queuePairRecord(queuePair).pointee.qpn
        let mask = unsafe Self.heeded(mask, queuePair.pointee.qp_type)
        let engineMask = QueuePairAttributeMask(rawValue: UInt32(truncatingIfNeeded: mask.rawValue))
        let wanted = try unsafe QueuePairAttributes(attributes.pointee, mask: engineMask, gidCount: gids.count)
        let type = unsafe queuePair.pointee.qp_type
        let current = try withEngine("ibv_modify_qp") { engine throws(EngineError) in try engine.queryQueuePair(qpn) }
        let from = ibv_qp_state(rawValue: UInt32(current.state.rawValue))!
        let to = mask.contains(.IBV_QP_STATE) ? unsafe attributes.pointee.qp_state : from
        try Self.checkTransition(type, from: from, to: to, mask: mask)
        // Nobody may fill receives in place any more when they are flushed.
        let releases = type == .IBV_QPT_RAW_PACKET && (to == .IBV_QPS_ERR || to == .IBV_QPS_RESET)
        try withEngine("ibv_modify_qp", releasing: releases ? qpn : nil) { engine throws(EngineError) in
            try engine.modifyQueuePair(qpn, wanted, mask: engineMask)
        }
        unsafe queuePair.pointee.state = to
        if to == .IBV_QPS_RESET { unsafe forgetCompletions(of: queuePair) }
        if to == .IBV_QPS_RTR { withCore { $0.meet(qpn) } }
        // Entering the error state flushes, entering RTS starts what was posted: let the completions out.
        applicationRound()
    }

    /// The completions that were not polled go when the queue pair is reset.
    private func forgetCompletions(of queuePair: UnsafeMutablePointer<ibv_qp>) {
        let qpn = unsafe queuePairRecord(queuePair).pointee.qpn
        if let queue = unsafe queuePair.pointee.send_cq { unsafe forgetCompletions(of: qpn, in: queue) }
        if let queue = unsafe queuePair.pointee.recv_cq { unsafe forgetCompletions(of: qpn, in: queue) }
    }

    private func forgetCompletions(of qpn: QPN, in queue: UnsafeMutablePointer<ibv_cq>) {
        let record = unsafe completionQueueRecord(queue)
        let ring = unsafe record.pointee.queue
        unsafe record.pointee.pollLock.withoutOtherPolls {
            withCore { $0.engine.removeCompletions(of: qpn, from: ring) }
        }
    }

    /// An end of XRC does without what is of the other end: programs set the attributes of RC on both, and the kernel
    /// (`modify_qp_mask` of uverbs_cmd.c) lets them.
    private static func heeded(_ mask: ibv_qp_attr_mask, _ type: ibv_qp_type) -> ibv_qp_attr_mask {
        switch type {
        case .IBV_QPT_XRC_SEND: mask.subtracting([.IBV_QP_MAX_DEST_RD_ATOMIC, .IBV_QP_MIN_RNR_TIMER])
        case .IBV_QPT_XRC_RECV: mask.subtracting([.IBV_QP_MAX_QP_RD_ATOMIC, .IBV_QP_RETRY_CNT, .IBV_QP_RNR_RETRY])
        default: mask
        }
    }

    /// Refuses what the state table refuses, and says why; C programs see EINVAL as from the kernel.
    private static func checkTransition(
        _ type: ibv_qp_type, from: ibv_qp_state, to: ibv_qp_state, mask: ibv_qp_attr_mask
    ) throws(ProviderError) {
        let change = "\(QueuePairTransition.name(from)) to \(QueuePairTransition.name(to))"
        let detail: String
        switch QueuePairTransition.verdict(type, from: from, to: to, mask: mask) {
        case .allowed: return
        case .noSuchTransition: detail = "there is no transition from \(change)"
        case .missing(let attributes):
            detail = "\(change) needs \(QueuePairTransition.names(attributes).joined(separator: ", ")) too"
        case .refused(let attributes):
            detail = "\(change) does not take \(QueuePairTransition.names(attributes).joined(separator: ", "))"
        }
        throw ProviderError("ibv_modify_qp", code: EINVAL, detail: detail)
    }

    package func query(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_qp_attr>,
        mask: ibv_qp_attr_mask, _ initial: UnsafeMutablePointer<ibv_qp_init_attr>
    ) throws(ProviderError) {
        let record = unsafe queuePairRecord(queuePair)
        let qpn = unsafe record.pointee.qpn
        let current = try withEngine("ibv_query_qp") { engine throws(EngineError) in try engine.queryQueuePair(qpn) }
        unsafe attributes.pointee = ibv_qp_attr()
        unsafe current.store(to: &attributes.pointee)
        unsafe attributes.pointee.cap = unsafe record.pointee.capabilities
        unsafe initial.pointee = unsafe ibv_qp_init_attr(
            qp_context: queuePair.pointee.qp_context, send_cq: queuePair.pointee.send_cq,
            recv_cq: queuePair.pointee.recv_cq, srq: queuePair.pointee.srq, cap: record.pointee.capabilities,
            qp_type: queuePair.pointee.qp_type, sq_sig_all: record.pointee.signalsAll ? 1 : 0)
        unsafe queuePair.pointee.state = unsafe attributes.pointee.qp_state
    }

    package func destroy(_ queuePair: UnsafeMutablePointer<ibv_qp>) throws(ProviderError) {
        guard unsafe queuePairRecord(queuePair).pointee.flows.load(ordering: .acquiring) == 0 else {
            throw ProviderError("ibv_destroy_qp", code: EBUSY, detail: "flows of the queue pair still exist")
        }
        let qpn = unsafe queuePairRecord(queuePair).pointee.qpn
        let type = unsafe queuePair.pointee.qp_type
        let isLeft = unsafe type == .IBV_QPT_XRC_RECV ? try leavesTarget(queuePair) : false
        if !isLeft {
            try withEngine("ibv_destroy_qp", releasing: type == .IBV_QPT_RAW_PACKET ? qpn : nil) {
                engine throws(EngineError) in
                try engine.destroyQueuePair(qpn)
            }
        }
        unsafe forgetEvents(of: queuePair)
        unsafe countUsers(of: queuePair, by: -1)
        unsafe ObjectStorage<ibv_qp_ex, QueuePairRecord>.free(queuePair)
    }

    func countUsers(of queuePair: UnsafeMutablePointer<ibv_qp>, by change: Int) {
        if let domain = unsafe queuePair.pointee.pd {
            unsafe protectionDomainRecord(domain).pointee.users.add(change, ordering: .acquiringAndReleasing)
        }
        if let domain = unsafe queuePairRecord(queuePair).pointee.xrcDomain {
            unsafe xrcDomainRecord(domain).pointee.users.add(change, ordering: .acquiringAndReleasing)
        }
        if let queue = unsafe queuePair.pointee.send_cq {
            unsafe completionQueueRecord(queue).pointee.users.add(change, ordering: .acquiringAndReleasing)
        }
        if let queue = unsafe queuePair.pointee.recv_cq {
            unsafe completionQueueRecord(queue).pointee.users.add(change, ordering: .acquiringAndReleasing)
        }
        if let shared = unsafe queuePair.pointee.srq {
            unsafe sharedReceiveQueueRecord(shared).pointee.users.add(change, ordering: .acquiringAndReleasing)
        }
    }
}
