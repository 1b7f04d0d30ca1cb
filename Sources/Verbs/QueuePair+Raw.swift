// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

// The raw level: addresses and keys, for those who manage lifetimes themselves. Unsafe, because the device reads and
// writes the memory until the completion, whatever the program does with it meanwhile; see the buffer guard.
extension QueuePair {
    /// Posts a send, write, read or atomic over registered memory, which stays registered and, for what the device
    /// writes, untouched until the completion. `id` comes back with it.
    ///
    /// The corresponding C function is `ibv_post_send`. `file` and `line` are for the message of the buffer guard.
    @unsafe @inlinable @inline(__always)
    public func post(
        _ operation: SendOperation, from memory: LocalMemory, id: UInt64, flags: SendFlags = .signaled,
        file: StaticString = #fileID, line: UInt = #line
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        if let error = unsafe operation.refusal(by: sends) { return .refused(error) }
        let slot = unsafe slots.pointee.single_send
        unsafe slot.point(at: memory)
        unsafe operation.store(in: slot.request)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(slot.request, record, flags, file, line))
    }

    /// Posts over a scatter/gather list. The corresponding C function is `ibv_post_send`. `file` and `line` are for the
    /// message of the buffer guard.
    @unsafe @inlinable
    public func post(
        _ operation: SendOperation, from list: Span<LocalMemory>, id: UInt64, flags: SendFlags = .signaled,
        file: StaticString = #fileID, line: UInt = #line
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        if let error = unsafe operation.refusal(by: sends) { return .refused(error) }
        guard unsafe list.count <= sends.pointee.max_elements else { return .refused(.tooManyElements) }
        let slot = unsafe slots.pointee.single_send
        let elements = unsafe slots.list(of: slot)
        for index in list.indices { unsafe elements[index] = ibv_sge(list[index]) }
        unsafe slot.pointee.request.sg_list = elements
        unsafe slot.pointee.request.num_sge = Int32(truncatingIfNeeded: list.count)
        unsafe operation.store(in: slot.request)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(slot.request, record, flags, file, line))
    }

    /// Posts a datagram over registered memory. The corresponding C function is `ibv_post_send`. `file` and `line` are
    /// for the message of the buffer guard.
    @unsafe @inlinable @inline(__always)
    public func post(
        _ operation: SendOperation, from memory: LocalMemory, to destination: borrowing DatagramDestination, id: UInt64,
        flags: SendFlags = .signaled, file: StaticString = #fileID, line: UInt = #line
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        if let error = unsafe operation.refusal(by: sends) { return .refused(error) }
        let slot = unsafe slots.pointee.single_send
        unsafe slot.point(at: memory)
        unsafe operation.store(in: slot.request)
        unsafe slot.request.address(to: destination, for: sends, core)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(slot.request, record, flags, file, line))
    }

    /// Posts a receive into registered memory, untouched until the completion. The corresponding C function is
    /// `ibv_post_recv`. `file` and `line` are for the message of the buffer guard.
    @unsafe @inlinable @inline(__always)
    public func receive(
        into memory: LocalMemory, id: UInt64, file: StaticString = #fileID, line: UInt = #line
    ) -> PostStatus {
        guard let record = unsafe receives.freeRecord else {
            return unsafe receives.pointee.limit == 0 ? .refused(.wrongTransport) : .full
        }
        let slot = unsafe slots.pointee.single_receive
        unsafe slot.point(at: memory)
        return unsafe receive(slot, record, id, file, line)
    }

    /// Posts a receive over a scatter/gather list; an empty one takes messages without bytes. The corresponding C
    /// function is `ibv_post_recv`. `file` and `line` are for the message of the buffer guard.
    @unsafe @inlinable
    public func receive(
        into list: Span<LocalMemory>, id: UInt64, file: StaticString = #fileID, line: UInt = #line
    ) -> PostStatus {
        guard let record = unsafe receives.freeRecord else {
            return unsafe receives.pointee.limit == 0 ? .refused(.wrongTransport) : .full
        }
        guard unsafe list.count <= receives.pointee.max_elements else { return .refused(.tooManyElements) }
        let slot = unsafe slots.pointee.single_receive
        let elements = unsafe slots.list(of: slot)
        for index in list.indices { unsafe elements[index] = ibv_sge(list[index]) }
        unsafe slot.pointee.request.sg_list = elements
        unsafe slot.pointee.request.num_sge = Int32(truncatingIfNeeded: list.count)
        return unsafe receive(slot, record, id, file, line)
    }

    @inlinable @inline(__always)
    func receive(
        _ slot: UnsafeMutablePointer<cverbs_receive_slot>, _ record: UnsafeMutablePointer<cverbs_record>, _ id: UInt64,
        _ file: StaticString, _ line: UInt
    ) -> PostStatus {
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        unsafe slot.pointee.request.wr_id = UInt64(UInt(bitPattern: record))
        // One call through the context's operations; request, elements and the place for the bad one are the slots'.
        let code = unsafe ibv_post_recv(native, slot.request, &slots.pointee.bad_receive)
        if code == 0 {
            unsafe receives.pointee.posted &+= 1
            if unsafe receives.pointee.is_guarded != 0 { unsafe slot.request.protect(file, line) }
            return .posted
        }
        return unsafe receives.status(ofRefusal: code)
    }
}

extension ibv_sge {
    @inlinable init(_ memory: LocalMemory) {
        self.init(addr: memory.address, length: memory.length, lkey: memory.lkey)
    }
}
