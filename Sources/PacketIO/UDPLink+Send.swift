// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Sending.
extension UDPLink {
    /// Sends bursts in order, in one system call where they leave from one address. See ``PacketLink/send(_:)``.
    ///
    /// A destination without a route, or a frame longer than the path takes, is counted and dropped: the transport's
    /// retries and its error are the answer to that.
    package mutating func send(_ bursts: UnsafeBufferPointer<Burst>) -> Int {
        guard faults == nil else { return unsafe sendWithFaults(bursts) }
        let done = unsafe sendPlain(bursts)
        return done
    }

    private mutating func sendPlain(_ bursts: UnsafeBufferPointer<Burst>) -> Int {
        guard hasFrames else { return unsafe sendPlain(bursts, frameSegmentsMax: 0) }
        let done = unsafe sendPlain(bursts, frameSegmentsMax: Self.frameSegmentsMax)
        flushFrames()
        return done
    }

    /// - Parameter frameSegmentsMax: bursts of so many segments are tried as whole frames first; 0 for none.
    @inline(__always)
    private mutating func sendPlain(_ bursts: UnsafeBufferPointer<Burst>, frameSegmentsMax: Int) -> Int {
        var done = 0
        let longEnd = frameSegmentsMax > 0 ? unsafe longEnd(bursts, frameSegmentsMax) : 0
        while done < bursts.count {
            let index = unsafe bursts[done].localIndex
            guard let sender = sender(index) else {
                refuse(EADDRNOTAVAIL)
                done += 1
                continue
            }
            if unsafe bursts[done].destination == sender.gid {
                switch unsafe sendToHost(bursts[done]) {
                case .done:
                    done += 1
                    continue
                case .full: return done
                case .elsewhere: break
                }
            }
            if done >= longEnd, frameSegmentsMax > 0 {
                switch unsafe sendFrames(bursts[done], sender) {
                case .sent:
                    done += 1
                    continue
                case .full: return done
                case .elsewhere: flushFrames()
                }
            } else if frameSegmentsMax > 0 {
                noteBurst(unsafe bursts[done])
                flushFrames()
            }
            var run = 1
            while run < SendRing.depth, done + run < bursts.count, unsafe bursts[done + run].localIndex == index,
                unsafe bursts[done + run].destination != sender.gid
                    || !options.sharesMemory && !Self.isForManagement(bursts[done + run]),
                frameSegmentsMax == 0 || done + run < longEnd
            {
                run += 1
            }
            for position in 0..<run { outbox.prepare(position, unsafe bursts[done + position], scope: sender.scope) }
            let sent =
                run == 1
                ? (outbox.sendFirst(sender.descriptor) ? 1 : -1)
                : unsafe Int(clinuxnet_sendmmsg(sender.descriptor, outbox.messages, UInt32(run)))
            if sent > 0 {
                for position in done..<done + sent { unsafe noteSent(bursts[position], from: index) }
                done += sent
            } else {
                guard unsafe settle(clinuxnet_errno(), bursts[done], sender) else { return done }
                done += 1
            }
        }
        return done
    }

    /// Where the last burst ends that is too long for frames. What is before it goes by the socket as well: the receiver looks at
    /// its sockets first, so a frame would come behind a burst that was sent after it.
    private func longEnd(_ bursts: UnsafeBufferPointer<Burst>, _ frameSegmentsMax: Int) -> Int {
        var end = bursts.count
        while end > 0, unsafe bursts[end - 1].segmentCount <= frameSegmentsMax { end -= 1 }
        return end
    }

    /// Sends one burst, without faults.
    mutating func sendOne(_ burst: Burst) -> Bool {
        unsafe withUnsafePointer(to: burst) { pointer in
            unsafe sendPlain(UnsafeBufferPointer(start: pointer, count: 1)) == 1
        }
    }

