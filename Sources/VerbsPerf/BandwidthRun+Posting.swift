// SPDX-License-Identifier: Apache-2.0
import Verbs

// Posting.
extension BandwidthRun {
    /// Fills the send queues of all queue pairs in turn. Returns whether anything was posted.
    @inline(__always)
    mutating func postRound() throws(PerfError) -> Bool {
        let before = posted
        for index in 0..<plan.queuePairs {
            let lane = unsafe lanes + index
            while unsafe lane.pointee.posted < limit
                && lane.pointee.posted - lane.pointee.completed + plan.postList <= plan.transmitDepth
            {
                if plan.postList > 1, !isDatagram {
                    try unsafe postList(lane, index)
                } else {
                    for _ in 0..<plan.postList { try unsafe postOne(lane, index) }
                }
            }
        }
        return posted != before
    }

    @inline(__always)
    private mutating func postOne(_ lane: UnsafeMutablePointer<Lane>, _ index: Int) throws(PerfError) {
        if plan.validate { unsafe prepare(lane, index) }
        let (id, flags) = unsafe completionRequest(lane, index)
        if measuresPeak { unsafe postedTimes[posted] = monotonicNanoseconds() }
        let memory = unsafe LocalMemory(
            address: lane.pointee.local.address, length: UInt32(truncatingIfNeeded: size), lkey: lkey)
        let status =
            if isDatagram {
                unsafe queuePairs[index].post(
                    .send, from: memory, to: destinations[index], id: id, flags: flags)
            } else {
                unsafe queuePairs[index].post(work(lane), from: memory, id: id, flags: flags)
            }
        if status != .posted { throw PerfEndpoint.refused("send", status) }
        unsafe advance(lane)
    }

    /// Posts `postList` requests with one doorbell.
    private mutating func postList(_ lane: UnsafeMutablePointer<Lane>, _ index: Int) throws(PerfError) {
        if measuresPeak { unsafe postedTimes[posted] = monotonicNanoseconds() }
        let queuePair = unsafe queuePairs + index
        var batch = unsafe queuePair.pointee.batch()
        for _ in 0..<plan.postList {
            if plan.validate { unsafe prepare(lane, index) }
            let (id, flags) = unsafe completionRequest(lane, index)
            let memory = unsafe LocalMemory(
                address: lane.pointee.local.address, length: UInt32(truncatingIfNeeded: size),
                lkey: lkey)
            let status = unsafe batch.post(work(lane), from: memory, id: id, flags: flags)
            if status != .posted { throw PerfEndpoint.refused("send", status) }
            unsafe advance(lane)
        }
        if let error = batch.submit().error { throw PerfEndpoint.refused("list of sends", .refused(error)) }
    }

    @inline(__always)
    private func work(_ lane: UnsafeMutablePointer<Lane>) -> SendOperation {
        let remote = unsafe RemoteMemory(
            address: lane.pointee.remote.address, rkey: lane.pointee.rkey, length: UInt64(truncatingIfNeeded: size))
        switch operation {
        case .send: return .send
        case .write: return .write(to: remote)
        case .read: return .read(from: remote)
        case .atomic:
            if plan.atomic == .fetchAndAdd { return .fetchAndAdd(at: remote, 1) }
            let turn = unsafe AtomicTurn(message: lane.pointee.posted, cycleSlots: lane.pointee.remote.count)
            return .compareAndSwap(at: remote, expected: turn.value, desired: turn.value &+ 1)
        }
    }

    /// The id and flags of the next request: a completion for every `completionModeration` requests and for the last.
    /// The id tells the queue pair and how many requests the completion stands for.
    @inline(__always)
    private func completionRequest(_ lane: UnsafeMutablePointer<Lane>, _ index: Int) -> (UInt64, SendFlags) {
        let covered = unsafe lane.pointee.unsignaled + 1
        guard unsafe covered >= plan.completionModeration || lane.pointee.posted + 1 == limit else {
            unsafe lane.pointee.unsignaled = covered
            return (0, baseFlags)
        }
        unsafe lane.pointee.unsignaled = 0
        return (UInt64(index) | UInt64(covered) << 32, baseFlags.union(.signaled))
    }

