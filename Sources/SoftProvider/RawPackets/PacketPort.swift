// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowSteering
import PacketIO
import RoCETransport
import RoCEWire
import VerbsABI

/// The raw packet side of a device: flow rules, the place that carries them out, and the way of frames between it and the queue
/// pairs. Whoever holds the context's lock owns it. Until the first flow or the first frame to be sent, it has nothing open.
@safe struct PacketPort: ~Copyable {
    /// Frames of one batch.
    private static let batchMax = 64
    /// Batches that one round takes before its completions are shown: bounds the time under the lock.
    private static let batchCountMax = 4
    /// Bytes of a frame that are fetched ahead.
    private static let fetchedMax = 2048
    /// Rules whose tables are built under the lock: in less than a thread takes to start, or not much more.
    private static let rebuiltAtOnceMax = 256

    private let interface: NetworkInterface
    private let allowed: Set<ProviderFlowPlace>
    private var place: (any FramePlace)? {
        didSet { placeSends = place?.sends == true }
    }
    /// Else AF_PACKET does.
    private var placeSends = false
    /// Places above the present one, and why they did not do.
    private var refusals: [ProviderFlowPlacement.Refusal] = []
    private var mode = ProviderFlowMode.singleUser
    private let classifier = FlowClassifier()
    private var table = FlowTable()
    private var roster = FlowRoster()
    /// Better tables of the classifier, which are being built.
    private var rebuild: ClassifierRebuild?
    /// One rule is all that happens to a frame.
    private var isPlain = true
    private var sender: FrameSender?
    /// Neither is there the privilege, nor somebody who lends a socket.
    private var isSenderRefused = false
    /// Times in a row that the kernel had no room.
    private var fullCount = 0
    /// Whose receives the place fills, if it does.
    private var inPlaceQPN: QPN?
    private var cutter = FrameCutter()
    /// With room for a copy of the headers in front.
    private var batch = FrameBatch(pieceCountMax: DeviceLimits.scatterGatherEntries + 1)
    private var sources: SourceChecks
    private var counters = PacketPortCounters()

    // Allocated once, freed in `deinit`; `0..<batchMax`.
    private let frames: UnsafeMutablePointer<ReceivedFrame>
    private let keys: UnsafeMutablePointer<FlowKey>
    private let winners: UnsafeMutablePointer<UInt32>

    /// - Parameters:
    ///   - allowed: the places that the environment leaves.
    ///   - check: the sources that it leaves; `nil` for any.
    init(_ interface: NetworkInterface, allowed: Set<ProviderFlowPlace>, check: SourceCheck?) {
        self.interface = interface
        self.allowed = allowed
        sources = SourceChecks(interface)
        if let check { sources.add(check) }
        unsafe frames = .allocate(capacity: Self.batchMax)
        unsafe keys = .allocate(capacity: Self.batchMax)
        unsafe keys.initialize(repeating: FlowKey(), count: Self.batchMax)
        unsafe winners = .allocate(capacity: Self.batchMax)
        unsafe winners.initialize(repeating: .max, count: Self.batchMax)
    }

    deinit {
        unsafe frames.deallocate()
        unsafe keys.deallocate()
        unsafe winners.deallocate()
    }

    /// Whether frames may come.
    private(set) var isReceiving = false

    /// Whether there are descriptors to wait for that ``takeDescriptors()`` has not shown yet.
    var hasNewDescriptors: Bool { haveFlowsChanged || (place?.generation ?? 0) != watchedGeneration }
    private var haveFlowsChanged = false
    private var watchedGeneration = 0

    /// What to wait for while nobody polls.
    mutating func takeDescriptors() -> [Int32] {
        haveFlowsChanged = false
        watchedGeneration = place?.generation ?? 0
        return place?.descriptors ?? []
    }

    // MARK: Flows

