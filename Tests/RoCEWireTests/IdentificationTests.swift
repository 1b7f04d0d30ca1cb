// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

@Suite("IPv4 identifications that nobody sees")
struct IdentificationTests {
    private let flow = ICRC.Flow(source: GID("10.0.0.1")!, destination: GID("10.0.0.2")!, sourcePort: 50_000)

    /// A sealed RC SEND.
    private func packet(payload: Int, identification: UInt16, dontFragment: Bool = true) -> [UInt8] {
        let bth = BTH(opcode: .rcSendOnly, destination: QPN(truncating: 9), psn: PSN(truncating: 77))
        let packet = RoCEPacket(bth: bth, payloadByteCount: payload)
        var bytes = (0..<packet.byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        var span = bytes.mutableSpan
        var all = span.mutableBytes
        packet.emitHeaders(into: &all)
        packet.emitPad(into: &all)
        ICRC.seal(
            &all,
            ICRC.seed(
                flow, udpPayloadByteCount: packet.byteCount, identification: identification, dontFragment: dontFragment)
        )
        return bytes
    }

    @Test("are found at every length, with either fragment flag")
    func found() {
        var verifier = ICRCVerifier()
        var random = SplitMix64(seed: 4791)
        for payload in Array(0...300) + [1023, 1024, 2048, 4095, 4096] {
            let identification = UInt16.random(in: 0...0xFFFF, using: &random)
            let dontFragment = Bool.random(using: &random)
            let bytes = packet(payload: payload, identification: identification, dontFragment: dontFragment)
            let verdict = verifier.check(bytes.span.bytes, flow, expecting: ~identification)
            let right = ICRCVerifier.Verdict.explained(identification: identification, dontFragment: dontFragment)
            #expect(verdict == right, "payload \(payload)")
        }
    }

    @Test("cached seeds are the seeds computed anew")
    func seeds() {
        var cache = ICRCSeedCache()
        var random = SplitMix64(seed: 17)
        let flows = (1...6).flatMap { i -> [ICRC.Flow] in
            [
                ICRC.Flow(source: GID(ipv4: i), destination: GID(ipv4: i + 1), sourcePort: 0xC000),
                ICRC.Flow(
                    source: GID(high: 0xFD00 << 48, low: UInt64(i)), destination: GID("fd00::99")!, sourcePort: 0xC001),
            ]
        }
        for _ in 0..<20_000 {
            let flow = flows.randomElement(using: &random)!
            let length = [16, 20, 32, 1044, 4116].randomElement(using: &random)!
            let identification = UInt16.random(in: 0...0xFFFF, using: &random)
            let cached = cache.seed(flow, udpPayloadByteCount: length, identification: identification)
            let fresh = ICRC.seed(flow, udpPayloadByteCount: length, identification: identification)
            #expect(cached == fresh)
        }
    }

    @Test("of a socket's sender stay 0 or the segment's index; a stray one is refused")
    func zeroBased() {
        var verifier = ICRCVerifier()
        var peer = PeerIdentification()
        for burst in 0..<20 {
            for segment in 0..<(burst % 7 + 1) {
                let bytes = packet(payload: 64, identification: UInt16(segment))
                let taken = verifier.accepts(bytes.span.bytes, flow, segmentIndex: segment, peer: &peer)
                #expect(taken)
            }
        }
        for identification in [0x4242, 0xFFFF, 0x8000] as [UInt16] {
            let bytes = packet(payload: 64, identification: identification)
            let taken = verifier.accepts(bytes.span.bytes, flow, segmentIndex: 0, peer: &peer)
            #expect(!taken)
        }
        // A run that the kernel joined from the middle of a send.
        for segment in 0..<4 {
            let bytes = packet(payload: 64, identification: UInt16(segment + 5))
            let taken = verifier.accepts(bytes.span.bytes, flow, segmentIndex: segment, peer: &peer)
            #expect(taken)
        }
    }

    @Test("that count up, as the kernel's do in its captures, are all taken")
    func counting() throws {
        var refused = 0
        var seen = 0
        for capture in Capture.all where !capture.name.contains("vectors") {
            var verifier = ICRCVerifier()
            var peers: [GID: PeerIdentification] = [:]
            for frame in capture.frames {
                guard case .frame(let outer) = RoCEFrame.parse(ethernet: frame.span.bytes) else { continue }
                let payload = frame.span.bytes.extracting(outer.udpPayload)
                seen += 1
                if !verifier.accepts(
                    payload, outer.flow, segmentIndex: 0, peer: &peers[outer.flow.source, default: PeerIdentification()]
                ) {
                    refused += 1
                }
            }
        }
        #expect(seen > 1000)
        #expect(refused == 0)
    }

    @Test("once seen are part of the check: the kernel's frames pass with theirs and with no other")
    func seen() {
        var verifier = ICRCVerifier()
        var count = 0
        for capture in Capture.all {
            for frame in capture.frames {
                guard case .frame(let parsed) = RoCEFrame.parse(ethernet: frame.span.bytes),
                    parsed.flow.source.isIPv4Mapped
                else { continue }
                let packet = frame.span.bytes.extracting(parsed.udpPayload)
                var peer = PeerIdentification()
                func accepts(_ identification: UInt16, _ dontFragment: Bool) -> Bool {
                    verifier.accepts(
                        packet, parsed.flow, identification: identification, dontFragment: dontFragment, peer: &peer)
                }
                // The captures have frames that were made wrong on purpose.
                guard
                    verifier.check(packet, parsed.flow, expecting: parsed.identification)
                        != .wrong, accepts(parsed.identification, parsed.dontFragment)
                else { continue }
                count += 1
                #expect(!accepts(parsed.identification &+ 1, parsed.dontFragment), "\(capture)")
                #expect(!accepts(parsed.identification, !parsed.dontFragment), "\(capture)")
            }
        }
        #expect(count > 1000)
    }

    @Test("that jump are refused once and then followed")
    func jump() {
        var peer = PeerIdentification()
        var taken = (1000..<1010).map { peer.judge($0, dontFragment: true) }
        #expect(taken.allSatisfy { $0 })
        taken = [40_000, 40_001, 40_003, 40_002].map { peer.judge($0, dontFragment: true) }
        #expect(taken == [false, true, true, true])
        #expect(peer.expected(segmentIndex: 0) == 40_004)
    }

    @Test("wrap from 65535 to 0 without a refusal")
    func wrap() {
        var peer = PeerIdentification()
        for i in 65_000..<66_500 {
            let taken = peer.judge(UInt16(truncatingIfNeeded: i), dontFragment: true)
            #expect(taken, "\(i)")
        }
    }

    @Test("that never change are expected unchanged")
    func constant() {
        var peer = PeerIdentification()
        let taken = (0..<3).map { _ in peer.judge(0x1234, dontFragment: true) }
        #expect(taken == [true, true, true])
        #expect(peer.expected(segmentIndex: 3) == 0x1234)
    }

    @Test("that are random are believed after a few refusals")
    func random() {
        var peer = PeerIdentification()
        var random = SplitMix64(seed: 1)
        let taken = (0..<100).map { _ in peer.judge(UInt16.random(in: 256...0xFFFF, using: &random), dontFragment: true)
        }
        #expect(taken.suffix(50).allSatisfy { $0 })
        #expect(taken.filter { !$0 }.count < 40)
    }

    @Test("of corrupt packets from a well-known sender hardly ever fit")
    func corrupt() {
        var verifier = ICRCVerifier()
        var peer = PeerIdentification()
        var random = SplitMix64(seed: 99)
        let good = packet(payload: 256, identification: 0)
        _ = verifier.accepts(good.span.bytes, flow, segmentIndex: 0, peer: &peer)
        var taken = 0
        for _ in 0..<200_000 {
            var bad = good
            bad[Int.random(in: 8..<bad.count, using: &random)] ^= UInt8.random(in: 1...255, using: &random)
            bad[Int.random(in: 8..<bad.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            guard bad != good else { continue }
            if verifier.accepts(bad.span.bytes, flow, segmentIndex: 0, peer: &peer) { taken += 1 }
        }
        // The solver alone lets 2^-15 pass, some six.
        #expect(taken <= 1)
    }
}
