// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// Takes received frames and posts their receives again. Runs on the endpoint's memory, which must live longer.
@safe struct RawReceiver: ~Copyable {
    private static let pollCount = 64

    private let endpoint: RawEndpoint
    private let completions: UnsafeMutablePointer<CompletionQueue>
    /// Freed in `deinit`.
    private let storage: UnsafeMutableBufferPointer<WorkCompletion>
    private(set) var received = 0
    private(set) var byteCount = 0
    /// Frames that were longer than a receive.
    private(set) var tooLong = 0
    /// Number of the last frame.
    private(set) var lastNumber: UInt64 = 0

    init(_ endpoint: RawEndpoint) {
        self.endpoint = endpoint
        unsafe completions = endpoint.queues.receiveCompletions
        unsafe storage = .allocate(capacity: Self.pollCount)
        unsafe storage.initialize(repeating: WorkCompletion())
    }

    deinit { unsafe storage.deinitialize().deallocate() }

    /// Takes what there is, up to 64 frames. Returns whether there was anything.
    @inline(__always)
    mutating func poll(readsNumbers: Bool = false) throws(PerfError) -> Bool {
        let count: Int
        do throws(VerbsError) {
            var span = unsafe storage.mutableSpan
            count = try unsafe completions.pointee.poll(into: &span)
        } catch {
            throw .device("\(error)")
        }
        var entry = 0
        while entry < count {
            // Those of one queue pair that follow each other are posted again as a list.
            let index = unsafe Self.queuePair(of: storage[entry].id)
            var batch = unsafe endpoint.queues.queuePairs[index].receiveBatch()
            while entry < count, unsafe Self.queuePair(of: storage[entry].id) == index {
                let id = unsafe storage[entry].id
                let slot = Int(truncatingIfNeeded: id >> 32)
                let isWhole = try unsafe note(storage[entry])
                if readsNumbers, isWhole { lastNumber = endpoint.number(index, slot) }
                let status = unsafe batch.receive(into: endpoint.receiveMemory(index, slot), id: id)
                if status != .posted { throw PerfEndpoint.refused("receive", status) }
                entry &+= 1
            }
            if let error = batch.submit().error { throw PerfEndpoint.refused("list of receives", .refused(error)) }
        }
        return count > 0
    }

    @inline(__always)
    private static func queuePair(of id: UInt64) -> Int { Int(truncatingIfNeeded: id & 0xFFFF_FFFF) }

    /// Counts a frame. Returns whether the receive has it.
    @inline(__always)
    private mutating func note(_ completion: WorkCompletion) throws(PerfError) -> Bool {
        if completion.isSuccess {
            received &+= 1
            byteCount &+= completion.byteCount
            return true
        }
        guard completion.status == .localLengthError else {
            throw .device("\(completion). \(received) frames were received before.")
        }
        tooLong &+= 1
        return false
    }
}

/// Posts frames, as many at a time as the send queue takes, and takes their completions.
@safe struct RawSender: ~Copyable {
    /// Frames posted with one doorbell, of which the last completes.
    static let batchCount = 32
    private static let pollCount = 16

    private let endpoint: RawEndpoint
    private let size: Int
    private let completions: UnsafeMutablePointer<CompletionQueue>
    /// Freed in `deinit`; frames posted and not completed, of each queue pair.
    private let pending: UnsafeMutablePointer<Int>
    private let storage: UnsafeMutableBufferPointer<WorkCompletion>
    private(set) var posted = 0
    private(set) var completed = 0

    init(_ endpoint: RawEndpoint, size: Int) {
        self.endpoint = endpoint
        self.size = size
        unsafe completions = endpoint.queues.sendCompletions
        unsafe pending = .allocate(capacity: endpoint.queuePairCount)
        unsafe pending.initialize(repeating: 0, count: endpoint.queuePairCount)
        unsafe storage = .allocate(capacity: Self.pollCount)
        unsafe storage.initialize(repeating: WorkCompletion())
    }

    deinit {
        unsafe pending.deallocate()
        unsafe storage.deinitialize().deallocate()
    }

    /// Posts up to a batch on each queue pair that has room, no more than `limit` frames in all. Returns whether anything was posted.
    mutating func post(limit: Int) throws(PerfError) -> Bool {
        let before = posted
        for index in 0..<endpoint.queuePairCount {
            let room = unsafe min(endpoint.transmitDepth - pending[index], limit - posted, Self.batchCount)
            guard room == Self.batchCount || (room > 0 && (posted + room == limit || room == endpoint.transmitDepth))
            else { continue }
            try postBatch(index, room)
        }
        return posted != before
    }

    private mutating func postBatch(_ index: Int, _ count: Int) throws(PerfError) {
        var batch = unsafe endpoint.queues.queuePairs[index].batch()
        // All frames of a queue pair are the same.
        let memory = endpoint.sendMemory(index, 0, size: size)
        for position in 0..<count {
            let id = UInt64(index) | UInt64(count) << 32
            let status = unsafe batch.post(
                .send, from: memory, id: id, flags: position == count - 1 ? .signaled : [])
            if status != .posted { throw PerfEndpoint.refused("send", status) }
        }
        if let error = batch.submit().error { throw PerfEndpoint.refused("list of sends", .refused(error)) }
        unsafe pending[index] += count
        posted += count
    }

    /// Takes completions. Returns whether there were any.
    mutating func poll() throws(PerfError) -> Bool {
        let count: Int
        do throws(VerbsError) {
            var span = unsafe storage.mutableSpan
            count = try unsafe completions.pointee.poll(into: &span)
        } catch {
            throw .device("\(error)")
        }
        for entry in 0..<count {
            guard unsafe storage[entry].isSuccess else {
                throw unsafe .device("\(storage[entry]) \(completed) frames were sent before.")
            }
            let id = unsafe storage[entry].id
            let covered = Int(truncatingIfNeeded: id >> 32)
            unsafe pending[Int(truncatingIfNeeded: id & 0xFFFF_FFFF)] -= covered
            completed += covered
        }
        return count > 0
    }
}
