// SPDX-License-Identifier: Apache-2.0
import PacketIO
import RoCETransport
import RoCEWire
import VerbsABI

/// The engine and the link of an open device, and the rounds that join them. Whoever holds the context's lock owns it.
///
/// The engine is to this code what a network adapter is to a driver: inputs are doorbells, datagrams and time; outputs
/// are frames, completions and events, taken in the order that the engine's grammar demands.
@safe struct ProgressCore: ~Copyable {
    var engine: Engine
    var link: UDPLink
    /// Raw packets, which do not go by the link.
    var port: PacketPort
    /// The time that the engine is told.
    var clock = TickClock()
    /// Touched when messages came or a deadline is there: to look into it costs reference counts, so what each round asks
    /// stands beside it, brought up to date by `noteConnections`.
    var connections: CommunicationManagement
    private(set) var connectionDeadline = UInt64.max
    private(set) var hasConnectionEvents = false
    /// What the device offers peers of its own kind.
    let capabilities: PeerCapabilities
    private var transmitQueue: TransmitQueue
    /// Frames that the kernel had no room for.
    private var areFramesWaiting = false
    /// The version of the link's ways to processes of this host that the transmit queue knows.
    private var hostVersion: UInt32 = 0
    /// What the link is offered: one entry a burst of the transmit queue. Allocated once, freed in `deinit`.
    private let bursts: UnsafeMutablePointer<Burst>
    private static let burstCountMax = 128

    /// Datagram batches that one round takes before its completions are shown: bounds the time under the lock.
    private static let batchCountMax = 4
    /// A batch of fewer datagrams was all there was, most likely: looking again would cost a system call before the
    /// completions are shown.
    private static let batchCountWorthAnother = 8

    /// Opens the interface's addresses and makes an engine for the slot that the link claimed on them.
    /// - Throws: the reason why no address can be served, or what in the environment is not understood.
    static func open(
        interface: NetworkInterface, guid: UInt64, environment: DeviceEnvironment
    ) throws(ProviderError) -> ProgressCore {
        let link: UDPLink
        do throws(PacketIOError) {
            var options = UDPLinkOptions()
            options.allowsSegmentation = environment.segmentationOffload
            options.capturePath = environment.capturePath
            options.sharesMemory = environment.sameHost
            options.link = try Self.preference(environment.link)
            if let faults = environment.faults { options.faults = try FaultPlan(parsing: faults) }
            link = try UDPLink.open(on: interface, addresses: interface.addresses, options: options)
        } catch {
            throw ProviderError("ibv_open_device", error)
        }
        let mtu = SoftContext.largestPathMTU(interfaceMTU: interface.mtu)
        let pathMTU = PathMTU(rawValue: UInt8(truncatingIfNeeded: mtu.rawValue)) ?? .bytes1024
        let port = PacketPort(interface, allowed: try environment.flowPlaces, check: try environment.sourceCheck)
        var core = ProgressCore(link: link, port: port, guid: guid, pathMTUMax: pathMTU, environment: environment)
        do throws(EngineError) {
            try core.announceAddresses(mtu: pathMTU)
        } catch {
            throw ProviderError("ibv_open_device", error)
        }
        return core
    }

    private static func preference(_ text: String?) throws(PacketIOError) -> LinkPreference {
        guard let text else { return .automatic }
        guard let preference = LinkPreference(rawValue: text) else {
            let names = LinkPreference.allCases.map(\.rawValue).joined(separator: ", ")
            throw .invalid("VERBS_SOFT_LINK=\(text): it is one of \(names)")
        }
        return preference
    }

    private init(
        link: consuming UDPLink, port: consuming PacketPort, guid: UInt64, pathMTUMax: PathMTU,
        environment: DeviceEnvironment
    ) {
        var limits = Self.configuration(of: link)
        limits.congestionControl = environment.congestionControl
        capabilities = environment.selectiveRepetition ? .selectiveRepetition : []
        engine = Engine(configuration: limits)
        var configuration = CommunicationConfiguration(slot: link.slot, nodeGUID: guid)
        configuration.pathMTUMax = pathMTUMax
        connections = CommunicationManagement(configuration: configuration)
        transmitQueue = TransmitQueue(burstCountMax: Self.burstCountMax, segmentCountMax: link.maximumSegments)
        unsafe bursts = .allocate(capacity: Self.burstCountMax)
        self.link = link
        self.port = port
    }

