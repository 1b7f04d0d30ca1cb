// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftEnds
import Testing
import VerbsABI

@testable import SoftProvider

/// What ibv_wr_post(3), ibv_create_qp_ex(3) and ibv_create_cq_ex(3) of rdma-core promise.
@Suite("Extended queue pairs and completion queues", .serialized, .timeLimit(.minutes(10)))
struct ExtendedOperationTests {
    private func make(
        _ end: SoftEnd, type: ibv_qp_type = .IBV_QPT_RC, depth: UInt32 = 4, operations: ibv_qp_create_send_ops_flags?
    ) throws -> UnsafeMutablePointer<ibv_qp> {
        var attributes = ibv_qp_init_attr_ex()
        attributes.send_cq = end.queue
        attributes.recv_cq = end.queue
        attributes.qp_type = type
        attributes.cap = ibv_qp_cap(
            max_send_wr: depth, max_recv_wr: 4, max_send_sge: 2, max_recv_sge: 2, max_inline_data: 32)
        attributes.pd = end.domain
        attributes.comp_mask = IBV_QP_INIT_ATTR_PD.rawValue
        if let operations {
            attributes.comp_mask |= IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.rawValue
            attributes.send_ops_flags = UInt64(operations.rawValue)
        }
        return try #require(end.path as? SoftContext).makeExtendedQueuePair(&attributes)
    }

    /// RESET → INIT → ERR: what is posted is flushed, so that each request that was posted is seen.
    private func fail(_ queuePair: UnsafeMutablePointer<ibv_qp>, of end: SoftEnd) throws {
        var attributes = ibv_qp_attr()
        attributes.qp_state = .IBV_QPS_INIT
        attributes.port_num = 1
        try end.path.modify(
            queuePair, &attributes, mask: [.IBV_QP_STATE, .IBV_QP_PKEY_INDEX, .IBV_QP_PORT, .IBV_QP_ACCESS_FLAGS])
        attributes.qp_state = .IBV_QPS_ERR
        try end.path.modify(queuePair, &attributes, mask: .IBV_QP_STATE)
    }

    @Test("A queue pair made without send_ops_flags is none; operations that were not asked for are not there")
    func operations() throws {
        let end = try SoftEnd()
        let plain = try make(end, operations: nil)
        #expect(SoftContext.extended(plain) == nil)
        let sender = try make(end, operations: IBV_QP_EX_WITH_SEND)
        let extended = try #require(SoftContext.extended(sender))
        #expect(extended.pointee.wr_send != nil)
        #expect(extended.pointee.wr_rdma_write == nil)
        let error = #expect(throws: ProviderError.self) {
            _ = try make(end, type: .IBV_QPT_UD, operations: IBV_QP_EX_WITH_RDMA_READ)
        }
        #expect(error?.code == EOPNOTSUPP)
        try end.path.destroy(plain)
        try end.path.destroy(sender)
        try end.close()
    }

    @Test("A batch is posted whole or not at all: abort, too many requests, too much inline data, a wrong state")
    func batches() throws {
        let end = try SoftEnd()
        let queuePair = try make(end, operations: IBV_QP_EX_WITH_SEND)
        let extended = try #require(SoftContext.extended(queuePair))
        extended.pointee.wr_start(extended)
        extended.pointee.wr_send(extended)
        #expect(extended.pointee.wr_complete(extended) == EINVAL, "in RESET nothing may be posted")
        try fail(queuePair, of: end)
        func send(_ ids: Range<UInt64>, inline length: Int? = nil) {
            extended.pointee.wr_start(extended)
            for id in ids {
                extended.pointee.wr_id = id
                extended.pointee.wr_flags = 2  // IBV_SEND_SIGNALED
                extended.pointee.wr_send(extended)
                if let length {
                    extended.pointee.wr_set_inline_data(extended, end.memory, length)
                } else {
                    extended.pointee.wr_set_sge(
                        extended, end.region.pointee.lkey, UInt64(UInt(bitPattern: end.memory)), 8)
                }
            }
        }
        send(1..<3)
        extended.pointee.wr_abort(extended)
        send(10..<200)
        #expect(extended.pointee.wr_complete(extended) == ENOMEM)
        send(300..<301, inline: 1 << 16)
        #expect(extended.pointee.wr_complete(extended) == ENOMEM)
        send(0..<0)
        #expect(extended.pointee.wr_complete(extended) == 0)
        send(5..<7)
        #expect(extended.pointee.wr_complete(extended) == 0)
        let completions = end.completions(2)
        #expect(completions.map(\.wr_id) == [5, 6])
        #expect(completions.map(\.status) == [.IBV_WC_WR_FLUSH_ERR, .IBV_WC_WR_FLUSH_ERR])
        #expect(end.completions(1, within: 0.05).isEmpty)
        try end.path.destroy(queuePair)
        try end.close()
    }

    @Test("start_poll finds nothing: ENOENT and no end_poll; next_poll after the last: ENOENT, and end_poll")
    func polls() throws {
        let end = try SoftEnd()
        let context = try #require(end.path as? SoftContext)
        var attributes = ibv_cq_init_attr_ex()
        attributes.cqe = 16
        attributes.wc_flags = UInt64(IBV_WC_EX_WITH_QP_NUM.rawValue | IBV_WC_EX_WITH_BYTE_LEN.rawValue)
        let queue = try context.makeExtendedCompletionQueue(attributes)
        let plain = UnsafeMutableRawPointer(queue).assumingMemoryBound(to: ibv_cq.self)
        #expect(queue.pointee.start_poll(queue, nil) == ENOENT)
        #expect(queue.pointee.start_poll(queue, nil) == ENOENT, "the first one has left no lock held")
        var unknown = ibv_poll_cq_attr(comp_mask: 1)
        #expect(queue.pointee.start_poll(queue, &unknown) == EINVAL)
        var creation = ibv_qp_init_attr()
        creation.send_cq = plain
        creation.recv_cq = plain
        creation.qp_type = .IBV_QPT_RC
        creation.cap = ibv_qp_cap(max_send_wr: 4, max_recv_wr: 4, max_send_sge: 1, max_recv_sge: 1, max_inline_data: 0)
        let queuePair = try end.path.makeQueuePair(end.domain, &creation)
        try fail(queuePair, of: end)
        for id in [UInt64(7), 8] {
            var request = ibv_recv_wr(wr_id: id, next: nil, sg_list: nil, num_sge: 0)
            var bad: UnsafeMutablePointer<ibv_recv_wr>?
            #expect(ibv_post_recv(queuePair, &request, &bad) == 0)
        }
        #expect(queue.pointee.start_poll(queue, nil) == 0)
        #expect(queue.pointee.wr_id == 7 && queue.pointee.status == .IBV_WC_WR_FLUSH_ERR)
        #expect(queue.pointee.read_qp_num(queue) == queuePair.pointee.qp_num)
        #expect(queue.pointee.next_poll(queue) == 0)
        #expect(queue.pointee.wr_id == 8)
        #expect(queue.pointee.next_poll(queue) == ENOENT)
        queue.pointee.end_poll(queue)
        #expect(queue.pointee.start_poll(queue, nil) == ENOENT)
        attributes.wc_flags = UInt64(IBV_WC_EX_WITH_CVLAN.rawValue)
        let error = #expect(throws: ProviderError.self) { _ = try context.makeExtendedCompletionQueue(attributes) }
        #expect(error?.code == EOPNOTSUPP)
        try end.path.destroy(queuePair)
        try end.path.destroy(plain)
        try end.close()
    }
}
