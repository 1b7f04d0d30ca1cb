// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Both ends of whole frames by AF_XDP: a socket with memory of its own on every receive queue of an interface, and the
/// transmit ring of the first.
///
/// What arrives here an XDP program says, which is the caller's: it redirects to the sockets of ``descriptor(_:)``. Sending
/// needs no program.
///
/// One thread at a time. Grammar of receiving: ``beginBatch()`` ──► ``nextFrame()`` until `nil`, or no more are wanted; the frames are
/// valid until the next ``beginBatch()``. Of sending: ``add(byteCount:_:)`` as often as it is `true` ──► ``flush()``.
///
/// VLAN tags stay in the frames. Checksums of frames that a stack of this host sent may not be filled in yet, and AF_XDP
/// does not say which.
@safe package struct XDPFrames: ~Copyable {
    /// How the sockets are made.
    package struct Options: Sendable {
        /// Queues that are served: the sockets of further ones are missing.
        package var queueCountMax = XDPFramesLayout.queueCountMax
        /// Frames that can wait in all queues together, a power of two; a queue has 4096 at least. Each takes 2 or 4 KiB of memory,
        /// which counts against RLIMIT_MEMLOCK without CAP_IPC_LOCK.
        package var receiveCount = 16_384
        /// Frames that can be on their way out, a power of two; fewer where a frame takes many chunks.
        package var transmitCount = 1024

        package init() {}
    }

    /// Bytes of the mark that a program puts before a frame: 32 bits of its choice, and ``markSign``.
    package static let markByteCount = 8
    /// Tells a mark from none.
    package static let markSign: UInt32 = 1
    private static let receiveCountMin = 4096
    /// Of a chunk of 4096 after the kernel's headroom; longer frames lie in several.
    private static let wholeBytesMax = 4096 - XDPSocket.headroomByteCount
    /// Two VLAN tags may come on top of the MTU.
    private static let headerByteCount = 14 + 8
    /// Chunks of one batch, and of them those that a frame may have: 64 KB, and some.
    private static let heldMax = 1024
    private static let chunksOfFrameMax = 32
    /// Frames of several chunks in one batch.
    private static let assembledMax = 64
    /// The kernel takes a frame out of so many chunks (MAX_SKB_FRAGS and the head).
    private static let transmitChunksMax = 17

    /// The longest frame, with its Ethernet header and two VLAN tags.
    package let frameByteCountMax: Int
    /// Whether frames may lie in several buffers; the program on the interface must cope with it, too.
    package let takesFragments: Bool
    /// Queues that are served.
    package let queueCount: Int
    /// The 32 bits that the program put before the frame of the last ``nextFrame()``; `nil` where it put none.
    package private(set) var mark: UInt32?
    /// Frames that were lost for want of room, as far as ``receive(into:limit:)`` knows.
    package private(set) var dropped: UInt64 = 0
    private var emptyCalls = 0
    /// The kernel was asked to send, and has not sent all: ``flush()`` again, as the queue of the interface is full.
    package private(set) var isUnsent = false
    /// The last ``flush()`` failed for another reason than want of room: the interface is gone or down.
    package private(set) var isBroken = false
    /// Frames that were sent, in the order in which they were added, since the start.
    package private(set) var completedCount: UInt64 = 0

    /// The first `queueCount` count. Owned.
    private let queues: UnsafeMutablePointer<XDPQueue>
    private let chunkByteCount: Int
    /// Chunks of the batch that is being read, and their queues. Owned.
    private let held: UnsafeMutablePointer<(queue: Int, address: UInt64)>
    private var heldCount = 0
    /// Frames of several chunks are put together here, each at its place in the batch; `nil` where there are none. Owned.
    private let assembly: UnsafeMutableRawPointer?
    private var assembledCount = 0
    /// The queue to look at first, by turns.
    private var turn = 0
    private var reportedDrops: UInt64 = 0
    /// Places of the first queue's memory that a frame is sent from each, behind the chunks to receive into.
    private let firstPlace: Int
    private let placeByteCount: Int
    /// Numbers of the places that nothing is sent from: the first `freeCount` count. Owned.
    private let free: UnsafeMutablePointer<Int>
    private var freeCount: Int
    /// For each place the chunks that the kernel still has. Owned.
    private let unsentChunks: UnsafeMutablePointer<Int>

    /// Opens the sockets, with zero copy where the driver has it.
    ///
    /// - Throws: EPERM without CAP_NET_RAW, ENOBUFS where the memory is past RLIMIT_MEMLOCK, EBUSY where another socket has a
    ///   queue.
    package init(_ interface: NetworkInterface, _ options: Options = Options()) throws(PacketIOError) {
        let layout = Self.layout(interface, options)
        let chunksPerPlace = (layout.frameByteCountMax + layout.chunkByteCount - 1) / layout.chunkByteCount
        let placeCount = max(options.transmitCount / chunksPerPlace, 1)
        var transmitCount = 1
        while transmitCount < placeCount * chunksPerPlace { transmitCount *= 2 }
        try self.init(layout, placeCount: placeCount, chunksPerPlace: chunksPerPlace) {
            queue throws(PacketIOError) in
            try XDPQueue(
                interface: interface.index, queue: queue, chunkByteCount: layout.chunkByteCount,
                receiveCount: layout.receiveCount, transmitCount: queue == 0 ? transmitCount : 1,
                takesFragments: layout.takesFragments)
        }
    }

    /// Those that another process made (``XDPLoan``), which receive and do not send.
    /// - Parameter descriptors: for each queue the socket, and the file of its memory.
    package init(lent descriptors: PassedDescriptors, _ layout: XDPFramesLayout) throws(PacketIOError) {
        guard descriptors.count >= 2 * layout.queueCount else { throw .invalid("sockets of some queues are missing") }
        try self.init(layout, placeCount: 0, chunksPerPlace: 1) { _ throws(PacketIOError) in
            guard let socket = descriptors.takeFile(), let memory = descriptors.takeFile() else {
                throw .invalid("the socket of a queue is missing")
            }
            return try XDPQueue(lent: socket, memory: memory, layout)
        }
    }

    /// How frames of an interface lie in memory.
    package static func layout(_ interface: NetworkInterface, _ options: Options = Options()) -> XDPFramesLayout {
        let frameByteCountMax = min(interface.mtu + headerByteCount, transmitChunksMax * 4096)
        let queueCount = min(max(1, InterfaceDriver.receiveQueueCount(of: interface.name)), options.queueCountMax)
        var receiveCount = options.receiveCount
        while receiveCount > receiveCountMin, receiveCount * queueCount > options.receiveCount { receiveCount /= 2 }
        return XDPFramesLayout(
            frameByteCountMax: frameByteCountMax, takesFragments: needsFragments(mtu: interface.mtu),
            chunkByteCount: frameByteCountMax + XDPSocket.headroomByteCount <= 2048 ? 2048 : 4096,
            receiveCount: receiveCount, queueCount: queueCount)
    }

    private init(
        _ layout: XDPFramesLayout, placeCount: Int, chunksPerPlace: Int,
        _ open: (Int) throws(PacketIOError) -> XDPQueue
    ) throws(PacketIOError) {
        let queueCount = layout.queueCount
        let queues = UnsafeMutablePointer<XDPQueue>.allocate(capacity: queueCount)
        var opened = 0
        do throws(PacketIOError) {
            while opened < queueCount {
                unsafe (queues + opened).initialize(to: try open(opened))
                opened += 1
            }
        } catch {
            unsafe queues.deinitialize(count: opened)
            unsafe queues.deallocate()
            throw error
        }
        frameByteCountMax = layout.frameByteCountMax
        takesFragments = layout.takesFragments
        self.queueCount = queueCount
        chunkByteCount = layout.chunkByteCount
        firstPlace = layout.receiveByteCount
        placeByteCount = chunksPerPlace * chunkByteCount
        unsafe self.queues = queues
        unsafe held = .allocate(capacity: Self.heldMax)
        unsafe assembly =
            takesFragments
            ? .allocate(byteCount: Self.assembledMax * frameByteCountMax, alignment: 64) : nil
        unsafe free = .allocate(capacity: placeCount)
        freeCount = placeCount
        for index in 0..<placeCount { unsafe (free + index).initialize(to: index) }
        unsafe unsentChunks = .allocate(capacity: placeCount)
        unsafe unsentChunks.initialize(repeating: 0, count: placeCount)
    }

    deinit {
        unsafe queues.deinitialize(count: queueCount)
        unsafe queues.deallocate()
        unsafe held.deallocate()
        unsafe assembly?.deallocate()
        unsafe free.deallocate()
        unsafe unsentChunks.deallocate()
    }

    /// Whether frames of an interface may lie in several buffers, so that its program must cope with that.
    package static func needsFragments(mtu: Int) -> Bool {
        // Native XDP keeps room for the kernel's own behind the frame: veth takes 3498 bytes without fragments, not 3520.
        mtu + headerByteCount > wholeBytesMax - 400
    }

    /// The descriptor of a queue's socket: readable when a frame is there.
    package func descriptor(_ queue: Int) -> Int32 { unsafe queues[queue].socket.descriptor }

    /// Whether the driver reads and writes the memory itself.
    package var isZeroCopy: Bool { unsafe queues[0].socket.isZeroCopy }

    /// Frames for the sockets that the kernel had no place for since the last time this was asked: the rings were full, or a frame
    /// was too long.
    package var newlyDropped: UInt64 {
        mutating get {
            let all = (0..<queueCount).reduce(UInt64(0)) { sum, queue in
                let statistics = unsafe queues[queue].socket.statistics
                return sum + statistics.dropped + statistics.ringFull
            }
            defer { reportedDrops = all }
            return all - min(all, reportedDrops)
        }
    }
}

