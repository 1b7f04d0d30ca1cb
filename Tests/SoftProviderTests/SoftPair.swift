// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

@testable import SoftProvider

/// One end of a connection over a software device, through nothing but the C ABI.
final class SoftEnd {
    let path: any ControlPath
    let domain: UnsafeMutablePointer<ibv_pd>
    let queue: UnsafeMutablePointer<ibv_cq>
    let queuePair: UnsafeMutablePointer<ibv_qp>
    let memory: UnsafeMutableRawPointer
    let region: UnsafeMutablePointer<ibv_mr>
    let byteCount: Int
    let gid: ibv_gid

    static let access = UInt32(
        ibv_access_flags([
            .IBV_ACCESS_LOCAL_WRITE, .IBV_ACCESS_REMOTE_WRITE, .IBV_ACCESS_REMOTE_READ, .IBV_ACCESS_REMOTE_ATOMIC,
        ]).rawValue)

    init(type: ibv_qp_type = .IBV_QPT_RC, byteCount: Int = 1 << 20, depth: UInt32 = 64) throws {
        let device = SoftProvider.shared.devices().first { $0.name == "soft_lo" }!
        path = try SoftProvider.shared.open(device)
        domain = try path.allocateProtectionDomain()
        queue = try path.makeCompletionQueue(capacity: 256, userContext: nil, channel: nil, vector: 0)
        memory = .allocate(byteCount: byteCount, alignment: 4096)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        self.byteCount = byteCount
        region = try path.register(
            domain, address: memory, length: byteCount, iova: UInt64(UInt(bitPattern: memory)), access: Self.access)
        var creation = ibv_qp_init_attr()
        creation.send_cq = queue
        creation.recv_cq = queue
        creation.qp_type = type
        creation.cap = ibv_qp_cap(
            max_send_wr: depth, max_recv_wr: depth, max_send_sge: 4, max_recv_sge: 4, max_inline_data: 64)
        queuePair = try path.makeQueuePair(domain, &creation)
        gid = try path.queryGIDTable()[0].gid
    }

    func close() throws {
        try path.destroy(queuePair)
        try path.deregister(region)
        try path.destroy(queue)
        try path.deallocate(domain)
        try path.close()
        memory.deallocate()
    }

    func connect(to peer: SoftEnd, timeout: UInt8 = 14) throws {
        var attributes = ibv_qp_attr()
        attributes.qp_state = .IBV_QPS_INIT
        attributes.port_num = 1
        attributes.qp_access_flags = Self.access
        try path.modify(
            queuePair, &attributes, mask: [.IBV_QP_STATE, .IBV_QP_PKEY_INDEX, .IBV_QP_PORT, .IBV_QP_ACCESS_FLAGS])
        attributes.qp_state = .IBV_QPS_RTR
        attributes.path_mtu = .IBV_MTU_4096
        attributes.dest_qp_num = peer.queuePair.pointee.qp_num
        attributes.rq_psn = 0xFFFFF0
        attributes.max_dest_rd_atomic = 16
        attributes.min_rnr_timer = 12
        attributes.ah_attr.is_global = 1
        attributes.ah_attr.grh.dgid = peer.gid
        attributes.ah_attr.grh.hop_limit = 64
        attributes.ah_attr.port_num = 1
        try path.modify(
            queuePair, &attributes,
            mask: [
                .IBV_QP_STATE, .IBV_QP_AV, .IBV_QP_PATH_MTU, .IBV_QP_DEST_QPN, .IBV_QP_RQ_PSN,
                .IBV_QP_MAX_DEST_RD_ATOMIC, .IBV_QP_MIN_RNR_TIMER,
            ])
        attributes.qp_state = .IBV_QPS_RTS
        attributes.timeout = timeout
        attributes.retry_cnt = 7
        attributes.rnr_retry = 7
        attributes.sq_psn = 0xFFFFF0
        attributes.max_rd_atomic = 16
        try path.modify(
            queuePair, &attributes,
            mask: [
                .IBV_QP_STATE, .IBV_QP_TIMEOUT, .IBV_QP_RETRY_CNT, .IBV_QP_RNR_RETRY, .IBV_QP_SQ_PSN,
                .IBV_QP_MAX_QP_RD_ATOMIC,
            ])
    }

    func post(
        _ opcode: ibv_wr_opcode, id: UInt64, offset: Int, length: Int, remote: SoftEnd? = nil, remoteOffset: Int = 0,
        inline: Bool = false
    ) -> Int32 {
        var entry = ibv_sge(
            addr: UInt64(UInt(bitPattern: memory + offset)), length: UInt32(length), lkey: region.pointee.lkey)
        return withUnsafeMutablePointer(to: &entry) { entry in
            var request = ibv_send_wr()
            request.wr_id = id
            request.sg_list = entry
            request.num_sge = 1
            request.opcode = opcode
            request.send_flags = UInt32(
                (inline
                    ? ibv_send_flags([.IBV_SEND_SIGNALED, .IBV_SEND_INLINE]) : ibv_send_flags.IBV_SEND_SIGNALED)
                    .rawValue)
            if let remote {
                request.wr.rdma.remote_addr = UInt64(UInt(bitPattern: remote.memory + remoteOffset))
                request.wr.rdma.rkey = remote.region.pointee.rkey
            }
            var bad: UnsafeMutablePointer<ibv_send_wr>?
            return ibv_post_send(queuePair, &request, &bad)
        }
    }

    func postReceive(id: UInt64, offset: Int, length: Int) -> Int32 {
        var entry = ibv_sge(
            addr: UInt64(UInt(bitPattern: memory + offset)), length: UInt32(length), lkey: region.pointee.lkey)
        return withUnsafeMutablePointer(to: &entry) { entry in
            var request = ibv_recv_wr(wr_id: id, next: nil, sg_list: entry, num_sge: 1)
            var bad: UnsafeMutablePointer<ibv_recv_wr>?
            return ibv_post_recv(queuePair, &request, &bad)
        }
    }

    /// Polls until `count` completions came or `seconds` have passed.
    func completions(_ count: Int, within seconds: Double = 10) -> [ibv_wc] {
        var found: [ibv_wc] = []
        var one = ibv_wc()
        let end = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while found.count < count, monotonicNanoseconds() < end {
            if ibv_poll_cq(queue, 1, &one) == 1 { found.append(one) } else { sched_yield() }
        }
        return found
    }

    func fill(_ seed: UInt8) {
        let bytes = memory.assumingMemoryBound(to: UInt8.self)
        for index in 0..<byteCount { bytes[index] = UInt8(truncatingIfNeeded: index &* 31 &+ index >> 8) &+ seed }
    }
}
