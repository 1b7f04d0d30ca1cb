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

    /// Bytes of the ring, at least.
    private static let ringBytes = 8 << 20
    private static let blockBytes = 1 << 18
    /// What stands before a frame in its place, at most: the kernel's header, sockaddr_ll, and alignment.
    private static let overheadBytes = 128

    private let socket: FileDescriptor
    private let layout: Layout
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
    ///   - filter: a classic program over the whole frame; `nil` for all frames.
    /// - Throws: EPERM without CAP_NET_RAW.
    package init(
        interface index: Int, layout: Layout, frameByteCount: Int, filter: PacketFilter?
    ) throws(PacketIOError) {
        // Protocol 0: nothing is received before the filter is there.
        let socket = try FileDescriptor(
            CLinuxNet.socket(AF_PACKET, clinuxnet_sock_raw, 0), call: "socket(AF_PACKET)")
        let number = socket.number
        let level = Int32(CLINUXNET_SOL_PACKET.rawValue)
        if let filter, !filter.attach(to: number) { throw SystemError.last("setsockopt(SO_ATTACH_FILTER)") }
        try SocketOption.require(
            number, level, Int32(CLINUXNET_PACKET_VERSION.rawValue), layout == .frames ? 1 : 2, "PACKET_VERSION")
        SocketOption.set(number, level, Int32(CLINUXNET_PACKET_IGNORE_OUTGOING.rawValue), 1)
        var place = 2048
        while place < frameByteCount + Self.overheadBytes { place *= 2 }
        let block = max(Self.blockBytes, place)
        let blockCount = max(4, Self.ringBytes / block)
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
        if leftInBlock > 0 { return unsafe nextOfBlock() }
        guard heldCount < placeCount, isShown(place) else { return nil }
        let start = unsafe memory + place * stride
        heldCount += 1
        if case .frames = layout {
            advance()
            return unsafe frame(at: start, macOffset: 12, lengthOffset: 8)
        }
        leftInBlock = Int(unsafe start.load(fromByteOffset: 12, as: UInt32.self))
        nextInBlock = place * stride + Int(unsafe start.load(fromByteOffset: 16, as: UInt32.self))
        advance()
        return leftInBlock > 0 ? unsafe nextOfBlock() : nil
    }

    private mutating func nextOfBlock() -> UnsafeRawBufferPointer? {
        leftInBlock -= 1
        let start = unsafe memory + nextInBlock
        nextInBlock += Int(unsafe start.load(as: UInt32.self))
        return unsafe frame(at: start, macOffset: 24, lengthOffset: 12)
    }

    private func frame(
        at start: UnsafeMutableRawPointer, macOffset: Int, lengthOffset: Int
    ) -> UnsafeRawBufferPointer {
        let mac = Int(unsafe start.load(fromByteOffset: macOffset, as: UInt16.self))
        let length = Int(unsafe start.load(fromByteOffset: lengthOffset, as: UInt32.self))
        // The kernel's word, but a wrong one must not lead outside of the ring.
        guard unsafe length <= byteCount - (start - memory) - mac else {
            return unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        }
        return unsafe UnsafeRawBufferPointer(start: start + mac, count: length)
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
