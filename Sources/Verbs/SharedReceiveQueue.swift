// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// Receives that several queue pairs take from.
///
/// It belongs to the isolation region of the completion queues and queue pairs that use it. The corresponding C type is
/// `struct ibv_srq`.
@frozen @safe public struct SharedReceiveQueue: ~Copyable {
    @usableFromInline let native: UnsafeMutablePointer<ibv_srq>
    @usableFromInline let slots: UnsafeMutablePointer<cverbs_slots>
    @usableFromInline let queue: UnsafeMutablePointer<cverbs_queue>
    @usableFromInline let core: SharedReceiveQueueCore

    init(_ core: SharedReceiveQueueCore) {
        self.core = core
        unsafe native = core.native
        unsafe slots = core.slots.slots
        unsafe queue = core.account.queue
    }

    /// Receives that may be in flight.
    public var depth: Int { core.depth }

    /// Receives posted, and not polled as completions yet.
    @inlinable public var receivesInFlight: Int { unsafe Int(queue.pointee.posted &- queue.pointee.retired) }

    /// The ids of the receives that no completion has resolved. Those that no message has taken resolve when the queue
    /// goes: their buffers return to their pools, and these are the ids of the raw level.
    public var unresolvedIDs: [UInt64] { unsafe core.account.outstanding.map { unsafe $0.pointee.id } }

    /// Asks for one ``AsynchronousEvent/Kind/sharedReceiveQueueLimit`` when fewer than so many receives are left; zero
    /// asks for none. The corresponding C function is `ibv_modify_srq`.
    public func setLimit(_ limit: Int) throws(VerbsError) {
        var attributes = ibv_srq_attr()
        attributes.srq_limit = UInt32(clamping: limit)
        do throws(ProviderError) {
            // A local variable, read during the call.
            try unsafe core.domain.context.path.modify(native, &attributes, mask: .IBV_SRQ_LIMIT)
        } catch {
            throw VerbsError(
                limit > depth ? .invalidAttribute : .system, verb: "ibv_modify_srq", code: error.code,
                subject: "srq_limit", value: "\(limit)", limit: "\(depth)", remedy: "Give at most the queue's depth")
        }
    }

    /// The limit as it stands: zero once its event was sent. The corresponding C function is `ibv_query_srq`.
    public var limit: Int {
        get throws(VerbsError) {
            var attributes = ibv_srq_attr()
            do throws(ProviderError) {
                // A local variable, written during the call.
                try unsafe core.domain.context.path.query(native, &attributes)
            } catch {
                throw VerbsError(error)
            }
            return Int(attributes.srq_limit)
        }
    }
}

@available(*, unavailable) extension SharedReceiveQueue: Sendable {}

/// What stands behind a ``SharedReceiveQueue``; its queue pairs keep it alive.
@safe @usableFromInline final class SharedReceiveQueueCore {
    let domain: ProtectionDomain
    let depth: Int
    let native: UnsafeMutablePointer<ibv_srq>
    let account: WorkAccount
    let slots: WorkSlots

    init(domain: ProtectionDomain, depth: Int, elements: Int) throws(VerbsError) {
        self.domain = domain
        self.depth = depth
        guard depth > 0, depth <= 1 << 24, elements > 0, elements <= 1 << 16 else {
            throw VerbsError(
                .invalidAttribute, verb: "ibv_create_srq", subject: "max_wr", value: "\(depth)",
                remedy: "Ask for at least one receive of at least one element")
        }
        do throws(ProviderError) {
            var initial = unsafe ibv_srq_init_attr()
            unsafe initial.attr.max_wr = UInt32(depth)
            unsafe initial.attr.max_sge = UInt32(elements)
            // A local variable, read and written during the call.
            unsafe native = try domain.context.path.makeSharedReceiveQueue(domain.native, &initial)
        } catch {
            let device = try? domain.context.attributes
            if let device, depth > device.maxSharedReceiveQueueDepth || elements > device.maxSharedReceiveQueueElements
            {
                throw VerbsError(
                    .deviceLimit, verb: error.function.description, code: error.code,
                    subject: "max_srq_wr, max_srq_sge",
                    value: "\(depth), \(elements)",
                    limit: "\(device.maxSharedReceiveQueueDepth), \(device.maxSharedReceiveQueueElements)",
                    remedy: "Ask for less")
            }
            throw VerbsError(error)
        }
        account = WorkAccount(
            role: .sharedReceive, depth: depth, elements: elements, bufferGuard: domain.context.bufferGuard)
        slots = WorkSlots(count: 32, sendElements: 1, receiveElements: elements)
    }

    deinit {
        try? unsafe domain.context.path.destroy(native)
        // The account returns the buffers that no message took.
    }
}

extension ProtectionDomain {
    /// Makes a shared receive queue. The corresponding C function is `ibv_create_srq`.
    public func makeSharedReceiveQueue(depth: Int, elements: Int = 1) throws(VerbsError) -> SharedReceiveQueue {
        SharedReceiveQueue(try SharedReceiveQueueCore(domain: self, depth: depth, elements: elements))
    }
}
