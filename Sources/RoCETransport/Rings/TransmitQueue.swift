// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The way of a packet: what its ICRC covers besides itself, and what the link needs to send it.
public struct TransmitPath: Sendable, Equatable {
    /// Our address.
    public var source: GID
    /// The peer's address.
    public var destination: GID
    /// Our UDP port.
    public var sourcePort: UInt16
    /// Index of our address.
    public var localIndex: UInt8
    /// IPv4 TOS or IPv6 traffic class.
    public var trafficClass: UInt8
    /// IPv4 TTL or IPv6 hop limit.
    public var hopLimit: UInt8

    /// A way from one of our addresses to a peer's.
    @inlinable
    public init(
        source: GID, destination: GID, sourcePort: UInt16, localIndex: UInt8, trafficClass: UInt8 = 0,
        hopLimit: UInt8 = 64
    ) {
        self.source = source
        self.destination = destination
        self.sourcePort = sourcePort
        self.localIndex = localIndex
        self.trafficClass = trafficClass
        self.hopLimit = hopLimit
    }
}

/// Consecutive frames of one way that may leave in one system call (UDP_SEGMENT): all of `segmentSize` bytes, but the
/// last may be shorter.
public struct TransmitBurst: Sendable {
    /// The way of all the frames.
    public let path: TransmitPath
    /// Where the first frame starts in the queue's arena.
    let offset: Int
    /// Bytes of all the frames: UDP payloads from BTH to ICRC, one behind the other.
    public internal(set) var byteCount: Int
    /// Bytes of every frame but the last.
    public let segmentSize: Int
    /// The number of frames; frame `i` has an ICRC for IPv4 identification `i`.
    public internal(set) var segmentCount: Int
    /// Its frames carry ICRCs. Without, they are all for one process of this host; see ``TransmitQueue/setUnsealed(_:localIndex:slot:)``.
    public internal(set) var isSealed = true
    /// The process that an unsealed one is for.
    var slot: UInt8 = 0
    /// No shorter frame is in it yet.
    var isOpen = true
}

/// Frames on their way from the engine to a link: an arena that is allocated once, and the bursts in it.
///
/// The engine reserves and commits; the link takes bursts from the front and says how many it has sent. What it could
/// not send stays. Room comes back when the queue is empty.
@safe public struct TransmitQueue: ~Copyable {
    /// Frames in a burst at most, 1...64: the kernel numbers the segments of one GSO send in the IPv4 identification, and
    /// takes no more. 1 turns bursts off.
    public var segmentCountMax: Int {
        didSet { segmentCountMax = min(max(segmentCountMax, 1), 64) }
    }
    /// Bytes in a burst at most: what an IPv4 datagram carries, with room for headers.
    static var burstBytesMax: Int { 65_000 }

    /// Allocated here, freed in `deinit`.
    private let arena: UnsafeMutableRawPointer
    private let arenaByteCount: Int
    private var arenaUsed = 0
    /// Allocated here, freed in `deinit`; `first..<end` are pending.
    private let bursts: UnsafeMutablePointer<TransmitBurst>
    private let burstCountMax: Int
    private var first = 0
    private var end = 0
    /// By local index and slot: 1 for processes that take frames without ICRC. Allocated here, freed in `deinit`.
    private let unsealed: UnsafeMutablePointer<UInt8>
    private var unsealedCount = 0
    private static var unsealedIndexCount: Int { 16 }
    /// Allocated here, freed in `deinit`: 3 KiB, too much for a value that is moved about.
    private let seeds: UnsafeMutablePointer<ICRCSeedCache>

