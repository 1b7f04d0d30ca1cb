// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Whole frames by AF_XDP, beside the sockets.
extension UDPLink {
    /// Bursts of more segments go by the socket: the kernel cuts them up for less than a frame each costs.
    static var frameSegmentsMax: Int { 2 }
    /// Calls of `receive` without a frame after which sockets are looked at each time again.
    private static var frameCreditMax: Int { 1024 }
    /// Calls of `receive` in a row in which frames wait for sockets that have something.
    static var framesWaitMax: Int { 64 }
    /// When frames that the kernel did not take are offered again.
    private static var unsentNanoseconds: UInt64 { 50_000 }

    /// Whether whole frames go beside the sockets.
    @inline(__always) var hasFrames: Bool { unsafe path != nil || packetPath != nil }

    // MARK: Opening

    /// Opens what ``UDPLinkOptions/link`` asks for, and notes in ``choice`` what it became.
    mutating func openPath(on interface: NetworkInterface) throws(PacketIOError) {
        switch options.link {
        case .udp:
            choice = LinkChoice(.udp, reason: "UDP was asked for")
        case .automatic:
            if let reason = XDPSelection.reasonAgainst(interface) {
                choice = LinkChoice(.udp, reason: reason)
                return
            }
            do throws(PacketIOError) {
                try openXDP(on: interface, modes: [.native])
            } catch {
                choice = LinkChoice(.udp, reason: XDPSelection.reason(error, interface))
            }
        case .xdp, .genericXDP:
            if let reason = XDPSelection.impossibility(interface) {
                throw .unavailable(link: "AF_XDP", reason: reason)
            }
            do throws(PacketIOError) {
                try openXDP(on: interface, modes: options.link == .xdp ? [.native, .generic] : [.generic])
            } catch {
                throw .unavailable(link: "AF_XDP", reason: XDPSelection.reason(error, interface))
            }
        case .packet:
            do throws(PacketIOError) {
                try openPackets(on: interface)
            } catch {
                throw .unavailable(link: "AF_PACKET", reason: XDPSelection.reason(error, interface))
            }
        }
    }

    private mutating func openPackets(on interface: NetworkInterface) throws(PacketIOError) {
        let missing = Capability.missing(of: [.netRaw])
        guard missing.isEmpty else {
            throw .invalid(
                "it needs CAP_NET_RAW: run as root, or give the program the capability (setcap cap_net_raw+ep)")
        }
        let made = try PacketPath(interface: interface, slot: slot)
        try watch(made.ring.descriptor, PollToken.make(PollToken.frames, 0))
        let memory = UnsafeMutablePointer<PacketPath>.allocate(capacity: 1)
        unsafe memory.initialize(to: made)
        unsafe packetPath = memory
        for index in 0..<Self.addressesMax { excludeFrames(index) }
        choice = LinkChoice(
            .packet, detail: "ring of frames",
            reason: XDPSelection.impossibility(interface) ?? "AF_PACKET was asked for")
    }

    /// Keeps the UDP socket of an address from what comes by AF_PACKET.
    func excludeFrames(_ index: Int) {
        guard let path = unsafe packetPath, unsafe sockets[index].receiver >= 0 else { return }
        let filter = unsafe PacketFilter.sockets(
            interface: path.pointee.interface, slot: slot, mtu: path.pointee.mtu,
            isIPv4: sockets[index].gid.isIPv4Mapped)
        // Without the filter packets come twice, and a transport takes them once.
        _ = unsafe filter.attach(to: sockets[index].receiver)
    }

    private mutating func openXDP(
        on interface: NetworkInterface, modes: [XDPAttachment.Mode]
    ) throws(PacketIOError) {
        let gids = (0..<Self.addressesMax).compactMap { gid(at: $0) }
        var opened: XDPPath?
        var nativeError: PacketIOError?
        for mode in modes {
            do throws(PacketIOError) {
                opened = try XDPPath(interface: interface, slot: slot, addresses: gids, mode: mode)
            } catch {
                guard mode != modes.last, XDPSelection.isOfMode(error) else { throw error }
                nativeError = error
                continue
            }
            break
        }
        guard let made = opened.take() else { return }
        choice = LinkChoice(
            .xdp, detail: made.mode.rawValue + (made.isZeroCopy ? ", zero copy" : ", copying"),
            reason: nativeError.map { XDPSelection.reason($0, interface) } ?? "")
        for queue in 0..<made.queueCount { try watch(made.descriptor(queue), PollToken.make(PollToken.frames, queue)) }
        let memory = UnsafeMutablePointer<XDPPath>.allocate(capacity: 1)
        unsafe memory.initialize(to: made)
        unsafe path = memory
    }

    /// Detaches the program and closes the sockets.
    func closePath() {
        if let path = unsafe path {
            unsafe path.deinitialize(count: 1)
            unsafe path.deallocate()
        }
        if let path = unsafe packetPath {
            unsafe path.deinitialize(count: 1)
            unsafe path.deallocate()
        }
    }

    // MARK: Receiving

    /// Takes frames that are there. `true` where the sockets need no look this time: while frames come, they are looked
    /// at now and then only, because a look is a system call.
    @discardableResult @inline(__always)
    mutating func receiveFrames() -> Bool {
        if takeFrames() {
            frameCredit = Self.frameCreditMax
        } else if frameCredit > 0 {
            frameCredit -= 1
        } else {
            return false
        }
        return rounds & 7 != 0
    }

    /// Whether packets of one sender come both ways: frames that may be joined are left to the sockets.
    @inline(__always) var looksAtSocketsFirst: Bool {
        if let path = unsafe path { return unsafe path.pointee.excludesJoined }
        return true
    }

