// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

@Suite("What is no packet")
struct ParserTests {
    /// A well-formed packet of an opcode: headers of ones, so many bytes of payload, an ICRC of zeros.
    private func packet(_ opcode: UInt8, headers: Int, payload: Int, destination: UInt32 = 0x123456) -> [UInt8] {
        var bytes = [UInt8](repeating: 0x11, count: headers)
        let pad = -payload & 3
        bytes.replaceSubrange(0..<12, with: [opcode, UInt8(pad) << 4, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1])
        for i in 0..<3 { bytes[5 + i] = UInt8(truncatingIfNeeded: destination >> UInt32(16 - 8 * i)) }
        return bytes + [UInt8](repeating: 0xEE, count: payload) + [UInt8](repeating: 0, count: pad + 4)
    }

    private func refusal(_ bytes: [UInt8]) -> RoCEPacket.Refusal? {
        switch RoCEPacket.parse(bytes.span.bytes) {
        case .packet: nil
        case .refused(let why): why
        }
    }

    /// Opcode, bytes of headers, and the only payload that it may have: IBTA's table, independent of ours.
    static let layout: [(opcode: UInt8, headers: Int, exact: Int?)] = [
        (0x00, 12, nil), (0x01, 12, nil), (0x02, 12, nil), (0x03, 16, nil), (0x04, 12, nil), (0x05, 16, nil),
        (0x06, 28, nil), (0x07, 12, nil), (0x08, 12, nil), (0x09, 16, nil), (0x0A, 28, nil), (0x0B, 32, nil),
        (0x0C, 28, 0), (0x0D, 16, nil), (0x0E, 12, nil), (0x0F, 16, nil), (0x10, 16, nil), (0x11, 16, 0),
        (0x12, 24, 0), (0x13, 40, 0), (0x14, 40, 0), (0x16, 16, nil), (0x17, 16, nil), (0x1C, 32, 0), (0x1D, 28, 8),
        (0x20, 12, nil), (0x21, 12, nil), (0x22, 12, nil), (0x23, 16, nil), (0x24, 12, nil), (0x25, 16, nil),
        (0x26, 28, nil), (0x27, 12, nil), (0x28, 12, nil), (0x29, 16, nil), (0x2A, 28, nil), (0x2B, 32, nil),
        (0x64, 20, nil), (0x65, 24, nil), (0x81, 12, 16),
        (0xA0, 16, nil), (0xA1, 16, nil), (0xA2, 16, nil), (0xA3, 20, nil), (0xA4, 16, nil), (0xA5, 20, nil),
        (0xA6, 32, nil), (0xA7, 16, nil), (0xA8, 16, nil), (0xA9, 20, nil), (0xAA, 32, nil), (0xAB, 36, nil),
        (0xAC, 32, 0), (0xAD, 16, nil), (0xAE, 12, nil), (0xAF, 16, nil), (0xB0, 16, nil), (0xB1, 16, 0),
        (0xB2, 24, 0), (0xB3, 44, 0), (0xB4, 44, 0), (0xB6, 20, nil), (0xB7, 20, nil), (0xBC, 36, 0), (0xBD, 32, 8),
    ]

    @Test("every opcode outside the table is refused as unknown, at any length")
    func unknownOpcodes() {
        let known = Set(Self.layout.map(\.opcode))
        #expect(known.count == 65)
        for opcode in UInt8.min...UInt8.max {
            #expect(Opcode(rawValue: opcode).descriptor.isKnown == known.contains(opcode))
            guard !known.contains(opcode) else { continue }
            for length in [12, 16, 20, 44, 1024] {
                #expect(refusal(packet(opcode, headers: length, payload: 0)) == .unknownOpcode)
            }
        }
    }

    @Test("each opcode takes exactly its headers, pad and ICRC and refuses a byte less", arguments: Self.layout)
    func lengths(opcode: UInt8, headers: Int, exact: Int?) {
        for payload in exact.map({ [$0] }) ?? [0, 1, 2, 3, 4, 5, 255, 1024, 4096] {
            let whole = packet(opcode, headers: headers, payload: payload)
            guard case .packet(let parsed) = RoCEPacket.parse(whole.span.bytes) else {
                Issue.record("\(payload) bytes of payload are refused: \(String(describing: refusal(whole)))")
                continue
            }
            #expect(parsed.payloadOffset == headers && parsed.payloadByteCount == payload)
            #expect(parsed.byteCount == whole.count && parsed.icrcOffset == whole.count - 4)
            for length in 0..<whole.count {
                let cut = Array(whole.prefix(length))
                if length < 16 {
                    #expect(refusal(cut) == .truncated)
                } else if length < headers + (-payload & 3) + 4 {
                    #expect(refusal(cut) == .tooShortForOpcode)
                } else if length % 4 != 0 {
                    #expect(refusal(cut) == .unpadded)
                } else if exact != nil {
                    #expect(refusal(cut) == .payloadLength)
                } else {
                    #expect(refusal(cut) == nil)
                }
            }
        }
    }

