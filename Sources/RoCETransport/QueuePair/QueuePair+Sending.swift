// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Why a queue pair stopped sending in its turn.
enum TurnOutcome {
    /// Nothing to send until something happens: a doorbell, an acknowledgement, a timer.
    case idle
    /// The turn is over; there is more.
    case turnOver
    /// What is in flight to the peer's process is enough for now: the turn comes again when it is less.
    case heldBack
    /// The transmit queue is full.
    case queueFull
    /// What is to be sent are frames, which do not go into a transmit queue.
    case frames
}

// The requester of RC, XRC and UC: work requests become packets.
extension QueuePair {
    /// Sends what may be sent, up to `budget` bytes.
    mutating func transmitRequests(
        _ core: inout EngineCore, _ queue: inout TransmitQueue, budget: inout Int
    ) -> TurnOutcome {
        guard state == .readyToSend || state == .sendQueueDrained, !requester.isWaitingForReceiver else {
            return .idle
        }
        while true {
            if requester.isSkipping { requester.skipReceived() }
            if requester.next == requester.started {
                guard state == .readyToSend, sendQueue.posted != requester.started else { return .idle }
                if budget <= 0 { return .turnOver }
                guard begin(&core) else { return .idle }
                continue
            }
            let progress = requester[progress: requester.next]
            if progress.failure != 0 { return .idle }
            if progress.packetCount == 0 {
                requester.next &+= 1
                continue
            }
            let outcome: TurnOutcome?
            switch progress.operation {
            case .rdmaRead: outcome = sendReadRequest(progress, &core, &queue, budget: &budget)
            case .compareAndSwap, .fetchAndAdd, .atomicWrite, .flush:
                outcome = sendSingleRequest(progress, &core, &queue, budget: &budget)
            default: outcome = sendMessage(progress, &core, &queue, budget: &budget)
            }
            if let outcome { return outcome }
        }
    }

    // MARK: Starting a work request

    /// Judges the next work request and gives it PSNs, or executes it if it sends nothing. `false` if it must wait or
    /// has failed.
    private mutating func begin(_ core: inout EngineCore) -> Bool {
        let index = requester.started
        let request = sendQueue.request(at: index)
        if request.flags.contains(.fence), requester.oldestRead != nil { return false }
        var progress = SendProgress(
            firstPSN: requester.nextPSN, packetCount: 0, byteLength: 0, operation: request.operation,
            flags: request.flags)
        let status: CompletionStatus
        switch request.operation {
        case .localInvalidate:
            // As rxe does: a key goes only when no request before it can still need it.
            guard requester.oldest == index else { return false }
            let isDone = core.memory.invalidate(
                request.immediate, protectionDomain: protectionDomain, queuePair: nil)
            status = isDone ? .success : .localQueuePairOperationError
        case .bindWindow:
            let isDone = core.memory.bind(request, protectionDomain: protectionDomain, queuePair: serial)
            status = isDone ? .success : .windowBindError
        default:
            status = judge(request, index: index, byteLength: &progress.byteLength, &core)
            progress.packetCount = packetCount(progress.byteLength)
            if request.operation.takesReadSlot, status == .success, readsInFlight >= attributes.readAtomicMax {
                return false
            }
        }
        progress.failure = UInt8(truncatingIfNeeded: status.rawValue)
        requester[progress: index] = progress
        requester.started &+= 1
        if status != .success || progress.packetCount == 0 { retireSends(&core) }
        return status == .success
    }

    private var readsInFlight: UInt32 { requester.readTail &- requester.readHead }

    /// Whether a request with packets is in order, and how long its message is.
    ///
    /// Mutating, and with the core inout: the compiler would copy both to borrow them.
    private mutating func judge(
        _ request: SendWorkRequest, index: UInt32, byteLength: inout UInt32, _ core: inout EngineCore
    ) -> CompletionStatus {
        let operation = request.operation
        guard operation.isSupported(by: type), Int(request.scatterGatherCount) <= sendQueue.scatterGatherMax else {
            return .localQueuePairOperationError
        }
        let writesLocally = operation == .rdmaRead || operation.isAtomic
        if operation == .flush {
            // Nothing of ours is sent or written.
            guard request.flushHeader.isKnown else { return .localQueuePairOperationError }
            let length = request.flushHeader.isWholeRegion ? 0 : request.flushLength
            guard length <= UInt64(core.configuration.messageBytesMax) else { return .localLengthError }
            byteLength = 0
        } else if request.flags.contains(.inline) {
            guard !writesLocally, Int(request.inlineLength) <= sendQueue.inlineMax else {
                return .localQueuePairOperationError
            }
            byteLength = request.inlineLength
        } else {
            let list = list(of: request, at: index)
            let total = list.byteCount
            guard total <= UInt64(core.configuration.messageBytesMax) else { return .localLengthError }
            byteLength = UInt32(total)
            guard list.isAccessible(in: core.memory, access: writesLocally ? .localWrite : []) else {
                return .localProtectionError
            }
        }
        if operation.isAtomic || operation == .atomicWrite {
            guard byteLength == 8 else { return .localLengthError }
        }
        // Sequence numbers are compared over half their space; a quarter is left to what is in flight before.
        guard packetCount(byteLength) <= 1 << 22 else { return .localLengthError }
        if operation.takesReadSlot, attributes.readAtomicMax == 0 { return .localQueuePairOperationError }
        return .success
    }

