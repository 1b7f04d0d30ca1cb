// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// A listening TCP socket that takes one peer.
package struct PeerListener: ~Copyable {
    private var descriptor: Int32
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
            if unsafe address.withNative({ unsafe bind(descriptor, $0, $1) }) == 0, listen(descriptor, 1) == 0 {
                self.descriptor = descriptor
                self.port = SocketAddress.local(of: descriptor).map { Int($0.port) } ?? port
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

    /// Takes over a listening socket that this process inherited.
    package init(adopting descriptor: Int32) {
        self.descriptor = descriptor
        port = SocketAddress.local(of: descriptor).map { Int($0.port) } ?? 0
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    }

    deinit { if descriptor >= 0 { _ = Glibc.close(descriptor) } }

    /// A duplicate that a child process inherits. The caller closes it once the child runs.
    package borrowing func descriptorForChild() -> Int32 { fcntl(descriptor, F_DUPFD, 3) }

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
