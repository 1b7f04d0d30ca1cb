// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import VerbsABI

// Thread domains, parent domains, clocks. A thread domain promises that one
// thread uses what is made with it; the device's locks cost that thread next to nothing, so it changes nothing here.

/// `verbs_context.alloc_td`.
@c func softAllocateThreadDomain(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_td_init_attr>?
) -> UnsafeMutablePointer<ibv_td>? {
    guard let context = unsafe context, let attributes = unsafe attributes,
        unsafe attributes.pointee.comp_mask == 0
    else {
        errno = EINVAL
        return nil
    }
    let domain = unsafe ObjectStorage<ibv_td, ThreadDomainRecord>().initialize(ThreadDomainRecord())
    unsafe domain.pointee.context = unsafe context
    return unsafe domain
}

/// `verbs_context.dealloc_td`.
@c func softDeallocateThreadDomain(_ domain: UnsafeMutablePointer<ibv_td>?) -> Int32 {
    guard let domain = unsafe domain else { return EINVAL }
    guard unsafe ObjectStorage<ibv_td, ThreadDomainRecord>.record(domain).pointee.users.load(ordering: .acquiring) == 0
    else { return EBUSY }
    unsafe ObjectStorage<ibv_td, ThreadDomainRecord>.free(domain)
    return 0
}

/// `verbs_context.alloc_parent_domain`: a protection domain of the same number as its parent. The allocators that a
/// program may give are for providers whose queues it is to place; the engine's own memory is not the program's.
@c func softAllocateParentDomain(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_parent_domain_init_attr>?
) -> UnsafeMutablePointer<ibv_pd>? {
    guard let context = unsafe context, let attributes = unsafe attributes, let parent = unsafe attributes.pointee.pd
    else {
        errno = EINVAL
        return nil
    }
    let known = IBV_PARENT_DOMAIN_INIT_ATTR_ALLOCATORS.rawValue | IBV_PARENT_DOMAIN_INIT_ATTR_PD_CONTEXT.rawValue
    guard unsafe attributes.pointee.comp_mask & ~known == 0 else {
        errno = EOPNOTSUPP
        return nil
    }
    return unsafe SoftContext.of(context).allocateParentDomain(parent, thread: attributes.pointee.td)
}

extension SoftContext {
    fileprivate func allocateParentDomain(
        _ parent: UnsafeMutablePointer<ibv_pd>, thread: UnsafeMutablePointer<ibv_td>?
    ) -> UnsafeMutablePointer<ibv_pd> {
        let parentRecord = unsafe protectionDomainRecord(parent)
        let domain = unsafe ObjectStorage<ibv_pd, ProtectionDomainRecord>().initialize(
            ProtectionDomainRecord(
                context: .passUnretained(self), domain: parentRecord.pointee.domain, parent: parent, thread: thread))
        unsafe domain.pointee.context = unsafe context
        unsafe domain.pointee.handle = parent.pointee.handle
        unsafe parentRecord.pointee.users.add(1, ordering: .relaxed)
        if let thread = unsafe thread {
            unsafe ObjectStorage<ibv_td, ThreadDomainRecord>.record(thread).pointee.users.add(1, ordering: .relaxed)
        }
        objects.add(1, ordering: .relaxed)
        return unsafe domain
    }

    /// Before a parent domain is freed: what it was made of may go now. Nothing for other domains.
    func releaseParents(of domain: UnsafeMutablePointer<ibv_pd>) {
        let record = unsafe protectionDomainRecord(domain)
        if let parent = unsafe record.pointee.parent {
            unsafe protectionDomainRecord(parent).pointee.users.subtract(1, ordering: .releasing)
        }
        if let thread = unsafe record.pointee.thread {
            unsafe ObjectStorage<ibv_td, ThreadDomainRecord>.record(thread).pointee.users.subtract(
                1, ordering: .releasing)
        }
    }
}

/// `verbs_context.query_rt_values`: the clock that completions are stamped with.
@c func softQueryValues(
    _ context: UnsafeMutablePointer<ibv_context>?, _ values: UnsafeMutablePointer<ibv_values_ex>?
) -> Int32 {
    guard let values = unsafe values else { return EINVAL }
    let clock = IBV_VALUES_MASK_RAW_CLOCK.rawValue
    guard unsafe values.pointee.comp_mask & ~clock == 0 else { return EOPNOTSUPP }
    if unsafe values.pointee.comp_mask & clock != 0 {
        unsafe clock_gettime(CLOCK_MONOTONIC, &values.pointee.raw_clock)
    }
    return 0
}
