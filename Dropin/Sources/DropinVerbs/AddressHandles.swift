// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCEWire
import SoftProvider
import VerbsABI

// Address handles.

/// `ibv_create_ah`
@c @implementation
public func ibv_create_ah(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ attributes: UnsafeMutablePointer<ibv_ah_attr>!
) -> UnsafeMutablePointer<ibv_ah>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_create_ah(domain, attributes)
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(domain.pointee.context).makeAddressHandle(domain, attributes)
    }
}

/// `ibv_destroy_ah`
@c @implementation
public func ibv_destroy_ah(_ handle: UnsafeMutablePointer<ibv_ah>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(handle.pointee.context) { return unsafe kernel.pointee.ibv_destroy_ah(handle) }
    return softCode { () throws(ProviderError) in try unsafe SoftContext.of(handle.pointee.context).destroy(handle) }
}

/// `ibv_create_ah_from_wc`
@c @implementation
public func ibv_create_ah_from_wc(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ completion: UnsafeMutablePointer<ibv_wc>!,
    _ header: UnsafeMutablePointer<ibv_grh>!, _ port: UInt8
) -> UnsafeMutablePointer<ibv_ah>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_create_ah_from_wc(domain, completion, header, port)
    }
    var attributes = ibv_ah_attr()
    guard unsafe ibv_init_ah_from_wc(domain.pointee.context, port, completion, header, &attributes) == 0 else {
        return nil
    }
    return unsafe ibv_create_ah(domain, &attributes)
}

/// `ibv_init_ah_from_wc`
@c @implementation
public func ibv_init_ah_from_wc(
    _ context: UnsafeMutablePointer<ibv_context>!, _ port: UInt8, _ completion: UnsafeMutablePointer<ibv_wc>!,
    _ header: UnsafeMutablePointer<ibv_grh>!, _ attributes: UnsafeMutablePointer<ibv_ah_attr>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee.ibv_init_ah_from_wc(context, port, completion, header, attributes)
    }
    return minusOne { () throws(ProviderError) in
        guard unsafe completion.pointee.wc_flags & ibv_wc_flags.IBV_WC_GRH.rawValue != 0 else {
            throw ProviderError(
                "ibv_init_ah_from_wc", code: EINVAL, detail: "the completion has no GRH: it is of no datagram")
        }
        unsafe attributes.pointee = try unsafe SoftContext.of(context).answerAddress(
            port: port, serviceLevel: completion.pointee.sl, header: UnsafeRawPointer(header))
    }
}
