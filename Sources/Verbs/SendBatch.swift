// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// How far a batch got.
@frozen public struct BatchResult: Hashable, Sendable {
    /// Requests that the device took, from the first on.
    public let posted: Int
    /// Why it took no more, also where a request that was added told it already; `nil` when it took all.
    public let error: PostError?

    @inlinable init(posted: Int, error: PostError?) {
        self.posted = posted
        self.error = error
    }

    /// Throws the error of what was not posted.
    @inlinable public func orThrow() throws(PostError) { if let error { throw error } }
}

/// Sends that ring the doorbell once.
///
/// ```swift
/// var batch = queuePair.batch()
/// for _ in 0..<16 { … batch.post(.send, buffer) … }
/// try batch.submit().orThrow()
/// ```
///
/// Requests are taken up to the free depth of the queue; every 32 the batch rings by itself. Those that the device does
/// not take were not posted: their buffers return to their pools, and the batch takes no more. The same goes for a batch that is
/// let go without ``submit()``. While a batch is open nothing else may be posted to the send queue, by another batch neither, and
/// the queue pair must not end: submitting and letting go trap if that happened.
///
/// The batch is not `~Escapable`: a borrow of a queue pair that is a class's property ends with the expression, so such
/// a batch could not be kept in a variable there. It holds what stands behind the queue pair instead, one reference
/// count a batch.
@frozen @safe public struct SendBatch: ~Copyable {
    @usableFromInline let native: UnsafeMutablePointer<ibv_qp>
    @usableFromInline let slots: UnsafeMutablePointer<cverbs_slots>
    @usableFromInline let sends: UnsafeMutablePointer<cverbs_queue>
    @usableFromInline let end: UnsafeMutablePointer<cverbs_send_slot>
    @usableFromInline let core: QueuePairCore
    @usableFromInline var cursor: UnsafeMutablePointer<cverbs_send_slot>
    /// The queue's count of posts when the first slot was filled: records follow from there.
    @usableFromInline var base: UInt32
    /// The place of the next request's record.
    @usableFromInline var next: UInt32
    /// Posted by doorbells before the last.
    @usableFromInline var rung: Int
    /// Among the batches of the queue.
    @usableFromInline let number: UInt32
    /// Why the device took no more. The cursor stays at the end then.
    @usableFromInline var failure: PostError?

    @inlinable @inline(__always)
    init(_ queuePair: borrowing QueuePair) {
        unsafe native = queuePair.native
        unsafe slots = queuePair.slots
        unsafe sends = queuePair.sends
        core = queuePair.core
        unsafe cursor = queuePair.slots.pointee.send
        unsafe end = queuePair.slots.pointee.send_end
        unsafe base = queuePair.sends.pointee.posted
        next = base
        rung = 0
        unsafe number = sends.pointee.batch &+ 1
        unsafe sends.pointee.batch = number
        failure = nil
    }

    @inlinable deinit { if unsafe cursor != slots.pointee.send { abandon() } }

    /// Rings the doorbell for what is left.
    @inlinable @inline(__always) public consuming func submit() -> BatchResult {
        let error = unsafe cursor == slots.pointee.send ? nil : ringDoorbell()
        return BatchResult(posted: rung, error: error)
    }
}

@available(*, unavailable) extension SendBatch: Sendable {}

extension QueuePair {
    /// Opens a batch of sends.
    @inlinable @inline(__always) public func batch() -> SendBatch { SendBatch(self) }
}

