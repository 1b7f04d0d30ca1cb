// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// The way of whole frames by AF_PACKET beside the UDP sockets of a link. It needs CAP_NET_RAW alone.
///
/// The kernel's stack sees each frame too, so the link's UDP sockets have the opposite filter.
@safe struct PacketPath: ~Copyable {
    static let batchMax = 64

    var ring: PacketRing
    private var sender: PacketSender
    var neighbours: NeighbourTable
    let interface: Int
    let mtu: Int
    private let hardwareAddress: UInt64

    init(interface: NetworkInterface, slot: UInt8) throws(PacketIOError) {
        let ring = try PacketRing(
            interface: interface.index, layout: .frames, frameByteCount: interface.mtu + 14,
            filter: .frames(slot: slot, mtu: interface.mtu))
        let sender = try PacketSender(interface: interface.index)
        neighbours = try NeighbourTable(interface: interface.index)
        self.ring = ring
        self.sender = sender
        self.interface = interface.index
        mtu = interface.mtu
        hardwareAddress = FrameHeader.word(interface.hardwareAddress)
    }

    /// Sends a burst as frames; all of it or nothing, but for what the kernel loses.
    @inline(__always)
    mutating func send(_ burst: Burst, source: GID, sourcePort: UInt16, now: UInt64) -> XDPPath.Outcome {
        guard !burst.destination.isMulticast, burst.segmentCount <= PacketSender.depth,
            let neighbour = neighbours.hardwareAddress(
                of: burst.destination, localIndex: burst.localIndex, now: now)
        else { return .elsewhere }
        let header = FrameHeader(
            destinationHardware: neighbour, sourceHardware: hardwareAddress, source: source,
            destination: burst.destination, sourcePort: sourcePort, trafficClass: burst.trafficClass)
        let headerBytes = header.byteCount
        guard headerBytes - 14 + burst.segmentSize <= mtu else { return .elsewhere }
        let count = burst.segmentCount
        for index in 0..<count {
            let offset = index * burst.segmentSize
            let length = min(burst.segmentSize, burst.byteCount - offset)
            unsafe sender.add(payload: burst.base + offset, byteCount: length, headerByteCount: headerBytes) { place in
                unsafe header.store(
                    to: place, payloadByteCount: length, identification: UInt16(truncatingIfNeeded: index))
            }
        }
        let sent = sender.flush()
        if sent == count { return .sent }
        // What has gone must not go again in another order; the rest is lost, and the transport sends it again.
        if sent > 0 { return .sent }
        let code = clinuxnet_errno()
        return code == EAGAIN || code == ENOBUFS ? .full : .elsewhere
    }
}
