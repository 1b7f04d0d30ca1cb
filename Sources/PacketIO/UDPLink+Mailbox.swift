// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Handing over between the processes of a host.
extension UDPLink {
    /// Hands a datagram of the last batch, or part of one, to another process that shares its local address: for what
    /// no queue pair number says, such as connection requests to queue pair 1. The copy arrives there as if received
    /// from the wire, provided that its queue pair number is 0, 1, multicast, or of that slot.
    ///
    /// - Returns: `false` where no process has the slot, or its mailbox is full; both are counted.
    package mutating func forward(_ datagram: Datagram, toSlot target: UInt8) -> Bool {
        guard gid(at: datagram.localIndex) != nil else { return false }
        return unsafe post(
            Self.header(of: datagram), bytes: datagram.base, count: datagram.byteCount,
            localIndex: datagram.localIndex, to: target)
    }

    /// What goes before a datagram that is handed over.
    static func header(of datagram: Datagram) -> PeerMessage {
        var header = PeerMessage(kind: .datagram)
        header.trafficClass = datagram.trafficClass
        header.sourcePort = datagram.sourcePort
        header.segmentSize = UInt32(datagram.segmentSize)
        header.firstSegment = UInt32(datagram.firstSegment)
        header.source = datagram.source
        header.destination = datagram.destination
        return header
    }

    /// The slots of processes that share a local address, this one among them (some 0.3 ms).
    package func livingSlots(localIndex: Int) -> SlotSet {
        guard let gid = gid(at: localIndex) else { return SlotSet() }
        return (try? SlotClaim.living(on: gid)) ?? SlotSet()
    }

    /// Whether a burst is for queue pair 1, by its first packet.
    static func isForManagement(_ burst: Burst) -> Bool {
        guard burst.byteCount >= segmentBytesMin else { return false }
        return unsafe burst.base.loadUnaligned(fromByteOffset: 4, as: UInt32.self).bigEndian & 0xFF_FFFF == 1
    }

    /// Gives messages about a communication to the process of this host whose it is. The kernel would give them to any socket of
    /// the address, and a process may end before it hands on what came to its own.
    /// - Returns: `false` where the kernel has to be asked: for a service, or where that process is not there.
    mutating func handOver(_ burst: Burst) -> Bool {
        guard let target = managementTarget(burst, at: 0), target != slot, SlotClaim.slots.contains(target),
            let state = address(at: burst.localIndex),
            stride(from: burst.segmentSize, to: burst.byteCount, by: burst.segmentSize)
                .allSatisfy({ managementTarget(burst, at: $0) == target })
        else { return false }
        var header = PeerMessage(kind: .datagram)
        header.trafficClass = burst.trafficClass
        header.sourcePort = state.sourcePort
        header.segmentSize = UInt32(burst.segmentSize)
        header.source = state.gid
        header.destination = burst.destination
        guard
            unsafe post(
                header, bytes: burst.base, count: burst.byteCount, localIndex: burst.localIndex, to: target)
        else { return false }
        noteSent(burst, from: burst.localIndex)
        return true
    }

    /// The slot whose communication the segment at an offset is about; `nil` for any other message.
    private func managementTarget(_ burst: Burst, at offset: Int) -> UInt8? {
        // In bounds: segments lie one behind the other, and the last may be shorter.
        let bytes = unsafe RawSpan(
            _unsafeStart: burst.base + offset, byteCount: min(burst.segmentSize, burst.byteCount - offset))
        guard case .packet(let packet) = RoCEPacket.parse(bytes), packet.bth.destination == .gsi,
            case .datagram(let message) = ManagementDatagram.parse(packet.payload(of: bytes)),
            case .communication(let id) = message.message.addressee
        else { return nil }
        return id.slot
    }

    /// What reached us and is another's.
    mutating func handOn(_ run: Datagram, to target: UInt8) {
        counters.misdelivered += 1
        guard forward(run, toSlot: target) else { return }
        unsafe addresses[run.localIndex]!.learner.noteMisdelivered(to: target, now: clinuxnet_monotonic_nanoseconds())
        if unsafe addresses[run.localIndex]!.learner.deadline != .max { isMaintenanceDue = true }
    }

