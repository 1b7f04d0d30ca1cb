// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import RoCETransport
import RoCEWire
import Synchronization
import VerbsABI

/// The connection manager of the software devices: genuine `rdma_cm_id`s over the communication management of each
/// device.
///
/// A device is opened when an identifier is first bound to it, once, and stays open to the end of the process, as in
/// librdmacm: it goes on answering the peers of connections that are over, and lingers at exit.
final class SoftConnectionPath: ConnectionPath, Sendable {
    static let shared = SoftConnectionPath()

    /// By the name of the interface.
    private let devices = Mutex<[String: SoftContext]>([:])
    private let channels = Mutex<[UInt: SoftEventChannel]>([:])

    private init() {}

    /// The one context of an interface's device; another one from when the interface has an address that it does not serve.
    func context(
        of interface: NetworkInterface, serving address: GID? = nil
    ) throws(ProviderError) -> SoftContext {
        let outcome: Result<SoftContext, ProviderError> = devices.withLock { devices in
            if let open = devices[interface.name], address.map({ open.gids.contains($0) }) ?? true {
                return .success(open)
            }
            do throws(ProviderError) {
                let context = try SoftContext.open(
                    interface: interface, device: SoftProvider.device(of: interface), environment: DeviceEnvironment())
                devices[interface.name] = context
                return .success(context)
            } catch {
                return .failure(error)
            }
        }
        return try outcome.get()
    }

    func device(of identifier: Identifier) -> (description: ProviderDevice, path: any ControlPath)? {
        guard let context = unsafe SoftIdentifier.of(identifier).state.withLock({ $0.context }) else { return nil }
        return (context.description, context)
    }

    private static func address(
        _ verb: StaticString, _ address: UnsafePointer<sockaddr>
    ) throws(ProviderError) -> (gid: GID, port: UInt16, scope: UInt32) {
        guard let read = unsafe CSocketAddress.read(address) else {
            throw ProviderError(verb, code: EAFNOSUPPORT, detail: "the address is neither IPv4 nor IPv6")
        }
        return read
    }

    /// The interface that has an address.
    private static func interface(
        _ verb: StaticString, with address: GID, scope: UInt32
    ) throws(ProviderError) -> NetworkInterface {
        let found = SoftProvider.interfaces().first { interface in
            (!address.isLinkLocal || scope == 0 || UInt32(interface.index) == scope)
                && interface.addresses.contains { $0.gid == address }
        }
        guard let found else {
            throw ProviderError(
                verb, code: EADDRNOTAVAIL, detail: "\(address.addressText) is no address of a network interface")
        }
        return found
    }

    private static func isWildcard(_ address: GID) -> Bool { address == .zero || address == GID(ipv4: 0) }

    private static func state(_ verb: StaticString, _ detail: String) -> ProviderError {
        ProviderError(verb, code: EINVAL, detail: detail)
    }

    private static func ephemeralPort() -> UInt16 { .random(in: 32_768...60_999) }
}

// MARK: - Event channels

extension SoftConnectionPath {
    func makeEventChannel() throws(ProviderError) -> EventChannel {
        let channel: SoftEventChannel
        do throws(PacketIOError) {
            channel = try SoftEventChannel()
        } catch {
            throw ProviderError("rdma_create_event_channel", error)
        }
        channels.withLock { $0[UInt(bitPattern: unsafe channel.native)] = channel }
        return unsafe channel.native
    }

    func destroy(_ channel: EventChannel) {
        channels.withLock { _ = $0.removeValue(forKey: UInt(bitPattern: channel)) }
    }

    func find(_ verb: StaticString, _ channel: EventChannel) throws(ProviderError) -> SoftEventChannel {
        guard let found = channels.withLock({ $0[UInt(bitPattern: channel)] }) else {
            throw ProviderError(verb, code: EBADF, detail: "no such event channel")
        }
        return found
    }

    func event(on channel: EventChannel) throws(ProviderError) -> UnsafeMutablePointer<rdma_cm_event> {
        unsafe try find("rdma_get_cm_event", channel).next().get()
    }

    func acknowledge(_ event: UnsafeMutablePointer<rdma_cm_event>) throws(ProviderError) {
        // The event keeps whom it was counted for: the listener for a request.
        if let native = unsafe event.pointee.listen_id ?? event.pointee.id {
            unsafe SoftIdentifier.of(native).noteAcknowledged()
        }
        unsafe SoftEventChannel.free(event)
    }
}

// MARK: - Identifiers

extension SoftConnectionPath {
    func makeIdentifier(
        on channel: EventChannel, context: UnsafeMutableRawPointer?, portSpace: rdma_port_space
    ) throws(ProviderError) -> Identifier {
        unsafe try makeIdentifier(
            on: channel, context: context, portSpace: portSpace,
            type: portSpace == .RDMA_PS_UDP ? .IBV_QPT_UD : .IBV_QPT_RC)
    }

