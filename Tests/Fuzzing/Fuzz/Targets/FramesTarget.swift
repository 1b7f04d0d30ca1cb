// SPDX-License-Identifier: Apache-2.0
import RoCEWire

extension FuzzTarget {
    /// The parsers, on whole Ethernet frames and on bare UDP payloads: total, and what they accept is what they would write.
    static let frames = FuzzTarget(name: "frames", seeds: { $0 }) { bytes in
        let span = bytes.bytes
        if case .frame(let frame) = RoCEFrame.parse(ethernet: span) {
            require(frame.udpPayload.upperBound <= bytes.count, "the payload ends behind the frame")
            let payload = span.extracting(frame.udpPayload)
            checkPacket(payload)
            checkVerdicts(payload, frame)
        }
        _ = RoCEFrame.parse(ip: span)
        checkPacket(span)
    }

    private static func checkPacket(_ bytes: RawSpan) {
        guard case .packet(let packet) = RoCEPacket.parse(bytes) else { return }
        let end = packet.payloadOffset + packet.payloadByteCount
        require(packet.descriptor.isKnown, "an unknown opcode was accepted")
        require(
            packet.payloadByteCount >= 0 && packet.payloadByteCount <= bytes.byteCount,
            "the payload's length is impossible")
        require(packet.byteCount == bytes.byteCount, "headers, payload, pad and ICRC are not the packet")
        require(end + packet.bth.padCount == packet.icrcOffset, "the pad is not between payload and ICRC")
        require(packet.payload(of: bytes).byteCount == packet.payloadByteCount, "another payload")
        if let exact = packet.descriptor.exactPayloadByteCount {
            require(packet.payloadByteCount == exact, "a payload of \(packet.payloadByteCount) where \(exact) is due")
        }
        checkRoundTrip(packet, of: bytes.byteCount)
    }

    /// Writing a parsed packet and parsing that changes nothing. (The bytes may: reserved bits are not kept.)
    private static func checkRoundTrip(_ packet: RoCEPacket, of byteCount: Int) {
        var first = [UInt8](repeating: 0, count: byteCount)
        emit(packet, into: &first)
        guard case .packet(let again) = RoCEPacket.parse(first.span.bytes) else {
            fatalError("what the emitter wrote is refused: \(packet.bth)")
        }
        var second = [UInt8](repeating: 0, count: byteCount)
        emit(again, into: &second)
        require(first == second, "the second writing differs: \(packet.bth)")
        require(again.bth == packet.bth, "another BTH: \(packet.bth), \(again.bth)")
    }

    private static func emit(_ packet: RoCEPacket, into bytes: inout [UInt8]) {
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        require(packet.emitHeaders(into: &raw) == packet.payloadOffset, "headers of another length")
        packet.emitPad(into: &raw)
    }

    /// The check that knows the identification and the one that must find it agree.
    private static func checkVerdicts(_ payload: RawSpan, _ frame: RoCEFrame) {
        let seed = ICRC.seed(
            frame.flow, udpPayloadByteCount: payload.byteCount, identification: frame.identification,
            dontFragment: frame.dontFragment)
        let isRight = ICRC.isValid(payload, seed)
        var verifier = ICRCVerifier()
        switch verifier.check(payload, frame.flow, expecting: 0) {
        case .wrong: require(!isRight, "a right ICRC was called wrong")
        case .exact:
            require(
                isRight == (frame.identification == 0 && frame.dontFragment),
                "an ICRC is exact with another identification")
        case .explained(let identification, let dontFragment):
            let isTheOne = identification == frame.identification && dontFragment == frame.dontFragment
            require(isRight == isTheOne, "the ICRC was explained by \(identification), not \(frame.identification)")
        }
    }
}
