// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

/// The UD queue pair of a datagram rsocket at one address of ours, with the memory of its datagrams.
@safe final class DatagramQueuePair {
    /// Header and data of a datagram, as much as peers take.
    static let datagramByteCountMax = 2_048
    /// What the device puts in front of what is received.
    private static let routeHeaderByteCount = 40
    private static let slotByteCount = 2_112
    private static let receiveMark: UInt64 = 1 << 63

    enum Completion {
        case sent
        /// The slot that it is in, which is given back by ``postReceive(_:)``.
        case received(slot: Int, byteCount: Int)
        case failed
    }

    // Made in `init`, destroyed in `deinit`.
    private let identifier: UnsafeMutablePointer<rdma_cm_id>
    private let channel: UnsafeMutablePointer<ibv_comp_channel>
    private let queue: UnsafeMutablePointer<ibv_cq>
    private let path: any ConnectionPath
    private let sends: StreamMemory
    private let receives: StreamMemory
    private var freeSends: [Int]
    private let sendCount: Int
    private var isArmed = false

    /// Our address there, with the port of the socket.
    let address: DatagramAddress
    /// In front of all that it sends.
    private let header: [UInt8]
    /// The most data that a datagram of it holds.
    let dataByteCountMax: Int

    /// - Parameter identifier: has resolved an address; it is this object's from here on, other than where it throws.
    init(
        _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ path: any ConnectionPath, port: UInt16, sizes: StreamSizes
    ) throws(ProviderError) {
        guard let context = unsafe identifier.pointee.verbs,
            var address = unsafe DatagramAddress(identifier.pointee.route.addr.src_storage)
        else { throw ProviderError("rsendto", code: ENODEV) }
        address.port = port
        self.address = address
        header = address.header
        var attributes = ibv_port_attr()
        try unsafe SoftContext.of(context).queryPort(1, &attributes)
        // IBV_MTU_256 is 1, and so on.
        dataByteCountMax = min(128 << Int(attributes.active_mtu.rawValue), Self.datagramByteCountMax) - header.count
        // As librdmacm: as many as there are pieces of the buffers, which programs set, but no more than a queue holds.
        let counts = (
            sends: min(sizes.sends, max(sizes.sendBytes / Self.datagramByteCountMax, 16)),
            receives: min(sizes.receives, max(sizes.receiveBytes / Self.datagramByteCountMax, 16))
        )
        let queues = unsafe try Self.make(identifier, context, counts)
        unsafe self.channel = unsafe queues.channel
        unsafe queue = unsafe queues.queue
        unsafe self.identifier = unsafe identifier
        self.path = path
        sendCount = counts.sends
        freeSends = Array(0..<counts.sends)
        do throws(ProviderError) {
            let domain = unsafe identifier.pointee.pd!
            sends = unsafe try StreamMemory(domain, count: counts.sends * Self.slotByteCount, isWrittenByPeer: false)
            receives = unsafe try StreamMemory(
                domain, count: counts.receives * Self.slotByteCount, isWrittenByPeer: false)
        } catch {
            unsafe Self.destroy(identifier, queues.queue, queues.channel)
            throw error
        }
        for slot in 0..<counts.sends {
            // Each send begins with the same bytes.
            unsafe (sends.base + slot * Self.slotByteCount).copyMemory(from: header, byteCount: header.count)
        }
        for slot in 0..<counts.receives { postReceive(slot) }
    }

    private static func make(
        _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ context: UnsafeMutablePointer<ibv_context>,
        _ counts: (sends: Int, receives: Int)
    ) throws(ProviderError) -> (channel: UnsafeMutablePointer<ibv_comp_channel>, queue: UnsafeMutablePointer<ibv_cq>) {
        guard let channel = unsafe ibv_create_comp_channel(context) else {
            throw ProviderError("rsocket", code: errno)
        }
        guard let queue = unsafe ibv_create_cq(context, Int32(counts.sends + counts.receives), nil, channel, 0) else {
            let code = errno
            _ = unsafe ibv_destroy_comp_channel(channel)
            throw ProviderError("rsocket", code: code)
        }
        _ = unsafe fcntl(channel.pointee.fd, F_SETFL, O_NONBLOCK)
        var attributes = unsafe ibv_qp_init_attr()
        unsafe attributes.send_cq = unsafe queue
        unsafe attributes.recv_cq = unsafe queue
        unsafe attributes.qp_type = .IBV_QPT_UD
        unsafe attributes.sq_sig_all = 1
        unsafe attributes.cap.max_send_wr = UInt32(counts.sends)
        unsafe attributes.cap.max_recv_wr = UInt32(counts.receives)
        unsafe attributes.cap.max_send_sge = 1
        unsafe attributes.cap.max_recv_sge = 1
        guard unsafe rdma_create_qp(identifier, nil, &attributes) == 0 else {
            let code = errno
            _ = unsafe ibv_destroy_cq(queue)
            _ = unsafe ibv_destroy_comp_channel(channel)
            throw ProviderError("rsocket", code: code)
        }
        return unsafe (channel, queue)
    }

    private static func destroy(
        _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ queue: UnsafeMutablePointer<ibv_cq>,
        _ channel: UnsafeMutablePointer<ibv_comp_channel>
    ) {
        unsafe rdma_destroy_qp(identifier)
        _ = unsafe ibv_destroy_cq(queue)
        _ = unsafe ibv_destroy_comp_channel(channel)
    }

    deinit {
        unsafe Self.destroy(identifier, queue, channel)
        try? unsafe path.destroy(identifier)
    }

    /// Readable when the armed queue got a completion.
    var descriptor: Int32 { unsafe channel.pointee.fd }
    var number: UInt32 { unsafe identifier.pointee.qp.pointee.qp_num }
    var canSend: Bool { !freeSends.isEmpty }
    var isDrained: Bool { freeSends.count == sendCount }

