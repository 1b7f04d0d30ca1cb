// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

// Packets, with ICRCs that are right: what a malicious host can send, and a corrupting wire cannot.
extension FuzzWorld {
    /// One of the frames that left comes back to where it was sent, possibly changed. It stays on the wire, to come twice.
    func deliver(_ input: inout FuzzInput) {
        guard !wire.isEmpty else { return }
        let index = input.oneIn(4) ? input.below(wire.count) : 0
        var (bytes, path, identification) = wire[index]
        if !input.oneIn(8) { wire.remove(at: index) }
        if input.oneIn(8) {
            for _ in 0...input.below(3) {
                bytes[input.below(min(bytes.count, 64))] ^= UInt8(1) << UInt8(input.below(8))
            }
            identification = 0
            seal(&bytes, from: path.source)
        }
        receive(bytes, from: origin(path.source, &input, segmentIndex: identification))
    }

    /// All frames, in order, none lost: how a connection gets anywhere.
    func deliverAll(_ input: inout FuzzInput) {
        let frames = wire
        wire.removeAll(keepingCapacity: true)
        for (bytes, path, identification) in frames {
            receive(bytes, from: origin(path.source, &input, segmentIndex: identification))
        }
        drain()
    }

    /// Bytes of the input, as they are but for the ICRC and, mostly, the queue pair and the PSN.
    func injectRaw(_ index: Int, _ input: inout FuzzInput) {
        var bytes = input.take(input.below(64) * 4)
        let patches = input.byte()
        if bytes.count >= 12, patches & 1 == 0 { store(queuePairs[index].queues.qpn.rawValue, in: &bytes, at: 5) }
        if bytes.count >= 12, patches & 6 != 6 { store(psn(index, &input), in: &bytes, at: 9) }
        let source = source(index, &input)
        if bytes.count >= 4 { seal(&bytes, from: source) }
        receive(bytes, from: origin(source, &input))
    }

    /// A packet that fits what the queue pair expects, or nearly.
    func inject(_ index: Int, _ input: inout FuzzInput) {
        var bth = BTH(
            opcode: opcode(queuePairs[index].type, &input), destination: queuePairs[index].queues.qpn,
            psn: PSN(truncating: psn(index, &input)))
        let flags = input.byte()
        bth.acknowledgeRequest = flags & 1 != 0
        bth.solicitedEvent = flags & 2 != 0
        bth.migrationRequest = flags & 4 != 0
        bth.becn = flags & 8 != 0
        let size = [0, 1, 8, 255, 256, 257, 1024, input.below(600)][Int(flags >> 4) & 7]
        var packet = RoCEPacket(bth: bth, payloadByteCount: bth.opcode.descriptor.exactPayloadByteCount ?? size)
        fillHeaders(&packet, size, &input)
        var bytes = [UInt8](repeating: 0x66, count: packet.byteCount)
        bytes.withUnsafeMutableBytes { buffer in
            var span = buffer.mutableBytes
            packet.emitHeaders(into: &span)
            packet.emitPad(into: &span)
        }
        let source = source(index, &input)
        seal(&bytes, from: source)
        receive(bytes, from: origin(source, &input))
    }

    private func fillHeaders(_ packet: inout RoCEPacket, _ size: Int, _ input: inout FuzzInput) {
        let headers = packet.descriptor.headers
        if headers.contains(.xrceth) {
            packet.xrceth = XRCETH(sharedReceiveQueue: input.oneIn(16) ? input.integer() : extendedQueue.number)
        }
        if headers.contains(.reth) {
            let length = input.oneIn(2) ? FuzzMemory.length(&input) : UInt32(size)
            packet.reth = RETH(
                virtualAddress: memory.address(&input), rkey: MemoryKey(rawValue: memory.key(&input, windows: windows)),
                length: length)
        }
        if headers.contains(.atomicETH) {
            packet.atomicETH = AtomicETH(
                virtualAddress: memory.address(&input), rkey: MemoryKey(rawValue: memory.key(&input, windows: windows)),
                swapOrAdd: UInt64(input.byte()), compare: UInt64(input.byte()))
        }
        if headers.contains(.aeth) {
            let syndrome = input.oneIn(2) ? input.byte() : 0x1F
            packet.aeth = AETH(syndrome: Syndrome(rawValue: syndrome), msn: MSN(truncating: UInt32(input.byte())))
        }
        if headers.contains(.atomicAckETH) { packet.atomicAckETH = AtomicAckETH(originalValue: input.integer()) }
        if headers.contains(.deth) {
            packet.deth = DETH(
                queueKey: QueueKey(rawValue: input.oneIn(4) ? input.integer() : 0x1234),
                source: QPN(truncating: UInt32(input.byte())))
        }
        if headers.contains(.ieth) {
            packet.ieth = IETH(rkey: MemoryKey(rawValue: memory.key(&input, windows: windows)))
        }
        if headers.contains(.immDt) { packet.immDt = ImmDt(networkOrderValue: 0x0102_0304) }
    }

    private func opcode(_ type: QueuePairType, _ input: inout FuzzInput) -> Opcode {
        let byte = input.byte()
        if byte >= 240 { return Opcode(rawValue: input.byte()) }
        switch type {
        case .rc: return Opcode(rawValue: byte % 0x1E)
        case .xrcInitiator, .xrcTarget: return Opcode(rawValue: byte % 0x1E).xrc
        case .uc: return Opcode(rawValue: 0x20 | byte % 0x0C)
        case .ud, .gsi, .rawPacket: return Opcode(rawValue: 0x64 | byte & 1)
        }
    }

    /// Close to what the responder expects next, to what the requester has in flight, or anywhere.
    private func psn(_ index: Int, _ input: inout FuzzInput) -> UInt32 {
        let choice = input.byte()
        let delta = UInt32(choice & 7)
        switch choice >> 3 & 7 {
        case 0: return input.integer(UInt32.self) & 0xFF_FFFF
        case 1, 2: return attributes(index).sendPSN &- 1 &- delta
        case 3: return attributes(index).receivePSN &+ delta &- 4
        default: return attributes(index).receivePSN
        }
    }

    private func source(_ index: Int, _ input: inout FuzzInput) -> GID {
        let expected = queuePairs[index].remote == nil ? Self.peer : Self.own
        if !input.oneIn(32) { return expected }
        return expected == Self.own ? Self.peer : Self.own
    }

    private func origin(_ source: GID, _ input: inout FuzzInput, segmentIndex: UInt16 = 0) -> DatagramOrigin {
        DatagramOrigin(
            source: source, sourcePort: Self.sourcePort, localIndex: input.oneIn(64) ? input.byte() : 0,
            segmentIndex: segmentIndex, trafficClass: input.oneIn(8) ? 3 : 0)
    }

    private func seal(_ bytes: inout [UInt8], from source: GID) {
        let flow = ICRC.Flow(source: source, destination: Self.own, sourcePort: Self.sourcePort)
        bytes.withUnsafeMutableBytes { buffer in
            var span = buffer.mutableBytes
            ICRC.seal(&span, ICRC.seed(flow, udpPayloadByteCount: buffer.count))
        }
    }

    /// Three bytes, big-endian.
    private func store(_ value: UInt32, in bytes: inout [UInt8], at offset: Int) {
        bytes[offset] = UInt8(truncatingIfNeeded: value >> 16)
        bytes[offset + 1] = UInt8(truncatingIfNeeded: value >> 8)
        bytes[offset + 2] = UInt8(truncatingIfNeeded: value)
    }
}
