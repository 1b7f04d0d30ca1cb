// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// The completer of RC: what the peer answers. Every path either ignores a response, or moves `unackedPSN` forward, or
// goes back to it, or ends the queue pair; the PSN must lie in what is in flight, so a forger has to guess it.
extension QueuePair {
    /// A response packet for this queue pair, its source and ICRC checked.
    mutating func receiveResponse(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) {
        guard state == .readyToSend || state == .sendQueueDrained else {
            core.counters.droppedState &+= 1
            return
        }
        let psn = packet.bth.psn
        guard psn - requester.unackedPSN >= 0, psn - requester.endPSN < 0 else {
            core.counters.droppedSequence &+= 1
            return
        }
        switch packet.descriptor.operation {
        case .acknowledge: receiveAcknowledge(packet, &core)
        case .readResponse, .atomicAcknowledge:
            placeResponse(packet, bytes, &core)
            if requester.early.first >= 0 { placeEarlyResponses(&core) }
        default: core.counters.droppedSequence &+= 1
        }
    }

    /// A response with data: places it if it is due.
    mutating func placeResponse(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) {
        if packet.descriptor.operation == .readResponse {
            receiveReadResponse(packet, bytes, &core)
        } else {
            receiveAtomicAcknowledge(packet, bytes, &core)
        }
    }

    private mutating func receiveAcknowledge(_ packet: RoCEPacket, _ core: inout EngineCore) {
        let psn = packet.bth.psn
        switch packet.aeth.syndrome.meaning {
        case .acknowledged:
            // Beyond a READ or atomic that is not answered, it says that the answer was lost.
            if !acknowledge(before: psn + 1, &core) { retryAfterLostResponse(&core) }
        case .receiverNotReady(let timer):
            core.counters.receiverNotReadyReceived &+= 1
            guard acknowledge(before: psn, &core) else { return retryAfterLostResponse(&core) }
            waitForReceiver(timer, &core)
        case .refused(.sequenceError):
            core.counters.sequenceErrorsReceived &+= 1
            if acknowledge(before: psn, &core) {
                retryAfterLoss(of: isSelective ? Int(packet.aeth.msn.rawValue) : 0, &core)
            } else {
                retryAfterLossOfBoth(&core)
            }
        case .refused(let code):
            core.counters.refusalsReceived &+= 1
            guard acknowledge(before: psn, &core) else { return retryAfterLostResponse(&core) }
            guard requester.oldest != requester.started else { return }
            failOldestSend(code.completionStatus, &core)
        case .reserved:
            core.counters.droppedMalformed &+= 1
        }
    }

    private mutating func receiveReadResponse(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) {
        guard let read = expectResponse(packet, bytes, &core) else { return }
        let index = requester.oldest
        guard read.kind != .atomic else { return failOldestSend(.badResponseError, &core) }
        let progress = requester[progress: index]
        let psn = packet.bth.psn
        let isLast = read.endPSN - psn == 1
        if read.kind == .read {
            let offset = UInt32(psn - progress.firstPSN) << UInt32(pathMTUShift)
            let end = min(
                UInt64(progress.byteLength), UInt64(read.endPSN - progress.firstPSN) << UInt64(pathMTUShift))
            // FIRST, MIDDLE, LAST and ONLY are not compared: rxe answers a repeated READ with MIDDLE at first, and a
            // response to the original may serve the repetition. The length tells what the bytes are.
            guard packet.payloadByteCount == min(Int(pathMTU), Int(end - UInt64(offset))) else {
                return failOldestSend(.badResponseError, &core)
            }
            guard place(packet.payload(of: bytes), at: UInt64(offset), of: index, &core) else {
                return failOldestSend(.localProtectionError, &core)
            }
        } else if packet.payloadByteCount != 0 {
            return failOldestSend(.badResponseError, &core)
        }
        advance(to: psn + 1, completesRead: isLast, &core)
    }

    private mutating func receiveAtomicAcknowledge(
        _ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore
    ) {
        guard let read = expectResponse(packet, bytes, &core) else { return }
        guard read.kind == .atomic else { return failOldestSend(.badResponseError, &core) }
        var value = packet.atomicAckETH.originalValue
        // The value's own bytes, in host order, as the application reads them.
        let isPlaced = unsafe withUnsafeBytes(of: &value) { bytes in
            unsafe place(RawSpan(_unsafeBytes: bytes), at: 0, of: requester.oldest, &core)
        }
        guard isPlaced else { return failOldestSend(.localProtectionError, &core) }
        advance(to: packet.bth.psn + 1, completesRead: true, &core)
    }

