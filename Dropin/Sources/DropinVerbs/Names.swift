// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

// Names of codes. C keeps the pointers, so the strings are static.

private func text(_ string: StaticString) -> UnsafePointer<CChar> {
    unsafe UnsafeRawPointer(string.utf8Start).assumingMemoryBound(to: CChar.self)
}

private func text(_ names: [StaticString], _ index: Int, otherwise: StaticString) -> UnsafePointer<CChar> {
    unsafe text(names.indices.contains(index) ? names[index] : otherwise)
}

/// `ibv_wc_status_str`
@c @implementation
public func ibv_wc_status_str(_ status: ibv_wc_status) -> UnsafePointer<CChar>! {
    unsafe text(statusNames, Int(status.rawValue), otherwise: "unknown")
}

/// `ibv_node_type_str`
@c @implementation
public func ibv_node_type_str(_ type: ibv_node_type) -> UnsafePointer<CChar>! {
    unsafe text(nodeNames, Int(type.rawValue), otherwise: "unknown")
}

/// `ibv_port_state_str`
@c @implementation
public func ibv_port_state_str(_ state: ibv_port_state) -> UnsafePointer<CChar>! {
    unsafe text(portNames, Int(state.rawValue), otherwise: "unknown")
}

/// `ibv_event_type_str`
@c @implementation
public func ibv_event_type_str(_ event: ibv_event_type) -> UnsafePointer<CChar>! {
    unsafe text(eventNames, Int(event.rawValue), otherwise: "unknown")
}

// In the order of the enumerations, in the words of rdma-core, which scripts look for.

private let statusNames: [StaticString] = [
    "success", "local length error", "local QP operation error", "local EE context operation error",
    "local protection error", "Work Request Flushed Error", "memory management operation error", "bad response error",
    "local access error", "remote invalid request error", "remote access error", "remote operation error",
    "transport retry counter exceeded", "RNR retry counter exceeded", "local RDD violation error",
    "remote invalid RD request", "aborted error", "invalid EE context number", "invalid EE context state",
    "fatal error", "response timeout error", "general error", "TM error", "TM software rendezvous",
]

private let nodeNames: [StaticString] = [
    "unknown", "InfiniBand channel adapter", "InfiniBand switch", "InfiniBand router", "iWARP NIC", "usNIC",
    "usNIC UDP", "unspecified",
]

private let portNames: [StaticString] = [
    "no state change (NOP)", "down", "init", "armed", "active", "active deferred",
]

private let eventNames: [StaticString] = [
    "CQ error", "local work queue catastrophic error", "invalid request local work queue error",
    "local access violation work queue error", "communication established", "send queue drained", "path migrated",
    "path migration request error", "local catastrophic error", "port active", "port error", "LID change",
    "P_Key change", "SM change", "SRQ catastrophic error", "SRQ limit reached", "last WQE reached",
    "client reregistration", "GID table change", "WQ fatal",
]
