// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Synchronization

/// What a request met.
enum Verdict {
    /// Executed: the next PSN is expected.
    case executed(endsMessage: Bool)
    /// SEND or WRITE with immediate without a posted receive.
    case receiverNotReady
    /// Refused; a receive that is at hand completes with the status.
    case refused(Syndrome.NAKCode, receive: CompletionStatus)
}

// The responder of RC, XRC and UC, in the order of checks of rxe: state, sequence, opcode sequence, permission of the queue
// pair, resources, length, key; then execution. An error before execution changes no memory.
extension QueuePair {
    /// A request packet for this queue pair, its source and ICRC checked.
    mutating func receiveRequest(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) {
        guard state != .reset, state != .initialized, state != .error else {
            core.counters.droppedState &+= 1
            return
        }
        if type == .uc { return receiveUnreliable(packet, bytes, &core) }
        let distance = packet.bth.psn - responder.expectedPSN
        if distance > 0 { return receiveEarly(packet, bytes, &core) }
        if distance < 0 { return receiveDuplicate(packet, &core) }
        // Not if it came before the NAK left, nor of an RNR NAK, which is for no gap.
        if responder.isSilent, responder.refusal == nil, !responder.isReceiverMissing {
            responder.early.isToldOf = true
        }
        responder.isSilent = false
        responder.isReceiverMissing = false
        responder.isAcknowledgementLimited = false
        responder.refusal = nil
        responder.lastRequestAt = core.now
        noteCommunication()
        let verdict = execute(packet, bytes, &core)
        conclude(verdict, packet, &core)
        if verdict.isExecuted, responder.early.first >= 0 || responder.early.hasDropped {
            executeEarly(&core)
        }
    }

    /// Draws the consequences of a verdict.
    mutating func conclude(_ verdict: Verdict, _ packet: RoCEPacket, _ core: inout EngineCore) {
        switch verdict {
        case .executed(let endsMessage):
            responder.expectedPSN += Int(packet.responsePacketCount(mtuShift: pathMTUShift))
            if endsMessage {
                responder.msn += 1
                core.habit.messageEnded(on: qpn)
            }
            // The end of a message is acknowledged unasked too: before it is shown, and before the peer runs out of
            // patience. A peer that asks for fewer acknowledgements finds them coalesced, which is the responder's right.
            if endsMessage || packet.bth.acknowledgeRequest, !packet.isAnsweredByResponse {
                responder.isAcknowledgementDue = true
            }
            if responder.isAcknowledgementDue || responder.pendingCount > 0 { wantsTransmit = true }
        case .receiverNotReady:
            answer(.receiverNotReady(RNRTimer(truncating: attributes.rnrTimerMin)))
            responder.isSilent = true
            responder.isReceiverMissing = true
            core.counters.receiverNotReadySent &+= 1
        case .refused(let code, let status):
            core.counters.refusalsSent &+= 1
            answer(.refused(code))
            raise(code.event)
            failReceive(status, &core)
            responder.isDraining = true
            enterError(&core)
        }
    }

    private mutating func noteCommunication() {
        if state == .readyToReceive, !hasReportedCommunication {
            hasReportedCommunication = true
            raise(.communicationEstablished)
        }
        if isCommunicationWatched {
            isCommunicationWatched = false
            raise(.firstPacket)
        }
    }

    /// A NAK for the expected PSN is due.
    mutating func answer(_ syndrome: Syndrome) {
        responder.refusal = syndrome
        responder.refusalPSN = responder.expectedPSN
        wantsTransmit = true
    }

    /// UC: a gap spoils the message it is in; the next FIRST or ONLY starts afresh, with any PSN.
    private mutating func receiveUnreliable(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) {
        if packet.descriptor.startsMessage {
            responder.message = .none
        } else if responder.message == .broken || packet.bth.psn != responder.expectedPSN {
            responder.message = .broken
            core.counters.droppedSequence &+= 1
            return
        }
        responder.expectedPSN = packet.bth.psn + 1
        noteCommunication()
        switch execute(packet, bytes, &core) {
        case .executed: break
        case .receiverNotReady:
            responder.message = .broken
            core.counters.droppedNoReceive &+= 1
        case .refused(_, .localProtectionError):
            // Our own fault (IBTA: class A, on every service): the receive would stand in the way for ever.
            failReceive(.localProtectionError, &core)
            raise(.fatal)
            enterError(&core)
        case .refused:
            responder.message = .broken
            core.counters.droppedRequest &+= 1
        }
    }

