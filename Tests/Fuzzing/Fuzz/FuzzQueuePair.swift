// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// A queue pair, and what its application is owed.
struct FuzzQueuePair {
    let type: QueuePairType
    var queues: QueuePairQueues
    /// The queue pair at the other end, by its place; `nil` if the input plays that part.
    let remote: Int?
    let usesSharedReceiveQueue: Bool
    var sends = WorkAccount()
    var receives = WorkAccount()
}

/// The work requests of one queue that have not completed: each may do so once, and in their order.
struct WorkAccount {
    private struct Work {
        let id: UInt64
        let isSignaled: Bool
    }

    private var posted: [Work] = []

    mutating func post(_ id: UInt64, isSignaled: Bool = true) { posted.append(Work(id: id, isSignaled: isSignaled)) }

    mutating func removeAll() { posted.removeAll(keepingCapacity: true) }

    /// Takes a completion. Those before it have completed silently, which only unsignaled ones may.
    mutating func complete(_ entry: CompletionEntry, mayHaveLost: Bool) {
        guard let index = posted.firstIndex(where: { $0.id == entry.id }) else {
            fatalError("work request \(entry.id) of \(entry.qpn) completed that was not outstanding: \(entry.status)")
        }
        require(
            mayHaveLost || posted[..<index].allSatisfy { !$0.isSignaled },
            "work request \(entry.id) of \(entry.qpn) overtook one before it")
        require(
            posted[index].isSignaled || entry.status != .success,
            "work request \(entry.id) of \(entry.qpn) is not signaled, and completed with success")
        posted.removeFirst(index + 1)
    }

    /// For a shared receive queue, which several queue pairs serve: each once, in any order.
    mutating func completeAnywhere(_ entry: CompletionEntry) {
        guard let index = posted.firstIndex(where: { $0.id == entry.id }) else {
            fatalError("receive \(entry.id) of \(entry.qpn) completed that was not outstanding: \(entry.status)")
        }
        posted.remove(at: index)
    }

    /// After a flush nothing may be owed but silence.
    func requireSettled(_ what: String) {
        require(posted.allSatisfy { !$0.isSignaled }, "\(what): \(posted.count) work requests never completed")
    }
}
