// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import RoCEWire
import VerbsABI

// Protection domains, address handles, shared receive queues.

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
        unsafe try makeSharedReceiveQueue(domain, attributes, extended: nil)
    }

    /// - Parameter extended: for one of XRC its XRC domain, and where its receives complete.
    func makeSharedReceiveQueue(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_srq_init_attr>,
        extended: (domain: UnsafeMutablePointer<ibv_xrcd>, completionQueue: UnsafeMutablePointer<ibv_cq>)?
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_srq> {
        let asked = unsafe attributes.pointee.attr
        try Self.check(asked.max_wr, 1, DeviceLimits.workRequests, "max_wr", "ibv_create_srq")
        try Self.check(asked.max_sge, 0, DeviceLimits.scatterGatherEntries, "max_sge", "ibv_create_srq")
        let record = unsafe protectionDomainRecord(domain)
        let number = unsafe record.pointee.domain
        // The memory is made first: its address is the tag by which events name the object.
        let memory = unsafe ObjectStorage<ibv_srq, SharedReceiveQueueRecord>()
        let (queue, part) = try withEngine("ibv_create_srq") {
            engine throws(EngineError) -> (ReceiveQueue, SharedReceiveQueueRecord.ExtendedPart?) in
            guard let extended = unsafe extended else {
                let queue = unsafe try engine.createSharedReceiveQueue(
                    protectionDomain: number, capacity: Int(asked.max_wr), scatterGatherMax: Int(asked.max_sge),
                    tag: memory.tag)
                return (queue, nil)
            }
            let made = unsafe try engine.createSharedReceiveQueue(
                protectionDomain: number, xrcDomain: xrcDomainRecord(extended.domain).pointee.number,
                completionQueue: completionQueueRecord(extended.completionQueue).pointee.queue,
                capacity: Int(asked.max_wr), scatterGatherMax: Int(asked.max_sge), tag: memory.tag)
            let part = unsafe SharedReceiveQueueRecord.ExtendedPart(
                number: made.number, domain: extended.domain, completionQueue: extended.completionQueue)
            return (made.queue, part)
        }
        if let part {
            unsafe xrcDomainRecord(part.domain).pointee.users.add(1, ordering: .relaxed)
            unsafe completionQueueRecord(part.completionQueue).pointee.users.add(1, ordering: .relaxed)
        }
        let object = unsafe memory.initialize(
            SharedReceiveQueueRecord(context: .passUnretained(self), queue: queue, extended: part))
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
        let verb: StaticString = "ibv_modify_srq"
        let record = unsafe sharedReceiveQueueRecord(queue)
        let receiveQueue = unsafe record.pointee.queue
        let capacity = unsafe mask.contains(.IBV_SRQ_MAX_WR) ? attributes.pointee.max_wr : nil
        let limit = unsafe mask.contains(.IBV_SRQ_LIMIT) ? attributes.pointee.srq_limit : nil
        if let capacity { try Self.check(capacity, 1, DeviceLimits.workRequests, "max_wr", verb) }
        // Nobody posts while the ring moves.
        unsafe record.pointee.postLock.lock()
        defer { unsafe record.pointee.postLock.unlock() }
        try withEngine(verb) { engine throws(EngineError) in
            try engine.modifySharedReceiveQueue(
                receiveQueue, capacity: capacity.map { Int($0) }, limit: limit.map { Int($0) })
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
        if let extended = unsafe record.pointee.extended {
            unsafe xrcDomainRecord(extended.domain).pointee.users.subtract(1, ordering: .releasing)
            unsafe completionQueueRecord(extended.completionQueue).pointee.users.subtract(1, ordering: .releasing)
        }
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