    /// - Parameter mtu: the port's active MTU, the longest datagram.
    private mutating func announceAddresses(mtu: PathMTU) throws(EngineError) {
        for index in 0..<UDPLink.addressesMax {
            guard let state = link.address(at: index) else { continue }
            try engine.setLocalAddress(index, to: LocalAddress(gid: state.gid, sourcePort: state.sourcePort, mtu: mtu))
        }
    }

    private static func configuration(of link: borrowing UDPLink) -> EngineConfiguration {
        var configuration = EngineConfiguration(slot: link.slot)
        configuration.queuePairCountMax = DeviceLimits.queuePairs
        configuration.completionQueueCountMax = DeviceLimits.completionQueues
        configuration.sharedReceiveQueueCountMax = DeviceLimits.sharedReceiveQueues
        configuration.memoryKeyCountMax = DeviceLimits.memoryRegions + DeviceLimits.memoryWindows
        configuration.workRequestCountMax = DeviceLimits.workRequests
        configuration.completionEntryCountMax = DeviceLimits.completionQueueEntries
        configuration.scatterGatherMax = DeviceLimits.scatterGatherEntries
        configuration.inlineMax = DeviceLimits.inlineBytes
        configuration.readAtomicMax = DeviceLimits.readAtomicOperations
        configuration.messageBytesMax = DeviceLimits.messageBytes
        if AddressSpace.isReachable { configuration.checkedMemory = AddressSpace.memory }
        // Our own peers have receive buffers like ours; a packet costs the kernel up to twice its length there.
        configuration.windowMaxBytes = min(max(link.receiveBufferBytes / 4, 64 * 1024), 1 << 20)
        configuration.hostBytesMax = configuration.windowMaxBytes
        configuration.windowInitialBytes = min(configuration.windowInitialBytes, configuration.windowMaxBytes)
        return configuration
    }

    /// The GID table: the addresses of the link by local index, which is the source GID index of queue pairs.
    var gids: [GID] {
        (0..<UDPLink.addressesMax).compactMap { link.address(at: $0)?.gid }
    }

    /// Counters of link and engine by name.
    mutating func counters() -> [(name: String, value: UInt64)] {
        link.refreshCounters()
        return link.counters.named + engine.counters.named + connections.counters.named
            + port.currentCounters.named
    }

    deinit {
        unsafe bursts.deallocate()
    }

    /// One full round: what has arrived, what is due, what is to be sent.
    /// - Returns: whether anything had arrived.
    mutating func round(now: UInt64, mayHoldAcknowledgement: Bool) -> Bool {
        engine.beginRound()
        var worked = false
        for _ in 0..<Self.batchCountMax {
            let count = link.receive()
            if count > 0 { worked = true }
            for index in 0..<count { take(link.datagram(index), now: now) }
            let isLast = count < Self.batchCountWorthAnother
            engine.endReceives(mayHold: mayHoldAcknowledgement && isLast)
            engine.advance(to: now)
            exchangeManagementDatagrams(now: now)
            flush(now: now)
            if isLast { break }
        }
        if port.isReceiving {
            if port.receive(&engine) { worked = true }
            if port.hasNewDescriptors { watchPort() }
        }
        _ = link.maintain(now: now)
        engine.publishCompletions()
        return worked
    }

    /// Lets the link's descriptor be readable when frames are there.
    mutating func watchPort() {
        // It fails for those that are watched, and for want of memory: then frames wait for the next round.
        for descriptor in port.takeDescriptors() { try? link.watch(descriptor) }
    }

    /// Before a control call, which may be the end of what an acknowledgement waits on.
    mutating func releaseAcknowledgement(now: UInt64) {
        guard engine.isHoldingAcknowledgement else { return }
        engine.beginRound()
        flush(now: now)
    }

    /// The half of a round that follows a post: nothing is received, so a post costs no system call but its own sends.
    mutating func sendRound(now: UInt64) {
        if port.isReceiving {
            port.supplyInPlace(&engine)
            if port.hasNewDescriptors { watchPort() }
        }
        flush(now: now)
        engine.publishCompletions()
    }

