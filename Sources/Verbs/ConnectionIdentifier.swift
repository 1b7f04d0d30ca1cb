// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

/// One end of a connection or of a datagram service, or a place to listen at.
///
/// What a call began ends with an event on the channel:
/// ```
/// active:  resolveAddress ─addressResolved─► resolveRoute ─routeResolved─► prepare, connect ─connectResponse─►
///          activate, establish                                             or rejected, unreachable, connectError
/// passive: bind, listen ─connectRequest(identifier)─► prepare, activate, accept ─established─►   or reject
/// both:    disconnect, or the peer does ─disconnected─► (queue pair to ERR) ─timeWaitExit─►
/// UD:      resolveAddress, resolveRoute, then requestService ─datagramEstablished─►, or unreachable
///          bind, listen ─connectRequest(identifier)─► accept
/// ```
/// Letting go of an identifier ends whatever it is at. Any thread may use it. The corresponding C type is
/// `struct rdma_cm_id`.
@safe public final class ConnectionIdentifier: @unchecked Sendable {  // Constant; the calls are thread safe.
    /// What a port number stands for. The corresponding C type is `enum rdma_port_space`.
    public enum PortSpace: Hashable, Sendable {
        /// Connections, of RC queue pairs.
        case tcp
        /// Datagram services, of UD queue pairs.
        case udp

        var native: rdma_port_space {
            switch self {
            case .tcp: .RDMA_PS_TCP
            case .udp: .RDMA_PS_UDP
            }
        }
    }

    /// What its ports stand for.
    public let portSpace: PortSpace
    /// The channel that its events come on.
    public let channel: ConnectionChannel

    private let native: UnsafeMutablePointer<rdma_cm_id>
    /// Groups that were asked for; the key is the context of the join.
    private let groups = Mutex<Groups>(Groups())

    private struct Groups {
        var addresses: [UInt: SocketAddress] = [:]
        var last: UInt = 0
    }

    /// What the high level has to do with its events.
    let inbox = ConnectionInbox()

    init(
        _ native: UnsafeMutablePointer<rdma_cm_id>, portSpace: PortSpace, channel: ConnectionChannel
    ) {
        unsafe self.native = native
        self.portSpace = portSpace
        self.channel = channel
        unsafe channel.enter(self, native)
    }

    deinit {
        unsafe channel.forget(native)
        // Waits for whoever is reading an event of it at this moment.
        try? unsafe channel.path.destroy(native)
    }

    /// One call of the connection manager on this identifier.
    private func call(
        _ about: SocketAddress? = nil,
        _ body: (any ConnectionPath, UnsafeMutablePointer<rdma_cm_id>) throws(ProviderError) -> Void
    ) throws(VerbsError) {
        do throws(ProviderError) {
            try unsafe body(channel.path, native)
        } catch {
            throw ConnectionDiagnosis.error(error, address: about)
        }
    }
}

// What it is bound to.
extension ConnectionIdentifier {
    /// This side's address and port, once it is bound; `nil` before.
    public var localAddress: SocketAddress? {
        // Written by the call, or before the event, that bound it.
        unsafe SocketAddress(native.pointee.route.addr.src_storage)
    }

    /// The peer's address and port, once it is known.
    public var peerAddress: SocketAddress? {
        unsafe SocketAddress(native.pointee.route.addr.dst_storage)
    }

    /// The device that it is bound to, after an address is resolved, in a request, or when bound to an address that is
    /// not a wildcard; `nil` before. All identifiers of one device have the same context.
    public var context: Context? {
        guard let (description, path) = unsafe channel.path.device(of: native) else { return nil }
        return SharedContexts.context(Device(native: description, provider: channel.provider), path)
    }

    /// The port of the device, from 1; `nil` without one.
    public var port: UInt8? {
        let port = unsafe native.pointee.port_num
        return port == 0 ? nil : port
    }
}

// Passive side.
extension ConnectionIdentifier {
    /// Binds to an address of this machine, or to all of them; port zero lets the system choose one, which
    /// ``localAddress`` then tells. The corresponding C function is `rdma_bind_addr`.
    public func bind(to address: SocketAddress) throws(VerbsError) {
        try unsafe call(address) { (path, native) throws(ProviderError) in
            try unsafe address.withNative { (address, _) throws(ProviderError) in
                try unsafe path.bind(native, to: address)
            }
        }
    }

    /// Listens: requests come as events. `backlog` requests that nobody has read yet may wait; the kernel leaves more of
    /// them unanswered, and their senders ask again after some seconds. The corresponding C function is `rdma_listen`.
    public func listen(backlog: Int = 128) throws(VerbsError) {
        let count = Int32(clamping: max(0, backlog))
        try unsafe call(localAddress) { (path, native) throws(ProviderError) in
            try unsafe path.listen(native, backlog: count)
        }
    }