    /// Executes the expected request, if it is in order.
    @inline(__always)
    mutating func execute(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) -> Verdict {
        type == .xrcTarget ? executeExtended(packet, bytes, &core) : executeInDomain(packet, bytes, &core)
    }

    mutating func executeInDomain(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) -> Verdict {
        let isOpen = responder.message == .send || responder.message == .write
        if packet.descriptor.startsMessage, isOpen { return .invalid }
        switch packet.descriptor.operation {
        case .send: return executeSend(packet, bytes, &core)
        case .write: return executeWrite(packet, bytes, &core)
        case .readRequest: return executeRead(packet, &core)
        case .compareSwap, .fetchAdd: return executeAtomic(packet, &core)
        case .atomicWrite: return executeAtomicWrite(packet, bytes, &core)
        case .flush: return executeFlush(packet, &core)
        default: return .invalid
        }
    }

    /// FIRST and MIDDLE are exactly the path MTU, LAST is 1 to that, ONLY 0 to that.
    @inline(__always)
    private func hasFittingLength(_ packet: RoCEPacket) -> Bool {
        let count = packet.payloadByteCount
        switch packet.descriptor.position {
        case .first, .middle: return count == Int(pathMTU) && packet.bth.padCount == 0
        case .last: return count >= 1 && count <= Int(pathMTU)
        case .only: return count <= Int(pathMTU)
        }
    }

    // MARK: SEND

    private mutating func executeSend(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) -> Verdict {
        let descriptor = packet.descriptor
        if descriptor.startsMessage {
            guard takeReceive(&core) else { return .receiverNotReady }
            responder.received = 0
        } else {
            guard responder.message == .send else { return .invalid }
        }
        guard hasFittingLength(packet) else { return .invalid }
        let count = UInt64(packet.payloadByteCount)
        guard responder.received + count <= responder.receiveCapacity else {
            return .refused(.invalidRequest, receive: .localLengthError)
        }
        if count > 0 {
            let list = receiveList
            let offset = responder.received
            let isPlaced = unsafe packet.payload(of: bytes).withUnsafeBytes {
                unsafe list.scatter($0, to: offset, memory: core.memory)
            }
            guard isPlaced else { return .refused(.remoteOperationalError, receive: .localProtectionError) }
            responder.received += count
        }
        guard descriptor.endsMessage else {
            responder.message = .send
            return .executed(endsMessage: false)
        }
        var entry = receiveEntry(byteLength: UInt32(responder.received))
        if descriptor.headers.contains(.ieth) {
            // After the data is placed; a key that may not be invalidated is the peer's fault.
            let key = packet.ieth.rkey.rawValue
            guard core.memory.invalidate(key, protectionDomain: protectionDomain, queuePair: serial) else {
                return .refused(.remoteAccessError, receive: .remoteInvalidRequestError)
            }
            entry.flags.insert(.withInvalidate)
            entry.immediate = key
        }
        finishReceive(&entry, packet, &core)
        return .executed(endsMessage: true)
    }

    @inline(__always)
    private func receiveEntry(byteLength: UInt32) -> CompletionEntry {
        var entry = CompletionEntry(
            id: responder.receiveID, status: .success, operation: .receive, qpn: qpn.rawValue)
        entry.byteLength = byteLength
        // Every packet of RoCE has the fields of a global route header.
        entry.flags = .grh
        return entry
    }

    private mutating func finishReceive(
        _ entry: inout CompletionEntry, _ packet: RoCEPacket, _ core: inout EngineCore
    ) {
        if packet.descriptor.headers.contains(.immDt) {
            entry.flags.insert(.withImmediate)
            entry.immediate = packet.immDt.networkOrderValue
        }
        responder.message = .none
        responder.hasReceive = false
        core.complete(receiveCompletionQueue, entry, solicited: packet.bth.solicitedEvent)
    }

    // MARK: WRITE

