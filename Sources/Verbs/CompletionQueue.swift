// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// Where work requests that ended are reported.
///
/// The room of a completion queue is shared out when queue pairs are made: each charges its depths, and one that does
/// not fit is refused. So the queue cannot overflow.
///
/// Three ways to poll, which may be mixed:
/// - ``next()`` gives one completion with its buffer;
/// - ``poll(into:)`` fills the caller's storage with plain values;
/// - ``poll()`` gives a span of the queue's own storage.
///
/// A completion queue and the queue pairs that complete on it account for each other's work without locks. They belong
/// to one isolation region, which the compiler checks: neither is `Sendable`, and a queue pair is tied to its
/// completion queues when it is made. The corresponding C type is `struct ibv_cq`.
@frozen @safe public struct CompletionQueue: ~Copyable {
    @usableFromInline let native: UnsafeMutablePointer<ibv_cq>
    @usableFromInline let ready: UnsafeMutablePointer<cverbs_ready>
    @usableFromInline let core: CompletionQueueCore

    init(_ core: CompletionQueueCore) {
        self.core = core
        unsafe native = core.native
        unsafe ready = core.ready
    }

    /// Which queue it is, among those of a process: how ``CompletionChannel/wait(timeout:)`` names one.
    public struct ID: Hashable, Sendable {
        /// The address of the core, as a number.
        let identifier: UInt

        init(_ core: CompletionQueueCore) { identifier = UInt(bitPattern: ObjectIdentifier(core)) }

        init(userContext: UnsafeMutableRawPointer) { identifier = UInt(bitPattern: userContext) }
    }

    /// Which queue it is.
    public var id: ID { ID(core) }

    /// Completions that fit, at least as many as asked for.
    public var capacity: Int { core.capacity }

    /// How many of them are set aside for the queue pairs there are.
    public var charged: Int { core.charged }

    /// Makes room for more completions, or gives some back: never fewer than are charged.
    /// The corresponding C function is `ibv_resize_cq`.
    public func resize(capacity: Int) throws(VerbsError) { try core.resize(to: capacity) }
}

@available(*, unavailable) extension CompletionQueue: Sendable {}

extension Context {
    /// Makes a completion queue of at least `capacity` entries. With a channel, the queue can be waited for. `vector`
    /// chooses the interrupt, from zero. The corresponding C function is `ibv_create_cq`.
    public func makeCompletionQueue(
        capacity: Int, channel: CompletionChannel? = nil, vector: Int = 0
    ) throws(VerbsError) -> CompletionQueue {
        CompletionQueue(try CompletionQueueCore(context: self, capacity: capacity, channel: channel, vector: vector))
    }
}

// Polling.
extension CompletionQueue {
    /// The next completion, with the buffer that its post consumed; `nil` if there is none now.
    ///
    /// ```swift
    /// while let completion = try completions.next() {
    ///     guard completion.isSuccess else { throw Failure(completion.status) }
    ///     if let buffer = completion.takeBuffer() { handle(buffer) }
    /// }
    /// ```
    /// The corresponding C function is `ibv_poll_cq`.
    @inlinable @inline(__always) public func next() throws(VerbsError) -> Completion? {
        while true {
            if unsafe ready.pointee.cursor == ready.pointee.end {
                guard try refill() else { return nil }
            }
            let entry = unsafe ready.pointee.entries + Int(ready.pointee.cursor)
            unsafe ready.pointee.cursor &+= 1
            // Every wr_id that the library posts is the address of a record.
            let record = unsafe UnsafeMutablePointer<cverbs_record>(bitPattern: UInt(entry.pointee.wr_id))
                .unsafelyUnwrapped
            if unsafe record.settle(entry) {
                let buffer = unsafe record.takeBuffer(entry)
                return unsafe Completion(WorkCompletion(entry.pointee), buffer: buffer)
            }
        }
    }

    /// Fills the caller's storage from the front and returns how many completions there were.
    ///
    /// For work of the raw level. A buffer that a post consumed returns to its pool here; ``next()`` gives it back.
    /// The corresponding C function is `ibv_poll_cq`.
    @inlinable @inline(__always) public func poll(into storage: inout MutableSpan<WorkCompletion>) throws(VerbsError)
        -> Int
    {
        let count = storage.count
        // WorkCompletion has the layout of cverbs_wc, its only member; the span outlives the closure.
        return try unsafe storage.withUnsafeMutableBufferPointer { (storage) throws(VerbsError) in
            guard let base = storage.baseAddress else { return 0 }
            return try unsafe fetch(UnsafeMutableRawPointer(base).assumingMemoryBound(to: cverbs_wc.self), count)
        }
    }

