// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// What a connection is made with, beyond the two endpoints.
public struct ConnectionOptions: Hashable, Sendable {
    /// The path MTU; `nil` takes the smaller of what the two ports take.
    public var mtu: MTU?
    /// See ``QueuePairAttributes/timeout``; 14 is 67 ms.
    public var timeout: UInt8 = 14
    /// See ``QueuePairAttributes/retryCount``.
    public var retryCount: UInt8 = 7
    /// See ``QueuePairAttributes/rnrRetry``.
    public var rnrRetry: UInt8 = 7
    /// See ``QueuePairAttributes/minRNRTimer``; 12 is 0.64 ms.
    public var minRNRTimer: UInt8 = 12
    /// Reads and atomics outstanding from this side; `nil` takes what the device can and the peer answers.
    public var maxReads: UInt8?
    /// Time to live of the IP packets.
    public var hopLimit: UInt8 = 64
    /// DSCP and ECN bits of the IP packets.
    public var trafficClass: UInt8 = 0
    /// The service level, 4 bits.
    public var serviceLevel: UInt8 = 0
    /// IPv6 flow label, 20 bits.
    public var flowLabel: UInt32 = 0

    /// The defaults.
    public init() {}
}

extension QueuePair {
    /// The state as this side last knew it: errors show after ``queryAttributes()``.
    public var state: QueuePairState { unsafe QueuePairState(native.pointee.state) }

    /// Changes the state, or attributes within it.
    ///
    /// | transition | RC needs | UC needs | UD needs |
    /// |---|---|---|---|
    /// | RESET → INIT | pkeyIndex, port, access | as RC | pkeyIndex, port, qkey |
    /// | INIT → RTR | path, pathMTU, destination, receivePSN, maxDestinationReads, minRNRTimer | path, pathMTU, destination, receivePSN | nothing |
    /// | RTR → RTS | timeout, retryCount, rnrRetry, sendPSN, maxReads | sendPSN | sendPSN |
    /// | any → RESET, any but RESET → ERR | nothing | nothing | nothing |
    ///
    /// A failed change says which attribute was missing, refused or out of range. A move to RESET forgets what is in
    /// flight; the library makes up the flushes. The corresponding C function is `ibv_modify_qp`.
    public func modify(_ attributes: QueuePairAttributes) throws(VerbsError) {
        let before = state
        let isReset = attributes.state == .reset
        if isReset { core.spill() }
        do throws(ProviderError) {
            var (native, mask) = attributes.native
            // A local variable, read during the call.
            try unsafe core.domain.context.path.modify(self.native, &native, mask: mask)
        } catch {
            // The state may have changed behind our back; the device knows.
            let from = (try? queryAttributes().state) ?? before
            let context = core.domain.context
            let port = attributes.path?.port ?? attributes.port ?? core.local?.port ?? 1
            throw Diagnosis.transition(
                error, transport: core.transport, from: from, attributes: attributes, port: try? context.port(port),
                device: try? context.attributes)
        }
        if isReset {
            core.spill()
            core.flush()
        }
    }

    /// All attributes as the device has them. The corresponding C function is `ibv_query_qp`.
    public func queryAttributes() throws(VerbsError) -> QueuePairAttributes {
        var attributes = ibv_qp_attr()
        var initial = unsafe ibv_qp_init_attr()
        do throws(ProviderError) {
            // Local variables, written during the call. The mask is a hint that providers may exceed.
            try unsafe core.domain.context.path.query(
                native, &attributes, mask: ibv_qp_attr_mask(rawValue: 0x1F_FFFF), &initial)
        } catch {
            throw VerbsError(error)
        }
        return QueuePairAttributes(attributes)
    }
}

// Bringing a connection up.
extension QueuePair {
    /// Moves a fresh queue pair to INIT and describes it for the other side. Receives may be posted from here on.
    ///
    /// Without `gidIndex` the GID is chosen as ``GIDChoice`` says, for `peer` if it is known. `access` is what the peer
    /// may do through this queue pair; by default all that its transport can. `qkey` is for UD.
    public func prepare(
        port: UInt8 = 1, gidIndex: Int? = nil, peer: GID? = nil, access: AccessFlags? = nil, qkey: UInt32 = 0x1111_1111
    ) throws(VerbsError) -> Endpoint {
        guard transport != .rawPacket else {
            throw VerbsError(
                .invalidTransition, verb: "ibv_modify_qp", subject: "transport", value: "\(transport)",
                remedy: "A raw packet queue pair has no peer: call start(port:)")
        }
        let context = core.domain.context
        let portAttributes = try context.port(port)
        let entry = try Self.sourceGID(portAttributes, index: gidIndex, peer: peer)
        var attributes = QueuePairAttributes(state: .initialized)
        attributes.pkeyIndex = 0
        attributes.port = port
        switch transport {
        case .reliableConnected: attributes.access = access ?? .remote
        case .unreliableConnected: attributes.access = access ?? [.localWrite, .remoteWrite]
        case .unreliableDatagram: attributes.qkey = qkey
        case .rawPacket: break
        }
        try modify(attributes)
        let isReliable = transport == .reliableConnected
        let reads = isReliable ? UInt8(clamping: min(16, try context.attributes.maxReadsAsTarget)) : 0
        let endpoint = Endpoint(
            transport: transport, queuePair: number, psn: UInt32.random(in: 0...0xFF_FFFF), gid: entry?.gid ?? .zero,
            lid: portAttributes.lid, mtu: portAttributes.activeMTU, maxReads: reads,
            qkey: transport == .unreliableDatagram ? qkey : 0)
        core.local = .init(endpoint: endpoint, port: port, gidIndex: entry?.index ?? 0)
        return endpoint
    }

