// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// The way of whole frames beside the UDP sockets of a link: an XDP program that takes this process's frames out before
/// the kernel's stack, and AF_XDP sockets that they come by and are sent from.
///
/// Everything that it does not take goes by the sockets, so it may always refuse: ``Outcome/elsewhere``.
@safe struct XDPPath: ~Copyable {
    /// Queues that are served; what comes on others goes up the stack.
    static let queuesMax = 16
    /// Chunks to receive into, of all queues together.
    private static let receiveCount = 4096
    private static let transmitCount = 1024
    /// Frames of one batch.
    static let batchMax = 64
    /// The longest frame in several chunks.
    private static let assembledBytesMax = 10_240
    /// Of a chunk of 4096 after the kernel's headroom; frames up to that need no fragments.
    private static let wholeBytesMax = 4096 - XDPSocket.headroomByteCount

    let mode: XDPAttachment.Mode
    let isZeroCopy: Bool
    /// Frames that the kernel may have joined go by the sockets.
    let excludesJoined: Bool
    private let attachment: XDPAttachment
    private let addressMap: BPFMap
    private let socketMap: BPFMap
    /// The first `queueCount` count. Owned by the path.
    private let queues: UnsafeMutablePointer<XDPQueue>
    let queueCount: Int
    var neighbours: NeighbourTable
    private let hardwareAddress: UInt64
    private let mtu: Int
    private let chunkByteCount: Int
    /// Chunks of queue 0 that nothing is sent from: the first `freeCount` count. Owned by the path.
    private let free: UnsafeMutablePointer<UInt64>
    private var freeCount = 0
    /// Chunks of the batch that is being read, and their queues. Owned by the path.
    private let held: UnsafeMutablePointer<(queue: Int, address: UInt64)>
    private var heldCount = 0
    private static let heldMax = batchMax * 8
    /// Chunks that one frame may have: 64 KB of them, and some.
    private static let chunksOfFrameMax = 64
    /// Frames of several chunks are put together here, each at its place in the batch; `nil` where there are none.
    private let assembly: UnsafeMutableRawPointer?
    private var assembledCount = 0
    /// The queue to look at first, by turns.
    private var turn = 0
    /// The interface is gone or down: until then no frame is sent.
    private var pauseEnd: UInt64 = 0
    /// The kernel was asked to send, and has not sent all.
    private(set) var isUnsent = false

    /// Attaches a program and opens a socket for each queue.
    ///
    /// - Throws: what the first thing that cannot be had failed with.
    init(interface: NetworkInterface, slot: UInt8, addresses: [GID], mode: XDPAttachment.Mode) throws(PacketIOError) {
        let frameBytes = interface.mtu + 14
        let takesFragments = frameBytes > Self.wholeBytesMax
        let chunkByteCount = frameBytes + XDPSocket.headroomByteCount <= 2048 ? 2048 : 4096
        let count = min(max(1, InterfaceDriver.receiveQueueCount(of: interface.name)), Self.queuesMax)
        let excludesJoined = mode == .generic || InterfaceDriver.handsOverJoined(interface.name)
        let addressMap = try RoCEFilterProgram.makeAddressMap()
        for gid in addresses { try addressMap.set(RoCEFilterProgram.AddressKey(gid), to: UInt32(1)) }
        let socketMap = try BPFMap(.sockets, keyBytes: 4, valueBytes: 4, entryCount: count)
        let program = try BPFProgram(
            xdp: RoCEFilterProgram(
                hardwareAddress: interface.hardwareAddress, slot: slot, mtu: interface.mtu,
                excludesJoined: excludesJoined, addressMap: addressMap.number, socketMap: socketMap.number
            ).assemble(), takesFragments: takesFragments)
        let neighbours = try NeighbourTable(interface: interface.index)
        let queues = unsafe try Self.openQueues(
            count, interface: interface.index, chunkByteCount: chunkByteCount, takesFragments: takesFragments)
        do throws(PacketIOError) {
            for index in 0..<count {
                try socketMap.set(UInt32(index), to: UInt32(unsafe queues[index].socket.descriptor))
            }
            attachment = try XDPAttachment(program, interface: interface.index, mode: mode)
        } catch {
            unsafe queues.deinitialize(count: count)
            unsafe queues.deallocate()
            throw error
        }
        self.excludesJoined = excludesJoined
        self.chunkByteCount = chunkByteCount
        self.addressMap = addressMap
        self.socketMap = socketMap
        self.neighbours = neighbours
        unsafe self.queues = queues
        queueCount = count
        self.mode = mode
        isZeroCopy = unsafe queues[0].socket.isZeroCopy
        hardwareAddress = FrameHeader.word(interface.hardwareAddress)
        mtu = interface.mtu
        unsafe free = .allocate(capacity: Self.transmitCount)
        unsafe held = .allocate(capacity: Self.heldMax)
        unsafe assembly =
            takesFragments ? .allocate(byteCount: Self.batchMax * Self.assembledBytesMax, alignment: 64) : nil
        let first = Self.receiveCount(of: count)
        for index in 0..<Self.transmitCount {
            unsafe (free + index).initialize(to: UInt64((first + index) * chunkByteCount))
        }
        freeCount = Self.transmitCount
    }

