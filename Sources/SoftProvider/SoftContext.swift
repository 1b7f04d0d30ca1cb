// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import RoCETransport
import RoCEWire
import Synchronization
import VerbsABI

/// An open software device: a genuine `ibv_context` with our operations, and the engine, link and thread behind it.
///
/// Each open claims a process slot of its own on the device's addresses, so two contexts of one process, or of two, are
/// peers like any others.
@safe package final class SoftContext: ControlPath, @unchecked Sendable {
    // Unchecked because of `context`: its memory is written here alone, before anybody else has the pointer.
    package let context: UnsafeMutablePointer<ibv_context>

    /// The GID table: the interface's addresses at the time of the open.
    let gids: [GID]
    let guid: UInt64
    /// Whose context it is.
    let description: ProviderDevice
    let interfaceIndex: Int
    let isUp: Bool
    let activeMTU: ibv_mtu
    let asynchronousEvents: AsynchronousEventQueue
    let nextDomain = Atomic<UInt32>(0)
    /// Its mutex is taken before the device's lock.
    let flowCounting = Mutex(FlowCounting())
    let xrcDomains = Mutex(XRCDomains())
    /// Its mutex is taken within the device's lock.
    let targetHandles = Mutex(TargetHandles())
    /// Protection domains, channels, completion queues and counters that exist: a device that has some cannot be closed.
    let objects = Atomic<Int>(0)

    /// Owned here, touched under `progressLock` alone. Behind a pointer, so that entering it checks nothing further.
    private let core: UnsafeMutablePointer<ProgressCore>
    /// The slot, where queue pair numbers have it.
    private let slotBits: UInt32
    private let progressLock = ProgressLock()
    private let doorbells = DoorbellQueue(capacity: 1 << 16)
    let progressThread: ProgressThread
    private let isOpen = Atomic<Bool>(false)
    /// Rounds made by application threads: only whether it changes matters, so it is counted without order.
    private let rounds = Atomic<UInt64>(0)
    /// Rounds in a row that found nothing to do: a spin that lasts gives its core away now and then.
    private let idleRounds = Atomic<UInt32>(0)

    /// Opens the device of an interface.
    static func open(
        interface: NetworkInterface, device: ProviderDevice, environment: DeviceEnvironment
    ) throws(ProviderError) -> SoftContext {
        let progress = try ProgressCore.open(
            interface: interface, guid: UInt64(bigEndian: device.guid), environment: environment)
        do throws(PacketIOError) {
            let context = SoftContext(
                interface: interface, device: device,
                thread: try ProgressThread(waiter: try Waiter(), socket: progress.link.descriptor),
                events: try AsynchronousEventQueue(), progress: progress)
            try context.start()
            return context
        } catch {
            throw ProviderError("ibv_open_device", error)
        }
    }

    private init(
        interface: NetworkInterface, device: ProviderDevice, thread: ProgressThread,
        events: consuming AsynchronousEventQueue, progress: consuming ProgressCore
    ) {
        gids = progress.gids
        slotBits = UInt32(progress.link.slot) << 16
        guid = device.guid
        description = device
        interfaceIndex = interface.index
        isUp = interface.isRunning
        activeMTU = Self.largestPathMTU(interfaceMTU: interface.mtu)
        progressThread = thread
        unsafe context = DeviceObject.makeContext(device: device, eventDescriptor: events.descriptor.number)
        asynchronousEvents = events
        unsafe core = .allocate(capacity: 1)
        unsafe core.initialize(to: progress)
    }

    private func start() throws(PacketIOError) {
        adoptContext()
        try progressThread.start(serving: self)
        isOpen.store(true, ordering: .relaxed)
        OpenContexts.add(self)
    }

    deinit {
        if isOpen.load(ordering: .relaxed) { progressThread.stop() }
        unsafe core.deinitialize(count: 1)
        unsafe core.deallocate()
        unsafe DeviceObject.free(context)
    }

    package var postsPlacement: Bool { true }

    package func counters() -> [(name: String, value: UInt64)] {
        withCore { $0.counters() } + [("asynchronous_events_dropped", asynchronousEvents.dropped)]
    }

    package var link: ProviderLink? {
        let choice = withCore { $0.link.choice }
        return ProviderLink(kind: choice.kind.rawValue, detail: choice.detail, reason: choice.reason)
    }

    package func close() throws(ProviderError) {
        guard objects.load(ordering: .acquiring) == 0 else {
            throw ProviderError(
                "ibv_close_device", code: EBUSY,
                detail: "protection domains, completion queues or channels of the device still exist")
        }
        guard isOpen.exchange(false, ordering: .acquiringAndReleasing) else { return }
        OpenContexts.remove(self)
        linger()
        progressThread.stop()
    }

    /// Stays to answer peers that have not heard the last acknowledgement: they would take our end for a failure.
    func linger() {
        withCore { $0.releaseAcknowledgement(now: $0.clock.read()) }
        while true {
            let left = withCore { core -> UInt64? in
                let now = core.clock.read()
                guard let until = core.engine.lingerDeadline(now: now), until > now else { return nil }
                return until - now
            }
            guard let left else { return }
            // The thread answers meanwhile; it is only to be kept from going.
            sleepNanoseconds(min(left, 5_000_000))
        }
    }
}

