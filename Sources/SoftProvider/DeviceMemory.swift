// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import VerbsABI

// Device memory and advice. An adapter has memory of its own; this device's is the process's, which a program reaches by
// the same calls only.

private typealias Storage = ObjectStorage<ibv_dm, DeviceMemoryRecord>

/// `verbs_context.alloc_dm`.
@c func softAllocateDeviceMemory(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_alloc_dm_attr>?
) -> UnsafeMutablePointer<ibv_dm>? {
    guard let context = unsafe context, let attributes = unsafe attributes,
        unsafe attributes.pointee.comp_mask == 0, unsafe attributes.pointee.length > 0
    else {
        errno = EINVAL
        return nil
    }
    let (length, alignment) = unsafe (attributes.pointee.length, attributes.pointee.log_align_req)
    guard length <= DeviceLimits.deviceMemoryBytes, alignment <= 12 else {
        errno = ENOMEM
        return nil
    }
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: max(64, 1 << Int(alignment)))
    unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0, count: length)
    let memory = unsafe Storage().initialize(DeviceMemoryRecord(bytes: bytes, byteCount: length))
    unsafe memory.pointee.context = unsafe context
    unsafe memory.pointee.memcpy_to_dm = softCopyToDevice
    unsafe memory.pointee.memcpy_from_dm = softCopyFromDevice
    unsafe SoftContext.of(context).objects.add(1, ordering: .relaxed)
    return unsafe memory
}

/// `verbs_context.free_dm`.
@c func softFreeDeviceMemory(_ memory: UnsafeMutablePointer<ibv_dm>?) -> Int32 {
    guard let memory = unsafe memory else { return EINVAL }
    guard unsafe Storage.record(memory).pointee.users.load(ordering: .acquiring) == 0 else { return EBUSY }
    unsafe SoftContext.of(memory.pointee.context).objects.subtract(1, ordering: .relaxed)
    unsafe Storage.free(memory)
    return 0
}

/// `verbs_context.reg_dm_mr`: a region that is addressed from zero.
@c func softRegisterDeviceMemory(
    _ domain: UnsafeMutablePointer<ibv_pd>?, _ memory: UnsafeMutablePointer<ibv_dm>?, _ offset: UInt64, _ length: Int,
    _ access: UInt32
) -> UnsafeMutablePointer<ibv_mr>? {
    guard let domain = unsafe domain, let memory = unsafe memory,
        let bytes = unsafe bytes(of: memory, offset: offset, length: length),
        access & ibv_access_flags.IBV_ACCESS_ZERO_BASED.rawValue != 0
    else {
        errno = EINVAL
        return nil
    }
    let region = unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(memory.pointee.context).register(
            domain, address: bytes, length: length, iova: 0, access: access, isDeviceMemory: true)
    }
    guard let region = unsafe region else { return nil }
    // As rdma-core: the address of such a region is no address of the process.
    unsafe region.pointee.addr = nil
    unsafe Storage.record(memory).pointee.users.add(1, ordering: .relaxed)
    unsafe SoftContext.regionRecord(region).pointee.deviceMemory = memory
    return unsafe region
}

extension SoftContext {
    /// A region is gone that may have been of device memory.
    func forgetDeviceMemory(of region: UnsafeMutablePointer<ibv_mr>) {
        guard let memory = unsafe Self.regionRecord(region).pointee.deviceMemory else { return }
        unsafe Storage.record(memory).pointee.users.subtract(1, ordering: .releasing)
    }
}

@c func softCopyToDevice(
    _ memory: UnsafeMutablePointer<ibv_dm>?, _ offset: UInt64, _ source: UnsafeRawPointer?, _ length: Int
) -> Int32 {
    guard let memory = unsafe memory, let source = unsafe source, isAligned(offset, length),
        let bytes = unsafe bytes(of: memory, offset: offset, length: length)
    else { return EFAULT }
    unsafe bytes.copyMemory(from: source, byteCount: length)
    return 0
}

@c func softCopyFromDevice(
    _ target: UnsafeMutableRawPointer?, _ memory: UnsafeMutablePointer<ibv_dm>?, _ offset: UInt64, _ length: Int
) -> Int32 {
    guard let memory = unsafe memory, let target = unsafe target, isAligned(offset, length),
        let bytes = unsafe bytes(of: memory, offset: offset, length: length)
    else { return EFAULT }
    unsafe target.copyMemory(from: bytes, byteCount: length)
    return 0
}

/// Programs reach an adapter's memory by words of four bytes, and expect the others to be refused.
private func isAligned(_ offset: UInt64, _ length: Int) -> Bool {
    (offset | UInt64(truncatingIfNeeded: length)) & 3 == 0
}

/// The bytes of a range, if it lies in the memory.
private func bytes(
    of memory: UnsafeMutablePointer<ibv_dm>, offset: UInt64, length: Int
) -> UnsafeMutableRawPointer? {
    let record = unsafe Storage.record(memory)
    let byteCount = unsafe record.pointee.byteCount
    guard length >= 0, length <= byteCount, offset <= UInt64(byteCount - length) else { return nil }
    return unsafe record.pointee.bytes + Int(offset)
}

/// `verbs_context.advise_mr`: brings pages in ahead of their use.
@c func softAdviseMemory(
    _ domain: UnsafeMutablePointer<ibv_pd>?, _ advice: ib_uverbs_advise_mr_advice, _ flags: UInt32,
    _ list: UnsafeMutablePointer<ibv_sge>?, _ count: UInt32
) -> Int32 {
    guard let list = unsafe list, advice.rawValue <= 2, flags & ~1 == 0 else { return EINVAL }
    for index in 0..<Int(count) {
        let element = unsafe list[index]
        let page = UInt(sysconf(Int32(_SC_PAGESIZE)))
        let first = UInt(element.addr) & ~(page - 1)
        guard let start = unsafe UnsafeMutableRawPointer(bitPattern: first), element.length > 0 else { return EINVAL }
        let length = Int(UInt(element.addr) - first) + Int(element.length)
        guard unsafe madvise(start, length, Int32(MADV_WILLNEED)) == 0 else { return EFAULT }
    }
    return 0
}
