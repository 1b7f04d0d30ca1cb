// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

/// Memory that the device may use: registered when it is made, given back when it goes.
@safe final class StreamMemory {
    // Ours from `init` to `deinit`; a peer with the key writes to it at any time.
    let base: UnsafeMutableRawPointer
    let count: Int
    private let region: UnsafeMutablePointer<ibv_mr>

    init(_ domain: UnsafeMutablePointer<ibv_pd>, count: Int, isWrittenByPeer: Bool) throws(ProviderError) {
        self.count = count
        unsafe base = .allocate(byteCount: count, alignment: 4096)
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        var access = ibv_access_flags.IBV_ACCESS_LOCAL_WRITE
        if isWrittenByPeer { access.insert(.IBV_ACCESS_REMOTE_WRITE) }
        guard let made = unsafe ibv_reg_mr(domain, base, count, Int32(access.rawValue)) else {
            unsafe base.deallocate()
            throw ProviderError("rsocket", code: errno)
        }
        unsafe region = unsafe made
    }

    deinit {
        _ = unsafe ibv_dereg_mr(region)
        unsafe base.deallocate()
    }

    var address: UInt64 { UInt64(UInt(bitPattern: unsafe base)) }
    var localKey: UInt32 { unsafe region.pointee.lkey }
    var remoteKey: UInt32 { unsafe region.pointee.rkey }
}

/// The queue pair of a stream: one completion queue for both directions, and inline or registered data.
@safe final class StreamQueuePair {
    /// What a send was, for its completion: 63 bits of the work request's number; receives have the highest.
    enum Sent {
        case control
        /// Bytes of the send ring that are free again.
        case ring(Int)

        fileprivate var number: UInt64 {
            switch self {
            case .control: .max >> 1
            case .ring(let count): UInt64(count)
            }
        }
    }

    enum Completion {
        case sent(Sent)
        case received(UInt32)
        case failed
    }

    // Made in `init`, destroyed in `deinit`; the identifier outlives this object.
    private let identifier: UnsafeMutablePointer<rdma_cm_id>
    private let channel: UnsafeMutablePointer<ibv_comp_channel>
    private let queue: UnsafeMutablePointer<ibv_cq>
    let domain: UnsafeMutablePointer<ibv_pd>

    /// Room for the largest inline message, an entry of the table of mapped memory.
    private static let inlineBytesMin: UInt32 = 24
    private static let receiveMark: UInt64 = 1 << 63

    init(
        _ identifier: UnsafeMutablePointer<rdma_cm_id>, sends: Int, receives: Int, inlineBytes: Int
    ) throws(ProviderError) {
        guard let channel = unsafe ibv_create_comp_channel(identifier.pointee.verbs) else {
            throw ProviderError("rsocket", code: errno)
        }
        guard
            let queue = unsafe ibv_create_cq(identifier.pointee.verbs, Int32(sends + receives), nil, channel, 0)
        else {
            let code = errno
            _ = unsafe ibv_destroy_comp_channel(channel)
            throw ProviderError("rsocket", code: code)
        }
        _ = unsafe fcntl(channel.pointee.fd, F_SETFL, O_NONBLOCK)
        var attributes = unsafe ibv_qp_init_attr()
        unsafe attributes.send_cq = unsafe queue
        unsafe attributes.recv_cq = unsafe queue
        unsafe attributes.qp_type = .IBV_QPT_RC
        unsafe attributes.sq_sig_all = 1
        unsafe attributes.cap.max_send_wr = UInt32(sends)
        unsafe attributes.cap.max_recv_wr = UInt32(receives)
        unsafe attributes.cap.max_send_sge = 2
        unsafe attributes.cap.max_recv_sge = 1
        unsafe attributes.cap.max_inline_data = max(UInt32(inlineBytes), Self.inlineBytesMin)
        guard unsafe rdma_create_qp(identifier, nil, &attributes) == 0 else {
            let code = errno
            _ = unsafe ibv_destroy_cq(queue)
            _ = unsafe ibv_destroy_comp_channel(channel)
            throw ProviderError("rsocket", code: code)
        }
        unsafe self.identifier = unsafe identifier
        unsafe self.channel = unsafe channel
        unsafe self.queue = unsafe queue
        unsafe domain = unsafe identifier.pointee.pd
    }

    deinit {
        unsafe rdma_destroy_qp(identifier)
        _ = unsafe ibv_destroy_cq(queue)
        _ = unsafe ibv_destroy_comp_channel(channel)
    }

    /// Readable when the armed queue got a completion.
    var descriptor: Int32 { unsafe channel.pointee.fd }
    var number: UInt32 { unsafe identifier.pointee.qp.pointee.qp_num }