    /// Sends a message to the mailbox of a slot, or keeps it for when there is room; `false` where it is lost.
    mutating func post(
        _ header: PeerMessage, bytes: UnsafeRawPointer?, count: Int, localIndex: Int, to target: UInt8
    ) -> Bool {
        if !backlog.isWaiting(target) {
            switch unsafe tryPosting(header, bytes: bytes, count: count, localIndex: localIndex, to: target) {
            case .done: return true
            case .lost: return false
            case .full: break
            }
        }
        let isKept = unsafe backlog.append(
            header, bytes: bytes, count: count, localIndex: localIndex, target: target,
            expires: clinuxnet_monotonic_nanoseconds() + options.handOverLifetimeNanoseconds)
        if !isKept, header.kind == .datagram { counters.forwardFailed += 1 }
        isMaintenanceDue = true
        return isKept
    }

    enum Posting { case done, full, lost }

    private mutating func tryPosting(
        _ header: PeerMessage, bytes: UnsafeRawPointer?, count: Int, localIndex: Int, to target: UInt8
    ) -> Posting {
        guard let descriptor = unsafe addresses[localIndex].mailbox?.descriptor else { return .lost }
        unsafe addresses[localIndex]!.peerName.setSlot(target)
        let isSent = unsafe outbox.handOver(
            header, bytes: bytes, count: count, from: descriptor, to: addresses[localIndex]!.peerName)
        return settlePosting(isSent, header)
    }

    /// Counts what became of a message.
    mutating func settlePosting(_ isSent: Bool, _ header: PeerMessage) -> Posting {
        if isSent {
            if header.kind == .datagram { counters.forwarded += 1 }
            return .done
        }
        switch clinuxnet_errno() {
        case EAGAIN, ENOBUFS, EINTR: return .full
        case _ where header.kind != .datagram: break
        case ECONNREFUSED: counters.forwardNoProcess += 1
        default: counters.forwardFailed += 1
        }
        return .lost
    }

    /// Sends what was kept, as far as there is room now.
    mutating func flushBacklog(now: UInt64) {
        var full = SlotSet()
        for position in backlog.range {
            guard let entry = backlog.entry(position) else { continue }
            if now >= entry.expires {
                if entry.header.kind == .datagram { counters.forwardFailed += 1 }
                backlog.remove(position)
                continue
            }
            guard !full[entry.target] else { continue }
            let bytes = unsafe UnsafeRawPointer(backlog.payload(position))
            let result: Posting
            if let service = entry.service {
                result = unsafe tryPosting(
                    entry.header, bytes: bytes, count: entry.byteCount, localIndex: entry.localIndex, to: service)
                if result == .full { continue }
            } else {
                result = unsafe tryPosting(
                    entry.header, bytes: bytes, count: entry.byteCount, localIndex: entry.localIndex, to: entry.target)
            }
            if result == .full { full[entry.target] = true } else { backlog.remove(position) }
        }
        backlog.settle(stillWaiting: full)
    }

    /// Takes messages from a mailbox of an address.
    mutating func drainMailbox(_ descriptor: Int32, owner: UInt32?, localIndex index: Int) {
        let capacity = ReceiveRing.depth - used
        let count = unsafe Int(clinuxnet_recvmmsg(descriptor, ring.mailbox + used, UInt32(capacity)))
        guard count > 0 else {
            if count < 0, clinuxnet_errno() != EAGAIN, clinuxnet_errno() != EINTR { counters.receiveErrors += 1 }
            return
        }
        for message in used..<used + count {
            let envelope = envelope(of: message)
            if let sender = envelope.sender, sender == uid || sender == 0 || sender == owner {
                acceptPeer(message, localIndex: index, shared: envelope.descriptor, isOwnUser: sender == uid)
            } else {
                counters.forwardedUntrusted += 1
            }
            if envelope.descriptor >= 0 { _ = close(envelope.descriptor) }
            ring.rearmMailbox(message)
        }
        used += count
    }

