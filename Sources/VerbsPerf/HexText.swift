// SPDX-License-Identifier: Apache-2.0

/// Zero-padded lower-case hexadecimal, as `printf("%08x:")`.
struct HexText {
    private(set) var bytes: [UInt8] = []

    mutating func append(_ value: UInt64, digits: Int, then terminator: Unicode.Scalar?) {
        for shift in stride(from: (digits - 1) * 4, through: 0, by: -4) {
            let nibble = UInt8(truncatingIfNeeded: value >> UInt64(shift)) & 0xF
            bytes.append(nibble < 10 ? UInt8(ascii: "0") + nibble : UInt8(ascii: "a") + nibble - 10)
        }
        if let terminator { bytes.append(UInt8(ascii: terminator)) }
    }
}

/// Reads what ``HexText`` writes.
struct HexReader {
    let bytes: [UInt8]
    private var index = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    /// The next field, `nil` if it has not exactly this many digits before its terminator.
    mutating func field(digits: Int, terminator: UInt8 = UInt8(ascii: ":")) -> UInt64? {
        guard index + digits < bytes.count, bytes[index + digits] == terminator else { return nil }
        let value = half(digits: digits)
        index += 1
        return value
    }

    /// That many digits with nothing behind them, at most 16.
    mutating func half(digits: Int) -> UInt64? {
        guard index + digits <= bytes.count else { return nil }
        var value: UInt64 = 0
        for byte in bytes[index..<(index + digits)] {
            guard let nibble = Self.nibble(byte) else { return nil }
            value = value << 4 | UInt64(nibble)
        }
        index += digits
        return value
    }

    private static func nibble(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
