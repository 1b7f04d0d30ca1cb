// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Integer socket options.
enum SocketOption {
    /// Sets an option; `false` where the kernel refuses.
    @discardableResult
    static func set(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) -> Bool {
        var value = value
        return unsafe setsockopt(descriptor, level, option, &value, 4) == 0
    }

    static func get(_ descriptor: Int32, _ level: Int32, _ option: Int32) -> Int32? {
        var value: Int32 = 0
        var length: UInt32 = 4
        return unsafe getsockopt(descriptor, level, option, &value, &length) == 0 ? value : nil
    }

    /// What is assumed where no socket of ours receives: the kernel's usual default.
    static let defaultReceiveBuffer = 212_992

    /// Sets an option that the link cannot do without.
    static func require(
        _ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32, _ name: StaticString
    ) throws(PacketIOError) {
        guard set(descriptor, level, option, value) else { throw SystemError.last("setsockopt(\(name))") }
    }

    /// Grows both buffers, past the limit of `net.core.rmem_max` with the privilege, up to it without.
    static func growBuffers(_ descriptor: Int32, bytes: Int) {
        let bytes = Int32(clamping: bytes)
        if !set(descriptor, SOL_SOCKET, clinuxnet_so_rcvbufforce, bytes) {
            set(descriptor, SOL_SOCKET, SO_RCVBUF, bytes)
        }
        if !set(descriptor, SOL_SOCKET, clinuxnet_so_sndbufforce, bytes) {
            set(descriptor, SOL_SOCKET, SO_SNDBUF, bytes)
        }
    }

    /// Bytes that the receive buffer holds by the kernel's accounting, which charges each packet's overhead too (and
    /// reports twice what was asked for).
    static func receiveBuffer(_ descriptor: Int32) -> Int { Int(get(descriptor, SOL_SOCKET, SO_RCVBUF) ?? 0) }
}
