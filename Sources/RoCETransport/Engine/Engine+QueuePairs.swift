// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Control functions: queue pairs and multicast.
extension Engine {
    /// Makes a queue pair in RESET. Its number is random below the slot's 8 bits; a ``QueuePairType/gsi`` has number 1.
    public mutating func createQueuePair(
        _ creation: QueuePairCreation, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> QueuePairQueues {
        try check(creation)
        let qpn: QPN
        if creation.type == .gsi {
            guard unsafe queuePairs.find(.gsi) == nil else { throw .busy("there is one general services interface") }
            qpn = .gsi
        } else {
            qpn = queuePairs.freeNumber(slot: configuration.slot, using: &generator)
        }
        let sendQueue = SendQueue(
            capacity: max(creation.sendCapacity, 1), scatterGatherMax: max(creation.sendScatterGatherMax, 1),
            inlineMax: creation.inlineMax)
        let receiveQueue = creation.sharedReceiveQueue ?? makeReceiveQueue(of: creation)
        let queuePair = UnsafeMutablePointer<QueuePair>.allocate(capacity: 1)
        unsafe queuePair.initialize(
            to: QueuePair(
                qpn: qpn, serial: nextSerial, creation: creation, sendQueue: sendQueue, receiveQueue: receiveQueue,
                vacant: vacant, readAtomicMax: configuration.readAtomicMax))
        nextSerial += 1
        timers.reserve(queuePairs.count + 1)
        unsafe queuePairs.insert(queuePair)
        unsafe queuePair.pointee.sendCompletionQueue.header.pointee.userCount += 1
        unsafe queuePair.pointee.receiveCompletionQueue.header.pointee.userCount += 1
        if unsafe queuePair.pointee.isReceiveQueueShared { unsafe receiveQueue.header.pointee.userCount += 1 }
        return QueuePairQueues(qpn: qpn, sendQueue: sendQueue, receiveQueue: receiveQueue)
    }

    private func makeReceiveQueue(of creation: QueuePairCreation) -> ReceiveQueue {
        if creation.type.isExtended { return vacant.receiveQueue }
        return ReceiveQueue(
            capacity: max(creation.receiveCapacity, 1), scatterGatherMax: max(creation.receiveScatterGatherMax, 1),
            index: ReceiveQueue.unshared, protectionDomain: creation.protectionDomain, tag: creation.tag)
    }

    private func check(_ creation: QueuePairCreation) throws(EngineError) {
        let limits = configuration
        guard queuePairs.count < min(limits.queuePairCountMax, 65_000) else { throw .limitReached("queue pairs") }
        guard (0...limits.workRequestCountMax).contains(creation.sendCapacity) else {
            throw .invalidArgument("max_send_wr")
        }
        guard (0...limits.workRequestCountMax).contains(creation.receiveCapacity) else {
            throw .invalidArgument("max_recv_wr")
        }
        guard (0...limits.scatterGatherMax).contains(creation.sendScatterGatherMax) else {
            throw .invalidArgument("max_send_sge")
        }
        guard (0...limits.scatterGatherMax).contains(creation.receiveScatterGatherMax) else {
            throw .invalidArgument("max_recv_sge")
        }
        guard (0...limits.inlineMax).contains(creation.inlineMax) else { throw .invalidArgument("max_inline_data") }
        let isExtended = creation.type.isExtended
        guard (creation.sendCompletionQueue == nil) == (creation.type == .xrcTarget) else {
            throw .invalidArgument("send_cq: all have one but the targets of XRC")
        }
        guard (creation.receiveCompletionQueue == nil) == isExtended else {
            throw .invalidArgument("recv_cq: all have one but the queue pairs of XRC")
        }
        if let queue = creation.sendCompletionQueue { try check(queue) }
        if let queue = creation.receiveCompletionQueue { try check(queue) }
        if let shared = creation.sharedReceiveQueue {
            guard !isExtended else { throw .invalidArgument("srq: a request of XRC says which it is for") }
            try check(shared)
            guard !core.extendedQueues.has(shared) else {
                throw .invalidArgument("srq: one of XRC takes what targets of XRC receive")
            }
        }
    }

    /// Sets the attributes in `mask` and enters their state, if the mask has one. Which transitions and attributes are
    /// allowed is the caller's to check (`QueuePairTransition`); ranges are checked here.
    public mutating func modifyQueuePair(
        _ qpn: QPN, _ attributes: QueuePairAttributes, mask: QueuePairAttributeMask
    ) throws(EngineError) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { throw .unknownObject }
        try unsafe queuePair.pointee.modify(attributes, mask: mask, &core)
        unsafe settle(queuePair)
        if unsafe queuePair.pointee.state == .reset {
            // Its next peer may be in another process: it must not be left in the list of this one's.
            unsafe core.hosts.remove(queuePair, now: core.now)
            unsafe queuePair.pointee.hostSlot = 0
        }
    }

