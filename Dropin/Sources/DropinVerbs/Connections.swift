// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// The connection manager: event channels, identifiers, addresses. librdmacm.so.1 jumps to these functions.

/// Runs a call of the connection manager.
func managed(_ body: (any ConnectionPath) throws(ProviderError) -> Void) -> Int32 {
    minusOne { () throws(ProviderError) in
        do throws(ProviderError) {
            try body(SoftProvider.shared.connections())
        } catch {
            throw KernelDevices.hinted(error)
        }
    }
}

/// `rdma_create_event_channel`
@c @implementation
public func rdma_create_event_channel() -> UnsafeMutablePointer<rdma_event_channel>! {
    unsafe softObject { () throws(ProviderError) in try unsafe SoftProvider.shared.connections().makeEventChannel() }
}

/// `rdma_destroy_event_channel`
@c @implementation
public func rdma_destroy_event_channel(_ channel: UnsafeMutablePointer<rdma_event_channel>!) {
    _ = managed { (path) throws(ProviderError) in unsafe path.destroy(channel) }
}

/// `rdma_create_id`
@c @implementation
public func rdma_create_id(
    _ channel: UnsafeMutablePointer<rdma_event_channel>!,
    _ result: UnsafeMutablePointer<UnsafeMutablePointer<rdma_cm_id>?>!, _ context: UnsafeMutableRawPointer!,
    _ portSpace: rdma_port_space
) -> Int32 {
    managed { (path) throws(ProviderError) in
        if let channel = unsafe channel {
            unsafe result.pointee = try path.makeIdentifier(on: channel, context: context, portSpace: portSpace)
        } else {
            unsafe result.pointee = try waitingIdentifier(path) { (own) throws(ProviderError) in
                unsafe try path.makeIdentifier(on: own, context: context, portSpace: portSpace)
            }
        }
    }
}

/// An identifier without a channel: each call waits for its event, which comes by a channel that the program does not see.
func waitingIdentifier(
    _ path: any ConnectionPath,
    _ make: (UnsafeMutablePointer<rdma_event_channel>) throws(ProviderError) -> UnsafeMutablePointer<rdma_cm_id>
) throws(ProviderError) -> UnsafeMutablePointer<rdma_cm_id> {
    let own = unsafe try path.makeEventChannel()
    do throws(ProviderError) {
        let identifier = unsafe try make(own)
        unsafe Companions.update(identifier) { unsafe $0.ownChannel = unsafe own }
        return unsafe identifier
    } catch {
        unsafe path.destroy(own)
        throw error
    }
}

/// `rdma_destroy_id`
@c @implementation
public func rdma_destroy_id(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) -> Int32 {
    managed { (path) throws(ProviderError) in
        unsafe acknowledgeOwn(identifier, path)
        try unsafe path.destroy(identifier)
        let companion = unsafe Companions.remove(identifier)
        if let own = unsafe companion.ownChannel { unsafe path.destroy(own) }
        unsafe rdma_freeaddrinfo(companion.resolved)
    }
}

/// `rdma_bind_addr`
@c @implementation
public func rdma_bind_addr(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ address: UnsafeMutablePointer<sockaddr>!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        try unsafe path.bind(identifier, to: address)
        // As in the kernel, where no device has a loopback address: such an identifier gets its device when it resolves
        // one, or with a request. libfabric takes a device here for the only one that it may use.
        if unsafe isLoopback(address) { unsafe identifier.pointee.verbs = nil }
        unsafe takeDomain(identifier)
    }
}

/// An identifier that has a device has a protection domain, as from librdmacm: that of the device, until the program gives another.
func takeDomain(_ identifier: UnsafeMutablePointer<rdma_cm_id>) {
    guard let context = unsafe identifier.pointee.verbs, unsafe identifier.pointee.pd == nil else { return }
    unsafe identifier.pointee.pd = unsafe domain(of: context)
}

private func isLoopback(_ address: UnsafeMutablePointer<sockaddr>) -> Bool {
    switch unsafe Int32(address.pointee.sa_family) {
    case AF_INET:
        // 127.0.0.0/8: the address is in network byte order.
        let first = MemoryLayout<sockaddr_in>.offset(of: \.sin_addr)!
        return unsafe UnsafeRawPointer(address).load(fromByteOffset: first, as: UInt8.self) == 127
    case AF_INET6:
        return unsafe withUnsafeBytes(of: UnsafeRawPointer(address).load(as: sockaddr_in6.self).sin6_addr) { bytes in
            unsafe bytes.dropLast().allSatisfy { $0 == 0 } && bytes[15] == 1
        }
    default: return false
    }
}