    /// - Parameter type: of the queue pairs that it connects. The kernel takes it of the port space but in RDMA_PS_IB
    ///   (`ucma_get_qp_type`).
    func makeIdentifier(
        on channel: EventChannel, context: UnsafeMutableRawPointer?, portSpace: rdma_port_space, type: ibv_qp_type
    ) throws(ProviderError) -> Identifier {
        let space: ServiceID.PortSpace
        switch (portSpace, type) {
        case (.RDMA_PS_TCP, .IBV_QPT_RC): space = .tcp
        case (.RDMA_PS_UDP, .IBV_QPT_UD): space = .udp
        case (.RDMA_PS_IB, .IBV_QPT_RC), (.RDMA_PS_IB, .IBV_QPT_XRC_SEND), (.RDMA_PS_IB, .IBV_QPT_XRC_RECV):
            space = .infiniBand
        default:
            throw ProviderError(
                "rdma_create_id", code: EPROTONOSUPPORT,
                detail: "port space 0x\(String(portSpace.rawValue, radix: 16)), qp_type \(type.rawValue): the software "
                    + "device connects RC in RDMA_PS_TCP, UD in RDMA_PS_UDP, RC and XRC in RDMA_PS_IB")
        }
        let identifier = unsafe SoftIdentifier(
            channel: try find("rdma_create_id", channel), context: context, portSpace: space, type: type)
        return unsafe identifier.native
    }

    func destroy(_ identifier: Identifier) throws(ProviderError) {
        destroy(unsafe SoftIdentifier.of(identifier))
    }

    private func destroy(_ identifier: SoftIdentifier) {
        stopListening(identifier)
        let (context, communication) = identifier.state.withLock { ($0.context, $0.communication) }
        let tag = identifier.tag
        if let context, let communication {
            _ = try? context.withConnections("rdma_destroy_id") { (core, now) in
                if core.connections.owns(tag, communication) { core.connections.forget(communication, now: now) }
            }
        }
        // From here on no event names it.
        for orphan in unsafe identifier.channel.removeEvents(of: identifier.native) { destroy(orphan) }
        while !identifier.isAcknowledged { sleepNanoseconds(100_000) }
        identifier.release()
    }

    func setOption(
        _ identifier: Identifier, level: Int32, name: Int32, value: UnsafeMutableRawPointer, length: Int
    ) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let known: Bool
        switch (level, name, length) {
        case (Self.optionID, Self.optionTypeOfService, 1):
            let octet = unsafe value.load(as: UInt8.self)
            identifier.state.withLock { $0.trafficClass = octet }
            known = true
        case (Self.optionID, Self.optionReuseAddress, 4):
            let flag = unsafe value.loadUnaligned(as: Int32.self) != 0
            identifier.state.withLock { $0.isAddressShared = flag }
            known = true
        case (Self.optionID, Self.optionAckTimeout, 1):
            let code = unsafe value.load(as: UInt8.self)
            known = code <= 31
            if known { identifier.state.withLock { $0.ackTimeout = code } }
        case (Self.optionID, Self.optionOneFamily, 4): known = true  // Each socket has one family here as it is.
        default: known = false
        }
        guard known else {
            throw ProviderError(
                "rdma_set_option", code: EINVAL,
                detail: "option \(level)/\(name) with \(length) bytes: type of service, reuse address, AF only and ACK "
                    + "timeout (0...31) are known")
        }
    }

    // RDMA_OPTION_ID and the options of it in rdma_cma.h, which are enumerators without a type.
    private static let optionID: Int32 = 0
    private static let optionTypeOfService: Int32 = 0
    private static let optionReuseAddress: Int32 = 1
    private static let optionOneFamily: Int32 = 2
    private static let optionAckTimeout: Int32 = 3
}

// MARK: - Passive side

