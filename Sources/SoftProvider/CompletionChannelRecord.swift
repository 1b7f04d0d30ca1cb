// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import Synchronization
import VerbsABI

/// What stands behind an `ibv_comp_channel`: the completion queues that have events to deliver, in order.
///
/// The list is threaded through the queues themselves, so a notification allocates nothing and the list cannot outgrow
/// the number of queues. A queue that was notified twice before the application looked stands in it once with a count of two.
struct CompletionChannelRecord: ~Copyable {
    typealias Queue = UnsafeMutablePointer<ibv_cq>

    let descriptor: EventDescriptor
    private let waiting = Mutex(WaitingList())
    /// Completion queues made on this channel; a channel that has some cannot be destroyed.
    let users = Atomic<Int>(0)

    @safe struct WaitingList: @unchecked Sendable {
        // Queues stay alive while they stand here: `remove` runs before a queue is freed.
        var first: Queue?
        var last: Queue?
    }

    init(descriptor: consuming EventDescriptor) {
        self.descriptor = descriptor
    }

    /// Adds an event of `queue` and makes the descriptor readable.
    borrowing func post(_ queue: Queue) {
        waiting.withLock { list in
            let state = unsafe completionQueueRecord(queue)
            unsafe state.pointee.pendingEvents += 1
            if unsafe state.pointee.pendingEvents == 1 { unsafe Self.append(queue, to: &list) }
        }
        descriptor.signal()
    }

    /// Takes the oldest event; waits for one if the descriptor is blocking.
    borrowing func next() -> (queue: Queue?, code: Int32) {
        while true {
            let code = descriptor.take()
            guard code == 0 else { return (nil, code) }
            let queue = unsafe waiting.withLock { list in unsafe Self.takeFirst(from: &list) }
            // None: the queue was destroyed between the read and the lock, and its events with it.
            if let queue = unsafe queue { return unsafe (queue, 0) }
        }
    }

    /// Forgets the undelivered events of a queue that is being destroyed.
    /// - Returns: how many events of it were delivered; each of them is to be acknowledged.
    borrowing func remove(_ queue: Queue) -> UInt32 {
        waiting.withLock { list in
            let state = unsafe completionQueueRecord(queue)
            let pending = unsafe state.pointee.pendingEvents
            if pending > 0 { unsafe Self.unlink(queue, from: &list) }
            unsafe state.pointee.pendingEvents = 0
            for _ in 0..<pending { descriptor.takeIfAny() }
            return unsafe state.pointee.deliveredEvents
        }
    }

    private static func append(_ queue: Queue, to list: inout WaitingList) {
        unsafe completionQueueRecord(queue).pointee.nextWaiting = nil
        if let last = unsafe list.last {
            unsafe completionQueueRecord(last).pointee.nextWaiting = queue
        } else {
            unsafe list.first = queue
        }
        unsafe list.last = queue
    }

    private static func takeFirst(from list: inout WaitingList) -> Queue? {
        guard let first = unsafe list.first else { return nil }
        let state = unsafe completionQueueRecord(first)
        unsafe list.first = unsafe state.pointee.nextWaiting
        if unsafe list.first == nil { unsafe list.last = nil }
        unsafe state.pointee.pendingEvents -= 1
        unsafe state.pointee.deliveredEvents += 1
        if unsafe state.pointee.pendingEvents > 0 { unsafe append(first, to: &list) }
        return unsafe first
    }

    private static func unlink(_ queue: Queue, from list: inout WaitingList) {
        var previous: Queue? = nil
        var current = unsafe list.first
        while let here = unsafe current {
            let next = unsafe completionQueueRecord(here).pointee.nextWaiting
            if unsafe here == queue {
                if let previous = unsafe previous {
                    unsafe completionQueueRecord(previous).pointee.nextWaiting = next
                } else {
                    unsafe list.first = next
                }
                if unsafe list.last == here { unsafe list.last = previous }
                return
            }
            unsafe previous = here
            unsafe current = next
        }
    }
}
