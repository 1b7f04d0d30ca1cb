// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Synchronization

/// The receiving end of an AF_PACKET socket: a ring that the kernel copies frames into.
///
/// Each place of the ring belongs to the kernel or to us, as its status word says: the kernel stores `user` (release)
/// when a place is filled, which we load (acquire); we store `kernel` (release) when we are done with it.
///
/// One thread at a time. Grammar: ``beginBatch()`` ──► ``nextFrame()`` until `nil`, or no more are wanted; the frames
/// are valid until the next ``beginBatch()``.
@safe package struct PacketRing: ~Copyable {
    /// How the ring is divided.
    package enum Layout: Sendable, Equatable {
        /// A place for each frame, shown at once (TPACKET_V2): for latency.
        case frames
        /// Blocks that frames are packed into, shown when one is full or its time is over (TPACKET_V3): for floods.
        case blocks(milliseconds: UInt32)
    }

    private enum Status {
        static let kernel: UInt32 = 0
        static let user: UInt32 = 1
    }

    /// What is in a place besides the bytes of the frame.
    package enum Detail: Sendable {
        /// Nothing; a VLAN tag is not seen, as the kernel takes it off.
        case none
        /// The kernel's notes on VLAN, checksum and segmentation, from which ``nextReceived()`` restores the frame as it was on
        /// the wire.
        case notes
    }

    private static let blockBytes = 1 << 18
    /// What stands before a frame in its place, at most: the kernel's header, sockaddr_ll, and alignment.
    private static let overheadBytes = 128

    private let socket: FileDescriptor
    private let layout: Layout
    private let detail: Detail
    private let memory: UnsafeMutableRawPointer
    private let byteCount: Int
    /// Bytes and number of places: of frames or of blocks.
    private let stride: Int
    private let placeCount: Int
    /// The place to look at next.
    private var place = 0
    /// The first of the places that were shown to us and are not given back, and how many.
    private var heldFirst = 0
    private var heldCount = 0
    /// Within a block: frames left, and where the next one is.
    private var leftInBlock = 0
    private var nextInBlock = 0

    /// Opens a socket that receives the frames of an interface that the filter lets through.
    ///
    /// - Parameters:
    ///   - frameByteCount: the longest frame that is wanted whole; longer ones are cut off.
    ///   - detail: whether ``nextFrame()`` or ``nextReceived()`` is to be called.
    ///   - filter: a classic program over the whole frame; `nil` for all frames, or those that the socket is made for.
    ///   - socket: `nil` to open one.
    ///   - ringByteCount: bytes of the ring, at least. A block of 256 KiB is used up when its time is over, however few frames are in
    ///     it: a ring of blocks lasts as many times as it has blocks while nobody looks.
    /// - Throws: EPERM without CAP_NET_RAW.
    package init(
        interface index: Int, layout: Layout, frameByteCount: Int, filter: PacketFilter?, detail: Detail = .none,
        ringByteCount: Int = 8 << 20, socket given: consuming UnboundPacketSocket? = nil
    ) throws(PacketIOError) {
        let socket = try UnboundPacketSocket.file(given)
        let number = socket.number
        let level = Int32(CLINUXNET_SOL_PACKET.rawValue)
        if let filter, !filter.attach(to: number) { throw SystemError.last("setsockopt(SO_ATTACH_FILTER)") }
        try SocketOption.require(
            number, level, Int32(CLINUXNET_PACKET_VERSION.rawValue), layout == .frames ? 1 : 2, "PACKET_VERSION")
        SocketOption.set(number, level, Int32(CLINUXNET_PACKET_IGNORE_OUTGOING.rawValue), 1)
        if detail == .notes {
            try SocketOption.require(number, level, Int32(CLINUXNET_PACKET_VNET_HDR.rawValue), 1, "PACKET_VNET_HDR")
            // In front of the frame, for the tag that is put back.
            try SocketOption.require(number, level, Int32(CLINUXNET_PACKET_RESERVE.rawValue), 16, "PACKET_RESERVE")
        }
        var place = 2048
        while place < frameByteCount + Self.overheadBytes { place *= 2 }
        let block = max(Self.blockBytes, place)
        let blockCount = max(4, ringByteCount / block)
        let isSet: Bool
        if case .blocks(let milliseconds) = layout {
            var request = tpacket_req3()
            request.tp_block_size = UInt32(block)
            request.tp_block_nr = UInt32(blockCount)
            request.tp_frame_size = UInt32(place)
            request.tp_frame_nr = UInt32(block / place * blockCount)
            request.tp_retire_blk_tov = milliseconds
            isSet =
                unsafe setsockopt(
                    number, level, Int32(CLINUXNET_PACKET_RX_RING.rawValue), &request,
                    UInt32(MemoryLayout<tpacket_req3>.size)) == 0
        } else {
            var request = tpacket_req()
            request.tp_block_size = UInt32(block)
            request.tp_block_nr = UInt32(blockCount)
            request.tp_frame_size = UInt32(place)
            request.tp_frame_nr = UInt32(block / place * blockCount)
            isSet =
                unsafe setsockopt(
                    number, level, Int32(CLINUXNET_PACKET_RX_RING.rawValue), &request,
                    UInt32(MemoryLayout<tpacket_req>.size)) == 0
        }
        guard isSet else { throw SystemError.last("setsockopt(PACKET_RX_RING)") }
        let byteCount = block * blockCount
        guard let memory = unsafe clinuxnet_map_ring(number, byteCount, 0) else {
            throw SystemError.last("mmap(AF_PACKET ring)")
        }
        guard clinuxnet_packet_bind(number, Int32(index), UInt16(CLINUXNET_ETH_P_ALL.rawValue)) == 0 else {
            let error = SystemError.last("bind(AF_PACKET)")
            unsafe _ = munmap(memory, byteCount)
            throw error
        }
        let isOfBlocks = layout != .frames
        stride = isOfBlocks ? block : place
        placeCount = isOfBlocks ? blockCount : block / place * blockCount
        self.byteCount = byteCount
        unsafe self.memory = memory
        self.layout = layout
        self.detail = detail
        self.socket = socket
    }

    deinit { unsafe _ = munmap(memory, byteCount) }

    /// Readable when a frame is there.
    package var descriptor: Int32 { socket.number }

    /// Frames that the kernel had no place for since the last time this was asked.
    package var newlyDropped: UInt64 {
        var native = tpacket_stats_v3()
        var length = UInt32(MemoryLayout<tpacket_stats_v3>.size)
        let result = unsafe getsockopt(
            socket.number, Int32(CLINUXNET_SOL_PACKET.rawValue), Int32(CLINUXNET_PACKET_STATISTICS.rawValue), &native,
            &length)
        return result == 0 ? UInt64(native.tp_drops) : 0
    }

    /// Takes the error that the kernel leaves at the socket when the interface goes down or away. Until somebody takes it
    /// the descriptor is readable, whatever the ring has.
    package func takeError() {
        _ = SocketOption.get(socket.number, SOL_SOCKET, SO_ERROR)
    }

    /// Whether a frame is there: one load.
    @inline(__always)
    package var isReady: Bool { leftInBlock > 0 || (heldCount < placeCount && isShown(place)) }

    /// Gives back what ``nextFrame()`` showed. A block with frames left is kept.
    package mutating func beginBatch() {
        let kept = leftInBlock > 0 ? 1 : 0
        while heldCount > kept {
            unsafe status(heldFirst).pointee.store(Status.kernel, ordering: .releasing)
            heldFirst = heldFirst + 1 < placeCount ? heldFirst + 1 : 0
            heldCount -= 1
        }
    }

    /// The next frame, from its Ethernet header on; without a VLAN tag, which the kernel takes off.
    @inline(__always)
    package mutating func nextFrame() -> UnsafeRawBufferPointer? {
        guard let start = unsafe nextPlace() else { return nil }
        guard let bytes = unsafe frame(at: start) else { return unsafe UnsafeRawBufferPointer(start: nil, count: 0) }
        return UnsafeRawBufferPointer(bytes)
    }

    /// The next frame as it was on the wire, with what the kernel knows of it. For a ring with ``Detail/notes``.
    @inline(__always)
    package mutating func nextReceived() -> ReceivedFrame? {
        guard let start = unsafe nextPlace() else { return nil }
        guard let bytes = unsafe frame(at: start) else {
            return unsafe ReceivedFrame(UnsafeRawBufferPointer(start: nil, count: 0))
        }
        return unsafe restored(bytes, at: start)
    }

    /// Where the kernel's header of the next frame is.
    @inline(__always)
    private mutating func nextPlace() -> UnsafeMutableRawPointer? {
        if leftInBlock > 0 { return unsafe nextOfBlock() }
        guard heldCount < placeCount, isShown(place) else { return nil }
        let start = unsafe memory + place * stride
        heldCount += 1
        if case .frames = layout {
            advance()
            return unsafe start
        }
        leftInBlock = Int(unsafe start.load(fromByteOffset: 12, as: UInt32.self))
        nextInBlock = place * stride + Int(unsafe start.load(fromByteOffset: 16, as: UInt32.self))
        advance()
        return leftInBlock > 0 ? unsafe nextOfBlock() : nil
    }

    @inline(__always)
    private mutating func nextOfBlock() -> UnsafeMutableRawPointer {
        leftInBlock -= 1
        let start = unsafe memory + nextInBlock
        nextInBlock += Int(unsafe start.load(as: UInt32.self))
        return unsafe start
    }

    @inline(__always)
    private func frame(at start: UnsafeMutableRawPointer) -> UnsafeMutableRawBufferPointer? {
        let isOfBlocks = layout != .frames
        let mac = Int(unsafe start.load(fromByteOffset: isOfBlocks ? 24 : 12, as: UInt16.self))
        let length = Int(unsafe start.load(fromByteOffset: isOfBlocks ? 12 : 8, as: UInt32.self))
        // The kernel's word, but a wrong one must not lead outside of the ring.
        guard unsafe length <= byteCount - (start - memory) - mac else { return nil }
        return unsafe UnsafeMutableRawBufferPointer(start: start + mac, count: length)
    }

    /// Puts back what the kernel took off, from its notes; in the ring, which is ours until the next batch.
    private func restored(_ bytes: UnsafeMutableRawBufferPointer, at start: UnsafeMutableRawPointer) -> ReceivedFrame {
        guard bytes.count >= 14, let base = bytes.baseAddress else {
            return unsafe ReceivedFrame(UnsafeRawBufferPointer(bytes))
        }
        let isOfBlocks = layout != .frames
        let status = unsafe start.load(fromByteOffset: isOfBlocks ? 20 : 0, as: UInt32.self)
        let wireLength = Int(unsafe start.load(fromByteOffset: isOfBlocks ? 16 : 4, as: UInt32.self))
        let seconds = unsafe start.load(fromByteOffset: isOfBlocks ? 4 : 16, as: UInt32.self)
        let nanoseconds = unsafe start.load(fromByteOffset: isOfBlocks ? 8 : 20, as: UInt32.self)
        // In front of the frame, and copied: the tag goes there.
        let note = unsafe SegmentationNote(reading: UnsafeRawPointer(base - SegmentationNote.byteCount))
        var frame = unsafe ReceivedFrame(UnsafeRawBufferPointer(bytes))
        frame.timestamp = UInt64(seconds) * 1_000_000_000 + UInt64(nanoseconds)
        frame.isCut = wireLength > bytes.count
        unsafe frame.apply(note, to: bytes)
        if status & 0x10 != 0 {
            let tag = unsafe start.load(fromByteOffset: isOfBlocks ? 32 : 24, as: UInt16.self)
            let type = unsafe start.load(fromByteOffset: isOfBlocks ? 36 : 26, as: UInt16.self)
            unsafe frame.insertTag(tag, type: status & 0x40 != 0 ? type : 0x8100, in: bytes)
        }
        return frame
    }

    private mutating func advance() { place = place + 1 < placeCount ? place + 1 : 0 }

    @inline(__always)
    private func isShown(_ place: Int) -> Bool {
        unsafe status(place).pointee.load(ordering: .acquiring) & Status.user != 0
    }

    @inline(__always)
    private func status(_ place: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        let offset = layout == .frames ? 0 : 8
        return unsafe (memory + place * stride + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
    }
}
