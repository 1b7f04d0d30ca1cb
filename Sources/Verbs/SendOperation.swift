// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// What a work request of the send queue does. The corresponding C type is `enum ibv_wr_opcode` with the union of
/// `struct ibv_send_wr`.
///
/// A constant case costs nothing over the C idiom: after inlining only its own fields are stored.
@frozen public enum SendOperation: Hashable, Sendable {
    case send
    /// Delivers 32 bits with the message, in the receiver's completion.
    case sendWithImmediate(UInt32)
    /// Ends a memory window (or key) of the receiver along with the message (RC).
    case sendWithInvalidate(rkey: UInt32)
    /// Writes the buffer to the peer's memory (RC, UC).
    case write(to: RemoteMemory)
    /// Writes, then consumes a receive of the peer, whose completion has the 32 bits.
    case writeWithImmediate(to: RemoteMemory, UInt32)
    /// Fills the buffer from the peer's memory (RC).
    case read(from: RemoteMemory)
    /// Stores `desired` where the peer's eight bytes equal `expected`; the buffer gets what was there, in host order (RC).
    case compareAndSwap(at: RemoteMemory, expected: UInt64, desired: UInt64)
    /// Adds to the peer's eight bytes; the buffer gets what was there before, in host order (RC).
    case fetchAndAdd(at: RemoteMemory, UInt64)
    /// Stores the buffer's eight bytes in the peer's memory at once, behind all that was written before: a reader sees
    /// all of them or none (RC). The address is a multiple of 8. Needs a device that posts it (the software device
    /// does), and a peer that takes it (the software device, rxe of Linux 6.2 and later).
    case atomicWrite(to: RemoteMemory)

    /// Stores the operation's own fields of a work request.
    @inlinable @inline(__always) func store(in request: UnsafeMutablePointer<ibv_send_wr>) {
        switch self {
        case .send:
            unsafe request.pointee.opcode = .IBV_WR_SEND
        case .sendWithImmediate(let value):
            unsafe request.pointee.opcode = .IBV_WR_SEND_WITH_IMM
            unsafe request.pointee.imm_data = value.bigEndian
        case .sendWithInvalidate(let rkey):
            unsafe request.pointee.opcode = .IBV_WR_SEND_WITH_INV
            unsafe request.pointee.invalidate_rkey = rkey
        case .write(let remote):
            unsafe request.pointee.opcode = .IBV_WR_RDMA_WRITE
            unsafe request.pointee.wr.rdma.remote_addr = remote.address
            unsafe request.pointee.wr.rdma.rkey = remote.rkey
        case .writeWithImmediate(let remote, let value):
            unsafe request.pointee.opcode = .IBV_WR_RDMA_WRITE_WITH_IMM
            unsafe request.pointee.wr.rdma.remote_addr = remote.address
            unsafe request.pointee.wr.rdma.rkey = remote.rkey
            unsafe request.pointee.imm_data = value.bigEndian
        case .read(let remote):
            unsafe request.pointee.opcode = .IBV_WR_RDMA_READ
            unsafe request.pointee.wr.rdma.remote_addr = remote.address
            unsafe request.pointee.wr.rdma.rkey = remote.rkey
        case .compareAndSwap(let remote, let expected, let desired):
            unsafe request.pointee.opcode = .IBV_WR_ATOMIC_CMP_AND_SWP
            unsafe request.pointee.wr.atomic.remote_addr = remote.address
            unsafe request.pointee.wr.atomic.rkey = remote.rkey
            unsafe request.pointee.wr.atomic.compare_add = expected
            unsafe request.pointee.wr.atomic.swap = desired
        case .fetchAndAdd(let remote, let addend):
            unsafe request.pointee.opcode = .IBV_WR_ATOMIC_FETCH_AND_ADD
            unsafe request.pointee.wr.atomic.remote_addr = remote.address
            unsafe request.pointee.wr.atomic.rkey = remote.rkey
            unsafe request.pointee.wr.atomic.compare_add = addend
            unsafe request.pointee.wr.atomic.swap = 0
        case .atomicWrite(let remote):
            unsafe request.pointee.opcode = .IBV_WR_ATOMIC_WRITE
            unsafe request.pointee.wr.rdma.remote_addr = remote.address
            unsafe request.pointee.wr.rdma.rkey = remote.rkey
        }
    }

    /// Why a queue does not carry the operation; `nil` where it does.
    @inlinable @inline(__always) func refusal(by queue: UnsafeMutablePointer<cverbs_queue>) -> PostError? {
        guard case .atomicWrite = self else { return nil }
        return unsafe queue.pointee.has_placement != 0 ? nil : .placementNotCarried
    }

    /// What is wrong with a buffer of so many bytes, before the provider is asked.
    @inlinable @inline(__always) func check(length: UInt64) -> PostError? {
        switch self {
        case .send, .sendWithImmediate, .sendWithInvalidate: return nil
        case .write(let remote), .writeWithImmediate(let remote, _), .read(let remote):
            return length <= remote.length ? nil : .remoteTooShort
        case .compareAndSwap(let remote, _, _), .fetchAndAdd(let remote, _), .atomicWrite(let remote):
            if length != 8 { return .atomicLength }
            return remote.length >= 8 ? nil : .remoteTooShort
        }
    }
}

/// How a work request of the send queue is carried out. The corresponding C type is `enum ibv_send_flags`.
@frozen public struct SendFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
    /// The bits of `enum ibv_send_flags`.
    public let rawValue: UInt32

    /// Flags by their bits.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Waits for the reads and atomics before it.
    public static var fenced: SendFlags { @inlinable get { SendFlags(rawValue: 1) } }
    /// Completes visibly. Without it there is a completion only on error; the queue's accounts close with the next
    /// request that has it, and the library asks for one by itself before they could fill the queue.
    public static var signaled: SendFlags { @inlinable get { SendFlags(rawValue: 2) } }
    /// Wakes a receiver that waits for solicited completions only.
    public static var solicited: SendFlags { @inlinable get { SendFlags(rawValue: 4) } }
}
