// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import RoCEWire
import VerbsABI

// Protection domains, memory regions and windows, address handles, shared receive queues.

extension SoftContext {
    // MARK: Protection domains

    package func allocateProtectionDomain() throws(ProviderError) -> UnsafeMutablePointer<ibv_pd> {
        let number = nextDomain.wrappingAdd(1, ordering: .relaxed).newValue
        let domain = unsafe ObjectStorage<ibv_pd, ProtectionDomainRecord>().initialize(
            ProtectionDomainRecord(context: .passUnretained(self), domain: number))
        unsafe domain.pointee.context = unsafe context
        unsafe domain.pointee.handle = number
        objects.add(1, ordering: .relaxed)
        return unsafe domain
    }

    package func deallocate(_ domain: UnsafeMutablePointer<ibv_pd>) throws(ProviderError) {
        guard unsafe protectionDomainRecord(domain).pointee.users.load(ordering: .acquiring) == 0 else {
            throw ProviderError("ibv_dealloc_pd", code: EBUSY, detail: "objects of the protection domain still exist")
        }
        unsafe releaseParents(of: domain)
        unsafe ObjectStorage<ibv_pd, ProtectionDomainRecord>.free(domain)
        objects.subtract(1, ordering: .relaxed)
    }

    // MARK: Memory regions

    package func register(
        _ domain: UnsafeMutablePointer<ibv_pd>, address: UnsafeMutableRawPointer, length: Int, iova: UInt64,
        access: UInt32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        let access = try Self.checkedAccess(access)
        unsafe try Self.checkMapped(address, length: length)
        let record = unsafe protectionDomainRecord(domain)
        let number = unsafe record.pointee.domain
        let key = try withEngine("ibv_reg_mr") { engine throws(EngineError) in
            var generator = SystemRandomNumberGenerator()
            return try unsafe engine.registerMemory(
                protectionDomain: number, iova: iova, pointer: address, byteCount: length, access: access,
                using: &generator)
        }
        let region = UnsafeMutablePointer<ibv_mr>.allocate(capacity: 1)
        unsafe region.initialize(to: ibv_mr())
        unsafe region.pointee.context = unsafe context
        unsafe region.pointee.pd = unsafe domain
        unsafe region.pointee.addr = unsafe address
        unsafe region.pointee.length = length
        unsafe region.pointee.handle = key.rawValue
        unsafe region.pointee.lkey = key.rawValue
        unsafe region.pointee.rkey = key.rawValue
        unsafe record.pointee.users.add(1, ordering: .relaxed)
        return unsafe region
    }

    package func registerDmabuf(
        _ domain: UnsafeMutablePointer<ibv_pd>, offset: UInt64, length: Int, iova: UInt64, descriptor: Int32,
        access: UInt32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        throw ProviderError(
            "ibv_reg_dmabuf_mr", code: EOPNOTSUPP,
            detail: "the software device copies by the processor; map the buffer and register the mapping")
    }

    package func deregister(_ region: UnsafeMutablePointer<ibv_mr>) throws(ProviderError) {
        let key = unsafe region.pointee.lkey
        try withEngine("ibv_dereg_mr") { engine throws(EngineError) in
            try engine.deregisterMemory(MemoryKey(rawValue: key))
        }
        unsafe protectionDomainRecord(region.pointee.pd).pointee.users.subtract(1, ordering: .releasing)
        unsafe region.deallocate()
    }

