// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

/// The control calls on a device of the kernel: each is the function of libibverbs of that name.
///
/// The error conventions of the library differ from function to function: a null with `errno`, a positive error
/// number, or -1 with `errno`. They end here.
@safe final class SystemControlPath: ControlPath, @unchecked Sendable {  // Constant members; libibverbs is thread safe.
    let context: UnsafeMutablePointer<ibv_context>
    private let library: LibIBVerbs
    private let isClosed: Atomic<Bool>
    private let flowCounters = FlowCounterTable()
    let postsPlacement = false

    /// `isOwner` is false for a context that librdmacm opened: that one is never closed here.
    init(library: LibIBVerbs, context: UnsafeMutablePointer<ibv_context>, isOwner: Bool = true) {
        self.library = library
        unsafe self.context = context
        isClosed = Atomic(!isOwner)
    }

    deinit { try? close() }

    func close() throws(ProviderError) {
        guard !isClosed.exchange(true, ordering: .acquiringAndReleasing) else { return }
        try unsafe check("ibv_close_device", library.closeDevice(context))
    }

    /// Zero is success; a positive value the error, -1 says that `errno` has it.
    private func check(_ function: StaticString, _ result: Int32) throws(ProviderError) {
        guard result != 0 else { return }
        throw ProviderError(function, code: result > 0 ? result : errno)
    }

    /// Null says that `errno` has the error.
    private func made<T>(
        _ function: StaticString, _ object: UnsafeMutablePointer<T>?
    ) throws(ProviderError) -> UnsafeMutablePointer<T> {
        guard let object = unsafe object else { throw ProviderError(function, code: errno == 0 ? EIO : errno) }
        return unsafe object
    }

    private func unsupported(_ function: StaticString, since release: String) -> ProviderError {
        ProviderError(function, code: EOPNOTSUPP, detail: "libibverbs has it since \(release)")
    }
}

// Queries.
extension SystemControlPath {
    func queryDevice(_ attributes: UnsafeMutablePointer<ibv_device_attr_ex>) throws(ProviderError) {
        unsafe attributes.initialize(to: ibv_device_attr_ex())
        // The extended query is an operation of the context, where the provider has it.
        if let extended = unsafe verbs_get_ctx(context), let query = unsafe extended.pointee.query_device_ex {
            let result = unsafe query(context, nil, attributes, MemoryLayout<ibv_device_attr_ex>.size)
            if result != EOPNOTSUPP && result != ENOSYS { return try check("ibv_query_device_ex", result) }
            unsafe attributes.initialize(to: ibv_device_attr_ex())
        }
        // The plain attributes are the first member.
        let plain = unsafe UnsafeMutableRawPointer(attributes).assumingMemoryBound(to: ibv_device_attr.self)
        try unsafe check("ibv_query_device", library.queryDevice(context, plain))
    }

    func queryPort(_ port: UInt8, _ attributes: UnsafeMutablePointer<ibv_port_attr>) throws(ProviderError) {
        unsafe attributes.initialize(to: ibv_port_attr())
        if let extended = unsafe verbs_get_ctx(context), let query = unsafe extended.pointee.query_port {
            let result = unsafe query(context, port, attributes, MemoryLayout<ibv_port_attr>.size)
            return try check("ibv_query_port", result)
        }
        // The exported function writes the older, shorter structure, a prefix of this one.
        try unsafe check("ibv_query_port", library.queryPort(context, port, attributes))
    }

    func queryGIDTable() throws(ProviderError) -> [ibv_gid_entry] {
        guard let query = unsafe library.queryGIDTable else { return try gidTableByIndex() }
        var capacity = 256
        while true {
            var entries = [ibv_gid_entry](repeating: ibv_gid_entry(), count: capacity)
            // The array has room for `capacity` entries of that size.
            let count = unsafe query(context, &entries, capacity, 0, MemoryLayout<ibv_gid_entry>.size)
            if count >= 0 { return [ibv_gid_entry](entries.prefix(count)) }
            let code = Int32(clamping: -count)
            if code == EOPNOTSUPP || code == ENOSYS { return try gidTableByIndex() }
            // A longer table than we have room for.
            guard code == EINVAL, capacity < 1 << 16 else { throw ProviderError("ibv_query_gid_table", code: code) }
            capacity *= 4
        }
    }

