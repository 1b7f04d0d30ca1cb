// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The TCP connection of a session. Each message goes out in one write, because perftest reads each with one `read`
/// and takes a short one for an error; here split reads are put together.
///
/// One thread uses it. Closed on release.
package final class PeerConnection {
    package enum Role: Sendable {
        case client, server
    }

    package let role: Role
    /// This end's address, as 16 bytes of an IPv6 or IPv4-mapped address: the GID to prefer.
    package let localAddress: [UInt8]
    private var descriptor: Int32

    /// How long a step may wait for the peer.
    package enum Patience: Sendable {
        /// A step of the set-up, which a living peer takes at once.
        case setUp
        /// The end of a run, which may last. The kernel reports a peer that dies.
        case run

        fileprivate var milliseconds: Int32 { self == .setUp ? 30_000 : -1 }
    }

    /// Takes over a connected socket.
    package init(adopting descriptor: Int32, role: Role) {
        self.descriptor = descriptor
        self.role = role
        localAddress = SocketAddress.local(of: descriptor)?.mappedBytes ?? []
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        // A peer whose machine dies is noticed after about 20 s.
        Self.set(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPIDLE, 10)
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPINTVL, 2)
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPCNT, 5)
    }

    deinit { close() }

    /// Connects to a server. A refusal is retried for `retrySeconds`, so that both ends can be started together.
    package static func connect(host: String, port: Int, retrySeconds: Int = 3) throws(PerfError) -> PeerConnection {
        let addresses = try SocketAddress.resolve(host: host, port: port)
        var lastError: Int32 = 0
        for attempt in 0...(retrySeconds * 10) {
            if attempt > 0 { usleep(100_000) }
            for address in addresses {
                let descriptor = socket(address.family, Int32(SOCK_STREAM.rawValue) | Self.closeOnExec, 0)
                guard descriptor >= 0 else { continue }
                lastError = Self.connect(descriptor, address)
                if lastError == 0 { return PeerConnection(adopting: descriptor, role: .client) }
                _ = Glibc.close(descriptor)
            }
            guard lastError == ECONNREFUSED else { break }
        }
        throw .peerUnreachable(
            """
            No server at \(host), TCP port \(port): \(errorText(lastError)). Start the server first, with the same test \
            and -p.
            """)
    }

    private static func connect(_ descriptor: Int32, _ address: SocketAddress) -> Int32 {
        let flags = fcntl(descriptor, F_GETFL)
        _ = fcntl(descriptor, F_SETFL, flags | O_NONBLOCK)
        var result = unsafe address.withSockaddr { unsafe Glibc.connect(descriptor, $0, $1) == 0 ? 0 : errno }
        if result == EINPROGRESS {
            guard wait(descriptor, for: Int16(POLLOUT), milliseconds: 5000) else { return ETIMEDOUT }
            result = option(descriptor, SOL_SOCKET, SO_ERROR)
        }
        _ = fcntl(descriptor, F_SETFL, flags)
        return result
    }

    /// One lock-step exchange: the client writes then reads, the server reads then writes.
    ///
    /// - Parameter count: bytes that the peer sends; as many as `bytes` has unless given.
    package func exchange(_ bytes: [UInt8], count: Int? = nil, patience: Patience = .setUp) throws(PerfError) -> [UInt8]
    {
        switch role {
        case .client:
            try write(bytes)
            return try read(count ?? bytes.count, patience)
        case .server:
            let answer = try read(count ?? bytes.count, patience)
            try write(bytes)
            return answer
        }
    }

    /// Whether the peer has closed its end. A read that would find data says no, and takes nothing.
    package func isClosedByPeer() -> Bool {
        var byte: UInt8 = 0
        let count = unsafe recv(descriptor, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
        return count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)
    }

    /// Ends the session: says that nothing more comes and gives the peer a moment to say the same, so that no reset
    /// overtakes the last message.
    package func finish() {
        guard descriptor >= 0 else { return }
        _ = shutdown(descriptor, Int32(SHUT_WR))
        var scratch = [UInt8](repeating: 0, count: 64)
        while Self.wait(descriptor, for: Int16(POLLIN), milliseconds: 500) {
            let count = unsafe scratch.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, 0) }
            if count <= 0 { break }
        }
        close()
    }

    private func close() {
        if descriptor >= 0 { _ = Glibc.close(descriptor) }
        descriptor = -1
    }

    private func write(_ bytes: [UInt8]) throws(PerfError) {
        let sent = unsafe bytes.withUnsafeBytes {
            unsafe send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
        guard sent == bytes.count else { throw Self.gone }
    }

    private func read(_ count: Int, _ patience: Patience) throws(PerfError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            // Once the first byte of a message is here the rest follows at once.
            let limit = filled == 0 ? patience.milliseconds : PeerConnection.Patience.setUp.milliseconds
            guard Self.wait(descriptor, for: Int16(POLLIN), milliseconds: limit) else {
                throw .protocolMismatch(
                    """
                    The peer stopped answering in the handshake (\(filled) of \(count) bytes came in \(limit / 1000) s). \
                    Does it run the same test with the same options?
                    """)
            }
            let got = unsafe bytes.withUnsafeMutableBytes {
                unsafe recv(descriptor, $0.baseAddress! + filled, count - filled, 0)
            }
            if got < 0, errno == EINTR { continue }
            guard got > 0 else { throw Self.gone }
            filled += got
        }
        return bytes
    }

    private static var gone: PerfError {
        .peerGone("The peer closed its connection in the middle of the test; look at its output for the reason.")
    }

    fileprivate static let closeOnExec = Int32(SOCK_CLOEXEC.rawValue)

    /// Whether the descriptor becomes ready in time; a negative time waits for ever.
    fileprivate static func wait(_ descriptor: Int32, for events: Int16, milliseconds: Int32) -> Bool {
        var entry = pollfd(fd: descriptor, events: events, revents: 0)
        while true {
            let count = unsafe poll(&entry, 1, milliseconds)
            if count < 0, errno == EINTR { continue }
            return count > 0
        }
    }

    fileprivate static func set(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: Int32) {
        var value = value
        _ = unsafe setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    private static func option(_ descriptor: Int32, _ level: Int32, _ name: Int32) -> Int32 {
        var value: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return unsafe getsockopt(descriptor, level, name, &value, &length) == 0 ? value : errno
    }
}

