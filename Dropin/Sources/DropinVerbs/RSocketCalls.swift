// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

// Making, connecting and closing rsockets: the functions of rdma/rsocket.h, as their namesakes of sys/socket.h.

/// Runs a call on an rsocket, whose outcome is an `errno`: 0, or -1 with it.
func withRSocket(_ number: Int32, _ body: (RSocket) -> Int32) -> Int32 {
    let code = RSockets.find(number).map(body) ?? EBADF
    guard code != 0 else { return 0 }
    errno = code
    return -1
}

/// `rsocket`
@c @implementation
public func rsocket(_ domain: Int32, _ type: Int32, _ protocolNumber: Int32) -> Int32 {
    let nonblocking = Int32(SOCK_NONBLOCK.rawValue)
    let closing = Int32(SOCK_CLOEXEC.rawValue)
    var number: Int32 = -1
    let status = minusOne { () throws(ProviderError) in
        let kind = type & ~(nonblocking | closing)
        let isOfDatagrams = kind == Int32(SOCK_DGRAM.rawValue)
        let itsProtocol = Int32(isOfDatagrams ? IPPROTO_UDP : IPPROTO_TCP)
        guard domain == AF_INET || domain == AF_INET6, isOfDatagrams || kind == Int32(SOCK_STREAM.rawValue),
            protocolNumber == 0 || protocolNumber == itsProtocol
        else {
            throw ProviderError(
                "rsocket", code: ENOTSUP, detail: "SOCK_STREAM and SOCK_DGRAM of AF_INET and AF_INET6 are offered")
        }
        let socket = try RSocket(family: domain, isOfDatagrams: isOfDatagrams)
        socket.options.statusFlags = type & nonblocking != 0 ? O_NONBLOCK : 0
        socket.options.descriptorFlags = type & closing != 0 ? FD_CLOEXEC : 0
        RSockets.add(socket)
        number = socket.number
    }
    return status == 0 ? number : -1
}

/// `rbind`
@c @implementation
public func rbind(_ number: Int32, _ address: UnsafePointer<sockaddr>!, _ length: socklen_t) -> Int32 {
    withRSocket(number) { socket in
        guard let address = unsafe address else { return EFAULT }
        return socket.locked {
            if case .datagrams(let end) = socket.phase { return unsafe end.bind(address, length) }
            guard case .idle = socket.phase else { return EINVAL }
            return softCode { () throws(ProviderError) in
                try unsafe socket.path.bind(socket.identifier, to: UnsafeMutablePointer(mutating: address))
            }
        }
    }
}

/// `rlisten`
@c @implementation
public func rlisten(_ number: Int32, _ backlog: Int32) -> Int32 {
    withRSocket(number) { socket in
        socket.locked {
            switch socket.phase {
            case .listening: return 0
            case .idle: break
            case .datagrams: return EOPNOTSUPP
            default: return EINVAL
            }
            return softCode { () throws(ProviderError) in
                if unsafe socket.identifier.pointee.route.addr.src_storage.ss_family == 0 {
                    // As TCP: a port is chosen.
                    var wildcard = sockaddr_storage()
                    wildcard.ss_family = sa_family_t(socket.family)
                    try unsafe withUnsafeMutablePointer(to: &wildcard) { (pointer) throws(ProviderError) in
                        try unsafe socket.path.bind(
                            socket.identifier,
                            to: UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: sockaddr.self))
                    }
                }
                socket.phase = .listening(try RSocketListener(socket, backlog: backlog))
            }
        }
    }
}

/// `raccept`
@c @implementation
public func raccept(
    _ number: Int32, _ address: UnsafeMutablePointer<sockaddr>!, _ length: UnsafeMutablePointer<socklen_t>!
) -> Int32 {
    var accepted: Int32 = -1
    let status = withRSocket(number) { socket in
        let isNonblocking = socket.locked { socket.isNonblocking }
        let outcome = socket.wait(unless: isNonblocking) { () -> Result<RSocket, Failure>? in
            if case .datagrams = socket.phase { return .failure(Failure(code: EOPNOTSUPP)) }
            guard case .listening(let listener) = socket.phase else { return .failure(Failure(code: EINVAL)) }
            return listener.take().map { .success($0) }
        }
        switch outcome {
        case nil: return EAGAIN
        case .failure(let failure): return failure.code
        case .success(let connection):
            RSockets.add(connection)
            accepted = connection.number
            if unsafe address != nil, unsafe length != nil { _ = unsafe rgetpeername(accepted, address, length) }
            return 0
        }
    }
    return status == 0 ? accepted : -1
}