    /// The kernel's word on who sent a message, and a descriptor that came along, or -1: the caller closes it.
    ///
    /// Abstract sockets are open to everyone, so the sender counts: ourselves, root, or the user that has the port.
    private func envelope(of message: Int) -> (sender: UInt32?, descriptor: Int32) {
        var sender: UInt32?
        var descriptor: Int32 = -1
        let header = unsafe ring.mailbox + message
        var control = unsafe clinuxnet_cmsg_first(&header.pointee.msg_hdr)
        while let entry = unsafe control {
            let data = unsafe clinuxnet_cmsg_data(entry)
            let length = unsafe entry.pointee.cmsg_len
            switch unsafe (entry.pointee.cmsg_level, entry.pointee.cmsg_type) {
            case (SOL_SOCKET, Constant.credentials)
            where length >= clinuxnet_cmsg_length(MemoryLayout<clinuxnet_ucred>.size):
                sender = unsafe data.loadUnaligned(as: clinuxnet_ucred.self).uid
            case (SOL_SOCKET, clinuxnet_scm_rights):
                var offset = 0
                while clinuxnet_cmsg_length(offset + 4) <= length {
                    if descriptor >= 0 { _ = close(descriptor) }
                    descriptor = unsafe data.loadUnaligned(fromByteOffset: offset, as: Int32.self)
                    offset += 4
                }
            default: break
            }
            unsafe control = clinuxnet_cmsg_next(&header.pointee.msg_hdr, entry)
        }
        return (sender, descriptor)
    }

    /// Judges a message of a trusted process: trusted not to lie about the network, not to be free of bugs.
    private mutating func acceptPeer(_ message: Int, localIndex: Int, shared: Int32, isOwnUser: Bool) {
        let length = unsafe Int(ring.mailbox[message].msg_len)
        let isTruncated = unsafe ring.mailbox[message].msg_hdr.msg_flags & clinuxnet_message_truncated != 0
        let headerBytes = unsafe RawSpan(
            _unsafeStart: UnsafeRawPointer(ring.header(message)), byteCount: min(length, PeerMessage.byteCount))
        guard !isTruncated, let header = PeerMessage(headerBytes) else {
            counters.forwardedMalformed += 1
            return
        }
        switch header.kind {
        case .datagram: break
        case .probeAnswer:
            unsafe addresses[localIndex]!.learner.record(index: header.index, slot: header.slot, nonce: header.nonce)
            isMaintenanceDue = true
            return
        case .offer:
            if isOwnUser { join(shared, slot: header.slot, localIndex: localIndex) }
            return
        case .wake:
            isMaintenanceDue = true
            return
        }
        let datagram = unsafe Datagram(
            base: UnsafeRawPointer(ring.buffer(message)), byteCount: length - PeerMessage.byteCount,
            segmentSize: Int(header.segmentSize), firstSegment: Int(header.firstSegment), localIndex: localIndex,
            source: header.source, destination: header.destination, sourcePort: header.sourcePort,
            trafficClass: header.trafficClass)
        guard isWellFormed(datagram) else {
            counters.forwardedMalformed += 1
            return
        }
        counters.forwardedReceived += 1
        keep(datagram)
    }

    /// Whole segments, each for us, from and to addresses of one family, to an address or group of ours.
    ///
    /// Mutating, because the compiler copies the whole link to borrow it.
    mutating func isWellFormed(_ datagram: Datagram) -> Bool {
        guard datagram.segmentSize >= Self.segmentBytesMin, datagram.segmentSize <= datagram.byteCount,
            datagram.firstSegment < 65_536, let own = gid(at: datagram.localIndex),
            datagram.source.isIPv4Mapped == datagram.destination.isIPv4Mapped,
            datagram.source.isIPv4Mapped == own.isIPv4Mapped,
            datagram.destination == own || groupIndex(datagram.destination) != nil
        else { return false }
        var offset = 0
        while offset < datagram.byteCount {
            guard datagram.byteCount - offset >= Self.segmentBytesMin,
                isForUs(unsafe datagram.base.load(fromByteOffset: offset + 5, as: UInt8.self))
            else { return false }
            offset += datagram.segmentSize
        }
        return true
    }
}
