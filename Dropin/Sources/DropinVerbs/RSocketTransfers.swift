// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

// Reading and writing of rsockets, and memory that the peer writes to by itself.

/// A count of bytes, or an `errno`.
enum Transferred {
    case count(Int)
    case failed(Int32)

    /// As C has it.
    var result: Int {
        switch self {
        case .count(let count): return count
        case .failed(let code):
            errno = code
            return -1
        }
    }
}

extension RSocket {
    /// The stream, or why there is none; `nil` while the connection is being made.
    fileprivate func stream() -> Result<ByteStream, StreamAbsence>? {
        switch phase {
        case .connected(let stream): .success(stream)
        case .connecting: nil
        case .failed:
            .failure(StreamAbsence(code: takePendingError() ?? ENOTCONN))
        case .idle, .listening: .failure(StreamAbsence(code: ENOTCONN))
        case .closed: .failure(StreamAbsence(code: EBADF))
        case .datagrams: .failure(StreamAbsence(code: EOPNOTSUPP))
        }
    }

    private func takePendingError() -> Int32? {
        defer { pendingError = 0 }
        return pendingError == 0 ? nil : pendingError
    }

    /// Sleeps, if that is wanted, until a stream answers.
    private func wait(_ flags: Int32, _ look: (ByteStream) -> Transferred?) -> Transferred {
        let isNonblocking = locked { self.isNonblocking } || flags & dontWait != 0
        return wait(unless: isNonblocking) { () -> Transferred? in
            switch stream() {
            case nil: nil
            case .failure(let absence): .failed(absence.code)
            case .success(let stream): look(stream)
            }
        } ?? .failed(EAGAIN)
    }

    /// Reads: at least one byte, all if that is asked for, 0 at the end.
    fileprivate func receive(_ buffer: UnsafeMutableRawBufferPointer, _ flags: Int32) -> Transferred {
        guard buffer.count > 0 else { return .count(0) }
        let isPeeking = flags & peek != 0
        let wantsAll = flags & waitAll != 0 && !isPeeking
        var done = 0
        let outcome = wait(flags) { stream in
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
            done += unsafe stream.receive(rest, isPeeking: isPeeking)
            if done == buffer.count || (done > 0 && !wantsAll) { return .count(done) }
            guard !stream.isReadable else { return nil }
            if done > 0 { return .count(done) }
            let code = stream.takeFailure()
            return code == 0 ? .count(0) : .failed(code)
        }
        if done > 0 { return .count(done) }
        return outcome
    }

    /// Writes: all of it, or without waiting what there is room for.
    fileprivate func send(_ bytes: UnsafeRawBufferPointer, _ flags: Int32) -> Transferred {
        guard bytes.count > 0 else { return .count(0) }
        var done = 0
        let outcome = wait(flags) { stream in
            if let refused = Self.refusal(stream) { return refused }
            done += unsafe stream.send(UnsafeRawBufferPointer(rebasing: bytes[done...]))
            return done == bytes.count ? .count(done) : nil
        }
        if done > 0 { return .count(done) }
        return outcome
    }

    fileprivate func write(_ bytes: UnsafeRawBufferPointer, at offset: Int, _ flags: Int32) -> Transferred {
        var done = 0
        let outcome = wait(flags) { stream in
            if let refused = Self.refusal(stream) { return refused }
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
            switch unsafe stream.write(rest, at: offset + done) {
            case .written(let count): done += count
            // As with librdmacm: what comes before is written, and the rest is the program's to notice.
            case .notMapped: return .count(done)
            }
            return done == bytes.count ? .count(done) : nil
        }
        if done > 0 { return .count(done) }
        return outcome
    }

    private static func refusal(_ stream: ByteStream) -> Transferred? {
        guard !stream.isWritable else { return nil }
        if stream.isShutDown { return .failed(EPIPE) }
        let code = stream.takeFailure()
        return .failed(code == 0 ? ECONNRESET : code)
    }
}

private struct StreamAbsence: Error { let code: Int32 }

let dontWait = Int32(MSG_DONTWAIT)
let peek = Int32(MSG_PEEK)
private let waitAll = Int32(MSG_WAITALL)