    private mutating func sendWithFaults(_ bursts: UnsafeBufferPointer<Burst>) -> Int {
        // Taken out for the call, so that it can send through the rest of the link.
        guard var stage = faults.take() else { return 0 }
        let done = unsafe stage.send(bursts, through: &self, now: clinuxnet_monotonic_nanoseconds())
        faults = consume stage
        isMaintenanceDue = true
        return done
    }

    /// Decides about the burst that could not be sent: `true` when it is done with, `false` to offer it again.
    private mutating func settle(_ code: Int32, _ burst: Burst, _ sender: Sender) -> Bool {
        switch code {
        case EAGAIN, ENOBUFS, ENOMEM:
            counters.sendBackpressure += 1
            watchForRoom(burst.localIndex)
            return false
        case EINTR:
            return false
        case EIO, EINVAL, EOPNOTSUPP:
            guard burst.segmentCount > 1 else { break }
            return sendApart(burst, sender, after: code)
        default: break
        }
        refuse(code)
        return true
    }

    /// The kernel did not take a burst. If it takes the first segment alone, then it is the segmentation that it does
    /// not do on this path (a device without checksum offload, IPsec), and bursts are off from here on.
    ///
    /// Over IPv6 the other segments are as good alone. Over IPv4 they were made for identifications that they would not
    /// get: they are lost, and the transport sends them again, one by one.
    private mutating func sendApart(_ burst: Burst, _ sender: Sender, after code: Int32) -> Bool {
        var offset = 0
        while offset < burst.byteCount {
            var part = burst
            unsafe part.base = burst.base + offset
            part.byteCount = min(burst.segmentSize, burst.byteCount - offset)
            part.segmentSize = part.byteCount
            outbox.prepare(0, part, scope: sender.scope)
            guard outbox.sendFirst(sender.descriptor) else {
                if offset == 0 { refuse(code) }
                return true
            }
            if offset == 0 {
                canSegment = false
                counters.segmentationRefusals += 1
            }
            noteSent(part, from: burst.localIndex)
            if burst.destination.isIPv4Mapped { return true }
            offset += burst.segmentSize
        }
        return true
    }

    private mutating func refuse(_ code: Int32) {
        counters.sendErrors += 1
        counters.lastSendError = UInt64(code)
    }

    @inline(__always)
    mutating func noteSent(_ burst: Burst, from index: Int) {
        counters.sentBursts += 1
        counters.sentSegments += UInt64(burst.segmentCount)
        counters.sentBytes += UInt64(burst.byteCount)
        if capture != nil { record(burst, from: index) }
    }

    private mutating func record(_ burst: Burst, from index: Int) {
        guard let state = address(at: index) else { return }
        unsafe capture?.record(
            UnsafeRawBufferPointer(start: burst.base, count: burst.byteCount), segmentSize: burst.segmentSize,
            firstSegment: 0,
            flow: CaptureWriter.Flow(
                source: state.gid, destination: burst.destination, sourcePort: state.sourcePort,
                trafficClass: burst.trafficClass),
            direction: .sent, nanoseconds: clinuxnet_realtime_nanoseconds())
        isMaintenanceDue = true
    }

    /// Makes ``descriptor`` readable once there is room in the socket's buffer.
    private mutating func watchForRoom(_ index: Int) {
        guard let sender = sender(index) else { return }
        let operation =
            unsafe addresses[index]!.transmitIsPolled ? clinuxnet_epoll_modify : clinuxnet_epoll_add
        let result = clinuxnet_epoll_control(
            poll.number, operation, sender.descriptor, clinuxnet_epoll_out_once,
            PollToken.make(PollToken.transmit, index))
        if result == 0 { unsafe addresses[index]!.transmitIsPolled = true }
    }

    typealias Sender = (descriptor: Int32, scope: UInt32, sourcePort: UInt16, gid: GID)

    @inline(__always)
    private func sender(_ index: Int) -> Sender? {
        guard index >= 0, index < Self.addressesMax else { return nil }
        let socket = unsafe sockets[index]
        return socket.sender >= 0 ? (socket.sender, socket.scope, socket.sourcePort, socket.gid) : nil
    }
}
