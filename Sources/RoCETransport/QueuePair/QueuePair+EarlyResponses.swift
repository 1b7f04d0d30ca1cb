// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Responses behind a gap: packets of READ responses, and answers to atomics, that came before the one that is due. They
// are kept like requests (see `QueuePair+EarlyRequests`) and placed when the gap is filled. What a requester keeps is its
// own affair, so it does so with every peer. Most go back all the same and answer everything again, which is late then
// and ignored; a peer of our own (`isSelective`) is asked for what is missing and no more.
extension QueuePair {
    /// A response behind the one that is due.
    mutating func receiveEarlyResponse(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) {
        let hasRoom = requester.early.count < core.configuration.earlyPacketCountMax
        if hasRoom, requester.early.insert(packet, bytes, &core.early) {
            core.counters.earlyResponses &+= 1
        } else {
            core.counters.droppedSequence &+= 1
        }
        retryAfterLostResponse(&core)
    }

    /// The response that was due was placed: places those behind it that came before, as far as there is no gap.
    mutating func placeEarlyResponses(_ core: inout EngineCore) {
        var hasPlaced = false
        while requester.early.first >= 0 {
            let index = requester.early.first
            let packet = core.early.packet(index)
            let psn = packet.bth.psn
            let isLate = psn - requester.unackedPSN < 0
            if !isLate, let read = requester.oldestRead, psn - requester.expectedPSN(of: read) > 0 {
                // Another gap, unless none of this one was filled. Going back as a whole has asked for it already.
                if hasPlaced, requester.isSelective { retryAfterLostResponse(&core) }
                return
            }
            if isLate {
                core.counters.droppedSequence &+= 1
            } else {
                // The slot is released below, and nothing in between touches the pool.
                placeResponse(packet, unsafe RawSpan(_unsafeBytes: core.early.bytes(index)), &core)
                hasPlaced = true
            }
            // A failure has ended the queue pair, and emptied the list.
            guard requester.early.first == index else { return }
            requester.early.removeFirst(&core.early)
        }
    }

    /// How many PSNs are missing before the first response that is kept; 0 for all.
    func missingResponseCount(_ core: borrowing EngineCore) -> Int {
        guard isSelective, requester.early.first >= 0, let read = requester.oldestRead else { return 0 }
        let expected = requester.expectedPSN(of: read)
        // What is before the READ is acknowledged by now, so that the gap begins where everything else is repeated from.
        guard expected == requester.unackedPSN else { return 0 }
        return max(core.early.packet(requester.early.first).bth.psn - expected, 0)
    }

    /// Drops what is kept.
    mutating func forgetEarlyResponses(_ core: inout EngineCore) {
        let count = requester.early.removeAll(&core.early)
        core.counters.droppedSequence &+= UInt64(count)
    }
}
