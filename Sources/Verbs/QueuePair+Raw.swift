// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

// The raw level: addresses and keys, for those who manage lifetimes themselves. Unsafe, because the device reads and
// writes the memory until the completion, whatever the program does with it meanwhile.
extension QueuePair {
    /// Posts a send, write, read or atomic over registered memory, which stays registered and, for what the device
    /// writes, untouched until the completion. `id` comes back with it.
    ///
    /// The corresponding C function is `ibv_post_send`.
    @unsafe @inlinable @inline(__always)
    public func post(
        _ operation: SendOperation, from memory: LocalMemory, id: UInt64, flags: SendFlags = .signaled
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        let request = unsafe slots.singleSend
        unsafe slots.point(request, at: memory)
        unsafe operation.store(in: request)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(request, record, flags))
    }

    /// Posts over a scatter/gather list. The corresponding C function is `ibv_post_send`.
    @unsafe @inlinable
    public func post(
        _ operation: SendOperation, from list: Span<LocalMemory>, id: UInt64, flags: SendFlags = .signaled
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        guard unsafe list.count <= sends.pointee.max_elements else { return .refused(.tooManyElements) }
        let request = unsafe slots.singleSend
        let elements =
            unsafe slots.pointee.send_elements + (request - slots.pointee.send) * Int(slots.pointee.send_stride)
        for index in list.indices { unsafe elements[index] = ibv_sge(list[index]) }
        unsafe request.pointee.sg_list = elements
        unsafe request.pointee.num_sge = Int32(truncatingIfNeeded: list.count)
        unsafe operation.store(in: request)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(request, record, flags))
    }

    /// Posts a datagram over registered memory. The corresponding C function is `ibv_post_send`.
    @unsafe @inlinable @inline(__always)
    public func post(
        _ operation: SendOperation, from memory: LocalMemory, to destination: borrowing DatagramDestination, id: UInt64,
        flags: SendFlags = .signaled
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        let request = unsafe slots.singleSend
        unsafe slots.point(request, at: memory)
        unsafe operation.store(in: request)
        unsafe slots.address(request, to: destination, for: sends, core)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(request, record, flags))
    }

    /// Posts a receive into registered memory, untouched until the completion. The corresponding C function is
    /// `ibv_post_recv`.
    @unsafe @inlinable @inline(__always)
    public func receive(into memory: LocalMemory, id: UInt64) -> PostStatus {
        guard let record = unsafe receives.freeRecord else {
            return unsafe receives.pointee.limit == 0 ? .refused(.wrongTransport) : .full
        }
        let request = unsafe slots.singleReceive
        unsafe slots.point(request, at: memory)
        return unsafe receive(request, record, id)
    }

    /// Posts a receive over a scatter/gather list; an empty one takes messages without bytes. The corresponding C
    /// function is `ibv_post_recv`.
    @unsafe @inlinable
    public func receive(into list: Span<LocalMemory>, id: UInt64) -> PostStatus {
        guard let record = unsafe receives.freeRecord else {
            return unsafe receives.pointee.limit == 0 ? .refused(.wrongTransport) : .full
        }
        guard unsafe list.count <= receives.pointee.max_elements else { return .refused(.tooManyElements) }
        let request = unsafe slots.singleReceive
        unsafe slots.point(request, at: list)
        return unsafe receive(request, record, id)
    }

    @inlinable @inline(__always)
    func receive(
        _ request: UnsafeMutablePointer<ibv_recv_wr>, _ record: UnsafeMutablePointer<cverbs_record>, _ id: UInt64
    ) -> PostStatus {
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        unsafe request.pointee.wr_id = UInt64(UInt(bitPattern: record))
        // One call through the context's operations; request, elements and the place for the bad one are the slots'.
        let code = unsafe ibv_post_recv(native, request, &slots.pointee.bad_receive)
        if code == 0 {
            unsafe receives.pointee.posted &+= 1
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

extension UnsafeMutablePointer where Pointee == cverbs_slots {
    @inlinable @inline(__always)
    func point(_ request: UnsafeMutablePointer<ibv_send_wr>, at memory: LocalMemory) {
        let element = unsafe pointee.send_elements + (request - pointee.send) * Int(pointee.send_stride)
        unsafe element.pointee.addr = memory.address
        unsafe element.pointee.length = memory.length
        unsafe element.pointee.lkey = memory.lkey
        unsafe request.pointee.sg_list = element
        unsafe request.pointee.num_sge = 1
    }

    @inlinable @inline(__always)
    func point(_ request: UnsafeMutablePointer<ibv_recv_wr>, at memory: LocalMemory) {
        let element = unsafe pointee.receive_elements + (request - pointee.receive) * Int(pointee.receive_stride)
        unsafe element.pointee.addr = memory.address
        unsafe element.pointee.length = memory.length
        unsafe element.pointee.lkey = memory.lkey
        unsafe request.pointee.sg_list = element
        unsafe request.pointee.num_sge = 1
    }

    @inlinable func point(_ request: UnsafeMutablePointer<ibv_recv_wr>, at list: Span<LocalMemory>) {
        let elements = unsafe pointee.receive_elements + (request - pointee.receive) * Int(pointee.receive_stride)
        for index in list.indices { unsafe elements[index] = ibv_sge(list[index]) }
        unsafe request.pointee.sg_list = elements
        unsafe request.pointee.num_sge = Int32(truncatingIfNeeded: list.count)
    }
}