/// `rdma_resolve_addr`
@c @implementation
public func rdma_resolve_addr(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ source: UnsafeMutablePointer<sockaddr>!,
    _ destination: UnsafeMutablePointer<sockaddr>!, _ timeout: Int32
) -> Int32 {
    managed { (path) throws(ProviderError) in
        // As in the kernel: who is bound keeps its address, whatever comes with the call.
        let isBound = unsafe identifier.pointee.route.addr.src_storage.ss_family != 0
        try unsafe path.resolveAddress(
            identifier, source: isBound ? nil : source, destination: destination, timeoutMilliseconds: timeout)
        unsafe identifier.pointee.verbs = unsafe path.device(of: identifier)?.path.context
        unsafe takeDomain(identifier)
        try unsafe complete(identifier, "rdma_resolve_addr", path)
    }
}

/// `rdma_resolve_route`
@c @implementation
public func rdma_resolve_route(_ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ timeout: Int32) -> Int32 {
    managed { (path) throws(ProviderError) in
        try unsafe path.resolveRoute(identifier, timeoutMilliseconds: timeout)
        try unsafe complete(identifier, "rdma_resolve_route", path)
    }
}

/// `rdma_set_option`
@c @implementation
public func rdma_set_option(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ level: Int32, _ name: Int32,
    _ value: UnsafeMutableRawPointer!, _ length: Int
) -> Int32 {
    managed { (path) throws(ProviderError) in
        try unsafe path.setOption(identifier, level: level, name: name, value: value, length: length)
    }
}

/// `rdma_migrate_id`
@c @implementation
public func rdma_migrate_id(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>!, _ channel: UnsafeMutablePointer<rdma_event_channel>!
) -> Int32 {
    managed { (path) throws(ProviderError) in
        let previous = unsafe Companions.get(identifier).ownChannel
        if let channel = unsafe channel {
            unsafe acknowledgeOwn(identifier, path)
            try unsafe SoftProvider.shared.migrate(identifier, to: channel)
            unsafe Companions.update(identifier) { unsafe $0.ownChannel = nil }
        } else {
            let own = unsafe try path.makeEventChannel()
            try unsafe SoftProvider.shared.migrate(identifier, to: own)
            unsafe Companions.update(identifier) { unsafe $0.ownChannel = unsafe own }
        }
        if let previous = unsafe previous { unsafe path.destroy(previous) }
    }
}

/// The port of an address, in network byte order; 0 without one.
private func port(of storage: sockaddr_storage) -> UInt16 {
    // IPv4 and IPv6 have it at the same place.
    let family = Int32(storage.ss_family)
    guard family == AF_INET || family == AF_INET6 else { return 0 }
    return unsafe withUnsafeBytes(of: storage) { unsafe $0.load(fromByteOffset: 2, as: UInt16.self) }
}

/// `rdma_get_src_port`
@c @implementation
public func rdma_get_src_port(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) -> UInt16 {
    unsafe port(of: identifier.pointee.route.addr.src_storage)
}

/// `rdma_get_dst_port`
@c @implementation
public func rdma_get_dst_port(_ identifier: UnsafeMutablePointer<rdma_cm_id>!) -> UInt16 {
    unsafe port(of: identifier.pointee.route.addr.dst_storage)
}

/// `rdma_get_devices`
@c @implementation
public func rdma_get_devices(
    _ count: UnsafeMutablePointer<Int32>!
) -> UnsafeMutablePointer<UnsafeMutablePointer<ibv_context>?>! {
    let contexts = SoftProvider.shared.connectionContexts()
    // Freed by rdma_free_devices; NULL behind the last.
    let list = UnsafeMutablePointer<UnsafeMutablePointer<ibv_context>?>.allocate(capacity: contexts.count + 1)
    for (index, context) in contexts.enumerated() { unsafe (list + index).initialize(to: context.context) }
    unsafe (list + contexts.count).initialize(to: nil)
    unsafe count?.pointee = Int32(contexts.count)
    return unsafe list
}

/// `rdma_free_devices`
@c @implementation
public func rdma_free_devices(_ list: UnsafeMutablePointer<UnsafeMutablePointer<ibv_context>?>!) {
    unsafe list?.deallocate()
}