    // MARK: Completions

    /// Asks for one event by the next completion.
    /// - Returns: whether there may have been one before.
    func arm() -> Bool {
        takeEvent()
        guard !isArmed else { return false }
        isArmed = true
        _ = unsafe ibv_req_notify_cq(queue, 0)
        return true
    }

    /// Takes the event of a completion, if it was asked for and came.
    private func takeEvent() {
        guard isArmed, unsafe (try? SoftContext.of(channel.pointee.context).completionEvent(on: channel)) != nil else {
            return
        }
        unsafe ibv_ack_cq_events(queue, 1)
        isArmed = false
    }

    func poll() -> Completion? {
        var entry = ibv_wc()
        guard unsafe ibv_poll_cq(queue, 1, &entry) == 1 else { return nil }
        let slot = Int(entry.wr_id & ~Self.receiveMark)
        if entry.wr_id & Self.receiveMark == 0 {
            freeSends.append(slot)
            return entry.status == .IBV_WC_SUCCESS ? .sent : .failed
        }
        guard entry.status == .IBV_WC_SUCCESS else { return .failed }
        return .received(slot: slot, byteCount: Int(entry.byte_len) - Self.routeHeaderByteCount)
    }

    /// What stands in a slot from `offset` on, until it is given back.
    func received(_ slot: Int, from offset: Int, count: Int) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(
            start: receives.base + slot * Self.slotByteCount + Self.routeHeaderByteCount + offset, count: count)
    }

    /// Gives a slot back, for the next datagram.
    func postReceive(_ slot: Int) {
        var entry = ibv_sge(
            addr: receives.address + UInt64(slot * Self.slotByteCount),
            length: UInt32(Self.routeHeaderByteCount + Self.datagramByteCountMax), lkey: receives.localKey)
        var request = unsafe ibv_recv_wr()
        unsafe request.wr_id = Self.receiveMark | UInt64(slot)
        unsafe withUnsafeMutablePointer(to: &entry) { list in
            unsafe request.sg_list = unsafe list
            unsafe request.num_sge = 1
            var bad: UnsafeMutablePointer<ibv_recv_wr>?
            // There are as many requests as slots.
            _ = unsafe ibv_post_recv(identifier.pointee.qp, &request, &bad)
        }
    }

    /// Sends a datagram: 0 or an `errno`. The caller has looked for room, and at the length.
    func send(_ bytes: UnsafeRawBufferPointer, to handle: UnsafeMutablePointer<ibv_ah>, queuePair: UInt32) -> Int32 {
        guard let slot = freeSends.popLast() else { return EAGAIN }
        let place = unsafe sends.base + slot * Self.slotByteCount
        if let start = bytes.baseAddress {
            unsafe (place + header.count).copyMemory(from: start, byteCount: bytes.count)
        }
        var entry = ibv_sge(
            addr: sends.address + UInt64(slot * Self.slotByteCount), length: UInt32(header.count + bytes.count),
            lkey: sends.localKey)
        var request = unsafe ibv_send_wr()
        unsafe request.wr_id = UInt64(slot)
        unsafe request.opcode = .IBV_WR_SEND
        unsafe request.wr.ud.ah = unsafe handle
        unsafe request.wr.ud.remote_qpn = queuePair
        unsafe request.wr.ud.remote_qkey = Self.queueKey
        let code = unsafe withUnsafeMutablePointer(to: &entry) { list in
            unsafe request.sg_list = unsafe list
            unsafe request.num_sge = 1
            var bad: UnsafeMutablePointer<ibv_send_wr>?
            return unsafe ibv_post_send(identifier.pointee.qp, &request, &bad)
        }
        if code != 0 { freeSends.append(slot) }
        return code
    }

    /// RDMA_UDP_QKEY, that of the connection manager's datagrams.
    private static let queueKey: UInt32 = 0x0123_4567

    // MARK: Destinations

    /// Whether it has this identifier.
    func isOf(_ other: UnsafeMutablePointer<rdma_cm_id>) -> Bool { unsafe identifier == other }

    /// Whether an identifier that has resolved an address would send from here.
    func isSource(of other: UnsafeMutablePointer<rdma_cm_id>) -> Bool {
        let (ours, theirs) = unsafe (
            identifier.pointee.route.addr.addr.ibaddr.sgid, other.pointee.route.addr.addr.ibaddr.sgid
        )
        return unsafe identifier.pointee.verbs == other.pointee.verbs
            && ours.global.subnet_prefix == theirs.global.subnet_prefix
            && ours.global.interface_id == theirs.global.interface_id
    }

    /// The handle of an address that an identifier has resolved, which is here or would send from here.
    func makeHandle(to other: UnsafeMutablePointer<rdma_cm_id>) throws(ProviderError) -> UnsafeMutablePointer<ibv_ah> {
        let source = unsafe identifier.pointee.route.addr.addr.ibaddr.sgid
        var attributes = ibv_ah_attr()
        attributes.port_num = 1
        attributes.is_global = 1
        attributes.grh.hop_limit = 64
        attributes.grh.dgid = unsafe other.pointee.route.addr.addr.ibaddr.dgid
        let table = try unsafe SoftContext.of(identifier.pointee.verbs).queryGIDTable()
        let place = table.firstIndex {
            unsafe $0.gid.global.subnet_prefix == source.global.subnet_prefix
                && $0.gid.global.interface_id == source.global.interface_id
        }
        attributes.grh.sgid_index = UInt8(place ?? 0)
        guard let handle = unsafe ibv_create_ah(identifier.pointee.pd, &attributes) else {
            throw ProviderError("rsendto", code: errno)
        }
        return unsafe handle
    }
}
