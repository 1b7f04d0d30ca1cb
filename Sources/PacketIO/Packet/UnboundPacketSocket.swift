// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// An AF_PACKET socket that receives nothing yet: one that this process opened, or that another passed to it.
///
/// Only opening one needs a privilege. Whoever has it may bind it to any interface of its network namespace, give it a ring, and send:
/// what it can receive is bounded by a locked filter alone.
package struct UnboundPacketSocket: ~Copyable {
    let file: FileDescriptor

    /// Opens a socket.
    /// - Throws: EPERM without CAP_NET_RAW.
    package init() throws(PacketIOError) {
        // Protocol 0: nothing is received before it is bound.
        file = try FileDescriptor(
            CLinuxNet.socket(AF_PACKET, clinuxnet_sock_raw, 0), call: "socket(AF_PACKET)")
    }

    /// Takes one over that was received.
    package init(taking descriptor: Int32) {
        file = FileDescriptor(taking: descriptor)
    }

    /// For calls of the owner.
    package var descriptor: Int32 { file.number }

    /// The number by which the kernel lists it (``PacketSocketList``); no other socket has it while this one is open anywhere.
    package var inode: UInt64? {
        var status = stat()
        return unsafe fstat(file.number, &status) == 0 ? UInt64(status.st_ino) : nil
    }

    /// Attaches a filter that nobody can take off or change, not even with a privilege.
    package borrowing func lock(_ filter: [SteeringProgram.Instruction]) throws(PacketIOError) {
        guard PacketFilter.attach(filter, to: file.number) else {
            throw SystemError.last("setsockopt(SO_ATTACH_FILTER)")
        }
        try SocketOption.require(file.number, SOL_SOCKET, clinuxnet_so_lock_filter, 1, "SO_LOCK_FILTER")
    }

    private consuming func takeFile() -> FileDescriptor { file }

    /// The socket that was given, or a new one.
    static func file(_ given: consuming UnboundPacketSocket?) throws(PacketIOError) -> FileDescriptor {
        switch consume given {
        case .some(let socket): return socket.takeFile()
        case nil: return try UnboundPacketSocket().takeFile()
        }
    }
}
