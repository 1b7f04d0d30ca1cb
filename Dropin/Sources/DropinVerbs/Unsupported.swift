// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

// What the software device does not have. Each fails as rdma-core documents it for a device without.

private func refuse<Object>(_ function: StaticString, _ detail: String) -> UnsafeMutablePointer<Object>? {
    errno = SoftProvider.report(ProviderError(function, code: EOPNOTSUPP, detail: detail))
    return nil
}

private let noSharing = "objects of the software device are of one process, there is no descriptor to share them by"

/// `ibv_import_device`
@c @implementation
public func ibv_import_device(_ descriptor: Int32) -> UnsafeMutablePointer<ibv_context>! {
    if let kernel = unsafe KernelDevices.verbs { return unsafe kernel.pointee.ibv_import_device(descriptor) }
    return unsafe refuse("ibv_import_device", noSharing)
}

/// `ibv_import_pd`
@c @implementation
public func ibv_import_pd(
    _ context: UnsafeMutablePointer<ibv_context>!, _ handle: UInt32
) -> UnsafeMutablePointer<ibv_pd>! {
    if let kernel = unsafe kernelVerbs(context) { return unsafe kernel.pointee.ibv_import_pd(context, handle) }
    return unsafe refuse("ibv_import_pd", noSharing)
}

/// `ibv_unimport_pd`
@c @implementation
public func ibv_unimport_pd(_ domain: UnsafeMutablePointer<ibv_pd>!) {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) { return unsafe kernel.pointee.ibv_unimport_pd(domain) }
}

/// `ibv_import_mr`
@c @implementation
public func ibv_import_mr(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ handle: UInt32
) -> UnsafeMutablePointer<ibv_mr>! {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        return unsafe kernel.pointee.ibv_import_mr(domain, handle)
    }
    return unsafe refuse("ibv_import_mr", noSharing)
}

/// `ibv_unimport_mr`
@c @implementation
public func ibv_unimport_mr(_ region: UnsafeMutablePointer<ibv_mr>!) {
    if let kernel = unsafe kernelVerbs(region.pointee.context) { return unsafe kernel.pointee.ibv_unimport_mr(region) }
}

/// `ibv_import_dm`
@c @implementation
public func ibv_import_dm(
    _ context: UnsafeMutablePointer<ibv_context>!, _ handle: UInt32
) -> UnsafeMutablePointer<ibv_dm>! {
    if let kernel = unsafe kernelVerbs(context) { return unsafe kernel.pointee.ibv_import_dm(context, handle) }
    return unsafe refuse("ibv_import_dm", noSharing)
}

/// `ibv_unimport_dm`
@c @implementation
public func ibv_unimport_dm(_ memory: UnsafeMutablePointer<ibv_dm>!) {
    if let kernel = unsafe kernelVerbs(memory.pointee.context) { return unsafe kernel.pointee.ibv_unimport_dm(memory) }
}

/// `ibv_set_ece`
@c @implementation
public func ibv_set_ece(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ options: UnsafeMutablePointer<ibv_ece>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_set_ece(queuePair, options)
    }
    return EOPNOTSUPP
}

/// `ibv_query_ece`
@c @implementation
public func ibv_query_ece(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ options: UnsafeMutablePointer<ibv_ece>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(queuePair.pointee.context) {
        return unsafe kernel.pointee.ibv_query_ece(queuePair, options)
    }
    return EOPNOTSUPP
}

/// `ibv_resolve_eth_l2_from_gid`
@c @implementation
public func ibv_resolve_eth_l2_from_gid(
    _ context: UnsafeMutablePointer<ibv_context>!, _ attributes: UnsafeMutablePointer<ibv_ah_attr>!,
    _ mac: UnsafeMutablePointer<UInt8>!, _ vlan: UnsafeMutablePointer<UInt16>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee.ibv_resolve_eth_l2_from_gid(context, attributes, mac, vlan)
    }
    // Packets leave through sockets: the kernel resolves the addresses of the link.
    errno = EOPNOTSUPP
    return -1
}