// MARK: - Receiving

extension XDPFrames {
    /// Whether a frame is there: a load of shared memory for each queue.
    @inline(__always)
    package var isReady: Bool {
        mutating get {
            for queue in 0..<queueCount where unsafe queues[queue].socket.receive.available > 0 { return true }
            return false
        }
    }

    /// Gives the chunks of the last batch back to the kernel, before the next.
    package mutating func beginBatch() {
        assembledCount = 0
        guard heldCount > 0 else { return }
        for index in 0..<heldCount {
            let (queue, address) = unsafe held[index]
            // There is room: the ring has a place for each chunk.
            if unsafe queues[queue].socket.fill.reserve(1) { unsafe queues[queue].socket.fill.push(address) }
        }
        heldCount = 0
        for queue in 0..<queueCount {
            unsafe queues[queue].socket.fill.submit()
            unsafe queues[queue].socket.kickReceive()
        }
        turn = turn + 1 < queueCount ? turn + 1 : 0
    }

    /// A batch, each frame with its mark as the rule. Valid until the next one.
    ///
    /// Now and then when nothing is there it asks the kernel what it ``dropped``.
    package mutating func receive(into received: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int {
        beginBatch()
        var count = 0
        while count < limit, let bytes = unsafe nextFrame() {
            var frame = unsafe ReceivedFrame(bytes)
            frame.rule = mark
            unsafe (received + count).initialize(to: frame)
            count += 1
        }
        if count == 0 {
            emptyCalls += 1
            if emptyCalls & 1023 == 0 { dropped += newlyDropped }
        }
        return count
    }

    /// The next frame, from its Ethernet header on; its bytes are valid until ``beginBatch()``. `nil` for none, or no room in this
    /// batch. An empty one stands for a frame that was longer than ``frameByteCountMax``.
    @inline(__always)
    package mutating func nextFrame() -> UnsafeRawBufferPointer? {
        // A frame of which a part were left would be taken for two.
        let room = takesFragments ? Self.chunksOfFrameMax : 1
        guard heldCount + room <= Self.heldMax, assembledCount < Self.assembledMax else { return nil }
        for offset in 0..<queueCount {
            let queue = turn + offset < queueCount ? turn + offset : turn + offset - queueCount
            if unsafe queues[queue].socket.receive.available > 0 { return unsafe takeFrame(queue) }
        }
        return nil
    }

    @inline(__always)
    private mutating func takeFrame(_ queue: Int) -> UnsafeRawBufferPointer {
        let descriptor = takeChunk(queue)
        let bytes = unsafe bytes(queue, descriptor)
        mark = unsafe takeMark(before: bytes)
        guard descriptor.options & XDPSocket.continues != 0 else { return unsafe bytes }
        return unsafe assemble(queue, first: bytes)
    }

    @inline(__always)
    private mutating func takeChunk(_ queue: Int) -> xdp_desc {
        let descriptor = unsafe queues[queue].socket.receive.pop()
        unsafe queues[queue].socket.receive.release()
        unsafe (held + heldCount).initialize(to: (queue, descriptor.addr))
        heldCount += 1
        return descriptor
    }

    @inline(__always)
    private func bytes(_ queue: Int, _ descriptor: xdp_desc) -> UnsafeRawBufferPointer {
        // The kernel's word, but a wrong one must not lead outside of the memory.
        let start = Int(truncatingIfNeeded: descriptor.addr)
        let count = Int(descriptor.len)
        let size = unsafe queues[queue].memory.byteCount
        guard start >= Self.markByteCount, start <= size, count <= size - start else {
            return unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        }
        return unsafe UnsafeRawBufferPointer(start: queues[queue].memory.base + start, count: count)
    }

    /// Reads the mark of a frame, and wipes it out, so that it is not found before another frame in the same chunk.
    @inline(__always)
    private func takeMark(before bytes: UnsafeRawBufferPointer) -> UInt32? {
        guard let start = bytes.baseAddress else { return nil }
        // The chunk is ours until the next batch; the kernel writes into it only then.
        let place = unsafe UnsafeMutableRawPointer(mutating: start - Self.markByteCount)
        let word = unsafe place.loadUnaligned(as: UInt64.self)
        guard word != 0 else { return nil }
        unsafe place.storeBytes(of: 0, as: UInt64.self)
        return UInt32(truncatingIfNeeded: word >> 32) == Self.markSign ? UInt32(truncatingIfNeeded: word) : nil
    }

    /// Copies the chunks of a frame into one; an empty frame where it is too long or its end is missing.
    private mutating func assemble(_ queue: Int, first: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var length = 0
        var isWhole = true
        let target = unsafe assembly.map { unsafe $0 + assembledCount * frameByteCountMax }
        func add(_ part: UnsafeRawBufferPointer) {
            guard let target = unsafe target, let base = part.baseAddress, length + part.count <= frameByteCountMax
            else {
                isWhole = false
                return
            }
            unsafe (target + length).copyMemory(from: base, byteCount: part.count)
            length += part.count
        }
        unsafe add(first)
        while true {
            // The kernel shows all chunks of a frame at once.
            guard unsafe queues[queue].socket.receive.available > 0, heldCount < Self.heldMax else {
                isWhole = false
                break
            }
            let descriptor = takeChunk(queue)
            unsafe add(bytes(queue, descriptor))
            if descriptor.options & XDPSocket.continues == 0 { break }
        }
        guard isWhole else { return unsafe UnsafeRawBufferPointer(start: nil, count: 0) }
        assembledCount += 1
        return unsafe UnsafeRawBufferPointer(start: target, count: length)
    }
}

// MARK: - Sending

extension XDPFrames {
    /// Puts a frame into the ring, which ``flush()`` sends. The bytes are copied within the call.
    ///
    /// - Parameters:
    ///   - byteCount: of the frame, from its Ethernet header on: 14 to ``frameByteCountMax``.
    ///   - write: writes the frame to the address that it is called with.
    /// - Returns: `false` for no room: ``flush()``, and again.
    @inline(__always)
    package mutating func add(byteCount: Int, _ write: (UnsafeMutableRawPointer) -> Void) -> Bool {
        precondition(byteCount >= 14 && byteCount <= frameByteCountMax, "a frame as long as the interface takes")
        let chunkCount = (byteCount + chunkByteCount - 1) / chunkByteCount
        if freeCount == 0 { reap() }
        guard freeCount > 0, unsafe queues[0].socket.transmit.reserve(chunkCount) else { return false }
        freeCount -= 1
        let index = unsafe free[freeCount]
        unsafe unsentChunks[index] = chunkCount
        let place = firstPlace + index * placeByteCount
        unsafe write(queues[0].memory.base + place)
        for index in 0..<chunkCount {
            let offset = index * chunkByteCount
            let isLast = index == chunkCount - 1
            unsafe queues[0].socket.transmit.push(
                xdp_desc(
                    addr: UInt64(place + offset), len: UInt32(min(byteCount - offset, chunkByteCount)),
                    options: isLast ? 0 : XDPSocket.continues))
        }
        isUnsent = true
        return true
    }

