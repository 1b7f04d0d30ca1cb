// SPDX-License-Identifier: Apache-2.0
import Glibc

// What datagram rsockets say to each other: the protocol of rdma-core's rsockets (librdmacm/docs/rsocket, "Datagram Overview").
// Datagrams go over UDP, behind a header that names the sender's queue pair, until each end knows the other's; then from queue
// pair to queue pair, behind one that names the sender's address.

/// An IPv4 or IPv6 address with its port, as the key of what is known of it.
struct DatagramAddress: Hashable, Sendable {
    let family: Int32
    /// In network byte order, as all of it.
    var port: UInt16
    /// The 16 bytes of IPv6; of IPv4 the first 4 of them.
    private let first: UInt64
    private let second: UInt64
    /// The interface of a link-local address of IPv6.
    private var scope: UInt32

    /// - Returns: `nil` for another family, or fewer bytes than its addresses have.
    init?(_ address: UnsafePointer<sockaddr>?, _ length: socklen_t) {
        guard let address = unsafe address, Int(length) >= MemoryLayout<sockaddr_in>.size else { return nil }
        let raw = unsafe UnsafeRawPointer(address)
        family = unsafe Int32(address.pointee.sa_family)
        // Both families have the port here.
        port = unsafe raw.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
        switch family {
        case AF_INET:
            first = unsafe UInt64(raw.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
            second = 0
            scope = 0
        case AF_INET6 where Int(length) >= MemoryLayout<sockaddr_in6>.size:
            first = unsafe raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
            second = unsafe raw.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
            scope = unsafe raw.loadUnaligned(fromByteOffset: 24, as: UInt32.self)
        default: return nil
        }
    }

    init?(_ storage: sockaddr_storage) {
        var storage = storage
        let made = unsafe withUnsafePointer(to: &storage) { pointer in
            unsafe DatagramAddress(
                UnsafeRawPointer(pointer).assumingMemoryBound(to: sockaddr.self),
                socklen_t(MemoryLayout<sockaddr_in6>.size))
        }
        guard let made else { return nil }
        self = made
    }

    /// The sender that a header between queue pairs names, and what is in front of the data; `nil` where it is none.
    init?(header bytes: UnsafeRawBufferPointer, byteCount: inout Int) {
        guard bytes.count >= Self.headerByteCount(AF_INET) else { return nil }
        switch unsafe (bytes[0], Int(bytes[1])) {
        case (4, Self.headerByteCount(AF_INET)): family = AF_INET
        case (6, Self.headerByteCount(AF_INET6)) where bytes.count >= Self.headerByteCount(AF_INET6): family = AF_INET6
        default: return nil
        }
        port = unsafe bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
        first =
            unsafe family == AF_INET
            ? UInt64(bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
            : bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        second = unsafe family == AF_INET ? 0 : bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
        scope = 0
        byteCount = Self.headerByteCount(family)
    }

    /// Version, length, port, and the address, of IPv6 behind a flow label.
    static func headerByteCount(_ family: Int32) -> Int { family == AF_INET ? 8 : 24 }

    /// Version 4 or 6.
    var version: UInt8 { family == AF_INET ? 4 : 6 }

    /// The address alone: 4 or 16 bytes.
    var bytes: [UInt8] {
        unsafe withUnsafeBytes(of: (first, second)) { unsafe Array($0.prefix(family == AF_INET ? 4 : 16)) }
    }

    /// The header between queue pairs of what this address sends.
    var header: [UInt8] {
        let label: [UInt8] = family == AF_INET ? [] : [0, 0, 0, 0]
        return unsafe [version, UInt8(Self.headerByteCount(family))] + withUnsafeBytes(of: port) { unsafe Array($0) }
            + label
            + bytes
    }

    var isWildcard: Bool { first == 0 && second == 0 }

    /// The same at the interface of another, if it is link-local: a header between queue pairs does not name that.
    func at(_ other: DatagramAddress) -> DatagramAddress {
        // fe80::/10
        let isLinkLocal = family == AF_INET6 && UInt64(bigEndian: first) >> 54 == 0x3FA
        var result = self
        if isLinkLocal { result.scope = other.scope }
        return result
    }

    /// Runs a call with the address as C has it.
    func withAddress<Result>(_ body: (UnsafeMutablePointer<sockaddr>, socklen_t) -> Result) -> Result {
        var storage = storage
        let size = family == AF_INET ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
        return unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe body(UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: sockaddr.self), socklen_t(size))
        }
    }

    var storage: sockaddr_storage {
        var storage = sockaddr_storage()
        storage.ss_family = sa_family_t(family)
        unsafe withUnsafeMutableBytes(of: &storage) { bytes in
            unsafe bytes.storeBytes(of: port, toByteOffset: 2, as: UInt16.self)
            if family == AF_INET {
                unsafe bytes.storeBytes(of: UInt32(truncatingIfNeeded: first), toByteOffset: 4, as: UInt32.self)
            } else {
                unsafe bytes.storeBytes(of: first, toByteOffset: 8, as: UInt64.self)
                unsafe bytes.storeBytes(of: second, toByteOffset: 16, as: UInt64.self)
                unsafe bytes.storeBytes(of: scope, toByteOffset: 24, as: UInt32.self)
            }
        }
        return storage
    }
}

/// What is in front of a datagram over UDP.
struct DatagramGreeting: Equatable {
    enum Kind: UInt8 {
        /// Data follows; its sender does not know the queue pair to send to.
        case data = 0
        /// Nothing follows: it answers the above.
        case control = 7
    }

    private static let mark: UInt8 = 0x55

    let kind: Kind
    /// The sender's queue pair.
    let queuePair: UInt32
    /// Of header and address.
    let byteCount: Int

    static func byteCount(_ family: Int32) -> Int { family == AF_INET ? 16 : 28 }

    /// - Returns: `nil` for what is no greeting over that family.
    init?(_ bytes: UnsafeRawBufferPointer, family: Int32) {
        byteCount = Self.byteCount(family)
        guard unsafe bytes.count >= byteCount && bytes.prefix(4).allSatisfy({ $0 == Self.mark }),
            unsafe bytes[4] == (family == AF_INET ? 4 : 6), unsafe Int(bytes[6]) == byteCount,
            let kind = unsafe Kind(rawValue: bytes[5])
        else { return nil }
        self.kind = kind
        queuePair = unsafe UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self)) & 0xFF_FFFF
    }

    /// The bytes of one from an address of ours.
    static func bytes(_ kind: Kind, queuePair: UInt32, from address: DatagramAddress) -> [UInt8] {
        let number = (0..<4).map { UInt8(truncatingIfNeeded: queuePair >> (24 - 8 * $0)) }
        return [mark, mark, mark, mark, address.version, kind.rawValue, UInt8(byteCount(address.family)), 0] + number
            + address.bytes
    }
}
