// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import RoCEWire
import VerbsABI

// The operations of memory windows: verbs.h calls them through `context->ops`, so they report by `errno`.

/// `ibv_context_ops.alloc_mw`.
@c func softAllocateWindow(_ domain: UnsafeMutablePointer<ibv_pd>?, _ type: ibv_mw_type) -> UnsafeMutablePointer<
    ibv_mw
>? {
    guard let domain = unsafe domain, let kind = MemoryWindowType(rawValue: UInt8(truncatingIfNeeded: type.rawValue))
    else {
        errno = EINVAL
        return nil
    }
    let record = unsafe protectionDomainRecord(domain)
    let number = unsafe record.pointee.domain
    let key: MemoryKey
    do throws(ProviderError) {
        let context = unsafe record.pointee.context.takeUnretainedValue()
        key = try context.withEngine("ibv_alloc_mw") { engine throws(EngineError) in
            var generator = SystemRandomNumberGenerator()
            return try engine.allocateWindow(protectionDomain: number, type: kind, using: &generator)
        }
    } catch {
        errno = error.code
        return nil
    }
    let window = UnsafeMutablePointer<ibv_mw>.allocate(capacity: 1)
    unsafe window.initialize(to: ibv_mw())
    unsafe window.pointee.context = unsafe domain.pointee.context
    unsafe window.pointee.pd = unsafe domain
    unsafe window.pointee.rkey = key.rawValue
    unsafe window.pointee.handle = key.rawValue
    unsafe window.pointee.type = type
    unsafe record.pointee.users.add(1, ordering: .relaxed)
    return unsafe window
}

/// `ibv_context_ops.dealloc_mw`.
@c func softDeallocateWindow(_ window: UnsafeMutablePointer<ibv_mw>?) -> Int32 {
    guard let window = unsafe window else { return EINVAL }
    let record = unsafe protectionDomainRecord(window.pointee.pd)
    let key = unsafe MemoryKey(rawValue: window.pointee.rkey)
    do throws(ProviderError) {
        let context = unsafe record.pointee.context.takeUnretainedValue()
        try context.withEngine("ibv_dealloc_mw") { engine throws(EngineError) in try engine.deallocateWindow(key) }
    } catch {
        return error.code
    }
    unsafe record.pointee.users.subtract(1, ordering: .releasing)
    unsafe window.deallocate()
    return 0
}
