// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

@testable import RoCETransport

@Suite("What is remembered of senders")
struct PeerTableTests {
    private let source = GID(ipv4: 0x0A09_0001)

    /// A sealed UD SEND.
    private func packet(to destination: GID, identification: UInt16) -> [UInt8] {
        let bth = BTH(opcode: .udSendOnly, destination: .multicast, psn: PSN(truncating: 1))
        let packet = RoCEPacket(bth: bth, payloadByteCount: 64)
        var bytes = [UInt8](repeating: 0, count: packet.byteCount)
        var span = bytes.mutableSpan
        var all = span.mutableBytes
        packet.emitHeaders(into: &all)
        ICRC.seal(
            &all,
            ICRC.seed(
                ICRC.Flow(source: source, destination: destination, sourcePort: 50_000),
                udpPayloadByteCount: packet.byteCount, identification: identification))
        return bytes
    }

    /// Found by mckey over rxe: Linux counts apart for each destination, so a group's identifications are far from those
    /// of our address. All ten datagrams of a sender that was known already were taken for damaged.
    @Test("A sender that is known by what it sends to our address is learnt anew for a group")
    func groups() {
        var table = PeerTable()
        let own = GID(ipv4: 0x0A09_0002)
        let group = GID(ipv4: 0xEF07_0707)
        let origin = DatagramOrigin(source: source, sourcePort: 50_000, localIndex: 0)
        for number in 0..<100 {
            let bytes = packet(to: own, identification: UInt16(1000 + number))
            let isAccepted = table.accepts(bytes.span.bytes, from: origin, local: own)
            #expect(isAccepted)
        }
        for number in 0..<10 {
            let bytes = packet(to: group, identification: UInt16(46_930 + number))
            let isAccepted = table.accepts(bytes.span.bytes, from: origin, local: group)
            #expect(isAccepted)
        }
        // And what it sends to us goes on as before.
        let next = packet(to: own, identification: 1100)
        let isAccepted = table.accepts(next.span.bytes, from: origin, local: own)
        #expect(isAccepted)
    }
}
