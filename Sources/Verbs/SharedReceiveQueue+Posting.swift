// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

extension SharedReceiveQueue {
    /// Posts a receive into a buffer (and those appended to it), each up to its count. The corresponding C function is
    /// `ibv_post_srq_recv`. `file` and `line` are for the message of the buffer guard.
    @inlinable @inline(__always)
    public func receive(
        _ buffer: consuming RegisteredBuffer, id: UInt64 = 0, file: StaticString = #fileID, line: UInt = #line
    ) -> PostResult {
        guard let record = unsafe queue.freeSharedRecord else { return .full(buffer) }
        let slot = unsafe slots.pointee.single_receive
        let header = unsafe buffer.leak()
        guard unsafe slots.scatter(header, in: slot, queue.pointee.max_elements) else {
            return unsafe .refused(RegisteredBuffer(header), .tooManyElements)
        }
        unsafe record.pointee.buffer = header
        let code = unsafe ring(slot, record, id, file, line)
        if code == 0 { return .posted }
        return unsafe QueuePair.refused(header, queue, code)
    }

    /// Posts a receive into registered memory, untouched until the completion. The corresponding C function is
    /// `ibv_post_srq_recv`. `file` and `line` are for the message of the buffer guard.
    @unsafe @inlinable @inline(__always)
    public func receive(
        into memory: LocalMemory, id: UInt64, file: StaticString = #fileID, line: UInt = #line
    ) -> PostStatus {
        guard let record = unsafe queue.freeSharedRecord else { return .full }
        let slot = unsafe slots.pointee.single_receive
        unsafe slot.point(at: memory)
        unsafe record.pointee.buffer = nil
        let code = unsafe ring(slot, record, id, file, line)
        return unsafe code == 0 ? .posted : queue.status(ofRefusal: code)
    }

    @inlinable @inline(__always)
    func ring(
        _ slot: UnsafeMutablePointer<cverbs_receive_slot>, _ record: UnsafeMutablePointer<cverbs_record>, _ id: UInt64,
        _ file: StaticString, _ line: UInt
    ) -> Int32 {
        unsafe record.pointee.id = id
        unsafe slot.pointee.request.wr_id = UInt64(UInt(bitPattern: record))
        // One call through the context's operations; request, elements and the place for the bad one are the slots'.
        let code = unsafe ibv_post_srq_recv(native, slot.request, &slots.pointee.bad_receive)
        if code == 0 {
            unsafe record.pointee.flags = UInt32(CVERBS_RECORD_LIVE)
            unsafe queue.pointee.free_count &-= 1
            unsafe queue.pointee.posted &+= 1
            if unsafe queue.pointee.is_guarded != 0 { unsafe slot.request.protect(file, line) }
        }
        return code
    }
}

extension UnsafeMutablePointer where Pointee == cverbs_queue {
    /// The record of the next receive of a shared queue, `nil` when the depth is in flight.
    @inlinable @inline(__always) var freeSharedRecord: UnsafeMutablePointer<cverbs_record>? {
        let count = unsafe pointee.free_count
        guard count > 0 else { return nil }
        return unsafe pointee.records + Int(pointee.free_indices.unsafelyUnwrapped[Int(count) - 1])
    }
}