    /// The table entry by entry: without types, where neither library nor kernel have the table call.
    private func gidTableByIndex() throws(ProviderError) -> [ibv_gid_entry] {
        var device = ibv_device_attr_ex()
        try unsafe queryDevice(&device)
        var entries: [ibv_gid_entry] = []
        for port in 1...max(1, device.orig_attr.phys_port_cnt) {
            var attributes = ibv_port_attr()
            try unsafe queryPort(port, &attributes)
            for index in 0..<attributes.gid_tbl_len {
                var gid = ibv_gid()
                guard unsafe library.queryGID(context, port, index, &gid) == 0 else { continue }
                guard unsafe gid.global.interface_id != 0 || gid.global.subnet_prefix != 0 else { continue }
                let isEthernet = Int(attributes.link_layer) == Int(IBV_LINK_LAYER_ETHERNET)
                entries.append(
                    ibv_gid_entry(
                        gid: gid, gid_index: UInt32(index), port_num: UInt32(port),
                        gid_type: isEthernet ? IBV_GID_TYPE_ROCE_V2.rawValue : IBV_GID_TYPE_IB.rawValue, ndev_ifindex: 0
                    ))
            }
        }
        return entries
    }

    func queryPKey(port: UInt8, index: Int32) throws(ProviderError) -> UInt16 {
        var key: UInt16 = 0
        try unsafe check("ibv_query_pkey", library.queryPKey(context, port, index, &key))
        return UInt16(bigEndian: key)
    }

    /// The kernel's counters of the device and its first port, as sysfs shows them.
    func counters() -> [(name: String, value: UInt64)] {
        let name = unsafe context.pointee.device.flatMap { unsafe library.getDeviceName($0) }
        return unsafe name.map { unsafe SystemFiles.counters(of: String(cString: $0)) } ?? []
    }
}

// Protection domains and memory.
extension SystemControlPath {
    func allocateProtectionDomain() throws(ProviderError) -> UnsafeMutablePointer<ibv_pd> {
        errno = 0
        return try unsafe made("ibv_alloc_pd", library.allocatePD(context))
    }

    func deallocate(_ domain: UnsafeMutablePointer<ibv_pd>) throws(ProviderError) {
        try unsafe check("ibv_dealloc_pd", library.deallocatePD(domain))
    }

    func register(
        _ domain: UnsafeMutablePointer<ibv_pd>, address: UnsafeMutableRawPointer, length: Int, iova: UInt64,
        access: UInt32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        errno = 0
        // What the macro `ibv_reg_mr` does: flags that the kernel may ignore need the newer function, which sees to it.
        if let register = unsafe library.registerMRIOVA2 {
            return try unsafe made("ibv_reg_mr", register(domain, address, length, iova, access))
        }
        guard iova == UInt64(UInt(bitPattern: address)) else {
            throw unsupported("ibv_reg_mr_iova", since: "rdma-core 28")
        }
        let mandatory = access & ~cverbs_access_optional_range
        return try unsafe made("ibv_reg_mr", library.registerMR(domain, address, length, Int32(bitPattern: mandatory)))
    }

    func registerDmabuf(
        _ domain: UnsafeMutablePointer<ibv_pd>, offset: UInt64, length: Int, iova: UInt64, descriptor: Int32,
        access: UInt32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        guard let register = unsafe library.registerDmabufMR else {
            throw unsupported("ibv_reg_dmabuf_mr", since: "rdma-core 34")
        }
        errno = 0
        let region = unsafe register(domain, offset, length, iova, descriptor, Int32(bitPattern: access))
        return try unsafe made("ibv_reg_dmabuf_mr", region)
    }