extension SoftConnectionPath {
    func bind(_ identifier: Identifier, to address: UnsafeMutablePointer<sockaddr>) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let wanted = try unsafe Self.address("rdma_bind_addr", address)
        guard identifier.state.withLock({ $0.local == nil }) else {
            throw Self.state("rdma_bind_addr", "the identifier is bound already")
        }
        if Self.isWildcard(wanted.gid) {
            let port = wanted.port == 0 ? Self.ephemeralPort() : wanted.port
            identifier.state.withLock { state in
                state.local = wanted.gid
                state.localPort = port
            }
            unsafe CSocketAddress.store(
                wanted.gid, port: port, scope: 0, to: &identifier.native.pointee.route.addr.src_storage)
            return
        }
        let interface = try Self.interface("rdma_bind_addr", with: wanted.gid, scope: wanted.scope)
        let context = try context(of: interface, serving: wanted.gid)
        guard let index = context.localIndex(of: wanted.gid) else {
            throw ProviderError(
                "rdma_bind_addr", code: EADDRNOTAVAIL,
                detail: "\(wanted.gid.addressText) is not served: somebody else has its port 4791")
        }
        let port = try choosePort(identifier, context, index, wanted.port)
        identifier.bind(context, localIndex: index, local: wanted.gid, port: port)
    }

    /// The port that was asked for, if nobody has it; a free one for 0.
    private func choosePort(
        _ identifier: SoftIdentifier, _ context: SoftContext, _ index: Int, _ port: UInt16
    ) throws(ProviderError) -> UInt16 {
        let isShared = identifier.state.withLock { $0.isAddressShared }
        for _ in 0..<256 {
            let candidate = port == 0 ? Self.ephemeralPort() : port
            let service = ServiceID(portSpace: identifier.portSpace, port: candidate)
            let isTaken = context.withCore { $0.link.isServiceTaken(service, localIndex: index) }
            if !isTaken || (port != 0 && isShared) { return candidate }
            if port != 0 { break }
        }
        throw ProviderError(
            "rdma_bind_addr", code: EADDRINUSE,
            detail: port == 0 ? "no free port was found" : "somebody listens to port \(port)")
    }

    func listen(_ identifier: Identifier, backlog: Int32) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let (bound, context, index, port) = identifier.state.withLock {
            ($0.local, $0.context, $0.localIndex, $0.localPort)
        }
        guard let bound else { throw Self.state("rdma_listen", "the identifier is not bound to an address") }
        guard identifier.state.withLock({ $0.listening.isEmpty && $0.communication == nil }) else {
            throw Self.state("rdma_listen", "the identifier listens already, or is connected")
        }
        guard identifier.type != .IBV_QPT_XRC_SEND else {
            throw Self.state("rdma_listen", "qp_type XRC_SEND: targets of XRC, XRC_RECV, are asked")
        }
        let service = ServiceID(portSpace: identifier.portSpace, port: port)
        // As the kernel: none is as many as it allows.
        let backlogMax = 1_024
        let count = backlog <= 0 ? backlogMax : min(Int(backlog), backlogMax)
        do throws(ProviderError) {
            if let context {
                try listen(identifier, context, index, bound, service, count)
                return
            }
            for interface in SoftProvider.interfaces() {
                let context: SoftContext
                do throws(ProviderError) {
                    context = try self.context(of: interface)
                } catch {
                    continue  // Not every interface can carry a device; the others listen.
                }
                for (index, address) in context.gids.enumerated() where Self.covers(bound, address) {
                    try listen(identifier, context, index, address, service, count)
                }
            }
        } catch {
            stopListening(identifier)
            throw error
        }
        guard identifier.state.withLock({ !$0.listening.isEmpty }) else {
            throw ProviderError("rdma_listen", code: EADDRNOTAVAIL, detail: "no device has an address of that family")
        }
    }

    /// `::` listens to IPv4 as well, `0.0.0.0` to IPv4 alone.
    private static func covers(_ wildcard: GID, _ address: GID) -> Bool {
        wildcard == .zero || address.isIPv4Mapped
    }

    private func listen(
        _ identifier: SoftIdentifier, _ context: SoftContext, _ index: Int, _ address: GID, _ service: ServiceID,
        _ backlog: Int
    ) throws(ProviderError) {
        let (tag, transport) = (identifier.tag, identifier.transport)
        var failure: PacketIOError?
        var isClaimed = false
        try context.withConnections("rdma_listen") { (core, _) throws(EngineError) in
            try core.connections.listen(to: service, on: address, tag: tag, transport: transport, backlog: backlog)
            do throws(PacketIOError) {
                isClaimed = try core.link.claimService(service, localIndex: index)
            } catch {
                failure = error
            }
            if !isClaimed { core.connections.stopListening(to: service, on: address, tag: tag) }
        }
        if let failure { throw ProviderError("rdma_listen", failure) }
        guard isClaimed else {
            throw ProviderError(
                "rdma_listen", code: EADDRINUSE,
                detail: "another process listens to port \(service.port) of \(address.addressText)")
        }
        let listening = SoftIdentifier.Listening(context: context, localIndex: index, address: address)
        identifier.state.withLock { $0.listening.append(listening) }
    }

    private func stopListening(_ identifier: SoftIdentifier) {
        let (listening, port) = identifier.state.withLock { state in
            defer { state.listening = [] }
            return (state.listening, state.localPort)
        }
        let service = ServiceID(portSpace: identifier.portSpace, port: port)
        let tag = identifier.tag
        for place in listening {
            _ = try? place.context.withConnections("rdma_destroy_id") { (core, _) in
                core.link.releaseService(service, localIndex: place.localIndex)
                core.connections.stopListening(to: service, on: place.address, tag: tag)
            }
        }
    }

    func accept(
        _ identifier: Identifier, _ parameters: UnsafeMutablePointer<rdma_conn_param>
    ) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let parameters = unsafe parameters.pointee
        let tag = identifier.tag
        let (context, communication, request, offered) = identifier.state.withLock {
            ($0.context, $0.communication, $0.request, $0.offered)
        }
        guard let context, let communication else { throw Self.state("rdma_accept", "there is no request to accept") }
        let isDatagram = identifier.portSpace == .udp
        let privateData = try unsafe Self.privateData(
            "rdma_accept", parameters.private_data, parameters.private_data_len,
            max: isDatagram ? ServiceReply.privateByteCount : ConnectionReply.privateByteCount)
        let qpn = QPN(truncating: unsafe parameters.qp_num)
        if isDatagram {
            try context.withConnections("rdma_accept") { (core, now) throws(EngineError) in
                guard core.connections.owns(tag, communication) else { throw .unknownObject }
                try core.connections.answerService(
                    communication, status: .valid, qpn: qpn, queueKey: .connectionManager, privateData: privateData,
                    now: now)
            }
            return
        }
        guard let request else { throw Self.state("rdma_accept", "there is no request to accept") }
        let depth = unsafe Self.depths(parameters, offered: request)
        var options = AcceptOptions(
            qpn: qpn, responderResources: depth.responder, initiatorDepth: depth.initiator)
        options.rnrRetry = unsafe min(parameters.rnr_retry_count, 7)
        options.usesSharedReceives = unsafe parameters.srq != 0
        options.privateData = privateData
        try context.withConnections("rdma_accept") { (core, now) throws(EngineError) in
            guard core.connections.owns(tag, communication) else { throw .unknownObject }
            try core.engine.watchCommunication(qpn)
            let answer = offered.intersection(core.capabilities)
                .added(to: privateData, room: ConnectionReply.privateByteCount)
            // Other services than RC have nothing to repeat.
            if answer.count > privateData.count, (try? core.engine.repeatSelectively(qpn)) != nil {
                options.privateData = answer
            }
            try core.connections.accept(communication, options, now: now)
        }
    }

    /// RDMA_MAX_RESP_RES and RDMA_MAX_INIT_DEPTH, 255, mean as much as both ends have.
    private static func depths(
        _ parameters: rdma_conn_param, offered request: ConnectionRequest
    ) -> (responder: UInt8, initiator: UInt8) {
        let most = UInt8(clamping: DeviceLimits.readAtomicOperations)
        let responder = unsafe parameters.responder_resources
        let initiator = unsafe parameters.initiator_depth
        return (
            responder == 255 ? min(request.initiatorDepth, most) : min(responder, most),
            initiator == 255 ? min(request.responderResources, most) : min(initiator, most)
        )
    }

    private static func privateData(
        _ verb: StaticString, _ bytes: UnsafeRawPointer?, _ count: UInt8, max: Int
    ) throws(ProviderError) -> [UInt8] {
        guard Int(count) <= max else {
            throw ProviderError(verb, code: EINVAL, detail: "private_data_len \(count): at most \(max)")
        }
        guard let bytes = unsafe bytes, count > 0 else { return [] }
        // The caller's, for the time of the call.
        return unsafe Array(UnsafeRawBufferPointer(start: bytes, count: Int(count)))
    }

    func reject(_ identifier: Identifier, privateData: UnsafeRawPointer?, count: UInt8) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let (context, communication) = identifier.state.withLock { ($0.context, $0.communication) }
        guard let context, let communication else { throw Self.state("rdma_reject", "there is nothing to reject") }
        let isDatagram = identifier.portSpace == .udp
        let data = try unsafe Self.privateData(
            "rdma_reject", privateData, count,
            max: isDatagram ? ServiceReply.privateByteCount : ConnectionRejection.privateByteCount)
        let tag = identifier.tag
        try context.withConnections("rdma_reject") { (core, now) throws(EngineError) in
            guard core.connections.owns(tag, communication) else { throw .unknownObject }
            try core.connections.reject(communication, privateData: data, now: now)
        }
    }
}

