// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

// Endpoints: identifiers that are made with all that belongs to them; and the addresses that they are made of.

/// `rdma_create_ep`
@c @implementation
public func rdma_create_ep(
    _ result: UnsafeMutablePointer<UnsafeMutablePointer<rdma_cm_id>?>!,
    _ address: UnsafeMutablePointer<rdma_addrinfo>!,
    _ domain: UnsafeMutablePointer<ibv_pd>!, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr>!
) -> Int32 {
    let type = ibv_qp_type(rawValue: UInt32(bitPattern: unsafe address.pointee.ai_qp_type))!
    let space = rdma_port_space(rawValue: UInt32(bitPattern: unsafe address.pointee.ai_port_space))!
    var made: UnsafeMutablePointer<rdma_cm_id>?
    let code = managed { (path) throws(ProviderError) in
        unsafe made = try waitingIdentifier(path) { (channel) throws(ProviderError) in
            unsafe try SoftProvider.shared.makeIdentifier(on: channel, context: nil, portSpace: space, type: type)
        }
    }
    guard code == 0, let identifier = unsafe made else { return -1 }
    var isMade: Bool
    if unsafe address.pointee.ai_flags & Int32(RAI_PASSIVE) != 0 {
        isMade = unsafe rdma_bind_addr(identifier, address.pointee.ai_src_addr) == 0
        if let domain = unsafe domain { unsafe identifier.pointee.pd = unsafe domain }
        if let attributes = unsafe attributes {
            unsafe Companions.update(identifier) {
                unsafe $0.queuePairs = unsafe attributes.pointee
                unsafe $0.queuePairs!.qp_type = type
            }
        }
    } else {
        isMade =
            unsafe rdma_resolve_addr(identifier, address.pointee.ai_src_addr, address.pointee.ai_dst_addr, 2_000) == 0
            && rdma_resolve_route(identifier, 2_000) == 0
        if isMade, let attributes = unsafe attributes {
            unsafe attributes.pointee.qp_type = type
            isMade = unsafe rdma_create_qp(identifier, domain, attributes) == 0
        }
    }
    guard isMade else {
        let code = errno
        unsafe rdma_destroy_ep(identifier)
        errno = code
        return -1
    }
    unsafe result.pointee = unsafe identifier
    return 0
}

/// `rdma_destroy_ep`
@c @implementation
public func rdma_destroy_ep(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) {
    unsafe rdma_destroy_qp(identifier)
    unsafe rdma_destroy_srq(identifier)
    _ = unsafe rdma_destroy_id(identifier)
}

/// `rdma_get_request`
@c @implementation
public func rdma_get_request(
    _ listener: UnsafeMutablePointer<rdma_cm_id>!, _ result: UnsafeMutablePointer<UnsafeMutablePointer<rdma_cm_id>?>!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        let companion = unsafe Companions.get(listener)
        guard let channel = unsafe companion.ownChannel else {
            throw ProviderError("rdma_get_request", code: EINVAL, detail: "the listener has an event channel")
        }
        unsafe acknowledgeOwn(listener, path)
        let event = unsafe try nextEvent(on: channel, path)
        guard unsafe event.pointee.event == .RDMA_CM_EVENT_CONNECT_REQUEST, let identifier = unsafe event.pointee.id
        else {
            try unsafe path.acknowledge(event)
            throw ProviderError("rdma_get_request", code: EINVAL, detail: "another event than a request came")
        }
        unsafe identifier.pointee.qp_type = unsafe listener.pointee.qp_type
        let isReady: Bool
        if var attributes = unsafe companion.queuePairs {
            isReady = unsafe rdma_create_qp(identifier, listener.pointee.pd, &attributes) == 0
        } else {
            isReady = true
        }
        guard isReady, unsafe rdma_migrate_id(identifier, nil) == 0 else {
            let code = errno
            try unsafe path.acknowledge(event)
            unsafe rdma_destroy_ep(identifier)
            throw ProviderError("rdma_get_request", code: code)
        }
        // Acknowledged with the next event of the identifier, or when it is destroyed.
        unsafe identifier.pointee.event = unsafe event
        unsafe result.pointee = unsafe identifier
    }
}

/// A copy of an address, for `rdma_freeaddrinfo`.
private func copy(_ address: UnsafePointer<sockaddr>?, _ length: socklen_t) -> UnsafeMutablePointer<sockaddr>? {
    guard let address = unsafe address, length > 0, let memory = unsafe malloc(Int(length)) else { return nil }
    unsafe memory.copyMemory(from: address, byteCount: Int(length))
    return unsafe memory.assumingMemoryBound(to: sockaddr.self)
}

