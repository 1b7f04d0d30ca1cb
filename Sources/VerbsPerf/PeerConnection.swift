// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// The TCP connection of a session. Each message goes out in one write, because perftest reads each with one `read`
/// and takes a short one for an error; here split reads are put together.
///
/// One thread uses it. Closed on release.
package final class PeerConnection: PeerLink {
    /// Who connected and who accepted.
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
    }

    /// How long a step of the set-up may take.
    package var setUpMilliseconds: Int32 = 30_000

    /// Takes over a connected socket.
    package init(adopting descriptor: Int32, role: Role) {
        self.descriptor = descriptor
        self.role = role
        localAddress = SocketAddress.local(of: descriptor)?.address.bytes ?? []
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
        var result = unsafe address.withNative { unsafe Glibc.connect(descriptor, $0, $1) == 0 ? 0 : errno }
        if result == EINPROGRESS {
            guard wait(descriptor, for: Int16(POLLOUT), milliseconds: 5000) else { return ETIMEDOUT }
            result = option(descriptor, SOL_SOCKET, SO_ERROR)
        }
        _ = fcntl(descriptor, F_SETFL, flags)
        return result
    }

    /// What a look at the stream finds; nothing is taken from it.
    package enum Sight: Sendable {
        case nothing
        /// The peer has sent a message: it is at a later step and waits for us.
        case message
        /// The peer has closed its end, or is gone.
        case closed
    }

    /// Looks whether the peer has said anything.
    package func look() -> Sight {
        var byte: UInt8 = 0
        let count = unsafe recv(descriptor, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
        if count > 0 { return .message }
        return count == 0 || (errno != EAGAIN && errno != EINTR) ? .closed : .nothing
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

    /// Sends one message in one write.
    package func send(_ bytes: [UInt8]) throws(PerfError) {
        let sent = unsafe bytes.withUnsafeBytes {
            unsafe Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
        guard sent == bytes.count else { throw Self.gone }
    }

    /// Receives one message of `count` bytes, in however many pieces it comes.
    package func receive(_ count: Int, patience: Patience = .setUp) throws(PerfError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            // Once the first byte of a message is here the rest follows at once.
            let limit = filled == 0 && patience == .run ? -1 : setUpMilliseconds
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

    static let closeOnExec = Int32(SOCK_CLOEXEC.rawValue)

    /// Whether the descriptor becomes ready in time; a negative time waits for ever.
    static func wait(_ descriptor: Int32, for events: Int16, milliseconds: Int32) -> Bool {
        var entry = pollfd(fd: descriptor, events: events, revents: 0)
        while true {
            let count = unsafe poll(&entry, 1, milliseconds)
            if count < 0, errno == EINTR { continue }
            return count > 0
        }
    }

    static func set(_ descriptor: Int32, _ level: Int32, _ name: Int32, _ value: Int32) {
        var value = value
        _ = unsafe setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    private static func option(_ descriptor: Int32, _ level: Int32, _ name: Int32) -> Int32 {
        var value: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return unsafe getsockopt(descriptor, level, name, &value, &length) == 0 ? value : errno
    }
}

/// The text of an `errno`.
package func errorText(_ code: Int32) -> String {
    guard let text = unsafe strerror(code) else { return "error \(code)" }
    return unsafe String(cString: text)
}