    /// From now on both ends of a connection send only what was lost again, which both must have agreed on before any
    /// packet; until RESET.
    ///
    /// Outside the specification: a NAK for the sequence has the number of missing PSNs in the place of its MSN, and more
    /// than one may follow another.
    public mutating func repeatSelectively(_ qpn: QPN) throws(EngineError) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { throw .unknownObject }
        guard unsafe queuePair.pointee.type == .rc else { throw .invalidArgument("only RC repeats anything") }
        unsafe queuePair.pointee.isSelective = true
        core.counters.selectiveConnections &+= 1
    }

    /// Gives a queue pair another name in events.
    public mutating func setTag(_ qpn: QPN, _ tag: UInt) throws(EngineError) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { throw .unknownObject }
        unsafe queuePair.pointee.tag = tag
    }

    /// The present attributes and state.
    public func queryQueuePair(_ qpn: QPN) throws(EngineError) -> QueuePairAttributes {
        guard let queuePair = unsafe queuePairs.find(qpn) else { throw .unknownObject }
        return unsafe queuePair.pointee.currentAttributes
    }

    /// Destroys a queue pair and its queues, without completions; busy while it is attached to a multicast group. Its
    /// windows of type 2 are useless from then on.
    public mutating func destroyQueuePair(_ qpn: QPN) throws(EngineError) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { throw .unknownObject }
        guard !multicast.hasAttachments(of: qpn) else { throw .busy("the queue pair is attached to a multicast group") }
        unsafe lingering.add(queuePair.pointee, now: core.now)
        unsafe queuePair.pointee.forgetEarly(&core)
        unsafe queuePair.pointee.forgetEarlyResponses(&core)
        unsafe unlink(queuePair)
        unsafe core.hosts.remove(queuePair, now: core.now)
        unsafe timers.remove(queuePair)
        if unsafe queuePair.pointee.type == .xrcTarget { unsafe queuePair.pointee.leaveQueue(vacant) }
        unsafe queuePair.pointee.sendCompletionQueue.header.pointee.userCount -= 1
        unsafe queuePair.pointee.receiveCompletionQueue.header.pointee.userCount -= 1
        if unsafe queuePair.pointee.isReceiveQueueShared {
            unsafe queuePair.pointee.receiveQueue.header.pointee.userCount -= 1
        }
        unsafe queuePairs.destroy(queuePair)
    }

    /// Takes a queue pair out of the lists that it may be in.
    private mutating func unlink(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        if unsafe queuePair.pointee.isInWorkList {
            var first = unsafe workFirst
            unsafe workFirst = nil
            unsafe workLast = nil
            while let next = unsafe first {
                unsafe first = unsafe next.pointee.nextInWorkList
                if unsafe next != queuePair { unsafe appendWork(next) }
            }
        }
        unsafe removePacketSender(queuePair)
        guard unsafe queuePair.pointee.isInEventList else { return }
        var kept: UnsafeMutablePointer<QueuePair>?
        while let next = unsafe queuePairEvents {
            unsafe queuePairEvents = unsafe next.pointee.nextInEventList
            if unsafe next == queuePair { continue }
            unsafe next.pointee.nextInEventList = unsafe kept
            unsafe kept = unsafe next
        }
        unsafe queuePairEvents = unsafe kept
    }

    /// Lets a UD queue pair receive what is sent to a multicast group.
    public mutating func attachMulticast(_ qpn: QPN, group: GID) throws(EngineError) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { throw .unknownObject }
        guard unsafe queuePair.pointee.isDatagram else { throw .invalidArgument("only UD can join a multicast group") }
        guard group.isMulticast else { throw .invalidArgument("the address is not that of a multicast group") }
        try multicast.attach(qpn, group: group)
    }

    /// Ends ``attachMulticast(_:group:)``.
    public mutating func detachMulticast(_ qpn: QPN, group: GID) throws(EngineError) {
        try multicast.detach(qpn, group: group)
    }
}
