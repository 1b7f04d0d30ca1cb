// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import RoCEWire
import VerbsABI

// Memory regions.

private typealias RegionStorage = ObjectStorage<ibv_mr, MemoryRegionRecord>

extension SoftContext {
    package func register(
        _ domain: UnsafeMutablePointer<ibv_pd>, address: UnsafeMutableRawPointer, length: Int, iova: UInt64,
        access: UInt32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        unsafe try register(
            domain, address: address, length: length, iova: iova, access: access, isDeviceMemory: false)
    }

    func register(
        _ domain: UnsafeMutablePointer<ibv_pd>, address: UnsafeMutableRawPointer, length: Int, iova: UInt64,
        access: UInt32, isDeviceMemory: Bool
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        let record = MemoryRegionRecord(iova: iova, access: access)
        let key = unsafe try makeKey(domain, address: address, length: length, isDeviceMemory: isDeviceMemory, record)
        let region = unsafe RegionStorage().initialize(record)
        unsafe region.pointee.context = unsafe context
        unsafe fill(region, key: key, domain: domain, address: address, length: length)
        return unsafe region
    }

    /// A null region: what is written to it is discarded, and zeros are read, at every address. Its L_Key alone is of use. The
    /// corresponding C function is `ibv_alloc_null_mr`.
    func registerNull(
        _ domain: UnsafeMutablePointer<ibv_pd>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        unsafe try registerBoundless("ibv_alloc_null_mr", domain, access: 0) { engine, number throws(EngineError) in
            var generator = SystemRandomNumberGenerator()
            return try engine.registerNullMemory(protectionDomain: number, using: &generator)
        }
    }

    /// A region of the whole address space, for local use. The corresponding C function is `ibv_reg_mr` with IBV_ACCESS_ON_DEMAND, the
    /// address NULL and the length SIZE_MAX.
    package func registerAddressSpace(
        _ domain: UnsafeMutablePointer<ibv_pd>, access: UInt32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        let verb: StaticString = "ibv_reg_mr"
        guard AddressSpace.isReachable else {
            throw ProviderError(
                verb, code: EOPNOTSUPP,
                detail: "the whole address space: process_vm_readv is forbidden here, allow it or register pieces")
        }
        guard access & ibv_access_flags.IBV_ACCESS_HUGETLB.rawValue == 0 else {
            throw ProviderError(verb, code: EINVAL, detail: "not all of the address space has huge pages")
        }
        let checked = try Self.checkedAccess(access)
        guard checked.isSubset(of: .localWrite) else {
            throw ProviderError(
                verb, code: EOPNOTSUPP,
                detail: "the whole address space is for local use: register what peers may access by itself")
        }
        return unsafe try registerBoundless(verb, domain, access: access) { engine, number throws(EngineError) in
            var generator = SystemRandomNumberGenerator()
            return try engine.registerAddressSpace(protectionDomain: number, access: checked, using: &generator)
        }
    }