    /// What ``prepare(port:gidIndex:peer:access:qkey:)`` returned.
    public var endpoint: Endpoint? { core.local?.endpoint }

    /// Connects a prepared RC or UC queue pair to the other side: RTR, then RTS.
    public func connect(
        to peer: Endpoint, options: ConnectionOptions = ConnectionOptions()
    ) throws(VerbsError) {
        let isConnected = transport == .reliableConnected || transport == .unreliableConnected
        guard isConnected, peer.transport == transport else {
            throw VerbsError(
                .invalidAttribute, verb: "ibv_modify_qp", subject: "transport", value: "\(peer.transport)",
                limit: isConnected ? "\(transport)" : "RC or UC",
                remedy: "Both sides need the same connected transport; UD queue pairs are started, not connected")
        }
        let local = try preparedSide()
        try modify(readyToReceive(local, peer, options))
        try modify(readyToSend(local, peer, options))
    }

    /// Brings a prepared UD queue pair to RTS.
    public func start() throws(VerbsError) {
        let local = try preparedSide()
        try modify(QueuePairAttributes(state: .readyToReceive))
        var attributes = QueuePairAttributes(state: .readyToSend)
        attributes.sendPSN = local.endpoint.psn
        try modify(attributes)
    }

    /// The way to a peer's UD queue pair, from the port and GID of this one.
    public func destination(
        of peer: Endpoint, options: ConnectionOptions = ConnectionOptions()
    ) throws(VerbsError) -> DatagramDestination {
        let handle = try domain.makeAddressHandle(path(try preparedSide(), peer, options))
        return DatagramDestination(handle, queuePair: peer.queuePair, qkey: peer.qkey)
    }

    private func preparedSide() throws(VerbsError) -> QueuePairCore.LocalSide {
        if let local = core.local { return local }
        throw VerbsError(
            .invalidTransition, verb: "ibv_modify_qp", subject: "STATE", value: "\(state)",
            remedy: "Call prepare() first: it moves to INIT and chooses port, GID and PSN")
    }

    private static func sourceGID(
        _ port: PortAttributes, index: Int?, peer: GID?
    ) throws(VerbsError) -> GIDEntry? {
        if let index {
            if let entry = port.gids.first(where: { $0.index == index }) { return entry }
            throw VerbsError(
                .invalidAttribute, verb: "ibv_modify_qp", subject: "GID index", value: "\(index)",
                limit: port.gids.map { "\($0.index)" }.joined(separator: ", "),
                remedy: "`verbs info` lists the GIDs of the port")
        }
        let choice = port.preferredGID(for: peer)
        guard choice != nil || port.linkLayer == .infiniBand else {
            throw VerbsError(
                .unreachable, verb: "ibv_query_gid_table", subject: "GID table", value: "empty",
                remedy: "Give the network interface of the device an IP address, or bring it up")
        }
        return choice?.entry
    }

    private func path(
        _ local: QueuePairCore.LocalSide, _ peer: Endpoint, _ options: ConnectionOptions
    ) -> PathAttributes {
        PathAttributes(
            gid: peer.gid.isZero ? nil : peer.gid, sourceGIDIndex: UInt8(clamping: local.gidIndex), lid: peer.lid,
            port: local.port, flowLabel: options.flowLabel, hopLimit: options.hopLimit,
            trafficClass: options.trafficClass, serviceLevel: options.serviceLevel)
    }

    private func readyToReceive(
        _ local: QueuePairCore.LocalSide, _ peer: Endpoint, _ options: ConnectionOptions
    ) -> QueuePairAttributes {
        var attributes = QueuePairAttributes(state: .readyToReceive)
        attributes.path = path(local, peer, options)
        attributes.pathMTU = options.mtu ?? min(local.endpoint.mtu, peer.mtu)
        attributes.destination = peer.queuePair
        attributes.receivePSN = peer.psn
        if transport == .reliableConnected {
            attributes.maxDestinationReads = local.endpoint.maxReads
            attributes.minRNRTimer = options.minRNRTimer
        }
        return attributes
    }

    private func readyToSend(
        _ local: QueuePairCore.LocalSide, _ peer: Endpoint, _ options: ConnectionOptions
    ) throws(VerbsError) -> QueuePairAttributes {
        var attributes = QueuePairAttributes(state: .readyToSend)
        attributes.sendPSN = local.endpoint.psn
        if transport == .reliableConnected {
            attributes.timeout = options.timeout
            attributes.retryCount = options.retryCount
            attributes.rnrRetry = options.rnrRetry
            let own = UInt8(clamping: try domain.context.attributes.maxReadsAsInitiator)
            attributes.maxReads = options.maxReads ?? min(own, peer.maxReads)
        }
        return attributes
    }
}
