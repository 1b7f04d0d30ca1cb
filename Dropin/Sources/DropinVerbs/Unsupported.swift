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
    unsafe refuse("ibv_import_device", noSharing)
}

/// `ibv_import_pd`
@c @implementation
public func ibv_import_pd(
    _ context: UnsafeMutablePointer<ibv_context>!, _ handle: UInt32
) -> UnsafeMutablePointer<ibv_pd>! {
    unsafe refuse("ibv_import_pd", noSharing)
}

/// `ibv_unimport_pd`
@c @implementation
public func ibv_unimport_pd(_ domain: UnsafeMutablePointer<ibv_pd>!) {}

/// `ibv_import_mr`
@c @implementation
public func ibv_import_mr(
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ handle: UInt32
) -> UnsafeMutablePointer<ibv_mr>! {
    unsafe refuse("ibv_import_mr", noSharing)
}

/// `ibv_unimport_mr`
@c @implementation
public func ibv_unimport_mr(_ region: UnsafeMutablePointer<ibv_mr>!) {}

/// `ibv_import_dm`
@c @implementation
public func ibv_import_dm(
    _ context: UnsafeMutablePointer<ibv_context>!, _ handle: UInt32
) -> UnsafeMutablePointer<ibv_dm>! {
    unsafe refuse("ibv_import_dm", noSharing)
}

/// `ibv_unimport_dm`
@c @implementation
public func ibv_unimport_dm(_ memory: UnsafeMutablePointer<ibv_dm>!) {}

/// `ibv_set_ece`
@c @implementation
public func ibv_set_ece(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ options: UnsafeMutablePointer<ibv_ece>!
) -> Int32 {
    EOPNOTSUPP
}

/// `ibv_query_ece`
@c @implementation
public func ibv_query_ece(
    _ queuePair: UnsafeMutablePointer<ibv_qp>!, _ options: UnsafeMutablePointer<ibv_ece>!
) -> Int32 {
    EOPNOTSUPP
}

/// `ibv_resolve_eth_l2_from_gid`
@c @implementation
public func ibv_resolve_eth_l2_from_gid(
    _ context: UnsafeMutablePointer<ibv_context>!, _ attributes: UnsafeMutablePointer<ibv_ah_attr>!,
    _ mac: UnsafeMutablePointer<UInt8>!, _ vlan: UnsafeMutablePointer<UInt16>!
) -> Int32 {
    // Packets leave through sockets: the kernel resolves the addresses of the link.
    errno = EOPNOTSUPP
    return -1
}

// Only librdmacm calls these, with what the kernel told it.

/// `ibv_copy_ah_attr_from_kern`
@c(ibv_copy_ah_attr_from_kern)
public func copyAddressFromKernel(_ target: UnsafeMutableRawPointer?, _ source: UnsafeMutableRawPointer?) {}

/// `ibv_copy_qp_attr_from_kern`
@c(ibv_copy_qp_attr_from_kern)
public func copyAttributesFromKernel(_ target: UnsafeMutableRawPointer?, _ source: UnsafeMutableRawPointer?) {}

/// `ibv_copy_path_rec_from_kern`
@c(ibv_copy_path_rec_from_kern)
public func copyPathFromKernel(_ target: UnsafeMutableRawPointer?, _ source: UnsafeMutableRawPointer?) {}

/// `ibv_copy_path_rec_to_kern`
@c(ibv_copy_path_rec_to_kern)
public func copyPathToKernel(_ target: UnsafeMutableRawPointer?, _ source: UnsafeMutableRawPointer?) {}
