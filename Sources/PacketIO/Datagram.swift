// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// One received UDP payload, or a run of equally long ones that the kernel delivered as one (UDP GRO).
///
/// Trivially copyable. The bytes belong to the link and are valid until its next `receive`.
@safe package struct Datagram {
    /// The first byte of the first segment. Valid until the next `receive` of the link it came from.
    package var base: UnsafeRawPointer
    /// Length of all segments together, in bytes; at least 1.
    package var byteCount: Int
    /// Length of each segment but the last, which may be shorter; equal to ``byteCount`` where there is one segment.
    package var segmentSize: Int
    /// Position of the first segment in the burst as the kernel handed it over: over IPv4 segment `i` of a GSO burst
    /// carries identification `i`, so this is the identification to expect first when the ICRC is checked.
    package var firstSegment: Int
    /// Which local address received it; for a multicast group, the address that joined.
    package var localIndex: Int
    package var source: GID
    /// The destination of the IP header: the local address, or a multicast group or broadcast address.
    package var destination: GID
    package var sourcePort: UInt16
    /// TOS or traffic class as received: DSCP in the high six bits, ECN in the low two.
    package var trafficClass: UInt8
    /// Whether segments carry ICRCs. Not through memory that was shared with the sender, where no bit changes on its way.
    package var isSealed = true
    /// The IPv4 identification, of a link that sees whole frames; a socket hides it.
    package var identification: UInt16?
    /// Whether fragments were forbidden; told together with ``identification``.
    package var dontFragment = true

    /// The two ECN bits: 3 is congestion experienced.
    package var ecn: UInt8 { trafficClass & 3 }

    /// How many segments there are.
    package var segmentCount: Int { (byteCount + segmentSize - 1) / segmentSize }

    /// All bytes. Valid until the next `receive`.
    package var bytes: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(start: base, count: byteCount) }

    /// One segment, `0 ..< segmentCount`: one UDP payload from BTH to ICRC. Valid until the next `receive`.
    package func segment(_ index: Int) -> UnsafeRawBufferPointer {
        let start = index * segmentSize
        precondition(index >= 0 && start < byteCount, "segment out of range")
        return unsafe UnsafeRawBufferPointer(start: base + start, count: min(segmentSize, byteCount - start))
    }
}

/// What to send: one UDP payload, or a run of equally long ones to one destination that the kernel cuts up (UDP GSO).
///
/// Over IPv4 segment `i` leaves with identification `i`, so its ICRC must have been computed for that; a single
/// payload leaves with identification 0. The bytes are read during `send` only.
@safe package struct Burst {
    package var base: UnsafeRawPointer
    /// At most 65,507 over IPv4, 65,487 (to be safe with extension headers, keep under 65,000) over IPv6.
    package var byteCount: Int
    /// Length of each segment but the last, which may be shorter; equal to ``byteCount`` for a single payload.
    package var segmentSize: Int
    /// The local address to send from.
    package var localIndex: Int
    /// DSCP and ECN for the IP header.
    package var trafficClass: UInt8
    package var destination: GID
    /// Whether segments carry ICRCs. Without, it goes through shared memory or nowhere, and all of it to one process.
    package var isSealed: Bool

    package init(
        base: UnsafeRawPointer, byteCount: Int, segmentSize: Int, localIndex: Int, trafficClass: UInt8,
        destination: GID, isSealed: Bool = true
    ) {
        unsafe self.base = base
        self.byteCount = byteCount
        self.segmentSize = segmentSize
        self.localIndex = localIndex
        self.trafficClass = trafficClass
        self.destination = destination
        self.isSealed = isSealed
    }

    /// How many segments there are.
    package var segmentCount: Int { (byteCount + segmentSize - 1) / segmentSize }
}
