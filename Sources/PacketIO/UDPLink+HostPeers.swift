// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Processes of this host that share an address with us, and the memory through which packets go between us.
extension UDPLink {
    static var hostPeersMax: Int { 64 }
    /// How long a full ring holds the sender up before what is for it is dropped.
    private static var fullNanoseconds: UInt64 { 5_000_000 }
    /// How long a peer may leave its ring alone before it counts as gone: its device's thread looks each millisecond.
    private static var stallNanoseconds: UInt64 { 250_000_000 }
    /// How often that is looked at while something is under way, and otherwise.
    private static var checkNanoseconds: UInt64 { 50_000_000 }
    private static var idleCheckNanoseconds: UInt64 { 1_000_000_000 }
    /// Two processes that offer at once: for so long the offer of the lower slot counts.
    private static var tieNanoseconds: UInt64 { 100_000_000 }
    /// Calls of `receive` without a record after which sockets are looked at each time again.
    private static var credit: Int { 256 }

    /// Whether somebody looks at packets, so that they are to be as on the wire.
    private var wantsSeals: Bool { faults != nil || capture != nil }

    /// Whether packets to a process need no ICRC: they go to it, and to nobody else, through memory.
    package func takesUnsealed(localIndex: Int, slot: UInt8) -> Bool {
        guard faults == nil, capture == nil, localIndex >= 0, localIndex < Self.addressesMax else { return false }
        let place = unsafe Int(hostPlaces[localIndex << 8 | Int(slot)])
        guard place > 0 else { return false }
        return unsafe hostPeers[place - 1].isJoined && !hostPeers[place - 1].writer.wantsSeals
    }

    /// Offers memory to the process of a slot, if that has not been done: before the first packet, so that the first
    /// ones do not go another way than those that follow.
    package mutating func meet(slot peer: UInt8, localIndex: Int) {
        guard options.sharesMemory, peer != slot, SlotClaim.slots.contains(peer), hostPeerCount < Self.hostPeersMax,
            let descriptor = unsafe addresses[localIndex].mailbox?.descriptor,
            unsafe hostPlaces[localIndex << 8 | Int(peer)] == 0
        else { return }
        let file = unsafe clinuxnet_sealed_memory("swift-verbs", Int64(HostPeer.byteCount))
        guard file >= 0 else { return }
        defer { _ = CLinuxNet.close(file) }
        guard let memory = unsafe clinuxnet_map_shared(file, HostPeer.byteCount, 1) else { return }
        unsafe insert(
            HostPeer(
                slot: peer, localIndex: localIndex, memory: memory, isOurs: true,
                now: clinuxnet_monotonic_nanoseconds()))
        var offer = PeerMessage(kind: .offer)
        offer.slot = slot
        unsafe addresses[localIndex]!.peerName.setSlot(peer)
        let isSent = unsafe outbox.handOver(
            offer, bytes: nil, count: 0, from: descriptor, to: addresses[localIndex]!.peerName, passing: file)
        if !isSent { remove(hostPeerCount - 1) }
    }

    /// Takes an offer.
    /// - Parameter file: stays the caller's.
    mutating func join(_ file: Int32, slot peer: UInt8, localIndex: Int) {
        guard options.sharesMemory, file >= 0, peer != slot, SlotClaim.slots.contains(peer),
            clinuxnet_sealed_length(file) == Int64(HostPeer.byteCount)
        else { return }
        guard let memory = unsafe clinuxnet_map_shared(file, HostPeer.byteCount, 1) else { return }
        let now = clinuxnet_monotonic_nanoseconds()
        let offered = unsafe HostPeer(
            slot: peer, localIndex: localIndex, memory: memory, isOurs: false, now: now)
        guard prefers(offered, now: now), hostPeerCount < Self.hostPeersMax else { return offered.leave() }
        insert(offered)
        counters.sharedJoined += 1
    }