// MARK: - Active side

extension SoftConnectionPath {
    func resolveAddress(
        _ identifier: Identifier, source: UnsafeMutablePointer<sockaddr>?,
        destination: UnsafeMutablePointer<sockaddr>, timeoutMilliseconds: Int32
    ) throws(ProviderError) {
        if let source = unsafe source { try unsafe bind(identifier, to: source) }
        let identifier = unsafe SoftIdentifier.of(identifier)
        let target = try unsafe Self.address("rdma_resolve_addr", destination)
        let (context, bound, port) = identifier.state.withLock { ($0.context, $0.local, $0.localPort) }
        // A group is reached by the interface that one is bound to, whatever the routes say.
        if context == nil || !target.gid.isMulticast {
            guard
                let source = CSocketAddress.source(
                    towards: target.gid, from: context == nil ? nil : bound, scope: target.scope)
            else {
                throw ProviderError(
                    "rdma_resolve_addr", code: ENETUNREACH, detail: "no route leads to \(target.gid.addressText)")
            }
            if context == nil {
                let interface = try Self.interface("rdma_resolve_addr", with: source, scope: target.scope)
                try bind(identifier, interface, source, port: port == 0 ? Self.ephemeralPort() : port)
            }
        }
        identifier.setPeer(target.gid, port: target.port, scope: target.scope)
        unsafe identifier.post(.RDMA_CM_EVENT_ADDR_RESOLVED)
    }

