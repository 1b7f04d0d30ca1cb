// SPDX-License-Identifier: Apache-2.0
import VerbsABI

// The way out: the handles of libibverbs behind the objects, for verbs that this library does not have (direct verbs of
// a vendor, thread domains, flow rules). A handle is good as long as its object; on a device of the kernel it may be
// given to any function of libibverbs, on an embedded device only to what goes through the context's operations.
//
// What is posted through a handle has a `wr_id` of its own, which the polls of this library take for one of theirs: do
// not poll such work with ``CompletionQueue``. Handles must not be destroyed, and a queue pair must not be moved between
// states, behind the object's back.

extension Context {
    /// The `struct ibv_context` behind the device.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(path.context) }
}

extension ProtectionDomain {
    /// The `struct ibv_pd` behind the domain.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(native) }
}

extension MemoryRegion {
    /// The `struct ibv_mr` behind the region.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(native) }
}

extension MemoryWindow {
    /// The `struct ibv_mw` behind the window.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(native) }
}

extension AddressHandle {
    /// The `struct ibv_ah` behind the address handle.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(native) }
}

extension CompletionChannel {
    /// The `struct ibv_comp_channel` behind the channel.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(native) }
}

extension CompletionQueue {
    /// The `struct ibv_cq` behind the queue.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(native) }
}

extension QueuePair {
    /// The `struct ibv_qp` behind the queue pair.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(native) }
}

extension SharedReceiveQueue {
    /// The `struct ibv_srq` behind the queue.
    @unsafe public var nativeHandle: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(native) }
}