    /// Whether to share this memory with a process rather than what we share with it, or have offered to it.
    private mutating func prefers(_ offered: HostPeer, now: UInt64) -> Bool {
        // It has taken our own offer since, or its maker is gone.
        if offered.writer.isClosed { return false }
        let place = unsafe Int(hostPlaces[offered.localIndex << 8 | Int(offered.slot)])
        guard place > 0 else { return true }
        let known = unsafe hostPeers[place - 1]
        // Both have offered: the memory of the lower slot counts, for both.
        if !known.isJoined, slot < offered.slot, now - known.since < Self.tieNanoseconds { return false }
        remove(place - 1)
        return true
    }

    /// From here on the other may write to us.
    private mutating func insert(_ peer: HostPeer) {
        peer.reader.join(wantsSeals: wantsSeals)
        unsafe (hostPeers + hostPeerCount).initialize(to: peer)
        hostPeerCount += 1
        unsafe hostPlaces[peer.localIndex << 8 | Int(peer.slot)] = UInt8(hostPeerCount)
        hostVersion &+= 1
        isMaintenanceDue = true
    }

    /// Ends sharing with one process. What it had not read is lost, as datagrams may be.
    private mutating func remove(_ place: Int) {
        let peer = unsafe hostPeers[place]
        peer.leave()
        if peer.isJoined { wake(peer.slot, localIndex: peer.localIndex) }
        unsafe hostPlaces[peer.localIndex << 8 | Int(peer.slot)] = 0
        hostPeerCount -= 1
        hostVersion &+= 1
        guard place < hostPeerCount else { return }
        let last = unsafe hostPeers[hostPeerCount]
        unsafe hostPeers[place] = last
        unsafe hostPlaces[last.localIndex << 8 | Int(last.slot)] = UInt8(place + 1)
    }

    /// An address goes.
    mutating func leaveHostPeers(localIndex: Int) {
        for place in (0..<hostPeerCount).reversed() where unsafe hostPeers[place].localIndex == localIndex {
            remove(place)
        }
    }

    /// Makes the descriptor of another process's link readable. One that cannot be told looks by itself soon.
    private mutating func wake(_ target: UInt8, localIndex: Int) {
        guard let descriptor = unsafe addresses[localIndex].mailbox?.descriptor else { return }
        unsafe addresses[localIndex]!.peerName.setSlot(target)
        _ = unsafe outbox.handOver(
            PeerMessage(kind: .wake), bytes: nil, count: 0, from: descriptor, to: addresses[localIndex]!.peerName)
        counters.sharedWakes += 1
    }

    // MARK: Sending

    enum HostOutcome { case done, full, elsewhere }

    /// Sends a burst through shared memory, if it is for a process that has joined.
    @inline(__always)
    mutating func sendToHost(_ burst: Burst) -> HostOutcome {
        // A packet has at least a BTH, which the engine made; other callers' may be anything.
        guard burst.byteCount >= Self.segmentBytesMin else { return .elsewhere }
        if Self.isForManagement(burst) { return handOver(burst) ? .done : .elsewhere }
        guard options.sharesMemory else { return .elsewhere }
        let target = unsafe burst.base.load(fromByteOffset: 5, as: UInt8.self)
        if target == slot || target == 0 || target == 255 { return .elsewhere }
        let place = unsafe Int(hostPlaces[burst.localIndex << 8 | Int(target)]) - 1
        guard place >= 0, unsafe hostPeers[place].isJoined || hasJoined(place) else {
            return miss(burst, target)
        }
        guard burst.isSealed ? isWhole(burst, target) : true else { return .elsewhere }
        let record = SharedRing.Record(
            byteCount: burst.byteCount, segmentSize: burst.segmentSize, trafficClass: burst.trafficClass,
            isSealed: burst.isSealed, sourcePort: burst.isSealed ? sourcePort(burst.localIndex) : 0)
        guard unsafe !hostPeers[place].writer.isClosed else { return giveUp(place, burst) }
        switch unsafe hostPeers[place].writer.write(record, burst.base) {
        case .written: break
        case .full: return holdUp(place)
        case .broken:
            counters.sharedBroken += 1
            return giveUp(place, burst)
        }
        unsafe hostPeers[place].fullSince = 0
        counters.sharedSent += 1
        noteSent(burst, from: burst.localIndex)
        if unsafe hostPeers[place].writer.takesWaking() { wake(target, localIndex: burst.localIndex) }
        if !isHostCheckDue {
            isHostCheckDue = true
            isMaintenanceDue = true
        }
        return .done
    }