// MARK: - Progress

extension SoftContext {
    /// Enters the engine for a control call.
    ///
    /// - Parameter releasing: a raw packet queue pair that is reset, put into ERR, or goes.
    func withEngine<Result>(
        _ verb: StaticString, releasing qpn: QPN? = nil, _ body: (inout Engine) throws(EngineError) -> Result
    ) throws(ProviderError) -> Result {
        progressLock.lock()
        defer { progressLock.unlock() }
        if let qpn { unsafe core.pointee.port.release(qpn, &core.pointee.engine) }
        unsafe core.pointee.releaseAcknowledgement(now: core.pointee.clock.read())
        do throws(EngineError) {
            let result = try unsafe body(&core.pointee.engine)
            unsafe core.pointee.sendRound(now: core.pointee.clock.read())
            unsafe deliverEvents(of: &core.pointee)
            return result
        } catch {
            throw ProviderError(verb, error)
        }
    }

    /// Enters the raw packet side for a control call.
    func withPort<Result>(
        _ body: (inout PacketPort, inout Engine) throws(ProviderError) -> Result
    ) throws(ProviderError) -> Result {
        progressLock.lock()
        defer { progressLock.unlock() }
        defer {
            if unsafe core.pointee.port.hasNewDescriptors { unsafe core.pointee.watchPort() }
            unsafe core.pointee.engine.publishCompletions()
            unsafe deliverEvents(of: &core.pointee)
        }
        return try unsafe body(&core.pointee.port, &core.pointee.engine)
    }

    func withCore<Result>(_ body: (inout ProgressCore) -> Result) -> Result {
        progressLock.lock()
        defer { progressLock.unlock() }
        return unsafe body(&core.pointee)
    }

    /// Work was posted: carries it out at once, or leaves it to the thread that is in the engine now.
    @inline(__always)
    func doorbell(_ qpn: QPN) {
        guard progressLock.lockIfAvailable() else { return ringForOther(qpn) }
        let now = unsafe core.pointee.clock.now()
        unsafe core.pointee.engine.doorbell(qpn)
        unsafe core.pointee.sendRound(now: now)
        unsafe deliverEvents(of: &core.pointee)
        let deadline = unsafe progressThread.maySleepOn ? core.pointee.deadline(now: now) : .max
        progressLock.unlock()
        progressThread.expect(deadline)
        if !doorbells.isEmpty { runSendRounds() }
    }

    @inline(never)
    private func ringForOther(_ qpn: QPN) {
        doorbells.ring(Int(qpn.rawValue & 0xFFFF))
        runSendRounds()
    }

    /// A poll found nothing: makes one round. Returns at once if another thread is making one.
    func applicationRound() {
        rounds.wrappingAdd(1, ordering: .relaxed)
        var worked = false
        run { core, now in
            worked = core.round(now: now, mayHoldAcknowledgement: true)
        }
        guard !worked else {
            idleRounds.store(0, ordering: .relaxed)
            return
        }
        // Two ends that spin on one core starve each other; a system call a hundred polls costs a spinner nothing.
        if idleRounds.wrappingAdd(1, ordering: .relaxed).newValue & 127 == 0 { sched_yield() }
    }

    /// A round of the progress thread. Waits for the engine, since it has nothing else to do.
    /// - Returns: when the next one is due if nothing arrives, nanoseconds of CLOCK_MONOTONIC: 0 for at once, because
    ///   something had arrived.
    func serviceRound(sleepsNext: Bool) -> UInt64 {
        let deadline = withCore { core -> UInt64 in
            let now = core.clock.read()
            drainDoorbells(into: &core.engine)
            let worked = core.round(now: now, mayHoldAcknowledgement: false)
            deliverEvents(of: &core)
            if worked { return 0 }
            // What came through memory meanwhile wakes nobody.
            return sleepsNext && core.link.announceSleep() ? 0 : core.deadline(now: now)
        }
        if !doorbells.isEmpty { runSendRounds() }
        return deadline
    }