    private func bind(
        _ identifier: SoftIdentifier, _ interface: NetworkInterface, _ address: GID, port: UInt16
    ) throws(ProviderError) {
        let context = try context(of: interface, serving: address)
        guard let index = context.localIndex(of: address) else {
            throw ProviderError(
                "rdma_resolve_addr", code: EADDRNOTAVAIL,
                detail: "\(address.addressText) is not served: somebody else has its port 4791")
        }
        identifier.bind(context, localIndex: index, local: address, port: port)
    }

    func resolveRoute(_ identifier: Identifier, timeoutMilliseconds: Int32) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        guard identifier.state.withLock({ $0.context != nil && $0.remote != nil }) else {
            throw Self.state("rdma_resolve_route", "no address was resolved")
        }
        // The kernel's routing knows the way; there is nothing to ask for.
        unsafe identifier.post(.RDMA_CM_EVENT_ROUTE_RESOLVED)
    }

    func connect(
        _ identifier: Identifier, _ parameters: UnsafeMutablePointer<rdma_conn_param>
    ) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let parameters = unsafe parameters.pointee
        let state = identifier.state.withLock {
            (
                context: $0.context, index: $0.localIndex, local: $0.local, port: $0.localPort, remote: $0.remote,
                remotePort: $0.remotePort, trafficClass: $0.trafficClass, ackTimeout: $0.ackTimeout,
                asksAgainFor: $0.asksAgainNanoseconds, isBusy: $0.communication != nil
            )
        }
        guard let context = state.context, let local = state.local, let remote = state.remote else {
            throw Self.state("rdma_connect", "no address was resolved")
        }
        guard !state.isBusy else { throw Self.state("rdma_connect", "the identifier was connected before") }
        guard identifier.type != .IBV_QPT_XRC_RECV else {
            throw Self.state("rdma_connect", "qp_type XRC_RECV: initiators of XRC, XRC_SEND, ask")
        }
        let isDatagram = identifier.portSpace == .udp
        let room = isDatagram ? ServiceRequest.privateByteCount : ConnectionRequest.privateByteCount
        let data = try unsafe Self.privateData(
            "rdma_connect", parameters.private_data, parameters.private_data_len,
            max: room - ConnectionAddresses.byteCount)
        let privateData = ConnectionAddresses(sourcePort: state.port, source: local, destination: remote)
            .prepended(to: data)
        let service = ServiceID(portSpace: identifier.portSpace, port: state.remotePort)
        let peer = ManagementPeer(address: remote, local: local, localIndex: UInt8(truncatingIfNeeded: state.index))
        let (tag, transport) = (identifier.tag, identifier.transport)
        let qpn = QPN(truncating: unsafe parameters.qp_num)
        let id = try context.withConnections("rdma_connect") { (core, now) throws(EngineError) in
            var generator = SystemRandomNumberGenerator()
            let id: CommunicationID
            if isDatagram {
                id = try core.connections.requestService(
                    service, of: peer, privateData: privateData, asksAgainFor: state.asksAgainFor, tag: tag, now: now,
                    using: &generator)
            } else {
                var options = ConnectOptions(
                    serviceID: service, peer: peer, qpn: qpn, pathMTU: core.connections.configuration.pathMTUMax)
                options.transport = transport
                let most = UInt8(clamping: DeviceLimits.readAtomicOperations)
                options.responderResources = unsafe min(parameters.responder_resources, most)
                options.initiatorDepth = unsafe min(parameters.initiator_depth, most)
                options.retryCount = unsafe min(parameters.retry_count, 7)
                options.rnrRetry = unsafe min(parameters.rnr_retry_count, 7)
                options.usesSharedReceives = unsafe parameters.srq != 0
                options.trafficClass = state.trafficClass
                // The label by which the kernel's connection manager spreads connections over paths.
                options.flowLabel = (UInt32(state.port) &* 31 &+ UInt32(state.remotePort)) & 0xF_FFFF
                options.ackTimeout = state.ackTimeout ?? Self.ackTimeoutDefault
                options.asksAgainFor = state.asksAgainFor
                // Other services than RC have nothing to repeat.
                options.privateData =
                    transport == .reliableConnected
                    ? core.capabilities.added(to: privateData, room: room) : privateData
                id = try core.connections.connect(options, tag: tag, now: now, using: &generator)
            }
            // Before any answer can be looked at.
            identifier.state.withLock {
                $0.communication = id
                $0.queuePair = qpn
            }
            return id
        }
        _ = id
    }

    /// 4.096 µs · 2^17, half a second, as the kernel's connection manager for a path of the lifetime that RoCE has.
    private static let ackTimeoutDefault: UInt8 = 17

    func establish(_ identifier: Identifier) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let (context, communication) = identifier.state.withLock { ($0.context, $0.communication) }
        guard let context, let communication else { throw Self.state("rdma_establish", "there is no reply to answer") }
        let tag = identifier.tag
        try context.withConnections("rdma_establish") { (core, now) throws(EngineError) in
            guard core.connections.owns(tag, communication) else { throw .unknownObject }
            try core.connections.establish(communication, now: now)
        }
    }
}