    /// Whether a frame waits: a load or two of shared memory.
    @inline(__always) var areFramesReady: Bool {
        mutating get {
            if let path = unsafe path { return unsafe path.pointee.isReady }
            guard let path = unsafe packetPath else { return false }
            return unsafe path.pointee.ring.isReady
        }
    }

    /// - Returns: whether any were there.
    @inline(__always)
    private mutating func takeFrames() -> Bool {
        if let path = unsafe path {
            unsafe path.pointee.beginBatch()
            guard unsafe path.pointee.isReady else { return false }
            for _ in 0..<XDPPath.batchMax {
                guard let frame = unsafe path.pointee.nextFrame() else { break }
                if unsafe acceptFrame(frame) { counters.xdpReceived += 1 } else { counters.xdpRefused += 1 }
            }
            return true
        }
        guard let path = unsafe packetPath else { return false }
        unsafe path.pointee.ring.beginBatch()
        guard unsafe path.pointee.ring.isReady else { return false }
        for _ in 0..<PacketPath.batchMax {
            guard let frame = unsafe path.pointee.ring.nextFrame() else { break }
            if unsafe acceptFrame(frame) { counters.packetReceived += 1 } else { counters.packetRefused += 1 }
        }
        return true
    }

    /// Takes a frame apart; the program has looked at the parts that tell where it belongs, not at lengths.
    private mutating func acceptFrame(_ frame: UnsafeRawBufferPointer) -> Bool {
        let bytes = unsafe RawSpan(_unsafeBytes: frame)
        guard case .frame(let parsed) = RoCEFrame.parse(ethernet: bytes),
            parsed.udpPayload.count >= Self.segmentBytesMin, let base = frame.baseAddress,
            let index = index(ofLocal: parsed.flow.destination),
            isForUs(bytes.loadNative(UInt8.self, at: parsed.udpPayload.lowerBound + 5))
        else { return false }
        var datagram = unsafe Datagram(
            base: base + parsed.udpPayload.lowerBound, byteCount: parsed.udpPayload.count,
            segmentSize: parsed.udpPayload.count, firstSegment: 0, localIndex: index, source: parsed.flow.source,
            destination: parsed.flow.destination, sourcePort: parsed.flow.sourcePort,
            trafficClass: parsed.trafficClass)
        datagram.identification = parsed.identification
        datagram.dontFragment = parsed.dontFragment
        keep(datagram)
        return true
    }

    @inline(__always)
    private func index(ofLocal gid: GID) -> Int? {
        for index in 0..<Self.addressesMax where unsafe sockets[index].gid == gid { return index }
        return nil
    }

    // MARK: Sending

    /// Puts a burst into the ring of frames, if it can go as such. ``flushFrames()`` sends it.
    @inline(__always)
    mutating func sendFrames(_ burst: Burst, _ sender: Sender) -> XDPPath.Outcome {
        let now = clinuxnet_monotonic_nanoseconds()
        let outcome: XDPPath.Outcome
        if let path = unsafe path {
            outcome = unsafe path.pointee.send(burst, source: sender.gid, sourcePort: sender.sourcePort, now: now)
            if outcome == .sent { counters.xdpSent += UInt64(burst.segmentCount) }
            if outcome == .full { counters.xdpFull += 1 }
        } else if let path = unsafe packetPath {
            outcome = unsafe path.pointee.send(burst, source: sender.gid, sourcePort: sender.sourcePort, now: now)
            if outcome == .sent { counters.packetSent += UInt64(burst.segmentCount) }
        } else {
            return .elsewhere
        }
        switch outcome {
        case .sent:
            noteSent(burst, from: burst.localIndex)
        case .full:
            counters.sendBackpressure += 1
            isMaintenanceDue = true
        case .elsewhere:
            // It may have asked for a neighbour.
            isMaintenanceDue = true
        }
        return outcome
    }

    /// A burst goes by the socket: for a moment all to its destination does.
    @inline(__always)
    mutating func noteBurst(_ burst: Burst) {
        let now = clinuxnet_monotonic_nanoseconds()
        if let path = unsafe path { unsafe path.pointee.neighbours.noteBurst(to: burst.destination, now: now) }
        if let path = unsafe packetPath { unsafe path.pointee.neighbours.noteBurst(to: burst.destination, now: now) }
    }

    /// Sends what was put into the ring.
    @inline(__always)
    mutating func flushFrames() {
        guard let path = unsafe path else { return }
        unsafe path.pointee.flush()
        if unsafe path.pointee.isUnsent { isMaintenanceDue = true }
    }

    // MARK: Looking after it

    mutating func maintainFrames(now: UInt64) -> UInt64 {
        if let path = unsafe packetPath {
            unsafe path.pointee.neighbours.refresh(now: now) { gid(at: $0) }
            return .max
        }
        guard let path = unsafe path else { return .max }
        unsafe path.pointee.neighbours.refresh(now: now) { gid(at: $0) }
        unsafe path.pointee.flush()
        return unsafe path.pointee.isUnsent ? now + Self.unsentNanoseconds : .max
    }

    /// An address has come or gone.
    func noteAddress(_ gid: GID, isThere: Bool) {
        guard let path = unsafe path else { return }
        unsafe path.pointee.setTaken(gid, isThere)
        unsafe path.pointee.neighbours.removeAll()
    }

    /// Brings the counters that the kernel keeps up to date.
    package mutating func refreshCounters() {
        if let path = unsafe path { counters.xdpDropped = unsafe path.pointee.droppedCount }
        if let path = unsafe packetPath { counters.packetDropped += unsafe path.pointee.ring.newlyDropped }
    }
}
