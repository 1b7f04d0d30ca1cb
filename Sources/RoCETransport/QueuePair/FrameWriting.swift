// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Where a packet's payload comes from.
@safe enum PayloadSource {
    case none
    /// Zero bytes.
    case zeroes
    /// Memory that is checked: inline data in a slot, or a range that a remote key opened just now.
    case memory(UnsafeRawPointer)
    /// From an offset of a scatter/gather list.
    case list(ScatterGatherList, offset: UInt64)
}

/// How writing a frame ended.
enum FrameOutcome {
    case written
    /// The transmit queue is full: try again when the link has taken it.
    case queueFull
    /// The payload's memory is not accessible (any more).
    case inaccessible
}

extension TransmitQueue {
    /// Writes a packet with its payload, pad and ICRC.
    ///
    /// The memory is inout, though nothing changes it: the compiler would copy what it is part of to borrow it.
    @inline(__always)
    mutating func write(
        _ packet: RoCEPacket, payload: PayloadSource, path: TransmitPath, memory: inout MemoryTable
    ) -> FrameOutcome {
        let byteCount = packet.byteCount
        guard var frame = reserve(byteCount: byteCount) else { return .queueFull }
        packet.emitHeaders(into: &frame)
        if packet.payloadByteCount > 0 {
            let offset = packet.payloadOffset
            // The frame's bytes, for the time of this copy.
            let isCopied = unsafe frame.withUnsafeMutableBytes { bytes in
                let target = unsafe UnsafeMutableRawBufferPointer(
                    rebasing: bytes[offset..<offset &+ packet.payloadByteCount])
                switch payload {
                case .none: return false
                case .zeroes:
                    unsafe target.initializeMemory(as: UInt8.self, repeating: 0)
                    return true
                case .memory(let source):
                    unsafe target.baseAddress!.copyMemory(from: source, byteCount: target.count)
                    return true
                case .list(let list, let offset):
                    return unsafe list.gather(from: offset, into: target, memory: memory)
                }
            }
            guard isCopied else { return .inaccessible }
            packet.emitPad(into: &frame)
        }
        commit(
            byteCount: byteCount, path: path,
            endsMessage: packet.descriptor.endsMessage)
        return .written
    }
}