/// A listening TCP socket that takes one peer.
package struct PeerListener: ~Copyable {
    private let descriptor: Int32
    /// The port it listens on, also when 0 was asked for.
    package let port: Int

    /// Listens on all addresses of the host, IPv6 and IPv4.
    ///
    /// - Parameter loopbackOnly: listens on 127.0.0.1 alone.
    package init(port: Int, loopbackOnly: Bool = false) throws(PerfError) {
        var failure: Int32 = 0
        for family in loopbackOnly ? [AF_INET] : [AF_INET6, AF_INET] {
            let descriptor = socket(family, Int32(SOCK_STREAM.rawValue) | PeerConnection.closeOnExec, 0)
            guard descriptor >= 0 else {
                failure = errno
                continue
            }
            PeerConnection.set(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
            if family == AF_INET6 { PeerConnection.set(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 0) }
            let address = SocketAddress.passive(family: family, port: port, loopback: loopbackOnly)
            if unsafe address.withSockaddr({ unsafe bind(descriptor, $0, $1) }) == 0, listen(descriptor, 1) == 0 {
                self.descriptor = descriptor
                self.port = SocketAddress.local(of: descriptor)?.port ?? port
                return
            }
            failure = errno
            _ = Glibc.close(descriptor)
            if failure == EADDRINUSE { break }
        }
        self.descriptor = -1
        self.port = 0
        throw .peerUnreachable(
            "Cannot listen on TCP port \(port): \(errorText(failure)). Another server may be running; choose another with -p."
        )
    }

    deinit { if descriptor >= 0 { _ = Glibc.close(descriptor) } }

    /// Waits for the client, for ever unless `seconds` is given.
    package consuming func accept(seconds: Int? = nil) throws(PerfError) -> PeerConnection {
        while true {
            guard
                PeerConnection.wait(
                    descriptor, for: Int16(POLLIN), milliseconds: seconds.map { Int32($0 * 1000) } ?? -1)
            else { throw .peerUnreachable("No client connected within \(seconds ?? 0) s.") }
            let peer = Glibc.accept(descriptor, nil, nil)
            if peer >= 0 {
                _ = fcntl(peer, F_SETFD, FD_CLOEXEC)
                return PeerConnection(adopting: peer, role: .server)
            }
            guard errno == EINTR || errno == ECONNABORTED else {
                throw .peerUnreachable("Cannot take the client's connection: \(errorText(errno)).")
            }
        }
    }
}

/// The text of an `errno`.
package func errorText(_ code: Int32) -> String {
    guard let text = unsafe strerror(code) else { return "error \(code)" }
    return unsafe String(cString: text)
}
