// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

@Suite("Frames that the kernel sent")
struct CaptureTests {
    /// A frame and what it holds; fails the test if it is not a RoCE packet.
    private func parse(_ frame: [UInt8]) throws -> (RoCEFrame, RoCEPacket) {
        guard case .frame(let outer) = RoCEFrame.parse(ethernet: frame.span.bytes) else {
            throw Refused("\(RoCEFrame.parse(ethernet: frame.span.bytes))")
        }
        let payload = frame.span.bytes.extracting(outer.udpPayload)
        guard case .packet(let packet) = RoCEPacket.parse(payload) else {
            throw Refused("\(RoCEPacket.parse(payload))")
        }
        return (outer, packet)
    }

    private struct Refused: Error {
        let why: String
        init(_ why: String) { self.why = why }
    }

    @Test("there are as many as the captures' own checker counts")
    func count() {
        #expect(Capture.all.count == 66)
        #expect(Capture.all.reduce(0) { $0 + $1.frames.count } == 1408)
    }

    @Test("all parse, and show every opcode of the captures' scenarios")
    func opcodes() throws {
        var seen: [UInt8: Int] = [:]
        for capture in Capture.all {
            for frame in capture.frames { seen[try parse(frame).1.bth.opcode.rawValue, default: 0] += 1 }
        }
        // Counted by another program.
        #expect(
            seen == [
                0x00: 16, 0x01: 26, 0x02: 16, 0x04: 247, 0x05: 2, 0x06: 28, 0x07: 72, 0x08: 28, 0x09: 2, 0x0A: 46,
                0x0B: 25, 0x0C: 48, 0x0D: 21, 0x0E: 79, 0x0F: 23, 0x10: 17, 0x11: 352, 0x12: 36, 0x13: 19, 0x14: 17,
                0x17: 3, 0x1D: 1, 0x20: 36, 0x21: 36, 0x22: 36, 0x24: 4, 0x25: 2, 0x26: 4, 0x27: 2, 0x28: 2, 0x29: 2,
                0x2A: 4, 0x2B: 2, 0x64: 136, 0x65: 18,
            ])
    }

    @Test("are the same bytes when written again from what was parsed", arguments: Capture.all)
    func roundTrip(_ capture: Capture) throws {
        for (index, frame) in capture.frames.enumerated() {
            let (outer, packet) = try parse(frame)
            #expect(try encode(frame, outer, packet) == Array(frame[..<outer.udpPayload.upperBound]), "frame \(index)")
        }
    }

    /// Writes a whole frame from parsed values; only the payload's bytes are taken from the original.
    private func encode(_ frame: [UInt8], _ outer: RoCEFrame, _ packet: RoCEPacket) throws -> [UInt8] {
        let parsed = EthernetHeader(parsing: frame.span.bytes)
        let ethernet = try #require(parsed)
        var bytes = [UInt8](repeating: 0xA5, count: outer.udpPayload.upperBound)
        var span = bytes.mutableSpan
        var all = span.mutableBytes
        ethernet.emit(into: &all)
        let ip = ethernet.byteCount
        if ethernet.etherType == .ipv4 {
            let header = IPv4Header(parsing: frame.span.bytes, at: ip)
            try #require(header).emit(into: &all, at: ip)
        } else {
            let header = IPv6Header(parsing: frame.span.bytes, at: ip)
            try #require(header).emit(into: &all, at: ip)
        }
        let udp = outer.udpPayload.lowerBound - UDPHeader.byteCount
        let udpHeader = UDPHeader(parsing: frame.span.bytes, at: udp)
        try #require(udpHeader).emit(into: &all, at: udp)

        var again = RoCEPacket(bth: packet.bth, payloadByteCount: packet.payloadByteCount)
        again.deth = packet.deth
        again.feth = packet.feth
        again.reth = packet.reth
        again.atomicETH = packet.atomicETH
        again.aeth = packet.aeth
        again.atomicAckETH = packet.atomicAckETH
        again.immDt = packet.immDt
        again.ieth = packet.ieth
        #expect(again.byteCount == outer.udpPayload.count)
        var udpPayload = all._mutatingExtracting(outer.udpPayload)
        let payloadOffset = again.emitHeaders(into: &udpPayload)
        #expect(payloadOffset == again.payloadOffset)
        for i in payloadOffset..<payloadOffset + again.payloadByteCount {
            udpPayload.storeBytes(of: frame[outer.udpPayload.lowerBound + i], toByteOffset: i, as: UInt8.self)
        }
        again.emitPad(into: &udpPayload)
        ICRC.seal(
            &udpPayload,
            ICRC.seed(
                outer.flow, udpPayloadByteCount: again.byteCount, identification: outer.identification,
                dontFragment: outer.dontFragment))
        return bytes
    }

    @Test("verify, and their ICRC tells the IPv4 identification", arguments: Capture.all)
    func icrc(_ capture: Capture) throws {
        var verifier = ICRCVerifier()
        for (index, frame) in capture.frames.enumerated() {
            let (outer, _) = try parse(frame)
            let payload = frame.span.bytes.extracting(outer.udpPayload)
            let verdict = verifier.check(payload, outer.flow, expecting: outer.identification)
            #expect(verdict == .exact, "frame \(index)")
            let seed = ICRC.seed(
                outer.flow, udpPayloadByteCount: payload.byteCount, identification: outer.identification,
                dontFragment: outer.dontFragment)
            let isValid = ICRC.isValid(payload, seed)
            #expect(isValid, "frame \(index)")
            guard outer.flow.source.isIPv4Mapped else { continue }
            for wrong in [outer.identification ^ 1, outer.identification &+ 0x5A5A, ~outer.identification] {
                let verdict = verifier.check(payload, outer.flow, expecting: wrong)
                let right = ICRCVerifier.Verdict.explained(identification: outer.identification, dontFragment: true)
                #expect(verdict == right, "frame \(index)")
            }
        }
    }

    @Test("do not verify with any one bit of the packet flipped, save those the ICRC leaves out")
    func corruption() throws {
        var verifier = ICRCVerifier()
        var passed = 0
        var tried = 0
        for name in ["rc_ops.pcap", "rc_pingpong_ipv6.pcap"] {
            let capture = try #require(Capture.all.first { $0.name == name })
            for frame in capture.frames {
                let (outer, _) = try parse(frame)
                for bit in 0..<outer.udpPayload.count * 8 where bit / 8 != 4 {
                    var bent = frame
                    bent[outer.udpPayload.lowerBound + bit / 8] ^= 1 << UInt8(bit % 8)
                    let payload = bent.span.bytes.extracting(outer.udpPayload)
                    let verdict = verifier.check(payload, outer.flow, expecting: outer.identification)
                    #expect(verdict != .exact)
                    tried += 1
                    if verdict != .wrong { passed += 1 }
                }
            }
        }
        // The deduction has a check of 15 bits: a few of some hundred thousand bent packets explain themselves.
        #expect(passed <= 4 + tried / 4096, "\(passed) of \(tried)")
    }

    @Test("never trap the parsers, cut at any length")
    func truncation() throws {
        for capture in Capture.all {
            for frame in capture.frames.prefix(40) {
                let (outer, packet) = try parse(frame)
                for length in 0..<outer.udpPayload.upperBound {
                    guard case .refused(let why) = RoCEFrame.parse(ethernet: frame.span.bytes.extracting(first: length))
                    else {
                        Issue.record("a frame cut to \(length) bytes parses")
                        continue
                    }
                    #expect(why == .truncated)
                }
                let payload = frame.span.bytes.extracting(outer.udpPayload)
                for length in 0..<payload.byteCount {
                    switch RoCEPacket.parse(payload.extracting(first: length)) {
                    case .refused: break
                    case .packet(let short): #expect(short.byteCount == length && packet.payloadByteCount > 0)
                    }
                }
            }
        }
    }
}
