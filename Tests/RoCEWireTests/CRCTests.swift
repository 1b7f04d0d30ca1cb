// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Testing

@Suite("CRC-32", .serialized)
struct CRCTests {
    /// Bytes of a generator that the program which made the expected values used too.
    private static let data: [UInt8] = {
        var x: UInt32 = 1
        return (0..<5000).map { _ in
            x = (x &* 1_103_515_245 &+ 12345) & 0x7FFF_FFFF
            return UInt8(truncatingIfNeeded: x >> 16)
        }
    }()

    /// zlib.crc32 of the first bytes, by length.
    private static let expected: [(Int, UInt32)] = [
        (0, 0x0), (1, 0xA005_8808), (3, 0x4160_D42E), (4, 0xD4F5_3A46), (12, 0x7B2E_5C56), (15, 0x3139_8A7B),
        (16, 0x6638_6830), (17, 0x83BA_D7DF), (31, 0x25BE_9080), (32, 0x2D28_3B6D), (63, 0x0836_0A34),
        (64, 0x3C04_B8AB), (65, 0xD488_5E2A), (127, 0x68E8_F968), (128, 0x640C_2A49), (255, 0xF5C3_38AC),
        (256, 0x8144_BF85), (257, 0x7952_966B), (512, 0x0F23_9A79), (1024, 0x6A19_1F4E), (4096, 0x4641_A512),
        (5000, 0x6356_66A9),
    ]

    private func crc(_ bytes: some Collection<UInt8>) -> UInt32 {
        Array(bytes).withUnsafeBytes { ~clinuxnet_crc32(0xFFFF_FFFF, $0.baseAddress, $0.count) }
    }

    /// Runs `body` with every variant that this processor has, and leaves the fastest in use.
    private func withEachVariant(_ body: (UInt32) -> Void) {
        let fastest = clinuxnet_crc32_variant_in_use()
        var tried: [UInt32] = []
        for variant in 0..<CLINUXNET_CRC32_VARIANTS.rawValue {
            guard clinuxnet_crc32_use(clinuxnet_crc32_variant(variant)) == 0 else { continue }
            #expect(clinuxnet_crc32_variant_in_use().rawValue == variant)
            body(variant)
            tried.append(variant)
        }
        #expect(clinuxnet_crc32_use(fastest) == 0)
        #expect(tried.first == CLINUXNET_CRC32_TABLES.rawValue && tried.last == fastest.rawValue)
    }

    @Test("of known strings, in every variant")
    func known() {
        withEachVariant { variant in
            #expect(crc("123456789".utf8) == 0xCBF4_3926, "variant \(variant)")
            #expect(crc("The quick brown fox jumps over the lazy dog".utf8) == 0x414F_A339, "variant \(variant)")
            for (length, value) in Self.expected {
                #expect(crc(Self.data.prefix(length)) == value, "variant \(variant), length \(length)")
            }
        }
    }

    @Test("is zlib's for all lengths to 600, in every variant")
    func lengths() {
        withEachVariant { variant in
            let all = (0...600).flatMap { length in
                let value = crc(Self.data.prefix(length))
                return (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) }
            }
            // zlib.crc32 of the 601 little-endian results of zlib.crc32.
            #expect(crc(all) == 0x3226_36B9, "variant \(variant)")
        }
    }

    @Test("does not depend on alignment nor on what lies around, in every variant")
    func alignment() {
        let reference = (0...600).map { crc(Self.data.prefix($0)) }
        withEachVariant { variant in
            var room = [UInt8](repeating: 0, count: 600 + 128)
            for shift in [1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63] {
                for length in 0...600 {
                    let noise = UInt8(truncatingIfNeeded: shift &* 37 &+ length)
                    let value = room.withUnsafeMutableBytes { bytes in
                        bytes[shift + length] = noise
                        if shift > 0 { bytes[shift - 1] = ~noise }
                        bytes.baseAddress!.advanced(by: shift).copyMemory(
                            from: Array(Self.data.prefix(length)), byteCount: length)
                        return ~clinuxnet_crc32(0xFFFF_FFFF, bytes.baseAddress! + shift, length)
                    }
                    if value != reference[length] { Issue.record("variant \(variant) shift \(shift) length \(length)") }
                }
            }
        }
    }

    @Test("goes on from any register, in every variant")
    func chaining() {
        withEachVariant { variant in
            for (length, value) in Self.expected {
                for cut in stride(from: 0, through: length, by: max(1, length / 23)) {
                    let whole = Self.data.withUnsafeBytes { bytes in
                        let head = clinuxnet_crc32(0xFFFF_FFFF, bytes.baseAddress, cut)
                        return ~clinuxnet_crc32(head, bytes.baseAddress! + cut, length - cut)
                    }
                    #expect(whole == value, "variant \(variant), \(length) cut at \(cut)")
                }
            }
        }
    }

    @Test("of a BTH takes byte 4 as ones, in every variant")
    func bth() {
        withEachVariant { variant in
            for length in 0...600 {
                var bytes = Array(Self.data.prefix(length))
                let masked = bytes.withUnsafeBytes { clinuxnet_crc32_bth(0xDEBB_20E3, $0.baseAddress, length) }
                if length > 4 { bytes[4] = 0xFF }
                let plain = bytes.withUnsafeBytes { clinuxnet_crc32(0xDEBB_20E3, $0.baseAddress, length) }
                if masked != plain { Issue.record("variant \(variant) length \(length)") }
            }
        }
    }
}