private func receive(_ number: Int32, _ buffer: UnsafeMutableRawPointer?, _ count: Int, _ flags: Int32) -> Int {
    guard let socket = RSockets.find(number) else { return Transferred.failed(EBADF).result }
    if socket.hasDatagrams {
        let room = unsafe [UnsafeMutableRawBufferPointer(start: buffer, count: count)]
        return unsafe receiveDatagram(socket, room, flags, nil, nil)
    }
    return unsafe socket.receive(UnsafeMutableRawBufferPointer(start: buffer, count: count), flags).result
}

private func send(_ number: Int32, _ bytes: UnsafeRawPointer?, _ count: Int, _ flags: Int32) -> Int {
    guard let socket = RSockets.find(number) else { return Transferred.failed(EBADF).result }
    if socket.hasDatagrams {
        return unsafe socket.sendDatagram(UnsafeRawBufferPointer(start: bytes, count: count), to: nil, 0, flags).result
    }
    return unsafe socket.send(UnsafeRawBufferPointer(start: bytes, count: count), flags).result
}

/// Runs a transfer for each piece as long as each is whole; the first may wait, the others only take what is there.
private func eachPiece(
    _ pieces: UnsafePointer<iovec>?, _ count: Int, _ body: (UnsafeMutableRawPointer?, Int, _ isFirst: Bool) -> Int
) -> Int {
    var total = 0
    for index in 0..<count {
        guard let piece = unsafe pieces?[index], unsafe piece.iov_len > 0 else { continue }
        let done = unsafe body(piece.iov_base, piece.iov_len, total == 0)
        guard done > 0 else { return total > 0 ? total : done }
        total += done
        if unsafe done < piece.iov_len { break }
    }
    return total
}

private func receivePieces(_ number: Int32, _ pieces: UnsafePointer<iovec>?, _ count: Int, _ flags: Int32) -> Int {
    guard count >= 0 else { return Transferred.failed(EINVAL).result }
    if let socket = RSockets.find(number), socket.hasDatagrams {
        let room = unsafe (0..<count).map {
            unsafe UnsafeMutableRawBufferPointer(start: pieces?[$0].iov_base, count: pieces?[$0].iov_len ?? 0)
        }
        return unsafe receiveDatagram(socket, room, flags, nil, nil)
    }
    return unsafe eachPiece(pieces, count) { base, length, isFirst in
        let waits = isFirst || flags & waitAll != 0
        return unsafe receive(number, base, length, waits ? flags : flags | dontWait)
    }
}

private func sendPieces(_ number: Int32, _ pieces: UnsafePointer<iovec>?, _ count: Int, _ flags: Int32) -> Int {
    guard count >= 0 else { return Transferred.failed(EINVAL).result }
    if let socket = RSockets.find(number), socket.hasDatagrams {
        return unsafe sendDatagram(socket, pieces, count, flags, to: nil, 0)
    }
    return unsafe eachPiece(pieces, count) { base, length, _ in unsafe send(number, base, length, flags) }
}

/// `rrecv`
@c @implementation
public func rrecv(_ number: Int32, _ buffer: UnsafeMutableRawPointer!, _ count: Int, _ flags: Int32) -> Int {
    unsafe receive(number, buffer, count, flags)
}

/// `rrecvfrom`
@c @implementation
public func rrecvfrom(
    _ number: Int32, _ buffer: UnsafeMutableRawPointer!, _ count: Int, _ flags: Int32,
    _ address: UnsafeMutablePointer<sockaddr>!, _ length: UnsafeMutablePointer<socklen_t>!
) -> Int {
    if let socket = RSockets.find(number), socket.hasDatagrams {
        let room = unsafe [UnsafeMutableRawBufferPointer(start: buffer, count: count)]
        return unsafe receiveDatagram(socket, room, flags, address, length)
    }
    let done = unsafe receive(number, buffer, count, flags)
    if done > 0, unsafe address != nil, unsafe length != nil { _ = unsafe rgetpeername(number, address, length) }
    return done
}

/// `rrecvmsg`
@c @implementation
public func rrecvmsg(_ number: Int32, _ message: UnsafeMutablePointer<msghdr>!, _ flags: Int32) -> Int {
    if let socket = RSockets.find(number), socket.hasDatagrams { return unsafe receiveDatagram(socket, message, flags) }
    // A stream has neither an address nor anything else beside its bytes.
    unsafe message.pointee.msg_namelen = 0
    unsafe message.pointee.msg_controllen = 0
    unsafe message.pointee.msg_flags = 0
    return unsafe receivePieces(number, message.pointee.msg_iov, Int(message.pointee.msg_iovlen), flags)
}

