// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Whole frames by AF_XDP, beside the sockets.
extension UDPLink {
    /// Bursts of more segments go by the socket: the kernel cuts them up for less than a frame each costs.
    static var frameSegmentsMax: Int { 2 }
    /// Calls of `receive` without a frame after which sockets are looked at each time again.
    private static var frameCreditMax: Int { 1024 }
    /// When frames that the kernel did not take are offered again.
    private static var unsentNanoseconds: UInt64 { 50_000 }

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
            throw .unavailable(link: "AF_PACKET", reason: "it is not there yet")
        }
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
        guard let path = unsafe path else { return }
        unsafe path.deinitialize(count: 1)
        unsafe path.deallocate()
    }

    // MARK: Receiving

    /// Takes frames that are there. `true` where the sockets need no look this time: while frames come, they are looked
    /// at now and then only, because a look is a system call.
    @inline(__always)
    mutating func receiveFrames() -> Bool {
        guard let path = unsafe path else { return false }
        unsafe path.pointee.beginBatch()
        if unsafe path.pointee.isReady {
            unsafe drainFrames(path)
            frameCredit = Self.frameCreditMax
        } else if frameCredit > 0 {
            frameCredit -= 1
        } else {
            return false
        }
        return rounds & 7 != 0
    }

    private mutating func drainFrames(_ path: UnsafeMutablePointer<XDPPath>) {
        for _ in 0..<XDPPath.batchMax {
            guard let frame = unsafe path.pointee.nextFrame() else { return }
            unsafe acceptFrame(frame)
        }
    }

    /// Takes a frame apart; the program has looked at the parts that tell where it belongs, not at lengths.
    private mutating func acceptFrame(_ frame: UnsafeRawBufferPointer) {
        let bytes = unsafe RawSpan(_unsafeBytes: frame)
        guard case .frame(let parsed) = RoCEFrame.parse(ethernet: bytes),
            parsed.udpPayload.count >= Self.segmentBytesMin, let base = frame.baseAddress,
            let index = index(ofLocal: parsed.flow.destination)
        else {
            counters.xdpRefused += 1
            return
        }
        var datagram = unsafe Datagram(
            base: base + parsed.udpPayload.lowerBound, byteCount: parsed.udpPayload.count,
            segmentSize: parsed.udpPayload.count, firstSegment: 0, localIndex: index, source: parsed.flow.source,
            destination: parsed.flow.destination, sourcePort: parsed.flow.sourcePort,
            trafficClass: parsed.trafficClass)
        datagram.identification = parsed.identification
        datagram.dontFragment = parsed.dontFragment
        guard isForUs(bytes.loadNative(UInt8.self, at: parsed.udpPayload.lowerBound + 5)) else {
            counters.xdpRefused += 1
            return
        }
        counters.xdpReceived += 1
        keep(datagram)
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
        guard let path = unsafe path else { return .elsewhere }
        let outcome = unsafe path.pointee.send(
            burst, source: sender.gid, sourcePort: sender.sourcePort, now: clinuxnet_monotonic_nanoseconds())
        switch outcome {
        case .sent:
            counters.xdpSent += UInt64(burst.segmentCount)
            noteSent(burst, from: burst.localIndex)
        case .full:
            counters.xdpFull += 1
            counters.sendBackpressure += 1
            isMaintenanceDue = true
        case .elsewhere:
            // It may have asked for a neighbour.
            isMaintenanceDue = true
        }
        return outcome
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
        guard let path = unsafe path else { return .max }
        unsafe path.pointee.neighbours.refresh(now: now) { gid(at: $0) }
        unsafe path.pointee.flush()
        return unsafe path.pointee.isUnsent ? now + Self.unsentNanoseconds : .max
    }

    /// Brings the counters that the kernel keeps up to date.
    package mutating func refreshCounters() {
        guard let path = unsafe path else { return }
        counters.xdpDropped = unsafe path.pointee.droppedCount
    }
}