    private mutating func executeWrite(_ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore) -> Verdict {
        let descriptor = packet.descriptor
        if descriptor.startsMessage {
            guard attributes.accessFlags.contains(.remoteWrite) else { return .invalid }
        } else {
            guard responder.message == .write else { return .invalid }
        }
        let hasImmediate = descriptor.headers.contains(.immDt)
        if hasImmediate {
            guard takeReceive(&core) else { return .receiverNotReady }
        }
        if descriptor.startsMessage {
            guard packet.reth.length <= core.configuration.messageBytesMax else { return .invalid }
            responder.writeAddress = packet.reth.virtualAddress
            responder.writeKey = packet.reth.rkey.rawValue
            responder.writeLength = packet.reth.length
            responder.received = 0
        }
        let count = packet.payloadByteCount
        let remaining = Int(responder.writeLength) - Int(responder.received)
        let isWhole = descriptor.endsMessage ? count == remaining : count < remaining
        guard hasFittingLength(packet), isWhole else { return .invalid }
        if descriptor.position == .first, unsafe writeMemory(0, responder.writeLength, &core) == nil {
            return .accessError
        }
        if count > 0 {
            // Checked again for each packet, because the region may have gone since the first.
            let offset = UInt64(responder.received)
            guard let target = unsafe writeMemory(offset, UInt32(count), &core) else { return .accessError }
            unsafe copyForward(packet.payload(of: bytes), to: target)
            responder.received += UInt64(count)
        }
        guard descriptor.endsMessage else {
            responder.message = .write
            return .executed(endsMessage: false)
        }
        responder.message = .none
        if hasImmediate {
            var entry = receiveEntry(byteLength: responder.writeLength)
            entry.operation = .receiveRDMAWithImmediate
            finishReceive(&entry, packet, &core)
        }
        return .executed(endsMessage: true)
    }

    /// Mutating, and with the core inout: the compiler would copy both to borrow them.
    private mutating func writeMemory(
        _ offset: UInt64, _ byteCount: UInt32, _ core: inout EngineCore
    ) -> UnsafeMutableRawPointer? {
        unsafe core.memory.remote(
            responder.writeKey, address: responder.writeAddress &+ offset, byteCount: byteCount,
            protectionDomain: protectionDomain, queuePair: serial, access: .remoteWrite)
    }

    /// Copies so that the last byte is seen last: applications poll it, whatever the specification says.
    private func copyForward(_ data: RawSpan, to target: UnsafeMutableRawPointer) {
        let last = data.byteCount - 1
        // Both are at least `last + 1` bytes: the packet's payload, and a range that was just checked.
        unsafe data.withUnsafeBytes { source in
            if last > 0 { unsafe target.copyMemory(from: source.baseAddress!, byteCount: last) }
            atomicMemoryFence(ordering: .releasing)
            unsafe target.storeBytes(of: source[last], toByteOffset: last, as: UInt8.self)
        }
    }

    // MARK: READ and atomics

    private mutating func executeRead(_ packet: RoCEPacket, _ core: inout EngineCore) -> Verdict {
        guard attributes.accessFlags.contains(.remoteRead), canSaveResponse else { return .invalid }
        let reth = packet.reth
        guard reth.length <= core.configuration.messageBytesMax, packetCount(reth.length) <= 1 << 22 else {
            return .invalid
        }
        if reth.length > 0 {
            let memory = unsafe core.memory.remote(
                reth.rkey.rawValue, address: reth.virtualAddress, byteCount: reth.length,
                protectionDomain: protectionDomain, queuePair: serial, access: .remoteRead)
            guard unsafe memory != nil else { return .accessError }
        }
        var saved = makeSaved(.read, packet)
        saved.endPSN = saved.firstPSN + Int(packetCount(reth.length))
        saved.address = reth.virtualAddress
        saved.rkey = reth.rkey.rawValue
        saved.byteLength = reth.length
        saved.answerAddress = reth.virtualAddress
        saved.answerLength = reth.length
        save(saved)
        return .executed(endsMessage: true)
    }