    /// An empty queue.
    ///
    /// - Parameters:
    ///   - arenaByteCount: room for frames, bytes; at least one frame of the largest path MTU.
    ///   - burstCountMax: bursts at most.
    public init(arenaByteCount: Int = 256 * 1024, burstCountMax: Int = 128, segmentCountMax: Int = 64) {
        self.arenaByteCount = max(arenaByteCount, 8192)
        self.burstCountMax = max(burstCountMax, 1)
        self.segmentCountMax = min(max(segmentCountMax, 1), 64)
        unsafe arena = .allocate(byteCount: self.arenaByteCount, alignment: 64)
        unsafe bursts = .allocate(capacity: self.burstCountMax)
        unsafe unsealed = .allocate(capacity: Self.unsealedIndexCount << 8)
        unsafe unsealed.initialize(repeating: 0, count: Self.unsealedIndexCount << 8)
        unsafe seeds = .allocate(capacity: 1)
        unsafe seeds.initialize(to: ICRCSeedCache())
    }

    deinit {
        unsafe arena.deallocate()
        unsafe bursts.deallocate()
        unsafe unsealed.deallocate()
        unsafe seeds.deinitialize(count: 1)
        unsafe seeds.deallocate()
    }

    // MARK: The link's side

    /// Bursts that wait.
    public var count: Int { end - first }
    /// Whether none waits.
    public var isEmpty: Bool { end == first }

    /// The `index`-th burst that waits.
    public func burst(_ index: Int) -> TransmitBurst {
        precondition(index >= 0 && index < count, "no such burst")
        return unsafe bursts[first + index]
    }

