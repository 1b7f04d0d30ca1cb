// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// The AF_XDP socket of one receive queue, made for another process.
///
/// It is bound, and has no transmit ring, which the kernel gives to no socket that is bound: so whoever has it can receive what a
/// program sends to it, and nothing else; not send, nor bind it again. Its memory is a sealed file that both have pages of. The kernel
/// copies what the program sends there: with zero copy the adapter would write every frame of the queue to it.
package final class XDPLoan {
    private let socket: FileDescriptor
    private let memory: FileDescriptor

    /// - Throws: EBUSY, at once, where another socket has the queue; ENOBUFS where the memory is past RLIMIT_MEMLOCK.
    package init(interface: Int, queue: Int, _ layout: XDPFramesLayout) throws(PacketIOError) {
        socket = try FileDescriptor(clinuxnet_xdp_socket(), call: "socket(AF_XDP)")
        memory = try FileDescriptor(
            unsafe clinuxnet_sealed_memory("frames", Int64(layout.receiveByteCount)), call: "memfd_create")
        // This process needs it no longer than the kernel takes to pin the pages.
        let mapping = try XDPMemory(file: memory, byteCount: layout.receiveByteCount)
        var options = XDPSocketOptions(interfaceIndex: interface, queue: queue)
        options.chunkByteCount = layout.chunkByteCount
        options.allowsZeroCopy = false
        options.takesFragments = layout.takesFragments
        let area = unsafe UnsafeMutableRawBufferPointer(start: mapping.base, count: mapping.byteCount)
        try unsafe XDPSocket.register(area, options, socket.number)
        try XDPRingMapping.make(.fill, of: socket.number, entryCount: layout.receiveCount)
        try XDPRingMapping.make(.completion, of: socket.number, entryCount: 1)
        try XDPRingMapping.make(.receive, of: socket.number, entryCount: layout.receiveCount)
        try XDPSocket.bind(socket.number, options, isPatient: false)
    }

    /// The socket, for a map, and to be passed.
    package var descriptor: Int32 { socket.number }
    /// The file of its memory, to be passed.
    package var memoryDescriptor: Int32 { memory.number }
}

/// How frames lie in the memory of AF_XDP sockets.
package struct XDPFramesLayout: Sendable, Equatable {
    /// The longest frame, with its Ethernet header and two VLAN tags.
    package let frameByteCountMax: Int
    /// Whether frames may lie in several chunks.
    package let takesFragments: Bool
    /// 2048 or 4096.
    package let chunkByteCount: Int
    /// Chunks of a queue to receive into, a power of two.
    package let receiveCount: Int
    /// Queues that are served.
    package let queueCount: Int

    /// The most queues.
    package static let queueCountMax = 64

    /// Bytes of those of a queue.
    package var receiveByteCount: Int { chunkByteCount * receiveCount }

    /// Reads what ``text`` writes; `nil` for what cannot be.
    package init?(_ text: String) {
        let numbers = text.split(separator: " ").compactMap { Int($0) }
        guard numbers.count == 5, (14...131_072).contains(numbers[0]), (0...1).contains(numbers[1]),
            numbers[2] == 2048 || numbers[2] == 4096, (1...1 << 20).contains(numbers[3]),
            numbers[3] & (numbers[3] - 1) == 0, (1...Self.queueCountMax).contains(numbers[4])
        else { return nil }
        self.init(
            frameByteCountMax: numbers[0], takesFragments: numbers[1] == 1, chunkByteCount: numbers[2],
            receiveCount: numbers[3], queueCount: numbers[4])
    }

    init(frameByteCountMax: Int, takesFragments: Bool, chunkByteCount: Int, receiveCount: Int, queueCount: Int) {
        self.frameByteCountMax = frameByteCountMax
        self.takesFragments = takesFragments
        self.chunkByteCount = chunkByteCount
        self.receiveCount = receiveCount
        self.queueCount = queueCount
    }

    /// For another process.
    package var text: String {
        "\(frameByteCountMax) \(takesFragments ? 1 : 0) \(chunkByteCount) \(receiveCount) \(queueCount)"
    }
}