extension SendBatch {
    /// Adds a send, write, read or atomic over a buffer (and those appended to it). `file` and `line` are for the
    /// message of the buffer guard.
    @inlinable @inline(__always)
    public mutating func post(
        _ operation: SendOperation, _ buffer: consuming RegisteredBuffer, id: UInt64 = 0, flags: SendFlags = .signaled,
        file: StaticString = #fileID, line: UInt = #line
    ) -> PostResult {
        if let status = makeRoom() { return Self.result(status, buffer) }
        if let error = unsafe operation.refusal(by: sends) { return .refused(buffer, error) }
        if let error = unsafe operation.check(length: buffer.header.totalLength) { return .refused(buffer, error) }
        let header = unsafe buffer.leak()
        guard unsafe slots.gather(header, in: cursor, sends.pointee.max_elements) else {
            return unsafe .refused(RegisteredBuffer(header), .tooManyElements)
        }
        unsafe operation.store(in: cursor.request)
        unsafe add(id: id, buffer: header, flags: flags, file, line)
        return .posted
    }

    /// Adds a datagram over a buffer (and those appended to it). `file` and `line` are for the message of the buffer
    /// guard.
    @inlinable @inline(__always)
    public mutating func post(
        _ operation: SendOperation, _ buffer: consuming RegisteredBuffer, to destination: borrowing DatagramDestination,
        id: UInt64 = 0, flags: SendFlags = .signaled, file: StaticString = #fileID, line: UInt = #line
    ) -> PostResult {
        if let status = makeRoom() { return Self.result(status, buffer) }
        if let error = unsafe operation.refusal(by: sends) { return .refused(buffer, error) }
        let header = unsafe buffer.leak()
        guard unsafe slots.gather(header, in: cursor, sends.pointee.max_elements) else {
            return unsafe .refused(RegisteredBuffer(header), .tooManyElements)
        }
        unsafe operation.store(in: cursor.request)
        unsafe cursor.request.address(to: destination, for: sends, core)
        unsafe add(id: id, buffer: header, flags: flags, file, line)
        return .posted
    }

    /// Adds a send or write of bytes. They are copied when the doorbell rings, so the span must last until then: the
    /// caller's promise, hence unsafe.
    @unsafe @inlinable @inline(__always)
    public mutating func post(
        _ operation: SendOperation, inline memory: UnsafeRawBufferPointer, id: UInt64 = 0, flags: SendFlags = .signaled
    ) -> PostStatus {
        if let status = makeRoom() { return status }
        if let error = unsafe operation.refusal(by: sends) { return .refused(error) }
        guard unsafe cursor.inline(memory.bytes, sends.pointee.max_inline) else {
            return .refused(.inlineTooLong)
        }
        unsafe operation.store(in: cursor.request)
        unsafe add(id: id, buffer: nil, flags: SendFlags(rawValue: flags.rawValue | 8))
        return .posted
    }

    /// Adds a send, write, read or atomic over registered memory (the raw level). `file` and `line` are for the message
    /// of the buffer guard.
    @unsafe @inlinable @inline(__always)
    public mutating func post(
        _ operation: SendOperation, from memory: LocalMemory, id: UInt64, flags: SendFlags = .signaled,
        file: StaticString = #fileID, line: UInt = #line
    ) -> PostStatus {
        if let status = makeRoom() { return status }
        if let error = unsafe operation.refusal(by: sends) { return .refused(error) }
        unsafe cursor.point(at: memory)
        unsafe operation.store(in: cursor.request)
        unsafe add(id: id, buffer: nil, flags: flags, file, line)
        return .posted
    }
}

// The steps of a batch.
extension SendBatch {
    /// Requests filled since the last doorbell.
    @inlinable @inline(__always) var filled: UInt32 { next &- base }

    /// Why no request can be added now; `nil` where one can.
    @inlinable @inline(__always)
    mutating func makeRoom() -> PostStatus? {
        if unsafe cursor == end, let error = ringDoorbell() { return .refused(error) }
        return unsafe next &- sends.pointee.retired < sends.pointee.limit ? nil : .full
    }

    @inlinable @inline(__always)
    mutating func add(id: UInt64, buffer: UnsafeMutablePointer<cverbs_buffer>?, flags: SendFlags) {
        let record = unsafe sends.pointee.records + Int(next & sends.pointee.mask)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = buffer
        unsafe cursor.pointee.request.wr_id = UInt64(UInt(bitPattern: record))
        unsafe cursor.pointee.request.send_flags = sends.signalFlags(flags, record)
        unsafe cursor += 1
        next &+= 1
    }

