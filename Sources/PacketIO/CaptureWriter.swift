// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// Writes what a link sends and receives to a pcap file (microseconds, LINKTYPE_ETHERNET) that tcpdump, tshark and this
/// package's own reader understand.
///
/// A socket shows no headers, so they are made again: MAC addresses that tell the direction (02:00:00:00:00:01 is this
/// end), IP and UDP headers with the IPv4 identification that explains the ICRC, checksum 0 in UDP. A burst is written as the frames that it becomes on the wire.
package struct CaptureWriter: ~Copyable {
    /// Which way a frame went.
    package enum Direction: Sendable { case sent, received }

    /// The UDP and IP header fields of a frame, or of a burst of frames.
    package struct Flow: Sendable {
        package var source: GID
        package var destination: GID
        package var sourcePort: UInt16
        package var trafficClass: UInt8

        package init(source: GID, destination: GID, sourcePort: UInt16, trafficClass: UInt8) {
            self.source = source
            self.destination = destination
            self.sourcePort = sourcePort
            self.trafficClass = trafficClass
        }
    }

    private static let flushBytes = 262_144
    /// Record header, Ethernet, IPv6 and UDP.
    private static let headerBytesMax = 16 + 14 + 40 + 8

    private let file: FileDescriptor
    private var pending: [UInt8]
    /// Finds the identification that a received packet had.
    private var verifier = ICRCVerifier()

    /// Creates the file, or empties it.
    package init(path: String) throws(PacketIOError) {
        file = try FileDescriptor(unsafe clinuxnet_create_file(path), call: "open(\(path))")
        pending = []
        pending.reserveCapacity(Self.flushBytes + 65_536 * 2)
        append(UInt32(0xA1B2_C3D4))
        append(UInt16(2))
        append(UInt16(4))
        append(UInt64(0))
        append(UInt32(65_535 + 14))
        append(UInt32(1))
    }

    deinit { _ = Self.write(pending, to: file.number) }

    /// Whether there is something that ``flush()`` would write.
    package var isDirty: Bool { !pending.isEmpty }

    /// Writes to the file what has been recorded; `false` where that failed, and what was recorded is lost.
    @discardableResult
    package mutating func flush() -> Bool {
        let isWritten = Self.write(pending, to: file.number)
        pending.removeAll(keepingCapacity: true)
        return isWritten
    }

    /// Records the segments of a datagram or burst.
    ///
    /// - Parameters:
    ///   - firstSegment: the IPv4 identification of the first segment, if it is as our own peers send it.
    ///   - nanoseconds: time since 1970.
    package mutating func record(
        _ bytes: UnsafeRawBufferPointer, segmentSize: Int, firstSegment: Int, flow: Flow, direction: Direction,
        nanoseconds: UInt64
    ) {
        guard segmentSize > 0 else { return }
        var offset = 0
        var identification = firstSegment
        while offset < bytes.count {
            let length = min(segmentSize, bytes.count - offset)
            let segment = unsafe UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + length])
            let expected = UInt16(truncatingIfNeeded: identification)
            unsafe recordFrame(
                segment,
                identification: direction == .sent ? expected : self.identification(of: segment, flow, expected),
                flow: flow, direction: direction,
                nanoseconds: nanoseconds)
            offset += length
            identification += 1
        }
        if pending.count >= Self.flushBytes { flush() }
    }

    /// The identification that the packet's ICRC was made for; the expected one where the ICRC is wrong.
    private mutating func identification(
        of packet: UnsafeRawBufferPointer, _ flow: Flow, _ expected: UInt16
    ) -> UInt16 {
        guard flow.source.isIPv4Mapped else { return 0 }
        let way = ICRC.Flow(source: flow.source, destination: flow.destination, sourcePort: flow.sourcePort)
        let bytes = unsafe RawSpan(_unsafeBytes: packet)
        if case .explained(let found, _) = verifier.check(bytes, way, expecting: expected) { return found }
        return expected
    }

    private mutating func recordFrame(
        _ payload: UnsafeRawBufferPointer, identification: UInt16, flow: Flow, direction: Direction,
        nanoseconds: UInt64
    ) {
        let ipBytes = flow.destination.isIPv4Mapped ? IPv4Header.byteCount : IPv6Header.byteCount
        let frameBytes = 14 + ipBytes + UDPHeader.byteCount + payload.count
        append(UInt32(truncatingIfNeeded: nanoseconds / 1_000_000_000))
        append(UInt32(nanoseconds % 1_000_000_000 / 1000))
        append(UInt32(frameBytes))
        append(UInt32(frameBytes))

        let ends: (UInt8, UInt8) = direction == .sent ? (2, 1) : (1, 2)
        pending.append(contentsOf: [2, 0, 0, 0, 0, ends.0, 2, 0, 0, 0, 0, ends.1])
        append(UInt16(flow.destination.isIPv4Mapped ? 0x0800 : 0x86DD).bigEndian)

        let start = pending.count
        pending.append(contentsOf: repeatElement(0, count: ipBytes + UDPHeader.byteCount))
        var span = pending.mutableSpan
        var header = unsafe span.mutableBytes
        if flow.destination.isIPv4Mapped {
            var ip = IPv4Header(
                source: flow.source.ipv4, destination: flow.destination.ipv4,
                totalByteCount: UInt16(truncatingIfNeeded: ipBytes + UDPHeader.byteCount + payload.count))
            ip.typeOfService = flow.trafficClass
            ip.identification = identification
            ip.emit(into: &header, at: start)
        } else {
            var ip = IPv6Header(
                source: flow.source, destination: flow.destination,
                payloadByteCount: UInt16(truncatingIfNeeded: UDPHeader.byteCount + payload.count))
            ip.trafficClass = flow.trafficClass
            ip.emit(into: &header, at: start)
        }
        UDPHeader(sourcePort: flow.sourcePort, payloadByteCount: payload.count)
            .emit(into: &header, at: start + ipBytes)
        unsafe pending.append(contentsOf: payload)
    }

    private mutating func append<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value) {
        unsafe withUnsafeBytes(of: value) { unsafe pending.append(contentsOf: $0) }
    }

    private static func write(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
        unsafe bytes.withUnsafeBytes { buffer in
            var offset = 0
            while offset < buffer.count {
                let written = unsafe CLinuxNet.write(descriptor, buffer.baseAddress! + offset, buffer.count - offset)
                if written < 0, clinuxnet_errno() == EINTR { continue }
                guard written > 0 else { return false }
                offset += written
            }
            return true
        }
    }
}