    /// Creates a flow: the place that all rules together can be carried out in, as high as may be.
    ///
    /// - Parameter fillsInPlace: the receives of the queue pair have one element, and are its own.
    mutating func insert(
        _ rule: FlowRule, _ qpn: QPN, _ options: ProviderFlowOptions, fillsInPlace: Bool, _ engine: inout Engine
    ) throws(ProviderError) -> FlowID {
        let verb: StaticString = "ibv_create_flow"
        guard roster.isEmpty || options.mode == mode else {
            throw ProviderError(
                verb, code: EBUSY, detail: "the flows of \(interface.name) are in the mode \(mode.rawValue)")
        }
        let id: FlowID
        do throws(FlowRuleError) {
            id = try classifier.insert(rule)
        } catch {
            throw ProviderError(verb, code: EINVAL, detail: error.description)
        }
        mode = options.mode
        do throws(ProviderError) {
            try carryOut(rule, id, qpn, options, fillsInPlace: fillsInPlace, &engine)
        } catch {
            classifier.remove(id)
            throw error
        }
        roster.add(id, rule, qpn, places: options.places)
        table.set(id, rule, qpn, keepsSuperFrames: options.keepsSuperFrames)
        noteRules()
        fillInPlace(qpn, &engine)
        // Found out only now, with the memory of the receives at hand.
        if let place, let failure = place.failure { moveOn(failure.refusal(of: place.place), &engine) }
        guard place != nil else {
            let reasons = refusals
            remove(id, &engine)
            throw Self.error(reasons)
        }
        return id
    }

    /// Ends a flow: frames that come from now on are not its.
    /// - Returns: what it has counted.
    @discardableResult
    mutating func remove(_ id: FlowID, _ engine: inout Engine) -> ProviderFlowCounters {
        guard roster.contains(id) else { return ProviderFlowCounters() }
        // What has arrived is still its.
        _ = receive(&engine)
        let counted = counters(of: id)
        roster.remove(id)
        classifier.remove(id)
        table.remove(id)
        place?.remove(id)
        noteRules()
        guard roster.isEmpty else { return counted }
        retire(&engine)
        refusals = []
        return counted
    }

    /// What was counted until now, what the open place lost with it.
    var currentCounters: PacketPortCounters {
        var current = counters
        current.dropped += place?.dropped ?? 0
        return current
    }

    /// A queue pair is about to be reset or put into ERR, or to go: its receives are its own again, and it sends nothing more.
    mutating func release(_ qpn: QPN, _ engine: inout Engine) {
        if qpn == inPlaceQPN { place?.close(&engine, qpn) }
        sources.remove(for: qpn)
    }

    private mutating func retire(_ engine: inout Engine) {
        if place != nil, inPlaceQPN == nil {
            _ = receive(&engine)
            _ = place?.finishSending()
        }
        if let qpn = inPlaceQPN { place?.close(&engine, qpn) }
        inPlaceQPN = nil
        for id in roster.ids {
            guard let counted = place?.counters(of: id) else { continue }
            unsafe table.entry(id.rawValue).pointee.packets &+= counted.packets
            unsafe table.entry(id.rawValue).pointee.bytes &+= counted.bytes
        }
        counters.dropped += place?.dropped ?? 0
        place = nil
        isReceiving = false
    }

    private mutating func noteRules() {
        haveFlowsChanged = true
        isSenderRefused = false
        isPlain = !classifier.hasCopies && roster.isNormal
        adoptRebuilt()
        guard classifier.wantsRebuild else { return }
        let job = classifier.beginRebuild()
        if classifier.count > Self.rebuiltAtOnceMax, let started = try? ClassifierRebuild(job) {
            rebuild = started
        } else {
            classifier.adopt(job.run())
            counters.rebuilt += 1
        }
    }

    private mutating func adoptRebuilt() {
        guard let tables = rebuild?.take() else { return }
        classifier.adopt(tables)
        rebuild = nil
        counters.rebuilt += 1
    }

    /// What a flow has counted, in all places that it was carried out in.
    func counters(of id: FlowID) -> ProviderFlowCounters {
        var counters = place?.counters(of: id) ?? ProviderFlowCounters()
        counters.packets &+= unsafe table.entry(id.rawValue).pointee.packets
        counters.bytes &+= unsafe table.entry(id.rawValue).pointee.bytes
        return counters
    }

    /// Where a flow is carried out.
    func placement(of id: FlowID) -> ProviderFlowPlacement? {
        guard let place else { return nil }
        return ProviderFlowPlacement(
            place: place.place, reasonForCopies: place.reasonForCopies(of: id), refusals: refusals, lender: place.lender
        )
    }

