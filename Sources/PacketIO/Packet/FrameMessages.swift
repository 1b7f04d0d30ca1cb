// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// The memory of one batch of messages that become frames: buffers with room in front, and the headers of `recvmmsg`.
///
/// Allocated once. All pointers live as long as this; bytes are valid until the next ``receive(from:limit:)``.
@safe struct FrameMessages: ~Copyable {
    /// Messages of a batch.
    static let depth = 32
    /// In front of what is received, for headers that are made up or put back.
    static let headroom = 128
    /// The longest super-frame, with the kernel's note in front.
    private static let payloadBytes = 65_536 + 128
    private static let controlBytes = 256
    private static let nameBytes = 32

    private static var bufferBytes: Int { headroom + payloadBytes }

    private let buffers: UnsafeMutableRawPointer
    private let names: UnsafeMutableRawPointer
    private let controls: UnsafeMutableRawPointer
    private let vectors: UnsafeMutablePointer<iovec>
    private let messages: UnsafeMutablePointer<clinuxnet_mmsghdr>

    init() {
        let depth = Self.depth
        unsafe buffers = .allocate(byteCount: depth * Self.bufferBytes, alignment: 4096)
        unsafe names = .allocate(byteCount: depth * Self.nameBytes, alignment: 64)
        unsafe controls = .allocate(byteCount: depth * Self.controlBytes, alignment: 64)
        unsafe names.initializeMemory(as: UInt8.self, repeating: 0, count: depth * Self.nameBytes)
        unsafe vectors = .allocate(capacity: depth)
        unsafe messages = .allocate(capacity: depth)
        for index in 0..<depth {
            unsafe (vectors + index).initialize(
                to: iovec(
                    iov_base: buffers + index * Self.bufferBytes + Self.headroom, iov_len: Self.payloadBytes))
            var message = unsafe clinuxnet_mmsghdr()
            unsafe message.msg_hdr.msg_iov = vectors + index
            unsafe message.msg_hdr.msg_iovlen = 1
            unsafe message.msg_hdr.msg_name = names + index * Self.nameBytes
            unsafe message.msg_hdr.msg_control = controls + index * Self.controlBytes
            unsafe (messages + index).initialize(to: message)
        }
    }

    deinit {
        unsafe buffers.deallocate()
        unsafe names.deallocate()
        unsafe controls.deallocate()
        unsafe vectors.deallocate()
        unsafe messages.deallocate()
    }

    /// Takes up to `limit` messages, without blocking: the number of them; 0 also for an error, which is taken from the socket by
    /// that.
    mutating func receive(from descriptor: Int32, limit: Int) -> Int {
        let limit = min(limit, Self.depth)
        for index in 0..<limit {
            unsafe messages[index].msg_hdr.msg_namelen = UInt32(Self.nameBytes)
            unsafe messages[index].msg_hdr.msg_controllen = Self.controlBytes
        }
        return unsafe max(0, Int(clinuxnet_recvmmsg_plain(descriptor, messages, UInt32(limit))))
    }

    /// What a message of the last batch holds. ``headroom`` bytes in front of it are free.
    func payload(_ index: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(
            start: buffers + index * Self.bufferBytes + Self.headroom,
            count: min(Int(messages[index].msg_len), Self.payloadBytes))
    }

    /// Whether the end of a message is missing.
    func isCut(_ index: Int) -> Bool {
        unsafe messages[index].msg_hdr.msg_flags & clinuxnet_message_truncated != 0
    }

    /// The sender of a message, as the kernel wrote it.
    func name(_ index: Int) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(
            start: names + index * Self.nameBytes,
            count: min(Int(messages[index].msg_hdr.msg_namelen), Self.nameBytes))
    }

    /// Shows each note of the kernel on a message: level, type, and its first byte.
    func forEachNote(_ index: Int, _ body: (Int32, Int32, UnsafeRawPointer) -> Void) {
        var control = unsafe clinuxnet_cmsg_first(&messages[index].msg_hdr)
        while let entry = unsafe control {
            unsafe body(entry.pointee.cmsg_level, entry.pointee.cmsg_type, UnsafeRawPointer(clinuxnet_cmsg_data(entry)))
            unsafe control = clinuxnet_cmsg_next(&messages[index].msg_hdr, entry)
        }
    }
}

/// The time of a message as the kernel notes it (`SCM_TIMESTAMPNS`).
enum TimeNote {
    static let type = Int32(CLINUXNET_SCM_TIMESTAMPNS.rawValue)

    /// Nanoseconds, of a `struct timespec`.
    static func read(_ note: UnsafeRawPointer) -> UInt64 {
        let seconds = unsafe note.loadUnaligned(as: Int64.self)
        let nanoseconds = unsafe note.loadUnaligned(fromByteOffset: 8, as: Int64.self)
        return UInt64(truncatingIfNeeded: seconds &* 1_000_000_000 &+ nanoseconds)
    }

    /// Asks for it, where the kernel has it.
    static func ask(_ descriptor: Int32) {
        SocketOption.set(descriptor, SOL_SOCKET, Int32(CLINUXNET_SCM_TIMESTAMPNS.rawValue), 1)
    }
}
