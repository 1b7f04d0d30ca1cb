// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Synchronization

/// The memory of one ring of an AF_XDP socket, shared with the kernel. Unmapped when the ring goes.
@safe struct XDPRingMapping: ~Copyable {
    /// Which ring: the option that sets its size, and where it is mapped from.
    enum Ring {
        case fill, completion, receive, transmit

        var option: Int32 {
            switch self {
            case .fill: Int32(CLINUXNET_XDP_UMEM_FILL_RING.rawValue)
            case .completion: Int32(CLINUXNET_XDP_UMEM_COMPLETION_RING.rawValue)
            case .receive: Int32(CLINUXNET_XDP_RX_RING.rawValue)
            case .transmit: Int32(CLINUXNET_XDP_TX_RING.rawValue)
            }
        }

        var pageOffset: Int64 {
            switch self {
            case .fill: clinuxnet_xdp_offset_fill
            case .completion: clinuxnet_xdp_offset_completion
            case .receive: clinuxnet_xdp_offset_receive
            case .transmit: clinuxnet_xdp_offset_transmit
            }
        }
    }

    private let memory: UnsafeMutableRawPointer
    private let byteCount: Int
    let entryCount: Int
    let producer: UnsafeMutablePointer<Atomic<UInt32>>
    let consumer: UnsafeMutablePointer<Atomic<UInt32>>
    let flags: UnsafeMutablePointer<Atomic<UInt32>>
    let entries: UnsafeMutableRawPointer

    /// Makes a ring of a socket.
    /// - Parameter entryCount: a power of two.
    static func make(_ ring: Ring, of descriptor: Int32, entryCount: Int) throws(PacketIOError) {
        precondition(entryCount > 0 && entryCount & (entryCount - 1) == 0, "a ring's size is a power of two")
        try SocketOption.require(
            descriptor, Int32(CLINUXNET_SOL_XDP.rawValue), ring.option, Int32(entryCount), "an XDP ring")
    }

    /// Makes a ring of a socket and maps it.
    init(_ ring: Ring, of descriptor: Int32, entryCount: Int, stride: Int) throws(PacketIOError) {
        try Self.make(ring, of: descriptor, entryCount: entryCount)
        try self.init(made: ring, of: descriptor, entryCount: entryCount, stride: stride)
    }

    /// Maps a ring that the socket has, of this size.
    init(made ring: Ring, of descriptor: Int32, entryCount: Int, stride: Int) throws(PacketIOError) {
        var offsets = xdp_mmap_offsets()
        var length = UInt32(MemoryLayout<xdp_mmap_offsets>.size)
        guard
            unsafe getsockopt(
                descriptor, Int32(CLINUXNET_SOL_XDP.rawValue), Int32(CLINUXNET_XDP_MMAP_OFFSETS.rawValue), &offsets,
                &length) == 0
        else { throw SystemError.last("getsockopt(XDP_MMAP_OFFSETS)") }
        let place =
            switch ring {
            case .fill: offsets.fr
            case .completion: offsets.cr
            case .receive: offsets.rx
            case .transmit: offsets.tx
            }
        let byteCount = Int(place.desc) + entryCount * stride
        guard let memory = unsafe clinuxnet_map_ring(descriptor, byteCount, ring.pageOffset) else {
            throw SystemError.last("mmap(XDP ring)")
        }
        unsafe self.memory = memory
        self.byteCount = byteCount
        self.entryCount = entryCount
        unsafe producer = (memory + Int(place.producer)).assumingMemoryBound(to: Atomic<UInt32>.self)
        unsafe consumer = (memory + Int(place.consumer)).assumingMemoryBound(to: Atomic<UInt32>.self)
        unsafe flags = (memory + Int(place.flags)).assumingMemoryBound(to: Atomic<UInt32>.self)
        unsafe entries = memory + Int(place.desc)
    }

    /// Memory like that of a ring with one entry, which no kernel looks at: for a socket that has none.
    init(absentOfStride stride: Int) throws(PacketIOError) {
        byteCount = 4096
        guard let memory = unsafe clinuxnet_map_memory(byteCount) else { throw SystemError.last("mmap(ring)") }
        unsafe self.memory = memory
        entryCount = 1
        unsafe producer = memory.assumingMemoryBound(to: Atomic<UInt32>.self)
        unsafe consumer = (memory + 64).assumingMemoryBound(to: Atomic<UInt32>.self)
        unsafe flags = (memory + 128).assumingMemoryBound(to: Atomic<UInt32>.self)
        precondition(stride <= 64, "an entry fits behind the words")
        unsafe entries = memory + 192
    }

    deinit { unsafe _ = munmap(memory, byteCount) }
}