    func deregister(_ region: UnsafeMutablePointer<ibv_mr>) throws(ProviderError) {
        try unsafe check("ibv_dereg_mr", library.deregisterMR(region))
    }
}

// Completion.
extension SystemControlPath {
    func makeCompletionChannel() throws(ProviderError) -> UnsafeMutablePointer<ibv_comp_channel> {
        errno = 0
        return try unsafe made("ibv_create_comp_channel", library.createChannel(context))
    }

    func destroy(_ channel: UnsafeMutablePointer<ibv_comp_channel>) throws(ProviderError) {
        try unsafe check("ibv_destroy_comp_channel", library.destroyChannel(channel))
    }

    func makeCompletionQueue(
        capacity: Int32, userContext: UnsafeMutableRawPointer?, channel: UnsafeMutablePointer<ibv_comp_channel>?,
        vector: Int32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_cq> {
        errno = 0
        return try unsafe made("ibv_create_cq", library.createCQ(context, capacity, userContext, channel, vector))
    }

    func resize(_ queue: UnsafeMutablePointer<ibv_cq>, capacity: Int32) throws(ProviderError) {
        try unsafe check("ibv_resize_cq", library.resizeCQ(queue, capacity))
    }

    func destroy(_ queue: UnsafeMutablePointer<ibv_cq>) throws(ProviderError) {
        try unsafe check("ibv_destroy_cq", library.destroyCQ(queue))
    }

    func completionEvent(
        on channel: UnsafeMutablePointer<ibv_comp_channel>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_cq> {
        var queue: UnsafeMutablePointer<ibv_cq>?
        var userContext: UnsafeMutableRawPointer?
        try unsafe check("ibv_get_cq_event", library.getCQEvent(channel, &queue, &userContext))
        guard let queue = unsafe queue else { throw ProviderError("ibv_get_cq_event", code: EIO) }
        return unsafe queue
    }

    func acknowledgeCompletionEvents(_ queue: UnsafeMutablePointer<ibv_cq>, count: UInt32) {
        unsafe library.ackCQEvents(queue, count)
    }
}

// Queue pairs, shared receive queues, address handles.
extension SystemControlPath {
    func makeQueuePair(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_qp> {
        errno = 0
        return try unsafe made("ibv_create_qp", library.createQP(domain, attributes))
    }

    func modify(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_qp_attr>,
        mask: ibv_qp_attr_mask
    ) throws(ProviderError) {
        try unsafe check("ibv_modify_qp", library.modifyQP(queuePair, attributes, Int32(bitPattern: mask.rawValue)))
    }

    func query(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_qp_attr>,
        mask: ibv_qp_attr_mask, _ initial: UnsafeMutablePointer<ibv_qp_init_attr>
    ) throws(ProviderError) {
        let result = unsafe library.queryQP(queuePair, attributes, Int32(bitPattern: mask.rawValue), initial)
        try check("ibv_query_qp", result)
    }

    func destroy(_ queuePair: UnsafeMutablePointer<ibv_qp>) throws(ProviderError) {
        try unsafe check("ibv_destroy_qp", library.destroyQP(queuePair))
    }

    func makeSharedReceiveQueue(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_srq_init_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_srq> {
        errno = 0
        return try unsafe made("ibv_create_srq", library.createSRQ(domain, attributes))
    }

    func modify(
        _ queue: UnsafeMutablePointer<ibv_srq>, _ attributes: UnsafeMutablePointer<ibv_srq_attr>,
        mask: ibv_srq_attr_mask
    ) throws(ProviderError) {
        try unsafe check("ibv_modify_srq", library.modifySRQ(queue, attributes, Int32(bitPattern: mask.rawValue)))
    }

    func query(
        _ queue: UnsafeMutablePointer<ibv_srq>, _ attributes: UnsafeMutablePointer<ibv_srq_attr>
    ) throws(ProviderError) {
        try unsafe check("ibv_query_srq", library.querySRQ(queue, attributes))
    }

    func destroy(_ queue: UnsafeMutablePointer<ibv_srq>) throws(ProviderError) {
        try unsafe check("ibv_destroy_srq", library.destroySRQ(queue))
    }

    func makeAddressHandle(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_ah_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_ah> {
        errno = 0
        return try unsafe made("ibv_create_ah", library.createAH(domain, attributes))
    }

    func destroy(_ handle: UnsafeMutablePointer<ibv_ah>) throws(ProviderError) {
        try unsafe check("ibv_destroy_ah", library.destroyAH(handle))
    }

    func attach(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, multicast gid: ibv_gid, lid: UInt16
    ) throws(ProviderError) {
        var gid = gid
        // A local variable, read during the call.
        try unsafe check("ibv_attach_mcast", library.attachMulticast(queuePair, &gid, lid))
    }

    func detach(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, multicast gid: ibv_gid, lid: UInt16
    ) throws(ProviderError) {
        var gid = gid
        // A local variable, read during the call.
        try unsafe check("ibv_detach_mcast", library.detachMulticast(queuePair, &gid, lid))
    }
}

// Asynchronous events.
extension SystemControlPath {
    func asynchronousEvent() throws(ProviderError) -> ibv_async_event {
        var event = unsafe ibv_async_event()
        try unsafe check("ibv_get_async_event", library.getAsyncEvent(context, &event))
        return unsafe event
    }

    func acknowledge(_ event: ibv_async_event) {
        var event = unsafe event
        unsafe library.ackAsyncEvent(&event)
    }
}

// Flows.
extension SystemControlPath {
    func makeFlow(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_flow_attr>,
        options: ProviderFlowOptions
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_flow> {
        guard options.places.contains(.verbs) else {
            throw ProviderError("ibv_create_flow", code: EOPNOTSUPP, detail: "a verbs device has the place verbs alone")
        }
        guard options.counts else { return try unsafe made("ibv_create_flow", ibv_create_flow(queuePair, attributes)) }
        let counters = try unsafe FlowCounting.makeCounters(context)
        do throws(ProviderError) {
            let flow = unsafe FlowCounting.withCounting(attributes, counters) { attributes in
                unsafe ibv_create_flow(queuePair, attributes)
            }
            let made = try unsafe made("ibv_create_flow", flow)
            flowCounters.add(UInt(bitPattern: made), counters: UInt(bitPattern: counters))
            return unsafe made
        } catch {
            unsafe FlowCounting.destroy(counters)
            throw error
        }
    }

    func destroy(_ flow: UnsafeMutablePointer<ibv_flow>) throws(ProviderError) {
        let counters = flowCounters.remove(UInt(bitPattern: flow))
        try unsafe check("ibv_destroy_flow", ibv_destroy_flow(flow))
        // Made by makeFlow, and its flow is gone.
        if let counters = unsafe UnsafeMutablePointer<ibv_counters>(bitPattern: counters) {
            unsafe FlowCounting.destroy(counters)
        }
    }

    func placement(of flow: UnsafeMutablePointer<ibv_flow>) -> ProviderFlowPlacement {
        ProviderFlowPlacement(place: .verbs, reasonForCopies: nil, refusals: [])
    }

    func counters(of flow: UnsafeMutablePointer<ibv_flow>) throws(ProviderError) -> ProviderFlowCounters {
        let counters = flowCounters.counters(of: UInt(bitPattern: flow))
        guard let counters = unsafe UnsafeMutablePointer<ibv_counters>(bitPattern: counters) else {
            return ProviderFlowCounters()
        }
        return try unsafe FlowCounting.read(counters)
    }
}
