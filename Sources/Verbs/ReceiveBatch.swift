// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// Receives that are handed to the device as one list.
///
/// ```swift
/// var batch = queuePair.receiveBatch()
/// for _ in 0..<32 { … batch.receive(buffer) … }
/// try batch.submit().orThrow()
/// ```
///
/// Receives are taken up to the free depth of the queue; every 32 the batch hands them over by itself. Those that the device does
/// not take were not posted: their buffers return to their pools, and the batch takes no more. The same goes for a batch that is let
/// go without ``submit()``. While a batch is open no other receive may be posted to the queue, by another batch neither, and the queue pair
/// must not end: adding, submitting and letting go trap if that happened. Completions may be polled meanwhile.
///
/// It holds what stands behind the queue, as a ``SendBatch`` does.
@frozen @safe public struct ReceiveBatch: ~Copyable {
    /// `nil` for a shared queue.
    @usableFromInline let native: UnsafeMutablePointer<ibv_qp>?
    @usableFromInline let shared: UnsafeMutablePointer<ibv_srq>?
    @usableFromInline let slots: UnsafeMutablePointer<cverbs_slots>
    @usableFromInline let queue: UnsafeMutablePointer<cverbs_queue>
    @usableFromInline let end: UnsafeMutablePointer<cverbs_receive_slot>
    @usableFromInline let core: AnyObject
    @usableFromInline var cursor: UnsafeMutablePointer<cverbs_receive_slot>
    /// The queue's count of posts when the first slot was filled.
    @usableFromInline var base: UInt32
    /// That count with what is filled.
    @usableFromInline var next: UInt32
    /// Handed over in lists before the last.
    @usableFromInline var rung: Int
    /// Among the batches of the queue.
    @usableFromInline let number: UInt32
    /// Why the device took no more. The cursor stays at the end then.
    @usableFromInline var failure: PostError?

    @inlinable @inline(__always)
    init(
        _ native: UnsafeMutablePointer<ibv_qp>?, _ shared: UnsafeMutablePointer<ibv_srq>?,
        _ slots: UnsafeMutablePointer<cverbs_slots>, _ queue: UnsafeMutablePointer<cverbs_queue>, _ core: AnyObject
    ) {
        unsafe self.native = native
        unsafe self.shared = shared
        unsafe self.slots = slots
        unsafe self.queue = queue
        self.core = core
        unsafe cursor = slots.pointee.receive
        unsafe end = slots.pointee.receive_end
        unsafe base = queue.pointee.posted
        next = base
        rung = 0
        unsafe number = queue.pointee.batch &+ 1
        unsafe queue.pointee.batch = number
        failure = nil
    }

    @inlinable deinit { if unsafe cursor != slots.pointee.receive { abandon() } }

    /// Hands over what is left. The corresponding C functions are `ibv_post_recv` and `ibv_post_srq_recv`.
    @inlinable @inline(__always) public consuming func submit() -> BatchResult {
        let error = unsafe cursor == slots.pointee.receive ? nil : handOver()
        return BatchResult(posted: rung, error: error)
    }
}

@available(*, unavailable) extension ReceiveBatch: Sendable {}

extension QueuePair {
    /// Opens a batch of receives. With a shared receive queue it takes none: that has batches of its own.
    @inlinable @inline(__always) public func receiveBatch() -> ReceiveBatch {
        unsafe ReceiveBatch(native, nil, slots, receives, core)
    }
}

extension SharedReceiveQueue {
    /// Opens a batch of receives.
    @inlinable @inline(__always) public func receiveBatch() -> ReceiveBatch {
        unsafe ReceiveBatch(nil, native, slots, queue, core)
    }
}

extension ReceiveBatch {
    /// Adds a receive into a buffer (and those appended to it), each up to its count. `file` and `line` are for the message
    /// of the buffer guard.
    @inlinable @inline(__always)
    public mutating func receive(
        _ buffer: consuming RegisteredBuffer, id: UInt64 = 0, file: StaticString = #fileID, line: UInt = #line
    ) -> PostResult {
        if let status = makeRoom() { return SendBatch.result(status, buffer) }
        let header = unsafe buffer.leak()
        guard unsafe slots.scatter(header, in: cursor, queue.pointee.max_elements) else {
            return unsafe .refused(RegisteredBuffer(header), .tooManyElements)
        }
        unsafe add(id: id, buffer: header, file, line)
        return .posted
    }

    /// Adds a receive into registered memory, untouched until the completion (the raw level). `file` and `line` are for the
    /// message of the buffer guard.
    @unsafe @inlinable @inline(__always)
    public mutating func receive(
        into memory: LocalMemory, id: UInt64, file: StaticString = #fileID, line: UInt = #line
    ) -> PostStatus {
        if let status = makeRoom() { return status }
        unsafe cursor.point(at: memory)
        unsafe add(id: id, buffer: nil, file, line)
        return .posted
    }
}

// The steps of a batch.
extension ReceiveBatch {
    /// Why no receive can be added now; `nil` where one can.
    @inlinable @inline(__always)
    mutating func makeRoom() -> PostStatus? {
        if unsafe cursor == end, let error = handOver() { return .refused(error) }
        guard unsafe next &- queue.pointee.retired < queue.pointee.limit else {
            return unsafe queue.pointee.limit == 0 ? .refused(.wrongTransport) : .full
        }
        // Before a record is taken that is not the batch's any more.
        checkIsAlone()
        return nil
    }