    /// As above, and has the memory of the request guarded: from here on, because the doorbell may ring at any time.
    @inlinable @inline(__always)
    mutating func add(
        id: UInt64, buffer: UnsafeMutablePointer<cverbs_buffer>?, flags: SendFlags, _ file: StaticString, _ line: UInt
    ) {
        unsafe add(id: id, buffer: buffer, flags: flags)
        if unsafe sends.pointee.is_guarded != 0 { unsafe (cursor - 1).request.protect(file, line) }
    }

    @inlinable static func result(_ status: PostStatus, _ buffer: consuming RegisteredBuffer) -> PostResult {
        switch status {
        case .refused(let error): return .refused(buffer, error)
        case .full, .posted: return .full(buffer)
        }
    }

    /// Posts what is filled, as one list. Afterwards the batch is empty; what the device did not take is given back, and it
    /// stays at its end.
    @inlinable @inline(__always)
    mutating func ringDoorbell() -> PostError? {
        if let failure { return failure }
        checkIsAlone()
        let first = unsafe slots.pointee.send
        let count = filled
        let last = unsafe cursor - 1
        let link = unsafe last.pointee.request.next
        unsafe last.pointee.request.next = nil
        unsafe slots.pointee.bad_send = nil
        // One call through the context's operations; the list is the slots'.
        let code = unsafe ibv_post_send(native, first.request, &slots.pointee.bad_send)
        unsafe last.pointee.request.next = link
        if code == 0 {
            unsafe cursor = first
            unsafe sends.pointee.posted = next
            base = next
            rung &+= Int(count)
            return nil
        }
        return settleRefusal(code, count)
    }

    /// Books the part that the device took, and returns the buffers of the rest.
    @usableFromInline @inline(never)
    mutating func settleRefusal(_ code: Int32, _ count: UInt32) -> PostError {
        // A provider that names no bad request has taken none.
        let taken = unsafe slots.pointee.bad_send.map { unsafe index(of: $0, count) } ?? 0
        giveBack(from: base &+ taken, count: count - taken)
        unsafe sends.pointee.posted = base &+ taken
        base = base &+ taken
        next = base
        rung += Int(taken)
        unsafe cursor = end
        let error: PostError
        switch unsafe sends.status(ofRefusal: code) {
        case .refused(let refusal): error = refusal
        case .full, .posted: error = .queueFull
        }
        failure = error
        return error
    }

    /// Traps when the records that the batch filled in are not its own any more: a bug of the caller's.
    @inlinable @inline(__always) func checkIsAlone() {
        // A queue pair that has ended has a limit of zero; its memory is the core's, which is alive.
        precondition(
            unsafe sends.pointee.posted == base && sends.pointee.batch == number && sends.pointee.limit != 0,
            "something was posted beside an open batch, or its queue pair has ended")
    }

    /// The place of a request in the batch.
    private func index(of request: UnsafeMutablePointer<ibv_send_wr>, _ count: UInt32) -> UInt32 {
        let distance = unsafe UnsafeRawPointer(request) - UnsafeRawPointer(slots.pointee.send)
        return unsafe UInt32(max(0, min(Int(count), distance / MemoryLayout<cverbs_send_slot>.stride)))
    }

    @usableFromInline @inline(never) func abandon() {
        guard filled > 0 else { return }
        checkIsAlone()
        unsafe sends.pointee.unsignaled = sends.pointee.signal_interval
        giveBack(from: base, count: filled)
    }

    private func giveBack(from position: UInt32, count: UInt32) {
        for offset in 0..<count {
            let record = unsafe sends.pointee.records + Int((position &+ offset) & sends.pointee.mask)
            unsafe record.open()
            if let buffer = unsafe record.pointee.buffer { unsafe BufferPool.recycle(buffer) }
        }
    }
}