    private static func checkedAccess(_ bits: UInt32) throws(ProviderError) -> AccessFlags {
        // The optional range (relaxed ordering) may be ignored by a device that has no use for it.
        let access = AccessFlags(rawValue: bits & ~UInt32(cverbs_access_optional_range))
        let known: AccessFlags = [
            .localWrite, .remoteWrite, .remoteRead, .remoteAtomic, .windowBind, .zeroBased, .flushGlobal,
        ]
        if access.contains(.flushPersistent) {
            throw ProviderError(
                "ibv_reg_mr", code: EOPNOTSUPP,
                detail:
                    "IBV_ACCESS_FLUSH_PERSISTENT: the software device cannot tell which memory survives a loss of power; "
                    + "it has IBV_ACCESS_FLUSH_GLOBAL")
        }
        guard known.isSuperset(of: access) else {
            let unknown = access.subtracting(known).rawValue
            throw ProviderError(
                "ibv_reg_mr", code: EOPNOTSUPP,
                detail: "access flags 0x\(String(unknown, radix: 16)) (on-demand paging, huge pages) are not supported")
        }
        if !access.isDisjoint(with: [.remoteWrite, .remoteAtomic]), !access.contains(.localWrite) {
            throw ProviderError(
                "ibv_reg_mr", code: EINVAL, detail: "remote write or atomic access needs IBV_ACCESS_LOCAL_WRITE too")
        }
        return access
    }

    /// A kernel device pins the pages and so finds holes; this one asks whether they are mapped, so that a wrong
    /// length is an error here and not a fault at the first packet.
    private static func checkMapped(_ address: UnsafeMutableRawPointer, length: Int) throws(ProviderError) {
        guard length > 0 else {
            throw ProviderError("ibv_reg_mr", code: EINVAL, detail: "length \(length): a region has at least one byte")
        }
        let page = UInt(sysconf(Int32(_SC_PAGESIZE)))
        let (end, overflow) = UInt(bitPattern: address).addingReportingOverflow(UInt(length))
        let first = UInt(bitPattern: address) & ~(page - 1)
        guard !overflow, let start = unsafe UnsafeMutableRawPointer(bitPattern: first) else {
            throw ProviderError("ibv_reg_mr", code: EFAULT, detail: "the range wraps around the address space")
        }
        // msync without a flag that starts anything only looks whether all pages of the range are mapped.
        guard unsafe msync(start, Int(end - first), Int32(MS_ASYNC)) == 0 else {
            throw ProviderError("ibv_reg_mr", code: EFAULT, detail: "part of the range is not mapped")
        }
    }

    // MARK: Address handles

