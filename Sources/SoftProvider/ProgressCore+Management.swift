// SPDX-License-Identifier: Apache-2.0
import PacketIO
import RoCETransport
import RoCEWire

// Queue pair 1 of the device, which all its processes share.
extension ProgressCore {
    /// Takes management datagrams from the engine to the communication management and back.
    @inline(__always)
    mutating func exchangeManagementDatagrams(now: UInt64) {
        if engine.hasManagementDatagrams || connectionDeadline <= now { runConnections(now: now) }
    }

    @inline(never)
    private mutating func runConnections(now: UInt64) {
        var generator = SystemRandomNumberGenerator()
        while let received = engine.nextManagementDatagram() {
            connections.receive(received.datagram, from: received.peer, now: now, using: &generator)
        }
        connections.advance(to: now)
        sendManagementDatagrams()
        noteConnections()
    }

    /// Gives the engine what the communication management has to say.
    mutating func sendManagementDatagrams() {
        while let message = connections.nextMessage() { engine.send(message) }
    }

    /// Hands a packet to queue pair 1 over to the process that it is for, which judges it.
    /// - Returns: `false` where it is for this process, or for none.
    @inline(never)
    mutating func handOver(_ bytes: RawSpan, segment index: Int, of datagram: Datagram) -> Bool {
        guard case .packet(let packet) = RoCEPacket.parse(bytes), packet.bth.destination == .gsi,
            case .datagram(let message) = ManagementDatagram.parse(packet.payload(of: bytes)),
            let local = link.gid(at: datagram.localIndex)
        else { return false }
        var single = datagram
        unsafe single.base = datagram.base + index * datagram.segmentSize
        single.byteCount = bytes.byteCount
        single.segmentSize = bytes.byteCount
        single.firstSegment = datagram.firstSegment + index
        switch message.message.addressee {
        case .service(let service):
            return !connections.listens(to: service, at: local) && link.forward(single, toService: service)
        case .communication(let id):
            if id.slot == link.slot || id.slot == 0 { return false }
            // A living process that cannot take it now gets it again; of a dead one's, the answer is ours to give.
            return link.forward(single, toSlot: id.slot)
                || link.isSlotTaken(id.slot, localIndex: datagram.localIndex)
        }
    }
}