    /// When the next round is needed if nothing arrives: `UInt64.max` for never.
    ///
    /// Mutating, though it changes nothing: to borrow engine and link the compiler would copy both, in every round.
    mutating func deadline(now: UInt64) -> UInt64 {
        // Frames that the kernel's queue had no room for are offered again soon; there is no event for it that would
        // not also wake us for every packet sent.
        let retryNanoseconds: UInt64 = 50_000
        let retry = transmitQueue.isEmpty && !areFramesWaiting ? UInt64.max : now + retryNanoseconds
        // An acknowledgement that waits for an answer needs somebody to look after it if the application does not.
        let heldNanoseconds: UInt64 = 500_000
        let held = engine.isHoldingAcknowledgement ? now + heldNanoseconds : UInt64.max
        return min(
            engine.nextDeadline ?? .max, connectionDeadline, link.maintenanceDeadline, retry, held)
    }

    /// After whatever may have changed the connections.
    mutating func noteConnections() {
        connectionDeadline = connections.nextDeadline ?? .max
        hasConnectionEvents = connections.hasEvents
    }

    @inline(__always)
    private mutating func take(_ datagram: Datagram, now: UInt64) {
        var origin = DatagramOrigin(
            source: datagram.source, sourcePort: datagram.sourcePort,
            localIndex: UInt8(truncatingIfNeeded: datagram.localIndex), trafficClass: datagram.trafficClass,
            group: datagram.destination.isMulticast ? datagram.destination : nil)
        origin.isSealed = datagram.isSealed
        origin.identification = datagram.identification
        origin.dontFragment = datagram.dontFragment
        for index in 0..<datagram.segmentCount {
            origin.segmentIndex = UInt16(truncatingIfNeeded: datagram.firstSegment + index)
            // The link's memory holds the bytes until its next receive, which is after this call.
            let bytes = unsafe RawSpan(_unsafeBytes: datagram.segment(index))
            // Slot 0: of the device as a whole, not of this process.
            if bytes.loadNative(UInt8.self, at: 5) == 0, handOver(bytes, segment: index, of: datagram) { continue }
            engine.receive(bytes, from: origin, now: now)
        }
    }

    /// Sends all that the engine wants to send, as far as the kernel takes it.
    private mutating func flush(now: UInt64) {
        if hostVersion != link.hostVersion { noteHostPeers() }
        var more = true
        while more || !transmitQueue.isEmpty {
            more = engine.transmit(into: &transmitQueue, now: now)
            guard sendBursts() else { break }
        }
        if engine.hasFrames || areFramesWaiting { areFramesWaiting = !port.send(&engine) }
    }

    /// Tells the transmit queue which processes of this host take frames without ICRC.
    @inline(never)
    private mutating func noteHostPeers() {
        hostVersion = link.hostVersion
        for index in 0..<UDPLink.addressesMax {
            for slot in SlotClaim.slots {
                transmitQueue.setUnsealed(
                    link.takesUnsealed(localIndex: index, slot: slot), localIndex: index, slot: slot)
            }
        }
    }

    /// A connection to a process of this host is made: from now on packets may go through memory.
    mutating func meet(_ qpn: QPN) {
        guard let attributes = try? engine.queryQueuePair(qpn) else { return }
        let vector = attributes.addressVector
        guard link.gid(at: Int(vector.localIndex)) == vector.destination else { return }
        link.meet(slot: QPN(truncating: attributes.destinationQPN).slot, localIndex: Int(vector.localIndex))
    }

    /// - Returns: false if the kernel's queue is full and something is left.
    private mutating func sendBursts() -> Bool {
        let count = min(transmitQueue.count, Self.burstCountMax)
        guard count > 0 else { return true }
        for index in 0..<count {
            let burst = transmitQueue.burst(index)
            unsafe (bursts + index).initialize(
                to: Burst(
                    base: transmitQueue.bytes(of: burst).baseAddress!, byteCount: burst.byteCount,
                    segmentSize: burst.segmentSize, localIndex: Int(burst.path.localIndex),
                    trafficClass: burst.path.trafficClass, destination: burst.path.destination,
                    isSealed: burst.isSealed))
        }
        let sent = unsafe link.send(UnsafeBufferPointer(start: bursts, count: count))
        if link.counters.segmentationRefusals != 0 { transmitQueue.segmentCountMax = link.maximumSegments }
        transmitQueue.removeFirst(sent)
        return sent == count
    }
}