    private func sourcePort(_ index: Int) -> UInt16 { unsafe addresses[index].state?.sourcePort ?? 0 }

    /// Whether all segments are for one process. Of bursts without ICRCs the engine sees to that.
    private func isWhole(_ burst: Burst, _ target: UInt8) -> Bool {
        var offset = burst.segmentSize
        while offset < burst.byteCount {
            guard burst.byteCount - offset >= Self.segmentBytesMin,
                unsafe burst.base.load(fromByteOffset: offset + 5, as: UInt8.self) == target
            else { return false }
            offset += burst.segmentSize
        }
        return true
    }

    /// Whether a process that we offered memory to has taken it by now.
    @inline(never)
    private mutating func hasJoined(_ place: Int) -> Bool {
        guard unsafe hostPeers[place].writer.isJoined else { return false }
        unsafe hostPeers[place].isJoined = true
        counters.sharedJoined += 1
        hostVersion &+= 1
        return true
    }

    /// There is no memory that the receiver of a burst shares: it goes over UDP, and the next ones may not have to.
    @inline(never)
    private mutating func miss(_ burst: Burst, _ target: UInt8) -> HostOutcome {
        meet(slot: target, localIndex: burst.localIndex)
        if burst.isSealed { return .elsewhere }
        // It was made for memory that has gone since. The transport sends it again, with an ICRC.
        counters.sharedDropped += 1
        return .done
    }

    @inline(never)
    private mutating func giveUp(_ place: Int, _ burst: Burst) -> HostOutcome {
        remove(place)
        if burst.isSealed { return .elsewhere }
        counters.sharedDropped += 1
        return .done
    }

    /// The ring is full: for a moment the rest waits too, but a process that does not read does not stop the others.
    @inline(never)
    private mutating func holdUp(_ place: Int) -> HostOutcome {
        let now = clinuxnet_monotonic_nanoseconds()
        if unsafe hostPeers[place].fullSince == 0 { unsafe hostPeers[place].fullSince = now }
        guard unsafe now - hostPeers[place].fullSince >= Self.fullNanoseconds else {
            counters.sendBackpressure += 1
            return .full
        }
        counters.sharedDropped += 1
        return .done
    }

    // MARK: Receiving

    /// Takes records of all rings. `true` where the sockets need no look this time: while packets come through memory,
    /// they are looked at now and then only, because a look is a system call.
    @inline(__always)
    mutating func receiveFromHost() -> Bool {
        // When the sockets are looked at too, there is room left for them.
        let looksAround = rounds & 7 == 0
        let limit = looksAround ? ReceiveRing.depth / 2 : ReceiveRing.depth
        let first = Int(rounds) % hostPeerCount
        var place = first
        var mayTake = true
        repeat {
            if unsafe !hostPeers[place].reader.isEmpty {
                if unsafe hostPeers[place].looksBeforeFirst == 0 {
                    drainHost(place, limit: limit)
                } else {
                    unsafe hostPeers[place].waitsForLook = true
                    mayTake = false
                }
            }
            place += 1
            // Draining may have removed the last one.
            if place >= hostPeerCount { place = 0 }
        } while place != first && first < hostPeerCount
        if !mayTake {
            hot.credit = 0
            isHostWaiting = true
            return false
        }
        if batchCount > 0 {
            hostCredit = Self.credit
        } else if hostCredit > 0 {
            hostCredit -= 1
        } else {
            return false
        }
        return !looksAround
    }

