// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// What stands behind a ``QueuePair``: its parents, its accounts, and its end.
@safe @usableFromInline final class QueuePairCore {
    let domain: ProtectionDomain
    let transport: Transport
    let options: QueuePairOptions
    let native: UnsafeMutablePointer<ibv_qp>
    let sends: WorkAccount
    let receives: WorkAccount
    let slots: WorkSlots
    let sendCompletions: CompletionQueueCore
    let receiveCompletions: CompletionQueueCore
    let shared: SharedReceiveQueueCore?
    /// What ``QueuePair/prepare(port:gidIndex:peer:access:qkey:)`` settled.
    var local: LocalSide?
    var handles: HandleKeeper
    /// Flows that lead here. They end before the queue pair does.
    var flows: [ObjectIdentifier: FlowCore] = [:]
    private var hasEnded = false

    /// Our side of a connection.
    struct LocalSide {
        var endpoint: Endpoint
        var port: UInt8
        var gidIndex: Int
    }

    /// Requests that one doorbell of a batch covers at the most.
    private static let batchCount = 32

    init(
        domain: ProtectionDomain, transport: Transport, options: QueuePairOptions,
        sendCompletions: CompletionQueueCore, receiveCompletions: CompletionQueueCore,
        shared: SharedReceiveQueueCore?
    ) throws(VerbsError) {
        try Self.check(options)
        let receiveDepth = shared == nil ? options.receiveDepth : 0
        try sendCompletions.charge(options.sendDepth, for: "send queue")
        do throws(VerbsError) {
            if let shared {
                try receiveCompletions.charge(shared: shared, depth: shared.depth)
            } else {
                try receiveCompletions.charge(receiveDepth, for: "receive queue")
            }
        } catch {
            sendCompletions.discharge(options.sendDepth)
            throw error
        }
        var granted = options
        do throws(ProviderError) {
            var initial = unsafe ibv_qp_init_attr()
            unsafe initial.send_cq = sendCompletions.native
            unsafe initial.recv_cq = receiveCompletions.native
            unsafe initial.srq = shared?.native
            unsafe initial.qp_type = transport.native
            unsafe initial.sq_sig_all = options.signalsAll ? 1 : 0
            unsafe initial.cap.max_send_wr = UInt32(options.sendDepth)
            unsafe initial.cap.max_recv_wr = UInt32(receiveDepth)
            unsafe initial.cap.max_send_sge = UInt32(options.sendElements)
            unsafe initial.cap.max_recv_sge = UInt32(shared == nil ? options.receiveElements : 0)
            unsafe initial.cap.max_inline_data = UInt32(options.maxInline)
            // A local variable, read and written during the call.
            unsafe native = try domain.context.path.makeQueuePair(domain.native, &initial)
            granted.maxInline = unsafe Int(initial.cap.max_inline_data)
        } catch {
            sendCompletions.discharge(options.sendDepth)
            Self.discharge(receiveCompletions, depth: receiveDepth, shared: shared)
            throw Diagnosis.queuePair(error, options: options, device: try? domain.context.attributes)
        }
        self.domain = domain
        self.transport = transport
        self.options = granted
        self.sendCompletions = sendCompletions
        self.receiveCompletions = receiveCompletions
        self.shared = shared
        let number = unsafe native.pointee.qp_num
        sends = WorkAccount(
            role: .send(signalsAll: options.signalsAll), depth: options.sendDepth, elements: options.sendElements,
            inlineBytes: granted.maxInline, hasPlacement: domain.context.path.postsPlacement,
            bufferGuard: domain.context.bufferGuard, queuePair: number)
        receives = WorkAccount(
            role: .receive, depth: receiveDepth, elements: options.receiveElements,
            bufferGuard: domain.context.bufferGuard, queuePair: number)
        slots = WorkSlots(
            count: Self.batchCount, sendElements: options.sendElements, receiveElements: options.receiveElements)
        handles = HandleKeeper(depth: options.sendDepth)
    }

    deinit { try? end() }