    private mutating func executeAtomic(_ packet: RoCEPacket, _ core: inout EngineCore) -> Verdict {
        guard attributes.accessFlags.contains(.remoteAtomic), canSaveResponse else { return .invalid }
        let header = packet.atomicETH
        guard header.virtualAddress & 7 == 0 else { return .invalid }
        let memory = unsafe core.memory.remote(
            header.rkey.rawValue, address: header.virtualAddress, byteCount: 8, protectionDomain: protectionDomain,
            queuePair: serial, access: .remoteAtomic)
        guard let memory = unsafe memory, Int(bitPattern: memory) & 7 == 0 else { return .accessError }
        // Atomic against the processors too, not only against other queue pairs. The 8 bytes are aligned and checked.
        let word = unsafe memory.assumingMemoryBound(to: Atomic<UInt64>.self)
        var saved = makeSaved(.atomic, packet)
        if packet.descriptor.operation == .fetchAdd {
            saved.original = unsafe word.pointee.wrappingAdd(header.swapOrAdd, ordering: .acquiringAndReleasing)
                .oldValue
        } else {
            saved.original = unsafe word.pointee.compareExchange(
                expected: header.compare, desired: header.swapOrAdd, ordering: .acquiringAndReleasing
            ).original
        }
        save(saved)
        return .executed(endsMessage: true)
    }

    private mutating func executeAtomicWrite(
        _ packet: RoCEPacket, _ bytes: RawSpan, _ core: inout EngineCore
    ) -> Verdict {
        guard attributes.accessFlags.contains(.remoteWrite), canSaveResponse else { return .invalid }
        let header = packet.reth
        guard header.length == 8, header.virtualAddress & 7 == 0 else { return .invalid }
        let memory = unsafe core.memory.remote(
            header.rkey.rawValue, address: header.virtualAddress, byteCount: 8, protectionDomain: protectionDomain,
            queuePair: serial, access: .remoteWrite)
        guard let memory = unsafe memory, Int(bitPattern: memory) & 7 == 0 else { return .accessError }
        let value = packet.payload(of: bytes).loadNative(UInt64.self, at: 0)
        // Aligned and checked, as above.
        unsafe memory.assumingMemoryBound(to: Atomic<UInt64>.self).pointee.store(value, ordering: .releasing)
        save(makeSaved(.empty, packet))
        return .executed(endsMessage: true)
    }

    /// FLUSH of what is written already: this queue pair's WRITEs are executed in order, by this processor.
    private mutating func executeFlush(_ packet: RoCEPacket, _ core: inout EngineCore) -> Verdict {
        let header = packet.feth
        let access = header.access
        guard header.isKnown, attributes.accessFlags.isSuperset(of: access), canSaveResponse else { return .invalid }
        let range = packet.reth
        guard range.length <= core.configuration.messageBytesMax else { return .invalid }
        // Of the whole region only the key counts. A range of no bytes still needs one, other than in a WRITE (as rxe).
        let memory =
            header.isWholeRegion
            ? core.memory.permits(
                range.rkey.rawValue, protectionDomain: protectionDomain, queuePair: serial, access: access)
            : unsafe core.memory.remote(
                range.rkey.rawValue, address: range.virtualAddress, byteCount: range.length,
                protectionDomain: protectionDomain, queuePair: serial, access: access) != nil
        guard memory else { return .accessError }
        // Everybody sees what was written before. Where the region is said to be persistent from then on, it is that too.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        save(makeSaved(.empty, packet))
        return .executed(endsMessage: true)
    }

    // MARK: Saved responses

    private var savedCount: UInt32 { responder.savedTail &- responder.savedHead }

    /// Whether there is a place for another READ or atomic: the oldest goes if it is full, unless it is unanswered; a
    /// peer that keeps to `max_rd_atomic` never makes that happen.
    private var canSaveResponse: Bool {
        let limit = attributes.destinationReadAtomicMax
        guard limit > 0 else { return false }
        if savedCount < limit { return true }
        let oldest = responder[saved: responder.savedHead]
        return !oldest.isPending || oldest.isReplay
    }

    private func makeSaved(_ kind: SavedResponse.Kind, _ packet: RoCEPacket) -> SavedResponse {
        let psn = packet.bth.psn
        return SavedResponse(
            kind: kind, isPending: true, firstPSN: psn, endPSN: psn + 1, rkey: 0, address: 0, byteLength: 0,
            answerPSN: psn, answerAddress: 0, answerLength: 0, nextPSN: psn, msn: responder.msn + 1,
            protectionDomain: protectionDomain, original: 0)
    }

    private mutating func save(_ response: SavedResponse) {
        while savedCount >= attributes.destinationReadAtomicMax {
            if responder[saved: responder.savedHead].isPending { responder.pendingCount -= 1 }
            responder.savedHead &+= 1
        }
        responder[saved: responder.savedTail] = response
        responder.savedTail &+= 1
        responder.pendingCount += 1
        // The response acknowledges what was before.
        responder.isAcknowledgementDue = false
    }

