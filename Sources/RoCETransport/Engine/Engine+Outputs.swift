// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Outputs: frames, completions, events, the next deadline.
extension Engine {
    /// When ``advance(to:)`` has something to do; `nil` for never. May be earlier than needed, never later.
    ///
    /// Mutating, though it changes nothing: the compiler would copy the engine to borrow it, in every round.
    public var nextDeadline: Timestamp? {
        mutating get {
            guard let held = core.hosts.deadline else { return timers.earliest }
            return min(held, timers.earliest ?? held)
        }
    }

    /// Writes frames until no queue pair has any, or the queue is full. Queue pairs take turns of
    /// `EngineConfiguration.quantumBytes`.
    ///
    /// - Returns: whether there is more to send as soon as the queue has room.
    public mutating func transmit(into queue: inout TransmitQueue, now: Timestamp) -> Bool {
        core.now = now
        if lingering.hasAnswers, !transmitForDestroyed(into: &queue) { return true }
        if management.waiting.count > 0, !transmitManagement(into: &queue) { return true }
        while let queuePair = unsafe core.hosts.next(now: now) ?? workFirst {
            unsafe queuePair.pointee.wantsTransmit = false
            switch unsafe queuePair.pointee.transmit(&core, &queue) {
            case .queueFull:
                unsafe queuePair.pointee.wantsTransmit = true
                unsafe settle(queuePair)
                return true
            case .turnOver:
                unsafe queuePair.pointee.wantsTransmit = true
            case .heldBack:
                unsafe core.hosts.wait(queuePair)
            case .frames:
                unsafe appendPacketSender(queuePair)
            case .idle: break
            }
            // One that had waited need not be in the list.
            if unsafe queuePair == workFirst { unsafe removeFirstWork(queuePair) }
            unsafe settle(queuePair)
        }
        return false
    }

    @inline(__always)
    private mutating func removeFirstWork(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        unsafe workFirst = unsafe queuePair.pointee.nextInWorkList
        if unsafe workFirst == nil { unsafe workLast = nil }
        unsafe queuePair.pointee.isInWorkList = false
    }

    /// Shows the completions since the last call to their pollers.
    public mutating func publishCompletions() {
        while let queue = core.dirty {
            core.dirty = unsafe queue.header.pointee.nextDirty
            unsafe queue.header.pointee.isDirty = false
            if queue.publish() { mark(queue, CompletionEventBits.completion) }
            if unsafe queue.header.pointee.hasOverflowed {
                unsafe queue.header.pointee.hasOverflowed = false
                mark(queue, CompletionEventBits.overflow)
                stopQueuePairs(of: queue)
            }
        }
    }

    private mutating func mark(_ queue: CompletionQueue, _ bit: UInt8) {
        if unsafe queue.header.pointee.events == 0 {
            unsafe queue.header.pointee.nextWithEvents = completionEvents
            completionEvents = queue
        }
        unsafe queue.header.pointee.events |= bit
    }

    /// Completions were lost, so the queue pairs that use the queue cannot go on.
    private mutating func stopQueuePairs(of queue: CompletionQueue) {
        for place in 0..<QueuePairTable.placeCount {
            guard let queuePair = unsafe queuePairs.at(place) else { continue }
            guard unsafe queuePair.pointee.uses(queue), unsafe queuePair.pointee.state != .error,
                unsafe queuePair.pointee.state != .reset
            else { continue }
            unsafe queuePair.pointee.enterError(&core)
            unsafe queuePair.pointee.raise(.fatal)
            unsafe settle(queuePair)
        }
    }

    /// The next asynchronous event, or `nil`. Events are never lost: each is a mark on its object.
    public mutating func nextEvent() -> Event? {
        if let queue = completionEvents {
            let tag = unsafe queue.header.pointee.tag
            let isCompletion = unsafe queue.header.pointee.events & CompletionEventBits.completion != 0
            unsafe queue.header.pointee.events &= ~(isCompletion ? CompletionEventBits.completion : .max)
            if unsafe queue.header.pointee.events == 0 {
                completionEvents = unsafe queue.header.pointee.nextWithEvents
            }
            return isCompletion ? .completion(tag: tag) : .completionQueueError(tag: tag)
        }
        while let queuePair = unsafe queuePairEvents {
            let bits = unsafe queuePair.pointee.events
            if bits != 0 {
                let number = UInt8(bits.trailingZeroBitCount)
                unsafe queuePair.pointee.events = bits & (bits &- 1)
                guard let event = QueuePairEvent(rawValue: number) else { continue }
                return unsafe .queuePair(event, tag: queuePair.pointee.tag)
            }
            unsafe queuePairEvents = unsafe queuePair.pointee.nextInEventList
            unsafe queuePair.pointee.isInEventList = false
        }
        if let queue = core.limitReached {
            core.limitReached = unsafe queue.header.pointee.nextLimitReached
            unsafe queue.header.pointee.limitReached = false
            return unsafe .sharedReceiveQueueLimit(tag: queue.header.pointee.tag)
        }
        return nil
    }
}

/// The event marks of a completion queue.
private enum CompletionEventBits {
    static var completion: UInt8 { 1 }
    static var overflow: UInt8 { 2 }
}

extension QueuePair {
    /// Whether completions of this queue pair go to a queue.
    fileprivate func uses(_ queue: CompletionQueue) -> Bool {
        sendCompletionQueue.isSame(as: queue) || receiveCompletionQueue.isSame(as: queue)
    }

    /// Whether there is something to send to a process of this host that has enough in flight already.
    @inline(__always)
    private func isHeldBack(_ core: borrowing EngineCore) -> Bool {
        guard hostSlot != 0, !core.hosts.hasRoom(hostSlot, now: core.now) else { return false }
        return requester.next != requester.started || sendQueue.posted != requester.started
    }

    /// One turn: answers first, then requests, together up to the quantum.
    @inline(__always)
    mutating func transmit(_ core: inout EngineCore, _ queue: inout TransmitQueue) -> TurnOutcome {
        var budget = core.configuration.quantumBytes
        if !type.isConnected {
            return type == .rawPacket ? .frames : transmitDatagrams(&core, &queue, budget: &budget)
        }
        guard transmitCongestionNotification(&core, &queue) else { return .queueFull }
        if acknowledgesWithRequest {
            // The shorter acknowledgement ends the burst of the request that it waited for.
            acknowledgesWithRequest = false
            let outcome = isHeldBack(core) ? .heldBack : transmitRequests(&core, &queue, budget: &budget)
            let answers = transmitAnswers(&core, &queue, budget: &budget)
            if case .idle = answers { return outcome }
            return answers
        }
        if type.isReliable {
            let outcome = transmitAnswers(&core, &queue, budget: &budget)
            guard case .idle = outcome else { return outcome }
        }
        if isHeldBack(core) { return .heldBack }
        return transmitRequests(&core, &queue, budget: &budget)
    }
}