// MARK: - Both sides

extension SoftConnectionPath {
    func disconnect(_ identifier: Identifier) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let (context, communication) = identifier.state.withLock { ($0.context, $0.communication) }
        guard let context, let communication else { throw Self.state("rdma_disconnect", "there is no connection") }
        let tag = identifier.tag
        try context.withConnections("rdma_disconnect") { (core, now) throws(EngineError) in
            // The peer was quicker: its end and the time after it are over.
            guard core.connections.owns(tag, communication) else { return }
            try core.connections.disconnect(communication, now: now)
        }
    }

    func notify(_ identifier: Identifier, _ event: ibv_event_type) throws(ProviderError) {
        // The device sees the first packet itself.
        guard event == .IBV_EVENT_COMM_EST else {
            throw Self.state("rdma_notify", "event \(event.rawValue): only IBV_EVENT_COMM_EST is of interest")
        }
    }

    func queuePairAttributes(
        _ identifier: Identifier, _ attributes: UnsafeMutablePointer<ibv_qp_attr>
    ) throws(ProviderError) -> ibv_qp_attr_mask {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let target = unsafe attributes.pointee.qp_state
        let (context, communication, index, remote) = identifier.state.withLock {
            ($0.context, $0.communication, $0.localIndex, $0.remote)
        }
        guard let context else { throw Self.state("rdma_init_qp_attr", "the identifier has no device") }
        var result = ibv_qp_attr()
        defer { unsafe attributes.pointee = result }
        result.qp_state = target
        if identifier.portSpace == .udp { return try Self.datagramAttributes(target, &result) }
        if target == .IBV_QPS_INIT {
            result.port_num = 1
            result.qp_access_flags =
                ibv_access_flags([.IBV_ACCESS_REMOTE_WRITE, .IBV_ACCESS_REMOTE_READ, .IBV_ACCESS_REMOTE_ATOMIC])
                .rawValue
            return [.IBV_QP_STATE, .IBV_QP_PKEY_INDEX, .IBV_QP_PORT, .IBV_QP_ACCESS_FLAGS]
        }
        let tag = identifier.tag
        let terms = try context.withConnections("rdma_init_qp_attr") { (core, _) in
            communication.flatMap { core.connections.owns(tag, $0) ? core.connections.terms(of: $0) : nil }
        }
        guard let terms, let remote else {
            throw Self.state("rdma_init_qp_attr", "the peer's queue pair is not known yet")
        }
        switch target {
        case .IBV_QPS_RTR:
            result.ah_attr =
                AddressVector(
                    destination: remote, localIndex: UInt8(truncatingIfNeeded: index),
                    trafficClass: terms.trafficClass, hopLimit: terms.hopLimit, serviceLevel: terms.serviceLevel,
                    flowLabel: terms.flowLabel
                ).attributes
            result.path_mtu = ibv_mtu(rawValue: UInt32(terms.pathMTU.rawValue))!
            result.dest_qp_num = terms.remoteQPN.rawValue
            result.rq_psn = terms.receivePSN.rawValue
            let most = UInt8(clamping: DeviceLimits.readAtomicOperations)
            result.max_dest_rd_atomic = min(terms.destinationReadAtomicMax, most)
            result.min_rnr_timer = Self.rnrTimerDefault
            return Self.mask(identifier.type, from: .IBV_QPS_INIT, to: target)
        case .IBV_QPS_RTS:
            result.sq_psn = terms.sendPSN.rawValue
            result.timeout = terms.ackTimeout
            result.retry_cnt = terms.retryCount
            result.rnr_retry = terms.rnrRetry
            result.max_rd_atomic = min(terms.readAtomicMax, UInt8(clamping: DeviceLimits.readAtomicOperations))
            return Self.mask(identifier.type, from: .IBV_QPS_RTR, to: target)
        default: throw Self.state("rdma_init_qp_attr", "qp_state \(target.rawValue): INIT, RTR and RTS are known")
        }
    }

    /// What a queue pair of a connection needs on its way, and no more: the kernel's own connection manager gives that.
    private static func mask(
        _ type: ibv_qp_type, from: ibv_qp_state, to target: ibv_qp_state
    ) -> ibv_qp_attr_mask {
        QueuePairTransition.rule(type, from: from, to: target)!.required.union(.IBV_QP_STATE)
    }

    /// 0.64 ms. The kernel's connection manager says 0, which is the longest: one empty queue costs 655 ms then.
    private static let rnrTimerDefault: UInt8 = 12

    private static func datagramAttributes(
        _ target: ibv_qp_state, _ result: inout ibv_qp_attr
    ) throws(ProviderError) -> ibv_qp_attr_mask {
        switch target {
        case .IBV_QPS_INIT:
            result.port_num = 1
            result.qkey = QueueKey.connectionManager.rawValue
            return [.IBV_QP_STATE, .IBV_QP_PKEY_INDEX, .IBV_QP_PORT, .IBV_QP_QKEY]
        case .IBV_QPS_RTR: return .IBV_QP_STATE
        case .IBV_QPS_RTS: return [.IBV_QP_STATE, .IBV_QP_SQ_PSN]
        default: throw state("rdma_init_qp_attr", "qp_state \(target.rawValue): INIT, RTR and RTS are known")
        }
    }

    func joinMulticast(
        _ identifier: Identifier, _ address: UnsafeMutablePointer<sockaddr>, context: UnsafeMutableRawPointer?
    ) throws(ProviderError) {
        let identifier = unsafe SoftIdentifier.of(identifier)
        let group = try unsafe Self.address("rdma_join_multicast", address).gid
        let (device, index) = identifier.state.withLock { ($0.context, $0.localIndex) }
        guard device != nil else { throw Self.state("rdma_join_multicast", "the identifier has no device") }
        guard group.isMulticast else {
            throw Self.state("rdma_join_multicast", "\(group.addressText) is no multicast address")
        }
        guard identifier.portSpace == .udp else {
            throw Self.state("rdma_join_multicast", "only datagrams have multicast: RDMA_PS_UDP")
        }
        identifier.state.withLock { $0.groups.append(group) }
        let vector = AddressVector(
            destination: group, localIndex: UInt8(truncatingIfNeeded: index), trafficClass: 0, hopLimit: 64,
            serviceLevel: 0, flowLabel: 0)
        unsafe identifier.post(.RDMA_CM_EVENT_MULTICAST_JOIN) { event in
            unsafe event.param.ud.private_data = UnsafeRawPointer(context)
            unsafe event.param.ud.ah_attr = vector.attributes
            unsafe event.param.ud.qp_num = QPN.multicast.rawValue
            unsafe event.param.ud.qkey = QueueKey.connectionManager.rawValue
        }
    }

    func leaveMulticast(_ identifier: Identifier, _ address: UnsafeMutablePointer<sockaddr>) throws(ProviderError) {
        let group = try unsafe Self.address("rdma_leave_multicast", address).gid
        let left: Bool = unsafe SoftIdentifier.of(identifier).state.withLock { state in
            guard let place = state.groups.firstIndex(of: group) else { return false }
            state.groups.remove(at: place)
            return true
        }
        guard left else {
            throw ProviderError(
                "rdma_leave_multicast", code: EADDRNOTAVAIL, detail: "\(group.addressText) was not joined")
        }
    }
}

