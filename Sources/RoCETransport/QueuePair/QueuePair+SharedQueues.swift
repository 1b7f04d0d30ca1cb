// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// A target of XRC (IBTA annex A14) has neither receives nor a completion queue nor a protection domain of its own: each
// request names a shared receive queue of the target's XRC domain, whose are all three. A target takes up the queue that a
// request names, as if it had been made with it, and is then a responder of RC.
extension QueuePair {
    /// Executes a request for a target. Apart, so that RC pays for it with a comparison.
    @inline(never)
    mutating func executeExtended(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) -> Verdict {
        takeUpQueue(of: packet, &core) ?? executeInDomain(packet, bytes, &core)
    }

    /// Takes up the shared receive queue that a request is for. `nil`, or why the request is refused.
    ///
    /// No such queue and one of another domain are the same to the peer, 0x62, as in the patches for rxe (linux-rdma, July
    /// 2021), and an access event here, as the drivers of adapters have it (hns `INVALID_XRCETH`, `XRCD_VIOLATION`).
    private mutating func takeUpQueue(of packet: RoCEPacket, _ core: inout EngineCore) -> Verdict? {
        let number = packet.xrceth.sharedReceiveQueue
        // 0 is no queue: while none is taken up it would pass for the present one.
        if number == xrcQueueNumber, number != 0 { return nil }
        // A message is for one queue.
        guard responder.message == .none else { return .invalid }
        guard let entry = core.extendedQueues.find(number), entry.xrcDomain == xrcDomain else { return .accessError }
        xrcQueueNumber = number
        receiveQueue = entry.queue
        receiveCompletionQueue = entry.completionQueue
        protectionDomain = unsafe entry.queue.header.pointee.protectionDomain
        return nil
    }

    /// The shared receive queue goes, or the queue pair does. What is left of a message is refused.
    mutating func leaveQueue(_ vacant: VacantQueues) {
        xrcQueueNumber = 0
        receiveQueue = vacant.receiveQueue
        receiveCompletionQueue = vacant.completionQueue
        responder.hasReceive = false
        responder.message = .none
    }
}
