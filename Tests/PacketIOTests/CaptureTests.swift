// SPDX-License-Identifier: Apache-2.0
import Foundation
import RoCEWire
import TestNetwork
import Testing

@testable import PacketIO

@Suite("A capture") struct CaptureTests {
    private static let fixtures = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/Captures")

    /// The frames of a little-endian pcap file with microseconds and Ethernet.
    private func frames(_ path: String) throws -> [[UInt8]] {
        let bytes = try [UInt8](Data(contentsOf: URL(filePath: path)))
        func word(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[at + $1]) << ($1 * 8) } }
        try #require(bytes.count >= 24 && word(0) == 0xA1B2_C3D4 && word(4) == 0x0004_0002 && word(20) == 1)
        var frames: [[UInt8]] = []
        var offset = 24
        while offset < bytes.count {
            let length = word(offset + 8)
            try #require(length == word(offset + 12) && offset + 16 + length <= bytes.count)
            #expect(word(offset + 4) < 1_000_000)
            frames.append(Array(bytes[offset + 16..<offset + 16 + length]))
            offset += 16 + length
        }
        return frames
    }

    private func temporaryPath() -> String {
        FileManager.default.temporaryDirectory.appending(path: "capture-\(UInt64.random(in: 0 ... .max)).pcap").path
    }

    private func parse(_ frame: [UInt8]) throws -> RoCEFrame {
        let result = frame.withUnsafeBytes { RoCEFrame.parse(ethernet: RawSpan(_unsafeBytes: $0)) }
        guard case .frame(let parsed) = result else { throw PacketIOError.invalid("\(result)") }
        return parsed
    }

    @Test(
        "makes the headers again that kernel rxe sent, the identification found from the ICRC",
        arguments: ["rc_ops.pcap", "uc_ops.pcap", "rc_rnr.pcap", "write_bw.pcap", "k612/rc_ops.pcap"])
    func remadeHeaders(name: String) throws {
        let originals = try frames(Self.fixtures.appending(path: name).path)
        #expect(!originals.isEmpty)
        let path = temporaryPath()
        defer { try? FileManager.default.removeItem(atPath: path) }
        do {
            var writer = try CaptureWriter(path: path)
            for original in originals {
                let frame = try parse(original)
                // As a UDP socket would have given it: the headers are lost.
                original[frame.udpPayload].withUnsafeBytes { payload in
                    writer.record(
                        payload, segmentSize: payload.count, firstSegment: 0,
                        flow: CaptureWriter.Flow(
                            source: frame.flow.source, destination: frame.flow.destination,
                            sourcePort: frame.flow.sourcePort, trafficClass: frame.trafficClass),
                        direction: .received, nanoseconds: 1_700_000_000_123_456_789)
                }
            }
            _ = consume writer
        }
        let copies = try frames(path)
        #expect(copies.count == originals.count)
        // All but the MAC addresses.
        for (copy, original) in zip(copies, originals) { #expect(copy[12...] == original[12...]) }
    }

    /// A burst whose segments have right ICRCs for identifications 0, 1, 2 …
    private func sealedBurst(_ link: TestLink, at address: GID, port: UInt16, count: Int, byteCount: Int) -> [UInt8] {
        var burst: [UInt8] = []
        for index in 0..<count {
            var segment = packet(to: link.slot, number: UInt32(index), byteCount: byteCount)
            let flow = ICRC.Flow(source: address, destination: address, sourcePort: port)
            let seed = ICRC.seed(flow, udpPayloadByteCount: byteCount, identification: UInt16(index))
            var span = segment.mutableSpan
            var bytes = span.mutableBytes
            ICRC.seal(&bytes, seed)
            burst += segment
        }
        return burst
    }

    @Test("of a link shows every segment sent and received as a frame with a right ICRC", arguments: ["IPv4", "IPv6"])
    func linkCapture(family: String) throws {
        let address = family == "IPv4" ? freshAddress() : loopbackIPv6
        let path = temporaryPath()
        defer { try? FileManager.default.removeItem(atPath: path) }
        var options = UDPLinkOptions()
        options.capturePath = path
        let link = try TestLink([address], options: options)
        let port = try #require(link.state(0)?.sourcePort)
        let burst = sealedBurst(link, at: address, port: port, count: 15, byteCount: 4112)
        let isTaken = sendUntilTaken(link, { link.segments.count == 15 }) {
            link.send(burst, to: address, segmentSize: 4112, trafficClass: 0x28)
        }
        #expect(isTaken)
        link.die()

        // All that was sent for nothing comes before.
        let captured = try Array(frames(path).filter { try parse($0).flow.sourcePort == port }.suffix(30))
        #expect(captured.count == 30)
        for (place, frame) in captured.enumerated() {
            let parsed = try parse(frame)
            #expect(Array(frame[parsed.udpPayload]) == Array(burst[place % 15 * 4112..<(place % 15 + 1) * 4112]))
            #expect(parsed.flow.source == address)
            #expect(parsed.flow.destination == address)
            #expect(parsed.trafficClass == 0x28)
            #expect(parsed.identification == (family == "IPv4" ? UInt16(place % 15) : 0))
            #expect(frame[11] == (place < 15 ? 1 : 2), "the source's MAC address tells the direction")
            let seed = ICRC.seed(
                parsed.flow, udpPayloadByteCount: parsed.udpPayload.count, identification: parsed.identification)
            let isValid = Array(frame[parsed.udpPayload]).withUnsafeBytes {
                ICRC.isValid(RawSpan(_unsafeBytes: $0), seed)
            }
            #expect(isValid)
        }
    }

    @Test(
        "is read by tcpdump", .enabled(if: access("/usr/bin/tcpdump", X_OK) == 0, "needs tcpdump"))
    func tcpdump() throws {
        let address = freshAddress()
        let path = temporaryPath()
        defer { try? FileManager.default.removeItem(atPath: path) }
        var options = UDPLinkOptions()
        options.capturePath = path
        let link = try TestLink([address], options: options)
        link.send(packet(to: link.slot, byteCount: 300), to: address)
        #expect(turn([link]) { link.segments.count == 1 })
        let port = try #require(link.state(0)?.sourcePort)
        link.die()

        let process = Process()
        let output = Pipe()
        process.executableURL = URL(filePath: "/usr/bin/tcpdump")
        process.arguments = ["-n", "-vv", "-r", path]
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try spawning.withLock { _ in try process.run() }
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
        let ip = address.addressText
        #expect(
            text.split(separator: "\n").filter { $0.contains("\(ip).\(port) > \(ip).4791: ") }.count == 2, "\(text)")
        #expect(!text.contains("bad cksum"), "\(text)")
    }

    @Test("that cannot be written is refused by name")
    func noSuchFolder() {
        var options = UDPLinkOptions()
        options.capturePath = "/nonexistent/capture.pcap"
        #expect(throws: PacketIOError.system(call: "open(/nonexistent/capture.pcap)", code: ENOENT)) {
            _ = try TestLink([freshAddress()], options: options)
        }
    }
}
