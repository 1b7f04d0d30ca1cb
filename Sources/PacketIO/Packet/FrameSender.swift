// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Sends whole frames by AF_PACKET, past the queueing discipline, out of memory of their owner: nothing is copied here.
@safe package struct FrameSender: ~Copyable {
    /// Frames of one ``send(_:stride:counts:count:)``.
    package static let depth = 64

    private let socket: FileDescriptor
    /// Allocated once, freed in `deinit`; the kernel reads them during the call.
    private let messages: UnsafeMutablePointer<clinuxnet_mmsghdr>

    /// - Parameter socket: `nil` to open one.
    /// - Throws: EPERM without CAP_NET_RAW.
    package init(
        interface index: Int, bufferBytes: Int = 8 << 20, socket given: consuming UnboundPacketSocket? = nil
    ) throws(PacketIOError) {
        let socket = try UnboundPacketSocket.file(given)
        SocketOption.set(
            socket.number, Int32(CLINUXNET_SOL_PACKET.rawValue), Int32(CLINUXNET_PACKET_QDISC_BYPASS.rawValue), 1)
        SocketOption.growBuffers(socket.number, bytes: bufferBytes)
        // Protocol 0: it receives nothing.
        guard clinuxnet_packet_bind(socket.number, Int32(index), 0) == 0 else {
            throw SystemError.last("bind(AF_PACKET)")
        }
        unsafe messages = .allocate(capacity: Self.depth)
        unsafe messages.initialize(repeating: clinuxnet_mmsghdr(), count: Self.depth)
        self.socket = socket
    }

    deinit { unsafe messages.deallocate() }

    /// What became of frames.
    package enum Outcome: Sendable, Equatable {
        /// So many have left.
        case sent(Int)
        /// The kernel has no room now.
        case full
        /// The first cannot be sent: too long for the interface, or too short for a header.
        case unfit
        /// The memory of the first cannot be read.
        case inaccessible
        /// The interface is down or gone: frames are lost.
        case down
    }

    /// Sends frames. Frame `i` is `counts[i]` vectors from `vectors + i * stride` on.
    package mutating func send(
        _ vectors: UnsafeMutablePointer<iovec>, stride: Int, counts: UnsafePointer<Int>, count: Int
    ) -> Outcome {
        let count = min(count, Self.depth)
        for index in 0..<count {
            unsafe messages[index].msg_hdr.msg_iov = vectors + index * stride
            unsafe messages[index].msg_hdr.msg_iovlen = counts[index]
        }
        let sent = unsafe Int(clinuxnet_sendmmsg(socket.number, messages, UInt32(count)))
        if sent > 0 { return .sent(sent) }
        switch clinuxnet_errno() {
        case EMSGSIZE, EINVAL: return .unfit
        case EFAULT: return .inaccessible
        case EAGAIN, ENOBUFS, EINTR, ENOMEM: return .full
        default: return .down
        }
    }
}
