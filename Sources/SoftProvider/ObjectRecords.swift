// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Synchronization
import VerbsABI

// What stands behind each C structure that a program holds. The context outlives all of them: `ibv_close_device`
// refuses while there are any, so the references to it need not be counted.

@safe struct ProtectionDomainRecord: ~Copyable {
    let context: Unmanaged<SoftContext>
    /// The number that the engine compares; unique in the context.
    let domain: UInt32
    /// Of a parent domain: what it was made of, which lives as long as it.
    var parent: UnsafeMutablePointer<ibv_pd>? = nil
    var thread: UnsafeMutablePointer<ibv_td>? = nil
    /// Objects made in this domain; a domain that has some cannot be deallocated.
    let users = Atomic<Int>(0)
}

struct ThreadDomainRecord: ~Copyable {
    /// Parent domains made with it.
    let users = Atomic<Int>(0)
}

@safe struct CompletionQueueRecord: ~Copyable {
    let context: Unmanaged<SoftContext>
    let queue: CompletionQueue
    /// Orders the polls of several threads.
    let pollLock = PollLock()
    /// Queue pairs that complete here; a queue that has some cannot be destroyed.
    let users = Atomic<Int>(0)
    /// Events on the channel, guarded by the channel's lock: not yet read, read, and the next queue in its list.
    var pendingEvents: UInt32 = 0
    var deliveredEvents: UInt32 = 0
    var nextWaiting: UnsafeMutablePointer<ibv_cq>? = nil
    /// Asynchronous events read so far; each of them is to be acknowledged before the queue goes.
    let deliveredAsynchronousEvents = Atomic<UInt32>(0)
    /// What `ibv_cq_ex` reads, and when it was taken (CLOCK_MONOTONIC, nanoseconds); guarded by the lock of polls.
    var current = CompletionEntry(id: 0, status: .success, operation: .send, qpn: 0)
    var takenAt: UInt64 = 0

    init(context: Unmanaged<SoftContext>, queue: CompletionQueue) {
        unsafe self.context = unsafe context
        self.queue = queue
    }
}

/// An XRC domain: what targets and shared receive queues of XRC must have in common.
@safe struct XRCDomainRecord: ~Copyable {
    /// The number that the engine compares.
    let number: UInt32
    /// The file that it was opened by; `nil` for a domain of nobody else's.
    let file: FileIdentity?
    /// Targets and shared receive queues of the domain; one that has some cannot be closed.
    let users = Atomic<Int>(0)
}

@safe struct SharedReceiveQueueRecord: ~Copyable {
    let context: Unmanaged<SoftContext>
    let queue: ReceiveQueue
    /// What one of XRC has besides; `nil` for the others.
    var extended: ExtendedPart? = nil
    let postLock = SpinLock()
    let users = Atomic<Int>(0)
    let deliveredAsynchronousEvents = Atomic<UInt32>(0)
}

extension SharedReceiveQueueRecord {
    @safe struct ExtendedPart {
        /// What peers name it by.
        let number: UInt32
        let domain: UnsafeMutablePointer<ibv_xrcd>
        let completionQueue: UnsafeMutablePointer<ibv_cq>
    }
}

@safe struct QueuePairRecord: ~Copyable {
    let context: Unmanaged<SoftContext>
    let qpn: QPN
    let sendQueue: SendQueue
    /// The queue pair's own receive queue; not used by one that takes its requests from a shared receive queue.
    let receiveQueue: ReceiveQueue
    let sendLock = SpinLock()
    let receiveLock = SpinLock()
    let deliveredAsynchronousEvents = Atomic<UInt32>(0)
    /// Flows that lead here; a queue pair that has some cannot be destroyed.
    let flows = Atomic<Int>(0)
    /// What `ibv_query_qp` gives back of the creation.
    let capabilities: ibv_qp_cap
    let signalsAll: Bool
    /// Of a target of XRC.
    var xrcDomain: UnsafeMutablePointer<ibv_xrcd>? = nil
    /// What `ibv_qp_ex` builds; guarded by the lock of posts.
    var batch = WorkRequestBatch()
}

/// What a region was registered with and its C structure does not say.
@safe struct MemoryRegionRecord {
    var iova: UInt64
    var access: UInt32
    /// The device memory that it is in, which then lives as long as it.
    var deviceMemory: UnsafeMutablePointer<ibv_dm>? = nil

    init(iova: UInt64, access: UInt32) {
        self.iova = iova
        self.access = access
    }
}

@safe struct DeviceMemoryRecord: ~Copyable {
    let bytes: UnsafeMutableRawPointer
    let byteCount: Int
    /// Regions in it.
    let users = Atomic<Int>(0)

    deinit { unsafe bytes.deallocate() }
}

@safe struct AddressHandleRecord: ~Copyable {
    let context: Unmanaged<SoftContext>
    let vector: AddressVector
}
