// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// Protection domains and memory regions.

/// `ibv_alloc_pd`
@c @implementation
public func ibv_alloc_pd(_ context: UnsafeMutablePointer<ibv_context>!) -> UnsafeMutablePointer<ibv_pd>! {
    if let kernel = unsafe kernelVerbs(context) { return unsafe kernel.pointee.ibv_alloc_pd(context) }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(context).allocateProtectionDomain()
    }
}

/// `ibv_dealloc_pd`
@c @implementation
public func ibv_dealloc_pd(_ domain: UnsafeMutablePointer<ibv_pd>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) { return unsafe kernel.pointee.ibv_dealloc_pd(domain) }
    return softCode { () throws(ProviderError) in try unsafe SoftContext.of(domain.pointee.context).deallocate(domain) }
}

/// `ibv_reg_mr`
@c @implementation
public func ibv_reg_mr(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ address: UnsafeMutableRawPointer!, _ length: Int, _ access: Int32
) -> UnsafeMutablePointer<ibv_mr>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_reg_mr(domain, address, length, access)
    }
    return unsafe ibv_reg_mr_iova2(
        domain, address, length, UInt64(UInt(bitPattern: address)), UInt32(bitPattern: access))
}

/// `ibv_reg_mr_iova`
@c @implementation
public func ibv_reg_mr_iova(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ address: UnsafeMutableRawPointer!, _ length: Int, _ iova: UInt64,
    _ access: Int32
) -> UnsafeMutablePointer<ibv_mr>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_reg_mr_iova(domain, address, length, iova, access)
    }
    return unsafe ibv_reg_mr_iova2(domain, address, length, iova, UInt32(bitPattern: access))
}

/// `ibv_reg_mr_iova2`
@c @implementation
public func ibv_reg_mr_iova2(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ address: UnsafeMutableRawPointer!, _ length: Int, _ iova: UInt64,
    _ access: UInt32
) -> UnsafeMutablePointer<ibv_mr>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_reg_mr_iova2(domain, address, length, iova, access)
    }
    return unsafe softObject { () throws(ProviderError) in
        guard let address = unsafe address else {
            guard access & ibv_access_flags.IBV_ACCESS_ON_DEMAND.rawValue != 0, length == Int(bitPattern: UInt.max),
                iova == 0
            else {
                throw ProviderError(
                    "ibv_reg_mr", code: EFAULT,
                    detail: "the address is NULL, other than with IBV_ACCESS_ON_DEMAND and the length SIZE_MAX")
            }
            return unsafe try SoftContext.of(domain.pointee.context).registerAddressSpace(domain, access: access)
        }
        return unsafe try SoftContext.of(domain.pointee.context).register(
            domain, address: address, length: length, iova: iova, access: access)
    }
}

/// `ibv_reg_dmabuf_mr`
@c @implementation
public func ibv_reg_dmabuf_mr(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ offset: UInt64, _ length: Int, _ iova: UInt64, _ descriptor: Int32,
    _ access: Int32
) -> UnsafeMutablePointer<ibv_mr>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_reg_dmabuf_mr(domain, offset, length, iova, descriptor, access)
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(domain.pointee.context).registerDmabuf(
            domain, offset: offset, length: length, iova: iova, descriptor: descriptor,
            access: UInt32(bitPattern: access))
    }
}

/// `ibv_dereg_mr`
@c @implementation
public func ibv_dereg_mr(_ region: UnsafeMutablePointer<ibv_mr>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(region.pointee.context) { return unsafe kernel.pointee.ibv_dereg_mr(region) }
    return softCode { () throws(ProviderError) in try unsafe SoftContext.of(region.pointee.context).deregister(region) }
}

/// `ibv_rereg_mr`
@c @implementation
public func ibv_rereg_mr(
    _ region: UnsafeMutablePointer<ibv_mr>!, _ flags: Int32, _ domain: UnsafeMutablePointer<ibv_pd>!,
    _ address: UnsafeMutableRawPointer!, _ length: Int, _ access: Int32
) -> Int32 {
    if let kernel = unsafe kernelVerbs(region.pointee.context) {
        return unsafe kernel.pointee.ibv_rereg_mr(region, flags, domain, address, length, access)
    }
    let code = softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(region.pointee.context).reregister(
            region, flags: UInt32(bitPattern: flags), domain: domain, address: address, length: length,
            access: UInt32(bitPattern: access))
    }
    guard code != 0 else { return 0 }
    errno = code
    // The region is what it was.
    return IBV_REREG_MR_ERR_INPUT.rawValue
}
