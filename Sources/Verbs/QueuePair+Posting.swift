// SPDX-License-Identifier: Apache-2.0
import CVerbsABI
import Glibc

// Posting with ownership: a post consumes a buffer, its completion gives it back.
extension QueuePair {
    /// Posts a send, write, read or atomic over a buffer (and those appended to it).
    ///
    /// ```swift
    /// switch queuePair.post(.write(to: peerMemory), buffer) {
    /// case .posted: break
    /// case .full(let buffer): …      // poll and try again
    /// case .refused(let buffer, let error): …
    /// }
    /// ```
    /// `id` comes back with the completion. The corresponding C function is `ibv_post_send`. `file` and `line` are for
    /// the message of the buffer guard.
    @inlinable @inline(__always)
    public func post(
        _ operation: SendOperation, _ buffer: consuming RegisteredBuffer, id: UInt64 = 0, flags: SendFlags = .signaled,
        file: StaticString = #fileID, line: UInt = #line
    ) -> PostResult {
        guard let record = unsafe sends.freeRecord else { return .full(buffer) }
        if let error = unsafe operation.refusal(by: sends) { return .refused(buffer, error) }
        if let error = unsafe operation.check(length: buffer.header.totalLength) { return .refused(buffer, error) }
        let slot = unsafe slots.pointee.single_send
        let header = unsafe buffer.leak()
        guard unsafe slots.gather(header, in: slot, sends.pointee.max_elements) else {
            return unsafe .refused(RegisteredBuffer(header), .tooManyElements)
        }
        unsafe operation.store(in: slot.request)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = header
        let code = unsafe ring(slot.request, record, flags, file, line)
        if code == 0 { return .posted }
        return unsafe Self.refused(header, sends, code)
    }

    /// Posts a datagram over a buffer (and those appended to it): ``SendOperation/send`` or
    /// ``SendOperation/sendWithImmediate(_:)``. The corresponding C function is `ibv_post_send`. `file` and `line` are
    /// for the message of the buffer guard.
    @inlinable @inline(__always)
    public func post(
        _ operation: SendOperation, _ buffer: consuming RegisteredBuffer, to destination: borrowing DatagramDestination,
        id: UInt64 = 0, flags: SendFlags = .signaled, file: StaticString = #fileID, line: UInt = #line
    ) -> PostResult {
        guard let record = unsafe sends.freeRecord else { return .full(buffer) }
        if let error = unsafe operation.refusal(by: sends) { return .refused(buffer, error) }
        let slot = unsafe slots.pointee.single_send
        let header = unsafe buffer.leak()
        guard unsafe slots.gather(header, in: slot, sends.pointee.max_elements) else {
            return unsafe .refused(RegisteredBuffer(header), .tooManyElements)
        }
        unsafe operation.store(in: slot.request)
        unsafe slot.request.address(to: destination, for: sends, core)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = header
        let code = unsafe ring(slot.request, record, flags, file, line)
        if code == 0 { return .posted }
        return unsafe Self.refused(header, sends, code)
    }

