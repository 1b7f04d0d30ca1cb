// SPDX-License-Identifier: Apache-2.0
import Verbs

/// The queue pairs and completion queues of one end, in memory of their own: measuring loops reach them through
/// pointers, with no reference counted and no access checked. They live as long as this object.
@safe final class WorkQueues {
    /// All sends complete here.
    let sendCompletions: UnsafeMutablePointer<CompletionQueue>
    /// All receives complete here.
    let receiveCompletions: UnsafeMutablePointer<CompletionQueue>
    /// `capacity` elements, of which ``count`` are initialized.
    let queuePairs: UnsafeMutablePointer<QueuePair>
    /// Where each queue pair's datagrams go; initialized along with it for UD once the peer is known.
    let destinations: UnsafeMutablePointer<DatagramDestination>
    /// `nil` without a shared receive queue.
    private(set) var shared: UnsafeMutablePointer<SharedReceiveQueue>?
    let channel: CompletionChannel?

    var hasSharedReceives: Bool { unsafe shared != nil }

    private let capacity: Int
    private(set) var count = 0
    private(set) var destinationCount = 0

    init(
        capacity: Int, channel: CompletionChannel?, sendCompletions: consuming CompletionQueue,
        receiveCompletions: consuming CompletionQueue
    ) {
        self.capacity = capacity
        self.channel = channel
        unsafe self.sendCompletions = .allocate(capacity: 1)
        unsafe self.sendCompletions.initialize(to: sendCompletions)
        unsafe self.receiveCompletions = .allocate(capacity: 1)
        unsafe self.receiveCompletions.initialize(to: receiveCompletions)
        unsafe queuePairs = .allocate(capacity: capacity)
        unsafe destinations = .allocate(capacity: capacity)
    }

    deinit {
        unsafe destinations.deinitialize(count: destinationCount).deallocate()
        unsafe queuePairs.deinitialize(count: count).deallocate()
        if let shared = unsafe shared { unsafe shared.deinitialize(count: 1).deallocate() }
        unsafe receiveCompletions.deinitialize(count: 1).deallocate()
        unsafe sendCompletions.deinitialize(count: 1).deallocate()
    }

    func append(_ queuePair: consuming QueuePair) {
        precondition(count < capacity)
        unsafe (queuePairs + count).initialize(to: queuePair)
        count += 1
    }

    func append(_ destination: consuming DatagramDestination) {
        precondition(destinationCount < capacity)
        unsafe (destinations + destinationCount).initialize(to: destination)
        destinationCount += 1
    }

    func share(_ queue: consuming SharedReceiveQueue) {
        let pointer = UnsafeMutablePointer<SharedReceiveQueue>.allocate(capacity: 1)
        unsafe pointer.initialize(to: queue)
        unsafe shared = pointer
    }
}
