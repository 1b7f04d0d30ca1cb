// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Requests behind a gap. RC on the wire is go-back-N: a responder says with one NAK what it misses first, and its peer
// sends everything from there again. What came meanwhile is kept all the same, up to a bound, and executed when the gap is
// filled: legal, invisible in the packets, and it saves the second loss.
//
// Of a peer that we do not know, only SEND and WRITE are kept, and no more is acknowledged than what came since the gap was
// filled. rxe as a sender is why: it has gone back, and an acknowledgement, or a response, beyond what it has sent since
// leaves it without a timer.
//
// A peer of our own (`isSelective`, see `Engine.repeatSelectively(_:)`) is told more: the NAK has the number of missing
// PSNs in the place of the message sequence number, or 0 for all. It sends just those again, and goes on where it was. Each
// gap has its own NAK, the next when the one before is filled.
extension QueuePair {
    /// A request behind the one that is expected.
    mutating func receiveEarly(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) {
        if keep(packet, bytes, &core) {
            core.counters.earlyRequests &+= 1
        } else {
            core.counters.droppedSequence &+= 1
        }
        // One NAK for a gap, then silence until it is filled. A NAK acknowledges what is before it.
        if !responder.isSilent, !responder.isAcknowledgementLimited { askAgain(&core) }
    }

    private mutating func askAgain(_ core: inout EngineCore) {
        answer(.refused(.sequenceError))
        responder.isSilent = true
        core.counters.sequenceErrorsSent &+= 1
    }

    private mutating func keep(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) -> Bool {
        // After an RNR NAK everything comes again.
        guard !responder.isReceiverMissing else { return false }
        guard isSelective || !packet.isAnsweredByResponse,
            responder.early.count < core.configuration.earlyPacketCountMax
        else {
            responder.early.hasDropped = true
            return false
        }
        return responder.early.insert(packet, bytes, &core.early)
    }

    /// The expected request was executed: executes those behind it that came before, as far as there is no gap.
    mutating func executeEarly(_ core: inout EngineCore) {
        let isAcknowledgementDue = responder.isAcknowledgementDue
        let isToldOf = responder.early.isToldOf
        responder.acknowledgementEnd = responder.expectedPSN
        responder.acknowledgementMSN = responder.msn
        executeEarlyRun(&core)
        responder.isAcknowledgementLimited =
            !isSelective && isToldOf && responder.expectedPSN != responder.acknowledgementEnd
        // There may be more gaps. Who goes back sends what fills them anyway.
        let isWhole = responder.early.count == 0 && !responder.early.hasDropped
        if !isWhole, isSelective || !isToldOf { askAgain(&core) }
        if responder.early.count == 0 { responder.early = EarlyPackets() }
        // Those that come again ask for it.
        if responder.isAcknowledgementLimited { responder.isAcknowledgementDue = isAcknowledgementDue }
    }

    private mutating func executeEarlyRun(_ core: inout EngineCore) {
        while responder.early.first >= 0 {
            let index = responder.early.first
            let packet = core.early.packet(index)
            let distance = packet.bth.psn - responder.expectedPSN
            if distance > 0 { return }
            if distance == 0 {
                // The slot is released below, and nothing in between touches the pool.
                let bytes = unsafe RawSpan(_unsafeBytes: core.early.bytes(index))
                guard execute(early: packet, bytes, &core) else { return forgetEarly(&core) }
            } else {
                core.counters.droppedSequence &+= 1
            }
            // A refusal has ended the queue pair, and emptied the list.
            guard responder.early.first == index else { return }
            responder.early.removeFirst(&core.early)
        }
    }

    /// Executes a request that was kept. `false` if it has to come again: from a peer that goes back it does so unasked, and
    /// is then refused if need be.
    private mutating func execute(early packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) -> Bool {
        let verdict = execute(packet, bytes, &core)
        if !isSelective, !verdict.isExecuted { return false }
        conclude(verdict, packet, &core)
        return verdict.isExecuted
    }

    /// Drops what is kept.
    mutating func forgetEarly(_ core: inout EngineCore) {
        let count = responder.early.removeAll(&core.early)
        core.counters.droppedSequence &+= UInt64(count)
    }

    /// A request came that was executed already: from here on it may be acknowledged.
    mutating func noteRepetition(_ packet: RoCEPacket) {
        guard responder.isAcknowledgementLimited, packet.bth.psn - responder.acknowledgementEnd >= 0 else { return }
        responder.acknowledgementEnd = packet.bth.psn + 1
        if packet.descriptor.endsMessage { responder.acknowledgementMSN += 1 }
        if responder.expectedPSN - responder.acknowledgementEnd <= 0 { responder.isAcknowledgementLimited = false }
    }

    /// What an acknowledgement says: the PSN that was executed last, and how many messages were, as far as the peer may be
    /// told.
    var acknowledged: (psn: PSN, msn: MSN) {
        responder.isAcknowledgementLimited
            ? (responder.acknowledgementEnd - 1, responder.acknowledgementMSN)
            : (responder.expectedPSN - 1, responder.msn)
    }

    /// What a NAK for the sequence has in the place of the MSN: with a peer that understands it, how many PSNs are missing,
    /// or 0 for all.
    func missingCount(_ core: borrowing EngineCore) -> MSN {
        guard isSelective else { return responder.msn }
        guard responder.early.first >= 0 else { return MSN(truncating: 0) }
        let count = core.early.packet(responder.early.first).bth.psn - responder.expectedPSN
        return MSN(truncating: UInt32(truncatingIfNeeded: max(count, 0)))
    }
}
