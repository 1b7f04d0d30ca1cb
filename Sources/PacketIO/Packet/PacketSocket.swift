// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// An AF_PACKET socket without a ring: it locks no memory, and costs a copy by the kernel and a share of a system call for each frame.
@safe package struct PacketSocket: ~Copyable {
    private let socket: FileDescriptor
    private var messages = FrameMessages()

    /// Receives every frame of an interface, or those that the socket is made for.
    ///
    /// - Parameter socket: `nil` to open one.
    /// - Throws: EPERM without CAP_NET_RAW.
    package init(
        interface index: Int, bufferBytes: Int = 8 << 20, socket given: consuming UnboundPacketSocket? = nil
    ) throws(PacketIOError) {
        let socket = try UnboundPacketSocket.file(given)
        let number = socket.number
        let level = Int32(CLINUXNET_SOL_PACKET.rawValue)
        SocketOption.set(number, level, Int32(CLINUXNET_PACKET_IGNORE_OUTGOING.rawValue), 1)
        try SocketOption.require(number, level, Int32(CLINUXNET_PACKET_VNET_HDR.rawValue), 1, "PACKET_VNET_HDR")
        try SocketOption.require(number, level, Int32(CLINUXNET_PACKET_AUXDATA.rawValue), 1, "PACKET_AUXDATA")
        TimeNote.ask(number)
        SocketOption.growBuffers(number, bytes: bufferBytes)
        guard clinuxnet_packet_bind(number, Int32(index), UInt16(CLINUXNET_ETH_P_ALL.rawValue)) == 0 else {
            throw SystemError.last("bind(AF_PACKET)")
        }
        self.socket = socket
    }

    /// Readable when a frame is there.
    package var descriptor: Int32 { socket.number }

    /// Frames that the socket's buffer had no room for since the last time this was asked.
    package var newlyDropped: UInt64 {
        var native = tpacket_stats()
        var length = UInt32(MemoryLayout<tpacket_stats>.size)
        let result = unsafe getsockopt(
            socket.number, Int32(CLINUXNET_SOL_PACKET.rawValue), Int32(CLINUXNET_PACKET_STATISTICS.rawValue), &native,
            &length)
        return result == 0 ? UInt64(native.tp_drops) : 0
    }

    /// Takes frames as they were on the wire, without blocking; valid until the next call.
    package mutating func receive(into frames: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int {
        let count = messages.receive(from: socket.number, limit: limit)
        for index in 0..<count { unsafe (frames + index).initialize(to: frame(index)) }
        return count
    }

    private func frame(_ index: Int) -> ReceivedFrame {
        let payload = unsafe messages.payload(index)
        guard let base = payload.baseAddress, payload.count >= SegmentationNote.byteCount + 14 else {
            return unsafe ReceivedFrame(UnsafeRawBufferPointer(start: nil, count: 0))
        }
        let note = unsafe SegmentationNote(reading: base)
        let bytes = unsafe UnsafeMutableRawBufferPointer(
            start: base + SegmentationNote.byteCount, count: payload.count - SegmentationNote.byteCount)
        var frame = unsafe ReceivedFrame(UnsafeRawBufferPointer(bytes))
        frame.isCut = messages.isCut(index)
        unsafe frame.apply(note, to: bytes)
        var tag: (value: UInt16, type: UInt16)?
        unsafe messages.forEachNote(index) { level, type, note in
            switch (level, type) {
            case (Int32(CLINUXNET_SOL_PACKET.rawValue), Int32(CLINUXNET_PACKET_AUXDATA.rawValue)):
                // struct tpacket_auxdata: status at 0, tp_vlan_tci at 16, tp_vlan_tpid at 18.
                let status = unsafe note.loadUnaligned(as: UInt32.self)
                guard status & 0x10 != 0 else { return }
                let kind = unsafe note.loadUnaligned(fromByteOffset: 18, as: UInt16.self)
                tag = unsafe (
                    note.loadUnaligned(fromByteOffset: 16, as: UInt16.self), status & 0x40 != 0 ? kind : 0x8100
                )
            case (SOL_SOCKET, TimeNote.type): frame.timestamp = unsafe TimeNote.read(note)
            default: break
            }
        }
        if let tag { unsafe frame.insertTag(tag.value, type: tag.type, in: bytes) }
        return frame
    }
}
