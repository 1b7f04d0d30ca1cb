// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// What the responder of RC and XRC sends. READ and atomic responses go out in the order of their PSNs, then a NAK, or one
// acknowledgement for everything that came in since the last.
extension QueuePair {
    /// Sends what is due, up to `budget` bytes.
    mutating func transmitAnswers(
        _ core: inout EngineCore, _ queue: inout TransmitQueue, budget: inout Int
    ) -> TurnOutcome {
        while responder.pendingCount > 0 {
            if let outcome = transmitOldestResponse(&core, &queue, budget: &budget) { return outcome }
        }
        if let refusal = responder.refusal {
            let msn = refusal == .refused(.sequenceError) ? missingCount(core) : responder.msn
            guard sendAcknowledge(refusal, psn: responder.refusalPSN, msn: msn, &core, &queue) else {
                return .queueFull
            }
            responder.refusal = nil
            responder.isAcknowledgementDue = false
            if responder.isDraining { responder.forgetResponses() }
        } else if responder.isAcknowledgementDue, core.habit.held != qpn {
            let (psn, msn) = acknowledged
            guard sendAcknowledge(.acknowledged, psn: psn, msn: msn, &core, &queue) else { return .queueFull }
            responder.isAcknowledgementDue = false
        }
        return .idle
    }

    /// A packet of the connection with data was marked on its way. Its sender is told; how much of a READ is under way,
    /// we say ourselves.
    mutating func noteCongestion(isResponse: Bool, _ core: inout EngineCore) {
        core.counters.congestionMarks &+= 1
        if isResponse { requester.window.noteMark(endPSN: requester.endPSN, now: core.now) }
        guard core.now >= responder.congestionPauseEnd, state != .error else { return }
        responder.congestionPauseEnd = core.now &+ 50_000
        responder.isCongestionDue = true
        wantsTransmit = true
    }

    /// Tells the sender of marked packets, if that is due. `false` if the queue is full.
    mutating func transmitCongestionNotification(_ core: inout EngineCore, _ queue: inout TransmitQueue) -> Bool {
        guard responder.isCongestionDue else { return true }
        var bth = BTH(opcode: .congestionNotification, destination: remoteQPN, psn: PSN(truncating: 0))
        bth.becn = true
        guard send(RoCEPacket(bth: bth, payloadByteCount: 16), .zeroes, &core, &queue) else { return false }
        core.counters.congestionNotificationsSent &+= 1
        responder.isCongestionDue = false
        return true
    }

    private mutating func sendAcknowledge(
        _ syndrome: Syndrome, psn: PSN, msn: MSN, _ core: inout EngineCore, _ queue: inout TransmitQueue
    ) -> Bool {
        var packet = RoCEPacket(
            bth: BTH(opcode: opcode(.rcAcknowledge), destination: remoteQPN, psn: psn), payloadByteCount: 0)
        packet.aeth = AETH(syndrome: syndrome, msn: msn)
        return send(packet, .none, &core, &queue)
    }

    private mutating func send(
        _ packet: RoCEPacket, _ payload: PayloadSource, _ core: inout EngineCore, _ queue: inout TransmitQueue
    ) -> Bool {
        guard case .written = queue.write(packet, payload: payload, path: path, memory: &core.memory) else {
            return false
        }
        core.counters.packetsSent &+= 1
        return true
    }

    /// Sends the response that is first in the order of PSNs, or as much of it as the budget allows. `nil` when it is
    /// complete.
    private mutating func transmitOldestResponse(
        _ core: inout EngineCore, _ queue: inout TransmitQueue, budget: inout Int
    ) -> TurnOutcome? {
        var index = responder.savedHead
        while !responder[saved: index].isPending { index &+= 1 }
        var saved = responder[saved: index]
        switch saved.kind {
        case .read:
            let outcome = streamRead(&saved, &core, &queue, budget: &budget)
            responder[saved: index] = saved
            if let outcome { return outcome }
        case .atomic:
            var packet = RoCEPacket(
                bth: BTH(opcode: opcode(.rcAtomicAcknowledge), destination: remoteQPN, psn: saved.firstPSN),
                payloadByteCount: 0)
            packet.aeth = AETH(syndrome: .acknowledged, msn: saved.msn)
            packet.atomicAckETH = AtomicAckETH(originalValue: saved.original)
            guard send(packet, .none, &core, &queue) else { return .queueFull }
        case .empty:
            var packet = RoCEPacket(
                bth: BTH(opcode: opcode(.rcReadResponseOnly), destination: remoteQPN, psn: saved.firstPSN),
                payloadByteCount: 0)
            packet.aeth = AETH(syndrome: .acknowledged, msn: saved.msn)
            guard send(packet, .none, &core, &queue) else { return .queueFull }
        }
        // A region that went away has cleared the list.
        guard responder.pendingCount > 0 else { return nil }
        responder[saved: index].isPending = false
        responder.pendingCount -= 1
        return nil
    }

    /// Sends packets of a READ response from `nextPSN` on. `nil` when it is sent to its end.
    private mutating func streamRead(
        _ saved: inout SavedResponse, _ core: inout EngineCore, _ queue: inout TransmitQueue, budget: inout Int
    ) -> TurnOutcome? {
        let count = Int(packetCount(saved.answerLength))
        var position = saved.nextPSN - saved.answerPSN
        while position < count {
            if budget <= 0 { return .turnOver }
            let offset = UInt32(position) << UInt32(pathMTUShift)
            let byteCount = min(UInt32(pathMTU), saved.answerLength &- offset)
            var source = PayloadSource.none
            if byteCount > 0 {
                // Again for each packet: the region may have gone since the request.
                let memory = unsafe core.memory.remote(
                    saved.rkey, address: saved.answerAddress &+ UInt64(offset), byteCount: byteCount,
                    protectionDomain: saved.protectionDomain, queuePair: serial, access: .remoteRead)
                guard let memory = unsafe memory else {
                    refuseRead(at: saved.nextPSN, &core)
                    return nil
                }
                source = unsafe .memory(memory)
            }
            var packet = RoCEPacket(
                bth: BTH(
                    opcode: opcode(Self.readResponse(isFirst: position == 0, isLast: position == count - 1)),
                    destination: remoteQPN, psn: saved.nextPSN),
                payloadByteCount: Int(byteCount))
            if packet.descriptor.headers.contains(.aeth) {
                packet.aeth = AETH(syndrome: .acknowledged, msn: saved.msn)
            }
            guard send(packet, source, &core, &queue) else { return .queueFull }
            budget -= packet.byteCount
            saved.nextPSN += 1
            position += 1
        }
        return nil
    }

    private static func readResponse(isFirst: Bool, isLast: Bool) -> Opcode {
        switch (isFirst, isLast) {
        case (true, true): .rcReadResponseOnly
        case (true, false): .rcReadResponseFirst
        case (false, false): .rcReadResponseMiddle
        case (false, true): .rcReadResponseLast
        }
    }

    /// The memory of a READ went away while the response was on its way: the rest is refused.
    private mutating func refuseRead(at psn: PSN, _ core: inout EngineCore) {
        core.counters.refusalsSent &+= 1
        responder.pendingCount = 0
        responder.savedHead = responder.savedTail
        responder.refusal = .refused(.remoteAccessError)
        responder.refusalPSN = psn
        responder.isDraining = true
        if state == .error { return }
        raise(.accessError)
        enterError(&core)
    }
}
