// SPDX-License-Identifier: Apache-2.0
import Foundation
import RoCEWire

/// A packet of a capture made by kernel rxe.
struct CapturedPacket {
    let flow: ICRC.Flow
    let packet: RoCEPacket
    /// BTH to ICRC.
    let bytes: [UInt8]

    var payload: [UInt8] {
        Array(bytes[packet.payloadOffset..<packet.payloadOffset + packet.payloadByteCount])
    }
}

/// The packets of a file in `Tests/Fixtures/Captures`.
func capturedPackets(_ name: String) throws -> [CapturedPacket] {
    let file = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Fixtures/Captures/" + name)
    let bytes = try [UInt8](Data(contentsOf: file))
    func word(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[at + $1]) << ($1 * 8) } }
    precondition(word(0) == 0xA1B2_C3D4 && word(20) == 1, "a little-endian Ethernet capture is expected")
    var result: [CapturedPacket] = []
    var offset = 24
    while offset + 16 <= bytes.count {
        let frame = Array(bytes[offset + 16..<offset + 16 + word(offset + 8)])
        offset += 16 + frame.count
        guard case .frame(let parsed) = RoCEFrame.parse(ethernet: frame.span.bytes) else { continue }
        let payload = Array(frame[parsed.udpPayload])
        guard case .packet(let packet) = RoCEPacket.parse(payload.span.bytes) else { continue }
        result.append(CapturedPacket(flow: parsed.flow, packet: packet, bytes: payload))
    }
    return result
}
