// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// An Ethernet frame that a link received, as it was on the wire. The bytes are the link's, until its next batch.
@safe package struct ReceivedFrame: BitwiseCopyable {
    /// What is known of the checksums of TCP and UDP.
    package enum Checksum: UInt8, Sendable, BitwiseCopyable {
        case unknown
        /// Found right by the adapter, or filled in here.
        case right
        /// Not computed by the sender, a socket of this host: only super-frames are still like that.
        case partial
    }

    /// From the Ethernet header on, VLAN tags included.
    package var bytes: UnsafeRawBufferPointer
    /// When it came: nanoseconds of CLOCK_REALTIME, 0 if that is not known.
    package var timestamp: UInt64 = 0
    package var checksum = Checksum.unknown
    /// The end of the frame is missing.
    package var isCut = false
    /// The rule that selected it, where whoever did says so.
    package var rule: UInt32?
    /// A super-frame: several segments that the kernel did not cut yet, or has joined.
    package var segments: FrameSegments?

    package init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = unsafe bytes }

    /// The first VLAN tag (TCI), `nil` if there is none.
    @inline(__always)
    package var vlanTag: UInt16? {
        guard unsafe bytes.count >= 18 else { return nil }
        let type = unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 12, as: UInt16.self))
        guard type == 0x8100 || type == 0x88A8 else { return nil }
        return unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 14, as: UInt16.self))
    }

    /// Puts a VLAN tag back behind the addresses; there are 4 bytes in front of `frame`.
    mutating func insertTag(_ tag: UInt16, type: UInt16, in frame: UnsafeMutableRawBufferPointer) {
        guard frame.count >= 12, let base = frame.baseAddress else { return }
        let start = unsafe base - 4
        unsafe memmove(start, base, 12)
        unsafe start.storeBytes(of: type.bigEndian, toByteOffset: 12, as: UInt16.self)
        unsafe start.storeBytes(of: tag.bigEndian, toByteOffset: 14, as: UInt16.self)
        unsafe bytes = UnsafeRawBufferPointer(start: start, count: frame.count + 4)
    }

    /// Takes over what the kernel notes on checksum and segmentation. A checksum that nobody computed yet is filled in.
    mutating func apply(_ note: SegmentationNote, to frame: UnsafeMutableRawBufferPointer) {
        if note.segmentByteCount > 0 {
            segments = note.segments
            checksum = note.isValid ? .right : .partial
        } else if note.needsChecksum {
            let isDone = unsafe InternetChecksum.complete(
                frame, from: Int(note.checksumStart), at: Int(note.checksumOffset))
            checksum = isDone ? .right : .unknown
        } else if note.isValid {
            checksum = .right
        }
    }
}

/// How a super-frame is to be cut.
package struct FrameSegments: Sendable, Equatable, BitwiseCopyable {
    /// Whose segments they are.
    package enum Kind: UInt8, Sendable, BitwiseCopyable {
        case tcp
        case udp
    }

    package var kind: Kind
    /// Payload of each segment but the last.
    package var segmentByteCount: Int
}

/// `struct virtio_net_hdr`, with which the kernel tells what is still to be done to a frame.
struct SegmentationNote: Equatable {
    static let byteCount = 10

    var flags: UInt8 = 0
    var kind: UInt8 = 0
    var segmentByteCount: UInt16 = 0
    var checksumStart: UInt16 = 0
    var checksumOffset: UInt16 = 0

    init() {}

    /// In native order, as the kernel writes it.
    init(reading bytes: UnsafeRawPointer) {
        flags = unsafe bytes.loadUnaligned(as: UInt8.self)
        kind = unsafe bytes.loadUnaligned(fromByteOffset: 1, as: UInt8.self)
        segmentByteCount = unsafe bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self)
        checksumStart = unsafe bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self)
        checksumOffset = unsafe bytes.loadUnaligned(fromByteOffset: 8, as: UInt16.self)
    }

    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
    var needsChecksum: Bool { flags & 1 != 0 }
    /// `VIRTIO_NET_HDR_F_DATA_VALID`
    var isValid: Bool { flags & 2 != 0 }

    /// `VIRTIO_NET_HDR_GSO_TCPV4`, `TCPV6`, `UDP_L4`; others are delivered whole.
    var segments: FrameSegments? {
        switch kind & 0x7F {
        case 1, 4:
            FrameSegments(
                kind: .tcp, segmentByteCount: Int(segmentByteCount))
        case 5:
            FrameSegments(
                kind: .udp, segmentByteCount: Int(segmentByteCount))
        default: nil
        }
    }
}

/// The checksum of IP, TCP and UDP (RFC 1071).
package enum InternetChecksum {
    /// The ones' complement sum of bytes, in native order, to be added to others and folded.
    package static func sum(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
        var sum: UInt64 = 0
        var offset = 0
        while offset + 4 <= bytes.count {
            sum &+= unsafe UInt64(bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
            offset += 4
        }
        if offset + 2 <= bytes.count {
            sum &+= unsafe UInt64(bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
            offset += 2
        }
        // The byte behind an odd end counts as zero: in native order on a little-endian machine, the low byte.
        if offset < bytes.count { sum &+= unsafe UInt64(UInt16(bytes[offset]).littleEndian) }
        return sum
    }

    /// 16 bits of a sum, in native order.
    package static func folded(_ sum: UInt64) -> UInt16 {
        var sum = (sum & 0xFFFF_FFFF) + (sum >> 32)
        sum = (sum & 0xFFFF_FFFF) + (sum >> 32)
        sum = (sum & 0xFFFF) + (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16)
        return UInt16(truncatingIfNeeded: sum)
    }

    /// Fills in a checksum whose field has the sum of the pseudo-header so far (`CHECKSUM_PARTIAL`). `false` where the field
    /// is not in the frame.
    static func complete(_ frame: UnsafeMutableRawBufferPointer, from start: Int, at offset: Int) -> Bool {
        guard let base = frame.baseAddress, start + offset + 2 <= frame.count else { return false }
        let sum = unsafe sum(UnsafeRawBufferPointer(start: base + start, count: frame.count - start))
        let checksum = ~folded(sum)
        // For UDP a zero would mean that there is none; TCP may have either.
        unsafe base.storeBytes(of: checksum == 0 ? 0xFFFF : checksum, toByteOffset: start + offset, as: UInt16.self)
        return true
    }
}