    /// The completions there are now, in storage of the queue that is good until the next poll; empty if there is none.
    ///
    /// For work of the raw level, as ``poll(into:)``. The corresponding C function is `ibv_poll_cq`.
    @inlinable @inline(__always) @_lifetime(&self) public mutating func poll() throws(VerbsError) -> Span<
        WorkCompletion
    > {
        var count = 0
        if unsafe ready.pointee.cursor != ready.pointee.end || ready.pointee.has_backlog != 0 {
            count = try deliverReady()
        } else {
            count = try unsafe fetch(ready.pointee.entries, Int(ready.pointee.capacity))
        }
        // The entries live as long as the queue; exclusive access to it ends the span before the next poll.
        return unsafe _overrideLifetime(
            Span(
                _unsafeStart: UnsafeRawPointer(ready.pointee.entries).assumingMemoryBound(to: WorkCompletion.self),
                count: count),
            mutating: &self)
    }

    /// Takes up to 16 completions off the device into `ready`; false if there are none.
    @inlinable @inline(__always) func refill() throws(VerbsError) -> Bool {
        if unsafe ready.pointee.has_backlog != 0, core.takeBacklog() { return true }
        let count = unsafe cverbs_poll_cq(native, Int32(ready.pointee.capacity), ready.pointee.entries)
        if count <= 0 {
            if count < 0 { throw core.pollError(count) }
            return false
        }
        unsafe ready.pointee.cursor = 0
        unsafe ready.pointee.end = UInt32(truncatingIfNeeded: count)
        return true
    }

    /// Polls straight into memory, after what is ready, and settles each.
    @inlinable @inline(__always)
    func fetch(_ storage: UnsafeMutablePointer<cverbs_wc>, _ capacity: Int) throws(VerbsError) -> Int {
        if unsafe ready.pointee.cursor != ready.pointee.end || ready.pointee.has_backlog != 0 {
            return try unsafe deliverReady(into: storage, capacity)
        }
        let count = unsafe cverbs_poll_cq(native, Int32(truncatingIfNeeded: capacity), storage)
        if count < 0 { throw core.pollError(count) }
        var index = 0
        while index < Int(count) {
            guard unsafe Self.settlePlain(storage + index) else {
                return unsafe Self.settleRest(storage, from: index, to: Int(count))
            }
            index &+= 1
        }
        return index
    }

    /// Settles the rest of what was polled, where the one at `start` is not for the caller to see: closes the gaps.
    @usableFromInline @inline(never) static func settleRest(
        _ storage: UnsafeMutablePointer<cverbs_wc>, from start: Int, to count: Int
    ) -> Int {
        var kept = start
        for index in (start + 1)..<count {
            guard unsafe settlePlain(storage + index) else { continue }
            unsafe storage[kept] = storage[index]
            kept += 1
        }
        return kept
    }

    /// Settles a completion that is delivered without its buffer.
    @inlinable @inline(__always) static func settlePlain(_ entry: UnsafeMutablePointer<cverbs_wc>) -> Bool {
        let record = unsafe UnsafeMutablePointer<cverbs_record>(bitPattern: UInt(entry.pointee.wr_id)).unsafelyUnwrapped
        guard unsafe record.settle(entry) else { return false }
        if let buffer = unsafe record.pointee.buffer { unsafe BufferPool.recycle(buffer) }
        return true
    }

    @usableFromInline @inline(never)
    func deliverReady(into storage: UnsafeMutablePointer<cverbs_wc>, _ capacity: Int) throws(VerbsError) -> Int {
        var kept = 0
        while kept < capacity {
            if unsafe ready.pointee.cursor == ready.pointee.end {
                // What the device has now is left for the next call: this one has something to deliver.
                guard unsafe ready.pointee.has_backlog != 0, core.takeBacklog() else { break }
            }
            let entry = unsafe ready.pointee.entries + Int(ready.pointee.cursor)
            unsafe ready.pointee.cursor &+= 1
            guard unsafe Self.settlePlain(entry) else { continue }
            unsafe storage[kept] = entry.pointee
            kept += 1
        }
        return kept == 0 && capacity > 0 ? try unsafe fetch(storage, capacity) : kept
    }

    /// Settles what is ready in place, moved to the front.
    @usableFromInline @inline(never) func deliverReady() throws(VerbsError) -> Int {
        if unsafe ready.pointee.cursor == ready.pointee.end { guard try refill() else { return 0 } }
        let entries = unsafe ready.pointee.entries
        var kept = 0
        for index in unsafe Int(ready.pointee.cursor)..<Int(ready.pointee.end) {
            guard unsafe Self.settlePlain(entries + index) else { continue }
            if kept != index { unsafe entries[kept] = entries[index] }
            kept += 1
        }
        unsafe ready.pointee.cursor = 0
        unsafe ready.pointee.end = 0
        return kept
    }
}
