// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Raw packets: whole frames, to and from a link, without headers or answers of ours.
extension QueuePair {
    // MARK: Sending

    /// Describes the next frames. A request that cannot be sent fails here when it is the first.
    mutating func gather(into batch: inout FrameBatch, _ core: inout EngineCore) {
        batch.qpn = qpn
        batch.count = 0
        var index = requester.started
        let posted = sendQueue.posted
        while state == .readyToSend, index != posted, batch.count < FrameBatch.frameCountMax {
            let status = describe(sendQueue.request(at: index), at: index, in: &batch, core)
            if status != .success {
                // Those before it are sent first, so that completions keep their order.
                if batch.count > 0 { return }
                failNextFrame(status, &core)
                return
            }
            batch.count += 1
            index &+= 1
        }
    }

    private func describe(
        _ request: SendWorkRequest, at index: UInt32, in batch: inout FrameBatch, _ core: borrowing EngineCore
    ) -> CompletionStatus {
        guard request.operation == .send, Int(request.scatterGatherCount) <= sendQueue.scatterGatherMax else {
            return .localQueuePairOperationError
        }
        let frame = batch.count
        let pieces = unsafe batch.pieces + frame * batch.pieceCountMax
        if request.flags.contains(.inline) {
            guard Int(request.inlineLength) <= sendQueue.inlineMax else { return .localQueuePairOperationError }
            unsafe pieces[0] = FramePiece(
                base: sendQueue.inlineData(of: sendQueue.slot(at: index)), byteCount: Int(request.inlineLength))
            unsafe batch.counts[frame] = 1
            return .success
        }
        let list = list(of: request, at: index)
        guard list.count <= batch.pieceCountMax else { return .localQueuePairOperationError }
        var count = 0
        for place in 0..<list.count {
            let entry = unsafe list.entries[place]
            if entry.length == 0 { continue }
            guard
                let memory = unsafe core.memory.local(
                    entry.lkey, address: entry.address, byteCount: entry.length, protectionDomain: protectionDomain,
                    access: [])
            else { return .localProtectionError }
            unsafe pieces[count] = FramePiece(base: memory, byteCount: Int(entry.length))
            count += 1
        }
        unsafe batch.counts[frame] = count
        return .success
    }

    /// The first `count` frames that ``gather(into:_:)`` described have left.
    mutating func completeFrames(_ count: Int, in batch: borrowing FrameBatch, _ core: inout EngineCore) {
        for index in 0..<count {
            // In ERR they were flushed meanwhile.
            guard requester.started != sendQueue.posted else { return }
            start(byteCount: batch.byteCount(of: index))
        }
        retireSends(&core)
    }

    /// The next frame cannot be sent: it completes with an error, and what is behind it is flushed.
    mutating func failNextFrame(_ status: CompletionStatus, _ core: inout EngineCore) {
        guard requester.started != sendQueue.posted else { return }
        let index = requester.started
        start(byteCount: 0)
        noteSendFailure(at: index, status, &core)
    }

    private mutating func start(byteCount: Int) {
        let request = sendQueue.request(at: requester.started)
        var progress = SendProgress(
            firstPSN: requester.nextPSN, packetCount: 0, byteLength: 0, operation: request.operation,
            flags: request.flags)
        progress.byteLength = UInt32(truncatingIfNeeded: byteCount)
        requester[progress: requester.started] = progress
        requester.started &+= 1
        requester.next = requester.started
    }

    // MARK: Receiving

    /// Puts a frame into the next receive.
    mutating func receiveFrame(
        _ frame: UnsafeRawBufferPointer, _ facts: FrameFacts, _ core: inout EngineCore
    ) -> FrameDelivery {
        switch state {
        case .readyToReceive, .readyToSend, .sendQueueDrained, .sendQueueError: break
        case .reset, .initialized, .error:
            core.counters.droppedState &+= 1
            return .notReady
        }
        guard takeReceive(&core) else {
            core.counters.droppedNoReceive &+= 1
            return .noReceive
        }
        guard responder.receiveCapacity >= UInt64(frame.count) else {
            // The next frame may fit the next receive: nothing is wrong with the queue pair.
            failReceive(.localLengthError, &core)
            return .tooLong
        }
        guard unsafe receiveList.scatter(frame, to: 0, memory: core.memory) else {
            failReceive(.localProtectionError, &core)
            raise(.fatal)
            enterError(&core)
            return .inaccessible
        }
        responder.hasReceive = false
        var entry = CompletionEntry(
            id: responder.receiveID, status: .success, operation: .receive, qpn: qpn.rawValue)
        entry.byteLength = UInt32(truncatingIfNeeded: frame.count)
        entry.frame = facts
        core.complete(receiveCompletionQueue, entry)
        return .delivered
    }
}
