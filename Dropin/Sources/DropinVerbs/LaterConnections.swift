// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// Functions and events that librdmacm has got since release 44 (RDMACM_1.4 of release 60); see LaterVerbs.swift.

extension rdma_cm_event_type {
    fileprivate static let addressInformationResolved = Self(rawValue: 16)!
    fileprivate static let user = Self(rawValue: 18)!
}

/// `RAI_DNS` and `RAI_SA`.
private let resolvesNames: Int32 = 0x20
private let asksSubnetAdministrator: Int32 = 0x10

/// `rdma_write_cm_event`
@c(rdma_write_cm_event)
public func writeEvent(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>?, _ event: rdma_cm_event_type, _ status: Int32, _ argument: UInt64
) -> Int32 {
    minusOne { () throws(ProviderError) in
        guard let identifier = unsafe identifier, event == .user else {
            throw ProviderError(
                "rdma_write_cm_event", code: EINVAL,
                detail: "event \(event.rawValue): a program may write RDMA_CM_EVENT_USER alone")
        }
        unsafe SoftProvider.shared.post(event, of: identifier, status: status, argument: argument)
    }
}

/// `rdma_resolve_addrinfo`: as in librdmacm the name is resolved within the call, and the event tells that it was.
@c(rdma_resolve_addrinfo)
public func resolveAddressInformation(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>?, _ node: UnsafePointer<CChar>?, _ service: UnsafePointer<CChar>?,
    _ hints: UnsafePointer<rdma_addrinfo>?
) -> Int32 {
    managed { (path) throws(ProviderError) in
        let verb: StaticString = "rdma_resolve_addrinfo"
        guard let identifier = unsafe identifier else { throw ProviderError(verb, code: EINVAL, detail: "id is NULL") }
        let flags = unsafe hints?.pointee.ai_flags ?? 0
        guard flags & asksSubnetAdministrator == 0 else {
            throw ProviderError(
                verb, code: EOPNOTSUPP, detail: "RAI_SA: there is no subnet administrator on Ethernet; leave it out")
        }
        guard unsafe Companions.get(identifier).resolved == nil else {
            throw ProviderError(verb, code: EBUSY, detail: "take the last result first, with rdma_query_addrinfo")
        }
        var plain = unsafe hints?.pointee ?? rdma_addrinfo()
        unsafe plain.ai_flags &= ~resolvesNames
        var found: UnsafeMutablePointer<rdma_addrinfo>?
        let code =
            unsafe hints == nil
            ? rdma_getaddrinfo(node, service, nil, &found) : rdma_getaddrinfo(node, service, &plain, &found)
        guard code == 0 else {
            throw unsafe ProviderError(
                verb, code: code == EAI_SYSTEM ? errno : code == EAI_BADFLAGS ? EINVAL : ENOENT,
                detail: String(cString: gai_strerror(code)))
        }
        unsafe Companions.update(identifier) { unsafe $0.resolved = unsafe found }
        unsafe SoftProvider.shared.post(.addressInformationResolved, of: identifier)
        try unsafe complete(identifier, verb, path)
    }
}

/// `rdma_query_addrinfo`
@c(rdma_query_addrinfo)
public func queryAddressInformation(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>?,
    _ result: UnsafeMutablePointer<UnsafeMutablePointer<rdma_addrinfo>?>?
) -> Int32 {
    minusOne { () throws(ProviderError) in
        guard let identifier = unsafe identifier, let result = unsafe result else {
            throw ProviderError("rdma_query_addrinfo", code: EINVAL, detail: "id or info is NULL")
        }
        guard let found = unsafe Companions.get(identifier).resolved else {
            throw ProviderError(
                "rdma_query_addrinfo", code: ENOENT, detail: "nothing was resolved: rdma_resolve_addrinfo comes first")
        }
        unsafe Companions.update(identifier) { unsafe $0.resolved = nil }
        unsafe result.pointee = unsafe found
    }
}