    private static func receiveCount(of queueCount: Int) -> Int {
        var count = receiveCount
        while count > 256, count * queueCount > receiveCount { count /= 2 }
        return count
    }

    private static func openQueues(
        _ count: Int, interface: Int, chunkByteCount: Int, takesFragments: Bool
    ) throws(PacketIOError) -> UnsafeMutablePointer<XDPQueue> {
        let queues = UnsafeMutablePointer<XDPQueue>.allocate(capacity: count)
        var opened = 0
        do throws(PacketIOError) {
            while opened < count {
                unsafe (queues + opened).initialize(
                    to: try XDPQueue(
                        interface: interface, queue: opened, chunkByteCount: chunkByteCount,
                        receiveCount: receiveCount(of: count), transmitCount: transmitCount,
                        takesFragments: takesFragments))
                opened += 1
            }
            return unsafe queues
        } catch {
            unsafe queues.deinitialize(count: opened)
            unsafe queues.deallocate()
            throw error
        }
    }

    deinit {
        unsafe queues.deinitialize(count: queueCount)
        unsafe queues.deallocate()
        unsafe free.deallocate()
        unsafe held.deallocate()
        unsafe assembly?.deallocate()
    }

    /// The descriptor of a queue's socket: readable when a frame is there.
    func descriptor(_ queue: Int) -> Int32 { unsafe queues[queue].socket.descriptor }

    /// Frames that the kernel dropped for want of room, since the start.
    var droppedCount: UInt64 {
        (0..<queueCount).reduce(0) { sum, queue in
            let statistics = unsafe queues[queue].socket.statistics
            return sum + statistics.dropped + statistics.ringFull
        }
    }

    /// Frames for an address that the link has had since the start, or got.
    func setTaken(_ gid: GID, _ isTaken: Bool) {
        let key = RoCEFilterProgram.AddressKey(gid)
        // The map has room for all addresses of a link; one that is not taken comes by the socket.
        if isTaken { try? addressMap.set(key, to: UInt32(1)) } else { addressMap.remove(key) }
    }
}

// MARK: - Receiving

extension XDPPath {
    /// Whether a frame is there: a load of shared memory for each queue.
    @inline(__always)
    var isReady: Bool {
        mutating get {
            for queue in 0..<queueCount where unsafe queues[queue].socket.receive.available > 0 { return true }
            return false
        }
    }