    /// A region that holds every address.
    private func registerBoundless(
        _ verb: StaticString, _ domain: UnsafeMutablePointer<ibv_pd>, access: UInt32,
        _ register: (inout Engine, UInt32) throws(EngineError) -> MemoryKey
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr> {
        let number = unsafe protectionDomainRecord(domain).pointee.domain
        let key = try withEngine(verb) { engine throws(EngineError) in try register(&engine, number) }
        let region = unsafe RegionStorage().initialize(MemoryRegionRecord(iova: 0, access: access))
        unsafe region.pointee.context = unsafe context
        unsafe region.pointee.pd = unsafe domain
        unsafe region.pointee.length = Int(bitPattern: UInt.max)
        unsafe region.pointee.handle = key.rawValue
        unsafe region.pointee.lkey = key.rawValue
        unsafe protectionDomainRecord(domain).pointee.users.add(1, ordering: .relaxed)
        return unsafe region
    }

    static func regionRecord(_ region: UnsafeMutablePointer<ibv_mr>) -> UnsafeMutablePointer<MemoryRegionRecord> {
        unsafe RegionStorage.record(region)
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
        unsafe forgetDeviceMemory(of: region)
        unsafe RegionStorage.free(region)
    }

    /// Changes a region: its memory, its domain, its access. It keeps its keys; a refusal leaves it as it was. The corresponding C function is `ibv_rereg_mr`.
    package func reregister(
        _ region: UnsafeMutablePointer<ibv_mr>, flags: UInt32, domain: UnsafeMutablePointer<ibv_pd>?,
        address: UnsafeMutableRawPointer?, length: Int, access: UInt32
    ) throws(ProviderError) {
        let known = UInt32(IBV_REREG_MR_FLAGS_SUPPORTED.rawValue)
        guard flags != 0, flags & ~known == 0 else {
            throw ProviderError("ibv_rereg_mr", code: EINVAL, detail: "flags 0x\(String(flags, radix: 16))")
        }
        guard access == 0 || flags & UInt32(IBV_REREG_MR_CHANGE_ACCESS.rawValue) != 0 else {
            throw ProviderError("ibv_rereg_mr", code: EINVAL, detail: "access flags without IBV_REREG_MR_CHANGE_ACCESS")
        }
        let movesMemory = flags & UInt32(IBV_REREG_MR_CHANGE_TRANSLATION.rawValue) != 0
        let newDomain = unsafe flags & UInt32(IBV_REREG_MR_CHANGE_PD.rawValue) != 0 ? domain : region.pointee.pd
        let newAddress = unsafe movesMemory ? address : region.pointee.addr
        let newLength = unsafe movesMemory ? length : region.pointee.length
        guard let newDomain = unsafe newDomain, let newAddress = unsafe newAddress else {
            throw ProviderError("ibv_rereg_mr", code: EINVAL, detail: "the new domain or the new address is NULL")
        }
        var record = unsafe RegionStorage.record(region).pointee
        if movesMemory { record.iova = UInt64(UInt(bitPattern: newAddress)) }
        if flags & UInt32(IBV_REREG_MR_CHANGE_ACCESS.rawValue) != 0 { record.access = access }
        let checked = try Self.checkedAccess(record.access)
        unsafe try Self.checkMapped(newAddress, length: newLength)
        let number = unsafe protectionDomainRecord(newDomain).pointee.domain
        let key = unsafe MemoryKey(rawValue: region.pointee.lkey)
        try withEngine("ibv_rereg_mr") { engine throws(EngineError) in
            try unsafe engine.changeMemory(
                key, protectionDomain: number, iova: record.iova, pointer: newAddress, byteCount: newLength,
                access: checked)
        }
        unsafe protectionDomainRecord(region.pointee.pd).pointee.users.subtract(1, ordering: .releasing)
        unsafe RegionStorage.record(region).pointee = record
        unsafe fill(region, key: key, domain: newDomain, address: newAddress, length: newLength)
    }

    private func makeKey(
        _ domain: UnsafeMutablePointer<ibv_pd>, address: UnsafeMutableRawPointer, length: Int,
        isDeviceMemory: Bool, _ record: MemoryRegionRecord
    ) throws(ProviderError) -> MemoryKey {
        let access = try Self.checkedAccess(record.access)
        // Device memory is mapped as a whole, and of it an empty region may be asked for.
        if !isDeviceMemory { unsafe try Self.checkMapped(address, length: length) }
        let number = unsafe protectionDomainRecord(domain).pointee.domain
        return try withEngine("ibv_reg_mr") { engine throws(EngineError) in
            var generator = SystemRandomNumberGenerator()
            return try unsafe engine.registerMemory(
                protectionDomain: number, iova: record.iova, pointer: address, byteCount: length, access: access,
                using: &generator)
        }
    }

    private func fill(
        _ region: UnsafeMutablePointer<ibv_mr>, key: MemoryKey, domain: UnsafeMutablePointer<ibv_pd>,
        address: UnsafeMutableRawPointer, length: Int
    ) {
        unsafe region.pointee.pd = unsafe domain
        unsafe region.pointee.addr = unsafe address
        unsafe region.pointee.length = length
        unsafe region.pointee.handle = key.rawValue
        unsafe region.pointee.lkey = key.rawValue
        unsafe region.pointee.rkey = key.rawValue
        unsafe protectionDomainRecord(domain).pointee.users.add(1, ordering: .relaxed)
    }

    private static func checkedAccess(_ bits: UInt32) throws(ProviderError) -> AccessFlags {
        // A device may ignore what has no meaning for it: the optional range (relaxed ordering), and, as nothing is
        // pinned, paging on demand and the size of its pages.
        let ignored =
            UInt32(cverbs_access_optional_range) | ibv_access_flags.IBV_ACCESS_ON_DEMAND.rawValue
            | ibv_access_flags.IBV_ACCESS_HUGETLB.rawValue
        let access = AccessFlags(rawValue: bits & ~ignored)
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
                detail: "access flags 0x\(String(unknown, radix: 16)) are not supported")
        }
        if !access.isDisjoint(with: [.remoteWrite, .remoteAtomic]), !access.contains(.localWrite) {
            throw ProviderError(
                "ibv_reg_mr", code: EINVAL, detail: "remote write or atomic access needs IBV_ACCESS_LOCAL_WRITE too")
        }
        return access
    }

    /// A kernel device pins the pages and so finds holes; this one asks whether they are mapped, so that a wrong
    /// length is an error here and not a fault at the first packet.
    static func checkMapped(_ address: UnsafeMutableRawPointer, length: Int) throws(ProviderError) {
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
}

/// `verbs_context.alloc_null_mr`.
@c func softAllocateNullRegion(_ domain: UnsafeMutablePointer<ibv_pd>?) -> UnsafeMutablePointer<ibv_mr>? {
    guard let domain = unsafe domain else {
        errno = EINVAL
        return nil
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(domain.pointee.context).registerNull(domain)
    }
}