    /// Lets the present place have the rule, or moves all rules to the next one that can have them.
    private mutating func carryOut(
        _ rule: FlowRule, _ id: FlowID, _ qpn: QPN, _ options: ProviderFlowOptions, fillsInPlace: Bool,
        _ engine: inout Engine
    ) throws(ProviderError) {
        var found = refusals
        let isOfOne = fillsInPlace && roster.queuePairs.allSatisfy { $0 == qpn }
        func checkInPlace(_ place: ProviderFlowPlace) throws(FramePlaceRefusal) {
            guard place == .xdpDirect, !isOfOne else { return }
            throw FramePlaceRefusal(
                "receives are filled in place for one queue pair, whose receives are its own and have one element")
        }
        // One place for all flows: that none of them rules out.
        let common = roster.allowed(of: allowed.intersection(options.places))
        let present = place?.place
        if let place, common.contains(place.place) {
            do throws(FramePlaceRefusal) {
                try checkInPlace(place.place)
                try place.insert(rule, id)
                return
            } catch {
                found.append(error.refusal(of: place.place))
            }
        }
        let rules = roster.inOrder
        for candidate in FramePlaces.order where !found.contains(where: { $0.place == candidate }) {
            guard common.contains(candidate) else {
                found.append(.init(place: candidate, reason: "it is not allowed for all flows of the interface"))
                continue
            }
            do throws(FramePlaceRefusal) {
                try checkInPlace(candidate)
                // An interface has one program at a time.
                if candidate.hasProgram, place?.place.hasProgram == true { retire(&engine) }
                let next = try FramePlaces.open(
                    candidate, interface, options.mode, for: rules.map(\.rule) + [rule])
                for known in rules { try next.insert(known.rule, known.id) }
                try next.insert(rule, id)
                retire(&engine)
                take(next, refusals: found)
                return
            } catch {
                found.append(error.refusal(of: candidate))
            }
        }
        if place == nil, let present { try reopen(present, &engine) }
        throw Self.error(found)
    }

    /// No place does.
    private static func error(_ refusals: [ProviderFlowPlacement.Refusal]) -> ProviderError {
        let reasons = refusals.map { "\($0.place.rawValue): \($0.reason)" }.joined(separator: "; ")
        let isOfPrivilege = refusals.contains { $0.isOfPrivilege }
        return ProviderError("ibv_create_flow", code: isOfPrivilege ? EPERM : EOPNOTSUPP, detail: reasons)
    }

    /// The present place cannot go on: the rules go to the next that has them.
    private mutating func moveOn(_ refusal: ProviderFlowPlacement.Refusal, _ engine: inout Engine) {
        var found = refusals + [refusal]
        let common = roster.allowed(of: allowed)
        let rules = roster.inOrder
        retire(&engine)
        for candidate in FramePlaces.order where !found.contains(where: { $0.place == candidate }) {
            do throws(FramePlaceRefusal) {
                guard common.contains(candidate) else {
                    throw FramePlaceRefusal("it is not allowed for all flows of the interface")
                }
                let next = try FramePlaces.open(candidate, interface, mode, for: rules.map(\.rule))
                for known in rules { try next.insert(known.rule, known.id) }
                return take(next, refusals: found)
            } catch {
                found.append(error.refusal(of: candidate))
            }
        }
        refusals = found
    }

    private mutating func take(_ next: any FramePlace, refusals found: [ProviderFlowPlacement.Refusal]) {
        place = next
        refusals = found
        isReceiving = true
        haveFlowsChanged = true
    }

    /// The rules that are there go back to where they were, as no other place would have them with one more.
    private mutating func reopen(_ present: ProviderFlowPlace, _ engine: inout Engine) throws(ProviderError) {
        let rules = roster.inOrder
        do throws(FramePlaceRefusal) {
            let again = try FramePlaces.open(present, interface, mode, for: rules.map(\.rule))
            for known in rules { try again.insert(known.rule, known.id) }
            take(again, refusals: refusals)
            if let qpn = roster.queuePairs.first { fillInPlace(qpn, &engine) }
        } catch {
            throw ProviderError(
                "ibv_create_flow", code: EIO,
                detail:
                    "the flows of \(interface.name) could not be set up again in \(present.rawValue): \(error.reason)")
        }
    }