/// `rread`
@c @implementation
public func rread(_ number: Int32, _ buffer: UnsafeMutableRawPointer!, _ count: Int) -> Int {
    unsafe receive(number, buffer, count, 0)
}

/// `rreadv`
@c @implementation
public func rreadv(_ number: Int32, _ pieces: UnsafePointer<iovec>!, _ count: Int32) -> Int {
    unsafe receivePieces(number, pieces, Int(count), 0)
}

/// `rsend`
@c @implementation
public func rsend(_ number: Int32, _ bytes: UnsafeRawPointer!, _ count: Int, _ flags: Int32) -> Int {
    unsafe send(number, bytes, count, flags)
}

/// `rsendto`
@c @implementation
public func rsendto(
    _ number: Int32, _ bytes: UnsafeRawPointer!, _ count: Int, _ flags: Int32, _ address: UnsafePointer<sockaddr>!,
    _ length: socklen_t
) -> Int {
    if let socket = RSockets.find(number), socket.hasDatagrams {
        let data = unsafe UnsafeRawBufferPointer(start: bytes, count: count)
        return unsafe socket.sendDatagram(data, to: address, length, flags).result
    }
    // A stream has one destination; another one is not looked at.
    return unsafe send(number, bytes, count, flags)
}

/// `rsendmsg`
@c @implementation
public func rsendmsg(_ number: Int32, _ message: UnsafePointer<msghdr>!, _ flags: Int32) -> Int {
    guard unsafe message.pointee.msg_controllen == 0 else { return Transferred.failed(EOPNOTSUPP).result }
    if let socket = RSockets.find(number), socket.hasDatagrams {
        let name = unsafe message.pointee.msg_name.map {
            unsafe UnsafePointer($0.assumingMemoryBound(to: sockaddr.self))
        }
        return unsafe sendDatagram(
            socket, message.pointee.msg_iov, Int(message.pointee.msg_iovlen), flags, to: name,
            message.pointee.msg_namelen)
    }
    return unsafe sendPieces(number, message.pointee.msg_iov, Int(message.pointee.msg_iovlen), flags)
}

/// `rwrite`
@c @implementation
public func rwrite(_ number: Int32, _ bytes: UnsafeRawPointer!, _ count: Int) -> Int {
    unsafe send(number, bytes, count, 0)
}

/// `rwritev`
@c @implementation
public func rwritev(_ number: Int32, _ pieces: UnsafePointer<iovec>!, _ count: Int32) -> Int {
    unsafe sendPieces(number, pieces, Int(count), 0)
}

/// `riomap`
@c @implementation
public func riomap(
    _ number: Int32, _ buffer: UnsafeMutableRawPointer!, _ count: Int, _ protection: Int32, _ flags: Int32,
    _ offset: off_t
) -> off_t {
    let chosen = offset == -1 ? Int(bitPattern: buffer) : offset
    let status = withRSocket(number) { socket in
        guard protection & ~PROT_WRITE == 0, count > 0 else { return EINVAL }
        return socket.locked {
            guard case .connected(let stream) = socket.phase else { return EINVAL }
            return unsafe stream.map(
                UnsafeMutableRawBufferPointer(start: buffer, count: count), offset: chosen,
                isWritable: protection & PROT_WRITE != 0)
        }
    }
    return status == 0 ? chosen : -1
}

/// `riounmap`
@c @implementation
public func riounmap(_ number: Int32, _ buffer: UnsafeMutableRawPointer!, _ count: Int) -> Int32 {
    withRSocket(number) { socket in
        socket.locked {
            guard case .connected(let stream) = socket.phase else { return EINVAL }
            return unsafe stream.unmap(UnsafeMutableRawBufferPointer(start: buffer, count: count))
        }
    }
}

/// `riowrite`
@c @implementation
public func riowrite(
    _ number: Int32, _ bytes: UnsafeRawPointer!, _ count: Int, _ offset: off_t, _ flags: Int32
) -> Int {
    guard let socket = RSockets.find(number) else { return Transferred.failed(EBADF).result }
    return unsafe socket.write(UnsafeRawBufferPointer(start: bytes, count: count), at: offset, flags).result
}