    /// A request that was executed: it is answered again, but never executed again; a READ reads again.
    private mutating func receiveDuplicate(_ packet: RoCEPacket, _ core: inout EngineCore) {
        core.counters.duplicateRequests &+= 1
        responder.lastRequestAt = core.now
        noteRepetition(packet)
        guard packet.isAnsweredByResponse else {
            // Behind a gap that was filled they come again as they came first, and are acknowledged like that.
            guard !responder.isAcknowledgementLimited || packet.descriptor.endsMessage || packet.bth.acknowledgeRequest
            else { return }
            responder.isAcknowledgementDue = true
            wantsTransmit = true
            return
        }
        let psn = packet.bth.psn
        // The newest first: a PSN comes again after 2^24 packets, and an old response may have been saved under it.
        var index = responder.savedTail
        while index != responder.savedHead {
            index &-= 1
            var saved = responder[saved: index]
            if psn - saved.firstPSN >= 0, psn - saved.endPSN < 0 {
                guard saved.prepareReplay(packet, mtuShift: pathMTUShift) else { break }
                if !saved.isPending { responder.pendingCount += 1 }
                saved.isReplay = !saved.isPending || saved.isReplay
                saved.isPending = true
                responder[saved: index] = saved
                wantsTransmit = true
                return
            }
        }
        core.counters.droppedSequence &+= 1
    }
}

extension SavedResponse {
    /// Sets up the answer to a repetition. `false` if the request is not this one, or no part of it.
    fileprivate mutating func prepareReplay(_ packet: RoCEPacket, mtuShift: UInt8) -> Bool {
        switch (kind, packet.descriptor.operation) {
        case (.atomic, .compareSwap), (.atomic, .fetchAdd), (.empty, .atomicWrite), (.empty, .flush): break
        case (.read, .readRequest):
            let skipped = UInt64(packet.bth.psn - firstPSN) << UInt64(mtuShift)
            guard packet.reth.rkey.rawValue == rkey, packet.reth.virtualAddress == address &+ skipped,
                skipped + UInt64(packet.reth.length) <= UInt64(byteLength)
            else { return false }
            // Who asks for a part while the answer is on its way wants the rest of that too.
            let end = skipped + UInt64(packet.reth.length)
            let pendingEnd = isPending ? answerAddress &- address + UInt64(answerLength) : 0
            answerAddress = packet.reth.virtualAddress
            answerLength = UInt32(max(end, pendingEnd) - skipped)
        default: return false
        }
        answerPSN = packet.bth.psn
        nextPSN = packet.bth.psn
        return true
    }
}

extension RoCEPacket {
    /// READ, atomics, ATOMIC WRITE, FLUSH: the answer is a response, not an acknowledgement.
    var isAnsweredByResponse: Bool {
        switch descriptor.operation {
        case .readRequest, .compareSwap, .fetchAdd, .atomicWrite, .flush: true
        default: false
        }
    }

    /// SEND, WRITE, ATOMIC WRITE, FLUSH: the answer says that it was executed, and no more.
    var isAnsweredWithoutData: Bool {
        switch descriptor.operation {
        case .readRequest, .compareSwap, .fetchAdd: false
        default: true
        }
    }

    /// The PSNs that a request takes: as many as the responses of a READ, otherwise 1.
    fileprivate func responsePacketCount(mtuShift: UInt8) -> UInt32 {
        guard descriptor.operation == .readRequest, reth.length > 0 else { return 1 }
        return (reth.length &- 1) >> UInt32(mtuShift) &+ 1
    }
}

extension FETH {
    /// What queue pair and region must permit.
    fileprivate var access: AccessFlags {
        (isGlobal ? AccessFlags.flushGlobal : []).union(isPersistent ? .flushPersistent : [])
    }
}

extension Verdict {
    var isExecuted: Bool { if case .executed = self { true } else { false } }
    static var invalid: Verdict { .refused(.invalidRequest, receive: .flushed) }
    static var accessError: Verdict { .refused(.remoteAccessError, receive: .flushed) }
}

extension Syndrome.NAKCode {
    /// The event at the side that refused.
    fileprivate var event: QueuePairEvent {
        switch self {
        case .invalidRequest: .requestError
        case .remoteAccessError: .accessError
        default: .fatal
        }
    }
}
