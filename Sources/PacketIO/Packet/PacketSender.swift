// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// The sending end of AF_PACKET: whole frames, past the queueing discipline, many in one system call.
///
/// The payload of a frame is not copied here: a header of the sender's own and the caller's bytes are two vectors.
@safe package struct PacketSender: ~Copyable {
    /// Frames of one ``flush()``.
    package static let depth = 64
    private static let headerBytes = 64

    private let socket: FileDescriptor
    /// Allocated once, freed in `deinit`; the kernel reads them during the call.
    private let messages: UnsafeMutablePointer<clinuxnet_mmsghdr>
    private let vectors: UnsafeMutablePointer<iovec>
    private let headers: UnsafeMutableRawPointer
    private var count = 0

    /// - Throws: EPERM without CAP_NET_RAW.
    package init(interface index: Int, bufferBytes: Int = 8 << 20) throws(PacketIOError) {
        let socket = try FileDescriptor(
            CLinuxNet.socket(AF_PACKET, clinuxnet_sock_raw, 0), call: "socket(AF_PACKET)")
        SocketOption.set(
            socket.number, Int32(CLINUXNET_SOL_PACKET.rawValue), Int32(CLINUXNET_PACKET_QDISC_BYPASS.rawValue), 1)
        SocketOption.growBuffers(socket.number, bytes: bufferBytes)
        // Protocol 0: it receives nothing.
        guard clinuxnet_packet_bind(socket.number, Int32(index), 0) == 0 else {
            throw SystemError.last("bind(AF_PACKET)")
        }
        unsafe messages = .allocate(capacity: Self.depth)
        unsafe vectors = .allocate(capacity: Self.depth * 2)
        unsafe headers = .allocate(byteCount: Self.depth * Self.headerBytes, alignment: 64)
        for index in 0..<Self.depth {
            unsafe (vectors + 2 * index).initialize(repeating: iovec(), count: 2)
            var message = unsafe clinuxnet_mmsghdr()
            unsafe message.msg_hdr.msg_iov = vectors + 2 * index
            unsafe message.msg_hdr.msg_iovlen = 2
            unsafe (messages + index).initialize(to: message)
        }
        self.socket = socket
    }

    deinit {
        unsafe messages.deallocate()
        unsafe vectors.deallocate()
        unsafe headers.deallocate()
    }

    /// Frames that ``flush()`` would send.
    package var pendingCount: Int { count }

    /// Adds a frame, for which there must be room; the payload is read by ``flush()``.
    ///
    /// - Parameter header: writes the headers, at most 64 bytes.
    @inline(__always)
    package mutating func add(
        payload: UnsafeRawPointer, byteCount: Int, headerByteCount: Int,
        header: (UnsafeMutableRawPointer) -> Void
    ) {
        let place = unsafe headers + count * Self.headerBytes
        unsafe header(place)
        unsafe vectors[2 * count] = iovec(iov_base: place, iov_len: headerByteCount)
        unsafe vectors[2 * count + 1] = iovec(
            iov_base: UnsafeMutableRawPointer(mutating: payload), iov_len: byteCount)
        count += 1
    }

    /// Sends what was added, and forgets it. The number sent; fewer than were added leave errno.
    package mutating func flush() -> Int {
        guard count > 0 else { return 0 }
        let sent = unsafe Int(clinuxnet_sendmmsg(socket.number, messages, UInt32(count)))
        count = 0
        return max(0, sent)
    }
}
