// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A receive queue of an interface whose frames land in the application's own memory, at the address of the buffer that was
/// posted: the buffer is the kernel's entry in the fill ring. The kernel writes the bytes once; the library copies nothing.
///
/// ```
///      memory (registered with the socket, chunks anywhere)
///   ...| the kernel's 256 bytes, and headroom | buffer: frame ... |...
///      ▲ entry in the fill ring               ▲ posted address    ▲ end of the chunk
/// ```
/// A chunk ends `frameByteCount` bytes behind the posted address, however long the buffer is, because the kernel's headroom takes the
/// rest. So the kernel itself refuses frames that are longer (``tooLongCount``), and no byte behind a buffer of that length
/// is touched. What is written before the buffer is nothing, as long as the XDP program puts no metadata there.
///
/// The fill ring is that of the (interface, queue): whoever owns this value has all frames that an XDP program redirects to
/// it. One thread at a time. Grammar: ``post(_:byteCount:id:)`` as often ──► ``submit()``; ``poll()`` until `nil`.
@safe package struct XDPDirectQueue: ~Copyable {
    /// What the shortest buffer may have: chunks have 2048 to 4096 bytes, and the kernel wants some 448 of them behind the headroom.
    package static let frameByteCounts = 512...(4096 - XDPSocket.headroomByteCount)
    private static let chunkBytesMin = 2048
    /// In unaligned memory the kernel tells the frame's distance from the chunk in the upper 16 bits of the address.
    private static let addressBits: UInt64 = 48

    /// A frame in the buffer that was posted for it.
    @safe package struct Arrival {
        /// As it was posted.
        package let id: UInt64
        /// The posted address, where the frame begins.
        package let address: UnsafeMutableRawPointer
        /// Of the frame, from its Ethernet header on.
        package let byteCount: Int
    }

    private struct Posted {
        let chunk: UInt64
        let id: UInt64
        var isTaken: Bool
    }

    private var socket: XDPSocket
    /// The caller's.
    private let base: UnsafeMutableRawPointer
    private let memoryByteCount: Int
    /// Every buffer has so many bytes, and no frame more.
    package let frameByteCount: Int
    /// Bytes that the memory must have before a buffer.
    package let leadByteCount: Int
    /// Buffers in the order in which they were posted, at their number modulo the depth. Owned.
    private let posted: UnsafeMutablePointer<Posted>
    private let depth: Int
    private var head = 0
    private var tail = 0

    /// Registers the memory and binds a socket to the queue. No frame comes before a program redirects to ``descriptor``.
    ///
    /// - Parameters:
    ///   - interface: its index, in the calling thread's network namespace.
    ///   - memory: begins at a page; the caller's, to outlive this value. The kernel pins it, which counts against RLIMIT_MEMLOCK
    ///     without CAP_IPC_LOCK.
    ///   - frameByteCount: the length of the shortest buffer that will be posted, in ``frameByteCounts``.
    ///   - depth: the most buffers at a time; a power of two.
    /// - Throws: `invalid` for memory, length and depth; EPERM without CAP_NET_RAW, ENOBUFS where the memory is past the limit, EBUSY where another
    ///   socket has the queue.
    package init(
        interface: Int, queue: Int, memory: UnsafeMutableRawBufferPointer, frameByteCount: Int, depth: Int = 4096
    ) throws(PacketIOError) {
        guard Self.frameByteCounts.contains(frameByteCount) else {
            throw .invalid(
                "a direct queue takes frames of \(Self.frameByteCounts.lowerBound) to \(Self.frameByteCounts.upperBound) bytes, not \(frameByteCount); receive through XDPFrames instead"
            )
        }
        guard let base = memory.baseAddress, UInt(bitPattern: base) % 4096 == 0 else {
            throw .invalid("the memory of a direct queue begins at a page; widen it to the page before")
        }
        guard depth > 0, depth & (depth - 1) == 0 else {
            throw .invalid("the depth of a direct queue is a power of two, not \(depth); take the next one")
        }
        var options = XDPSocketOptions(interfaceIndex: interface, queue: queue)
        options.isUnaligned = true
        options.chunkByteCount = max(Self.chunkBytesMin, frameByteCount + XDPSocket.headroomByteCount)
        options.headroomByteCount = options.chunkByteCount - XDPSocket.headroomByteCount - frameByteCount
        options.fillCount = depth
        options.receiveCount = depth
        options.transmitCount = 1
        // A driver would not take a chunk across pages that are apart in physical memory, and would not say so.
        options.allowsZeroCopy = false
        socket = try unsafe XDPSocket(memory: memory, options)
        leadByteCount = options.chunkByteCount - frameByteCount
        unsafe self.base = base
        memoryByteCount = memory.count
        self.frameByteCount = frameByteCount
        self.depth = depth
        unsafe posted = .allocate(capacity: depth)
    }

    deinit { unsafe posted.deallocate() }

    /// Readable when a frame is there; what the program's socket map gets.
    package var descriptor: Int32 { socket.descriptor }

    /// Buffers that are posted and have no frame yet.
    package var postedCount: Int {
        (head..<tail).reduce(0) { unsafe $0 + (posted[$1 & (depth - 1)].isTaken ? 0 : 1) }
    }

    /// Frames that were dropped because they were longer than ``frameByteCount``, since the start.
    package var tooLongCount: UInt64 {
        let statistics = socket.statistics
        // One without a buffer is counted in both.
        return statistics.dropped - min(statistics.dropped, statistics.fillEmpty)
    }

    /// Frames that were dropped because no buffer was posted, since the start.
    package var unbufferedCount: UInt64 { socket.statistics.fillEmpty }

    /// Hands a buffer to the kernel, which sees it after ``submit()``. The application leaves its bytes alone until it comes back.
    ///
    /// - Returns: `false` where the kernel would swallow it or write outside of it: it is shorter than ``frameByteCount``, fewer than
    ///   ``leadByteCount`` bytes of the memory are before it, or it ends behind the memory; and where ``poll()`` must come first, as
    ///   there are as many buffers as the queue holds.
    package mutating func post(_ address: UnsafeMutableRawPointer, byteCount: Int, id: UInt64) -> Bool {
        guard byteCount >= frameByteCount, tail - head < depth else { return false }
        let (start, isOutside) = unsafe Int(bitPattern: address).subtractingReportingOverflow(Int(bitPattern: base))
        guard !isOutside, start >= leadByteCount, start <= memoryByteCount - frameByteCount else { return false }
        let chunk = start - leadByteCount
        guard socket.fill.reserve(1) else { return false }
        socket.fill.push(UInt64(chunk))
        unsafe (posted + tail & (depth - 1)).initialize(to: Posted(chunk: UInt64(chunk), id: id, isTaken: false))
        tail += 1
        return true
    }

    /// Shows the kernel the buffers that were posted.
    package mutating func submit() {
        socket.fill.submit()
        socket.kickReceive()
    }

    /// The next frame that has arrived; `nil` for none.
    ///
    /// The buffer is found by its address: the kernel need not fill them in the order in which they were posted.
    package mutating func poll() -> Arrival? {
        while socket.receive.available > 0 {
            let descriptor = socket.receive.pop()
            socket.receive.release()
            let chunk = descriptor.addr & (1 << Self.addressBits - 1)
            guard let index = take(chunk) else { continue }
            return unsafe Arrival(
                id: posted[index].id, address: base + Int(chunk) + leadByteCount,
                byteCount: min(Int(descriptor.len), frameByteCount))
        }
        return nil
    }

    /// The place of the oldest buffer at this chunk: as a rule the oldest of all.
    private mutating func take(_ chunk: UInt64) -> Int? {
        guard
            let number = (head..<tail).first(where: { number in
                let entry = unsafe posted[number & (depth - 1)]
                return !entry.isTaken && entry.chunk == chunk
            })
        else { return nil }
        unsafe posted[number & (depth - 1)].isTaken = true
        while head < tail, unsafe posted[head & (depth - 1)].isTaken { head += 1 }
        return number & (depth - 1)
    }
}