    /// Accepts a request for a queue pair that can receive already. The parameters' depths must not pass what the request
    /// offers. The corresponding C function is `rdma_accept`.
    public func accept(
        _ queuePair: borrowing QueuePair, _ parameters: ConnectionParameters = ConnectionParameters()
    ) throws(VerbsError) {
        let limit = portSpace == .tcp ? PrivateDataLimit.accept : PrivateDataLimit.datagramReply
        try PrivateDataLimit.check(parameters.privateData, limit, "rdma_accept")
        let parameters = parameters.naming(queuePair)
        try unsafe call { (path, native) throws(ProviderError) in
            try unsafe parameters.withNative { (parameters) throws(ProviderError) in
                try unsafe path.accept(native, parameters)
            }
        }
    }

    /// Refuses a request. The corresponding C function is `rdma_reject`.
    public func reject(privateData: [UInt8] = []) throws(VerbsError) {
        let limit = portSpace == .tcp ? PrivateDataLimit.reject : PrivateDataLimit.datagramReply
        try PrivateDataLimit.check(privateData, limit, "rdma_reject")
        try unsafe call { (path, native) throws(ProviderError) in
            try unsafe privateData.withUnsafeBufferPointer { (bytes) throws(ProviderError) in
                try unsafe path.reject(native, privateData: bytes.baseAddress, count: UInt8(clamping: bytes.count))
            }
        }
    }
}

// Active side.
extension ConnectionIdentifier {
    /// Finds the device and the link-layer address for a destination; `source` chooses an address of this machine. The
    /// corresponding C function is `rdma_resolve_addr`.
    public func resolveAddress(
        _ destination: SocketAddress, from source: SocketAddress? = nil, timeout: Duration = .seconds(2)
    ) throws(VerbsError) {
        let milliseconds = timeout.milliseconds
        try unsafe call(destination) { (path, native) throws(ProviderError) in
            try unsafe destination.withNative { (destination, _) throws(ProviderError) in
                guard let source else {
                    return try unsafe path.resolveAddress(
                        native, source: nil, destination: destination, timeoutMilliseconds: milliseconds)
                }
                try unsafe source.withNative { (source, _) throws(ProviderError) in
                    try unsafe path.resolveAddress(
                        native, source: source, destination: destination, timeoutMilliseconds: milliseconds)
                }
            }
        }
    }

    /// Finds the way to the resolved address. The corresponding C function is `rdma_resolve_route`.
    public func resolveRoute(timeout: Duration = .seconds(2)) throws(VerbsError) {
        try unsafe call(peerAddress) { (path, native) throws(ProviderError) in
            try unsafe path.resolveRoute(native, timeoutMilliseconds: timeout.milliseconds)
        }
    }

    /// Asks the peer for a connection of a queue pair that is at INIT (port space TCP). The corresponding C function is
    /// `rdma_connect`.
    public func connect(
        _ queuePair: borrowing QueuePair, _ parameters: ConnectionParameters = ConnectionParameters()
    ) throws(VerbsError) {
        try PrivateDataLimit.check(parameters.privateData, PrivateDataLimit.connect, "rdma_connect")
        try connect(parameters.naming(queuePair))
    }

    /// Asks the peer where its datagram service is (port space UDP). The corresponding C function is `rdma_connect`.
    public func requestService(privateData: [UInt8] = []) throws(VerbsError) {
        try PrivateDataLimit.check(privateData, PrivateDataLimit.datagramRequest, "rdma_connect")
        try connect(ConnectionParameters(privateData: privateData, initiatorDepth: 0, responderResources: 0))
    }

    private func connect(_ parameters: ConnectionParameters) throws(VerbsError) {
        try unsafe call(peerAddress) { (path, native) throws(ProviderError) in
            try unsafe parameters.withNative { (parameters) throws(ProviderError) in
                try unsafe path.connect(native, parameters)
            }
        }
    }

    /// After the event `connectResponse`, when the queue pair can receive: tells the peer that the connection is
    /// established. The corresponding C function is `rdma_establish`.
    public func establish() throws(VerbsError) {
        try unsafe call { (path, native) throws(ProviderError) in try unsafe path.establish(native) }
    }
}

// Both sides.
extension ConnectionIdentifier {
    /// Ends the connection, or agrees to the peer's end of it. The caller moves the queue pair to ERR. The corresponding C
    /// function is `rdma_disconnect`.
    public func disconnect() throws(VerbsError) {
        try unsafe call { (path, native) throws(ProviderError) in try unsafe path.disconnect(native) }
    }

    /// Tells the connection manager of ``AsynchronousEvent/Kind/communicationEstablished`` on the identifier's queue pair:
    /// the peer's last message of the handshake was lost, but it has begun to send. The corresponding C function is
    /// `rdma_notify`.
    public func notifyCommunicationEstablished() throws(VerbsError) {
        try unsafe call { (path, native) throws(ProviderError) in
            try unsafe path.notify(native, .IBV_EVENT_COMM_EST)
        }
    }

