// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import SoftProvider
import SystemProvider
import Testing
import VerbsABI

/// The software device and a device of the kernel in one process: what no program of rdma-core's can be told to do.
/// `VERBS_INTEROP` has both names, as in `soft_v1,rxe0`; the stage guest-interop sets it.
@Suite(
    "ATOMIC WRITE and FLUSH between the software device and rxe", .serialized, .timeLimit(.minutes(10)),
    .enabled(if: getenv("VERBS_INTEROP") != nil, "VERBS_INTEROP names no pair of devices"))
struct KernelPeerTests {
    private static let remote = ibv_access_flags([
        .IBV_ACCESS_LOCAL_WRITE, .IBV_ACCESS_REMOTE_WRITE, .IBV_ACCESS_REMOTE_READ, .IBV_ACCESS_REMOTE_ATOMIC,
    ]).rawValue
    private static let flushable = remote | cverbs_access_flush_global

    /// Both ends, connected: the software device's and the kernel's.
    private func makeEnds(
        softSendPSN: UInt32 = 0
    ) throws -> (soft: InteropEnd, kernel: InteropEnd) {
        let names = try #require(
            getenv("VERBS_INTEROP").map { String(cString: $0).split(separator: ",").map(String.init) })
        let soft = try InteropEnd(SoftProvider.shared, device: names[0], regionAccess: Self.flushable)
        let kernel = try InteropEnd(SystemProvider.shared, device: names[1], regionAccess: Self.flushable)
        try soft.connect(to: kernel, access: Self.flushable, sendPSN: softSendPSN)
        try kernel.connect(to: soft, access: Self.flushable)
        return (soft, kernel)
    }

    private func close(_ ends: (soft: InteropEnd, kernel: InteropEnd)) throws {
        try ends.soft.close()
        try ends.kernel.close()
    }

    @Test("rxe takes our ATOMIC WRITE")
    func ourAtomicWrite() throws {
        let ends = try makeEnds()
        ends.soft.word = 0x0102_0304_0506_0708
        #expect(ends.soft.postAtomicWrite(to: ends.kernel, offset: 64) == 0)
        #expect(ends.soft.completion()?.status == .IBV_WC_SUCCESS)
        #expect(ends.kernel.memory.load(fromByteOffset: 64, as: UInt64.self) == 0x0102_0304_0506_0708)
        #expect(ends.soft.postAtomicWrite(to: ends.kernel, offset: 68) == 0)
        #expect(ends.soft.completion()?.status == .IBV_WC_REM_INV_REQ_ERR, "not aligned")
        try close(ends)
    }

    @Test("We take rxe's ATOMIC WRITE, posted by ibv_wr_atomic_write")
    func theirAtomicWrite() throws {
        let ends = try makeEnds()
        ends.kernel.word = 0x1112_1314_1516_1718
        #expect(ends.kernel.postExtendedAtomicWrite(to: ends.soft, offset: 64) == 0)
        let completion = try #require(ends.kernel.completion(polling: ends.soft))
        #expect(completion.status == .IBV_WC_SUCCESS)
        #expect(completion.opcode == .IBV_WC_ATOMIC_WRITE)
        #expect(ends.soft.memory.load(fromByteOffset: 64, as: UInt64.self) == 0x1112_1314_1516_1718)
        #expect(ends.kernel.postExtendedAtomicWrite(to: ends.soft, offset: 68) == 0)
        #expect(ends.kernel.completion(polling: ends.soft)?.status == .IBV_WC_REM_INV_REQ_ERR, "not aligned")
        try close(ends)
    }

    /// rxe's table of opcodes (6.2 to 6.12 at least) has no payload offset for FLUSH, so its ICRC covers the packet from
    /// the BTH on a second time, and a FLUSH with the right one is dropped. The FLUSHes here are forged for that.
    @Test("rxe takes a FLUSH as we make it, but for the ICRC: its own covers the headers twice")
    func flush() throws {
        let ends = try makeEnds(softSendPSN: 3)
        let forger = try FlushForger(from: ends.soft, to: ends.kernel)
        let before = ends.soft.responsesOutOfTurn
        // The right one first: were it taken, there would be one answer more.
        try forger.send(psn: 0, header: 0x01, offset: 64, length: 128, likeRXE: false)
        try forger.send(psn: 0, header: 0x01, offset: 64, length: 128, likeRXE: true)
        try forger.send(psn: 1, header: 0x11, offset: 0, length: 0, likeRXE: true)
        try forger.send(psn: 2, header: 0x01, offset: InteropEnd.byteCount, length: 0, likeRXE: true)
        // rxe expects PSN 3 if it has executed all three, and refuses it otherwise.
        ends.soft.word = 5
        #expect(ends.soft.postAtomicWrite(to: ends.kernel, offset: 64) == 0)
        #expect(ends.soft.completion()?.status == .IBV_WC_SUCCESS)
        #expect(ends.soft.responsesOutOfTurn - before == 3)
        try close(ends)
    }
}

/// Sends FLUSHes past the device, from its address.
private final class FlushForger {
    private let descriptor: Int32
    private let from: InteropEnd
    private let to: InteropEnd
    private let sourcePort: UInt16 = 0xDDDD

