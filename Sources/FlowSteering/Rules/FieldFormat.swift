// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// How the value and mask of a field are written: `VALUE`, `VALUE/MASK`, and for addresses `VALUE/LENGTH`.
enum FieldFormat: Sendable {
    case decimal
    case hexadecimal
    case mac
    case ipv4
    case ipv6

    // MARK: Reading

    /// The value and the mask, or `nil` if the text is not of this form or does not fit in `bitCount` bits.
    func parse(_ text: Substring, bitCount: Int) -> (value: UInt128, mask: UInt128)? {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let value = parseValue(parts[0], bitCount) else { return nil }
        guard parts.count == 2 else { return (value, Self.ones(bitCount)) }
        if self == .ipv4 || self == .ipv6, let length = Self.number(parts[1]), parts[1].allSatisfy(\.isNumber) {
            guard length <= bitCount else { return nil }
            return (value, Self.prefix(Int(length), bitCount))
        }
        return parseValue(parts[1], bitCount).map { (value, $0) }
    }

    private func parseValue(_ text: Substring, _ bitCount: Int) -> UInt128? {
        switch self {
        case .decimal, .hexadecimal:
            return Self.number(text).flatMap { $0 <= Self.ones(bitCount) ? $0 : nil }
        case .mac:
            let parts = text.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count == 6 else { return nil }
            var value: UInt128 = 0
            for part in parts {
                guard (1...2).contains(part.utf8.count), part.allSatisfy(\.isHexDigit),
                    let byte = UInt8(part, radix: 16)
                else { return nil }
                value = value << 8 | UInt128(byte)
            }
            return value
        case .ipv4:
            guard text.utf8.count <= 15, !text.contains(":") else { return nil }
            return GID(String(text)).map { UInt128($0.ipv4) }
        case .ipv6:
            guard text.utf8.count <= 45, text.contains(":") else { return nil }
            return GID(String(text)).map { UInt128($0.high) << 64 | UInt128($0.low) }
        }
    }

    /// Decimal, or hexadecimal behind `0x`; no sign, no separator.
    static func number(_ text: Substring) -> UInt128? {
        let isHexadecimal = text.hasPrefix("0x") || text.hasPrefix("0X")
        let digits = isHexadecimal ? text.dropFirst(2) : text
        guard !digits.isEmpty, digits.utf8.count <= 39, digits.utf8.first != UInt8(ascii: "+") else { return nil }
        return UInt128(digits, radix: isHexadecimal ? 16 : 10)
    }

    static func ones(_ bitCount: Int) -> UInt128 { UInt128.max >> UInt128(128 - bitCount) }

    static func prefix(_ length: Int, _ bitCount: Int) -> UInt128 {
        length == 0 ? 0 : ones(bitCount) & ~(ones(bitCount) >> UInt128(length))
    }

    // MARK: Writing

    /// What ``parse(_:bitCount:)`` reads as the same value and mask.
    func text(_ value: UInt128, _ mask: UInt128, bitCount: Int) -> String {
        let digits = valueText(value)
        if mask == Self.ones(bitCount) { return digits }
        if self == .ipv4 || self == .ipv6 {
            let length = bitCount - mask.trailingZeroBitCount
            if mask == 0 || mask == Self.prefix(length, bitCount) { return "\(digits)/\(mask == 0 ? 0 : length)" }
            return "\(digits)/\(valueText(mask))"
        }
        return "\(digits)/\(self == .mac ? valueText(mask) : FieldFormat.hexadecimal.valueText(mask))"
    }

    func valueText(_ value: UInt128) -> String {
        switch self {
        case .decimal: return String(value)
        case .hexadecimal: return "0x" + String(value, radix: 16)
        case .mac: return MACAddress(truncating: UInt64(truncatingIfNeeded: value)).description
        case .ipv4: return GID(ipv4: UInt32(truncatingIfNeeded: value)).addressText
        case .ipv6:
            return GID(high: UInt64(truncatingIfNeeded: value >> 64), low: UInt64(truncatingIfNeeded: value))
                .description
        }
    }
}