    /// Posts bytes that are copied during the call: the caller keeps them. At most ``QueuePairOptions/maxInline``.
    ///
    /// For sends and writes. The corresponding C function is `ibv_post_send` with `IBV_SEND_INLINE`.
    @inlinable @inline(__always)
    public func post(
        _ operation: SendOperation, inline bytes: RawSpan, id: UInt64 = 0, flags: SendFlags = .signaled
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        if let error = unsafe operation.refusal(by: sends) { return .refused(error) }
        if let error = operation.check(length: UInt64(bytes.byteCount)) { return .refused(error) }
        let slot = unsafe slots.pointee.single_send
        guard unsafe slot.inline(bytes, sends.pointee.max_inline) else { return .refused(.inlineTooLong) }
        unsafe operation.store(in: slot.request)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(slot.request, record, SendFlags(rawValue: flags.rawValue | 8)))
    }

    /// Posts a datagram of bytes that are copied during the call. The corresponding C function is `ibv_post_send` with
    /// `IBV_SEND_INLINE`.
    @inlinable @inline(__always)
    public func post(
        _ operation: SendOperation, inline bytes: RawSpan, to destination: borrowing DatagramDestination,
        id: UInt64 = 0, flags: SendFlags = .signaled
    ) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        if let error = unsafe operation.refusal(by: sends) { return .refused(error) }
        let slot = unsafe slots.pointee.single_send
        guard unsafe slot.inline(bytes, sends.pointee.max_inline) else { return .refused(.inlineTooLong) }
        unsafe operation.store(in: slot.request)
        unsafe slot.request.address(to: destination, for: sends, core)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(slot.request, record, SendFlags(rawValue: flags.rawValue | 8)))
    }

    /// Posts a receive into a buffer (and those appended to it), each up to its count. The corresponding C function is
    /// `ibv_post_recv`. `file` and `line` are for the message of the buffer guard.
    @inlinable @inline(__always)
    public func receive(
        _ buffer: consuming RegisteredBuffer, id: UInt64 = 0, file: StaticString = #fileID, line: UInt = #line
    ) -> PostResult {
        guard let record = unsafe receives.freeRecord else {
            return unsafe receives.pointee.limit == 0 ? .refused(buffer, .wrongTransport) : .full(buffer)
        }
        let slot = unsafe slots.pointee.single_receive
        let header = unsafe buffer.leak()
        guard unsafe slots.scatter(header, in: slot, receives.pointee.max_elements) else {
            return unsafe .refused(RegisteredBuffer(header), .tooManyElements)
        }
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = header
        unsafe slot.pointee.request.wr_id = UInt64(UInt(bitPattern: record))
        // One call through the context's operations; request, elements and the place for the bad one are the slots'.
        let code = unsafe ibv_post_recv(native, slot.request, &slots.pointee.bad_receive)
        if code == 0 {
            unsafe receives.pointee.posted &+= 1
            if unsafe receives.pointee.is_guarded != 0 { unsafe slot.request.protect(file, line) }
            return .posted
        }
        return unsafe Self.refused(header, receives, code)
    }

    /// Ends a key of this side: a memory window's of type 2, for the peers that were given it. Completes in order, like
    /// a send (RC). The corresponding C function is `ibv_post_send` with `IBV_WR_LOCAL_INV`.
    public func invalidate(rkey: UInt32, id: UInt64 = 0, flags: SendFlags = .signaled) -> PostStatus {
        guard let record = unsafe sends.freeRecord else { return .full }
        let slot = unsafe slots.pointee.single_send
        unsafe slot.pointee.request.opcode = .IBV_WR_LOCAL_INV
        unsafe slot.pointee.request.invalidate_rkey = rkey
        unsafe slot.pointee.request.num_sge = 0
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        return unsafe status(ring(slot.request, record, flags))
    }
}

// The steps of a post.
extension QueuePair {
    /// Hands the single request to the device and books it.
    @inlinable @inline(__always)
    func ring(
        _ request: UnsafeMutablePointer<ibv_send_wr>, _ record: UnsafeMutablePointer<cverbs_record>, _ flags: SendFlags
    ) -> Int32 {
        unsafe request.pointee.wr_id = UInt64(UInt(bitPattern: record))
        unsafe request.pointee.send_flags = sends.signalFlags(flags, record)
        // One call through the context's operations; request, elements and the place for the bad one are the slots'.
        let code = unsafe ibv_post_send(native, request, &slots.pointee.bad_send)
        if code == 0 { unsafe sends.pointee.posted &+= 1 }
        return code
    }

    /// As above, and has the memory of the request guarded.
    @inlinable @inline(__always)
    func ring(
        _ request: UnsafeMutablePointer<ibv_send_wr>, _ record: UnsafeMutablePointer<cverbs_record>, _ flags: SendFlags,
        _ file: StaticString, _ line: UInt
    ) -> Int32 {
        let code = unsafe ring(request, record, flags)
        if code == 0, unsafe sends.pointee.is_guarded != 0 { unsafe request.protect(file, line) }
        return code
    }

    /// The outcome of a refusal by the provider, with the buffer.
    @usableFromInline @inline(never) static func refused(
        _ header: UnsafeMutablePointer<cverbs_buffer>, _ queue: UnsafeMutablePointer<cverbs_queue>, _ code: Int32
    ) -> PostResult {
        let buffer = unsafe RegisteredBuffer(header)
        switch unsafe queue.status(ofRefusal: code) {
        case .refused(let error): return .refused(buffer, error)
        case .full, .posted: return .full(buffer)
        }
    }

    @inlinable @inline(__always) func status(_ code: Int32) -> PostStatus {
        code == 0 ? .posted : unsafe sends.status(ofRefusal: code)
    }
}

