// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Completions of both queues, failure and flush. Every work request makes one completion at most, in the order of its
// queue; only here are indices of the send queue retired.
extension QueuePair {
    // MARK: Sends

    /// Completes all send requests that are acknowledged, in order, and fails the first that has a failure.
    mutating func retireSends(_ core: inout EngineCore) {
        while requester.oldest != requester.started {
            let progress = requester[progress: requester.oldest]
            if progress.failure != 0 {
                failOldestSend(CompletionStatus(rawValue: UInt32(progress.failure)), &core)
                return
            }
            guard requester.unackedPSN - progress.endPSN >= 0 else { break }
            if signalsAll || progress.flags.contains(.signaled) {
                var entry = CompletionEntry(
                    id: sendQueue.id(at: requester.oldest), status: .success,
                    operation: progress.operation.completion, qpn: qpn.rawValue)
                entry.byteLength = progress.byteLength
                core.complete(sendCompletionQueue, entry)
            }
            requester.oldest &+= 1
        }
        if Int32(bitPattern: requester.next &- requester.oldest) < 0 { requester.next = requester.oldest }
        sendQueue.release(before: requester.oldest)
        if state == .sendQueueDrained { noteDrained() }
    }

    /// Makes the event of a drained send queue when nothing is in flight any more, once.
    mutating func noteDrained() {
        guard attributes.sendQueueDrainedNotify, requester.oldest == requester.started else { return }
        attributes.sendQueueDrainedNotify = false
        raise(.sendQueueDrained)
    }

    /// Completes the oldest send request with an error, and stops: RC in ERR, the unreliable services in SQE.
    mutating func failOldestSend(_ status: CompletionStatus, _ core: inout EngineCore) {
        let operation = requester[progress: requester.oldest].operation.completion
        core.complete(
            sendCompletionQueue,
            CompletionEntry(
                id: sendQueue.id(at: requester.oldest), status: status, operation: operation, qpn: qpn.rawValue))
        requester.oldest &+= 1
        if type.isReliable {
            enterError(&core)
        } else {
            state = .sendQueueError
            flushSends(&core)
        }
    }

    /// Marks a request that failed on our side; it completes after all earlier ones.
    mutating func noteSendFailure(at index: UInt32, _ status: CompletionStatus, _ core: inout EngineCore) {
        requester[progress: index].failure = UInt8(truncatingIfNeeded: status.rawValue)
        retireSends(&core)
    }

    /// Completes all posted send requests as flushed.
    mutating func flushSends(_ core: inout EngineCore) {
        let posted = sendQueue.posted
        while requester.oldest != posted {
            let request = sendQueue.request(at: requester.oldest)
            core.complete(
                sendCompletionQueue,
                CompletionEntry(
                    id: request.id, status: .flushed, operation: request.operation.completion, qpn: qpn.rawValue))
            requester.oldest &+= 1
        }
        forgetSends()
    }

    /// Nothing is in flight any more.
    mutating func forgetSends() {
        requester.next = requester.oldest
        requester.started = requester.oldest
        requester.nextPSN = requester.endPSN
        requester.unackedPSN = requester.endPSN
        requester.readHead = 0
        requester.readCursor = 0
        requester.readTail = 0
        requester.isWaitingForReceiver = false
        requester.isPausing = false
        requester.isSkipping = false
        requester.timeoutAt = .max
        deadline = .max
        sendQueue.release(before: requester.oldest)
    }

    // MARK: Receives

    /// Takes a receive request for a message, unless one is at hand. `false` if none is posted.
    mutating func takeReceive(_ core: inout EngineCore) -> Bool {
        if responder.hasReceive { return true }
        guard let request = unsafe core.take(from: receiveQueue, into: responder.list) else { return false }
        responder.hasReceive = true
        responder.receiveID = request.id
        responder.receiveCount = Int(request.scatterGatherCount)
        responder.receiveCapacity = receiveList.byteCount
        return true
    }

    /// Where the receive request at hand wants the data.
    var receiveList: ScatterGatherList { responder.receiveList(protectionDomain: receiveProtectionDomain) }

    /// Completes the receive request at hand without success.
    mutating func failReceive(_ status: CompletionStatus, _ core: inout EngineCore) {
        guard responder.hasReceive else { return }
        responder.hasReceive = false
        core.complete(
            receiveCompletionQueue,
            CompletionEntry(id: responder.receiveID, status: status, operation: .receive, qpn: qpn.rawValue))
    }

    /// Completes all receive requests that are ours as flushed; those of a shared queue stay for others.
    mutating func flushReceives(_ core: inout EngineCore) {
        failReceive(.flushed, &core)
        if isReceiveQueueShared { return }
        if type == .rawPacket { receiveQueue.closeGaps() }
        receiveQueue.setAwaited(true)
        while takeReceive(&core) { failReceive(.flushed, &core) }
    }

    // MARK: Error

    /// Enters ERR: everything is flushed. Answers that are still to be sent are, if `responder.isDraining`.
    mutating func enterError(_ core: inout EngineCore) {
        let wasInError = state == .error
        state = .error
        if responder.isDraining {
            wantsTransmit = true
        } else {
            responder.forgetResponses()
        }
        responder.message = .none
        forgetEarly(&core)
        forgetEarlyResponses(&core)
        flushSends(&core)
        flushReceives(&core)
        if isReceiveQueueShared, !type.isExtended, !wasInError { raise(.lastReceiveReached) }
    }

    /// Flushes what was posted to a queue pair that does not work it off any more.
    mutating func flushPosted(_ core: inout EngineCore) {
        if state == .error || state == .sendQueueError { flushSends(&core) }
        if state == .error { flushReceives(&core) }
    }
}

extension SendOperation {
    /// The operation that the completion names.
    var completion: CompletionOperation {
        switch self {
        case .rdmaWrite, .rdmaWriteWithImmediate: .rdmaWrite
        case .rdmaRead: .rdmaRead
        case .compareAndSwap: .compareAndSwap
        case .fetchAndAdd: .fetchAndAdd
        case .localInvalidate: .localInvalidate
        case .bindWindow: .bindWindow
        case .atomicWrite: .atomicWrite
        case .flush: .flush
        default: .send
        }
    }
}
