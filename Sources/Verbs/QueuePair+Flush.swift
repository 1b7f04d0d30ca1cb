// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// How far what was written to a peer has got when a FLUSH completes. The corresponding C type is
/// `enum ibv_placement_type`.
public struct FlushPlacement: OptionSet, Hashable, Sendable {
    /// The bits of the C enumeration.
    public let rawValue: UInt32

    /// Placements by their bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Every processor and device of the peer sees it.
    public static let global = FlushPlacement(rawValue: 1)
    /// It survives a loss of the peer's power.
    public static let persistent = FlushPlacement(rawValue: 2)
}

extension QueuePair {
    /// Posts a FLUSH: it completes when all that this queue pair wrote to the range before has got as far as
    /// `placement` says (RC). An RDMA WRITE alone completes when the peer's device has it.
    ///
    /// The peer permits it by ``AccessFlags/flushGlobal`` or ``AccessFlags/flushPersistent``, of its region and of its
    /// queue pair. It takes one of the places of reads and atomics. Devices of the kernel do not post it (see
    /// ``PostError/placementNotCarried``), and rxe as a peer does not answer it: its ICRC of a FLUSH is not the
    /// specification's. The corresponding C function is `ibv_wr_flush` with `IBV_FLUSH_RANGE`.
    public func flush(
        _ remote: RemoteMemory, _ placement: FlushPlacement = .global, id: UInt64 = 0, flags: SendFlags = .signaled
    ) -> PostStatus {
        flush(remote.address, remote.length, remote.rkey, header: placement.rawValue, id, flags)
    }

    /// Posts a FLUSH of the whole region (or window) that a key opens. The corresponding C function is `ibv_wr_flush`
    /// with `IBV_FLUSH_MR`.
    public func flushRegion(
        rkey: UInt32, _ placement: FlushPlacement = .global, id: UInt64 = 0, flags: SendFlags = .signaled
    ) -> PostStatus {
        // Bits 5...4 of the header are the selectivity: 1 is the region.
        flush(0, 0, rkey, header: placement.rawValue | 0x10, id, flags)
    }

    private func flush(
        _ address: UInt64, _ length: UInt64, _ rkey: UInt32, header: UInt32, _ id: UInt64, _ flags: SendFlags
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        guard unsafe sends.pointee.has_placement != 0 else { return .refused(.placementNotCarried) }
        let slot = unsafe slots.pointee.single_send
        unsafe slot.pointee.request.opcode = cverbs_wr_flush
        unsafe slot.pointee.request.num_sge = 0
        unsafe slot.pointee.request.wr.atomic.remote_addr = address
        unsafe slot.pointee.request.wr.atomic.rkey = rkey
        unsafe slot.pointee.request.wr.atomic.compare_add = length
        unsafe slot.pointee.request.wr.atomic.swap = UInt64(header)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(slot.request, record, flags))
    }
}
