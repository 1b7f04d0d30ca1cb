// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Receiving: sockets, mailboxes, and sorting by slot.
extension UDPLink {
    /// Takes what has arrived for this process, up to one batch, without blocking. What is for others goes to them.
    ///
    /// An empty call costs one system call: `epoll_wait`, which is half as dear as an empty `recvmsg` and asks all
    /// sockets, or while a socket is hot `recvmmsg` on it.
    package mutating func receive() -> Int {
        batchCount = 0
        used = 0
        rounds &+= 1
        if hostPeerCount > 0, receiveFromHost() { return batchCount }
        defer { if isHostWaiting { noteLook() } }
        guard hasFrames else { return receiveFromSockets() }
        if looksAtSocketsFirst {
            // What waits at a socket was sent before the frame that came meanwhile, as a rule: frames wait until the
            // sockets are empty, but not for ever.
            if areFramesReady || rounds & 7 == 0 || frameCredit == 0 { _ = receiveFromSockets() }
            if batchCount > 0, framesWaited < Self.framesWaitMax {
                framesWaited += 1
                return batchCount
            }
            framesWaited = 0
            receiveFrames()
            return batchCount
        }
        if receiveFrames() { return batchCount }
        return receiveFromSockets()
    }

    private mutating func receiveFromSockets() -> Int {
        if hot.credit > 0 {
            hot.credit -= 1
            if rounds & ((1 << HotSocket.lookAroundShift) - 1) != 0 {
                let before = batchCount
                drain(hot.token)
                if batchCount > before { hot.credit = HotSocket.credit }
                return batchCount
            }
        }
        let ready = unsafe Int(epoll_wait(poll.number, events, Int32(Self.eventsMax), 0))
        guard ready > 0 else { return batchCount }
        // The order of the events does not change while all are ready: begin with another each time, so that a flood
        // on one socket, which fills the batch, does not keep the others out.
        let first = Int(rounds >> HotSocket.lookAroundShift) % ready
        for offset in 0..<ready where used < ReceiveRing.depth {
            let token = unsafe clinuxnet_epoll_token(events + (first + offset) % ready)
            let before = batchCount
            drain(token)
            if batchCount > before {
                if token != hot.token { hot.window = 1 }
                hot.token = token
                hot.credit = HotSocket.credit
            }
        }
        return batchCount
    }

    /// Takes messages from one socket of the poll set.
    private mutating func drain(_ token: UInt64) {
        let index = Int(token & 0xFFFF_FFFF)
        switch token >> 32 {
        case PollToken.receiver:
            let socket = unsafe sockets[index]
            guard socket.receiver >= 0 else { return }
            drainUDP(socket.receiver, localIndex: index, destination: socket.gid)
        case PollToken.mailbox:
            guard let state = unsafe addresses[index].mailbox else { return }
            drainMailbox(state.descriptor, owner: state.ownerUID, localIndex: index)
        case PollToken.service:
            guard let service = unsafe services[index].entry else { return }
            drainMailbox(
                service.descriptor, owner: unsafe addresses[service.localIndex].mailbox?.ownerUID,
                localIndex: service.localIndex)
        case PollToken.group:
            guard let group = unsafe groups[index].entry else { return }
            drainUDP(group.descriptor, localIndex: group.localIndex, destination: group.gid)
        case PollToken.frames:
            // Frames are taken elsewhere; without any it is an error that makes the socket readable.
            if let path = unsafe packetPath, unsafe !path.pointee.ring.isReady { unsafe path.pointee.ring.takeError() }
        default:
            break  // Room to send: that it woke somebody is all there is to it.
        }
    }

    private mutating func drainUDP(_ descriptor: Int32, localIndex: Int, destination: GID) {
        let capacity = min(hot.window, ReceiveRing.depth - used)
        guard capacity > 0 else { return }
        let count =
            capacity == 1
            ? takeOne(descriptor)
            : unsafe Int(
                clinuxnet_recvmmsg(descriptor, ring.udp + used, UInt32(capacity)))
        guard count > 0 else {
            hot.noteEmpty()
            noteReceiveError(count)
            return
        }
        hot.note(count, of: capacity)
        for message in used..<used + count {
            acceptUDP(message, localIndex: localIndex, destination: destination)
            ring.rearmUDP(message)
        }
        used += count
    }

    /// One message by `recvmsg`, which costs a fifth less than `recvmmsg` asked for one.
    @inline(__always)
    private mutating func takeOne(_ descriptor: Int32) -> Int {
        let length = unsafe clinuxnet_recvmsg(descriptor, &ring.udp[used].msg_hdr)
        guard length >= 0 else { return -1 }
        unsafe ring.udp[used].msg_len = UInt32(truncatingIfNeeded: length)
        return 1
    }

    private mutating func noteReceiveError(_ result: Int) {
        guard result < 0 else { return }
        let code = clinuxnet_errno()
        if code != EAGAIN, code != EINTR { counters.receiveErrors += 1 }
    }

