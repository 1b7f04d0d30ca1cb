// SPDX-License-Identifier: Apache-2.0

/// The bytes that `--validate` sends: a function of the queue pair and of the message's number, so that a message
/// that is lost, repeated, late or torn does not look right.
struct PayloadPattern {
    private let seed: UInt64

    init(queuePair: Int, message: Int) {
        seed = UInt64(queuePair) << 48 ^ UInt64(message) &* 0x9E37_79B9_7F4A_7C15 ^ 0x5357_4946_5456_5242
    }

    /// SplitMix64's output function on a counter.
    private func word(_ index: Int) -> UInt64 {
        var value = seed &+ UInt64(index) &* 0x9E37_79B9_7F4A_7C15
        value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
        return value ^ value >> 31
    }

    /// Writes the pattern over the whole buffer.
    func fill(_ bytes: UnsafeMutableRawBufferPointer) {
        let words = bytes.count / 8
        for index in 0..<words { unsafe bytes.storeBytes(of: word(index), toByteOffset: index * 8, as: UInt64.self) }
        for offset in (words * 8)..<bytes.count { unsafe bytes[offset] = tail(offset) }
    }

    /// The offset of the first byte that differs, `nil` if none does.
    func firstDifference(in bytes: UnsafeRawBufferPointer) -> Int? {
        let words = bytes.count / 8
        for index in 0..<words
        where unsafe bytes.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self) != word(index) {
            let expected = word(index)
            return (0..<8).first { unsafe bytes[index * 8 + $0] != UInt8(truncatingIfNeeded: expected >> (8 * $0)) }
                .map { index * 8 + $0 }
        }
        return ((words * 8)..<bytes.count).first { unsafe bytes[$0] != tail($0) }
    }

    private func tail(_ offset: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: word(offset / 8) >> UInt64(8 * (offset % 8)))
    }
}
