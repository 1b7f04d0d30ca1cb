// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Modify and query. Which attributes a transition needs and allows is checked above the engine; ranges are checked here,
// before anything is changed.
extension QueuePair {
    mutating func modify(
        _ new: QueuePairAttributes, mask: QueuePairAttributeMask, _ core: inout EngineCore
    ) throws(EngineError) {
        try check(new, mask: mask, core)
        if mask.contains(.accessFlags) { attributes.accessFlags = new.accessFlags }
        if mask.contains(.pkeyIndex) { attributes.pkeyIndex = new.pkeyIndex }
        if mask.contains(.port) { attributes.port = new.port }
        if mask.contains(.qkey) { attributes.qkey = new.qkey }
        if mask.contains(.addressVector) { setPath(new.addressVector, core) }
        if mask.contains(.pathMTU), let mtu = PathMTU(rawValue: new.pathMTU) {
            attributes.pathMTU = new.pathMTU
            pathMTU = Int32(mtu.byteCount)
            pathMTUShift = 7 + mtu.rawValue
        }
        if mask.contains(.destinationQPN) {
            attributes.destinationQPN = new.destinationQPN
            remoteQPN = QPN(truncating: new.destinationQPN)
        }
        if mask.contains(.receivePSN) {
            attributes.receivePSN = new.receivePSN & 0xFF_FFFF
            responder.expectedPSN = PSN(truncating: new.receivePSN)
        }
        if mask.contains(.destinationReadAtomicMax) {
            attributes.destinationReadAtomicMax = new.destinationReadAtomicMax
            shrinkSaved(to: new.destinationReadAtomicMax)
        }
        if mask.contains(.rnrTimerMin) { attributes.rnrTimerMin = new.rnrTimerMin }
        if mask.contains(.timeout) {
            attributes.timeout = new.timeout
            timeoutNanoseconds = new.timeout == 0 ? 0 : 4096 << UInt64(new.timeout)
        }
        if mask.contains(.retryCount) {
            attributes.retryCount = new.retryCount
            requester.retriesLeft = new.retryCount
        }
        if mask.contains(.rnrRetry) {
            attributes.rnrRetry = new.rnrRetry
            requester.rnrRetriesLeft = new.rnrRetry
        }
        if mask.contains(.readAtomicMax) { attributes.readAtomicMax = new.readAtomicMax }
        if mask.contains(.sendPSN) {
            attributes.sendPSN = new.sendPSN & 0xFF_FFFF
            let psn = PSN(truncating: new.sendPSN)
            requester.unackedPSN = psn
            requester.nextPSN = psn
            requester.endPSN = psn
        }
        // The wish comes with the change to SQD, and ends with the next state; what else is changed meanwhile leaves it.
        if mask.contains(.state), new.state != state {
            attributes.sendQueueDrainedNotify = mask.contains(.sendQueueDrainedNotify) && new.sendQueueDrainedNotify
        }
        if mask.contains(.state) { enter(new.state, &core) }
    }

    private func check(
        _ new: QueuePairAttributes, mask: QueuePairAttributeMask, _ core: borrowing EngineCore
    ) throws(EngineError) {
        if mask.contains(.addressVector), core.address(new.addressVector.localIndex) == nil {
            throw .invalidArgument("source GID index")
        }
        if mask.contains(.pathMTU), PathMTU(rawValue: new.pathMTU) == nil { throw .invalidArgument("path MTU") }
        if mask.contains(.rnrTimerMin), new.rnrTimerMin > 31 { throw .invalidArgument("minimal RNR timer") }
        if mask.contains(.timeout), new.timeout > 31 { throw .invalidArgument("timeout") }
        if mask.contains(.retryCount), new.retryCount > 7 { throw .invalidArgument("retry count") }
        if mask.contains(.rnrRetry), new.rnrRetry > 7 { throw .invalidArgument("RNR retry count") }
        let readMax = core.configuration.readAtomicMax
        if mask.contains(.readAtomicMax), Int(new.readAtomicMax) > readMax {
            throw .invalidArgument("max_rd_atomic")
        }
        if mask.contains(.destinationReadAtomicMax), Int(new.destinationReadAtomicMax) > readMax {
            throw .invalidArgument("max_dest_rd_atomic")
        }
    }

    private mutating func setPath(_ address: AddressVector, _ core: borrowing EngineCore) {
        attributes.addressVector = address
        guard let local = core.address(address.localIndex) else { return }
        path = TransmitPath(
            source: local.gid, destination: address.destination, sourcePort: local.sourcePort,
            localIndex: address.localIndex, trafficClass: address.trafficClass, hopLimit: address.hopLimit)
        // ECT(0), where we obey the marks that it allows. A switch marks at the place where it would drop others.
        if type.isReliable, core.configuration.congestionControl, !core.isOurs(address.destination),
            address.trafficClass & 3 == 0
        {
            path.trafficClass |= 2
        }
    }

    private mutating func shrinkSaved(to limit: UInt8) {
        while responder.savedTail &- responder.savedHead > limit {
            if responder[saved: responder.savedHead].isPending { responder.pendingCount -= 1 }
            responder.savedHead &+= 1
        }
    }

    private mutating func enter(_ new: QueuePairState, _ core: inout EngineCore) {
        let old = state
        switch new {
        case .reset:
            forgetEarly(&core)
            forgetEarlyResponses(&core)
            reset()
        case .error:
            // Told by the application, so there is nobody to answer.
            responder.isDraining = false
            enterError(&core)
        case .readyToSend:
            state = .readyToSend
            if old == .readyToReceive {
                let isSameHost = core.isOurs(path.destination)
                requester.window.open(core.configuration, mtuShift: pathMTUShift, isSameHost: isSameHost)
                // Nothing is in flight yet, so the slot may change.
                hostSlot = isSameHost && type.isReliable ? remoteQPN.slot : 0
            }
            wantsTransmit = true
        case .sendQueueDrained:
            state = .sendQueueDrained
            noteDrained()
        case .initialized, .readyToReceive, .sendQueueError:
            state = new
        }
    }

    /// RESET: queues are emptied without completions, and nothing is remembered.
    private mutating func reset() {
        state = .reset
        attributes = QueuePairAttributes()
        requester.oldest = sendQueue.posted
        forgetSends()
        requester.retriesLeft = 0
        requester.timeoutsInRow = 0
        if !isReceiveQueueShared {
            receiveQueue.setAwaited(false)
            receiveQueue.removeAll()
        }
        responder.hasReceive = false
        responder.message = .none
        responder.isSilent = false
        responder.msn = MSN(truncating: 0)
        responder.forgetResponses()
        hasReportedCommunication = false
        isCommunicationWatched = false
        isSelective = false
        wantsTransmit = false
        events = 0
    }

    /// The attributes as they are now; PSNs are those of the next packet.
    var currentAttributes: QueuePairAttributes {
        var current = attributes
        current.state = state
        current.sendPSN = requester.nextPSN.rawValue
        current.receivePSN = responder.expectedPSN.rawValue
        return current
    }
}