    // MARK: Completions

    /// Asks for one event by the next completion.
    func arm() { _ = unsafe ibv_req_notify_cq(queue, 0) }

    /// Takes an event, if there is one.
    func takeEvent() -> Bool {
        guard unsafe (try? SoftContext.of(channel.pointee.context).completionEvent(on: channel)) != nil else {
            return false
        }
        unsafe ibv_ack_cq_events(queue, 1)
        return true
    }

    func poll() -> Completion? {
        var entry = ibv_wc()
        guard unsafe ibv_poll_cq(queue, 1, &entry) == 1 else { return nil }
        guard entry.status == .IBV_WC_SUCCESS else { return .failed }
        if entry.wr_id & Self.receiveMark != 0 { return .received(UInt32(bigEndian: entry.imm_data)) }
        return .sent(entry.wr_id == Sent.control.number ? .control : .ring(Int(entry.wr_id)))
    }

    // MARK: Posts; each is 0 or an `errno`

    /// Posts receives without memory: every message is a write with immediate data.
    func postReceives(_ count: Int) -> Int32 {
        var request = unsafe ibv_recv_wr()
        unsafe request.wr_id = Self.receiveMark
        var bad: UnsafeMutablePointer<ibv_recv_wr>?
        for _ in 0..<count {
            let code = unsafe ibv_post_recv(identifier.pointee.qp, &request, &bad)
            if code != 0 { return code }
        }
        return 0
    }

    /// A message without data.
    func post(_ message: StreamMessage) -> Int32 {
        post(Pieces(), isInline: false, to: RemoteRange(address: 0, key: 0, length: 0), message, .control)
    }

    /// A write of nothing, which the peer's device answers and its program does not see.
    func postProbe() -> Int32 {
        post(Pieces(), isInline: false, to: RemoteRange(address: 0, key: 0, length: 0), nil, .control)
    }

    /// Writes a few bytes, which are copied, with a message about them.
    func post<Value: BitwiseCopyable>(_ value: Value, to target: RemoteRange, _ message: StreamMessage, _ sent: Sent)
        -> Int32
    {
        var value = value
        return unsafe withUnsafeBytes(of: &value) { bytes in
            var pieces = Pieces()
            pieces.append(UInt64(UInt(bitPattern: bytes.baseAddress)), bytes.count, key: 0)
            return post(pieces, isInline: true, to: target, message, sent)
        }
    }

    /// Writes bytes of a ring of registered memory, which may go on at its start.
    func write(
        _ ring: StreamMemory, from offset: Int, count: Int, to target: RemoteRange, _ message: StreamMessage?,
        _ sent: Sent
    ) -> Int32 {
        let first = min(count, ring.count - offset)
        var pieces = Pieces()
        pieces.append(ring.address + UInt64(offset), first, key: ring.localKey)
        if first < count { pieces.append(ring.address, count - first, key: ring.localKey) }
        return post(pieces, isInline: false, to: target, message, sent)
    }

    /// What is written: at most the two ends of a ring.
    private struct Pieces {
        var entries = (ibv_sge(), ibv_sge())
        var count: Int32 = 0

        mutating func append(_ address: UInt64, _ length: Int, key: UInt32) {
            let entry = ibv_sge(addr: address, length: UInt32(length), lkey: key)
            if count == 0 { entries.0 = entry } else { entries.1 = entry }
            count += 1
        }
    }

    private func post(
        _ pieces: Pieces, isInline: Bool, to target: RemoteRange, _ message: StreamMessage?, _ sent: Sent
    ) -> Int32 {
        var entries = pieces.entries
        return unsafe withUnsafeMutableBytes(of: &entries) { entries in
            var request = unsafe ibv_send_wr()
            unsafe request.wr_id = sent.number
            unsafe request.sg_list = entries.baseAddress?.assumingMemoryBound(to: ibv_sge.self)
            unsafe request.num_sge = pieces.count
            unsafe request.opcode = message == nil ? .IBV_WR_RDMA_WRITE : .IBV_WR_RDMA_WRITE_WITH_IMM
            unsafe request.send_flags = isInline ? ibv_send_flags.IBV_SEND_INLINE.rawValue : 0
            if let message { unsafe request.imm_data = message.immediate.bigEndian }
            unsafe request.wr.rdma.remote_addr = target.address
            unsafe request.wr.rdma.rkey = target.key
            var bad: UnsafeMutablePointer<ibv_send_wr>?
            return unsafe ibv_post_send(identifier.pointee.qp, &request, &bad)
        }
    }
}
