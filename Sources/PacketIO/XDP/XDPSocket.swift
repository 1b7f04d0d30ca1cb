// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// How an ``XDPSocket`` is made.
package struct XDPSocketOptions: Sendable {
    package var interfaceIndex: Int
    package var queue: Int
    /// 2048 or 4096, or in unaligned memory anything between.
    package var chunkByteCount = 2048
    /// Chunks are anywhere, not at multiples of their size: addresses in the fill ring are of the chunk as given.
    package var isUnaligned = false
    /// Bytes that stay free between the kernel's own headroom and a frame: a frame has so many less of its chunk.
    package var headroomByteCount = 0
    /// Sizes of the rings: powers of two.
    package var fillCount = 4096
    package var receiveCount = 4096
    package var transmitCount = 1024
    /// Whether the driver may read and write the memory itself, where it can.
    package var allowsZeroCopy = true
    /// Frames may be in several chunks (Linux 6.6), each but the last marked ``XDPSocket/continues``.
    package var takesFragments = false

    package init(interfaceIndex: Int, queue: Int) {
        self.interfaceIndex = interfaceIndex
        self.queue = queue
    }
}

/// An AF_XDP socket on one receive queue of a network interface, with its memory and four rings.
///
/// ```
///   this process                                     kernel
///   fill.push(chunk) ────────── free chunks ───────► writes a frame into it
///   receive.pop()  ◄────────── frames ────────────── (the XDP program redirects it here)
///   transmit.push(frame) ────── frames ────────────► sends it
///   completion.pop() ◄───────── chunks sent ──────── done with it
/// ```
/// The (interface, queue) has one fill ring: a second socket on it must share the first one's memory (EBUSY else). Chunks
/// are named by their offset in the memory. One thread at a time.
@safe package struct XDPSocket: ~Copyable {
    /// Marks a chunk of a frame that goes on in the next one.
    package static var continues: UInt32 { UInt32(CLINUXNET_XDP_PACKET_CONTINUES.rawValue) }
    /// Before a received frame in its chunk; the kernel's own.
    package static let headroomByteCount = Int(CLINUXNET_XDP_HEADROOM.rawValue)
    /// How long a socket that is just being closed holds its queue: the kernel does that later.
    private static let busyNanoseconds: UInt64 = 200_000_000

    /// What the kernel dropped.
    package struct Statistics: Sendable, Equatable {
        package var dropped: UInt64 = 0
        package var invalid: UInt64 = 0
        package var ringFull: UInt64 = 0
        package var fillEmpty: UInt64 = 0
    }

    private let socket: FileDescriptor
    package var fill: XDPProducerRing<UInt64>
    package var completion: XDPConsumerRing<UInt64>
    package var receive: XDPConsumerRing<xdp_desc>
    package var transmit: XDPProducerRing<xdp_desc>
    /// Whether the driver reads and writes the memory itself.
    package let isZeroCopy: Bool

    /// Registers memory, makes the rings and binds the socket, with zero copy where the driver has it.
    ///
    /// - Parameter memory: page-aligned, the caller's, to outlive the socket.
    /// - Throws: EPERM without CAP_NET_RAW, ENOBUFS where the memory is past RLIMIT_MEMLOCK, EBUSY where another socket
    ///   has the queue.
    package init(memory: UnsafeMutableRawBufferPointer, _ options: XDPSocketOptions) throws(PacketIOError) {
        let socket = try FileDescriptor(clinuxnet_xdp_socket(), call: "socket(AF_XDP)")
        let number = socket.number
        try unsafe Self.register(memory, options, number)
        let fill = try XDPRingMapping(.fill, of: number, entryCount: options.fillCount, stride: 8)
        let completion = try XDPRingMapping(.completion, of: number, entryCount: options.transmitCount, stride: 8)
        let receive = try XDPRingMapping(.receive, of: number, entryCount: options.receiveCount, stride: 16)
        let transmit = try XDPRingMapping(.transmit, of: number, entryCount: options.transmitCount, stride: 16)
        try Self.bind(number, options, isPatient: true)
        let flags = SocketOption.get(
            number, Int32(CLINUXNET_SOL_XDP.rawValue), Int32(CLINUXNET_XDP_OPTIONS.rawValue))
        isZeroCopy = (flags ?? 0) & Int32(CLINUXNET_XDP_OPTIONS_ZEROCOPY.rawValue) != 0
        self.fill = XDPProducerRing(fill)
        self.completion = XDPConsumerRing(completion)
        self.receive = XDPConsumerRing(receive)
        self.transmit = XDPProducerRing(transmit)
        self.socket = socket
    }

    /// A socket of an ``XDPLoan``, which receives and does not send.
    init(lent socket: consuming FileDescriptor, _ layout: XDPFramesLayout) throws(PacketIOError) {
        let number = socket.number
        let fill = try XDPRingMapping(made: .fill, of: number, entryCount: layout.receiveCount, stride: 8)
        let completion = try XDPRingMapping(made: .completion, of: number, entryCount: 1, stride: 8)
        let receive = try XDPRingMapping(made: .receive, of: number, entryCount: layout.receiveCount, stride: 16)
        let transmit = try XDPRingMapping(absentOfStride: 16)
        self.fill = XDPProducerRing(fill)
        self.completion = XDPConsumerRing(completion)
        self.receive = XDPConsumerRing(receive)
        self.transmit = XDPProducerRing(transmit)
        isZeroCopy = false
        self.socket = socket
    }

    static func register(
        _ memory: UnsafeMutableRawBufferPointer, _ options: XDPSocketOptions, _ descriptor: Int32
    ) throws(PacketIOError) {
        var registration = xdp_umem_reg()
        registration.addr = UInt64(UInt(bitPattern: memory.baseAddress))
        registration.len = UInt64(memory.count)
        registration.chunk_size = UInt32(options.chunkByteCount)
        registration.headroom = UInt32(options.headroomByteCount)
        registration.flags = options.isUnaligned ? 1 : 0
        guard
            unsafe setsockopt(
                descriptor, Int32(CLINUXNET_SOL_XDP.rawValue), Int32(CLINUXNET_XDP_UMEM_REG.rawValue),
                &registration, UInt32(MemoryLayout<xdp_umem_reg>.size)) == 0
        else { throw SystemError.last("setsockopt(XDP_UMEM_REG)") }
    }

    /// Tries zero copy, if it may, then copying; both again while an old socket gives the queue back, for who is patient.
    static func bind(
        _ descriptor: Int32, _ options: XDPSocketOptions, isPatient: Bool
    ) throws(PacketIOError) {
        let common =
            UInt16(CLINUXNET_XDP_USE_NEED_WAKEUP.rawValue)
            | (options.takesFragments ? UInt16(CLINUXNET_XDP_USE_SG.rawValue) : 0)
        let modes =
            (options.allowsZeroCopy ? [UInt16(CLINUXNET_XDP_ZEROCOPY.rawValue)] : [])
            + [UInt16(CLINUXNET_XDP_COPY.rawValue)]
        let deadline = clinuxnet_monotonic_nanoseconds() + busyNanoseconds
        while true {
            var isBusy = false
            for mode in modes {
                let result = clinuxnet_xdp_bind(
                    descriptor, UInt32(options.interfaceIndex), UInt32(options.queue), common | mode)
                if result == 0 { return }
                if clinuxnet_errno() == EBUSY { isBusy = true }
            }
            guard isBusy, isPatient, clinuxnet_monotonic_nanoseconds() < deadline else {
                throw SystemError.last("bind(AF_XDP, queue \(options.queue))")
            }
            clinuxnet_pause_milliseconds(5)
        }
    }

    package var descriptor: Int32 { socket.number }

    /// Asks the kernel to send what is in the transmit ring, if it waits to be asked; in copy mode it does so within the
    /// call. `false` with errno: EAGAIN for some left, EBUSY or ENOBUFS for later, anything else for good.
    @inline(__always)
    package func kickTransmit() -> Bool { !transmit.needsWakeup || clinuxnet_xdp_kick_transmit(socket.number) >= 0 }

    /// Tells a driver that ran out of chunks that there are some.
    @inline(__always)
    package func kickReceive() {
        if fill.needsWakeup { _ = clinuxnet_xdp_kick_receive(socket.number) }
    }

    /// What the kernel dropped at this socket so far.
    package var statistics: Statistics {
        var native = xdp_statistics()
        var length = UInt32(MemoryLayout<xdp_statistics>.size)
        let result = unsafe getsockopt(
            socket.number, Int32(CLINUXNET_SOL_XDP.rawValue), Int32(CLINUXNET_XDP_STATISTICS.rawValue), &native,
            &length)
        guard result == 0 else { return Statistics() }
        return Statistics(
            dropped: native.rx_dropped, invalid: native.rx_invalid_descs, ringFull: native.rx_ring_full,
            fillEmpty: native.rx_fill_ring_empty_descs)
    }
}