// Stores into the prepared requests.
extension UnsafeMutablePointer where Pointee == ibv_send_wr {
    /// Stores where a datagram goes, and sees to it that the handle lives until the datagram has left.
    @inlinable @inline(__always) func address(
        to destination: borrowing DatagramDestination, for queue: UnsafeMutablePointer<cverbs_queue>,
        _ core: QueuePairCore
    ) {
        unsafe pointee.wr.ud.ah = destination.handle.native
        unsafe pointee.wr.ud.remote_qpn = destination.queuePair
        unsafe pointee.wr.ud.remote_qkey = destination.qkey
        if unsafe destination.handle.keeper != UnsafeMutableRawPointer(queue) { core.keep(destination.handle) }
    }
}

extension UnsafeMutablePointer where Pointee == cverbs_send_slot {
    /// Points a send at registered memory.
    @inlinable @inline(__always) func point(at memory: LocalMemory) {
        unsafe pointee.element.addr = memory.address
        unsafe pointee.element.length = memory.length
        unsafe pointee.element.lkey = memory.lkey
        unsafe pointee.request.sg_list = element
        unsafe pointee.request.num_sge = 1
    }

    /// Points a send at bytes that the provider copies during the call; false if they are too many.
    @inlinable @inline(__always) func inline(_ bytes: RawSpan, _ limit: UInt32) -> Bool {
        guard bytes.byteCount <= Int(limit) else { return false }
        // The address is used by the provider before the post returns; the span is borrowed for longer.
        unsafe bytes.withUnsafeBytes { bytes in
            unsafe pointee.element.addr = UInt64(UInt(bitPattern: bytes.baseAddress))
            unsafe pointee.element.length = UInt32(truncatingIfNeeded: bytes.count)
        }
        unsafe pointee.element.lkey = 0
        unsafe pointee.request.sg_list = element
        unsafe pointee.request.num_sge = bytes.byteCount == 0 ? 0 : 1
        return true
    }
}

extension UnsafeMutablePointer where Pointee == cverbs_receive_slot {
    /// Points a receive at registered memory.
    @inlinable @inline(__always) func point(at memory: LocalMemory) {
        unsafe pointee.element.addr = memory.address
        unsafe pointee.element.length = memory.length
        unsafe pointee.element.lkey = memory.lkey
        unsafe pointee.request.sg_list = element
        unsafe pointee.request.num_sge = 1
    }
}

extension UnsafeMutablePointer where Pointee == cverbs_slots {
    /// Points a send at a buffer, or at a list made of it and those after it; false if the list is too long.
    @inlinable @inline(__always) func gather(
        _ header: UnsafeMutablePointer<cverbs_buffer>, in slot: UnsafeMutablePointer<cverbs_send_slot>, _ limit: UInt32
    ) -> Bool {
        if unsafe header.pointee.next != nil || limit == 0 { return unsafe gatherList(header, in: slot, limit) }
        // The element stands first in the header (asserted in C).
        unsafe slot.pointee.request.sg_list = UnsafeMutableRawPointer(header).assumingMemoryBound(to: ibv_sge.self)
        unsafe slot.pointee.request.num_sge = 1
        return true
    }

    @usableFromInline @inline(never) func gatherList(
        _ header: UnsafeMutablePointer<cverbs_buffer>, in slot: UnsafeMutablePointer<cverbs_send_slot>, _ limit: UInt32
    ) -> Bool {
        let list = unsafe list(of: slot)
        let count = unsafe copyElements(header, to: list, limit)
        unsafe slot.pointee.request.sg_list = list
        unsafe slot.pointee.request.num_sge = Int32(clamping: count)
        return count <= limit
    }

    /// Points a receive at a buffer, or at a list made of it and those after it; false if the list is too long.
    @inlinable @inline(__always) func scatter(
        _ header: UnsafeMutablePointer<cverbs_buffer>, in slot: UnsafeMutablePointer<cverbs_receive_slot>,
        _ limit: UInt32
    ) -> Bool {
        if unsafe header.pointee.next != nil || limit == 0 { return unsafe scatterList(header, in: slot, limit) }
        unsafe slot.pointee.request.sg_list = UnsafeMutableRawPointer(header).assumingMemoryBound(to: ibv_sge.self)
        unsafe slot.pointee.request.num_sge = 1
        return true
    }