/// `rdma_getaddrinfo`: one entry, of the first address, as librdmacm makes it.
@c @implementation
public func rdma_getaddrinfo(
    _ node: UnsafePointer<CChar>!, _ service: UnsafePointer<CChar>!, _ hints: UnsafePointer<rdma_addrinfo>!,
    _ result: UnsafeMutablePointer<UnsafeMutablePointer<rdma_addrinfo>?>!
) -> Int32 {
    guard unsafe node != nil || service != nil || hints != nil else {
        return minusOne { () throws(ProviderError) in
            throw ProviderError("rdma_getaddrinfo", code: EINVAL, detail: "node, service and hints are NULL: give one")
        }
    }
    let wanted = unsafe hints?.pointee ?? rdma_addrinfo()
    var ask = unsafe addrinfo()
    unsafe ask.ai_family = unsafe wanted.ai_family
    if unsafe wanted.ai_flags & Int32(RAI_PASSIVE) != 0 { unsafe ask.ai_flags |= AI_PASSIVE }
    if unsafe wanted.ai_flags & Int32(RAI_NUMERICHOST) != 0 { unsafe ask.ai_flags |= AI_NUMERICHOST }
    let isDatagram =
        unsafe wanted.ai_port_space == Int32(rdma_port_space.RDMA_PS_UDP.rawValue)
        || wanted.ai_qp_type == Int32(ibv_qp_type.IBV_QPT_UD.rawValue)
    unsafe ask.ai_socktype = isDatagram ? Int32(SOCK_DGRAM.rawValue) : Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>?
    if unsafe node != nil || service != nil {
        let code = unsafe getaddrinfo(node, service, &ask, &found)
        guard code == 0 else { return code }
    }
    defer { if let found = unsafe found { unsafe freeaddrinfo(found) } }
    guard let memory = unsafe calloc(1, MemoryLayout<rdma_addrinfo>.size) else { return EAI_MEMORY }
    let made = unsafe memory.bindMemory(to: rdma_addrinfo.self, capacity: 1)
    unsafe made.pointee.ai_flags = unsafe wanted.ai_flags
    unsafe made.pointee.ai_family = unsafe found?.pointee.ai_family ?? wanted.ai_family
    let space = isDatagram ? rdma_port_space.RDMA_PS_UDP : .RDMA_PS_TCP
    let type = isDatagram ? ibv_qp_type.IBV_QPT_UD : .IBV_QPT_RC
    unsafe made.pointee.ai_port_space =
        unsafe wanted.ai_port_space == 0 ? Int32(space.rawValue) : wanted.ai_port_space
    unsafe made.pointee.ai_qp_type = unsafe wanted.ai_qp_type == 0 ? Int32(type.rawValue) : wanted.ai_qp_type
    // What was asked for is one side's address; the other, if any, is that of the hints.
    let isPassive = unsafe wanted.ai_flags & Int32(RAI_PASSIVE) != 0
    let source =
        unsafe isPassive && found != nil
        ? (found!.pointee.ai_addr, found!.pointee.ai_addrlen) : (wanted.ai_src_addr, wanted.ai_src_len)
    let destination =
        unsafe !isPassive && found != nil
        ? (found!.pointee.ai_addr, found!.pointee.ai_addrlen) : (wanted.ai_dst_addr, wanted.ai_dst_len)
    unsafe made.pointee.ai_src_addr = unsafe copy(source.0, source.1)
    unsafe made.pointee.ai_src_len = unsafe made.pointee.ai_src_addr == nil ? 0 : source.1
    unsafe made.pointee.ai_dst_addr = unsafe copy(destination.0, destination.1)
    unsafe made.pointee.ai_dst_len = unsafe made.pointee.ai_dst_addr == nil ? 0 : destination.1
    unsafe result.pointee = unsafe made
    return 0
}

/// `rdma_freeaddrinfo`
@c @implementation
public func rdma_freeaddrinfo(_ list: UnsafeMutablePointer<rdma_addrinfo>!) {
    var next = unsafe list
    while let item = unsafe next {
        unsafe next = unsafe item.pointee.ai_next
        unsafe free(item.pointee.ai_src_addr)
        unsafe free(item.pointee.ai_dst_addr)
        unsafe free(item)
    }
}
