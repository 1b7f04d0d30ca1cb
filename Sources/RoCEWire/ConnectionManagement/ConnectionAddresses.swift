// SPDX-License-Identifier: Apache-2.0

/// What the RDMA connection manager puts before the application's private data in a REQ or SIDR_REQ: the IP addresses
/// of both ends (`struct cma_hdr` of Linux; IBTA annex A11).
///
/// ```
///   0  version, 0             4  source address, 16 bytes, IPv4 in the last four
///   1  IP version:4          20  destination address, likewise
///   2  source port
/// ```
public struct ConnectionAddresses: Hashable, Sendable {
    /// 36.
    public static var byteCount: Int { 36 }

    /// The sender's port, which means nothing but what `getpeername` shows.
    public var sourcePort: UInt16
    /// The sender's address.
    public var source: GID
    /// The address that was asked for.
    public var destination: GID

    /// Both ends.
    public init(sourcePort: UInt16, source: GID, destination: GID) {
        self.sourcePort = sourcePort
        self.source = source
        self.destination = destination
    }

    /// Reads the start of private data; `nil` if it is another version.
    public init?(parsing privateData: [UInt8]) {
        guard privateData.count >= Self.byteCount, privateData[0] == 0 else { return nil }
        func integer<T: FixedWidthInteger>(_ type: T.Type, at offset: Int) -> T {
            privateData[offset..<offset + T.bitWidth / 8].reduce(0) { $0 << 8 | T($1) }
        }
        func address(at offset: Int, isIPv4: Bool) -> GID {
            let low = integer(UInt64.self, at: offset + 8)
            return isIPv4
                ? GID(ipv4: UInt32(truncatingIfNeeded: low))
                : GID(high: integer(UInt64.self, at: offset), low: low)
        }
        let isIPv4: Bool
        switch privateData[1] >> 4 {
        case 4: isIPv4 = true
        case 6: isIPv4 = false
        default: return nil
        }
        sourcePort = integer(UInt16.self, at: 2)
        source = address(at: 4, isIPv4: isIPv4)
        destination = address(at: 20, isIPv4: isIPv4)
    }

    /// The 36 bytes, with `privateData` behind them.
    public func prepended(to privateData: [UInt8]) -> [UInt8] {
        let isIPv4 = destination.isIPv4Mapped
        var header = MessageBytes()
        header.store(UInt8(isIPv4 ? 0x40 : 0x60), at: 1)
        header.store(sourcePort, at: 2)
        for (address, offset) in [(source, 4), (destination, 20)] {
            header.store(isIPv4 ? GID(high: 0, low: UInt64(address.ipv4)) : address, at: offset)
        }
        return Array(header.bytes.prefix(Self.byteCount)) + privateData
    }
}
