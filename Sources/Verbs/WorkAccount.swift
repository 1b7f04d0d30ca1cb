// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// The account of one send, receive or shared receive queue: which work requests are in flight, and what they own.
///
/// The inlined data path works on the plain memory; this object owns it. The memory outlives the queue until every
/// completion that points into it has been delivered, or its completion queue is gone; whatever is still in flight then
/// returns to its pool.
@safe @usableFromInline final class WorkAccount {
    @usableFromInline let queue: UnsafeMutablePointer<cverbs_queue>
    /// Objects kept alive until a work request resolves, by the index of its record.
    private var held: [UInt32: AnyObject] = [:]
    /// Protects the memory of what is in flight, where that was asked for.
    let bufferGuard: BufferGuard?
    /// The number of the queue pair, for the guard's message; zero for a shared queue.
    let queuePair: UInt32

    enum Role {
        case send(signalsAll: Bool)
        case receive
        case sharedReceive
    }

    /// `depth` requests may be in flight; zero makes a queue that takes none.
    init(
        role: Role, depth: Int, elements: Int, inlineBytes: Int = 0, hasPlacement: Bool = false,
        bufferGuard: BufferGuard? = nil, queuePair: UInt32 = 0
    ) {
        self.bufferGuard = bufferGuard
        self.queuePair = queuePair
        var size = 1
        while size < depth { size *= 2 }
        var account = unsafe cverbs_queue(
            records: .allocate(capacity: size), mask: UInt32(size - 1), limit: UInt32(depth), posted: 0, retired: 0,
            unsignaled: 0, signal_interval: UInt32(max(1, depth / 2)), always_flags: 0, max_elements: UInt32(elements),
            max_inline: UInt32(inlineBytes), has_placement: hasPlacement ? 1 : 0, is_shared: 0, is_receive: 0,
            free_count: 0, is_guarded: bufferGuard == nil ? 0 : 1, batch: 0, free_indices: nil,
            // Replaced below; the account is not in use before.
            owner: unsafe UnsafeRawPointer(bitPattern: 1)!)
        switch role {
        case .send(let signalsAll):
            guard signalsAll else { break }
            unsafe account.always_flags = SendFlags.signaled.rawValue
            unsafe account.signal_interval = .max
        case .receive: unsafe account.is_receive = 1
        case .sharedReceive:
            unsafe account.is_receive = 1
            unsafe account.is_shared = 1
            unsafe account.free_count = UInt32(depth)
            let free = UnsafeMutablePointer<UInt32>.allocate(capacity: max(1, depth))
            for index in 0..<depth { unsafe (free + index).initialize(to: UInt32(depth - 1 - index)) }
            unsafe account.free_indices = free
        }
        unsafe queue = .allocate(capacity: 1)
        unsafe queue.initialize(to: account)
        unsafe queue.pointee.owner = unsafe UnsafeRawPointer(Unmanaged.passUnretained(self).toOpaque())
        for index in 0..<size {
            unsafe (queue.pointee.records + index).initialize(
                to: cverbs_record(id: 0, buffer: nil, queue: queue, index: UInt32(index), flags: 0))
        }
    }

    deinit {
        openAll()
        unsafe outstanding.forEach { record in
            if let buffer = unsafe record.pointee.buffer { unsafe BufferPool.recycle(buffer) }
        }
        unsafe queue.pointee.records.deallocate()
        unsafe queue.pointee.free_indices?.deallocate()
        unsafe queue.deallocate()
    }

    /// Work requests in flight, as far as delivered completions tell.
    var count: Int { unsafe Int(queue.pointee.posted &- queue.pointee.retired) }

    /// The records in flight, in the order of their posts (of a shared queue: in no order).
    var outstanding: [UnsafeMutablePointer<cverbs_record>] {
        let account = unsafe queue.pointee
        if unsafe account.is_shared != 0 {
            return unsafe (0..<Int(account.limit)).map { unsafe account.records + $0 }
                .filter { unsafe $0.pointee.flags & UInt32(CVERBS_RECORD_LIVE) != 0 }
        }
        return unsafe (0..<(account.posted &- account.retired)).map { offset in
            unsafe account.records + Int((account.retired &+ offset) & account.mask)
        }
    }

    /// Keeps an object until the request of that record resolves.
    func hold(_ object: AnyObject, for record: UnsafeMutablePointer<cverbs_record>) {
        unsafe record.pointee.flags |= UInt32(CVERBS_RECORD_HOLDS)
        held[unsafe record.pointee.index] = object
    }

    /// Lets go of what the request needed beside its buffer.
    fileprivate func release(_ record: UnsafeMutablePointer<cverbs_record>) {
        unsafe record.open()
        guard unsafe record.pointee.flags & UInt32(CVERBS_RECORD_HOLDS) != 0 else { return }
        held[unsafe record.pointee.index] = nil
    }
}

