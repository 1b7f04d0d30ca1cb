// SPDX-License-Identifier: Apache-2.0
import Glibc

/// An IPv4 or IPv6 socket address, held as the C structure it came in.
struct SocketAddress {
    private var storage = sockaddr_storage()
    private var length: socklen_t = 0

    var family: Int32 { Int32(storage.ss_family) }

    private init() {}

    /// Calls `body` with the C view, valid during the call.
    func withSockaddr<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        unsafe withUnsafePointer(to: storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, length) }
        }
    }

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
            if let address = unsafe current.pointee.ai_addr {
                unsafe addresses.append(SocketAddress(copying: address, length: current.pointee.ai_addrlen))
            }
            unsafe entry = current.pointee.ai_next
        }
        return addresses
    }

    /// The wildcard or loopback address of a family.
    static func passive(family: Int32, port: Int, loopback: Bool) -> SocketAddress {
        var result = SocketAddress()
        unsafe withUnsafeMutableBytes(of: &result.storage) { bytes in
            if family == AF_INET6 {
                var address = sockaddr_in6()
                address.sin6_family = sa_family_t(AF_INET6)
                address.sin6_port = in_port_t(port).bigEndian
                unsafe bytes.storeBytes(of: address, as: sockaddr_in6.self)
            } else {
                var address = sockaddr_in()
                address.sin_family = sa_family_t(AF_INET)
                address.sin_port = in_port_t(port).bigEndian
                address.sin_addr.s_addr = loopback ? UInt32(0x7F00_0001).bigEndian : 0
                unsafe bytes.storeBytes(of: address, as: sockaddr_in.self)
            }
        }
        result.length = socklen_t(family == AF_INET6 ? MemoryLayout<sockaddr_in6>.size : MemoryLayout<sockaddr_in>.size)
        return result
    }

    /// The address that a socket is bound to.
    static func local(of descriptor: Int32) -> SocketAddress? {
        var result = SocketAddress()
        result.length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let status = unsafe withUnsafeMutablePointer(to: &result.storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(descriptor, $0, &result.length)
            }
        }
        return status == 0 ? result : nil
    }

    /// Copies at most the storage's size from an address that `getaddrinfo` owns.
    private init(copying address: UnsafePointer<sockaddr>, length: socklen_t) {
        self.length = min(length, socklen_t(MemoryLayout<sockaddr_storage>.size))
        unsafe withUnsafeMutableBytes(of: &storage) {
            unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: Int(self.length)))
        }
    }

    // The two families are read at their fixed offsets: port at 2; address at 4 (IPv4) and 8 (IPv6).
    private func bytes(_ range: Range<Int>) -> [UInt8] {
        unsafe withUnsafeBytes(of: storage) { unsafe Array($0[range]) }
    }

    var port: Int { Int(UInt16(bigEndianBytes: bytes(2..<4))) }

    /// The address as 16 bytes, IPv4 mapped into IPv6: the form of a GID.
    var mappedBytes: [UInt8]? {
        switch family {
        case AF_INET: Array(repeating: 0, count: 10) + [0xFF, 0xFF] + bytes(4..<8)
        case AF_INET6: bytes(8..<24)
        default: nil
        }
    }
}
