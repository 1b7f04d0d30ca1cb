// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Cuts super-frames into the segments that would have been on the wire: TCP and UDP over IPv4 and IPv6.
///
/// Headers are repeated, and lengths, identification, sequence number, flags and checksums made right, as the kernel's segmentation does
/// it. Grammar: ``begin(_:)`` ──► ``segment(_:)`` for each.
@safe package struct FrameCutter: ~Copyable {
    private static let scratchBytes = 65_536 + 256
    private static let segmentCountMax = 2048

    /// Allocated once: the segment at hand.
    private let scratch: UnsafeMutableRawPointer
    private var source: UnsafeRawBufferPointer
    private var isTCP = false
    private var isIPv6 = false
    private var ipOffset = 0
    private var transportOffset = 0
    private var headerByteCount = 0
    private var segmentByteCount = 0
    private var count = 0

    package init() {
        unsafe source = UnsafeRawBufferPointer(start: nil, count: 0)
        unsafe scratch = .allocate(byteCount: Self.scratchBytes, alignment: 64)
    }

    deinit { unsafe scratch.deallocate() }

    /// Looks at a super-frame, which must stay where it is until the last ``segment(_:)``.
    /// - Returns: the number of its segments; 0 if it is none, or of a kind that is not cut.
    package mutating func begin(_ frame: ReceivedFrame) -> Int {
        count = 0
        guard let segments = frame.segments, segments.segmentByteCount > 0, !frame.isCut else { return 0 }
        unsafe source = frame.bytes
        isTCP = segments.kind == .tcp
        segmentByteCount = segments.segmentByteCount
        guard findTransport(), unsafe headerByteCount <= source.count,
            headerByteCount + segmentByteCount <= Self.scratchBytes
        else { return 0 }
        let payload = unsafe source.count - headerByteCount
        let wanted = max(1, (payload + segmentByteCount - 1) / segmentByteCount)
        // Nobody's link has such; cutting it would take long.
        guard wanted <= Self.segmentCountMax else { return 0 }
        count = wanted
        return count
    }

    /// A segment, valid until the next call.
    package func segment(_ index: Int) -> UnsafeRawBufferPointer {
        precondition(index >= 0 && index < count, "there is such a segment")
        let offset = headerByteCount + index * segmentByteCount
        let payload = unsafe min(segmentByteCount, source.count - offset)
        let byteCount = headerByteCount + payload
        unsafe scratch.copyMemory(from: source.baseAddress!, byteCount: headerByteCount)
        unsafe (scratch + headerByteCount).copyMemory(from: source.baseAddress! + offset, byteCount: payload)
        let frame = unsafe UnsafeMutableRawBufferPointer(start: scratch, count: byteCount)
        unsafe correctIP(frame, index)
        if isTCP {
            unsafe correctTCP(frame, index)
        } else {
            unsafe store(UInt16(truncatingIfNeeded: byteCount - transportOffset), in: frame, at: transportOffset + 4)
        }
        unsafe correctChecksum(frame)
        return UnsafeRawBufferPointer(frame)
    }

    // MARK: Reading

    private func half(_ offset: Int) -> UInt16? {
        guard unsafe offset + 2 <= source.count else { return nil }
        return unsafe UInt16(bigEndian: source.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
    }

    private func byte(_ offset: Int) -> UInt8? { unsafe offset < source.count ? source[offset] : nil }

    /// Ethernet with tags, IPv4 or IPv6 without extensions, TCP or UDP.
    private mutating func findTransport() -> Bool {
        var typeOffset = 12
        while let type = half(typeOffset), type == 0x8100 || type == 0x88A8 { typeOffset += 4 }
        ipOffset = typeOffset + 2
        let wanted: UInt8 = isTCP ? 6 : 17
        switch half(typeOffset) {
        case 0x0800:
            guard let first = byte(ipOffset), first & 0xF >= 5, byte(ipOffset + 9) == wanted else { return false }
            isIPv6 = false
            transportOffset = ipOffset + Int(first & 0xF) * 4
        case 0x86DD:
            guard byte(ipOffset + 6) == wanted else { return false }
            isIPv6 = true
            transportOffset = ipOffset + 40
        default: return false
        }
        if isTCP {
            guard let offset = byte(transportOffset + 12) else { return false }
            headerByteCount = transportOffset + Int(offset >> 4) * 4
            return headerByteCount >= transportOffset + 20
        }
        headerByteCount = transportOffset + 8
        return true
    }

    // MARK: Writing

    private func store(_ value: UInt16, in frame: UnsafeMutableRawBufferPointer, at offset: Int) {
        unsafe frame.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }

    private func correctIP(_ frame: UnsafeMutableRawBufferPointer, _ index: Int) {
        if isIPv6 {
            unsafe store(UInt16(truncatingIfNeeded: frame.count - ipOffset - 40), in: frame, at: ipOffset + 4)
            return
        }
        unsafe store(UInt16(truncatingIfNeeded: frame.count - ipOffset), in: frame, at: ipOffset + 2)
        let identification = (half(ipOffset + 4) ?? 0) &+ UInt16(truncatingIfNeeded: index)
        unsafe store(identification, in: frame, at: ipOffset + 4)
        unsafe store(0, in: frame, at: ipOffset + 10)
        let sum = unsafe InternetChecksum.sum(UnsafeRawBufferPointer(rebasing: frame[ipOffset..<transportOffset]))
        unsafe frame.storeBytes(of: ~InternetChecksum.folded(sum), toByteOffset: ipOffset + 10, as: UInt16.self)
    }

    private func correctTCP(_ frame: UnsafeMutableRawBufferPointer, _ index: Int) {
        let place = transportOffset + 4
        let sequence = unsafe UInt32(bigEndian: frame.loadUnaligned(fromByteOffset: place, as: UInt32.self))
        let next = sequence &+ UInt32(truncatingIfNeeded: index * segmentByteCount)
        unsafe frame.storeBytes(of: next.bigEndian, toByteOffset: place, as: UInt32.self)
        // FIN and PSH belong to the last segment, CWR to the first.
        if index + 1 < count { unsafe frame[transportOffset + 13] &= ~0x09 }
        if index > 0 { unsafe frame[transportOffset + 13] &= ~0x80 }
    }

    private func correctChecksum(_ frame: UnsafeMutableRawBufferPointer) {
        let addresses = isIPv6 ? ipOffset + 8..<ipOffset + 40 : ipOffset + 12..<ipOffset + 20
        let field = isTCP ? 16 : 6
        let pseudo = unsafe InternetChecksum.sum(UnsafeRawBufferPointer(rebasing: frame[addresses]))
        let number: UInt16 = isTCP ? 6 : 17
        let length = UInt16(truncatingIfNeeded: frame.count - transportOffset)
        let rest = UInt64(number.bigEndian) &+ UInt64(length.bigEndian)
        unsafe frame.storeBytes(
            of: InternetChecksum.folded(pseudo &+ rest), toByteOffset: transportOffset + field, as: UInt16.self)
        _ = unsafe InternetChecksum.complete(frame, from: transportOffset, at: field)
    }
}
