// SPDX-License-Identifier: Apache-2.0
import RoCETransport

/// A send request that was posted and is not known to be complete.
struct PostedSend {
    var id: UInt64
    var operation: SendOperation
    var isSignaled: Bool
    /// Local bytes that it uses, which are free again when it is complete.
    var slot: Int
    /// READ and atomics: what must lie at which local offset when it is complete.
    var result: [(offset: Int, bytes: [UInt8])] = []
    /// READ: the remote range, which a later WRITE must not change before it is complete.
    var readRange: Range<Int>?
    /// Atomics on the word that all share: where the value before was put.
    var sharedResult: Int?
}

/// Checks one send queue: each request completes once, in order, with success unless the connection may fail; silent
/// ones are complete when a later one is.
final class SendChecker {
    private let name: String
    private let findings: Findings
    private(set) var posted: [PostedSend] = []
    private(set) var isDead = false
    private var hasFailed = false
    private(set) var completedCount = 0

    init(name: String, findings: Findings) {
        self.name = name
        self.findings = findings
    }

    func add(_ send: PostedSend) { posted.append(send) }

    /// Takes a completion; returns the requests that are complete by it, oldest first.
    func complete(_ entry: CompletionEntry, mayFail: Bool) -> [PostedSend] {
        guard let index = posted.firstIndex(where: { $0.id == entry.id }) else {
            findings.add("\(name): completion of \(entry.id), which is not posted or was complete")
            return []
        }
        for send in posted[..<index] where send.isSignaled || entry.status == .flushed {
            findings.add("\(name): \(entry.id) completed before \(send.id)")
        }
        if entry.status == .success {
            if !posted[index].isSignaled { findings.add("\(name): \(entry.id) is not signaled but completed") }
            if isDead { findings.add("\(name): \(entry.id) succeeded after a failure") }
            if entry.operation.rawValue != posted[index].operation.expectedCompletion {
                findings.add("\(name): \(entry.id) completed as operation \(entry.operation.rawValue)")
            }
        } else {
            if !mayFail { findings.add("\(name): \(entry.id) failed with status \(entry.status.rawValue)") }
            if hasFailed, entry.status != .flushed {
                findings.add("\(name): second failure, status \(entry.status.rawValue)")
            }
            if !hasFailed, entry.status != .retriesExceeded {
                findings.add("\(name): unexpected first failure, status \(entry.status.rawValue)")
            }
            hasFailed = true
            isDead = true
        }
        let done = Array(posted[...index])
        completedCount += done.count
        posted.removeFirst(index + 1)
        // What failed or was flushed was not done; all before it was.
        return entry.status == .success ? done : Array(done.dropLast())
    }

    func checkEmpty() {
        if let first = posted.first {
            findings.add("\(name): \(posted.count) requests never completed, first \(first.id)")
        }
    }
}

extension SendOperation {
    /// `enum ibv_wc_opcode` for `enum ibv_wr_opcode`, written down here a second time from verbs.h.
    var expectedCompletion: UInt32 {
        switch rawValue {
        case 0, 1: 1
        case 4: 2
        case 5: 3
        case 6: 4
        case 7: 6
        case 8: 5
        default: 0
        }
    }
}

/// A message that will use up a receive.
struct ExpectedMessage {
    var bytes: [UInt8]
    var immediate: UInt32?
    /// WRITE with immediate: the bytes went elsewhere.
    var isWrite: Bool
}

/// Checks receives: each completes once; those of one queue pair carry the messages sent to it, in order.
final class ReceiveChecker {
    private let name: String
    private let findings: Findings
    private(set) var posted: [UInt64: [(offset: Int, count: Int)]] = [:]
    private var order: [UInt64] = []
    private let isShared: Bool

    init(name: String, findings: Findings, isShared: Bool) {
        self.name = name
        self.findings = findings
        self.isShared = isShared
    }

    func add(_ id: UInt64, _ pieces: [(offset: Int, count: Int)]) {
        posted[id] = pieces
        order.append(id)
    }

    /// Takes a completion and compares it, and the memory, with the message. Returns `false` if it told of no message.
    func complete(_ entry: CompletionEntry, message: () -> ExpectedMessage?, memory: MemoryModel) -> Bool {
        guard let pieces = posted.removeValue(forKey: entry.id) else {
            findings.add("\(name): completion of receive \(entry.id), which is not posted or was complete")
            return false
        }
        if !isShared, order.first != entry.id { findings.add("\(name): receive \(entry.id) completed out of order") }
        order.removeAll { $0 == entry.id }
        guard entry.status == .success else {
            if entry.status != .flushed { findings.add("\(name): receive failed, status \(entry.status.rawValue)") }
            // A message that was cut off may have written to it, and now that it is complete, nothing does.
            for piece in pieces { memory.adopt(piece.offset..<piece.offset + piece.count) }
            return false
        }
        guard let message = message() else {
            findings.add("\(name): receive \(entry.id) completed, but no message was sent")
            return false
        }
        if entry.byteLength != UInt32(message.bytes.count) {
            findings.add("\(name): receive of \(entry.byteLength) bytes, \(message.bytes.count) were sent")
        }
        let isImmediate = entry.flags.contains(.withImmediate)
        if isImmediate != (message.immediate != nil) || (isImmediate && entry.immediate != message.immediate) {
            findings.add("\(name): wrong immediate data")
        }
        if entry.operation != (message.isWrite ? .receiveRDMAWithImmediate : .receive) {
            findings.add("\(name): receive completed as operation \(entry.operation.rawValue)")
        }
        if message.isWrite { return true }
        var rest = message.bytes[...]
        for piece in pieces {
            let part = rest.prefix(piece.count)
            memory.expect(part, at: piece.offset)
            if let offset = memory.firstDifference(in: piece.offset..<piece.offset + piece.count) {
                findings.add("\(name): received byte at \(offset) is wrong")
            }
            rest = rest.dropFirst(piece.count)
        }
        return true
    }

    func checkEmpty() {
        if let id = order.first { findings.add("\(name): \(order.count) receives never completed, first \(id)") }
    }
}