// MARK: - Events

extension SoftConnectionPath {
    /// Tells an identifier what happened, with the device's lock held.
    static func deliver(
        _ event: CommunicationEvent, to identifier: SoftIdentifier, on context: SoftContext,
        _ core: inout ProgressCore
    ) {
        switch event.kind {
        case .request(let request, let addresses, let peer):
            let child = offer(event.id, addresses, peer, to: identifier, on: context, &core)
            var data = Array(request.privateData.dropFirst(addresses == nil ? 0 : ConnectionAddresses.byteCount))
            let offered = PeerCapabilities.take(from: &data)
            child.state.withLock {
                $0.request = request
                $0.offered = offered
            }
            unsafe child.post(.RDMA_CM_EVENT_CONNECT_REQUEST, listener: identifier, privateData: data) { event in
                // Crosswise: what the peer wants to have outstanding is what we are to take.
                unsafe event.param.conn.responder_resources = request.initiatorDepth
                unsafe event.param.conn.initiator_depth = request.responderResources
                unsafe event.param.conn.flow_control = request.usesEndToEndFlowControl ? 1 : 0
                unsafe event.param.conn.retry_count = request.retryCount
                unsafe event.param.conn.rnr_retry_count = request.rnrRetry
                unsafe event.param.conn.srq = request.usesSharedReceives ? 1 : 0
                unsafe event.param.conn.qp_num = request.qpn.rawValue
            }
        case .serviceRequest(let request, let addresses, let peer):
            let child = offer(event.id, addresses, peer, to: identifier, on: context, &core)
            let data = Array(request.privateData.dropFirst(addresses == nil ? 0 : ConnectionAddresses.byteCount))
            unsafe child.post(.RDMA_CM_EVENT_CONNECT_REQUEST, listener: identifier, privateData: data)
        case .reply(let reply):
            var data = reply.privateData
            let taken = PeerCapabilities.take(from: &data).intersection(core.capabilities)
            if taken.contains(.selectiveRepetition), let qpn = identifier.state.withLock({ $0.queuePair }) {
                // The application may have destroyed it by now.
                try? core.engine.repeatSelectively(qpn)
            }
            unsafe identifier.post(.RDMA_CM_EVENT_CONNECT_RESPONSE, privateData: data) { event in
                unsafe event.param.conn.responder_resources = reply.initiatorDepth
                unsafe event.param.conn.initiator_depth = reply.responderResources
                unsafe event.param.conn.flow_control = reply.usesEndToEndFlowControl ? 1 : 0
                unsafe event.param.conn.rnr_retry_count = reply.rnrRetry
                unsafe event.param.conn.srq = reply.usesSharedReceives ? 1 : 0
                unsafe event.param.conn.qp_num = reply.queuePair(of: identifier.transport).rawValue
            }
        case .established: unsafe identifier.post(.RDMA_CM_EVENT_ESTABLISHED)
        case .rejected(let reason, let privateData):
            unsafe identifier.post(.RDMA_CM_EVENT_REJECTED, status: Int32(reason.rawValue), privateData: privateData)
        case .unreachable: unsafe identifier.post(.RDMA_CM_EVENT_UNREACHABLE, status: -ETIMEDOUT)
        case .disconnected: unsafe identifier.post(.RDMA_CM_EVENT_DISCONNECTED)
        case .timeWaitEnded: unsafe identifier.post(.RDMA_CM_EVENT_TIMEWAIT_EXIT)
        case .serviceReply(let reply): answer(reply, to: identifier)
        }
    }

