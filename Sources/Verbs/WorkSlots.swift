// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// Work requests prepared once for a queue: linked to each other and to their elements.
///
/// A post then stores only what differs from the last one.
@safe final class WorkSlots {
    let slots: UnsafeMutablePointer<cverbs_slots>

    /// `count` requests ring one doorbell in a batch.
    init(count: Int, sendElements: Int, receiveElements: Int) {
        let stride = max(1, sendElements)
        let send = UnsafeMutablePointer<cverbs_send_slot>.allocate(capacity: count + 1)
        let lists = UnsafeMutablePointer<ibv_sge>.allocate(capacity: (count + 1) * stride)
        unsafe lists.initialize(repeating: ibv_sge(), count: (count + 1) * stride)
        for index in 0...count {
            // The links point into the array made here, which lives as long as the object.
            var slot = unsafe cverbs_send_slot()
            unsafe slot.request.num_sge = 1
            unsafe slot.request.next = index < count - 1 ? (send + index + 1).request : nil
            unsafe (send + index).initialize(to: slot)
        }
        let receiveStride = max(1, receiveElements)
        let receive = UnsafeMutablePointer<cverbs_receive_slot>.allocate(capacity: count + 1)
        let receiveLists = UnsafeMutablePointer<ibv_sge>.allocate(capacity: (count + 1) * receiveStride)
        unsafe receiveLists.initialize(repeating: ibv_sge(), count: (count + 1) * receiveStride)
        for index in 0...count {
            // As above.
            var slot = unsafe cverbs_receive_slot()
            unsafe slot.request.next = index < count - 1 ? (receive + index + 1).request : nil
            unsafe (receive + index).initialize(to: slot)
        }
        unsafe slots = .allocate(capacity: 1)
        unsafe slots.initialize(
            to: cverbs_slots(
                single_send: send + count, single_receive: receive + count, bad_send: nil, bad_receive: nil, send: send,
                send_end: send + count, send_lists: lists, list_stride: UInt32(stride), receive: receive,
                receive_end: receive + count, receive_lists: receiveLists, receive_list_stride: UInt32(receiveStride)))
    }

    deinit {
        unsafe slots.pointee.send.deallocate()
        unsafe slots.pointee.send_lists.deallocate()
        unsafe slots.pointee.receive.deallocate()
        unsafe slots.pointee.receive_lists.deallocate()
        unsafe slots.deallocate()
    }
}

// A slot begins with its request (asserted in C), and the element follows at a constant distance.
extension UnsafeMutablePointer where Pointee == cverbs_send_slot {
    @inlinable @inline(__always) var request: UnsafeMutablePointer<ibv_send_wr> {
        unsafe UnsafeMutableRawPointer(self).assumingMemoryBound(to: ibv_send_wr.self)
    }

    @inlinable @inline(__always) var element: UnsafeMutablePointer<ibv_sge> {
        unsafe (UnsafeMutableRawPointer(self) + MemoryLayout<ibv_send_wr>.size).assumingMemoryBound(to: ibv_sge.self)
    }
}

extension UnsafeMutablePointer where Pointee == cverbs_receive_slot {
    @inlinable @inline(__always) var request: UnsafeMutablePointer<ibv_recv_wr> {
        unsafe UnsafeMutableRawPointer(self).assumingMemoryBound(to: ibv_recv_wr.self)
    }

    @inlinable @inline(__always) var element: UnsafeMutablePointer<ibv_sge> {
        unsafe (UnsafeMutableRawPointer(self) + MemoryLayout<ibv_recv_wr>.size).assumingMemoryBound(to: ibv_sge.self)
    }
}
