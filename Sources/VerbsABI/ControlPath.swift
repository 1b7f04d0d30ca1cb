// SPDX-License-Identifier: Apache-2.0
@_exported import CVerbsABI

/// The waist of the package: what a provider of devices does that is not a call through `context->ops`.
///
/// Every post and every poll is one indirect call through the operations of a genuine `ibv_context`, the same on each
/// device. The functions here are those that libibverbs exports, which would crash on a context that is not its own;
/// so they are dispatched in Swift. Two types conform: `SystemProvider` (libibverbs, loaded at run time) and
/// `SoftProvider` (the software device).
///
/// Conventions of all members, as in C: a function that makes an object throws ``ProviderError``; the pointers are
/// valid until the matching destroy. Any thread may call.
package protocol VerbsProvider: Sendable {
    /// The devices there are now, in a stable order; empty where the provider has none.
    func devices() -> [ProviderDevice]

    /// Why ``devices()`` is empty or incomplete, for people: `nil` if nothing is amiss.
    var unavailabilityReason: String? { get }

    /// Opens a device. The corresponding C function is `ibv_open_device`.
    func open(_ device: ProviderDevice) throws(ProviderError) -> any ControlPath

    /// The connection manager for all devices of the provider; throws ENOSYS, with the reason, where there is none.
    func connections() throws(ProviderError) -> any ConnectionPath
}

/// A device as its provider names it.
package struct ProviderDevice: Sendable, Equatable {
    /// What stands behind the device.
    package enum Kind: Sendable, Equatable {
        /// A device of the kernel that is hardware.
        case hardware
        /// A software device of the kernel (rxe, siw).
        case kernelSoftware
        /// The embedded software device.
        case embedded
    }

    /// The verbs device name: `mlx5_0`, `rxe0`, `soft_lo`.
    package let name: String
    /// The network interface behind port 1, if there is one and it is known.
    package let interface: String?
    package let kind: Kind
    /// Node GUID in network byte order, as `ibv_get_device_guid`.
    package let guid: UInt64

    package init(name: String, interface: String?, kind: Kind, guid: UInt64) {
        self.name = name
        self.interface = interface
        self.kind = kind
        self.guid = guid
    }
}

/// A failed control call: the C function that failed, the `errno` it left, and what the provider knows about the cause.
package struct ProviderError: Error, Equatable, Sendable {
    package let function: StaticString
    package let code: Int32
    /// The attribute, limit or reason, where the provider knows more than the code says.
    package let detail: String?

    package init(_ function: StaticString, code: Int32, detail: String? = nil) {
        self.function = function
        self.code = code
        self.detail = detail
    }

    package static func == (a: ProviderError, b: ProviderError) -> Bool {
        a.function.description == b.function.description && a.code == b.code && a.detail == b.detail
    }
}

/// What the packets of an open software device go by.
package struct ProviderLink: Sendable, Equatable {
    /// `udp`, `packet` or `xdp`.
    package let kind: String
    /// How, where there is more than one way; empty otherwise.
    package let detail: String
    /// Why nothing faster was chosen; empty where there is nothing faster.
    package let reason: String

    package init(kind: String, detail: String, reason: String) {
        self.kind = kind
        self.detail = detail
        self.reason = reason
    }
}

