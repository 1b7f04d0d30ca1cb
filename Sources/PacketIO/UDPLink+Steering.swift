// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Learning which socket of the reuseport group is whose. See ``SteeringProgram`` and ``SteeringLearner``.
extension UDPLink {
    /// Moves the learner of an address on; returns when to look again.
    mutating func maintainSteering(_ index: Int, now: UInt64) -> UInt64 {
        guard unsafe addresses[index]!.canSteer else { return .max }
        if unsafe addresses[index]!.learner.isFinished(now: now) { finishLearning(index, now: now) }
        if unsafe addresses[index]!.learner.shouldBegin(now: now) { beginLearning(index, now: now) }
        return unsafe addresses[index]!.learner.deadline
    }

    private mutating func beginLearning(_ index: Int, now: UInt64) {
        guard let state = address(at: index), let group = unsafe addresses[index].receiverNumber else { return }
        let members = livingSlots(localIndex: index).count
        guard members > 1 else {
            unsafe addresses[index]!.learner.cancel(now: now)
            return
        }
        var name = SlotName(address: state.gid)
        name.setSteeringLock()
        guard let lock = try? name.bindSocket() else {
            unsafe addresses[index]!.learner.deferToOther(now: now)
            return
        }
        // A program that knows probes, whatever is there now.
        let program = unsafe SteeringProgram(table: addresses[index]!.learner.table)
        guard program.attach(to: group) else {
            unsafe addresses[index]!.canSteer = false
            return
        }
        unsafe addresses[index]!.steeringLock = consume lock
        counters.steeringAttempts += 1
        var generator = SystemRandomNumberGenerator()
        let nonce = generator.next()
        unsafe addresses[index]!.learner.begin(count: members, nonce: nonce, now: now)
        for probe in 0..<members { sendProbe(UInt16(probe), nonce: nonce, from: index, to: state) }
    }

    private mutating func sendProbe(_ probe: UInt16, nonce: UInt64, from index: Int, to state: LinkAddressState) {
        unsafe withUnsafeTemporaryAllocation(byteCount: SteeringProbe.byteCount, alignment: 8) { memory in
            let base = memory.baseAddress!
            unsafe SteeringProbe(index: probe, learner: slot, nonce: nonce).store(to: base)
            outbox.prepare(
                0,
                unsafe Burst(
                    base: UnsafeRawPointer(base), byteCount: SteeringProbe.byteCount,
                    segmentSize: SteeringProbe.byteCount, localIndex: index, trafficClass: 0, destination: state.gid),
                scope: state.scope)
            // A probe that is not sent is one that is not answered.
            if let sender = unsafe addresses[index].sender { _ = outbox.sendFirst(sender.descriptor) }
        }
    }

    private mutating func finishLearning(_ index: Int, now: UInt64) {
        let living = livingSlots(localIndex: index)
        let table = unsafe addresses[index]!.learner.finish(living: living, now: now)
        if let group = unsafe addresses[index].receiverNumber, SteeringProgram(table: table).attach(to: group) {
            counters.steeringLearnt += 1
        }
        unsafe addresses[index]!.steeringLock = nil
    }

    /// Answers a probe that reached our socket; `false` where it is none. Only from the address itself, which no one
    /// outside this host can send from.
    mutating func answerProbe(_ datagram: Datagram) -> Bool {
        let bytes = unsafe RawSpan(_unsafeStart: datagram.base, byteCount: datagram.byteCount)
        guard let probe = SteeringProbe(bytes) else { return false }
        guard datagram.source == datagram.destination else { return true }
        if probe.learner == slot {
            unsafe addresses[datagram.localIndex]!.learner.record(index: probe.index, slot: slot, nonce: probe.nonce)
            isMaintenanceDue = true
            return true
        }
        unsafe addresses[datagram.localIndex]!.learner.noteOtherLearning()
        var answer = PeerMessage(kind: .probeAnswer)
        answer.index = probe.index
        answer.slot = slot
        answer.nonce = probe.nonce
        if unsafe post(answer, bytes: nil, count: 0, localIndex: datagram.localIndex, to: probe.learner) {
            counters.probesAnswered += 1
        }
        return true
    }
}
