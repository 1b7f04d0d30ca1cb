// SPDX-License-Identifier: Apache-2.0

/// Ethernet II header, with one 802.1Q tag if there is one.
public struct EthernetHeader: Hashable, Sendable {
    /// What the frame carries.
    public struct EtherType: RawRepresentable, Hashable, Sendable {
        /// The number.
        public let rawValue: UInt16

        /// A type, known or not.
        @inlinable @inline(__always)
        public init(rawValue: UInt16) {
            self.rawValue = rawValue
        }

        /// IPv4.
        @inlinable public static var ipv4: EtherType { EtherType(rawValue: 0x0800) }
        /// IPv6.
        @inlinable public static var ipv6: EtherType { EtherType(rawValue: 0x86DD) }
        /// 802.1Q tag.
        @inlinable public static var vlan: EtherType { EtherType(rawValue: 0x8100) }
    }

    /// Where the frame goes.
    public var destination: MACAddress
    /// Where the frame comes from.
    public var source: MACAddress
    /// The tag's 16 bits: priority (3), drop eligible (1), VLAN (12).
    public var tag: UInt16?
    /// The type behind the tag.
    public var etherType: EtherType

    /// A header with these fields.
    @inlinable
    public init(destination: MACAddress, source: MACAddress, tag: UInt16? = nil, etherType: EtherType) {
        self.destination = destination
        self.source = source
        self.tag = tag
        self.etherType = etherType
    }

    /// 14, or 18 with a tag.
    @inlinable public var byteCount: Int { tag == nil ? 14 : 18 }

    /// The header at the start of `bytes`; `nil` if they end before it does.
    @inlinable
    public init?(parsing bytes: RawSpan) {
        guard bytes.byteCount >= 14 else { return nil }
        destination = MACAddress(parsing: bytes, at: 0)
        source = MACAddress(parsing: bytes, at: 6)
        tag = nil
        etherType = EtherType(rawValue: bytes.loadBigEndian(UInt16.self, at: 12))
        if etherType == .vlan {
            guard bytes.byteCount >= 18 else { return nil }
            tag = bytes.loadBigEndian(UInt16.self, at: 14)
            etherType = EtherType(rawValue: bytes.loadBigEndian(UInt16.self, at: 16))
        }
    }

    /// Writes ``byteCount`` bytes at the start of `bytes`.
    @inlinable
    public func emit(into bytes: inout MutableRawSpan) {
        destination.emit(into: &bytes, at: 0)
        source.emit(into: &bytes, at: 6)
        if let tag {
            bytes.storeBigEndian(EtherType.vlan.rawValue, at: 12)
            bytes.storeBigEndian(tag, at: 14)
        }
        bytes.storeBigEndian(etherType.rawValue, at: byteCount - 2)
    }
}