    /// The same for a frame that lies in one piece.
    package mutating func add(_ frame: UnsafeRawBufferPointer) -> Bool {
        guard let base = frame.baseAddress else { return false }
        return unsafe add(byteCount: frame.count) { unsafe $0.copyMemory(from: base, byteCount: frame.count) }
    }

    /// Sends what is in the ring, and takes back the places of what was sent.
    package mutating func flush() {
        unsafe queues[0].socket.transmit.submit()
        while isUnsent, unsafe queues[0].socket.transmit.pendingCount > 0 {
            let pending = unsafe queues[0].socket.transmit.pendingCount
            let isKicked = unsafe queues[0].socket.kickTransmit()
            let code = isKicked ? 0 : clinuxnet_errno()
            reap()
            isBroken = !isKicked && ![EAGAIN, EBUSY, ENOBUFS, EINTR].contains(code)
            if isBroken {
                // Nobody is to come back for what is left.
                isUnsent = false
                return
            }
            // The kernel takes some 32 frames a call, and none where the interface's queue is full, or a driver sends by itself.
            if unsafe queues[0].socket.transmit.pendingCount == pending { break }
        }
        reap()
        // With zero copy the driver goes on by itself.
        isUnsent = unsafe queues[0].socket.transmit.pendingCount > 0 && !isZeroCopy
    }

    /// Takes back the places of frames that were sent.
    package mutating func reap() {
        let count = unsafe queues[0].socket.completion.available
        guard count > 0 else { return }
        for _ in 0..<count {
            let index = (Int(unsafe queues[0].socket.completion.pop()) - firstPlace) / placeByteCount
            // The kernel gives back each chunk of a frame.
            unsafe unsentChunks[index] -= 1
            if unsafe unsentChunks[index] > 0 { continue }
            unsafe free[freeCount] = index
            freeCount += 1
            completedCount += 1
        }
        unsafe queues[0].socket.completion.release()
    }
}
