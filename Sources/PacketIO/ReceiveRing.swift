// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// The memory of one batch of received messages: buffers, and two arrays of message headers over the same buffers, one
/// for UDP sockets and one for mailboxes, whose messages begin with a ``PeerMessage``.
///
/// Everything is allocated once. What a system call changes in a header (the lengths) is put back by `rearm` before the
/// header is used again. All pointers live as long as the ring.
@safe struct ReceiveRing: ~Copyable {
    /// Messages of a batch.
    static let depth = 16
    /// The largest UDP payload, or GRO aggregate, fits.
    static let bufferBytes = 65_536
    private static let controlBytes = 128
    private static let nameBytes = 32
    private static let headerBytes = 64

    let buffers: UnsafeMutableRawPointer
    let headers: UnsafeMutableRawPointer
    private let names: UnsafeMutableRawPointer
    private let controls: UnsafeMutableRawPointer
    private let udpVectors: UnsafeMutablePointer<iovec>
    private let mailboxVectors: UnsafeMutablePointer<iovec>
    let udp: UnsafeMutablePointer<clinuxnet_mmsghdr>
    let mailbox: UnsafeMutablePointer<clinuxnet_mmsghdr>

    init() {
        let depth = Self.depth
        unsafe buffers = .allocate(byteCount: depth * Self.bufferBytes, alignment: 4096)
        unsafe headers = .allocate(byteCount: depth * Self.headerBytes, alignment: 64)
        unsafe names = .allocate(byteCount: depth * Self.nameBytes, alignment: 64)
        unsafe controls = .allocate(byteCount: depth * Self.controlBytes, alignment: 64)
        unsafe names.initializeMemory(as: UInt8.self, repeating: 0, count: depth * Self.nameBytes)
        unsafe udpVectors = .allocate(capacity: depth)
        unsafe mailboxVectors = .allocate(capacity: depth * 2)
        unsafe udp = .allocate(capacity: depth)
        unsafe mailbox = .allocate(capacity: depth)
        for index in 0..<depth {
            let buffer = unsafe iovec(iov_base: buffers + index * Self.bufferBytes, iov_len: Self.bufferBytes)
            let header = unsafe iovec(iov_base: headers + index * Self.headerBytes, iov_len: PeerMessage.byteCount)
            unsafe (udpVectors + index).initialize(to: buffer)
            unsafe (mailboxVectors + 2 * index).initialize(to: header)
            unsafe (mailboxVectors + 2 * index + 1).initialize(to: buffer)
            var message = unsafe clinuxnet_mmsghdr()
            unsafe message.msg_hdr.msg_control = controls + index * Self.controlBytes
            unsafe message.msg_hdr.msg_controllen = Self.controlBytes
            unsafe message.msg_hdr.msg_iov = mailboxVectors + 2 * index
            unsafe message.msg_hdr.msg_iovlen = 2
            unsafe (mailbox + index).initialize(to: message)
            unsafe message.msg_hdr.msg_iov = udpVectors + index
            unsafe message.msg_hdr.msg_iovlen = 1
            unsafe message.msg_hdr.msg_name = names + index * Self.nameBytes
            unsafe message.msg_hdr.msg_namelen = UInt32(Self.nameBytes)
            unsafe (udp + index).initialize(to: message)
        }
    }

    deinit {
        unsafe buffers.deallocate()
        unsafe headers.deallocate()
        unsafe names.deallocate()
        unsafe controls.deallocate()
        unsafe udpVectors.deallocate()
        unsafe mailboxVectors.deallocate()
        unsafe udp.deallocate()
        unsafe mailbox.deallocate()
    }

    /// The payload buffer of a message.
    func buffer(_ index: Int) -> UnsafeMutableRawPointer { unsafe buffers + index * Self.bufferBytes }

    /// The ``PeerMessage`` of a mailbox message.
    func header(_ index: Int) -> UnsafeMutableRawPointer { unsafe headers + index * Self.headerBytes }

    @inline(__always)
    func rearmUDP(_ index: Int) {
        unsafe udp[index].msg_hdr.msg_namelen = UInt32(Self.nameBytes)
        unsafe udp[index].msg_hdr.msg_controllen = Self.controlBytes
    }

    @inline(__always)
    func rearmMailbox(_ index: Int) {
        unsafe mailbox[index].msg_hdr.msg_controllen = Self.controlBytes
    }
}