    @usableFromInline @inline(never) func scatterList(
        _ header: UnsafeMutablePointer<cverbs_buffer>, in slot: UnsafeMutablePointer<cverbs_receive_slot>,
        _ limit: UInt32
    ) -> Bool {
        let list = unsafe list(of: slot)
        let count = unsafe copyElements(header, to: list, limit)
        unsafe slot.pointee.request.sg_list = list
        unsafe slot.pointee.request.num_sge = Int32(clamping: count)
        return count <= limit
    }

    /// Where the list of a send goes that has more than one element.
    @usableFromInline func list(of slot: UnsafeMutablePointer<cverbs_send_slot>) -> UnsafeMutablePointer<ibv_sge> {
        unsafe pointee.send_lists + (slot - pointee.send) * Int(pointee.list_stride)
    }

    /// Where the list of a receive goes that has more than one element.
    @usableFromInline func list(of slot: UnsafeMutablePointer<cverbs_receive_slot>) -> UnsafeMutablePointer<ibv_sge> {
        unsafe pointee.receive_lists + (slot - pointee.receive) * Int(pointee.receive_list_stride)
    }

    /// Copies up to `limit` elements of a list of buffers; returns how many it has, or one more than the limit.
    private func copyElements(
        _ header: UnsafeMutablePointer<cverbs_buffer>, to list: UnsafeMutablePointer<ibv_sge>, _ limit: UInt32
    ) -> UInt32 {
        var count: UInt32 = 0
        var next: UnsafeMutablePointer<cverbs_buffer>? = unsafe header
        while let buffer = unsafe next {
            if count == limit { return limit &+ 1 }
            unsafe list[Int(count)] = buffer.pointee.element
            count += 1
            unsafe next = buffer.pointee.next
        }
        return count
    }
}

// Booking.
extension UnsafeMutablePointer where Pointee == cverbs_queue {
    /// The record of the next request, `nil` when the depth is in flight.
    @inlinable @inline(__always) var freeRecord: UnsafeMutablePointer<cverbs_record>? {
        let posted = unsafe pointee.posted
        guard unsafe posted &- pointee.retired < pointee.limit else { return nil }
        return unsafe pointee.records + Int(posted & pointee.mask)
    }

    /// The flags that the provider gets. Among many unsignaled requests one completes for the library's accounts.
    @inlinable @inline(__always) func signalFlags(
        _ flags: SendFlags, _ record: UnsafeMutablePointer<cverbs_record>
    ) -> UInt32 {
        unsafe record.pointee.flags = 0
        if flags.contains(.signaled) { return flags.rawValue }
        unsafe pointee.unsignaled &+= 1
        if unsafe pointee.unsignaled < pointee.signal_interval { return unsafe flags.rawValue | pointee.always_flags }
        return unsafe silentlySignaled(flags, record)
    }

    /// One of so many unsignaled requests completes for the accounts: then never more than half of the queue waits for
    /// a completion to close them, whatever else is posted in between.
    @usableFromInline @inline(never) func silentlySignaled(
        _ flags: SendFlags, _ record: UnsafeMutablePointer<cverbs_record>
    ) -> UInt32 {
        unsafe pointee.unsignaled = 0
        if unsafe pointee.always_flags != 0 { return unsafe flags.rawValue | pointee.always_flags }
        unsafe record.pointee.flags = UInt32(CVERBS_RECORD_SILENT)
        return flags.union(.signaled).rawValue
    }

    /// What a provider's refusal means.
    @usableFromInline @inline(never) func status(ofRefusal code: Int32) -> PostStatus {
        // If the one that was refused was to complete for the accounts, the next one will.
        unsafe pointee.unsignaled = pointee.signal_interval
        // Providers say ENOMEM when their own ring is full, which may be sooner than ours.
        if abs(code) == ENOMEM, unsafe pointee.posted != pointee.retired { return .full }
        return .refused(PostError(code: abs(code)))
    }
}

extension UnsafeMutablePointer where Pointee == cverbs_buffer {
    /// Bytes in use of the whole list.
    @inlinable @inline(__always) var totalLength: UInt64 {
        unsafe pointee.next == nil ? UInt64(pointee.element.length) : listLength
    }

    @usableFromInline var listLength: UInt64 {
        var sum: UInt64 = 0
        var next: UnsafeMutablePointer<cverbs_buffer>? = unsafe self
        while let buffer = unsafe next {
            unsafe sum += UInt64(buffer.pointee.element.length)
            unsafe next = buffer.pointee.next
        }
        return sum
    }
}