    /// What brings a queue pair of this connection to a state: INIT, RTR or RTS. The corresponding C function is
    /// `rdma_init_qp_attr`.
    public func queuePairAttributes(for state: QueuePairState) throws(VerbsError) -> QueuePairAttributes {
        var attributes = ibv_qp_attr()
        attributes.qp_state = state.native
        var mask: ibv_qp_attr_mask = []
        try unsafe call { (path, native) throws(ProviderError) in
            // Local variables, written during the call.
            mask = try unsafe path.queuePairAttributes(native, &attributes)
        }
        return QueuePairAttributes(attributes, mask: mask)
    }

    /// Joins a multicast group (port space UDP): the event `multicastJoined` tells where to send. To receive, attach a queue
    /// pair with ``QueuePair/attach(to:)``.
    ///
    /// The identifier must be bound to an address of the device, or have resolved one, but no route. The corresponding C
    /// function is `rdma_join_multicast`.
    public func joinMulticast(_ group: SocketAddress) throws(VerbsError) {
        let key = groups.withLock { groups in
            groups.last += 1
            groups.addresses[groups.last] = group
            return groups.last
        }
        do throws(VerbsError) {
            try unsafe call(group) { (path, native) throws(ProviderError) in
                try unsafe group.withNative { (address, _) throws(ProviderError) in
                    // Never dereferenced: it comes back with the event.
                    try unsafe path.joinMulticast(native, address, context: UnsafeMutableRawPointer(bitPattern: key))
                }
            }
        } catch {
            groups.withLock { _ = $0.addresses.removeValue(forKey: key) }
            throw error
        }
    }

    /// Leaves a group. The corresponding C function is `rdma_leave_multicast`.
    public func leaveMulticast(_ group: SocketAddress) throws(VerbsError) {
        try unsafe call(group) { (path, native) throws(ProviderError) in
            try unsafe group.withNative { (address, _) throws(ProviderError) in
                try unsafe path.leaveMulticast(native, address)
            }
        }
        groups.withLock { groups in groups.addresses = groups.addresses.filter { $0.value != group } }
    }

    /// The address of the join that an event is about.
    func group(of event: rdma_cm_event) -> SocketAddress? {
        switch unsafe event.event {
        case .RDMA_CM_EVENT_MULTICAST_JOIN, .RDMA_CM_EVENT_MULTICAST_ERROR:
            // The field holds what was given to the join.
            let key = UInt(bitPattern: unsafe event.param.ud.private_data)
            return groups.withLock { $0.addresses[key] }
        default: return nil
        }
    }
}

// Options, to be set before the call that they are about.
extension ConnectionIdentifier {
    /// DSCP and ECN bits of the packets of the connection (`RDMA_OPTION_ID_TOS`). The corresponding C function is
    /// `rdma_set_option`.
    public func setTypeOfService(_ value: UInt8) throws(VerbsError) { try setOption(RDMA_OPTION_ID_TOS, value) }

    /// The address may be bound although another identifier has it (`RDMA_OPTION_ID_REUSEADDR`). The corresponding C
    /// function is `rdma_set_option`.
    public func setReusesAddress(_ value: Bool) throws(VerbsError) {
        try setOption(RDMA_OPTION_ID_REUSEADDR, Int32(value ? 1 : 0))
    }

    /// An IPv6 wildcard does not stand for IPv4 as well (`RDMA_OPTION_ID_AFONLY`). The corresponding C function is
    /// `rdma_set_option`.
    public func setIPv6Only(_ value: Bool) throws(VerbsError) {
        try setOption(RDMA_OPTION_ID_AFONLY, Int32(value ? 1 : 0))
    }

    /// After what time an acknowledgement is missed, a code as ``QueuePairAttributes/timeout``
    /// (`RDMA_OPTION_ID_ACK_TIMEOUT`). The corresponding C function is `rdma_set_option`.
    public func setAcknowledgementTimeout(_ code: UInt8) throws(VerbsError) {
        try setOption(RDMA_OPTION_ID_ACK_TIMEOUT, code)
    }

    private func setOption<T: FixedWidthInteger>(_ name: Int, _ value: T) throws(VerbsError) {
        var value = value
        try unsafe call { (path, native) throws(ProviderError) in
            // A local variable, read during the call.
            try unsafe path.setOption(
                native, level: Int32(RDMA_OPTION_ID), name: Int32(name), value: &value, length: MemoryLayout<T>.size)
        }
    }
}

extension ConnectionParameters {
    fileprivate func naming(_ queuePair: borrowing QueuePair) -> ConnectionParameters {
        var parameters = self
        parameters.queuePair = queuePair.number
        parameters.hasSharedReceives = queuePair.core.shared != nil
        return parameters
    }
}

extension Duration {
    /// Rounded up, at least zero.
    var milliseconds: Int32 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1000)
        return overflow ? .max : Int32(clamping: product + (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000)
    }
}