    /// Books the slot at the cursor. The memory is guarded from here on, because it may be handed over at any time.
    @inlinable @inline(__always)
    mutating func add(
        id: UInt64, buffer: UnsafeMutablePointer<cverbs_buffer>?, _ file: StaticString, _ line: UInt
    ) {
        let record = unsafe takeRecord()
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = buffer
        unsafe cursor.pointee.request.wr_id = UInt64(UInt(bitPattern: record))
        if unsafe queue.pointee.is_guarded != 0 { unsafe cursor.request.protect(file, line) }
        unsafe cursor += 1
        next &+= 1
    }

    /// The record of the next receive. There is room.
    @inlinable @inline(__always) func takeRecord() -> UnsafeMutablePointer<cverbs_record> {
        guard unsafe queue.pointee.is_shared != 0 else {
            return unsafe queue.pointee.records + Int(next & queue.pointee.mask)
        }
        // As many are free as there is room for.
        unsafe queue.pointee.free_count &-= 1
        let index = unsafe queue.pointee.free_indices.unsafelyUnwrapped[Int(queue.pointee.free_count)]
        return unsafe queue.pointee.records + Int(index)
    }

    /// Posts what is filled, as one list. Afterwards the batch is empty; what the device did not take is given back, and it
    /// stays at its end.
    @inlinable @inline(__always)
    mutating func handOver() -> PostError? {
        if let failure { return failure }
        checkIsAlone()
        let first = unsafe slots.pointee.receive
        let last = unsafe cursor - 1
        let link = unsafe last.pointee.request.next
        unsafe last.pointee.request.next = nil
        unsafe slots.pointee.bad_receive = nil
        // One call through the context's operations; the list is the slots'.
        let code =
            if let native = unsafe native {
                unsafe ibv_post_recv(native, first.request, &slots.pointee.bad_receive)
            } else {
                unsafe ibv_post_srq_recv(shared.unsafelyUnwrapped, first.request, &slots.pointee.bad_receive)
            }
        unsafe last.pointee.request.next = link
        if code != 0 { return settleRefusal(code) }
        if unsafe queue.pointee.is_shared != 0 { markLive(Int(next &- base)) }
        unsafe queue.pointee.posted = next
        rung &+= Int(next &- base)
        base = next
        unsafe cursor = first
        return nil
    }

    /// Books the part that the device took, and returns the buffers of the rest.
    @usableFromInline @inline(never)
    mutating func settleRefusal(_ code: Int32) -> PostError {
        let filled = Int(next &- base)
        // A provider that names no bad request has taken none.
        let taken =
            unsafe slots.pointee.bad_receive.map { bad in
                let distance = unsafe UnsafeRawPointer(bad) - UnsafeRawPointer(slots.pointee.receive)
                return unsafe max(0, min(filled, distance / MemoryLayout<cverbs_receive_slot>.stride))
            } ?? 0
        giveBack(taken..<filled)
        if unsafe queue.pointee.is_shared != 0 { markLive(taken) }
        rung += taken
        base &+= UInt32(taken)
        next = base
        unsafe queue.pointee.posted = base
        unsafe cursor = end
        let error: PostError
        switch unsafe queue.status(ofRefusal: code) {
        case .refused(let refusal): error = refusal
        case .full, .posted: error = .queueFull
        }
        failure = error
        return error
    }

    /// The first `count` receives are a shared queue's.
    @usableFromInline @inline(never)
    func markLive(_ count: Int) {
        for index in 0..<count { unsafe record(of: index)?.pointee.flags |= UInt32(CVERBS_RECORD_LIVE) }
    }

    /// The record of a slot: every wr_id that the library posts is the address of one.
    private func record(of index: Int) -> UnsafeMutablePointer<cverbs_record>? {
        let slot = unsafe slots.pointee.receive + index
        return unsafe UnsafeMutablePointer(bitPattern: UInt(slot.pointee.request.wr_id))
    }

    /// Traps when the records that the batch filled in are not its own any more: a bug of the caller's.
    @inlinable @inline(__always) func checkIsAlone() {
        // A queue pair that has ended has a limit of zero; its memory is the core's, which is alive.
        precondition(
            unsafe queue.pointee.posted == base && queue.pointee.batch == number && queue.pointee.limit != 0,
            "a receive was posted beside an open batch, or its queue pair has ended")
    }

    @usableFromInline @inline(never) func abandon() {
        guard next != base else { return }
        checkIsAlone()
        giveBack(0..<Int(next &- base))
    }

    /// Takes back the records of slots, the last first, as they were taken.
    private func giveBack(_ range: Range<Int>) {
        for index in range.reversed() {
            guard let record = unsafe record(of: index) else { continue }
            unsafe record.open()
            unsafe record.pointee.flags = 0
            if let buffer = unsafe record.pointee.buffer { unsafe BufferPool.recycle(buffer) }
            guard unsafe queue.pointee.is_shared != 0 else { continue }
            unsafe queue.pointee.free_indices![Int(queue.pointee.free_count)] = record.pointee.index
            unsafe queue.pointee.free_count += 1
        }
    }
}
