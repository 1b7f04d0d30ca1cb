// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A Unix socket of whole messages (SOCK_SEQPACKET) with a name in the file system, by which processes of one host pass sockets on.
///
/// Nothing here blocks but ``receive(within:)``, and that no longer than it is told.
@safe package struct LocalSocket: ~Copyable {
    /// Bytes of the longest message.
    package static let messageByteCountMax = 16_384

    /// What came in one message.
    package enum Incoming {
        /// Its bytes, and what was passed along.
        case message([UInt8], PassedDescriptors)
        /// Nothing is there.
        case nothing
        /// The other end has closed, or broke off.
        case closed
    }

    private let file: FileDescriptor

    /// The descriptor, to wait for.
    package var descriptor: Int32 { file.number }

    private init(_ file: consuming FileDescriptor) { self.file = file }

    /// Listens at a path that any user may connect to. The path of a process that died is taken over.
    ///
    /// - Throws: `.invalid` where a living process listens, or the path is too long.
    package static func listening(at path: String) throws(PacketIOError) -> LocalSocket {
        let file = try open()
        if try !isBound(file, path) {
            guard clinuxnet_errno() == EADDRINUSE else { throw SystemError.last("bind(\(path))") }
            switch try? connected(to: path) {
            case .some:
                throw .invalid(
                    "another steerd listens at \(path): end it, or choose another path with --socket (and VERBS_STEERD)"
                )
            case nil: break
            }
            // Nobody accepts there. What is no socket is left alone.
            var status = stat()
            guard unsafe lstat(path, &status) == 0, status.st_mode & 0o170000 == 0o140000 else {
                throw .invalid("\(path) is there, and is no socket: move it away, or choose another path with --socket")
            }
            guard unsafe unlink(path) == 0 else { throw SystemError.last("unlink(\(path))") }
            guard try isBound(file, path) else { throw SystemError.last("bind(\(path))") }
        }
        // Whoever connects is asked who it is.
        guard unsafe chmod(path, 0o666) == 0 else { throw SystemError.last("chmod(\(path))") }
        guard listen(file.number, 128) == 0 else { throw SystemError.last("listen(\(path))") }
        return LocalSocket(file)
    }

    /// Connects to whoever listens at a path.
    ///
    /// - Throws: ENOENT and ECONNREFUSED where nobody does, EAGAIN where it has too much to do.
    package static func connected(to path: String) throws(PacketIOError) -> LocalSocket {
        let file = try open()
        for _ in 0..<100 {
            let isDone = try unsafe withAddress(path) { unsafe clinuxnet_connect(file.number, $0, $1) == 0 }
            if isDone { return LocalSocket(file) }
            guard clinuxnet_errno() == EAGAIN || clinuxnet_errno() == EINTR else { break }
            clinuxnet_pause_milliseconds(10)
        }
        throw SystemError.last("connect(\(path))")
    }

    /// The next connection to a listening socket; `nil` if there is none now.
    package borrowing func accepted() -> LocalSocket? {
        let number = clinuxnet_accept(file.number)
        return number >= 0 ? LocalSocket(FileDescriptor(taking: number)) : nil
    }

    /// The user and the process at the other end, as they were when it connected.
    package var peer: (uid: UInt32, pid: Int32)? {
        var credentials = clinuxnet_ucred()
        var length = UInt32(MemoryLayout<clinuxnet_ucred>.size)
        let result = unsafe getsockopt(file.number, SOL_SOCKET, clinuxnet_so_peercred, &credentials, &length)
        return result == 0 ? (credentials.uid, credentials.pid) : nil
    }

    /// A number that no other network namespace has; `nil` before Linux 5.14.
    package var networkNamespace: UInt64? { Self.networkNamespace(of: file.number) }

    /// The same for any socket.
    package static func networkNamespace(of descriptor: Int32) -> UInt64? {
        var cookie: UInt64 = 0
        var length: UInt32 = 8
        let result = unsafe getsockopt(descriptor, SOL_SOCKET, clinuxnet_so_netns_cookie, &cookie, &length)
        return result == 0 ? cookie : nil
    }

    /// Sends a message, and descriptors along with it; `false` if the other end takes none now, or is gone.
    package borrowing func send(_ bytes: [UInt8], passing passed: [Int32] = []) -> Bool {
        let controlByteCount = clinuxnet_cmsg_space(4 * passed.count)
        // All memory is read during the call.
        return unsafe withUnsafeTemporaryAllocation(byteCount: controlByteCount, alignment: 8) { control in
            unsafe bytes.withUnsafeBytes { bytes in
                var vector = unsafe iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
                return unsafe withUnsafeMutablePointer(to: &vector) { vector in
                    var message = unsafe msghdr()
                    unsafe message.msg_iov = vector
                    unsafe message.msg_iovlen = 1
                    if !passed.isEmpty {
                        unsafe control.initializeMemory(as: UInt8.self, repeating: 0)
                        unsafe message.msg_control = control.baseAddress
                        unsafe message.msg_controllen = controlByteCount
                        guard let header = unsafe clinuxnet_cmsg_first(&message) else { return false }
                        unsafe header.pointee.cmsg_level = SOL_SOCKET
                        unsafe header.pointee.cmsg_type = clinuxnet_scm_rights
                        unsafe header.pointee.cmsg_len = clinuxnet_cmsg_length(4 * passed.count)
                        for (index, number) in passed.enumerated() {
                            unsafe clinuxnet_cmsg_data(header).storeBytes(
                                of: number, toByteOffset: 4 * index, as: Int32.self)
                        }
                    }
                    return unsafe clinuxnet_sendmsg_quiet(file.number, &message) == bytes.count
                }
            }
        }
    }

    /// The next message, if it comes within so many milliseconds. One that is longer than ``messageByteCountMax`` is as good as an
    /// end; descriptors that there is no room for, here or in the process, are missing.
    package borrowing func receive(within milliseconds: Int32 = 0, descriptorCountMax: Int = 1) -> Incoming {
        if milliseconds > 0 { _ = clinuxnet_wait_readable(file.number, milliseconds) }
        let controlByteCount = clinuxnet_cmsg_space(4 * descriptorCountMax)
        var bytes = [UInt8](repeating: 0, count: Self.messageByteCountMax)
        var passed: [Int32] = []
        var isCut = false
        // All memory is written during the call, and read in the closure.
        let count = unsafe withUnsafeTemporaryAllocation(byteCount: controlByteCount, alignment: 8) { control in
            unsafe bytes.withUnsafeMutableBytes { bytes in
                var vector = unsafe iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
                return unsafe withUnsafeMutablePointer(to: &vector) { vector in
                    var message = unsafe msghdr()
                    unsafe message.msg_iov = vector
                    unsafe message.msg_iovlen = 1
                    unsafe message.msg_control = control.baseAddress
                    unsafe message.msg_controllen = controlByteCount
                    let count = unsafe clinuxnet_recvmsg_closing(file.number, &message)
                    guard count >= 0 else { return count }
                    isCut = unsafe message.msg_flags & clinuxnet_message_truncated != 0
                    var entry = unsafe clinuxnet_cmsg_first(&message)
                    while let header = unsafe entry {
                        if unsafe header.pointee.cmsg_level == SOL_SOCKET,
                            unsafe header.pointee.cmsg_type == clinuxnet_scm_rights
                        {
                            while unsafe clinuxnet_cmsg_length(4 * (passed.count + 1)) <= header.pointee.cmsg_len {
                                passed.append(
                                    unsafe clinuxnet_cmsg_data(header).loadUnaligned(
                                        fromByteOffset: 4 * passed.count, as: Int32.self))
                            }
                        }
                        unsafe entry = clinuxnet_cmsg_next(&message, header)
                    }
                    return count
                }
            }
        }
        if count < 0 {
            let code = clinuxnet_errno()
            return code == EAGAIN || code == EINTR ? .nothing : .closed
        }
        let owned = PassedDescriptors(passed)
        guard count > 0, !isCut else { return .closed }
        return .message(Array(bytes[..<count]), owned)
    }

    private static func open() throws(PacketIOError) -> FileDescriptor {
        try FileDescriptor(CLinuxNet.socket(AF_UNIX, clinuxnet_sock_message, 0), call: "socket(AF_UNIX)")
    }

    private static func isBound(_ file: borrowing FileDescriptor, _ path: String) throws(PacketIOError) -> Bool {
        try unsafe withAddress(path) { unsafe clinuxnet_bind(file.number, $0, $1) == 0 }
    }

    /// The path as a `sockaddr_un`, for a call.
    private static func withAddress(
        _ path: String, _ body: (UnsafeRawPointer, UInt32) -> Bool
    ) throws(PacketIOError) -> Bool {
        let bytes = Array(path.utf8)
        // sockaddr_un's sun_path, and a zero behind it.
        guard !bytes.isEmpty, bytes.count < 108, !bytes.contains(0) else {
            throw .invalid("'\(path)' cannot be the path of a Unix socket: give one of 1 to 107 bytes")
        }
        var address = [UInt8](repeating: 0, count: 110)
        let family = UInt16(AF_UNIX)
        address[0] = UInt8(truncatingIfNeeded: family)
        address[1] = UInt8(truncatingIfNeeded: family >> 8)
        address.replaceSubrange(2..<2 + bytes.count, with: bytes)
        return unsafe address.withUnsafeBytes { unsafe body($0.baseAddress!, UInt32(3 + bytes.count)) }
    }
}