/// The control calls on one open device. Closing is `close()`; an instance that is released without it closes itself.
package protocol ControlPath: AnyObject, Sendable {
    /// The context whose `ops` carry the data path. Valid until `close()`.
    var context: UnsafeMutablePointer<ibv_context> { get }

    func close() throws(ProviderError)

    /// Whether `ops.post_send` carries ATOMIC WRITE and FLUSH (IBTA annex A19). The providers of libibverbs take them
    /// through `ibv_qp_ex` only, whatever the device can: their `post_send` would post something else.
    ///
    /// `struct ibv_send_wr` has no fields for FLUSH. Where it is carried, it has those of an atomic: `compare_add` is the
    /// length, `swap` the FLUSH extension header.
    var postsPlacement: Bool { get }

    // Queries
    func queryDevice(_ attributes: UnsafeMutablePointer<ibv_device_attr_ex>) throws(ProviderError)
    func queryPort(_ port: UInt8, _ attributes: UnsafeMutablePointer<ibv_port_attr>) throws(ProviderError)
    /// All valid GIDs, the corresponding C function is `ibv_query_gid_table`.
    func queryGIDTable() throws(ProviderError) -> [ibv_gid_entry]
    func queryPKey(port: UInt8, index: Int32) throws(ProviderError) -> UInt16

    // Protection domains and memory
    func allocateProtectionDomain() throws(ProviderError) -> UnsafeMutablePointer<ibv_pd>
    func deallocate(_ domain: UnsafeMutablePointer<ibv_pd>) throws(ProviderError)
    func register(
        _ domain: UnsafeMutablePointer<ibv_pd>, address: UnsafeMutableRawPointer, length: Int, iova: UInt64,
        access: UInt32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr>
    func registerDmabuf(
        _ domain: UnsafeMutablePointer<ibv_pd>, offset: UInt64, length: Int, iova: UInt64, descriptor: Int32,
        access: UInt32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_mr>
    func deregister(_ region: UnsafeMutablePointer<ibv_mr>) throws(ProviderError)

    // Completion
    func makeCompletionChannel() throws(ProviderError) -> UnsafeMutablePointer<ibv_comp_channel>
    func destroy(_ channel: UnsafeMutablePointer<ibv_comp_channel>) throws(ProviderError)
    func makeCompletionQueue(
        capacity: Int32, userContext: UnsafeMutableRawPointer?, channel: UnsafeMutablePointer<ibv_comp_channel>?,
        vector: Int32
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_cq>
    func resize(_ queue: UnsafeMutablePointer<ibv_cq>, capacity: Int32) throws(ProviderError)
    func destroy(_ queue: UnsafeMutablePointer<ibv_cq>) throws(ProviderError)
    /// Reads one completion event; blocks unless the channel's descriptor is non-blocking (then EAGAIN).
    func completionEvent(on channel: UnsafeMutablePointer<ibv_comp_channel>) throws(ProviderError)
        -> UnsafeMutablePointer<ibv_cq>
    func acknowledgeCompletionEvents(_ queue: UnsafeMutablePointer<ibv_cq>, count: UInt32)

    // Queue pairs
    /// Writes the granted capabilities back into `attributes.pointee.cap`.
    func makeQueuePair(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_qp_init_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_qp>
    func modify(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_qp_attr>,
        mask: ibv_qp_attr_mask
    ) throws(ProviderError)
    func query(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_qp_attr>,
        mask: ibv_qp_attr_mask, _ initial: UnsafeMutablePointer<ibv_qp_init_attr>
    ) throws(ProviderError)
    func destroy(_ queuePair: UnsafeMutablePointer<ibv_qp>) throws(ProviderError)

    // Shared receive queues
    func makeSharedReceiveQueue(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_srq_init_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_srq>
    func modify(
        _ queue: UnsafeMutablePointer<ibv_srq>, _ attributes: UnsafeMutablePointer<ibv_srq_attr>,
        mask: ibv_srq_attr_mask
    ) throws(ProviderError)
    func query(
        _ queue: UnsafeMutablePointer<ibv_srq>, _ attributes: UnsafeMutablePointer<ibv_srq_attr>
    ) throws(ProviderError)
    func destroy(_ queue: UnsafeMutablePointer<ibv_srq>) throws(ProviderError)

    // Address handles and multicast
    func makeAddressHandle(
        _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<ibv_ah_attr>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_ah>
    func destroy(_ handle: UnsafeMutablePointer<ibv_ah>) throws(ProviderError)
    /// Datagrams to the group come to the queue pair too. `lid` is the group's on InfiniBand, zero on RoCE.
    func attach(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, multicast gid: ibv_gid, lid: UInt16
    ) throws(ProviderError)
    func detach(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, multicast gid: ibv_gid, lid: UInt16
    ) throws(ProviderError)

    // Flows of raw packet queue pairs
    /// The corresponding C function is `ibv_create_flow`. The attributes have no action that counts:
    /// `options.counts` says whether to.
    func makeFlow(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_flow_attr>,
        options: ProviderFlowOptions
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_flow>
    func destroy(_ flow: UnsafeMutablePointer<ibv_flow>) throws(ProviderError)
    func placement(of flow: UnsafeMutablePointer<ibv_flow>) -> ProviderFlowPlacement
    func counters(of flow: UnsafeMutablePointer<ibv_flow>) throws(ProviderError) -> ProviderFlowCounters

    /// From now on, until it is reset, a raw packet queue pair sends only frames with these sources: in the form of
    /// `VERBS_SOFT_SOURCES`.
    func checkSources(of queuePair: UnsafeMutablePointer<ibv_qp>, _ sources: String) throws(ProviderError)

    // Asynchronous events
    /// Reads one asynchronous event; blocks unless `context.async_fd` is non-blocking (then EAGAIN).
    func asynchronousEvent() throws(ProviderError) -> ibv_async_event
    func acknowledge(_ event: ibv_async_event)

    /// Named counters of the device, for `verbs info` and tests: empty where the provider has none.
    func counters() -> [(name: String, value: UInt64)]

    /// What packets go by, of a software device; `nil` for one of the kernel.
    var link: ProviderLink? { get }
}

extension ControlPath {
    package var link: ProviderLink? { nil }
}

// For a device whose frames the library does not see.
extension ControlPath {
    package func checkSources(
        of queuePair: UnsafeMutablePointer<ibv_qp>, _ sources: String
    ) throws(ProviderError) {
        throw ProviderError(
            "ibv_modify_qp", code: EOPNOTSUPP,
            detail:
                "sources: a verbs device sends past the library; the adapter's own check is `ip link set DEVICE vf N "
                + "spoofchk on`")
    }
}

// For a device without multicast.
extension ControlPath {
    package func attach(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, multicast gid: ibv_gid, lid: UInt16
    ) throws(ProviderError) {
        throw ProviderError("ibv_attach_mcast", code: ENOSYS, detail: "the device has no multicast")
    }

    package func detach(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, multicast gid: ibv_gid, lid: UInt16
    ) throws(ProviderError) {
        throw ProviderError("ibv_detach_mcast", code: ENOSYS, detail: "the device has no multicast")
    }
}
