// SPDX-License-Identifier: Apache-2.0

/// The 40 bytes in front of the payload of every received datagram (`struct ibv_grh`).
///
/// Their reader tells IPv4 from IPv6 by looking for a valid IPv4 header in the second half
/// (`ib_get_rdma_header_version`), so the checksum there must be right.
public enum RouteHeaderArea {
    /// 40.
    @inlinable public static var byteCount: Int { 40 }

    /// Writes the area at the start of `bytes` for a datagram from `source` to `destination`: twenty zero bytes and an
    /// IPv4 header, or an IPv6 header.
    ///
    /// - Parameter udpPayloadByteCount: the bytes from the BTH to the ICRC.
    public static func emit(
        into bytes: inout MutableRawSpan, source: GID, destination: GID, trafficClass: UInt8, hopLimit: UInt8,
        udpPayloadByteCount: Int
    ) {
        let udp = UInt16(truncatingIfNeeded: udpPayloadByteCount + UDPHeader.byteCount)
        if source.isIPv4Mapped {
            bytes.storeBytes(of: 0, toByteOffset: 0, as: UInt64.self)
            bytes.storeBytes(of: 0, toByteOffset: 8, as: UInt64.self)
            bytes.storeBytes(of: 0, toByteOffset: 16, as: UInt32.self)
            var header = IPv4Header(
                source: source.ipv4, destination: destination.ipv4,
                totalByteCount: udp &+ UInt16(IPv4Header.byteCount))
            header.typeOfService = trafficClass
            header.timeToLive = hopLimit
            header.emit(into: &bytes, at: 20)
        } else {
            var header = IPv6Header(source: source, destination: destination, payloadByteCount: udp)
            header.trafficClass = trafficClass
            header.hopLimit = hopLimit
            header.emit(into: &bytes)
        }
    }
}
