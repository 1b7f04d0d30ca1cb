// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// One receive queue of an interface: its AF_XDP socket and the chunks that frames come in.
@safe struct XDPQueue: ~Copyable {
    /// Frees last: the socket is declared before it, and the kernel keeps the pages as long as it needs them.
    var socket: XDPSocket
    let memory: XDPMemory

    /// One that is lent: its socket, and the file of its memory.
    init(
        lent socket: consuming FileDescriptor, memory file: borrowing FileDescriptor, _ layout: XDPFramesLayout
    ) throws(PacketIOError) {
        let memory = try XDPMemory(file: file, byteCount: layout.receiveByteCount)
        var socket = try XDPSocket(lent: socket, layout)
        Self.offer(layout.receiveCount, layout.chunkByteCount, &socket)
        self.socket = socket
        self.memory = memory
    }

    /// Gives the kernel the chunks to receive into.
    private static func offer(_ count: Int, _ chunkByteCount: Int, _ socket: inout XDPSocket) {
        guard socket.fill.reserve(count) else { return }
        for index in 0..<count { socket.fill.push(UInt64(index * chunkByteCount)) }
        socket.fill.submit()
    }

    /// - Parameters:
    ///   - receiveCount: chunks to receive into, a power of two.
    ///   - transmitCount: chunks behind those, to send from; a power of two.
    init(
        interface: Int, queue: Int, chunkByteCount: Int, receiveCount: Int, transmitCount: Int, takesFragments: Bool
    ) throws(PacketIOError) {
        var options = XDPSocketOptions(interfaceIndex: interface, queue: queue)
        options.chunkByteCount = chunkByteCount
        options.fillCount = receiveCount
        options.receiveCount = receiveCount
        options.transmitCount = transmitCount
        options.takesFragments = takesFragments
        let memory = try XDPMemory(byteCount: chunkByteCount * (receiveCount + transmitCount))
        let area = unsafe UnsafeMutableRawBufferPointer(start: memory.base, count: memory.byteCount)
        var socket = try unsafe XDPSocket(memory: area, options)
        Self.offer(receiveCount, chunkByteCount, &socket)
        SocketOption.growBuffers(socket.descriptor, bytes: 8 << 20)
        self.socket = socket
        self.memory = memory
    }
}