    @Test("payload where the opcode has none, or not its length, is refused", arguments: Self.layout)
    func payloads(opcode: UInt8, headers: Int, exact: Int?) {
        guard let exact else { return }
        for payload in [0, 1, 3, 4, 5, 7, 8, 12, 16, 20, 1024] where payload != exact {
            #expect(refusal(packet(opcode, headers: headers, payload: payload)) == .payloadLength)
        }
        // Pad alone, of a length that is a multiple of four: three bytes of payload and one of pad.
        var padded = packet(opcode, headers: headers, payload: exact + 4)
        padded[1] |= 0x10
        #expect(refusal(padded) == .payloadLength)
    }

    @Test("a pad count that eats into the headers is refused, not subtracted")
    func padUnderflow() {
        for pad in UInt8(1)...3 {
            var empty = packet(0x04, headers: 12, payload: 0)
            empty[1] = pad << 4
            #expect(refusal(empty) == .tooShortForOpcode)
            var acknowledge = packet(0x11, headers: 16, payload: 0)
            acknowledge[1] = pad << 4
            #expect(refusal(acknowledge) == .tooShortForOpcode)
        }
    }

    @Test("any transport version but 0 is refused")
    func transportVersion() {
        for version in UInt8(1)...15 {
            var bytes = packet(0x04, headers: 12, payload: 8)
            bytes[1] |= version
            #expect(refusal(bytes) == .transportVersion)
        }
    }

    @Test("queue pair 0 is refused, and the multicast queue pair save in datagrams")
    func destinations() {
        #expect(refusal(packet(0x04, headers: 12, payload: 8, destination: 0)) == .destination)
        #expect(refusal(packet(0x04, headers: 12, payload: 8, destination: 0xFFFFFF)) == .destination)
        #expect(refusal(packet(0x64, headers: 20, payload: 8, destination: 0)) == .destination)
        #expect(refusal(packet(0x64, headers: 20, payload: 8, destination: 0xFFFFFF)) == nil)
        #expect(refusal(packet(0x64, headers: 20, payload: 256, destination: 1)) == nil)
    }

    @Test("random bytes never trap, and whatever parses is consistent and writes its own headers again")
    func fuzz() {
        var random = SplitMix64(seed: 0x5EED_2026_1124)
        var parsedCount = 0
        for _ in 0..<200_000 {
            var bytes = (0..<Int.random(in: 0...96, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            // Half of them get past the first two gates.
            if bytes.count > 1, Bool.random(using: &random) {
                bytes[0] = Self.layout.randomElement(using: &random)!.opcode
                bytes[1] &= 0xF0
            }
            guard case .packet(let packet) = RoCEPacket.parse(bytes.span.bytes) else { continue }
            parsedCount += 1
            #expect(packet.byteCount == bytes.count && packet.payloadByteCount >= 0)
            #expect(packet.payload(of: bytes.span.bytes).byteCount == packet.payloadByteCount)
            var again = bytes
            var span = again.mutableSpan
            var all = span.mutableBytes
            packet.emitHeaders(into: &all)
            // A DETH and an XRCETH have a reserved byte, which is not kept.
            if packet.descriptor.headers.contains(.deth) { again[16] = bytes[16] }
            if packet.descriptor.headers.contains(.xrceth) { again[12] = bytes[12] }
            #expect(again == bytes)
        }
        #expect(parsedCount > 5_000)
    }

    @Test("random frames never trap")
    func fuzzFrames() {
        var random = SplitMix64(seed: 0xF4A3)
        let frames = Capture.all.flatMap { $0.frames.prefix(4) }
        for _ in 0..<100_000 {
            var frame = frames.randomElement(using: &random)!
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                frame[Int.random(in: 0..<min(frame.count, 70), using: &random)] = UInt8.random(
                    in: 0...255, using: &random)
            }
            if Bool.random(using: &random) { frame.removeLast(Int.random(in: 0..<frame.count, using: &random)) }
            guard case .frame(let outer) = RoCEFrame.parse(ethernet: frame.span.bytes) else { continue }
            #expect(outer.udpPayload.upperBound <= frame.count)
            _ = RoCEPacket.parse(frame.span.bytes.extracting(outer.udpPayload))
        }
    }
}

/// A small generator with a seed.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}