    /// The sockets have been looked at while first records waited.
    @inline(never)
    mutating func noteLook() {
        isHostWaiting = false
        for place in 0..<hostPeerCount where unsafe hostPeers[place].waitsForLook {
            unsafe hostPeers[place].waitsForLook = false
            unsafe hostPeers[place].looksBeforeFirst = batchCount == 0 ? 0 : hostPeers[place].looksBeforeFirst - 1
        }
    }

    private mutating func drainHost(_ place: Int, limit: Int) {
        let localIndex = unsafe hostPeers[place].localIndex
        let address = unsafe sockets[localIndex].gid
        while used < limit {
            switch unsafe hostPeers[place].reader.read(into: ring.buffer(used)) {
            case .none: return
            case .broken:
                counters.sharedBroken += 1
                remove(place)
                return
            case .record(let record):
                var datagram = unsafe Datagram(
                    base: UnsafeRawPointer(ring.buffer(used)), byteCount: record.byteCount,
                    segmentSize: record.segmentSize, firstSegment: 0, localIndex: localIndex, source: address,
                    destination: address, sourcePort: record.sourcePort, trafficClass: record.trafficClass)
                datagram.isSealed = record.isSealed
                guard isWellFormed(datagram) else {
                    counters.sharedMalformed += 1
                    continue
                }
                used += 1
                counters.sharedReceived += 1
                keep(datagram)
            }
        }
    }

    /// Before the only thread that would look sleeps: from here on a record wakes it.
    /// - Returns: `true` where there is one, and it must not.
    package mutating func announceSleep() -> Bool {
        var hasRecord = false
        for place in 0..<hostPeerCount {
            unsafe hostPeers[place].reader.announceSleep()
            if unsafe !hostPeers[place].reader.isEmpty { hasRecord = true }
        }
        return hasRecord
    }

    // MARK: Looking after them

    /// Ends sharing with processes that are gone. Returns when to look again.
    mutating func maintainHostPeers(now: UInt64) -> UInt64 {
        guard hostPeerCount > 0 else {
            isHostCheckDue = false
            return .max
        }
        for place in (0..<hostPeerCount).reversed() {
            if unsafe !hostPeers[place].isJoined { _ = hasJoined(place) }
            // What it said last is heard first.
            if unsafe hostPeers[place].writer.isClosed && hostPeers[place].reader.isEmpty { remove(place) }
        }
        if isHostCheckDue { hostCheckAt = min(hostCheckAt, now + Self.checkNanoseconds) }
        if now >= hostCheckAt { checkHostPeers(now: now) }
        return min(hostCheckAt, hostLifeAt)
    }

    private mutating func checkHostPeers(now: UInt64) {
        var isUnderWay = false
        let looksForLife = now >= hostLifeAt
        for place in (0..<hostPeerCount).reversed() {
            if isStalled(place, now: now) {
                counters.sharedBroken += 1
                remove(place)
                continue
            }
            if unsafe hostPeers[place].stalledSince != 0 { isUnderWay = true }
            if looksForLife, unsafe hostPeers[place].reader.isEmpty,
                unsafe !isSlotTaken(hostPeers[place].slot, localIndex: hostPeers[place].localIndex)
            {
                remove(place)
            }
        }
        isHostCheckDue = isUnderWay
        if looksForLife { hostLifeAt = now + Self.idleCheckNanoseconds }
        hostCheckAt = isUnderWay ? now + Self.checkNanoseconds : hostLifeAt
    }

    /// Whether a process has left what we wrote alone for too long.
    private mutating func isStalled(_ place: Int, now: UInt64) -> Bool {
        if unsafe !hostPeers[place].isJoined || hostPeers[place].writer.isDrained() {
            unsafe hostPeers[place].stalledSince = 0
            return false
        }
        let position = unsafe hostPeers[place].writer.readerPosition
        if unsafe hostPeers[place].stalledSince == 0 || position != hostPeers[place].stalledPosition {
            unsafe hostPeers[place].stalledPosition = position
            unsafe hostPeers[place].stalledSince = now
            return false
        }
        return unsafe now - hostPeers[place].stalledSince >= Self.stallNanoseconds
    }
}