    // MARK: Receiving

    /// Lets a place that does so fill the receives of a queue pair.
    private mutating func fillInPlace(_ qpn: QPN, _ engine: inout Engine) {
        guard place?.place == .xdpDirect else { return }
        inPlaceQPN = qpn
        engine.beginReceivesInPlace(of: qpn)
        supplyInPlace(&engine)
    }

    /// After receives were posted: hands them to a place that fills them, so that no frame comes before them.
    mutating func supplyInPlace(_ engine: inout Engine) {
        guard let qpn = inPlaceQPN else { return }
        _ = place?.exchange(with: &engine, qpn)
    }

    /// Takes what has arrived and gives it to the queue pairs.
    /// - Returns: whether anything had arrived.
    mutating func receive(_ engine: inout Engine) -> Bool {
        guard let place else { return false }
        if rebuild != nil { adoptRebuilt() }
        var worked = false
        if let qpn = inPlaceQPN {
            let worked = place.exchange(with: &engine, qpn)
            if let failure = place.failure { moveOn(failure.refusal(of: place.place), &engine) }
            return worked
        }
        for _ in 0..<Self.batchCountMax {
            let count = unsafe place.receive(into: frames, limit: Self.batchMax)
            guard count > 0 else { break }
            worked = true
            counters.received &+= UInt64(count)
            if place.namesRules, unsafe frames[0].rule != nil {
                for index in 0..<count {
                    if index + 1 < count { fetch(index + 1) }
                    deliverToNamed(index, &engine)
                }
            } else {
                lookUp(count, isCounted: place.namesRules, &engine)
            }
            if count < Self.batchMax { break }
        }
        return worked
    }

    /// - Parameter isCounted: the place counts the frames of each rule.
    private mutating func lookUp(_ count: Int, isCounted: Bool, _ engine: inout Engine) {
        for index in 0..<count {
            // All of them before the first is copied: the bytes come from the other processor while headers are read.
            fetchFar(index)
            readHeaders(index)
        }
        if isPlain {
            deliverToWinners(count, isCounted: isCounted, &engine)
        } else {
            for index in 0..<count { carryOutVerdict(index, isCounted: isCounted, &engine) }
        }
    }

    @inline(__always)
    private func readHeaders(_ index: Int) {
        // The place's memory holds the bytes until its next receive.
        unsafe keys[index] = PacketHeaders.key(of: RawSpan(_unsafeBytes: frames[index].bytes))
    }

    /// Asks for the bytes of a frame while the one before it is copied.
    @inline(__always)
    private func fetch(_ index: Int) { unsafe forEachLine(of: index) { unsafe clinuxnet_prefetch($0) } }

    /// Asks for the bytes of a frame of a batch, which together are more than the first cache holds.
    @inline(__always)
    private func fetchFar(_ index: Int) { unsafe forEachLine(of: index) { unsafe clinuxnet_prefetch_far($0) } }

    @inline(__always)
    private func forEachLine(of index: Int, _ body: (UnsafeRawPointer) -> Void) {
        let bytes = unsafe frames[index].bytes
        guard let start = bytes.baseAddress else { return }
        let end = min(bytes.count, Self.fetchedMax)
        var offset = 0
        while offset < end {
            unsafe body(start + offset)
            offset &+= 64
        }
    }

    /// The place has looked the rule up, and counted.
    @inline(__always)
    private mutating func deliverToNamed(_ index: Int, _ engine: inout Engine) {
        guard let id = unsafe frames[index].rule else {
            // It came when there was one rule, or the driver has no room in front of frames for the name.
            readHeaders(index)
            return carryOutVerdict(index, isCounted: true, &engine)
        }
        guard let entry = unsafe table.find(id) else {
            counters.unmatched &+= 1
            return
        }
        unsafe deliver(index, entry, &engine)
    }

