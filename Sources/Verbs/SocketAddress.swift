// SPDX-License-Identifier: Apache-2.0
import Glibc

/// An IP address and a port, by which connections are made.
///
/// ```swift
/// let server = SocketAddress("192.0.2.1:7471")     // nil if it is none
/// let everywhere = SocketAddress.any(port: 7471)   // all addresses of this machine
/// ```
///
/// Addresses are numeric; an IPv6 address mapped from IPv4 is that IPv4 address. The corresponding C types are
/// `struct sockaddr_in` and `struct sockaddr_in6`.
public struct SocketAddress: Hashable, Sendable {
    /// The address, an IPv4 address in its mapped form: on RoCE v2 the address of a port is its GID.
    public var address: GID
    /// The port, in host order; zero lets the system choose.
    public var port: UInt16
    /// The index of the network interface that a link-local IPv6 address is on, zero where there is none.
    public var scope: UInt32

    /// An address and a port.
    public init(_ address: GID, port: UInt16, scope: UInt32 = 0) {
        self.address = address
        self.port = port
        self.scope = scope
    }

    /// An address in its text form (`192.0.2.1`, `fe80::1%eth0`, no brackets) and a port; `nil` for what is no address.
    public init?(_ address: some StringProtocol, port: UInt16) {
        let parts = address.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)
        guard let gid = GID(String(parts[0])) else { return nil }
        var scope: UInt32 = 0
        if parts.count == 2 {
            // The name is read during the call.
            let index = unsafe if_nametoindex(String(parts[1]))
            scope = UInt32(parts[1]) ?? index
            guard scope != 0, !gid.isIPv4Mapped else { return nil }
        }
        self.init(gid, port: port, scope: scope)
    }

    /// All addresses of this machine of either family: `[::]`.
    public static func any(port: UInt16 = 0) -> SocketAddress { SocketAddress(.zero, port: port) }

    /// All IPv4 addresses of this machine: `0.0.0.0`.
    public static func anyIPv4(port: UInt16 = 0) -> SocketAddress { SocketAddress(GID(ipv4: 0), port: port) }

    /// Whether it is an IPv4 address.
    public var isIPv4: Bool { address.isIPv4Mapped }
    /// Whether it stands for all addresses of this machine: `0.0.0.0` or `::`.
    public var isWildcard: Bool { address.isZero || address.ipv4 == 0 }
}

// Text.
extension SocketAddress: LosslessStringConvertible {
    /// Reads `192.0.2.1:7471`, `[2001:db8::1]:7471` or `[fe80::1%eth0]:7471`; `nil` for what is none of these.
    public init?(_ description: String) {
        guard let colon = description.lastIndex(of: ":") else { return nil }
        let digits = description[colon...].dropFirst()
        // A number of its own may have a sign.
        guard digits.allSatisfy(\.isNumber), let port = UInt16(digits) else { return nil }
        let host = description[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            self.init(host.dropFirst().dropLast(), port: port)
        } else if host.contains(":") {
            return nil
        } else {
            self.init(host, port: port)
        }
    }

    /// The form that ``init(_:)`` reads, the scope as a number.
    public var description: String {
        if let value = address.ipv4 {
            let bytes = [24, 16, 8, 0].map { String(value >> $0 & 0xFF) }
            return "\(bytes.joined(separator: ".")):\(port)"
        }
        return scope == 0 ? "[\(address)]:\(port)" : "[\(address)%\(scope)]:\(port)"
    }
}

// The C structures.
extension SocketAddress {
    /// Reads an address of either family; `nil` for another family. The memory is that of its family's structure.
    @unsafe package init?(_ native: UnsafePointer<sockaddr>) {
        let raw = unsafe UnsafeRawPointer(native)
        switch Int32(unsafe native.pointee.sa_family) {
        case AF_INET:
            let value = unsafe raw.loadUnaligned(as: sockaddr_in.self)
            self.init(GID(ipv4: UInt32(bigEndian: value.sin_addr.s_addr)), port: UInt16(bigEndian: value.sin_port))
        case AF_INET6:
            let value = unsafe raw.loadUnaligned(as: sockaddr_in6.self)
            // The sixteen bytes of a local variable.
            let bytes = unsafe withUnsafeBytes(of: value.sin6_addr) { unsafe [UInt8]($0) }
            guard let gid = GID(bytes: bytes) else { return nil }
            self.init(gid, port: UInt16(bigEndian: value.sin6_port), scope: value.sin6_scope_id)
        default: return nil
        }
    }

    /// Reads an address of either family; `nil` for another family.
    init?(_ storage: sockaddr_storage) {
        var storage = storage
        let address = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            // Large enough for any family.
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe SocketAddress($0) }
        }
        guard let address else { return nil }
        self = address
    }

    /// Calls with the C structure of its family, which is good during the call.
    package func withNative<R, E>(
        _ body: (UnsafeMutablePointer<sockaddr>, socklen_t) throws(E) -> R
    ) throws(E) -> R {
        var storage = native
        let length = isIPv4 ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
        return try unsafe withUnsafeMutablePointer(to: &storage) { (pointer) throws(E) in
            // A sockaddr_storage may be read as any address; the length is that of the family in it.
            try unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { (pointer) throws(E) in
                try unsafe body(pointer, socklen_t(length))
            }
        }
    }

    private var native: sockaddr_storage {
        var storage = sockaddr_storage()
        // Both structures are smaller than the storage.
        unsafe withUnsafeMutableBytes(of: &storage) { bytes in
            if let value = address.ipv4 {
                var native = sockaddr_in()
                native.sin_family = sa_family_t(AF_INET)
                native.sin_port = port.bigEndian
                native.sin_addr.s_addr = value.bigEndian
                unsafe bytes.storeBytes(of: native, as: sockaddr_in.self)
            } else {
                var native = sockaddr_in6()
                native.sin6_family = sa_family_t(AF_INET6)
                native.sin6_port = port.bigEndian
                native.sin6_scope_id = scope
                unsafe withUnsafeMutableBytes(of: &native.sin6_addr) { unsafe $0.copyBytes(from: address.bytes) }
                unsafe bytes.storeBytes(of: native, as: sockaddr_in6.self)
            }
        }
        return storage
    }
}
