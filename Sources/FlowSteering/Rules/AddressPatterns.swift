// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// IPv4 addresses: one, a network, or any mask of bits. `"10.0.0.7"`, `"10.0.0.0/24"`, `"10.0.0.1/255.0.0.255"`.
public struct IPv4Pattern: Hashable, Sendable {
    /// The address as a number, 10.9.2.1 being 0x0A09_0201, and its mask.
    public var bits: FlowPattern<UInt32>

    /// Addresses with these bits.
    public init(_ bits: FlowPattern<UInt32>) {
        self.bits = bits
    }

    /// Any address.
    public static var any: IPv4Pattern { IPv4Pattern(.any) }
}

/// IPv6 addresses: one, a network, or any mask of bits. `"fe80::1"`, `"2001:db8::/32"`, `"::1/::ffff"`.
public struct IPv6Pattern: Hashable, Sendable {
    /// The address as a big-endian number of 16 bytes, and its mask.
    public var bits: FlowPattern<UInt128>

    /// Addresses with these bits.
    public init(_ bits: FlowPattern<UInt128>) {
        self.bits = bits
    }

    /// Any address.
    public static var any: IPv6Pattern { IPv6Pattern(.any) }
}

/// Ethernet addresses: one, or any mask of bits. `"02:00:00:00:00:01"`, `"01:00:00:00:00:00/01:00:00:00:00:00"`.
public struct MACPattern: Hashable, Sendable {
    /// The address as a big-endian number of six bytes, and its mask.
    public var bits: FlowPattern<UInt64>

    /// Addresses with these bits.
    public init(_ bits: FlowPattern<UInt64>) {
        self.bits = bits
    }

    /// Any address.
    public static var any: MACPattern { MACPattern(.any) }
}

// MARK: - Text

extension IPv4Pattern: LosslessStringConvertible, ExpressibleByStringLiteral {
    /// An address, one with a prefix length, or one with a mask; `nil` if the text is none of these.
    public init?(_ text: String) {
        guard let (value, mask) = FieldFormat.ipv4.parse(text[...], bitCount: 32) else { return nil }
        self.init(FlowPattern(UInt32(truncatingIfNeeded: value), mask: UInt32(truncatingIfNeeded: mask)))
    }

    /// A literal that is no pattern of addresses is a bug, and traps.
    public init(stringLiteral text: String) {
        guard let pattern = IPv4Pattern(text) else {
            preconditionFailure("\(text) is neither an IPv4 address nor one with a prefix length or mask")
        }
        self = pattern
    }

    /// The text that reads as the same pattern.
    public var description: String { FieldFormat.ipv4.text(UInt128(bits.value), UInt128(bits.mask), bitCount: 32) }
}

extension IPv6Pattern: LosslessStringConvertible, ExpressibleByStringLiteral {
    /// An address, one with a prefix length, or one with a mask; `nil` if the text is none of these.
    public init?(_ text: String) {
        guard let (value, mask) = FieldFormat.ipv6.parse(text[...], bitCount: 128) else { return nil }
        self.init(FlowPattern(value, mask: mask))
    }

    /// A literal that is no pattern of addresses is a bug, and traps.
    public init(stringLiteral text: String) {
        guard let pattern = IPv6Pattern(text) else {
            preconditionFailure("\(text) is neither an IPv6 address nor one with a prefix length or mask")
        }
        self = pattern
    }

    /// The text that reads as the same pattern.
    public var description: String { FieldFormat.ipv6.text(bits.value, bits.mask, bitCount: 128) }
}

extension MACPattern: LosslessStringConvertible, ExpressibleByStringLiteral {
    /// An address, or one with a mask; `nil` if the text is neither.
    public init?(_ text: String) {
        guard let (value, mask) = FieldFormat.mac.parse(text[...], bitCount: 48) else { return nil }
        self.init(FlowPattern(UInt64(truncatingIfNeeded: value), mask: UInt64(truncatingIfNeeded: mask)))
    }

    /// A literal that is no pattern of addresses is a bug, and traps.
    public init(stringLiteral text: String) {
        guard let pattern = MACPattern(text) else {
            preconditionFailure("\(text) is neither an Ethernet address nor one with a mask")
        }
        self = pattern
    }

    /// The text that reads as the same pattern.
    public var description: String { FieldFormat.mac.text(UInt128(bits.value), UInt128(bits.mask), bitCount: 48) }
}
