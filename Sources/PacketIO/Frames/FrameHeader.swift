// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The headers of a frame that is sent whole: what the kernel puts before a payload of the UDP socket, byte for byte, but
/// for the UDP checksum, which is 0 as hardware and rxe have it (the ICRC covers more), and the IPv6 flow label.
@safe struct FrameHeader {
    static let byteCountIPv4 = 14 + 20 + 8
    static let byteCountIPv6 = 14 + 40 + 8

    var destinationHardware: UInt64
    var sourceHardware: UInt64
    var source: GID
    var destination: GID
    var sourcePort: UInt16
    var trafficClass: UInt8

    var byteCount: Int { destination.isIPv4Mapped ? Self.byteCountIPv4 : Self.byteCountIPv6 }

    /// Writes ``byteCount`` bytes.
    ///
    /// - Parameter identification: of IPv4; a UDP socket that forbids fragments sends 0, and the segment's index in a burst.
    @inline(__always)
    func store(to memory: UnsafeMutableRawPointer, payloadByteCount: Int, identification: UInt16) {
        let isIPv4 = destination.isIPv4Mapped
        unsafe storeHardware(destinationHardware, to: memory)
        unsafe storeHardware(sourceHardware, to: memory + 6)
        let type: UInt16 = isIPv4 ? 0x0800 : 0x86DD
        unsafe memory.storeBytes(of: type.bigEndian, toByteOffset: 12, as: UInt16.self)
        // As long as the caller says: it owns a chunk of at least that.
        var bytes = unsafe MutableRawSpan(_unsafeStart: memory, byteCount: byteCount)
        let udpByteCount = UDPHeader.byteCount + payloadByteCount
        if isIPv4 {
            var ip = IPv4Header(
                source: source.ipv4, destination: destination.ipv4,
                totalByteCount: UInt16(truncatingIfNeeded: IPv4Header.byteCount + udpByteCount))
            ip.typeOfService = trafficClass
            ip.identification = identification
            ip.emit(into: &bytes, at: 14)
        } else {
            var ip = IPv6Header(
                source: source, destination: destination, payloadByteCount: UInt16(truncatingIfNeeded: udpByteCount))
            ip.trafficClass = trafficClass
            ip.emit(into: &bytes, at: 14)
        }
        UDPHeader(sourcePort: sourcePort, payloadByteCount: payloadByteCount)
            .emit(into: &bytes, at: byteCount - UDPHeader.byteCount)
    }

    @inline(__always)
    private func storeHardware(_ address: UInt64, to memory: UnsafeMutableRawPointer) {
        unsafe memory.storeBytes(of: UInt32(truncatingIfNeeded: address), as: UInt32.self)
        unsafe memory.storeBytes(of: UInt16(truncatingIfNeeded: address >> 32), toByteOffset: 4, as: UInt16.self)
    }

    /// Six bytes as a word, the first byte lowest.
    static func word(_ bytes: [UInt8]) -> UInt64 { bytes.prefix(6).reversed().reduce(0) { $0 << 8 | UInt64($1) } }
}
