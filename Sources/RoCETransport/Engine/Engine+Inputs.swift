// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Inputs: doorbells, datagrams, time.
extension Engine {
    /// Work requests were published in a queue of this queue pair. A number that is not in use is ignored.
    public mutating func doorbell(_ qpn: QPN) {
        guard let queuePair = unsafe queuePairs.find(qpn) else { return }
        if unsafe queuePair.pointee.state == .error || queuePair.pointee.state == .sendQueueError {
            unsafe queuePair.pointee.flushPosted(&core)
        } else {
            unsafe queuePair.pointee.wantsTransmit = true
            if core.habit.answered(on: qpn) { unsafe queuePair.pointee.acknowledgesWithRequest = true }
        }
        unsafe settle(queuePair)
    }

    /// One UDP payload, from BTH to ICRC. Read during the call only.
    public mutating func receive(_ bytes: RawSpan, from origin: DatagramOrigin, now: Timestamp) {
        core.now = now
        core.counters.packetsReceived &+= 1
        guard case .packet(let packet) = RoCEPacket.parse(bytes) else {
            core.counters.droppedMalformed &+= 1
            return
        }
        guard packet.bth.partitionKey.matches(.default) else {
            core.counters.droppedKey &+= 1
            return
        }
        if packet.bth.destination == .multicast { return receiveMulticast(packet, bytes, from: origin) }
        guard let queuePair = unsafe queuePairs.find(packet.bth.destination) else {
            return receiveForDestroyed(packet, bytes, from: origin)
        }
        guard let local = core.address(origin.localIndex) else {
            core.counters.droppedAddress &+= 1
            return
        }
        guard peers.accepts(bytes, from: origin, local: local.gid) else {
            core.counters.droppedICRC &+= 1
            return
        }
        unsafe deliver(packet, bytes, from: origin, local: local.gid, to: &queuePair.pointee)
        unsafe settle(queuePair)
    }

    @inline(__always)
    private mutating func deliver(
        _ packet: RoCEPacket, _ bytes: RawSpan, from origin: DatagramOrigin, local: GID, to queuePair: inout QueuePair
    ) {
        switch (packet.descriptor.transport, queuePair.type) {
        case (.rc, .rc), (.uc, .uc), (.none, .rc), (.none, .uc), (.none, .xrcInitiator), (.none, .xrcTarget),
            (.xrc, .xrcInitiator) where packet.descriptor.isResponse,
            (.xrc, .xrcTarget) where packet.descriptor.isRequest:
            guard queuePair.path.destination == origin.source, queuePair.path.source == local else {
                core.counters.droppedAddress &+= 1
                return
            }
            // ECN: congestion experienced. Who sends no data cannot send less.
            if origin.trafficClass & 3 == 3, packet.payloadByteCount > 0, packet.descriptor.transport != .none {
                queuePair.noteCongestion(isResponse: packet.descriptor.isResponse, &core)
            }
            if packet.descriptor.isResponse {
                queuePair.receiveResponse(packet, bytes, &core)
            } else if packet.descriptor.isRequest {
                queuePair.receiveRequest(packet, bytes, &core)
            } else {
                core.counters.congestionNotifications &+= 1
                queuePair.requester.window.noteMark(endPSN: queuePair.requester.endPSN, now: core.now)
            }
        case (.ud, .ud), (.ud, .gsi):
            queuePair.receiveDatagram(packet, bytes, from: origin, local: local, &core)
        default:
            core.counters.droppedState &+= 1
        }
    }

    /// A datagram for all queue pairs that are attached to its group.
    private mutating func receiveMulticast(_ packet: RoCEPacket, _ bytes: RawSpan, from origin: DatagramOrigin) {
        guard let group = origin.group, multicast.count > 0 else {
            core.counters.droppedUnknownQueuePair &+= 1
            return
        }
        guard peers.accepts(bytes, from: origin, local: group) else {
            core.counters.droppedICRC &+= 1
            return
        }
        for index in 0..<multicast.count {
            guard let qpn = multicast.queuePair(index, of: group), let queuePair = unsafe queuePairs.find(qpn) else {
                continue
            }
            // A sender does not hear itself (as rxe and hardware without loopback).
            if packet.deth.source == qpn, let local = core.address(origin.localIndex), local.gid == origin.source {
                continue
            }
            unsafe queuePair.pointee.receiveDatagram(packet, bytes, from: origin, local: group, &core)
            unsafe settle(queuePair)
        }
    }

    /// Runs the timers up to `now`.
    public mutating func advance(to now: Timestamp) {
        core.now = now
        core.hosts.advance(to: now)
        while let queuePair = unsafe timers.popExpired(now) {
            unsafe queuePair.pointee.timerFired(&core)
            unsafe settle(queuePair)
        }
    }
}
