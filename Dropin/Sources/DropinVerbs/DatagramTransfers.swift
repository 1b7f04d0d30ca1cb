// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// Reading and writing of datagram rsockets: one call is one datagram, wherever its bytes are.

extension RSocket {
    /// What was read of a datagram.
    struct ReadDatagram: Sendable {
        /// Its length, or less if there was no room for all of it.
        let count: Int
        /// All that it had.
        let wholeCount: Int
        let sender: DatagramAddress
    }

    /// The end of a datagram socket; `nil` for a stream.
    private var end: DatagramEnd? {
        if case .datagrams(let end) = phase { return end }
        return nil
    }

    var hasDatagrams: Bool { locked { end != nil } }

    /// Reads a datagram: what there is no room for is lost.
    /// - Returns: `nil` where none came.
    func readDatagram(into pieces: [UnsafeMutableRawBufferPointer], _ flags: Int32) -> ReadDatagram? {
        let isNonblocking = locked { self.isNonblocking } || flags & dontWait != 0
        return wait(unless: isNonblocking) { () -> ReadDatagram? in
            var count = 0
            let taken = unsafe end?.receive(isPeeking: flags & peek != 0) { bytes in
                for index in unsafe pieces.indices where count < bytes.count {
                    let piece = unsafe pieces[index]
                    let part = min(piece.count, bytes.count - count)
                    unsafe piece.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[count..<count + part]))
                    count += part
                }
            }
            return taken.map { ReadDatagram(count: count, wholeCount: $0.count, sender: $0.sender) }
        }
    }

    /// Sends bytes as one datagram; without an address, to whom `rconnect` named.
    func sendDatagram(
        _ bytes: UnsafeRawBufferPointer, to address: UnsafePointer<sockaddr>?, _ length: socklen_t, _ flags: Int32
    ) -> Transferred {
        let isNonblocking = locked { self.isNonblocking } || flags & dontWait != 0
        var target: DatagramAddress?
        if let address = unsafe address {
            target = unsafe DatagramAddress(address, length)
            if target == nil { return .failed(EINVAL) }
        }
        return wait(unless: isNonblocking) { () -> Transferred? in
            guard let end, let target = target ?? end.peer else { return .failed(EDESTADDRREQ) }
            switch unsafe end.send(bytes, to: target) {
            case .sent: return .count(bytes.count)
            case .failed(let code): return .failed(code)
            case .noRoom: return nil
            }
        } ?? .failed(EAGAIN)
    }
}

/// Reads a datagram for C.
func receiveDatagram(
    _ socket: RSocket, _ pieces: [UnsafeMutableRawBufferPointer], _ flags: Int32,
    _ address: UnsafeMutablePointer<sockaddr>?, _ length: UnsafeMutablePointer<socklen_t>?
) -> Int {
    guard let read = unsafe socket.readDatagram(into: pieces, flags) else { return Transferred.failed(EAGAIN).result }
    if unsafe address != nil, unsafe length != nil { _ = unsafe store(read.sender.storage, address, length) }
    return flags & wantsWholeCount != 0 ? read.wholeCount : read.count
}

/// Reads a datagram for `rrecvmsg`.
func receiveDatagram(_ socket: RSocket, _ message: UnsafeMutablePointer<msghdr>, _ flags: Int32) -> Int {
    unsafe message.pointee.msg_controllen = 0
    let pieces = unsafe (0..<Int(message.pointee.msg_iovlen)).map {
        unsafe UnsafeMutableRawBufferPointer(
            start: message.pointee.msg_iov[$0].iov_base, count: message.pointee.msg_iov[$0].iov_len)
    }
    guard let read = unsafe socket.readDatagram(into: pieces, flags) else { return Transferred.failed(EAGAIN).result }
    unsafe message.pointee.msg_flags = read.count < read.wholeCount ? wantsWholeCount : 0
    if let name = unsafe message.pointee.msg_name {
        var size = unsafe message.pointee.msg_namelen
        _ = unsafe store(read.sender.storage, name.assumingMemoryBound(to: sockaddr.self), &size)
        unsafe message.pointee.msg_namelen = size
    }
    return flags & wantsWholeCount != 0 ? read.wholeCount : read.count
}

/// Sends the bytes of all pieces as one datagram.
func sendDatagram(
    _ socket: RSocket, _ pieces: UnsafePointer<iovec>?, _ count: Int, _ flags: Int32,
    to address: UnsafePointer<sockaddr>?, _ length: socklen_t
) -> Int {
    var bytes: [UInt8] = []
    for index in 0..<count {
        guard let piece = unsafe pieces?[index], let base = unsafe piece.iov_base else { continue }
        unsafe bytes.append(contentsOf: UnsafeRawBufferPointer(start: base, count: piece.iov_len))
        // No datagram is that long; it is refused by its length.
        if bytes.count > 65_536 { break }
    }
    return unsafe bytes.withUnsafeBytes { unsafe socket.sendDatagram($0, to: address, length, flags).result }
}

private let wantsWholeCount = Int32(MSG_TRUNC)
