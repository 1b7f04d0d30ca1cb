// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// The abstract Unix socket names by which processes that share an address find each other.
///
/// `swift-verbs/<address>/<slot>` is the mailbox of the process that holds the slot, `swift-verbs/<address>/steering`
/// the lock of the one that learns the steering table, `swift-verbs/<address>/service/<id>` the mailbox for requests to
/// a service. Abstract names belong to the network namespace, as the addresses
/// do, and the kernel frees them when the socket closes, however its process ends. They have no permissions: whoever
/// receives checks the sender's credentials.
///
/// Stored as a ready `sockaddr_un`, so that addressing another slot is three stores.
@safe struct SlotName: ~Copyable {
    // sockaddr_un's.
    private static let capacity = 110
    private let memory: UnsafeMutableRawPointer
    private let prefixLength: Int

    /// A `sockaddr_un` for system calls; ``length`` bytes of it count.
    var address: UnsafeRawPointer { unsafe UnsafeRawPointer(memory) }
    private(set) var length: UInt32

    init(address: GID) {
        unsafe memory = .allocate(byteCount: Self.capacity, alignment: 8)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: Self.capacity)
        unsafe memory.storeBytes(of: UInt16(AF_UNIX), as: UInt16.self)
        // Offset 2 is sun_path, whose first byte is 0 in an abstract name.
        var end = 3
        // At most 12 + 45 + 1 bytes.
        for byte in "swift-verbs/\(address.addressText)/".utf8.prefix(Self.capacity - 28) {
            unsafe memory.storeBytes(of: byte, toByteOffset: end, as: UInt8.self)
            end += 1
        }
        prefixLength = end
        length = UInt32(end)
    }

    deinit { unsafe memory.deallocate() }

    /// Makes this the name of a slot, in three decimal digits.
    mutating func setSlot(_ slot: UInt8) {
        unsafe memory.storeBytes(of: 48 + slot / 100, toByteOffset: prefixLength, as: UInt8.self)
        unsafe memory.storeBytes(of: 48 + slot / 10 % 10, toByteOffset: prefixLength + 1, as: UInt8.self)
        unsafe memory.storeBytes(of: 48 + slot % 10, toByteOffset: prefixLength + 2, as: UInt8.self)
        length = UInt32(prefixLength + 3)
    }

    /// Makes this the name of a service, in hexadecimal digits.
    mutating func setService(_ service: ServiceID) {
        var end = prefixLength
        for byte in "service/\(String(service.rawValue, radix: 16))".utf8 {
            unsafe memory.storeBytes(of: byte, toByteOffset: end, as: UInt8.self)
            end += 1
        }
        length = UInt32(end)
    }

    /// Makes this the name of the steering lock.
    mutating func setSteeringLock() {
        var end = prefixLength
        for byte in "steering".utf8 {
            unsafe memory.storeBytes(of: byte, toByteOffset: end, as: UInt8.self)
            end += 1
        }
        length = UInt32(end)
    }

    /// Binds a new datagram socket to this name; `nil` if a living process has it.
    borrowing func bindSocket() throws(PacketIOError) -> FileDescriptor? {
        let socket = try FileDescriptor(
            socket(AF_UNIX, clinuxnet_sock_datagram, 0), call: "socket(AF_UNIX)")
        guard unsafe clinuxnet_bind(socket.number, address, length) != 0 else { return socket }
        guard clinuxnet_errno() == EADDRINUSE else { throw SystemError.last("bind(AF_UNIX)") }
        return nil
    }

    /// Whether a living process has this name. `probe` is an unbound Unix datagram socket of the caller's.
    borrowing func isTaken(probe: Int32) -> Bool {
        unsafe clinuxnet_connect(probe, address, length) == 0
    }
}
