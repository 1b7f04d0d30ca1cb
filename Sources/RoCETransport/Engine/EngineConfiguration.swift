// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// A point in virtual or real time, in nanoseconds of any monotonic clock. The engine never reads a clock.
public typealias Timestamp = UInt64

/// The limits of an engine, fixed when it is made.
public struct EngineConfiguration: Sendable {
    /// The high 8 bits of every queue pair number, 1...254: which process of the host a packet belongs to.
    public var slot: UInt8
    /// Local addresses (source GID indices).
    public var localAddressCountMax = 64
    /// Queue pairs, at most 65,000.
    public var queuePairCountMax = 16_384
    /// Completion queues.
    public var completionQueueCountMax = 16_384
    /// Shared receive queues.
    public var sharedReceiveQueueCountMax = 4_096
    /// Memory regions and windows together.
    public var memoryKeyCountMax = 65_536
    /// Queue pairs attached to multicast groups, in all.
    public var multicastAttachmentCountMax = 1_024
    /// Work requests in a queue.
    public var workRequestCountMax = 32_768
    /// Entries in a completion queue.
    public var completionEntryCountMax = 1 << 20
    /// Scatter/gather entries in a work request.
    public var scatterGatherMax = 32
    /// Inline data in a work request, bytes.
    public var inlineMax = 1_024
    /// READs and atomics outstanding on a queue pair in either direction (`max_qp_rd_atom`), at most 128.
    public var readAtomicMax = 16
    /// What a queue pair may have unacknowledged at the start, bytes; at least 2 packets are allowed.
    public var windowInitialBytes = 64 * 1024
    /// What a queue pair may ever have unacknowledged, bytes: what the receive buffers of a peer hold.
    public var windowMaxBytes = 1 << 20
    /// Whether RC obeys congestion: the delay, marks (ECN), notifications of the peer, and loss. Without, what may be
    /// unacknowledged is always `windowMaxBytes`.
    public var congestionControl = true
    /// What packets may wait on their way before the sender slows down, nanoseconds. Hosts that look for packets less often
    /// look like a queue.
    public var delayTargetNanoseconds: UInt32 = 50_000
    /// Requests behind a gap that a queue pair keeps until the gap is filled, and as many responses, packets; 0 to keep none.
    public var earlyPacketCountMax = 256
    /// The same of all queue pairs: some 4.3 KB each of memory that is touched as far as it is used.
    public var earlyPacketPoolCountMax = 1024
    /// What all RC queue pairs together may have in flight to one process of this host, bytes (see `HostShares`).
    public var hostBytesMax = 1 << 20
    /// What a queue pair may send before the next one has its turn, bytes.
    public var quantumBytes = 64 * 1024
    /// The largest RDMA message, bytes (`max_msg_sz`).
    public var messageBytesMax: UInt32 = 1 << 31
    /// How to reach the whole address space; without it, it cannot be registered.
    public var checkedMemory: CheckedMemory?

    /// The defaults, for a slot.
    public init(slot: UInt8) { self.slot = slot }
}

/// One of our own addresses.
public struct LocalAddress: Sendable, Equatable {
    /// The address, as source of packets and as what the peer's ICRC covers.
    public var gid: GID
    /// The UDP port that packets from this address leave from; the ICRC covers it.
    public var sourcePort: UInt16
    /// The port's active MTU: the longest payload of a datagram.
    public var mtu: PathMTU

    /// An address and the port of its transmit socket.
    @inlinable
    public init(gid: GID, sourcePort: UInt16, mtu: PathMTU = .bytes1024) {
        self.gid = gid
        self.sourcePort = sourcePort
        self.mtu = mtu
    }
}

/// Where a datagram came from, and what its socket knows besides its bytes.
public struct DatagramOrigin: Sendable {
    /// The sender's address.
    public var source: GID
    /// The address it was sent to, if that is none of ours (a multicast group); otherwise as `localIndex` says.
    public var group: GID?
    /// The sender's UDP port.
    public var sourcePort: UInt16
    /// The place in a GRO batch: the IPv4 identification to expect, as GSO numbers segments so.
    public var segmentIndex: UInt16
    /// Index of the local address that it came to.
    public var localIndex: UInt8
    /// IPv4 TOS or IPv6 traffic class, as received.
    public var trafficClass: UInt8
    /// It carries an ICRC, which is to be checked. Not if the link has it from a process of this host, through memory.
    public var isSealed = true
    /// The IPv4 identification, if the link has seen it: then the ICRC is checked in all bits.
    public var identification: UInt16?
    /// Whether the IPv4 header forbade fragments; goes with ``identification``.
    public var dontFragment = true

    /// A datagram's origin.
    @inlinable
    public init(
        source: GID, sourcePort: UInt16, localIndex: UInt8, segmentIndex: UInt16 = 0, trafficClass: UInt8 = 0,
        group: GID? = nil
    ) {
        self.source = source
        self.group = group
        self.sourcePort = sourcePort
        self.segmentIndex = segmentIndex
        self.localIndex = localIndex
        self.trafficClass = trafficClass
    }
}