    package func makeAddressHandle(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_ah_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_ah> {
        let vector = try unsafe AddressVector(attributes.pointee, gidCount: gids.count, verb: "ibv_create_ah")
        guard unsafe attributes.pointee.port_num == 1 else {
            throw ProviderError("ibv_create_ah", code: EINVAL, detail: "port_num: the device has port 1 alone")
        }
        let handle = unsafe ObjectStorage<ibv_ah, AddressHandleRecord>().initialize(
            AddressHandleRecord(context: .passUnretained(self), vector: vector))
        unsafe handle.pointee.context = unsafe context
        unsafe handle.pointee.pd = unsafe domain
        unsafe protectionDomainRecord(domain).pointee.users.add(1, ordering: .relaxed)
        return unsafe handle
    }

    package func destroy(_ handle: UnsafeMutablePointer<ibv_ah>) throws(ProviderError) {
        unsafe protectionDomainRecord(handle.pointee.pd).pointee.users.subtract(1, ordering: .releasing)
        unsafe ObjectStorage<ibv_ah, AddressHandleRecord>.free(handle)
    }

    // MARK: Shared receive queues

    package func makeSharedReceiveQueue(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_srq_init_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_srq> {
        let asked = unsafe attributes.pointee.attr
        try Self.check(asked.max_wr, 1, DeviceLimits.workRequests, "max_wr", "ibv_create_srq")
        try Self.check(asked.max_sge, 0, DeviceLimits.scatterGatherEntries, "max_sge", "ibv_create_srq")
        let record = unsafe protectionDomainRecord(domain)
        let number = unsafe record.pointee.domain
        // The memory is made first: its address is the tag by which events name the object.
        let memory = unsafe ObjectStorage<ibv_srq, SharedReceiveQueueRecord>()
        let queue = try withEngine("ibv_create_srq") { engine throws(EngineError) in
            unsafe try engine.createSharedReceiveQueue(
                protectionDomain: number, capacity: Int(asked.max_wr), scatterGatherMax: Int(asked.max_sge),
                tag: memory.tag)
        }
        let object = unsafe memory.initialize(
            SharedReceiveQueueRecord(context: .passUnretained(self), queue: queue))
        unsafe object.pointee.context = unsafe context
        unsafe object.pointee.srq_context = unsafe attributes.pointee.srq_context
        unsafe object.pointee.pd = unsafe domain
        unsafe attributes.pointee.attr.max_wr = UInt32(queue.capacity)
        unsafe attributes.pointee.attr.max_sge = UInt32(queue.scatterGatherMax)
        unsafe record.pointee.users.add(1, ordering: .relaxed)
        return unsafe object
    }

    package func modify(
        _ queue: UnsafeMutablePointer<ibv_srq>, _ attributes: UnsafeMutablePointer<ibv_srq_attr>,
        mask: ibv_srq_attr_mask
    ) throws(ProviderError) {
        guard !mask.contains(.IBV_SRQ_MAX_WR) else {
            throw ProviderError(
                "ibv_modify_srq", code: EOPNOTSUPP, detail: "max_wr: the software device does not resize a shared queue"
            )
        }
        guard mask.contains(.IBV_SRQ_LIMIT) else { return }
        let limit = unsafe attributes.pointee.srq_limit
        let receiveQueue = unsafe sharedReceiveQueueRecord(queue).pointee.queue
        guard limit <= receiveQueue.capacity else {
            throw ProviderError(
                "ibv_modify_srq", code: EINVAL,
                detail: "srq_limit \(limit) of a queue that holds \(receiveQueue.capacity) work requests")
        }
        try withEngine("ibv_modify_srq") { engine throws(EngineError) in
            try engine.setSharedReceiveQueueLimit(receiveQueue, limit: Int(limit))
        }
    }

    package func query(
        _ queue: UnsafeMutablePointer<ibv_srq>, _ attributes: UnsafeMutablePointer<ibv_srq_attr>
    ) throws(ProviderError) {
        let receiveQueue = unsafe sharedReceiveQueueRecord(queue).pointee.queue
        unsafe attributes.pointee.max_wr = UInt32(receiveQueue.capacity)
        unsafe attributes.pointee.max_sge = UInt32(receiveQueue.scatterGatherMax)
        let limit = try withEngine("ibv_query_srq") { engine throws(EngineError) in
            try engine.sharedReceiveQueueLimit(receiveQueue)
        }
        unsafe attributes.pointee.srq_limit = UInt32(limit)
    }

    package func destroy(_ queue: UnsafeMutablePointer<ibv_srq>) throws(ProviderError) {
        let record = unsafe sharedReceiveQueueRecord(queue)
        guard unsafe record.pointee.users.load(ordering: .acquiring) == 0 else {
            throw ProviderError("ibv_destroy_srq", code: EBUSY, detail: "queue pairs of the shared receive queue exist")
        }
        let receiveQueue = unsafe record.pointee.queue
        try withEngine("ibv_destroy_srq") { engine throws(EngineError) in
            try engine.destroySharedReceiveQueue(receiveQueue)
        }
        unsafe forgetEvents(of: queue)
        unsafe protectionDomainRecord(queue.pointee.pd).pointee.users.subtract(1, ordering: .releasing)
        unsafe ObjectStorage<ibv_srq, SharedReceiveQueueRecord>.free(queue)
    }

    static func check(
        _ value: UInt32, _ low: Int, _ high: Int, _ name: StaticString, _ verb: StaticString
    ) throws(ProviderError) {
        guard Int(value) >= low, Int(value) <= high else {
            throw ProviderError(verb, code: EINVAL, detail: "\(name) \(value): \(low) to \(high)")
        }
    }
}