// Closing the account of a work request by its completion.
extension WorkAccount {
    /// Settles what is not the plain success of the oldest request: see ``settle(_:)``.
    fileprivate func settleRest(
        _ record: UnsafeMutablePointer<cverbs_record>, _ completion: UnsafeMutablePointer<cverbs_wc>
    ) -> Bool {
        guard unsafe resolve(through: record) else { return false }
        let flags = unsafe record.pointee.flags
        unsafe release(record)
        unsafe record.pointee.flags = 0
        let isReceive = unsafe queue.pointee.is_receive != 0
        if unsafe completion.pointee.status.rawValue != 0 {
            // The opcode of a failed request is not defined; say at least which side it was.
            if unsafe (completion.pointee.opcode.rawValue & 128 != 0) != isReceive {
                unsafe completion.pointee.opcode = isReceive ? .IBV_WC_RECV : .IBV_WC_SEND
            }
            return true
        }
        if flags & UInt32(CVERBS_RECORD_SILENT) != 0 {
            if let buffer = unsafe record.pointee.buffer { unsafe BufferPool.recycle(buffer) }
            return false
        }
        return true
    }

    /// Retires the record and what it proves done; false if it was not in flight (a provider completed it twice).
    private func resolve(through record: UnsafeMutablePointer<cverbs_record>) -> Bool {
        if unsafe queue.pointee.is_shared != 0 {
            guard unsafe record.pointee.flags & UInt32(CVERBS_RECORD_LIVE) != 0 else { return false }
            unsafe queue.pointee.free_indices![Int(queue.pointee.free_count)] = record.pointee.index
            unsafe queue.pointee.free_count += 1
            unsafe queue.pointee.retired &+= 1
            return true
        }
        let distance = unsafe (record.pointee.index &- queue.pointee.retired) & queue.pointee.mask
        guard unsafe distance < queue.pointee.posted &- queue.pointee.retired else { return false }
        // Unsignaled ones before it have succeeded: nobody asks for their buffers.
        for offset in 0..<distance {
            let earlier = unsafe queue.pointee.records + Int((queue.pointee.retired &+ offset) & queue.pointee.mask)
            unsafe release(earlier)
            if let buffer = unsafe earlier.pointee.buffer { unsafe BufferPool.recycle(buffer) }
        }
        unsafe queue.pointee.retired &+= distance &+ 1
        return true
    }
}

// On the record, not on the class: a static method of a class would fetch the class's metadata at each completion.
extension UnsafeMutablePointer where Pointee == cverbs_record {
    /// Settles a completion: the request and, in a ring, all before it are resolved. The completion gets the caller's
    /// id. Returns false for one that the caller is not to see.
    @inlinable @inline(__always) func settle(_ completion: UnsafeMutablePointer<cverbs_wc>) -> Bool {
        let queue = unsafe pointee.queue
        unsafe completion.pointee.wr_id = pointee.id
        let retired = unsafe queue.pointee.retired
        // Plain success of the oldest request in a ring: all but a few completions.
        if unsafe pointee.flags | completion.pointee.status.rawValue == 0
            && pointee.index == retired & queue.pointee.mask && retired != queue.pointee.posted
        {
            unsafe queue.pointee.retired = retired &+ 1
            return true
        }
        return unsafe settleRest(completion)
    }

    /// The buffer that the request owned. After a receive its count is what arrived.
    @inlinable @inline(__always)
    func takeBuffer(_ completion: UnsafeMutablePointer<cverbs_wc>) -> UnsafeMutablePointer<cverbs_buffer>? {
        let buffer = unsafe pointee.buffer
        if let buffer = unsafe buffer, unsafe completion.pointee.opcode.rawValue & 128 != 0 {
            unsafe buffer.received(completion)
        }
        return unsafe buffer
    }

    @usableFromInline @inline(never) func settleRest(_ completion: UnsafeMutablePointer<cverbs_wc>) -> Bool {
        // The account lives while completions point into it.
        unsafe Unmanaged<WorkAccount>.fromOpaque(pointee.queue.pointee.owner)._withUnsafeGuaranteedRef {
            unsafe $0.settleRest(self, completion)
        }
    }
}

extension UnsafeMutablePointer where Pointee == cverbs_buffer {
    /// Sets the count of a receive's buffer to what arrived.
    @inlinable @inline(__always) func received(_ completion: UnsafeMutablePointer<cverbs_wc>) {
        guard unsafe completion.pointee.status.rawValue == 0 else { return }
        // A write with immediate went elsewhere; its length is not the buffer's.
        let length = unsafe completion.pointee.opcode.rawValue == 129 ? 0 : completion.pointee.byte_len
        if unsafe pointee.next == nil && length <= pointee.capacity {
            unsafe pointee.element.length = length
        } else {
            unsafe scatter(length)
        }
    }

    /// Sets the counts of a list of buffers to what arrived in each. They stand as they were posted: the device filled
    /// each up to its count in turn.
    @usableFromInline @inline(never) func scatter(_ length: UInt32) {
        var rest = length
        var next: UnsafeMutablePointer<cverbs_buffer>? = unsafe self
        while let buffer = unsafe next {
            let part = unsafe min(rest, buffer.pointee.element.length)
            unsafe buffer.pointee.element.length = part
            rest -= part
            unsafe next = buffer.pointee.next
        }
    }
}