    init(from: InteropEnd, to: InteropEnd) throws {
        self.from = from
        self.to = to
        descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        // Identification 0 and DF, which the ICRC covers.
        var probe = Int32(IP_PMTUDISC_PROBE)
        try #require(setsockopt(descriptor, Int32(IPPROTO_IP), IP_MTU_DISCOVER, &probe, 4) == 0)
        var address = Self.address(from.gid, port: sourcePort)
        let result = withUnsafeBytes(of: &address) { bytes in
            bind(descriptor, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
        }
        try #require(result == 0, "errno \(errno)")
    }

    deinit { close(descriptor) }

    private static func address(_ gid: GID, port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = gid.ipv4.bigEndian
        return address
    }

    func send(psn: UInt32, header: UInt32, offset: Int, length: UInt32, likeRXE: Bool) throws {
        var packet = RoCEPacket(
            bth: BTH(
                opcode: .rcFlush, destination: QPN(truncating: to.number), psn: PSN(truncating: psn),
                acknowledgeRequest: true),
            payloadByteCount: 0)
        packet.feth = FETH(rawValue: header)
        packet.reth = RETH(
            virtualAddress: UInt64(UInt(bitPattern: to.memory + offset)), rkey: MemoryKey(rawValue: to.rkey),
            length: length)
        var bytes = [UInt8](repeating: 0, count: packet.byteCount)
        let seed = ICRC.seed(
            ICRC.Flow(source: from.gid, destination: to.gid, sourcePort: sourcePort), udpPayloadByteCount: bytes.count)
        bytes.withUnsafeMutableBytes { buffer in
            var span = buffer.mutableBytes
            packet.emitHeaders(into: &span)
            ICRC.seal(&span, seed)
        }
        if likeRXE {
            let once = UInt32(
                littleEndian: bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 32, as: UInt32.self) })
            let twice = bytes.withUnsafeBytes { ~clinuxnet_crc32(~once, $0.baseAddress!, 32) }
            bytes.withUnsafeMutableBytes { $0.storeBytes(of: twice.littleEndian, toByteOffset: 32, as: UInt32.self) }
        }
        var address = Self.address(to.gid, port: 4791)
        let sent = withUnsafeBytes(of: &address) { target in
            sendto(
                descriptor, bytes, bytes.count, 0, target.baseAddress!.assumingMemoryBound(to: sockaddr.self),
                socklen_t(target.count))
        }
        try #require(sent == bytes.count, "errno \(errno)")
    }
}

/// One end of a connection over any provider's device, whose queue pair has the extended operations if it can.
private final class InteropEnd {
    static let byteCount = 4096

    let path: any ControlPath
    let memory: UnsafeMutableRawPointer
    private let domain: UnsafeMutablePointer<ibv_pd>
    private let queue: UnsafeMutablePointer<ibv_cq>
    private let queuePair: UnsafeMutablePointer<ibv_qp>
    private let region: UnsafeMutablePointer<ibv_mr>
    private let gidEntry: ibv_gid_entry

