// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

// Where the buffer guard meets the accounts of work requests. The data path comes here only when it is on: a post tests
// `is_guarded` of its queue, and a record that is guarded has a flag that takes its completion off the short way.

extension WorkAccount {
    /// Protects the memory of a request: of its record's buffers, or else of its elements.
    fileprivate func protect(
        _ record: UnsafeMutablePointer<cverbs_record>, _ elements: UnsafeBufferPointer<ibv_sge>,
        operation: StaticString, isWritten: Bool, file: StaticString, line: UInt
    ) {
        guard let bufferGuard else { return }
        var ranges: [BufferGuard.Range] = []
        var next = unsafe record.pointee.buffer
        while let buffer = unsafe next {
            let element = unsafe buffer.pointee.element
            let capacity = unsafe Int(buffer.pointee.capacity)
            unsafe ranges.append(
                BufferGuard.Range(
                    lkey: element.lkey, address: element.addr, count: capacity,
                    ownedCount: BufferPool.stride(of: buffer)))
            unsafe next = buffer.pointee.next
        }
        if ranges.isEmpty {
            ranges = unsafe elements.map {
                BufferGuard.Range(
                    lkey: $0.lkey, address: $0.addr, count: Int($0.length), ownedCount: Int($0.length))
            }
        }
        let request = unsafe BufferGuard.WorkRequest(
            record: UInt(bitPattern: record), id: record.pointee.id, queuePair: queuePair, operation: operation,
            isWritten: isWritten, file: file, line: line)
        guard bufferGuard.protect(request, ranges) else { return }
        unsafe record.pointee.flags |= UInt32(CVERBS_RECORD_GUARDED)
    }

    fileprivate func open(_ record: UnsafeMutablePointer<cverbs_record>) {
        unsafe record.pointee.flags &= ~UInt32(CVERBS_RECORD_GUARDED)
        bufferGuard?.open(record: UInt(bitPattern: record))
    }

    /// Opens what is still in flight, when the device has let go of it.
    func openAll() { if bufferGuard != nil { unsafe outstanding.forEach { unsafe $0.open() } } }
}

extension UnsafeMutablePointer where Pointee == cverbs_record {
    /// Opens the memory of the request, if it is guarded.
    @inline(__always) func open() {
        guard unsafe pointee.flags & UInt32(CVERBS_RECORD_GUARDED) != 0 else { return }
        unsafe withAccount { unsafe $0.open(self) }
    }

    fileprivate func withAccount(_ body: (WorkAccount) -> Void) {
        // The account lives while its records are in use.
        unsafe Unmanaged<WorkAccount>.fromOpaque(pointee.queue.pointee.owner)._withUnsafeGuaranteedRef { body($0) }
    }
}

extension UnsafeMutablePointer where Pointee == ibv_send_wr {
    /// Protects the memory of a request that is booked.
    @usableFromInline @inline(never) func protect(_ file: StaticString, _ line: UInt) {
        // What was sent inline is copied already.
        guard unsafe pointee.send_flags & ibv_send_flags.IBV_SEND_INLINE.rawValue == 0 else { return }
        let operation: StaticString
        var isWritten = false
        switch unsafe pointee.opcode {
        case .IBV_WR_RDMA_WRITE, .IBV_WR_RDMA_WRITE_WITH_IMM: operation = "a write"
        case .IBV_WR_RDMA_READ: (operation, isWritten) = ("a read", true)
        case .IBV_WR_ATOMIC_CMP_AND_SWP, .IBV_WR_ATOMIC_FETCH_AND_ADD: (operation, isWritten) = ("an atomic", true)
        case .IBV_WR_ATOMIC_WRITE: operation = "an atomic write"
        default: operation = "a send"
        }
        // The elements are as they were posted, and every wr_id that the library posts is the address of a record.
        let elements = unsafe UnsafeBufferPointer(start: pointee.sg_list, count: Int(pointee.num_sge))
        guard let record = unsafe UnsafeMutablePointer<cverbs_record>(bitPattern: UInt(pointee.wr_id)) else { return }
        unsafe record.withAccount {
            unsafe $0.protect(
                record, elements, operation: operation, isWritten: isWritten, file: file, line: line)
        }
    }
}

extension UnsafeMutablePointer where Pointee == ibv_recv_wr {
    /// Protects the memory of a receive that is booked.
    @usableFromInline @inline(never) func protect(_ file: StaticString, _ line: UInt) {
        // As above.
        let elements = unsafe UnsafeBufferPointer(start: pointee.sg_list, count: Int(pointee.num_sge))
        guard let record = unsafe UnsafeMutablePointer<cverbs_record>(bitPattern: UInt(pointee.wr_id)) else { return }
        unsafe record.withAccount {
            unsafe $0.protect(record, elements, operation: "a receive", isWritten: true, file: file, line: line)
        }
    }
}
