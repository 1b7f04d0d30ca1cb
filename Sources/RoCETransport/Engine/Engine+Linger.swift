// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Answering for queue pairs that are gone.
extension Engine {
    /// Until when a device that is about to be closed should stay to answer repeated requests of its peers; `nil` if no
    /// peer may have missed an acknowledgement.
    public mutating func lingerDeadline(now: Timestamp) -> Timestamp? { lingering.deadline(now: now) }

    /// A packet for a number that is not in use: if it repeats what a destroyed queue pair acknowledged, it is
    /// acknowledged again. READs and atomics are not, since their data went with the queue pair; ATOMIC WRITE and FLUSH,
    /// whose answer has none, are.
    mutating func receiveForDestroyed(_ packet: RoCEPacket, _ bytes: RawSpan, from origin: DatagramOrigin) {
        if packet.bth.destination == .gsi { return receiveManagement(packet, bytes, from: origin) }
        guard let place = lingering.find(packet.bth.destination),
            packet.bth.opcode.rawValue & 0xE0 == lingering[place].opcodeBits, packet.descriptor.isRequest,
            packet.isAnsweredWithoutData
        else {
            core.counters.droppedUnknownQueuePair &+= 1
            return
        }
        let remains = lingering[place]
        guard remains.path.destination == origin.source, let local = core.address(origin.localIndex),
            local.gid == remains.path.source
        else {
            core.counters.droppedAddress &+= 1
            return
        }
        guard peers.accepts(bytes, from: origin, local: local.gid) else {
            core.counters.droppedICRC &+= 1
            return
        }
        guard packet.bth.psn - remains.expectedPSN < 0 else {
            core.counters.droppedState &+= 1
            return
        }
        core.counters.duplicateRequests &+= 1
        let emptyResponsePSN = packet.isAnsweredByResponse ? packet.bth.psn : nil
        lingering.requestWasRepeated(at: place, emptyResponsePSN: emptyResponsePSN, now: core.now)
    }

    /// Writes the acknowledgements that are due.
    /// - Returns: false if the queue is full.
    mutating func transmitForDestroyed(into queue: inout TransmitQueue) -> Bool {
        while queue.hasRoomForAcknowledge, let remains = lingering.takeAnswer() {
            let opcode: Opcode = remains.emptyResponsePSN == nil ? .rcAcknowledge : .rcReadResponseOnly
            var packet = RoCEPacket(
                bth: BTH(
                    opcode: Opcode(rawValue: opcode.rawValue | remains.opcodeBits), destination: remains.remoteQPN,
                    psn: remains.emptyResponsePSN ?? remains.expectedPSN - 1),
                payloadByteCount: 0)
            packet.aeth = AETH(syndrome: .acknowledged, msn: remains.msn)
            _ = queue.write(packet, payload: .none, path: remains.path, memory: &core.memory)
            core.counters.packetsSent &+= 1
        }
        return !lingering.hasAnswers
    }
}
