// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import Synchronization
import VerbsABI

/// What librdmacm keeps of an identifier beside the C structure.
@safe struct Companion: @unchecked Sendable {
    // Unchecked because of pointers, which are those of the program's own objects.
    /// The channel of an identifier that was made without one: calls on it wait for their events.
    var ownChannel: UnsafeMutablePointer<rdma_event_channel>?
    /// What the queue pairs of a listening endpoint's connections are made of.
    var queuePairs: ibv_qp_init_attr?
    /// Completion queues that `rdma_create_qp` made, and goes with the queue pair.
    var queues: [UnsafeMutablePointer<ibv_cq>] = unsafe []
    var channels: [UnsafeMutablePointer<ibv_comp_channel>] = unsafe []
    /// What `rdma_resolve_addrinfo` found, until the program takes it.
    var resolved: UnsafeMutablePointer<rdma_addrinfo>?
}

/// The companions of all identifiers that have one.
enum Companions {
    private static let all = Mutex<[UInt: Companion]>([:])

    static func get(_ identifier: UnsafeMutablePointer<rdma_cm_id>) -> Companion {
        let key = UInt(bitPattern: identifier)
        return all.withLock { $0[key] ?? Companion() }
    }

    static func update(_ identifier: UnsafeMutablePointer<rdma_cm_id>, _ body: (inout Companion) -> Void) {
        let key = UInt(bitPattern: identifier)
        var companion = unsafe get(unsafe UnsafeMutablePointer(bitPattern: key)!)
        body(&companion)
        let changed = companion
        all.withLock { $0[key] = changed }
    }

    static func remove(_ identifier: UnsafeMutablePointer<rdma_cm_id>) -> Companion {
        let key = UInt(bitPattern: identifier)
        return all.withLock { $0.removeValue(forKey: key) } ?? Companion()
    }
}

/// Acknowledges the event that an identifier without a channel shows in `event`.
func acknowledgeOwn(_ identifier: UnsafeMutablePointer<rdma_cm_id>, _ path: any ConnectionPath) {
    guard let event = unsafe identifier.pointee.event else { return }
    unsafe identifier.pointee.event = nil
    try? unsafe path.acknowledge(event)
}

/// Waits for the event that ends a call, on an identifier without a channel; shows it in `event`.
func complete(
    _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ verb: StaticString, _ path: any ConnectionPath
) throws(ProviderError) {
    guard let channel = unsafe Companions.get(identifier).ownChannel else { return }
    unsafe acknowledgeOwn(identifier, path)
    let event = unsafe try nextEvent(on: channel, path)
    unsafe identifier.pointee.event = unsafe event
    let status = unsafe event.pointee.status
    guard status != 0 else { return }
    let isRejected = unsafe event.pointee.event == .RDMA_CM_EVENT_REJECTED
    throw ProviderError(verb, code: isRejected ? ECONNREFUSED : abs(status))
}