    @inline(__always)
    private mutating func advance(_ lane: UnsafeMutablePointer<Lane>) {
        unsafe lane.pointee.local.advance()
        unsafe lane.pointee.remote.advance()
        unsafe lane.pointee.posted += 1
        posted += 1
    }
}

// Polling.
extension BandwidthRun {
    /// Takes what has completed of the sends. Returns whether there was anything.
    @inline(__always)
    mutating func pollSends() throws(PerfError) -> Bool {
        let count = try unsafe poll(sendCompletions)
        guard count > 0 else { return false }
        let now = measuresPeak ? monotonicNanoseconds() : 0
        for entry in 0..<count {
            guard unsafe storage[entry].isSuccess else { throw unsafe failure(storage[entry]) }
            let id = unsafe storage[entry].id
            let index = Int(truncatingIfNeeded: id & 0xFFFF_FFFF)
            let covered = Int(truncatingIfNeeded: id >> 32)
            if plan.validate { unsafe checkResults(lanes + index, index, count: covered) }
            unsafe lanes[index].completed += covered
            completed += covered
            if measuresPeak { unsafe completedTimes[completed - 1] = now }
            if window?.phase == .counting { counted += covered }
        }
        return true
    }

    /// Takes what was received and posts receives for what is still to come.
    @inline(__always)
    mutating func pollReceives() throws(PerfError) -> Bool {
        let count = try unsafe poll(receiveCompletions)
        guard count > 0 else { return false }
        if received == 0 { firstMessage() }
        if plan.connection != .rc { lastReceived = monotonicNanoseconds() }
        for entry in 0..<count {
            guard unsafe storage[entry].isSuccess else { throw unsafe failure(storage[entry]) }
            if plan.validate { unsafe checkMessage(storage[entry]) }
            let index = unsafe Int(truncatingIfNeeded: storage[entry].id & 0xFFFF_FFFF)
            received += 1
            unsafe lanes[index].received += 1
            if window?.phase == .counting { counted += 1 }
            try unsafe repost(lanes + index, index)
        }
        return true
    }

    /// Posts receives in lists of `receivePostList`, no more than there will be messages: the next size's are longer.
    @inline(__always)
    private func repost(_ lane: UnsafeMutablePointer<Lane>, _ index: Int) throws(PerfError) {
        let inFlight = unsafe lane.pointee.receivesPosted - lane.pointee.received
        guard receiveDepth - inFlight >= plan.receivePostList else { return }
        guard plan.receivePostList > 1 else {
            guard unsafe lane.pointee.receivesPosted < receiveLimit else { return }
            try unsafe endpoint.postReceive(
                receiveMemory(lane), index: index, slot: lane.pointee.receive.slot)
            return unsafe notePosted(lane)
        }
        var batch = endpoint.receiveBatch(index)
        for _ in 0..<plan.receivePostList where unsafe lane.pointee.receivesPosted < receiveLimit {
            let id = unsafe UInt64(index) | lane.pointee.receive.slot << 32
            let status = unsafe batch.receive(into: receiveMemory(lane), id: id)
            if status != .posted { throw PerfEndpoint.refused("receive", status) }
            unsafe notePosted(lane)
        }
        if let error = batch.submit().error { throw PerfEndpoint.refused("list of receives", .refused(error)) }
    }

    @inline(__always)
    private func receiveMemory(_ lane: UnsafeMutablePointer<Lane>) -> LocalMemory {
        unsafe LocalMemory(address: lane.pointee.receive.address, length: receiveLength, lkey: lkey)
    }

    @inline(__always)
    private func notePosted(_ lane: UnsafeMutablePointer<Lane>) {
        unsafe lane.pointee.receive.advance()
        unsafe lane.pointee.receivesPosted += 1
    }

    @inline(__always)
    private func poll(_ queue: UnsafeMutablePointer<CompletionQueue>) throws(PerfError) -> Int {
        var span = unsafe storage.mutableSpan
        do throws(VerbsError) {
            return try unsafe queue.pointee.poll(into: &span)
        } catch {
            throw .device("\(error)")
        }
    }

    @inline(never)
    private func failure(_ completion: WorkCompletion) -> PerfError {
        .device("\(completion). \(completed) messages were completed and \(received) received before.")
    }
}
