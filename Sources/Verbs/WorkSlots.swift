// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// Work requests prepared once for a queue: linked to each other and to their elements.
///
/// A post then stores only what differs from the last one. The last slot of each kind is for single posts and links to
/// nothing.
@safe final class WorkSlots {
    let slots: UnsafeMutablePointer<cverbs_slots>

    /// `count` requests ring one doorbell in a batch.
    init(count: Int, sendElements: Int, receiveElements: Int) {
        let sendStride = max(1, sendElements)
        let receiveStride = max(1, receiveElements)
        let send = UnsafeMutablePointer<ibv_send_wr>.allocate(capacity: count + 1)
        let sendList = UnsafeMutablePointer<ibv_sge>.allocate(capacity: (count + 1) * sendStride)
        let receive = UnsafeMutablePointer<ibv_recv_wr>.allocate(capacity: count + 1)
        let receiveList = UnsafeMutablePointer<ibv_sge>.allocate(capacity: (count + 1) * receiveStride)
        unsafe sendList.initialize(repeating: ibv_sge(), count: (count + 1) * sendStride)
        unsafe receiveList.initialize(repeating: ibv_sge(), count: (count + 1) * receiveStride)
        for index in 0...count {
            // Each points into the arrays made here, which live as long as the object.
            var request = unsafe ibv_send_wr()
            unsafe request.sg_list = sendList + index * sendStride
            unsafe request.num_sge = 1
            unsafe request.next = index < count - 1 ? send + index + 1 : nil
            unsafe (send + index).initialize(to: request)
            var receipt = unsafe ibv_recv_wr()
            unsafe receipt.sg_list = receiveList + index * receiveStride
            unsafe receipt.num_sge = 1
            unsafe receipt.next = index < count - 1 ? receive + index + 1 : nil
            unsafe (receive + index).initialize(to: receipt)
        }
        unsafe slots = .allocate(capacity: 1)
        unsafe slots.initialize(
            to: cverbs_slots(
                send: send, send_elements: sendList, receive: receive, receive_elements: receiveList,
                count: UInt32(count), send_stride: UInt32(sendStride), receive_stride: UInt32(receiveStride),
                bad_send: nil, bad_receive: nil))
    }

    deinit {
        unsafe slots.pointee.send.deallocate()
        unsafe slots.pointee.send_elements.deallocate()
        unsafe slots.pointee.receive.deallocate()
        unsafe slots.pointee.receive_elements.deallocate()
        unsafe slots.deallocate()
    }
}