    init(_ provider: any VerbsProvider, device name: String, regionAccess: UInt32) throws {
        let device = try #require(provider.devices().first { $0.name == name })
        path = try provider.open(device)
        domain = try path.allocateProtectionDomain()
        queue = try path.makeCompletionQueue(capacity: 16, userContext: nil, channel: nil, vector: 0)
        memory = .allocate(byteCount: Self.byteCount, alignment: 4096)
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: Self.byteCount)
        region = try path.register(
            domain, address: memory, length: Self.byteCount, iova: UInt64(UInt(bitPattern: memory)),
            access: regionAccess)
        gidEntry = try #require(try path.queryGIDTable().first { Self.gid($0).isIPv4Mapped })
        let capabilities = ibv_qp_cap(
            max_send_wr: 16, max_recv_wr: 1, max_send_sge: 1, max_recv_sge: 1, max_inline_data: 8)
        if let extended = verbs_get_ctx(path.context), let make = extended.pointee.create_qp_ex {
            var creation = ibv_qp_init_attr_ex()
            creation.send_cq = queue
            creation.recv_cq = queue
            creation.qp_type = .IBV_QPT_RC
            creation.cap = capabilities
            creation.comp_mask = IBV_QP_INIT_ATTR_PD.rawValue | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.rawValue
            creation.pd = domain
            creation.send_ops_flags = UInt64(IBV_QP_EX_WITH_ATOMIC_WRITE.rawValue)
            queuePair = try #require(make(path.context, &creation), "errno \(errno)")
        } else {
            var creation = ibv_qp_init_attr()
            creation.send_cq = queue
            creation.recv_cq = queue
            creation.qp_type = .IBV_QPT_RC
            creation.cap = capabilities
            queuePair = try path.makeQueuePair(domain, &creation)
        }
    }

    func close() throws {
        try path.destroy(queuePair)
        try path.deregister(region)
        try path.destroy(queue)
        try path.deallocate(domain)
        try path.close()
        memory.deallocate()
    }

    private static func gid(_ entry: ibv_gid_entry) -> GID {
        GID(
            high: UInt64(bigEndian: entry.gid.global.subnet_prefix),
            low: UInt64(bigEndian: entry.gid.global.interface_id))
    }

    var gid: GID { Self.gid(gidEntry) }
    var number: UInt32 { queuePair.pointee.qp_num }
    var rkey: UInt32 { region.pointee.rkey }

    /// Answers to what this end did not ask.
    var responsesOutOfTurn: UInt64 { path.counters().first { $0.name == "dropped_sequence" }?.value ?? 0 }

    func connect(to peer: InteropEnd, access: UInt32, sendPSN: UInt32 = 0) throws {
        var attributes = ibv_qp_attr()
        attributes.qp_state = .IBV_QPS_INIT
        attributes.port_num = 1
        attributes.qp_access_flags = access
        try path.modify(
            queuePair, &attributes, mask: [.IBV_QP_STATE, .IBV_QP_PKEY_INDEX, .IBV_QP_PORT, .IBV_QP_ACCESS_FLAGS])
        attributes.qp_state = .IBV_QPS_RTR
        attributes.path_mtu = .IBV_MTU_1024
        attributes.dest_qp_num = peer.queuePair.pointee.qp_num
        attributes.max_dest_rd_atomic = 4
        attributes.min_rnr_timer = 12
        attributes.ah_attr.is_global = 1
        attributes.ah_attr.grh.dgid = peer.gidEntry.gid
        attributes.ah_attr.grh.sgid_index = UInt8(gidEntry.gid_index)
        attributes.ah_attr.grh.hop_limit = 64
        attributes.ah_attr.port_num = 1
        try path.modify(
            queuePair, &attributes,
            mask: [
                .IBV_QP_STATE, .IBV_QP_AV, .IBV_QP_PATH_MTU, .IBV_QP_DEST_QPN, .IBV_QP_RQ_PSN,
                .IBV_QP_MAX_DEST_RD_ATOMIC, .IBV_QP_MIN_RNR_TIMER,
            ])
        attributes.qp_state = .IBV_QPS_RTS
        // A second: a stall of the host is no loss.
        attributes.timeout = 18
        attributes.retry_cnt = 7
        attributes.rnr_retry = 7
        attributes.max_rd_atomic = 4
        attributes.sq_psn = sendPSN
        try path.modify(
            queuePair, &attributes,
            mask: [
                .IBV_QP_STATE, .IBV_QP_TIMEOUT, .IBV_QP_RETRY_CNT, .IBV_QP_RNR_RETRY, .IBV_QP_SQ_PSN,
                .IBV_QP_MAX_QP_RD_ATOMIC,
            ])
    }

    /// What an ATOMIC WRITE sends.
    var word: UInt64 {
        get { memory.load(as: UInt64.self) }
        set { memory.storeBytes(of: newValue, as: UInt64.self) }
    }

    func postAtomicWrite(to peer: InteropEnd, offset: Int) -> Int32 {
        var entry = ibv_sge(addr: UInt64(UInt(bitPattern: memory)), length: 8, lkey: region.pointee.lkey)
        return withUnsafeMutablePointer(to: &entry) { entry in
            var request = ibv_send_wr()
            request.sg_list = entry
            request.num_sge = 1
            request.opcode = .IBV_WR_ATOMIC_WRITE
            request.wr.rdma.remote_addr = UInt64(UInt(bitPattern: peer.memory + offset))
            request.wr.rdma.rkey = peer.region.pointee.rkey
            return post(&request)
        }
    }

    private func post(_ request: inout ibv_send_wr) -> Int32 {
        var bad: UnsafeMutablePointer<ibv_send_wr>?
        request.send_flags = UInt32(ibv_send_flags.IBV_SEND_SIGNALED.rawValue)
        return ibv_post_send(queuePair, &request, &bad)
    }

    /// By `ibv_qp_ex`, which is how libibverbs' providers carry it.
    func postExtendedAtomicWrite(to peer: InteropEnd, offset: Int) -> Int32 {
        // What ibv_qp_to_qp_ex does: the queue pair is the first member.
        let extended = UnsafeMutableRawPointer(queuePair).assumingMemoryBound(to: ibv_qp_ex.self)
        ibv_wr_start(extended)
        extended.pointee.wr_id = 1
        extended.pointee.wr_flags = UInt32(ibv_send_flags.IBV_SEND_SIGNALED.rawValue)
        ibv_wr_atomic_write(
            extended, peer.region.pointee.rkey, UInt64(UInt(bitPattern: peer.memory + offset)), memory)
        return ibv_wr_complete(extended)
    }

    /// The next completion; `nil` if none comes in time. Polling the other end drives it too.
    func completion(polling other: InteropEnd? = nil) -> ibv_wc? {
        var entry = ibv_wc()
        let end = ContinuousClock.now + .seconds(20)
        while ContinuousClock.now < end {
            if ibv_poll_cq(queue, 1, &entry) == 1 { return entry }
            var none = ibv_wc()
            if let other { _ = ibv_poll_cq(other.queue, 1, &none) }
            sched_yield()
        }
        return nil
    }
}
