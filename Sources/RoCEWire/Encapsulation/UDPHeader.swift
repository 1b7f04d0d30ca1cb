// SPDX-License-Identifier: Apache-2.0

/// UDP header.
public struct UDPHeader: Hashable, Sendable {
    /// 8.
    @inlinable public static var byteCount: Int { 8 }
    /// The port of RoCE v2, in both directions: answers do not go to the source port.
    @inlinable public static var rocePort: UInt16 { 4791 }

    /// Entropy for load balancing, the same for all packets of a queue pair. Never to be checked.
    public var sourcePort: UInt16
    /// 4791.
    public var destinationPort: UInt16
    /// Header and payload, in bytes.
    public var byteCount: UInt16
    /// 0 where the sender left it out, as rxe does on IPv4 and IPv6.
    public var checksum: UInt16

    /// A header for RoCE without a checksum.
    public init(sourcePort: UInt16, payloadByteCount: Int) {
        self.sourcePort = sourcePort
        destinationPort = UDPHeader.rocePort
        byteCount = UInt16(truncatingIfNeeded: payloadByteCount + UDPHeader.byteCount)
        checksum = 0
    }

    /// The header at `offset`; `nil` if the bytes end before it does.
    public init?(parsing bytes: RawSpan, at offset: Int = 0) {
        guard offset >= 0, bytes.byteCount - offset >= UDPHeader.byteCount else { return nil }
        sourcePort = bytes.loadBigEndian(UInt16.self, at: offset)
        destinationPort = bytes.loadBigEndian(UInt16.self, at: offset + 2)
        byteCount = bytes.loadBigEndian(UInt16.self, at: offset + 4)
        checksum = bytes.loadBigEndian(UInt16.self, at: offset + 6)
    }

    /// Writes the 8 bytes at `offset`.
    public func emit(into bytes: inout MutableRawSpan, at offset: Int = 0) {
        bytes.storeBigEndian(UInt32(sourcePort) << 16 | UInt32(destinationPort), at: offset)
        bytes.storeBigEndian(UInt32(byteCount) << 16 | UInt32(checksum), at: offset + 4)
    }
}
