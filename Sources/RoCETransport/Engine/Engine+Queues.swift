// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Control functions: completion queues and shared receive queues.
extension Engine {
    /// Makes a completion queue of at least `capacity` entries.
    public mutating func createCompletionQueue(capacity: Int, tag: UInt) throws(EngineError) -> CompletionQueue {
        guard capacity > 0, capacity <= configuration.completionEntryCountMax else {
            throw .invalidArgument("completion queue capacity")
        }
        let index = completionQueues.firstIndex { $0 == nil } ?? completionQueues.count
        guard index < configuration.completionQueueCountMax else { throw .limitReached("completion queues") }
        let queue = CompletionQueue(capacity: capacity, index: UInt32(index), tag: tag)
        if index == completionQueues.count { completionQueues.append(queue) } else { completionQueues[index] = queue }
        return queue
    }

    /// Forgets the completions of a queue pair that is reset, as adapters do: they are of its former life. Nobody may poll
    /// the queue meanwhile.
    public mutating func removeCompletions(of qpn: QPN, from queue: CompletionQueue) {
        queue.remove(entriesOf: qpn.rawValue)
    }

    /// Changes the capacity. Nobody may poll meanwhile. Busy if more entries wait.
    public mutating func resizeCompletionQueue(_ queue: CompletionQueue, capacity: Int) throws(EngineError) {
        try check(queue)
        guard capacity > 0, capacity <= configuration.completionEntryCountMax else {
            throw .invalidArgument("completion queue capacity")
        }
        guard queue.resize(capacity: capacity) else { throw .busy("more completions wait than would fit") }
    }

    /// Destroys a completion queue; busy while a queue pair uses it.
    public mutating func destroyCompletionQueue(_ queue: CompletionQueue) throws(EngineError) {
        let index = try check(queue)
        guard unsafe queue.header.pointee.userCount == 0 else { throw .busy("a queue pair uses the completion queue") }
        unlink(queue)
        completionQueues[index] = nil
        queue.deallocate()
    }

    @discardableResult
    func check(_ queue: CompletionQueue) throws(EngineError) -> Int {
        // Compared by address first: a destroyed queue must not be read.
        guard let index = completionQueues.firstIndex(where: { $0?.isSame(as: queue) ?? false }) else {
            throw .unknownObject
        }
        return index
    }

    /// Takes a queue out of the lists that it may be in.
    private mutating func unlink(_ queue: CompletionQueue) {
        if unsafe queue.header.pointee.isDirty { core.removeDirty(queue) }
        guard unsafe queue.header.pointee.events != 0 else { return }
        var kept: CompletionQueue?
        while let first = completionEvents {
            completionEvents = unsafe first.header.pointee.nextWithEvents
            if first.isSame(as: queue) { continue }
            unsafe first.header.pointee.nextWithEvents = kept
            kept = first
        }
        completionEvents = kept
    }

    /// Makes a shared receive queue.
    public mutating func createSharedReceiveQueue(
        protectionDomain: UInt32, capacity: Int, scatterGatherMax: Int, tag: UInt
    ) throws(EngineError) -> ReceiveQueue {
        guard capacity > 0, capacity <= configuration.workRequestCountMax else {
            throw .invalidArgument("shared receive queue capacity")
        }
        guard scatterGatherMax >= 0, scatterGatherMax <= configuration.scatterGatherMax else {
            throw .invalidArgument("scatter/gather entries")
        }
        let index = sharedReceiveQueues.firstIndex { $0 == nil } ?? sharedReceiveQueues.count
        guard index < configuration.sharedReceiveQueueCountMax else { throw .limitReached("shared receive queues") }
        let queue = ReceiveQueue(
            capacity: capacity, scatterGatherMax: max(scatterGatherMax, 1), index: UInt32(index),
            protectionDomain: protectionDomain, tag: tag)
        if index == sharedReceiveQueues.count {
            sharedReceiveQueues.append(queue)
        } else {
            sharedReceiveQueues[index] = queue
        }
        return queue
    }

