// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// The part of a completion queue that its queue pairs share: the handle, the room charged, and what waits for delivery.
@safe @usableFromInline final class CompletionQueueCore {
    let context: Context
    let channel: CompletionChannel?
    @usableFromInline let native: UnsafeMutablePointer<ibv_cq>
    /// Completions fetched from the device, in plain memory for the inlined poll.
    @usableFromInline let ready: UnsafeMutablePointer<cverbs_ready>

    /// Completions that a dying queue pair took off the device, or was owed: they follow those in `ready`.
    private var spilled: [cverbs_wc] = []
    private var spilledCursor = 0
    /// Accounts of destroyed queues, kept while completions that point into them are not delivered.
    private var retiring: [AnyObject] = []

    private(set) var capacity: Int
    /// Work requests that the queue pairs may have in flight towards this queue.
    private(set) var charged = 0
    /// Shared receive queues and how many queue pairs receive from them into this queue.
    private var sharedUsers: [ObjectIdentifier: Int] = [:]

    /// Events read from the channel and not yet waited for.
    var pendingEvents = 0
    /// Events read from the channel and not yet acknowledged; the destroy call would wait for them for ever.
    private var unacknowledged: UInt32 = 0

    /// Completions fetched in one call of the device.
    private static let fetchCount: UInt32 = 16

    init(context: Context, capacity: Int, channel: CompletionChannel?, vector: Int) throws(VerbsError) {
        guard capacity > 0, let count = Int32(exactly: capacity), let vector = Int32(exactly: vector) else {
            throw VerbsError(
                .invalidAttribute, verb: "ibv_create_cq", subject: "cqe", value: "\(capacity)",
                remedy: "Ask for at least one")
        }
        self.context = context
        self.channel = channel
        unsafe ready = .allocate(capacity: 1)
        unsafe ready.initialize(
            to: cverbs_ready(
                entries: .allocate(capacity: Int(Self.fetchCount)), capacity: Self.fetchCount, cursor: 0, end: 0,
                has_backlog: 0))
        do throws(ProviderError) {
            unsafe native = try context.path.makeCompletionQueue(
                capacity: count, userContext: nil, channel: channel?.native, vector: vector)
        } catch {
            unsafe ready.pointee.entries.deallocate()
            unsafe ready.deallocate()
            throw Diagnosis.completionQueue(error, capacity: capacity, device: try? context.attributes)
        }
        self.capacity = unsafe Int(native.pointee.cqe)
        // How an event of the channel finds the queue again; queue and channel are of one isolation region.
        unsafe native.pointee.cq_context = unsafe Unmanaged.passUnretained(self).toOpaque()
    }

    deinit {
        acknowledge(atLeast: 1)
        try? unsafe context.path.destroy(native)
        unsafe ready.pointee.entries.deallocate()
        unsafe ready.deallocate()
        // `retiring` goes with the object: buffers of completions that nobody polled return to their pools.
    }
}

// Room.
extension CompletionQueueCore {
    /// Sets room aside for `count` completions, so that the queue cannot overflow.
    func charge(_ count: Int, for queue: String) throws(VerbsError) {
        guard charged + count <= capacity else {
            throw VerbsError(
                .completionQueueCapacity, verb: "ibv_create_qp", subject: "completion queue capacity",
                value: "\(count) for the \(queue), \(charged) being charged already", limit: "\(capacity)",
                remedy: "Make the completion queue at least \(charged + count) deep, or the queues shallower")
        }
        charged += count
    }

    func discharge(_ count: Int) { charged -= count }

    /// A shared receive queue is charged once, however many queue pairs receive from it into this queue.
    func charge(shared: AnyObject, depth: Int) throws(VerbsError) {
        let users = sharedUsers[ObjectIdentifier(shared)] ?? 0
        if users == 0 { try charge(depth, for: "shared receive queue") }
        sharedUsers[ObjectIdentifier(shared)] = users + 1
    }

    func discharge(shared: AnyObject, depth: Int) {
        let users = sharedUsers[ObjectIdentifier(shared)] ?? 0
        sharedUsers[ObjectIdentifier(shared)] = users > 1 ? users - 1 : nil
        if users == 1 { discharge(depth) }
    }

