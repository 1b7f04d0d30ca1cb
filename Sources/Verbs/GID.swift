// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A global identifier: the 128-bit address of a port, which on RoCE v2 is its IP address.
///
/// An IPv4 address is carried in the IPv4-mapped form `::ffff:a.b.c.d`. The corresponding C type is `union ibv_gid`.
@frozen public struct GID: Hashable, Sendable {
    /// The first eight bytes in host order: the subnet prefix.
    public let high: UInt64
    /// The last eight bytes in host order: the interface identifier.
    public let low: UInt64

    /// A GID by its two halves, in host order.
    @inlinable public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// The IPv4-mapped GID of an address whose value is in host order (`0x7F00_0001` is 127.0.0.1).
    @inlinable public init(ipv4: UInt32) {
        high = 0
        low = 0xFFFF_0000_0000 | UInt64(ipv4)
    }

    /// The all-zero GID, which marks an unused table entry.
    public static let zero = GID(high: 0, low: 0)

    /// Whether it is the all-zero GID.
    public var isZero: Bool { high == 0 && low == 0 }
    /// Whether it carries an IPv4 address.
    public var isIPv4Mapped: Bool { high == 0 && low >> 32 == 0xFFFF }
    /// The IPv4 address in host order, if the GID carries one.
    public var ipv4: UInt32? { isIPv4Mapped ? UInt32(truncatingIfNeeded: low) : nil }
    /// `fe80::/10`, and `169.254.0.0/16` in the IPv4-mapped form.
    public var isLinkLocal: Bool { high >> 54 == 0xFE80 >> 6 || (isIPv4Mapped && low >> 16 & 0xFFFF == 0xA9FE) }
    /// `::1`, and `127.0.0.0/8` in the IPv4-mapped form.
    public var isLoopback: Bool { (high == 0 && low == 1) || (isIPv4Mapped && low >> 24 & 0xFF == 127) }
    /// `ff00::/8`, and `224.0.0.0/4` in the IPv4-mapped form.
    public var isMulticast: Bool { high >> 56 == 0xFF || (isIPv4Mapped && low >> 28 & 0xF == 0xE) }

    /// The sixteen bytes in network order.
    public var bytes: [UInt8] {
        (0..<16).map { UInt8(truncatingIfNeeded: ($0 < 8 ? high : low) >> UInt64(56 - $0 % 8 * 8)) }
    }

    /// Reads sixteen bytes in network order; `nil` for any other count.
    public init?(bytes: some Collection<UInt8>) {
        guard bytes.count == 16 else { return nil }
        high = bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
        low = bytes.dropFirst(8).reduce(0) { $0 << 8 | UInt64($1) }
    }
}

extension GID: LosslessStringConvertible {
    /// Reads an IPv6 address, or an IPv4 address in dotted form (which gives the IPv4-mapped GID).
    public init?(_ description: String) {
        var v4 = in_addr()
        if unsafe inet_pton(AF_INET, description, &v4) == 1 {
            self.init(ipv4: UInt32(bigEndian: v4.s_addr))
            return
        }
        var v6 = in6_addr()
        guard unsafe inet_pton(AF_INET6, description, &v6) == 1 else { return nil }
        // The bytes of a local variable, copied during the call.
        self.init(bytes: unsafe withUnsafeBytes(of: v6) { unsafe [UInt8]($0) })
    }

    /// The IPv6 text form of RFC 5952; IPv4-mapped addresses as `::ffff:a.b.c.d`.
    public var description: String {
        var address = in6_addr()
        unsafe withUnsafeMutableBytes(of: &address) { unsafe $0.copyBytes(from: bytes) }
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard unsafe inet_ntop(AF_INET6, &address, &text, socklen_t(text.count)) != nil else { return "::" }
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}
