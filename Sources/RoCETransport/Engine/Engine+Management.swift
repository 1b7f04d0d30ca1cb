// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// A management datagram that queue pair 1 received.
public struct ReceivedManagementDatagram: Sendable {
    /// From whom.
    public let peer: ManagementPeer
    /// What.
    public let datagram: ManagementDatagram
}

/// Queue pair 1 as the communication management uses it: datagrams that came, and datagrams to send. Bounded: what does
/// not fit is dropped and counted, and sent again by who waits for an answer.
struct ManagementPort: Sendable {
    static let countMax = 4_096

    var received = Outbox<ReceivedManagementDatagram>()
    var waiting = Outbox<OutgoingManagementDatagram>()
    var psn = PSN(truncating: 0)
}

// Queue pair 1: the general services interface.
extension Engine {
    /// Whether ``nextManagementDatagram()`` has one. Mutating, though it changes nothing: see ``nextDeadline``.
    public var hasManagementDatagrams: Bool {
        mutating get { management.received.count > 0 }
    }

    /// The next management datagram that came; `nil` when there is none.
    public mutating func nextManagementDatagram() -> ReceivedManagementDatagram? { management.received.next() }

    /// Sends a management datagram to the peer's queue pair 1, with the next ``transmit(into:now:)``.
    public mutating func send(_ datagram: OutgoingManagementDatagram) {
        guard management.waiting.count < ManagementPort.countMax else {
            core.counters.managementDropped &+= 1
            return
        }
        management.waiting.append(datagram)
    }

    /// Says once, by ``QueuePairEvent/firstPacket``, that a packet came on a queue pair, from now on.
    public mutating func watchCommunication(_ qpn: QPN) throws(EngineError) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { throw .unknownObject }
        unsafe queuePair.pointee.isCommunicationWatched = true
    }

    /// A packet for number 1, where no queue pair has it.
    mutating func receiveManagement(_ packet: RoCEPacket, _ bytes: RawSpan, from origin: DatagramOrigin) {
        guard packet.bth.opcode == .udSendOnly, origin.group == nil else {
            core.counters.droppedState &+= 1
            return
        }
        guard packet.deth.queueKey == .gsi else {
            core.counters.droppedKey &+= 1
            return
        }
        guard let local = core.address(origin.localIndex) else {
            core.counters.droppedAddress &+= 1
            return
        }
        guard peers.accepts(bytes, from: origin, local: local.gid) else {
            core.counters.droppedICRC &+= 1
            return
        }
        guard management.received.count < ManagementPort.countMax else {
            core.counters.droppedNoReceive &+= 1
            return
        }
        guard case .datagram(let datagram) = ManagementDatagram.parse(packet.payload(of: bytes)) else {
            // Other users of queue pair 1: subnet administration, performance management.
            core.counters.droppedRequest &+= 1
            return
        }
        let peer = ManagementPeer(address: origin.source, local: local.gid, localIndex: origin.localIndex)
        management.received.append(ReceivedManagementDatagram(peer: peer, datagram: datagram))
    }

    /// Writes the management datagrams that wait.
    /// - Returns: false if the queue is full.
    mutating func transmitManagement(into queue: inout TransmitQueue) -> Bool {
        while let next = management.waiting.oldest {
            guard let local = core.address(next.peer.localIndex) else {
                // The address that it was to leave from is none of ours any more.
                core.counters.managementDropped &+= 1
                _ = management.waiting.next()
                continue
            }
            let path = TransmitPath(
                source: local.gid, destination: next.peer.address, sourcePort: local.sourcePort,
                localIndex: next.peer.localIndex)
            var packet = RoCEPacket(
                bth: BTH(opcode: .udSendOnly, destination: .gsi, psn: management.psn),
                payloadByteCount: ManagementDatagram.byteCount)
            packet.deth = DETH(queueKey: .gsi, source: .gsi)
            var words = InlineArray<32, UInt64>(repeating: 0)
            // The array's own 256 bytes, which have no padding.
            var span = words.mutableSpan
            var bytes = unsafe span.mutableBytes
            next.datagram.emit(into: &bytes)
            let outcome = unsafe bytes.bytes.withUnsafeBytes {
                unsafe queue.write(packet, payload: .memory($0.baseAddress!), path: path, memory: &core.memory)
            }
            if case .queueFull = outcome { return false }
            core.counters.packetsSent &+= 1
            management.psn += 1
            _ = management.waiting.next()
        }
        return true
    }
}
