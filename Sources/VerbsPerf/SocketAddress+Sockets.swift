// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

// Socket addresses for TCP: names, and what a socket is bound to.
extension SocketAddress {
    var family: Int32 { isIPv4 ? AF_INET : AF_INET6 }

    /// Addresses of a host name or a literal address.
    static func resolve(host: String, port: Int) throws(PerfError) -> [SocketAddress] {
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let status = unsafe getaddrinfo(host, String(port), &hints, &list)
        guard status == 0 else {
            let reason = unsafe gai_strerror(status).map { unsafe String(cString: $0) } ?? "unknown name"
            throw .peerUnreachable("Cannot resolve the host \"\(host)\": \(reason).")
        }
        defer { if let list = unsafe list { unsafe freeaddrinfo(list) } }
        var addresses: [SocketAddress] = []
        var entry = unsafe list
        while let current = unsafe entry {
            // Of another family there is nothing to connect to.
            if let native = unsafe current.pointee.ai_addr, let address = unsafe SocketAddress(native) {
                addresses.append(address)
            }
            unsafe entry = current.pointee.ai_next
        }
        return addresses
    }

    /// The wildcard or loopback address of a family.
    static func passive(family: Int32, port: Int, loopback: Bool) -> SocketAddress {
        let port = UInt16(truncatingIfNeeded: port)
        if family == AF_INET6 { return .any(port: port) }
        return loopback ? SocketAddress(GID(ipv4: 0x7F00_0001), port: port) : .anyIPv4(port: port)
    }

    /// The address that a socket is bound to.
    static func local(of descriptor: Int32) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(descriptor, $0, &length) == 0 ? SocketAddress($0) : nil
            }
        }
    }
}