    /// Depths of zero are allowed: a queue pair may only send, or only receive.
    private static func check(_ options: QueuePairOptions) throws(VerbsError) {
        let values = [
            ("max_send_wr", options.sendDepth), ("max_recv_wr", options.receiveDepth),
            ("max_send_sge", options.sendElements), ("max_recv_sge", options.receiveElements),
            ("max_inline_data", options.maxInline),
        ]
        for (name, value) in values where value < 0 || value > 1 << 24 {
            throw VerbsError(
                .invalidAttribute, verb: "ibv_create_qp", subject: name, value: "\(value)", limit: "0...16777216",
                remedy: "Give a count within the limit")
        }
    }

    private static func discharge(_ queue: CompletionQueueCore, depth: Int, shared: SharedReceiveQueueCore?) {
        if let shared { queue.discharge(shared: shared, depth: shared.depth) } else { queue.discharge(depth) }
    }
}

extension QueuePairCore {
    /// Keeps an address handle while sends that name it may be in flight.
    @usableFromInline func keep(_ handle: AddressHandle) {
        let account = unsafe sends.queue
        unsafe handles.keep(
            handle, posted: account.pointee.posted, retired: account.pointee.retired,
            owner: UnsafeMutableRawPointer(account))
    }
}

// The end.
extension QueuePairCore {
    /// Drains and destroys; once.
    func end() throws(VerbsError) {
        guard !hasEnded else { return }
        hasEnded = true
        for flow in flows.values { try? flow.end() }
        flows = [:]
        drain()
        // A batch that is still open finds no room, and traps when it is submitted.
        unsafe sends.queue.pointee.limit = 0
        unsafe receives.queue.pointee.limit = 0
        // Completions that are not delivered yet point into the accounts, and into the shared queue's.
        sendCompletions.keep(sends)
        receiveCompletions.keep(receives)
        if let shared { receiveCompletions.keep(shared) }
        sendCompletions.discharge(options.sendDepth)
        Self.discharge(receiveCompletions, depth: options.receiveDepth, shared: shared)
        defer {
            sends.openAll()
            receives.openAll()
        }
        do throws(ProviderError) {
            try unsafe domain.context.path.destroy(native)
        } catch {
            throw VerbsError(error)
        }
    }

    /// Makes every request in flight resolve: by what the device reports once it is in ERR, and after the deadline by
    /// completions made up here.
    func drain() {
        guard sends.count + receives.count > 0 || shared != nil else { return }
        var attributes = ibv_qp_attr()
        attributes.qp_state = .IBV_QPS_ERR
        // From RESET there is no way to ERR, and nothing in flight either; another failure shows in the wait below.
        try? unsafe domain.context.path.modify(native, &attributes, mask: .IBV_QP_STATE)
        let deadline = Deadline(options.drainTimeout)
        var round = 0
        while true {
            spill()
            if unsafe unresolved(sends, on: sendCompletions).isEmpty,
                unsafe unresolved(receives, on: receiveCompletions).isEmpty
            {
                break
            }
            if deadline.isOver { break }
            // The device flushes on its own; nobody could wake this wait.
            if round < 100 { sched_yield() } else { poll(nil, 0, 1) }
            round += 1
        }
        flush()
    }

    /// Before a move to RESET, which forgets what is in flight, and after it.
    func spill() {
        sendCompletions.spill()
        if receiveCompletions !== sendCompletions { receiveCompletions.spill() }
    }

    /// Makes up a flush for every request in flight that has no completion waiting.
    func flush() {
        let number = unsafe native.pointee.qp_num
        unsafe unresolved(sends, on: sendCompletions).forEach { record in
            unsafe sendCompletions.synthesizeFlush(of: record, queuePair: number)
        }
        unsafe unresolved(receives, on: receiveCompletions).forEach { record in
            unsafe receiveCompletions.synthesizeFlush(of: record, queuePair: number)
        }
    }

    /// Requests in flight that no completion on the way will resolve: those after the last that has one.
    private func unresolved(
        _ account: WorkAccount, on completions: CompletionQueueCore
    ) -> ArraySlice<UnsafeMutablePointer<cverbs_record>> {
        let outstanding = unsafe account.outstanding
        guard unsafe !outstanding.isEmpty else { return unsafe outstanding[...] }
        guard let last = unsafe completions.undelivered(of: account.queue).last,
            let position = unsafe outstanding.firstIndex(of: last)
        else { return unsafe outstanding[...] }
        return unsafe outstanding[(position + 1)...]
    }
}