    /// The frames of a burst; valid until the next change of the queue.
    public func bytes(of burst: TransmitBurst) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: arena + burst.offset, count: burst.byteCount)
    }

    /// Forgets the first `count` bursts: they were sent, or given up.
    public mutating func removeFirst(_ count: Int) {
        first = min(first + count, end)
        if first == end {
            first = 0
            end = 0
            arenaUsed = 0
        }
    }

    /// Forgets everything.
    public mutating func removeAll() { removeFirst(count) }

    /// Whether frames from a local address to the same address, for the process of a slot, need no ICRC, because the link
    /// has a way to it on which no bit changes. What is in the queue stays as it is.
    public mutating func setUnsealed(_ isUnsealed: Bool, localIndex: Int, slot: UInt8) {
        guard localIndex >= 0, localIndex < Self.unsealedIndexCount else { return }
        let place = unsafe unsealed + (localIndex << 8 | Int(slot))
        let value: UInt8 = isUnsealed ? 1 : 0
        unsealedCount += unsafe Int(value) - Int(place.pointee)
        unsafe place.pointee = value
    }

    // MARK: The engine's side

    /// Whether the smallest answer fits.
    var hasRoomForAcknowledge: Bool { arenaByteCount - arenaUsed >= 64 && end < burstCountMax }

    /// Room for one frame of up to `byteCount` bytes at the end of the arena; `nil` if the queue is full. Write the frame
    /// there, then ``commit(byteCount:path:)``.
    @_lifetime(&self)
    mutating func reserve(byteCount: Int) -> MutableRawSpan? {
        guard arenaByteCount - arenaUsed >= byteCount, end < burstCountMax else { return nil }
        let span = unsafe MutableRawSpan(_unsafeStart: arena + arenaUsed, byteCount: byteCount)
        return unsafe _overrideLifetime(span, mutating: &self)
    }

    /// Puts the frame at the end of the arena in the queue: joins it to the last burst if it fits, and writes its ICRC,
    /// which depends on its place in the burst.
    ///
    /// - Parameters:
    ///   - byteCount: the whole UDP payload, with 4 bytes for the ICRC.
    ///   - endsMessage: if it is shorter than the frames before, it may be the end of their burst. Otherwise longer ones
    ///     follow as a rule, as MIDDLEs do a FIRST, and it starts a burst.
    @inline(__always)
    mutating func commit(byteCount: Int, path: TransmitPath, endsMessage: Bool) {
        guard unsealedCount == 0 || path.source != path.destination else {
            return commitToHost(byteCount: byteCount, path: path, endsMessage: endsMessage)
        }
        let place = join(byteCount: byteCount, path: path, endsMessage: endsMessage, unsealedFor: nil)
        seal(at: arenaUsed, byteCount: byteCount, path: path, identification: UInt16(truncatingIfNeeded: place))
        arenaUsed += byteCount
    }

    /// Commits a frame to our own address.
    private mutating func commitToHost(byteCount: Int, path: TransmitPath, endsMessage: Bool) {
        // A frame begins with a BTH, whose sixth byte is the slot.
        let slot = unsafe arena.load(fromByteOffset: arenaUsed + 5, as: UInt8.self)
        let index = Int(path.localIndex)
        let isUnsealed = unsafe index < Self.unsealedIndexCount && unsealed[index << 8 | Int(slot)] != 0
        let place = join(
            byteCount: byteCount, path: path, endsMessage: endsMessage, unsealedFor: isUnsealed ? slot : nil)
        if isUnsealed {
            unsafe arena.storeBytes(of: 0, toByteOffset: arenaUsed + byteCount - 4, as: UInt32.self)
        } else {
            seal(at: arenaUsed, byteCount: byteCount, path: path, identification: UInt16(truncatingIfNeeded: place))
        }
        arenaUsed += byteCount
    }

    /// Makes the frame at the end of the arena part of the last burst, or a burst, and returns its place in it.
    @inline(__always)
    private mutating func join(byteCount: Int, path: TransmitPath, endsMessage: Bool, unsealedFor slot: UInt8?) -> Int {
        if end > first, unsafe Self.joins(bursts[end - 1], byteCount, path, segmentCountMax, endsMessage: endsMessage),
            unsafe slot == nil ? bursts[end - 1].isSealed : !bursts[end - 1].isSealed && bursts[end - 1].slot == slot
        {
            let place = unsafe bursts[end - 1].segmentCount
            unsafe bursts[end - 1].segmentCount += 1
            unsafe bursts[end - 1].byteCount += byteCount
            unsafe bursts[end - 1].isOpen = byteCount == bursts[end - 1].segmentSize
            return place
        }
        unsafe bursts[end] = TransmitBurst(
            path: path, offset: arenaUsed, byteCount: byteCount, segmentSize: byteCount, segmentCount: 1)
        if let slot {
            unsafe bursts[end].isSealed = false
            unsafe bursts[end].slot = slot
        }
        end += 1
        return 0
    }

    @inline(__always)
    private static func joins(
        _ burst: TransmitBurst, _ byteCount: Int, _ path: TransmitPath, _ segmentCountMax: Int, endsMessage: Bool
    ) -> Bool {
        let fits = byteCount == burst.segmentSize || (endsMessage && byteCount < burst.segmentSize)
        return fits && burst.isOpen && burst.segmentCount < segmentCountMax
            && burst.byteCount + byteCount <= burstBytesMax && burst.path == path
    }

    @inline(__always)
    private func seal(at offset: Int, byteCount: Int, path: TransmitPath, identification: UInt16) {
        // The frame lies in the arena, which nobody else uses during the call.
        var frame = unsafe MutableRawSpan(_unsafeStart: arena + offset, byteCount: byteCount)
        let flow = ICRC.Flow(source: path.source, destination: path.destination, sourcePort: path.sourcePort)
        let seed = unsafe seeds.pointee.seed(flow, udpPayloadByteCount: byteCount, identification: identification)
        ICRC.seal(&frame, seed)
    }

    /// Prepares the first burst to be sent one frame at a time, by a link whose kernel refused it: every frame gets the
    /// ICRC for identification 0. Ask for each with `bytes(of:)` and `segmentSize`.
    public mutating func sealFirstBurstSingly() {
        guard end > first else { return }
        let burst = unsafe bursts[first]
        var offset = 0
        while offset < burst.byteCount {
            let byteCount = min(burst.segmentSize, burst.byteCount - offset)
            seal(at: burst.offset + offset, byteCount: byteCount, path: burst.path, identification: 0)
            offset += byteCount
        }
    }
}