private struct Failure: Error { let code: Int32 }

/// `rconnect`
@c @implementation
public func rconnect(_ number: Int32, _ address: UnsafePointer<sockaddr>!, _ length: socklen_t) -> Int32 {
    withRSocket(number) { socket in
        guard let address = unsafe address else { return EFAULT }
        let ended = socket.locked { () -> Int32? in
            if case .datagrams(let end) = socket.phase { return unsafe end.connect(address, length) }
            let code = unsafe socket.beginConnecting(to: address)
            return code == 0 ? nil : code
        }
        if let ended { return ended }
        let isNonblocking = socket.locked { socket.isNonblocking }
        return socket.wait(unless: isNonblocking) { () -> Int32? in
            switch socket.phase {
            case .connecting: return nil
            case .connected: return 0
            case .idle, .listening, .failed, .closed, .datagrams:
                defer { socket.pendingError = 0 }
                return socket.pendingError == 0 ? ECONNABORTED : socket.pendingError
            }
        } ?? EINPROGRESS
    }
}

/// `rshutdown`
@c @implementation
public func rshutdown(_ number: Int32, _ how: Int32) -> Int32 {
    withRSocket(number) { socket in
        let (read, write, both) = (Int32(SHUT_RD), Int32(SHUT_WR), Int32(SHUT_RDWR))
        guard how == read || how == write || how == both else { return EINVAL }
        return socket.wait(unless: false) { () -> Int32? in
            guard case .connected(let stream) = socket.phase else { return ENOTCONN }
            guard stream.canEnd else { return nil }
            stream.shutDown(reading: how != write, writing: how != read)
            socket.ring()
            return 0
        } ?? EAGAIN
    }
}

/// `rclose`
@c @implementation
public func rclose(_ number: Int32) -> Int32 {
    withRSocket(number) { _ in
        guard let socket = RSockets.remove(number) else { return EBADF }
        socket.close()
        return 0
    }
}

/// Copies an address for C, as much as there is room for; what it would need is told.
func store(
    _ storage: sockaddr_storage, _ address: UnsafeMutablePointer<sockaddr>?, _ length: UnsafeMutablePointer<socklen_t>?
) -> Int32 {
    guard let length = unsafe length else { return EFAULT }
    let size = Int32(storage.ss_family) == AF_INET6 ? MemoryLayout<sockaddr_in6>.size : MemoryLayout<sockaddr_in>.size
    let count = min(size, Int(unsafe length.pointee))
    unsafe length.pointee = socklen_t(size)
    guard let address = unsafe address else { return count == 0 ? 0 : EFAULT }
    unsafe withUnsafeBytes(of: storage) { bytes in
        unsafe UnsafeMutableRawPointer(address).copyMemory(from: bytes.baseAddress!, byteCount: count)
    }
    return 0
}

/// `rgetpeername`
@c @implementation
public func rgetpeername(
    _ number: Int32, _ address: UnsafeMutablePointer<sockaddr>!, _ length: UnsafeMutablePointer<socklen_t>!
) -> Int32 {
    withRSocket(number) { socket in
        socket.locked {
            switch socket.phase {
            case .connected: return unsafe store(socket.identifier.pointee.route.addr.dst_storage, address, length)
            case .datagrams(let end):
                return end.peer.map { unsafe store($0.storage, address, length) } ?? ENOTCONN
            case .idle, .listening, .connecting, .failed, .closed: return ENOTCONN
            }
        }
    }
}

/// `rgetsockname`
@c @implementation
public func rgetsockname(
    _ number: Int32, _ address: UnsafeMutablePointer<sockaddr>!, _ length: UnsafeMutablePointer<socklen_t>!
) -> Int32 {
    withRSocket(number) { socket in
        socket.locked {
            if case .datagrams(let end) = socket.phase { return unsafe store(end.localAddress, address, length) }
            var storage = unsafe socket.identifier.pointee.route.addr.src_storage
            if storage.ss_family == 0 { storage.ss_family = sa_family_t(socket.family) }
            return unsafe store(storage, address, length)
        }
    }
}