    /// Gives the chunks of the last batch back to the kernel, before the next.
    mutating func beginBatch() {
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

    /// The next frame; its bytes are valid until ``beginBatch()``. `nil` for none, or no room in this batch.
    @inline(__always)
    mutating func nextFrame() -> UnsafeRawBufferPointer? {
        for offset in 0..<queueCount {
            let queue = turn + offset < queueCount ? turn + offset : turn + offset - queueCount
            // A frame of which a part were left would be taken for two.
            if unsafe queues[queue].socket.receive.available > 0, heldCount + Self.chunksOfFrameMax <= Self.heldMax {
                return unsafe takeFrame(queue)
            }
        }
        return nil
    }

    private mutating func takeFrame(_ queue: Int) -> UnsafeRawBufferPointer? {
        let descriptor = unsafe queues[queue].socket.receive.pop()
        unsafe queues[queue].socket.receive.release()
        hold(queue, descriptor)
        let bytes = unsafe bytes(queue, descriptor)
        guard descriptor.options & XDPSocket.continues != 0 else { return unsafe bytes }
        return unsafe assemble(queue, first: bytes)
    }

    private mutating func hold(_ queue: Int, _ descriptor: xdp_desc) {
        unsafe (held + heldCount).initialize(to: (queue, descriptor.addr))
        heldCount += 1
    }

    private func bytes(_ queue: Int, _ descriptor: xdp_desc) -> UnsafeRawBufferPointer {
        // The kernel's word, but a wrong one must not lead outside of the memory.
        let start = Int(truncatingIfNeeded: descriptor.addr)
        let count = Int(descriptor.len)
        let size = unsafe queues[queue].memory.byteCount
        guard start >= 0, start <= size, count <= size - start else {
            return unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        }
        return unsafe UnsafeRawBufferPointer(start: queues[queue].memory.base + start, count: count)
    }

    /// Copies the chunks of a frame into one; an empty frame where it is too long or its end is missing.
    private mutating func assemble(_ queue: Int, first: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        guard let assembly = unsafe assembly, assembledCount < Self.batchMax else {
            return unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        }
        let target = unsafe assembly + assembledCount * Self.assembledBytesMax
        var length = 0
        var isWhole = true
        func add(_ part: UnsafeRawBufferPointer) {
            guard let base = part.baseAddress, length + part.count <= Self.assembledBytesMax else {
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
            let descriptor = unsafe queues[queue].socket.receive.pop()
            unsafe queues[queue].socket.receive.release()
            hold(queue, descriptor)
            unsafe add(bytes(queue, descriptor))
            if descriptor.options & XDPSocket.continues == 0 { break }
        }
        guard isWhole else { return unsafe UnsafeRawBufferPointer(start: nil, count: 0) }
        assembledCount += 1
        return unsafe UnsafeRawBufferPointer(start: target, count: length)
    }
}

// MARK: - Sending

extension XDPPath {
    /// What became of a burst.
    enum Outcome { case sent, full, elsewhere }

    /// When an interface is tried again that was down.
    private static let pauseNanoseconds: UInt64 = 100_000_000

    /// Puts the frames of a burst into the ring; ``flush()`` sends them.
    ///
    /// `elsewhere` where the neighbour is not known, or a frame is longer than a chunk or the MTU: the socket sends it,
    /// or says why not.
    @inline(__always)
    mutating func send(_ burst: Burst, source: GID, sourcePort: UInt16, now: UInt64) -> Outcome {
        guard now >= pauseEnd, !burst.destination.isMulticast,
            let neighbour = neighbours.hardwareAddress(
                of: burst.destination, localIndex: burst.localIndex, now: now)
        else { return .elsewhere }
        let header = FrameHeader(
            destinationHardware: neighbour, sourceHardware: hardwareAddress, source: source,
            destination: burst.destination, sourcePort: sourcePort, trafficClass: burst.trafficClass)
        let headerBytes = header.byteCount
        guard headerBytes + burst.segmentSize <= chunkByteCount, headerBytes - 14 + burst.segmentSize <= mtu else {
            return .elsewhere
        }
        let count = burst.segmentCount
        guard count <= Self.transmitCount else { return .elsewhere }
        if freeCount < count { reap() }
        guard freeCount >= count, unsafe queues[0].socket.transmit.reserve(count) else {
            isUnsent = true
            return .full
        }
        for index in 0..<count {
            let offset = index * burst.segmentSize
            let length = min(burst.segmentSize, burst.byteCount - offset)
            freeCount -= 1
            let address = unsafe free[freeCount]
            let chunk = unsafe queues[0].memory.base + Int(address)
            unsafe header.store(
                to: chunk, payloadByteCount: length, identification: UInt16(truncatingIfNeeded: index))
            unsafe (chunk + headerBytes).copyMemory(from: burst.base + offset, byteCount: length)
            unsafe queues[0].socket.transmit.push(
                xdp_desc(addr: address, len: UInt32(headerBytes + length), options: 0))
        }
        isUnsent = true
        return .sent
    }

    /// Sends what is in the ring.
    mutating func flush() {
        guard isUnsent else { return }
        unsafe queues[0].socket.transmit.submit()
        // The kernel takes some 32 frames a call.
        for _ in 0..<Self.transmitCount / 16 {
            if unsafe queues[0].socket.kickTransmit() {
                if unsafe queues[0].socket.transmit.pendingCount == 0 || queues[0].socket.isZeroCopy { break }
            } else {
                let code = clinuxnet_errno()
                if code != EAGAIN {
                    if code != EBUSY && code != ENOBUFS && code != EINTR {
                        pauseEnd = clinuxnet_monotonic_nanoseconds() + Self.pauseNanoseconds
                        // What is left goes before the first frame after the pause.
                        isUnsent = false
                    }
                    return
                }
                if unsafe queues[0].socket.transmit.pendingCount == 0 { break }
                reap()
            }
        }
        isUnsent = unsafe queues[0].socket.transmit.pendingCount > 0 && !queues[0].socket.isZeroCopy
    }

    /// Takes back the chunks that were sent.
    private mutating func reap() {
        let count = unsafe queues[0].socket.completion.available
        for _ in 0..<count {
            let address = unsafe queues[0].socket.completion.pop()
            guard freeCount < Self.transmitCount else { break }
            unsafe free[freeCount] = address
            freeCount += 1
        }
        unsafe queues[0].socket.completion.release()
    }
}