    /// The list in a slot. The count is bounded here, because the slot was copied anew since it was judged.
    @inline(__always)
    func list(of request: SendWorkRequest, at index: UInt32) -> ScatterGatherList {
        unsafe ScatterGatherList(
            sendQueue.scatterGatherList(of: sendQueue.slot(at: index)),
            count: min(Int(request.scatterGatherCount), sendQueue.scatterGatherMax),
            protectionDomain: protectionDomain)
    }

    /// Mutating, as ``judge(_:index:byteLength:_:)``.
    @inline(__always)
    private mutating func payload(of request: SendWorkRequest, at index: UInt32, offset: UInt64) -> PayloadSource {
        if request.flags.contains(.inline) {
            return unsafe .memory(sendQueue.inlineData(of: sendQueue.slot(at: index)) + Int(offset))
        }
        return .list(list(of: request, at: index), offset: offset)
    }

    // MARK: SEND and WRITE

    /// Sends packets of a SEND or WRITE, from `nextPSN` on. `nil` when the message is sent to its end.
    private mutating func sendMessage(
        _ progress: SendProgress, _ core: inout EngineCore, _ queue: inout TransmitQueue, budget: inout Int
    ) -> TurnOutcome? {
        let index = requester.next
        var request = sendQueue.request(at: index)
        // What was judged is what counts, whatever the slot says by now.
        if progress.flags.contains(.inline) != request.flags.contains(.inline)
            || Int(request.inlineLength) > sendQueue.inlineMax
        {
            request.flags = progress.flags
            request.inlineLength = min(request.inlineLength, UInt32(sendQueue.inlineMax))
        }
        let quarter = max(requester.window.limit / 4, 1)
        var packetIndex = UInt32(requester.nextPSN - progress.firstPSN)
        while packetIndex < progress.packetCount {
            if type.isReliable, !hasWindow(for: 1, now: core.now) { return .idle }
            if budget <= 0 { return .turnOver }
            let isLast = packetIndex &+ 1 == progress.packetCount
            let offset = packetIndex << UInt32(pathMTUShift)
            let byteCount = isLast ? Int(progress.byteLength &- offset) : Int(pathMTU)
            let opcode = progress.operation.opcode(
                isFirst: packetIndex == 0, isLast: isLast, serviceBits: opcodeBits)
            let asks = type.isReliable && (isLast || requester.unrequested &+ 1 >= quarter)
            var packet = RoCEPacket(
                bth: BTH(
                    opcode: opcode, destination: remoteQPN, psn: requester.nextPSN,
                    solicitedEvent: isLast && progress.operation.carriesSolicited
                        && progress.flags.contains(.solicited),
                    acknowledgeRequest: asks),
                payloadByteCount: byteCount)
            packet.fillExtension(of: request, byteLength: progress.byteLength)
            let source = payload(of: request, at: index, offset: UInt64(offset))
            switch queue.write(packet, payload: source, path: path, memory: &core.memory) {
            case .written: break
            case .queueFull: return .queueFull
            case .inaccessible:
                noteSendFailure(at: index, .localProtectionError, &core)
                return .idle
            }
            requester.unrequested = asks ? 0 : requester.unrequested &+ 1
            budget -= packet.byteCount
            packetIndex &+= 1
            noteSent(packets: 1, isAnswered: asks, &core)
            if requester.isSkipping, requester.nextPSN == requester.skipStart { return nil }
        }
        finishSending(&core)
        return nil
    }

    /// Packets of the present request have left, or been asked for.
    private mutating func noteSent(packets: Int, isAnswered: Bool, _ core: inout EngineCore) {
        core.counters.packetsSent &+= 1
        let isRepetition = requester.nextPSN - requester.endPSN < 0
        if isRepetition { core.counters.retransmissions &+= 1 }
        let psn = requester.nextPSN
        requester.nextPSN += packets
        if requester.nextPSN - requester.endPSN > 0 { requester.endPSN = requester.nextPSN }
        guard type.isReliable else { return }
        requester.window.noteSent(psn, isAnswered: isAnswered && !isRepetition, now: core.now)
        requester.isPausing = false
        if requester.timeoutAt == .max { startTimer(core.now) }
    }

