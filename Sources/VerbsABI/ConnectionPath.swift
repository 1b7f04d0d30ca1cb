// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// The connection manager of a provider: what librdmacm exports, call by call.
///
/// Two types conform: `SystemProvider`'s (librdmacm, loaded at run time) and `SoftProvider`'s (the communication
/// management protocol on queue pair 1 of the software device). The objects are genuine `rdma_cm_id`s.
///
/// Queue pairs are made apart from identifiers, always (`id.pointee.qp` stays null): the caller names its queue pair in
/// `rdma_conn_param.qp_num` and changes its state with ``queuePairAttributes(_:_:)``:
///
/// ```
/// active:  resolveAddress ─ADDR_RESOLVED─► resolveRoute ─ROUTE_RESOLVED─► (QP to INIT) connect ─CONNECT_RESPONSE─►
///          (QP to RTR, RTS) establish                                       or REJECTED, UNREACHABLE, CONNECT_ERROR
/// passive: bind, listen ─CONNECT_REQUEST, on a new identifier─► (QP to INIT, RTR, RTS) accept ─ESTABLISHED─►, or reject
/// both:    disconnect, or the peer does ─DISCONNECTED─► (QP to ERR) ─TIMEWAIT_EXIT─►
/// ```
///
/// Conventions are those of ``ControlPath``: any thread may call; a failure throws ``ProviderError`` with the name of the
/// C function. Pointers to parameters, addresses and private data are read during the call only.
package protocol ConnectionPath: AnyObject, Sendable {
    typealias Identifier = UnsafeMutablePointer<rdma_cm_id>
    typealias EventChannel = UnsafeMutablePointer<rdma_event_channel>

    // Event channels. `fd` is readable when an event waits; the caller may make it non-blocking.
    func makeEventChannel() throws(ProviderError) -> EventChannel
    /// All identifiers of the channel are destroyed by then.
    func destroy(_ channel: EventChannel)
    /// The next event; blocks unless the descriptor is non-blocking (then EAGAIN). Acknowledge each: it owns its private
    /// data, and its identifier cannot be destroyed before.
    func event(on channel: EventChannel) throws(ProviderError) -> UnsafeMutablePointer<rdma_cm_event>
    func acknowledge(_ event: UnsafeMutablePointer<rdma_cm_event>) throws(ProviderError)

    // Identifiers
    func makeIdentifier(
        on channel: EventChannel, context: UnsafeMutableRawPointer?, portSpace: rdma_port_space
    ) throws(ProviderError) -> Identifier
    /// Ends whatever the identifier was at; blocks until its events are acknowledged.
    func destroy(_ identifier: Identifier) throws(ProviderError)
    /// `RDMA_OPTION_ID` and `RDMA_OPTION_IB` of rdma_cma.h.
    func setOption(
        _ identifier: Identifier, level: Int32, name: Int32, value: UnsafeMutableRawPointer, length: Int
    ) throws(ProviderError)

    // Passive side
    func bind(_ identifier: Identifier, to address: UnsafeMutablePointer<sockaddr>) throws(ProviderError)
    func listen(_ identifier: Identifier, backlog: Int32) throws(ProviderError)
    func accept(
        _ identifier: Identifier, _ parameters: UnsafeMutablePointer<rdma_conn_param>
    ) throws(ProviderError)
    func reject(_ identifier: Identifier, privateData: UnsafeRawPointer?, count: UInt8) throws(ProviderError)

    // Active side
    func resolveAddress(
        _ identifier: Identifier, source: UnsafeMutablePointer<sockaddr>?,
        destination: UnsafeMutablePointer<sockaddr>, timeoutMilliseconds: Int32
    ) throws(ProviderError)
    func resolveRoute(_ identifier: Identifier, timeoutMilliseconds: Int32) throws(ProviderError)
    /// In the port space UDP this asks for the service (SIDR); `parameters.qp_num` is not used then.
    func connect(
        _ identifier: Identifier, _ parameters: UnsafeMutablePointer<rdma_conn_param>
    ) throws(ProviderError)
    /// After CONNECT_RESPONSE, when the queue pair can receive: the peer's ESTABLISHED.
    func establish(_ identifier: Identifier) throws(ProviderError)

    // Both sides
    func disconnect(_ identifier: Identifier) throws(ProviderError)
    /// The application saw `IBV_EVENT_COMM_EST` on the identifier's queue pair.
    func notify(_ identifier: Identifier, _ event: ibv_event_type) throws(ProviderError)
    /// What brings the caller's queue pair to `attributes.pointee.qp_state`: attributes, and the mask that is returned.
    func queuePairAttributes(
        _ identifier: Identifier, _ attributes: UnsafeMutablePointer<ibv_qp_attr>
    ) throws(ProviderError) -> ibv_qp_attr_mask
    /// Joins, and tells by MULTICAST_JOIN (with the address vector, queue pair number and Q_Key to send with). To receive,
    /// the caller attaches its queue pair to the group of that event with ``ControlPath/attach(_:multicast:lid:)``.
    func joinMulticast(
        _ identifier: Identifier, _ address: UnsafeMutablePointer<sockaddr>, context: UnsafeMutableRawPointer?
    ) throws(ProviderError)
    func leaveMulticast(_ identifier: Identifier, _ address: UnsafeMutablePointer<sockaddr>) throws(ProviderError)

    /// The control calls on the device that an identifier is bound to (`identifier.pointee.verbs` is its context). The
    /// same for all identifiers of one device, and open as long as any identifier or caller has it; `nil` while unbound.
    func device(of identifier: Identifier) -> (description: ProviderDevice, path: any ControlPath)?
}