    /// Makes a shared receive queue of XRC.
    ///
    /// - Parameters:
    ///   - protectionDomain: also whose memory requests for this queue may read and write.
    ///   - xrcDomain: the targets that receive into it are of the same.
    ///   - completionQueue: where its receives complete.
    /// - Returns: the queue, and the number that peers name it by.
    public mutating func createSharedReceiveQueue(
        protectionDomain: UInt32, xrcDomain: UInt32, completionQueue: CompletionQueue, capacity: Int,
        scatterGatherMax: Int, tag: UInt
    ) throws(EngineError) -> (queue: ReceiveQueue, number: UInt32) {
        try check(completionQueue)
        let queue = try createSharedReceiveQueue(
            protectionDomain: protectionDomain, capacity: capacity, scatterGatherMax: scatterGatherMax, tag: tag)
        unsafe completionQueue.header.pointee.userCount += 1
        return (queue, core.extendedQueues.insert(queue, completionQueue, xrcDomain: xrcDomain))
    }

    /// Changes what is given, all of it or nothing. Nobody may post meanwhile.
    ///
    /// - Parameters:
    ///   - capacity: at least this many work requests are held from now on; refused if more are posted.
    ///   - limit: arms the limit event, which fires once, when a take leaves fewer; 0 disarms.
    public mutating func modifySharedReceiveQueue(
        _ queue: ReceiveQueue, capacity: Int? = nil, limit: Int? = nil
    ) throws(EngineError) {
        try check(queue)
        if let capacity, !(1...configuration.workRequestCountMax).contains(capacity) {
            throw .invalidArgument("shared receive queue capacity")
        }
        let newLimit = unsafe limit ?? Int(queue.header.pointee.limit)
        guard newLimit >= 0, newLimit <= capacity.map(RingCapacity.rounded) ?? queue.capacity else {
            throw .invalidArgument("shared receive queue limit: more than the queue holds")
        }
        if let capacity, !queue.resize(capacity: capacity) {
            throw .invalidArgument("shared receive queue capacity: more work requests are posted")
        }
        unsafe queue.header.pointee.limit = UInt32(newLimit)
    }

    /// The limit that is armed; 0 if it fired or none was set.
    public func sharedReceiveQueueLimit(_ queue: ReceiveQueue) throws(EngineError) -> Int {
        try check(queue)
        return unsafe Int(queue.header.pointee.limit)
    }

    /// Destroys a shared receive queue; busy while a queue pair uses it. One of XRC goes all the same, and what still comes
    /// for it is refused.
    public mutating func destroySharedReceiveQueue(_ queue: ReceiveQueue) throws(EngineError) {
        let index = try check(queue)
        guard unsafe queue.header.pointee.userCount == 0 else {
            throw .busy("a queue pair uses the shared receive queue")
        }
        core.removeLimitReached(queue)
        if let extended = core.extendedQueues.remove(queue) {
            unsafe extended.completionQueue.header.pointee.userCount -= 1
            leave(queue)
        }
        sharedReceiveQueues[index] = nil
        queue.deallocate()
    }

    /// The targets of XRC that have taken a queue up know it no more.
    private func leave(_ queue: ReceiveQueue) {
        for place in 0..<QueuePairTable.placeCount {
            guard let queuePair = unsafe queuePairs.at(place), unsafe queuePair.pointee.receiveQueue.isSame(as: queue)
            else { continue }
            unsafe queuePair.pointee.leaveQueue(vacant)
        }
    }

    @discardableResult
    func check(_ queue: ReceiveQueue) throws(EngineError) -> Int {
        guard let index = sharedReceiveQueues.firstIndex(where: { $0?.isSame(as: queue) ?? false }) else {
            throw .unknownObject
        }
        return index
    }
}

extension CompletionQueue {
    func isSame(as other: CompletionQueue) -> Bool { unsafe header == other.header }
}

extension ReceiveQueue {
    func isSame(as other: ReceiveQueue) -> Bool { unsafe header == other.header }
}

extension EngineCore {
    mutating func removeDirty(_ queue: CompletionQueue) {
        var kept: CompletionQueue?
        while let first = dirty {
            dirty = unsafe first.header.pointee.nextDirty
            if first.isSame(as: queue) { continue }
            unsafe first.header.pointee.nextDirty = kept
            kept = first
        }
        dirty = kept
    }

    mutating func removeLimitReached(_ queue: ReceiveQueue) {
        var kept: ReceiveQueue?
        while let first = limitReached {
            limitReached = unsafe first.header.pointee.nextLimitReached
            if first.isSame(as: queue) { continue }
            unsafe first.header.pointee.nextLimitReached = kept
            kept = first
        }
        limitReached = kept
    }
}
