// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// A GID as the kernel's `sockaddr_in` or `sockaddr_in6`, written straight into the memory that a system call reads.
///
/// The offsets are pinned by assertions in CLinuxNet. All pointers are to at least ``capacity`` bytes that the caller
/// owns for the duration of the call.
enum SocketAddress {
    static let lengthIPv4: UInt32 = 16
    static let lengthIPv6: UInt32 = 28
    /// Room for either.
    static let capacity = 28

    /// Writes an address and returns its length.
    @inline(__always)
    static func write(_ gid: GID, port: UInt16, scope: UInt32, to memory: UnsafeMutableRawPointer) -> UInt32 {
        if gid.isIPv4Mapped {
            unsafe memory.storeBytes(of: UInt16(AF_INET), as: UInt16.self)
            unsafe memory.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
            unsafe memory.storeBytes(of: gid.ipv4.bigEndian, toByteOffset: 4, as: UInt32.self)
            unsafe memory.storeBytes(of: 0, toByteOffset: 8, as: UInt64.self)
            return lengthIPv4
        }
        unsafe memory.storeBytes(of: UInt16(AF_INET6), as: UInt16.self)
        unsafe memory.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
        unsafe memory.storeBytes(of: 0, toByteOffset: 4, as: UInt32.self)
        unsafe memory.storeBytes(of: gid.high.bigEndian, toByteOffset: 8, as: UInt64.self)
        unsafe memory.storeBytes(of: gid.low.bigEndian, toByteOffset: 16, as: UInt64.self)
        unsafe memory.storeBytes(of: scope, toByteOffset: 24, as: UInt32.self)
        return lengthIPv6
    }

    /// Reads what the kernel wrote; `nil` for another family or a short address.
    @inline(__always)
    static func read(_ memory: UnsafeRawPointer, length: UInt32) -> (gid: GID, port: UInt16)? {
        guard length >= 4 else { return nil }
        let family = unsafe Int32(memory.loadUnaligned(as: UInt16.self))
        let port = unsafe UInt16(bigEndian: memory.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
        if family == AF_INET, length >= lengthIPv4 {
            let address = unsafe UInt32(bigEndian: memory.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
            return (GID(ipv4: address), port)
        }
        if family == AF_INET6, length >= lengthIPv6 {
            let high = unsafe UInt64(bigEndian: memory.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            let low = unsafe UInt64(bigEndian: memory.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
            return (GID(high: high, low: low), port)
        }
        return nil
    }
}