    @inline(__always)
    private mutating func deliverToWinners(_ count: Int, isCounted: Bool, _ engine: inout Engine) {
        let span = unsafe Span(_unsafeStart: keys, count: count)
        var ids = unsafe MutableSpan(_unsafeStart: winners, count: count)
        classifier.winners(span, into: &ids)
        for index in 0..<count {
            let id = unsafe winners[index]
            if id == .max {
                counters.unmatched &+= 1
                continue
            }
            let entry = unsafe table.entry(id)
            if !isCounted { unsafe note(index, for: entry) }
            if unsafe entry.pointee.drops {
                counters.droppedByRule &+= 1
            } else {
                unsafe deliver(index, entry, &engine)
            }
        }
    }

    /// Copies, defaults and sniffers: everything that happens to a frame.
    private mutating func carryOutVerdict(_ index: Int, isCounted: Bool, _ engine: inout Engine) {
        let verdict = unsafe classifier.verdict(for: keys[index])
        if verdict.effects.isEmpty { counters.unmatched &+= 1 }
        for effect in verdict.effects {
            switch effect {
            case .deliver(let id, _):
                let entry = unsafe table.entry(id.rawValue)
                if !isCounted { unsafe note(index, for: entry) }
                unsafe deliver(index, entry, &engine)
            case .drop(let id):
                if !isCounted { unsafe note(index, for: table.entry(id.rawValue)) }
                counters.droppedByRule &+= 1
            case .count: break
            }
        }
    }

    @inline(__always)
    private func note(_ index: Int, for entry: UnsafeMutablePointer<FlowTable.Entry>) {
        unsafe entry.pointee.packets &+= 1
        unsafe entry.pointee.bytes &+= UInt64(frames[index].bytes.count)
    }

    @inline(__always)
    private mutating func deliver(
        _ index: Int, _ entry: UnsafeMutablePointer<FlowTable.Entry>, _ engine: inout Engine
    ) {
        let frame = unsafe frames + index
        guard unsafe !frame.pointee.isCut, unsafe frame.pointee.bytes.count >= 14 else {
            counters.tooLong &+= 1
            return
        }
        var facts = FrameFacts()
        if unsafe entry.pointee.isTagged {
            facts.fields.insert(.tag)
            facts.tag = unsafe entry.pointee.tag
        }
        if let tag = unsafe frame.pointee.vlanTag {
            facts.fields.insert(.vlanTag)
            facts.vlanTag = tag
        }
        if unsafe frame.pointee.timestamp != 0 {
            facts.fields.insert(.timestamp)
            facts.timestamp = unsafe frame.pointee.timestamp
        }
        if unsafe frame.pointee.segments != nil, unsafe !entry.pointee.keepsSuperFrames {
            return unsafe deliverSegments(frame.pointee, facts, entry, &engine)
        }
        if unsafe frame.pointee.checksum == .right { facts.fields.insert(.checksumIsRight) }
        unsafe deliver(frame.pointee.bytes, facts, entry, &engine)
    }

    /// The segments of a super-frame, one by one; one that is not of a kind that can be cut, whole.
    private mutating func deliverSegments(
        _ frame: ReceivedFrame, _ facts: FrameFacts, _ entry: UnsafeMutablePointer<FlowTable.Entry>,
        _ engine: inout Engine
    ) {
        var facts = facts
        let count = cutter.begin(frame)
        guard count > 0 else { return unsafe deliver(frame.bytes, facts, entry, &engine) }
        facts.fields.insert(.checksumIsRight)
        // Counted as one before.
        unsafe entry.pointee.packets &+= UInt64(count - 1)
        for index in 0..<count { unsafe deliver(cutter.segment(index), facts, entry, &engine) }
    }

    @inline(__always)
    private mutating func deliver(
        _ bytes: UnsafeRawBufferPointer, _ facts: FrameFacts, _ entry: UnsafeMutablePointer<FlowTable.Entry>,
        _ engine: inout Engine
    ) {
        switch unsafe engine.deliver(bytes, facts, to: entry.pointee.qpn) {
        case .delivered: counters.delivered &+= 1
        case .tooLong: counters.tooLong &+= 1
        case .noReceive: counters.noReceive &+= 1
        case .notReady, .inaccessible: counters.notReady &+= 1
        }
    }

    // MARK: Sending

    /// From now on the frames of a queue pair have to pass a check, until it is reset.
    mutating func check(_ sources: SourceCheck, of qpn: QPN) {
        self.sources.add(sources, for: qpn)
    }

