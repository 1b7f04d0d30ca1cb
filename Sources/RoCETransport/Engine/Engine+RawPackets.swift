// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Raw packet queue pairs. Their frames go by a link of their own, not through a transmit queue: the owner of the engine takes
// and gives them here, between `transmit` and `publishCompletions`.
extension Engine {
    /// Whether a raw packet queue pair may have frames to send.
    public var hasFrames: Bool {
        mutating get { unsafe packetFirst != nil }
    }

    /// Describes the next frames of the queue pair whose turn it is, which has the next turn when ``completeFrames(_:of:)`` says
    /// that all of them have left. `false` if there are none.
    public mutating func takeFrames(into batch: inout FrameBatch) -> Bool {
        while let queuePair = unsafe packetFirst {
            unsafe queuePair.pointee.gather(into: &batch, &core)
            unsafe settle(queuePair)
            if batch.count > 0 { return true }
            removeFirstPacketSender()
        }
        return false
    }

    /// The first `count` frames of a batch have left; the others are offered again.
    public mutating func completeFrames(_ count: Int, of batch: borrowing FrameBatch) {
        guard let queuePair = unsafe queuePairs.find(batch.qpn) else { return }
        unsafe queuePair.pointee.completeFrames(count, in: batch, &core)
        core.counters.packetsSent &+= UInt64(count)
        if count == batch.count { unsafe takeTurns(queuePair) }
        unsafe settle(queuePair)
    }

    /// The first frame of a batch cannot be sent, and never will be.
    public mutating func failFrame(of batch: borrowing FrameBatch, _ status: CompletionStatus) {
        guard let queuePair = unsafe queuePairs.find(batch.qpn) else { return }
        unsafe queuePair.pointee.failNextFrame(status, &core)
        unsafe settle(queuePair)
    }

    /// Gives a frame to a raw packet queue pair. Read during the call only.
    @inline(__always)
    public mutating func deliver(
        _ frame: UnsafeRawBufferPointer, _ facts: FrameFacts, to qpn: QPN
    ) -> FrameDelivery {
        guard let queuePair = unsafe queuePairs.find(qpn), unsafe queuePair.pointee.type == .rawPacket else {
            core.counters.droppedUnknownQueuePair &+= 1
            return .notReady
        }
        core.counters.packetsReceived &+= 1
        let delivery = unsafe queuePair.pointee.receiveFrame(frame, facts, &core)
        if delivery == .inaccessible { unsafe settle(queuePair) }
        return delivery
    }

    // MARK: Receives that are filled in place

    /// A posted receive of one element, and the region that it lies in.
    @safe public struct ReceiveInPlace {
        /// Which it is, in the receive queue.
        public let index: UInt32
        /// Where the frame is to be.
        public let memory: UnsafeMutableRawPointer
        /// The room there.
        public let byteCount: Int
        /// The registered memory around it.
        public let region: UnsafeMutableRawBufferPointer
    }

    /// The index of the oldest posted receive; `nil` unless the queue pair takes frames.
    public func oldestReceive(of qpn: QPN) -> UInt32? {
        guard let queuePair = unsafe queuePairs.find(qpn), unsafe queuePair.pointee.receivesInPlace else { return nil }
        return unsafe queuePair.pointee.receiveQueue.oldestIndex
    }