    /// Reads what the kernel says about one UDP message, and sorts its segments.
    private mutating func acceptUDP(_ message: Int, localIndex: Int, destination: GID) {
        let header = unsafe ring.udp + message
        let length = unsafe Int(header.pointee.msg_len)
        guard unsafe header.pointee.msg_hdr.msg_flags & clinuxnet_message_truncated == 0 else {
            counters.receiveTruncated += 1
            return
        }
        guard length > 0,
            let (source, port) = unsafe SocketAddress.read(
                header.pointee.msg_hdr.msg_name, length: header.pointee.msg_hdr.msg_namelen)
        else {
            counters.receiveTooShort += 1
            return
        }
        var segmentSize = length
        var trafficClass: UInt8 = 0
        var control = unsafe clinuxnet_cmsg_first(&header.pointee.msg_hdr)
        while let entry = unsafe control {
            let data = unsafe clinuxnet_cmsg_data(entry)
            switch unsafe (entry.pointee.cmsg_level, entry.pointee.cmsg_type) {
            case (Constant.udp, Constant.udpGRO):
                segmentSize = unsafe Int(data.loadUnaligned(as: Int32.self))
            case (Int32(IPPROTO_IP), IP_TOS), (Int32(IPPROTO_IPV6), IPV6_TCLASS):
                // One byte of IPv4, an int of IPv6: the low byte comes first on a little-endian machine, and
                // CLinuxNet asserts that.
                trafficClass = unsafe data.load(as: UInt8.self)
            default: break
            }
            unsafe control = clinuxnet_cmsg_next(&header.pointee.msg_hdr, entry)
        }
        if segmentSize <= 0 || segmentSize > length { segmentSize = length }
        let datagram = unsafe Datagram(
            base: UnsafeRawPointer(ring.buffer(message)), byteCount: length, segmentSize: segmentSize, firstSegment: 0,
            localIndex: localIndex, source: source, destination: destination, sourcePort: port,
            trafficClass: trafficClass)
        sort(datagram)
    }

    /// Keeps the runs of segments that are for this process, and hands the others on. Segments of one datagram may be
    /// for different processes, because the kernel merges by UDP flow, not by queue pair.
    private mutating func sort(_ datagram: Datagram) {
        var datagram = datagram
        guard min(datagram.segmentSize, datagram.byteCount) >= Self.segmentBytesMin else {
            counters.receiveTooShort += 1
            return
        }
        if unsafe datagram.base.load(as: UInt8.self) == SteeringProbe.opcode, answerProbe(datagram) { return }

        var start = 0
        var runSlot = unsafe datagram.base.load(fromByteOffset: 5, as: UInt8.self)
        var offset = datagram.segmentSize
        while offset < datagram.byteCount {
            guard datagram.byteCount - offset >= Self.segmentBytesMin else {
                counters.receiveTooShort += 1
                datagram.byteCount = offset
                break
            }
            let next = unsafe datagram.base.load(fromByteOffset: offset + 5, as: UInt8.self)
            if next != runSlot {
                deliver(datagram, from: start, to: offset, slot: runSlot)
                start = offset
                runSlot = next
            }
            offset += datagram.segmentSize
        }
        deliver(datagram, from: start, to: datagram.byteCount, slot: runSlot)
    }

    /// A whole BTH; less names no queue pair.
    static var segmentBytesMin: Int { 12 }

    @inline(__always)
    private mutating func deliver(_ datagram: Datagram, from start: Int, to end: Int, slot target: UInt8) {
        var run = datagram
        unsafe run.base = datagram.base + start
        run.byteCount = end - start
        run.segmentSize = min(datagram.segmentSize, run.byteCount)
        run.firstSegment = datagram.firstSegment + start / datagram.segmentSize
        if isForUs(target) { keep(run) } else { handOn(run, to: target) }
    }

    /// Ours, or of the device as a whole: queue pairs 0 and 1, and multicast.
    @inline(__always)
    func isForUs(_ target: UInt8) -> Bool { target == slot || target == 0 || target == 255 }

    @inline(__always)
    mutating func keep(_ run: Datagram) {
        guard batchCount < Self.batchMax else { return }
        counters.receivedDatagrams += 1
        counters.receivedSegments += UInt64(run.segmentCount)
        counters.receivedBytes += UInt64(run.byteCount)
        unsafe (batch + batchCount).initialize(to: run)
        batchCount += 1
        if capture != nil { record(run) }
    }

    private mutating func record(_ run: Datagram) {
        unsafe capture?.record(
            run.bytes, segmentSize: run.segmentSize, firstSegment: run.firstSegment,
            flow: CaptureWriter.Flow(
                source: run.source, destination: run.destination, sourcePort: run.sourcePort,
                trafficClass: run.trafficClass),
            direction: .received, nanoseconds: clinuxnet_realtime_nanoseconds())
    }
}
