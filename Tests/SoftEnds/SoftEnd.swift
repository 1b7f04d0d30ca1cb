// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

/// What one end has to know of the other; exchangeable as one line of text.
package struct RemoteEnd: Sendable, Equatable {
    package var qpn: UInt32
    package var gidHigh: UInt64
    package var gidLow: UInt64
    package var address: UInt64
    package var rkey: UInt32

    package var text: String {
        [UInt64(qpn), gidHigh, gidLow, address, UInt64(rkey)].map { String($0, radix: 16) }.joined(separator: " ")
    }

    package init?(_ text: String) {
        let words = text.split(separator: " ").compactMap { UInt64($0, radix: 16) }
        guard words.count == 5 else { return nil }
        qpn = UInt32(truncatingIfNeeded: words[0])
        gidHigh = words[1]
        gidLow = words[2]
        address = words[3]
        rkey = UInt32(truncatingIfNeeded: words[4])
    }

    init(qpn: UInt32, gid: ibv_gid, address: UInt64, rkey: UInt32) {
        self.qpn = qpn
        gidHigh = gid.global.subnet_prefix
        gidLow = gid.global.interface_id
        self.address = address
        self.rkey = rkey
    }

    var gid: ibv_gid {
        var gid = ibv_gid()
        gid.global.subnet_prefix = gidHigh
        gid.global.interface_id = gidLow
        return gid
    }
}

/// One end of a connection over a software device, through nothing but the C ABI.
package final class SoftEnd {
    package let path: any ControlPath
    package let domain: UnsafeMutablePointer<ibv_pd>
    package let queue: UnsafeMutablePointer<ibv_cq>
    package let queuePair: UnsafeMutablePointer<ibv_qp>
    package let memory: UnsafeMutableRawPointer
    package let region: UnsafeMutablePointer<ibv_mr>
    package let byteCount: Int
    package let gid: ibv_gid

    package static let access = UInt32(
        ibv_access_flags([
            .IBV_ACCESS_LOCAL_WRITE, .IBV_ACCESS_REMOTE_WRITE, .IBV_ACCESS_REMOTE_READ, .IBV_ACCESS_REMOTE_ATOMIC,
        ]).rawValue)

    package init(type: ibv_qp_type = .IBV_QPT_RC, byteCount: Int = 1 << 20, depth: UInt32 = 64) throws {
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

    package var description: RemoteEnd {
        RemoteEnd(
            qpn: queuePair.pointee.qp_num, gid: gid, address: UInt64(UInt(bitPattern: memory)),
            rkey: region.pointee.rkey)
    }

    package func close() throws {
        try path.destroy(queuePair)
        try path.deregister(region)
        try path.destroy(queue)
        try path.deallocate(domain)
        try path.close()
        memory.deallocate()
    }

    /// What a connected queue pair with one work request in each queue takes of this process's memory, in bytes: by how
    /// much the resident memory grows with `count` of them.
    package func bytesPerQueuePair(count: Int) throws -> Int {
        var creation = ibv_qp_init_attr()
        creation.send_cq = queue
        creation.recv_cq = queue
        creation.qp_type = .IBV_QPT_RC
        creation.cap = ibv_qp_cap(max_send_wr: 1, max_recv_wr: 1, max_send_sge: 1, max_recv_sge: 1, max_inline_data: 0)
        func makeOne() throws {
            let made = try path.makeQueuePair(domain, &creation)
            try connect(made, to: RemoteEnd(qpn: made.pointee.qp_num, gid: gid, address: 0, rkey: 0))
        }
        // Tables that grow by doubling have grown.
        for _ in 0..<count / 8 { try makeOne() }
        let before = residentByteCount()
        for _ in 0..<count { try makeOne() }
        return (residentByteCount() - before) / count
    }

    private func residentByteCount() -> Int {
        guard let file = fopen("/proc/self/statm", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 128)
        fgets(&line, 128, file)
        let words = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(
            separator: " ")
        return (Int(words[1]) ?? 0) * Int(sysconf(Int32(_SC_PAGESIZE)))
    }

    package func connect(to peer: RemoteEnd, timeout: UInt8 = 14) throws {
        try connect(queuePair, to: peer, timeout: timeout)
    }

    private func connect(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, to peer: RemoteEnd, timeout: UInt8 = 14
    ) throws {
        var attributes = ibv_qp_attr()
        attributes.qp_state = .IBV_QPS_INIT
        attributes.port_num = 1
        attributes.qp_access_flags = Self.access
        try path.modify(
            queuePair, &attributes, mask: [.IBV_QP_STATE, .IBV_QP_PKEY_INDEX, .IBV_QP_PORT, .IBV_QP_ACCESS_FLAGS])
        attributes.qp_state = .IBV_QPS_RTR
        attributes.path_mtu = .IBV_MTU_4096
        attributes.dest_qp_num = peer.qpn
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

    package func post(
        _ opcode: ibv_wr_opcode, id: UInt64, offset: Int, length: Int, remote: RemoteEnd? = nil, remoteOffset: Int = 0,
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
                request.wr.rdma.remote_addr = remote.address + UInt64(remoteOffset)
                request.wr.rdma.rkey = remote.rkey
            }
            var bad: UnsafeMutablePointer<ibv_send_wr>?
            return ibv_post_send(queuePair, &request, &bad)
        }
    }

    package func postReceive(id: UInt64, offset: Int, length: Int) -> Int32 {
        var entry = ibv_sge(
            addr: UInt64(UInt(bitPattern: memory + offset)), length: UInt32(length), lkey: region.pointee.lkey)
        return withUnsafeMutablePointer(to: &entry) { entry in
            var request = ibv_recv_wr(wr_id: id, next: nil, sg_list: entry, num_sge: 1)
            var bad: UnsafeMutablePointer<ibv_recv_wr>?
            return ibv_post_recv(queuePair, &request, &bad)
        }
    }

    /// Polls until `count` completions came or `seconds` have passed.
    package func completions(_ count: Int, within seconds: Double = 10) -> [ibv_wc] {
        var found: [ibv_wc] = []
        var one = ibv_wc()
        let end = now() + UInt64(seconds * 1e9)
        while found.count < count, now() < end {
            if ibv_poll_cq(queue, 1, &one) == 1 { found.append(one) } else { sched_yield() }
        }
        return found
    }

    package func fill(_ seed: UInt8) {
        let bytes = memory.assumingMemoryBound(to: UInt8.self)
        for index in 0..<byteCount { bytes[index] = UInt8(truncatingIfNeeded: index &* 31 &+ index >> 8) &+ seed }
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
private func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
