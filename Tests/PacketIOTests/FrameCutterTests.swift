// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import PacketIO

@Suite("Super-frames") struct FrameCutterTests {
    /// Ethernet, IPv4, TCP with options, and a payload.
    private static func frame(tags: Int, flags: UInt8, payload: [UInt8]) -> [UInt8] {
        var bytes: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]
        for tag in 0..<tags { bytes += [0x81, 0, 0, UInt8(tag + 1)] }
        bytes += [8, 0, 0x45, 0, 0, 0, 0x12, 0xFF, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
        bytes += [0x1B, 0x58, 0, 80, 0xFF, 0xFF, 0xFF, 0x00, 0, 0, 0, 1, 0x80, flags, 1, 0, 0, 0, 0, 0]
        return bytes + [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] + payload
    }

    private static func cut(_ bytes: [UInt8], _ segments: FrameSegments) -> [[UInt8]] {
        bytes.withUnsafeBytes { bytes in
            var frame = ReceivedFrame(bytes)
            frame.segments = segments
            var cutter = FrameCutter()
            return (0..<cutter.begin(frame)).map { Array(cutter.segment($0)) }
        }
    }

    private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
        bytes[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    @Test("TCP segments count on: sequence, identification, flags, lengths, checksums", arguments: 0...2)
    func tcp(tags: Int) throws {
        let payload = (0..<2500).map { UInt8(truncatingIfNeeded: $0 &* 13) }
        // CWR, PSH and FIN of the whole.
        let bytes = Self.frame(tags: tags, flags: 0x80 | 0x18 | 0x01, payload: payload)
        let segments = Self.cut(
            bytes, FrameSegments(kind: .tcp, segmentByteCount: 1000))
        try #require(segments.count == 3)
        let ip = 14 + 4 * tags
        for (index, segment) in segments.enumerated() {
            let count = index < 2 ? 1000 : 500
            #expect(segment.count == ip + 52 + count)
            #expect(Int(segment[ip + 2]) << 8 + Int(segment[ip + 3]) == 52 + count)
            #expect(Int(segment[ip + 4]) << 8 + Int(segment[ip + 5]) == 0x12FF + index)
            #expect(Self.word(segment, ip + 24) == 0xFFFF_FF00 &+ UInt32(1000 * index))
            #expect(segment[ip + 33] == [0x90, 0x10, 0x19][index])
            #expect(Array(segment[(ip + 52)...]) == Array(payload[1000 * index..<1000 * index + count]))
            let header = segment[ip..<ip + 20].withUnsafeBytes { InternetChecksum.folded(InternetChecksum.sum($0)) }
            #expect(header == 0xFFFF)
            let pseudo = segment[ip + 12..<ip + 20] + [0, 6, UInt8((32 + count) >> 8), UInt8((32 + count) & 0xFF)]
            let whole = Array(pseudo) + segment[(ip + 20)...]
            #expect(whole.withUnsafeBytes { InternetChecksum.folded(InternetChecksum.sum($0)) } == 0xFFFF)
        }
    }

    @Test("A frame that contradicts itself is not cut, and harms nobody")
    func hostile() {
        let whole = Self.frame(tags: 1, flags: 0x10, payload: [UInt8](repeating: 7, count: 3000))
        for kind in [FrameSegments.Kind.tcp, .udp] {
            for size in [0, 1, 8, 1000, 65_535] {
                let segments = FrameSegments(kind: kind, segmentByteCount: size)
                for count in 0..<100 { _ = Self.cut(Array(whole.prefix(count)), segments) }
                // Each byte of the headers at its extremes.
                for offset in 0..<80 {
                    for value in [0, 0x0F, 0x40, 0xFF] as [UInt8] {
                        var bytes = whole
                        bytes[offset] = value
                        #expect(Self.cut(bytes, segments).allSatisfy { $0.count <= 65_536 + 256 })
                    }
                }
            }
        }
    }
}