    /// The READ or atomic that a response answers, if it is the next that is due. What is before it is acknowledged by
    /// that. A later one says that this one was lost; an earlier one is late.
    private mutating func expectResponse(
        _ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore
    ) -> ReadProgress? {
        guard case .acknowledged = packet.aethMeaning, let read = requester.oldestRead else {
            core.counters.droppedSequence &+= 1
            return nil
        }
        let expected = requester.expectedPSN(of: read)
        let distance = packet.bth.psn - expected
        if distance < 0 {
            core.counters.droppedSequence &+= 1
            return nil
        }
        _ = acknowledge(before: expected, &core)
        // Completing what was before may have ended the queue pair.
        guard state == .readyToSend || state == .sendQueueDrained else { return nil }
        if distance > 0 {
            receiveEarlyResponse(packet, bytes, &core)
            return nil
        }
        return read
    }

    mutating func retryAfterLostResponse(_ core: inout EngineCore) {
        core.counters.responsesLost &+= 1
        retryAfterLoss(of: missingResponseCount(core), &core)
    }

    /// A response was lost, and the peer misses a request behind it, of which it will not tell again: nothing may be left
    /// out of the repetition.
    private mutating func retryAfterLossOfBoth(_ core: inout EngineCore) {
        core.counters.responsesLost &+= 1
        guard requester.hasAnsweredLoss, requester.isSelective else { return retryAfterLoss(of: 0, &core) }
        requester.goBack()
        startTimer(core.now)
        wantsTransmit = true
    }

    /// Copies a response's data to the memory of a work request.
    private mutating func place(
        _ data: RawSpan, at offset: UInt64, of index: UInt32, _ core: inout EngineCore
    ) -> Bool {
        let list = list(of: sendQueue.request(at: index), at: index)
        return unsafe data.withUnsafeBytes { unsafe list.scatter($0, to: offset, memory: core.memory) }
    }

    // MARK: Progress

    /// Everything before `psn` was received. Stops at a READ or atomic that is not answered, and returns `false` if that
    /// is before `psn`.
    private mutating func acknowledge(before psn: PSN, _ core: inout EngineCore) -> Bool {
        var target = psn
        var isWhole = true
        if let read = requester.oldestRead {
            let expected = requester.expectedPSN(of: read)
            if target - expected > 0 {
                target = expected
                isWhole = false
            }
        }
        if target - requester.unackedPSN > 0 { advance(to: target, completesRead: false, &core) }
        return isWhole
    }

    private mutating func advance(to psn: PSN, completesRead: Bool, _ core: inout EngineCore) {
        let packets = psn - requester.unackedPSN
        requester.unackedPSN = psn
        if completesRead {
            requester.readHead &+= 1
            if Int32(bitPattern: requester.readCursor &- requester.readHead) < 0 {
                requester.readCursor = requester.readHead
            }
        }
        requester.window.noteAcknowledged(
            packets, unackedPSN: psn, endPSN: requester.endPSN, inFlight: max(requester.inFlight, 0), now: core.now)
        requester.retriesLeft = attributes.retryCount
        requester.rnrRetriesLeft = attributes.rnrRetry
        requester.timeoutsInRow = 0
        requester.hasAnsweredLoss = false
        if requester.isWaitingForReceiver {
            // The wait is for the packet that is now the oldest, or one before it; the next RNR NAK tells.
            requester.isWaitingForReceiver = false
        }
        // Going back was premature: this is the answer to what was sent before.
        if requester.nextPSN - psn < 0 { requester.nextPSN = psn }
        startTimer(core.now)
        retireSends(&core)
        wantsTransmit = true
    }
}

extension RoCEPacket {
    /// What the AETH says; a READ response in the middle has none and says nothing bad.
    fileprivate var aethMeaning: Syndrome.Meaning {
        descriptor.headers.contains(.aeth) ? aeth.syndrome.meaning : .acknowledged(creditCode: 0x1F)
    }
}

extension Syndrome.NAKCode {
    /// The status of a request that is refused with this code.
    var completionStatus: CompletionStatus {
        switch self {
        case .invalidRequest: .remoteInvalidRequestError
        case .remoteAccessError: .remoteAccessError
        default: .remoteOperationError
        }
    }
}