    func resize(to capacity: Int) throws(VerbsError) {
        guard capacity >= max(1, charged), let count = Int32(exactly: capacity) else {
            throw VerbsError(
                .completionQueueCapacity, verb: "ibv_resize_cq", subject: "cqe", value: "\(capacity)",
                limit: "at least \(charged), which is charged", remedy: "Release queue pairs first")
        }
        do throws(ProviderError) {
            try unsafe context.path.resize(native, capacity: count)
        } catch {
            throw Diagnosis.completionQueue(error, capacity: capacity, device: try? context.attributes)
        }
        self.capacity = unsafe Int(native.pointee.cqe)
    }
}

// Fetching.
extension CompletionQueueCore {
    /// Moves what was kept beside into `ready`; true if there is something to deliver. Called when `ready` is empty,
    /// so when nothing is kept either, no completion points into a destroyed queue's account any more.
    @usableFromInline @inline(never) func takeBacklog() -> Bool {
        guard spilledCursor < spilled.count else {
            spilled.removeAll()
            spilledCursor = 0
            retiring.removeAll()
            unsafe ready.pointee.has_backlog = 0
            return false
        }
        let count = unsafe min(spilled.count - spilledCursor, Int(ready.pointee.capacity))
        for offset in 0..<count {
            unsafe (ready.pointee.entries + offset).initialize(to: spilled[spilledCursor + offset])
        }
        spilledCursor += count
        unsafe ready.pointee.cursor = 0
        unsafe ready.pointee.end = UInt32(count)
        return true
    }

    @usableFromInline @inline(never) func pollError(_ code: Int32) -> VerbsError {
        VerbsError(
            .disconnected, verb: "ibv_poll_cq", code: abs(code), subject: "completion queue",
            remedy: "The device has failed or the queue has overflown: read the asynchronous events")
    }
}

// For queue pairs that end.
extension CompletionQueueCore {
    /// Takes all completions off the device, to be delivered later. The pointers in them must stay good until then.
    func spill() {
        while true {
            let count = unsafe withUnsafeTemporaryAllocation(of: cverbs_wc.self, capacity: 16) { storage in
                // 768 bytes on the stack, written by the poll and read within the closure.
                let count = unsafe cverbs_poll_cq(native, 16, storage.baseAddress!)
                if count > 0 { unsafe spilled.append(contentsOf: storage.prefix(Int(count))) }
                return count
            }
            guard count > 0 else { break }
        }
        if spilledCursor < spilled.count { unsafe ready.pointee.has_backlog = 1 }
    }

    /// The records of a queue that have a completion here which is not delivered yet, in order.
    func undelivered(of queue: UnsafeMutablePointer<cverbs_queue>) -> [UnsafeMutablePointer<cverbs_record>] {
        let inReady = unsafe (ready.pointee.cursor..<ready.pointee.end).map {
            unsafe ready.pointee.entries[Int($0)].wr_id
        }
        let inSpill = spilled[spilledCursor...].map(\.wr_id)
        return unsafe (inReady + inSpill).compactMap { unsafe UnsafeMutablePointer(bitPattern: UInt($0)) }
            .filter { unsafe $0.pointee.queue == queue }
    }

    /// Adds a completion that the provider owes and will not make: the request was flushed.
    func synthesizeFlush(of record: UnsafeMutablePointer<cverbs_record>, queuePair: UInt32) {
        var completion = cverbs_wc()
        completion.wr_id = UInt64(UInt(bitPattern: record))
        completion.status = .IBV_WC_WR_FLUSH_ERR
        completion.opcode = unsafe record.pointee.queue.pointee.is_receive != 0 ? .IBV_WC_RECV : .IBV_WC_SEND
        completion.qp_num = queuePair
        spilled.append(completion)
        unsafe ready.pointee.has_backlog = 1
    }

    /// Keeps the owner of an account until all completions here are delivered.
    func keep(_ owner: AnyObject) {
        retiring.append(owner)
        unsafe ready.pointee.has_backlog = 1
    }
}

// Events.
extension CompletionQueueCore {
    /// An event for this queue was read from the channel.
    func eventArrived() {
        pendingEvents += 1
        unacknowledged += 1
        acknowledge(atLeast: 64)
    }

    /// Acknowledging takes a lock of the provider: done in bunches.
    private func acknowledge(atLeast bunch: UInt32) {
        guard unacknowledged >= bunch else { return }
        unsafe context.path.acknowledgeCompletionEvents(native, count: unacknowledged)
        unacknowledged = 0
    }
}
