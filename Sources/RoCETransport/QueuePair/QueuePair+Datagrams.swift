// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// UD, and the general services interface: one packet a message, no answers.
extension QueuePair {
    // MARK: Sending

    /// Sends datagrams, up to `budget` bytes.
    mutating func transmitDatagrams(
        _ core: inout EngineCore, _ queue: inout TransmitQueue, budget: inout Int
    ) -> TurnOutcome {
        guard state == .readyToSend else { return .idle }
        while sendQueue.posted != requester.started {
            if budget <= 0 { return .turnOver }
            let index = requester.started
            let request = sendQueue.request(at: index)
            let outcome = sendDatagram(request, at: index, &core, &queue, budget: &budget)
            if case .queueFull = outcome { return .queueFull }
            var progress = SendProgress(
                firstPSN: requester.nextPSN, packetCount: 0, byteLength: 0, operation: request.operation,
                flags: request.flags)
            if case .failed(let status) = outcome { progress.failure = UInt8(truncatingIfNeeded: status.rawValue) }
            requester[progress: index] = progress
            requester.started &+= 1
            requester.next = requester.started
            retireSends(&core)
            guard state == .readyToSend else { return .idle }
        }
        return .idle
    }

    private enum DatagramOutcome {
        case sent
        case queueFull
        case failed(CompletionStatus)
    }

    private mutating func sendDatagram(
        _ request: SendWorkRequest, at index: UInt32, _ core: inout EngineCore, _ queue: inout TransmitQueue,
        budget: inout Int
    ) -> DatagramOutcome {
        guard request.operation.isSupported(by: type), Int(request.scatterGatherCount) <= sendQueue.scatterGatherMax,
            let local = core.address(request.address.localIndex)
        else { return .failed(.localQueuePairOperationError) }
        let list = list(of: request, at: index)
        let isInline = request.flags.contains(.inline)
        if isInline, Int(request.inlineLength) > sendQueue.inlineMax { return .failed(.localQueuePairOperationError) }
        let byteCount = isInline ? UInt64(request.inlineLength) : list.byteCount
        // IBTA C10-93.1.1, as rxe: longer than the port's MTU is not sent, and not an error.
        guard byteCount <= UInt64(local.mtu.byteCount) else { return .sent }
        let path = TransmitPath(
            source: local.gid, destination: request.address.destination, sourcePort: local.sourcePort,
            localIndex: request.address.localIndex, trafficClass: request.address.trafficClass,
            hopLimit: request.address.hopLimit)
        let opcode: Opcode = request.operation == .sendWithImmediate ? .udSendOnlyImmediate : .udSendOnly
        var packet = RoCEPacket(
            bth: BTH(
                opcode: opcode, destination: QPN(truncating: request.remoteQPN), psn: requester.nextPSN,
                solicitedEvent: request.flags.contains(.solicited)),
            payloadByteCount: Int(byteCount))
        let key = QueueKey(rawValue: request.remoteQKey)
        packet.deth = DETH(
            queueKey: key.isControlled && type != .gsi ? QueueKey(rawValue: attributes.qkey) : key, source: qpn)
        if request.operation == .sendWithImmediate { packet.immDt = ImmDt(networkOrderValue: request.immediate) }
        let source: PayloadSource =
            isInline
            ? unsafe .memory(sendQueue.inlineData(of: sendQueue.slot(at: index))) : .list(list, offset: 0)
        switch queue.write(packet, payload: source, path: path, memory: &core.memory) {
        case .written: break
        case .queueFull: return .queueFull
        case .inaccessible: return .failed(.localProtectionError)
        }
        core.counters.packetsSent &+= 1
        budget -= packet.byteCount
        requester.nextPSN += 1
        requester.endPSN = requester.nextPSN
        requester.unackedPSN = requester.nextPSN
        return .sent
    }

    // MARK: Receiving

    /// A datagram for this queue pair, its ICRC checked.
    mutating func receiveDatagram(
        _ packet: RoCEPacket, _ bytes: RawSpan, from origin: DatagramOrigin, local: GID, _ core: inout EngineCore
    ) {
        guard state != .reset, state != .initialized, state != .error else {
            core.counters.droppedState &+= 1
            return
        }
        let key = type == .gsi ? QueueKey.gsi.rawValue : attributes.qkey
        guard packet.deth.queueKey.rawValue == key else {
            core.counters.droppedKey &+= 1
            return
        }
        // Looked at before it is taken: what does not fit uses no receive up.
        let needed = UInt64(packet.payloadByteCount + RouteHeaderArea.byteCount)
        guard let capacity = responder.hasReceive ? responder.receiveCapacity : receiveQueue.nextByteCount,
            capacity >= needed, takeReceive(&core)
        else {
            core.counters.droppedNoReceive &+= 1
            return
        }
        guard responder.receiveCapacity >= needed, placeDatagram(packet, bytes, from: origin, local: local, core) else {
            failReceive(.localProtectionError, &core)
            raise(.fatal)
            enterError(&core)
            return
        }
        responder.hasReceive = false
        var entry = CompletionEntry(
            id: responder.receiveID, status: .success, operation: .receive, qpn: qpn.rawValue)
        entry.byteLength = UInt32(needed)
        entry.flags = .grh
        entry.sourceQPN = packet.deth.source.rawValue
        // The service level says which header lies in the 40 bytes, as rxe does.
        entry.serviceLevel = origin.source.isIPv4Mapped ? 2 : 1
        if packet.descriptor.headers.contains(.immDt) {
            entry.flags.insert(.withImmediate)
            entry.immediate = packet.immDt.networkOrderValue
        }
        core.complete(receiveCompletionQueue, entry, solicited: packet.bth.solicitedEvent)
    }

    /// Writes the 40 bytes of route header and the payload behind them.
    private func placeDatagram(
        _ packet: RoCEPacket, _ bytes: RawSpan, from origin: DatagramOrigin, local: GID, _ core: borrowing EngineCore
    ) -> Bool {
        var area = InlineArray<5, UInt64>(repeating: 0)
        // The array's own 40 bytes, which have no padding.
        var areaSpan = area.mutableSpan
        var areaBytes = unsafe areaSpan.mutableBytes
        RouteHeaderArea.emit(
            into: &areaBytes, source: origin.source, destination: local, trafficClass: origin.trafficClass,
            hopLimit: 64, udpPayloadByteCount: bytes.byteCount)
        let list = receiveList
        let isHeaderPlaced = unsafe areaBytes.bytes.withUnsafeBytes {
            unsafe list.scatter($0, to: 0, memory: core.memory)
        }
        guard isHeaderPlaced else { return false }
        if packet.payloadByteCount == 0 { return true }
        return unsafe packet.payload(of: bytes).withUnsafeBytes {
            unsafe list.scatter($0, to: UInt64(RouteHeaderArea.byteCount), memory: core.memory)
        }
    }
}