    /// Sends what raw packet queue pairs have posted.
    /// - Returns: false if the kernel's queue is full and something is left.
    mutating func send(_ engine: inout Engine) -> Bool {
        while engine.takeFrames(into: &batch) {
            // Before anything is judged: who lends the socket may ask for a check.
            guard placeSends || openSender() else {
                engine.failFrame(of: batch, .localQueuePairOperationError)
                continue
            }
            if !sources.isEmpty, let verdict = sources.screen(&batch) {
                refuseFrame(verdict, &engine)
                continue
            }
            switch sendBatch() {
            case .sent(let count):
                counters.sent &+= UInt64(count)
                fullCount = 0
                engine.completeFrames(count, of: batch)
            case .unfit: engine.failFrame(of: batch, .localLengthError)
            case .down:
                counters.lostDown &+= UInt64(batch.count)
                engine.completeFrames(batch.count, of: batch)
            case .inaccessible: engine.failFrame(of: batch, .localProtectionError)
            case .full:
                guard isWithoutCarrier() else { return false }
                counters.lostDown &+= UInt64(batch.count)
                engine.completeFrames(batch.count, of: batch)
            }
        }
        return place?.finishSending() ?? true
    }

    /// What the queue pair may not do ends as what it cannot do: without a socket that sends the status is the same.
    private mutating func refuseFrame(_ verdict: SourceVerdict, _ engine: inout Engine) {
        if case .tooShort = verdict { return engine.failFrame(of: batch, .localLengthError) }
        counters.refusedSource += 1
        engine.failFrame(of: batch, .localQueuePairOperationError)
    }

    /// A queue that stays full is that of an interface without carrier, which drops what it is given. Asked now and then.
    private mutating func isWithoutCarrier() -> Bool {
        fullCount += 1
        guard fullCount & 63 == 0, let now = try? NetworkInterface.named(interface.name) else { return false }
        return !now.isRunning
    }

    private mutating func sendBatch() -> FrameSender.Outcome {
        if placeSends, let place { return place.send(batch) }
        // The same two words: FramePiece says so.
        let vectors = unsafe UnsafeMutableRawPointer(batch.pieces).assumingMemoryBound(to: iovec.self)
        return unsafe sender?.send(vectors, stride: batch.pieceCountMax, counts: batch.counts, count: batch.count)
            ?? .down
    }

    private mutating func openSender() -> Bool {
        if sender != nil { return true }
        // Asked for once, and again when flows have changed: who refuses may be another process.
        guard !isSenderRefused else { return false }
        if let source = try? PacketSocketSource.sending(on: interface) {
            let check = source.grant?.sources
            sender = try? FrameSender(interface: interface.index, socket: source.takeSocket())
            if sender != nil, let check { sources.add(check) }
        }
        isSenderRefused = sender == nil
        return sender != nil
    }
}

/// What the raw packet side of a device counted.
struct PacketPortCounters: Sendable {
    var received: UInt64 = 0
    var delivered: UInt64 = 0
    var sent: UInt64 = 0
    /// No rule matched: in the single-user and shared modes the kernel's stack has had them.
    var unmatched: UInt64 = 0
    var droppedByRule: UInt64 = 0
    var tooLong: UInt64 = 0
    var noReceive: UInt64 = 0
    /// The queue pair was not ready to receive.
    var notReady: UInt64 = 0
    /// Not sent, as they had a source that a check does not allow.
    var refusedSource: UInt64 = 0
    /// Times that the tables of the rules were built anew.
    var rebuilt: UInt64 = 0
    /// Sent while the interface was down.
    var lostDown: UInt64 = 0
    /// Lost for want of room in places that are closed now.
    var dropped: UInt64 = 0

    var named: [(name: String, value: UInt64)] {
        [
            ("frames_received", received), ("frames_delivered", delivered), ("frames_sent", sent),
            ("frames_unmatched", unmatched), ("frames_dropped_by_rule", droppedByRule),
            ("frames_too_long", tooLong), ("frames_without_receive", noReceive), ("frames_not_ready", notReady),
            ("frames_refused_source", refusedSource), ("frames_lost_interface_down", lostDown),
            ("frames_lost_no_room", dropped), ("flow_tables_rebuilt", rebuilt),
        ]
    }
}