    /// A posted receive, which stays posted until ``completeInPlace(_:of:status:byteCount:_:)``; `nil` where none is posted. One that
    /// cannot be filled in place completes with an error here, and the next is looked at; but not before its turn, as completions come
    /// in the order of the receives: `nil` until then.
    public mutating func receiveInPlace(at index: inout UInt32, of qpn: QPN) -> ReceiveInPlace? {
        guard let queuePair = unsafe queuePairs.find(qpn), unsafe queuePair.pointee.receivesInPlace else { return nil }
        while let (request, entry) = unsafe queuePair.pointee.receiveQueue.posted(at: index) {
            let place = index
            index &+= 1
            let domain = unsafe queuePair.pointee.protectionDomain
            if request.scatterGatherCount == 1,
                let (memory, region) = unsafe core.memory.localRegion(
                    entry.lkey, address: entry.address, byteCount: entry.length, protectionDomain: domain,
                    access: .localWrite)
            {
                return unsafe ReceiveInPlace(
                    index: place, memory: memory, byteCount: Int(entry.length), region: region)
            }
            guard unsafe place == queuePair.pointee.receiveQueue.oldestIndex else {
                index = place
                return nil
            }
            completeInPlace(place, of: qpn, status: .localProtectionError, byteCount: 0, FrameFacts())
        }
        return nil
    }

    /// A receive that was filled in place is complete.
    public mutating func completeInPlace(
        _ index: UInt32, of qpn: QPN, status: CompletionStatus, byteCount: Int, _ facts: FrameFacts
    ) {
        guard let queuePair = unsafe queuePairs.find(qpn), unsafe queuePair.pointee.receivesInPlace,
            let (request, _) = unsafe queuePair.pointee.receiveQueue.posted(at: index)
        else { return }
        var entry = CompletionEntry(id: request.id, status: status, operation: .receive, qpn: qpn.rawValue)
        if status == .success {
            entry.byteLength = UInt32(truncatingIfNeeded: byteCount)
            entry.frame = facts
            core.counters.packetsReceived &+= 1
        }
        unsafe queuePair.pointee.receiveQueue.finish(at: index)
        unsafe core.complete(queuePair.pointee.receiveCompletionQueue, entry)
    }

    /// From now on somebody fills receives in place: a doorbell rings for each that is posted.
    public mutating func beginReceivesInPlace(of qpn: QPN) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { return }
        unsafe queuePair.pointee.receiveQueue.setAwaited(true)
    }

    /// Nobody fills receives in place any more: those that are posted are as if they had never been looked at.
    public mutating func endReceivesInPlace(of qpn: QPN) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { return }
        unsafe queuePair.pointee.receiveQueue.setAwaited(queuePair.pointee.state == .error)
        unsafe queuePair.pointee.receiveQueue.closeGaps()
    }

    // MARK: Turns

    /// Puts a queue pair that wants to send in the list of those that do.
    mutating func appendPacketSender(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        guard unsafe !queuePair.pointee.isInPacketList else { return }
        unsafe queuePair.pointee.isInPacketList = true
        unsafe queuePair.pointee.nextInPacketList = nil
        if let last = unsafe lastPacketSender {
            unsafe last.pointee.nextInPacketList = unsafe queuePair
        } else {
            unsafe packetFirst = unsafe queuePair
        }
    }

    /// Raw packet queue pairs are few.
    private var lastPacketSender: UnsafeMutablePointer<QueuePair>? {
        var last = unsafe packetFirst
        while let next = unsafe last?.pointee.nextInPacketList { unsafe last = unsafe next }
        return unsafe last
    }

    private mutating func removeFirstPacketSender() {
        guard let first = unsafe packetFirst else { return }
        unsafe packetFirst = unsafe first.pointee.nextInPacketList
        unsafe first.pointee.isInPacketList = false
    }

    private mutating func takeTurns(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        guard unsafe packetFirst == queuePair else { return }
        removeFirstPacketSender()
        unsafe appendPacketSender(queuePair)
    }

    /// Takes a queue pair out of the list, wherever it is in it.
    mutating func removePacketSender(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        guard unsafe queuePair.pointee.isInPacketList else { return }
        // Once around: each goes from the front to the end, but for this one.
        let last = unsafe lastPacketSender
        while let next = unsafe packetFirst {
            removeFirstPacketSender()
            if unsafe next != queuePair { unsafe appendPacketSender(next) }
            if unsafe next == last { break }
        }
    }
}