    /// How many rounds application threads made.
    var applicationRounds: UInt64 { rounds.load(ordering: .relaxed) }

    /// The application is about to sleep: the thread serves from now on.
    func serveInBackground() { progressThread.serve() }

    private func runSendRounds() {
        run { core, now in core.sendRound(now: now) }
    }

    /// Runs `body` in the engine if no other thread is there, and again while others ring meanwhile.
    ///
    /// Nobody's work is left behind: who rings looks for the lock after it rang, and who had the lock looks for bells
    /// after it gave it back, with a fence between on both sides; so one of the two sees the other.
    @inline(__always)
    private func run(_ body: (inout ProgressCore, UInt64) -> Void) {
        repeat {
            guard progressLock.lockIfAvailable() else { return }
            let now = unsafe core.pointee.clock.now()
            unsafe drainDoorbells(into: &core.pointee.engine)
            unsafe body(&core.pointee, now)
            unsafe deliverEvents(of: &core.pointee)
            let deadline = unsafe progressThread.maySleepOn ? core.pointee.deadline(now: now) : .max
            progressLock.unlock()
            progressThread.expect(deadline)
            atomicMemoryFence(ordering: .sequentiallyConsistent)
        } while !doorbells.isEmpty
    }

    @inline(__always)
    private func drainDoorbells(into engine: inout Engine) {
        doorbells.drain { index in engine.doorbell(QPN(truncating: slotBits | UInt32(truncatingIfNeeded: index))) }
    }
}

// MARK: - Events

extension SoftContext {
    /// Hands the engine's events to channels and to the asynchronous queue. The tags are the objects' addresses, which
    /// are valid while the engine has the objects: it forgets the events of what is destroyed.
    @inline(__always)
    func deliverEvents(of core: inout ProgressCore) {
        while let event = core.engine.nextEvent() { deliver(event, &core) }
        if core.hasConnectionEvents { deliverConnectionEvents(of: &core) }
    }

    @inline(never)
    private func deliver(_ event: Event, _ core: inout ProgressCore) {
        var asynchronous = unsafe ibv_async_event()
        switch event {
        case .completion(let tag):
            guard let queue = unsafe UnsafeMutablePointer<ibv_cq>(bitPattern: tag) else { return }
            unsafe notify(queue)
            return
        case .completionQueueError(let tag):
            unsafe asynchronous.element.cq = UnsafeMutablePointer(bitPattern: tag)
            unsafe asynchronous.event_type = .IBV_EVENT_CQ_ERR
        case .queuePair(.firstPacket, let tag):
            guard let queuePair = unsafe UnsafeMutablePointer<ibv_qp>(bitPattern: tag) else { return }
            core.connections.communicationEstablished(
                on: QPN(truncating: unsafe queuePair.pointee.qp_num), now: monotonicNanoseconds())
            core.noteConnections()
            if core.hasConnectionEvents { deliverConnectionEvents(of: &core) }
            return
        case .queuePair(let kind, let tag):
            guard let queuePair = unsafe UnsafeMutablePointer<ibv_qp>(bitPattern: tag) else { return }
            unsafe asynchronous.element.qp = unsafe queuePair
            unsafe asynchronous.event_type = ibv_event_type(rawValue: UInt32(kind.rawValue))!
            guard unsafe queuePair.pointee.qp_type == .IBV_QPT_XRC_RECV else { break }
            let number = unsafe queuePair.pointee.qp_num
            for handle in targetHandles.withLock({ $0.all(of: number) }) {
                unsafe asynchronous.element.qp = UnsafeMutablePointer(bitPattern: handle)
                unsafe asynchronousEvents.post(asynchronous)
            }
            return
        case .sharedReceiveQueueLimit(let tag):
            unsafe asynchronous.element.srq = UnsafeMutablePointer(bitPattern: tag)
            unsafe asynchronous.event_type = .IBV_EVENT_SRQ_LIMIT_REACHED
        }
        unsafe asynchronousEvents.post(asynchronous)
    }

    package func asynchronousEvent() throws(ProviderError) -> ibv_async_event {
        let (event, code) = unsafe asynchronousEvents.next()
        guard code == 0 else { throw ProviderError("ibv_get_async_event", code: code) }
        unsafe countDelivery(of: event)
        return unsafe event
    }
}