    /// A new identifier for a request, on the listener's channel.
    private static func offer(
        _ id: CommunicationID, _ addresses: ConnectionAddresses?, _ peer: ManagementPeer,
        to listener: SoftIdentifier, on context: SoftContext, _ core: inout ProgressCore
    ) -> SoftIdentifier {
        let child = unsafe SoftIdentifier(
            channel: listener.channel, context: listener.native.pointee.context, portSpace: listener.portSpace,
            type: listener.type)
        child.bind(
            context, localIndex: Int(peer.localIndex), local: peer.local,
            port: listener.state.withLock { $0.localPort })
        child.setPeer(
            peer.address, port: addresses?.sourcePort ?? 0, scope: context.scope(of: peer.address))
        child.state.withLock { $0.communication = id }
        core.connections.setTag(child.tag, of: id)
        return child
    }

    private static func answer(_ reply: ServiceReply, to identifier: SoftIdentifier) {
        guard reply.status == .valid else {
            return unsafe identifier.post(
                .RDMA_CM_EVENT_UNREACHABLE, status: Int32(reply.status.rawValue), privateData: reply.privateData)
        }
        let (index, remote) = identifier.state.withLock { ($0.localIndex, $0.remote) }
        let vector = AddressVector(
            destination: remote ?? .zero, localIndex: UInt8(truncatingIfNeeded: index), trafficClass: 0, hopLimit: 64,
            serviceLevel: 0, flowLabel: 0)
        unsafe identifier.post(.RDMA_CM_EVENT_ESTABLISHED, privateData: reply.privateData) { event in
            unsafe event.param.ud.ah_attr = vector.attributes
            unsafe event.param.ud.qp_num = reply.qpn.rawValue
            unsafe event.param.ud.qkey = reply.queueKey.rawValue
        }
    }
}