    /// Whether the window lets so many packets leave now. If it does so later only, the timer makes us look again.
    @inline(__always)
    private mutating func hasWindow(for packets: Int, now: Timestamp) -> Bool {
        let hasRoom = requester.inFlight + packets <= Int(requester.window.limit)
        if hasRoom, now >= requester.window.pauseEnd { return true }
        requester.window.isLimiting = true
        if hasRoom { pause() }
        return false
    }

    /// The present request is sent to its end. Unreliable ones are complete by that.
    private mutating func finishSending(_ core: inout EngineCore) {
        requester.next &+= 1
        if type.isReliable { return }
        requester.unackedPSN = requester.nextPSN
        retireSends(&core)
    }

    // MARK: What has a response of its own

    /// Sends a READ request for as much as fits into the window, so that the responses do; the peer cannot tell the parts
    /// from READs of their own. `nil` when the whole READ is asked for.
    private mutating func sendReadRequest(
        _ progress: SendProgress, _ core: inout EngineCore, _ queue: inout TransmitQueue, budget: inout Int
    ) -> TurnOutcome? {
        let request = sendQueue.request(at: requester.next)
        let packetIndex = requester.nextPSN - progress.firstPSN
        let remaining = Int(progress.packetCount) - packetIndex
        guard remaining > 0 else {
            finishSending(&core)
            return nil
        }
        if budget <= 0 { return .turnOver }
        let isRepetition = requester.readCursor != requester.readTail
        guard let count = partLength(remaining: remaining, isRepetition: isRepetition, now: core.now) else {
            return .idle
        }
        let offset = UInt32(packetIndex) << UInt32(pathMTUShift)
        let wanted = UInt64(count) << UInt64(pathMTUShift)
        let length = UInt32(min(UInt64(progress.byteLength &- offset), wanted))
        var packet = RoCEPacket(
            bth: BTH(
                opcode: opcode(.rcReadRequest), destination: remoteQPN, psn: requester.nextPSN, acknowledgeRequest: true
            ),
            payloadByteCount: 0)
        packet.reth = RETH(
            virtualAddress: request.remoteAddress &+ UInt64(offset), rkey: MemoryKey(rawValue: request.remoteKey),
            length: length)
        if type == .xrcInitiator { packet.xrceth = XRCETH(sharedReceiveQueue: request.remoteQPN) }
        switch queue.write(packet, payload: .none, path: path, memory: &core.memory) {
        case .written: break
        case .queueFull, .inaccessible: return .queueFull
        }
        if !isRepetition {
            requester[read: requester.readTail] = ReadProgress(
                firstPSN: requester.nextPSN, endPSN: requester.nextPSN + count, kind: .read)
            requester.readTail &+= 1
        }
        requester.readCursor &+= 1
        budget -= packet.byteCount
        noteSent(packets: count, isAnswered: true, &core)
        return nil
    }

    /// How many packets the next READ request asks for; `nil` to wait until more fits into the window.
    private mutating func partLength(remaining: Int, isRepetition: Bool, now: Timestamp) -> Int? {
        let limit = Int(requester.window.limit)
        if isRepetition {
            // The bounds of the first time hold; alone it may go whatever the window is.
            var count = requester[read: requester.readCursor].endPSN - requester.nextPSN
            if requester.isSkipping { count = min(count, requester.skipStart - requester.nextPSN) }
            return hasWindow(for: requester.inFlight == 0 ? 1 : count, now: now) ? count : nil
        }
        guard readsInFlight < attributes.readAtomicMax else { return nil }
        guard hasWindow(for: min(remaining, max(limit / 2, 1)), now: now) else { return nil }
        return min(remaining, limit - requester.inFlight)
    }

    /// Sends an atomic, ATOMIC WRITE or FLUSH: one packet, which takes the place of a READ until its response is there.
    private mutating func sendSingleRequest(
        _ progress: SendProgress, _ core: inout EngineCore, _ queue: inout TransmitQueue, budget: inout Int
    ) -> TurnOutcome? {
        let index = requester.next
        let request = sendQueue.request(at: index)
        if requester.nextPSN - progress.firstPSN >= 1 {
            finishSending(&core)
            return nil
        }
        if budget <= 0 { return .turnOver }
        guard hasWindow(for: 1, now: core.now) else { return .idle }
        let packet = RoCEPacket(
            single: progress.operation, of: request, serviceBits: opcodeBits, destination: remoteQPN,
            psn: requester.nextPSN)
        let source = packet.payloadByteCount == 0 ? .none : payload(of: request, at: index, offset: 0)
        switch queue.write(packet, payload: source, path: path, memory: &core.memory) {
        case .written: break
        case .queueFull: return .queueFull
        case .inaccessible:
            noteSendFailure(at: index, .localProtectionError, &core)
            return .idle
        }
        if requester.readCursor == requester.readTail {
            requester[read: requester.readTail] = ReadProgress(
                firstPSN: requester.nextPSN, endPSN: requester.nextPSN + 1,
                kind: progress.operation.isAtomic ? .atomic : .empty)
            requester.readTail &+= 1
        }
        requester.readCursor &+= 1
        budget -= packet.byteCount
        noteSent(packets: 1, isAnswered: true, &core)
        finishSending(&core)
        return nil
    }
}

