// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import TestNetwork
import Testing

@testable import PacketIO

/// What the ICRC depends on: the IPv4 identifications that the kernel gives to what our sockets send.
///
/// Seen in a network namespace of the test's own, whose loopback segments bursts before they are captured.
@Suite("On the wire") struct IdentificationTests {
    @Test(
        "a packet has identification 0, and segment i of a burst has i, all with don't fragment and a right ICRC",
        .enabled(if: Privilege.networkNamespaces, "needs CAP_SYS_ADMIN, CAP_NET_RAW and iproute2"),
        arguments: ["IPv4", "IPv6"])
    func identifications(family: String) throws {
        let address = family == "IPv4" ? GID(ipv4: 0x7F00_0001) : loopbackIPv6
        let frames = try inOwnNetwork(segmentsMax: 1) { () throws -> [[UInt8]] in
            let capture = try FileDescriptor(
                CLinuxNet.socket(AF_PACKET, clinuxnet_sock_raw, Int32(UInt16(0x0003).bigEndian)),
                call: "socket(AF_PACKET)")
            let link = try TestLink([address])
            let port = link.state(0)?.sourcePort ?? 0
            link.send(sealed(1, link: link, address: address, port: port), to: address)
            link.send(sealed(5, link: link, address: address, port: port), to: address, segmentSize: 1000)
            link.send(sealed(1, link: link, address: address, port: port), to: address)
            // The burst was cut up on its way, so nothing comes as one.
            guard turn([link], until: { link.segments.count == 7 }) else { return [] }
            return read(capture.number)
        }
        // Loopback shows each frame going out and coming in.
        let roce = frames.compactMap { frame -> (RoCEFrame, [UInt8])? in
            let result = frame.withUnsafeBytes { RoCEFrame.parse(ethernet: RawSpan(_unsafeBytes: $0)) }
            guard case .frame(let parsed) = result else { return nil }
            return (parsed, Array(frame[parsed.udpPayload]))
        }
        #expect(roce.count == 14)
        let expected: [UInt16] = family == "IPv4" ? [0, 0, 1, 2, 3, 4, 0] : [0, 0, 0, 0, 0, 0, 0]
        // Which segment has which is told by its ICRC.
        #expect(roce.map(\.0.identification).sorted() == expected.flatMap { [$0, $0] }.sorted())
        for (frame, payload) in roce {
            #expect(frame.dontFragment)
            let seed = ICRC.seed(frame.flow, udpPayloadByteCount: payload.count, identification: frame.identification)
            #expect(payload.withUnsafeBytes { ICRC.isValid(RawSpan(_unsafeBytes: $0), seed) })
        }
    }

    /// Segments with ICRCs for identifications 0, 1, 2 …
    private func sealed(_ count: Int, link: TestLink, address: GID, port: UInt16) -> [UInt8] {
        (0..<count).flatMap { index -> [UInt8] in
            var segment = packet(to: link.slot, number: UInt32(index), byteCount: 1000)
            let flow = ICRC.Flow(source: address, destination: address, sourcePort: port)
            let seed = ICRC.seed(flow, udpPayloadByteCount: 1000, identification: UInt16(index))
            var span = segment.mutableSpan
            var bytes = span.mutableBytes
            ICRC.seal(&bytes, seed)
            return segment
        }
    }

    private func read(_ descriptor: Int32) -> [[UInt8]] {
        var frames: [[UInt8]] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count <= 0 { return frames }
            frames.append(Array(buffer[..<count]))
        }
    }
}