extension RoCEPacket {
    /// The packet of an atomic, ATOMIC WRITE or FLUSH.
    fileprivate init(
        single operation: SendOperation, of request: SendWorkRequest, serviceBits: UInt8, destination: QPN, psn: PSN
    ) {
        let opcode: Opcode =
            switch operation {
            case .atomicWrite: .rcAtomicWrite
            case .flush: .rcFlush
            case .fetchAndAdd: .rcFetchAdd
            default: .rcCompareSwap
            }
        self.init(
            bth: BTH(
                opcode: Opcode(rawValue: opcode.rawValue | serviceBits), destination: destination, psn: psn,
                acknowledgeRequest: true),
            payloadByteCount: operation == .atomicWrite ? 8 : 0)
        if descriptor.headers.contains(.xrceth) { xrceth = XRCETH(sharedReceiveQueue: request.remoteQPN) }
        let address = request.remoteAddress
        let key = MemoryKey(rawValue: request.remoteKey)
        switch operation {
        case .atomicWrite: reth = RETH(virtualAddress: address, rkey: key, length: 8)
        case .flush:
            feth = request.flushHeader
            // Of a whole region only the key counts.
            reth =
                feth.isWholeRegion
                ? RETH(virtualAddress: 0, rkey: key, length: 0)
                : RETH(virtualAddress: address, rkey: key, length: UInt32(truncatingIfNeeded: request.flushLength))
        default:
            let isSwap = operation == .compareAndSwap
            atomicETH = AtomicETH(
                virtualAddress: address, rkey: key, swapOrAdd: isSwap ? request.swap : request.compareAdd,
                compare: isSwap ? request.compareAdd : 0)
        }
    }

    /// Fills in the headers that a packet of a SEND or WRITE has, and no others: they share their storage.
    @inline(__always)
    fileprivate mutating func fillExtension(of request: SendWorkRequest, byteLength: UInt32) {
        let headers = descriptor.headers
        if headers.isEmpty { return }
        if headers.contains(.xrceth) { xrceth = XRCETH(sharedReceiveQueue: request.remoteQPN) }
        if headers.contains(.reth) {
            reth = RETH(
                virtualAddress: request.remoteAddress, rkey: MemoryKey(rawValue: request.remoteKey),
                length: byteLength)
        }
        if headers.contains(.immDt) { immDt = ImmDt(networkOrderValue: request.immediate) }
        if headers.contains(.ieth) { ieth = IETH(rkey: MemoryKey(rawValue: request.immediate)) }
    }
}

extension SendOperation {
    var isAtomic: Bool { self == .compareAndSwap || self == .fetchAndAdd }

    /// Answered by more than an acknowledgement, and so limited by `max_rd_atomic`.
    var takesReadSlot: Bool { self == .rdmaRead || isAtomic || self == .atomicWrite || self == .flush }

    /// Its last packet may carry the solicited event bit.
    var carriesSolicited: Bool { self != .rdmaWrite }

    func isSupported(by type: QueuePairType) -> Bool {
        switch self {
        case _ where type == .xrcTarget: false
        case .send, .sendWithImmediate: true
        case .rdmaWrite, .rdmaWriteWithImmediate: type.isConnected
        case .sendWithInvalidate, .rdmaRead, .compareAndSwap, .fetchAndAdd, .atomicWrite, .flush: type.isReliable
        default: false
        }
    }

    /// The opcode of a packet of a SEND or WRITE.
    @inline(__always)
    func opcode(isFirst: Bool, isLast: Bool, serviceBits: UInt8) -> Opcode {
        let isWrite = self == .rdmaWrite || self == .rdmaWriteWithImmediate
        var code: UInt8
        switch (isFirst, isLast) {
        case (true, false): code = 0
        case (false, false): code = 1
        case (false, true): code = 2
        case (true, true): code = 4
        }
        if isLast {
            switch self {
            case .sendWithImmediate, .rdmaWriteWithImmediate: code += 1
            case .sendWithInvalidate: code = isFirst ? 0x17 : 0x16
            default: break
            }
        }
        if isWrite { code += 6 }
        return Opcode(rawValue: code | serviceBits)
    }
}
