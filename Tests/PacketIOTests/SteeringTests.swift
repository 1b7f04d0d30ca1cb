// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import PacketIO

@Suite("Steering") struct SteeringTests {
    /// What a classic BPF machine makes of a packet: the subset that the program uses, by the kernel's documentation.
    private func run(_ program: SteeringProgram, on packet: [UInt8]) -> UInt32 {
        var accumulator: UInt32 = 0
        var next = 0
        while next < program.instructions.count {
            let instruction = program.instructions[next]
            next += 1
            let offset = Int(instruction.value)
            func load(_ count: Int) -> UInt32? {
                guard offset + count <= packet.count else { return nil }
                return packet[offset..<offset + count].reduce(0) { $0 << 8 | UInt32($1) }
            }
            switch instruction.code {
            case 0x20, 0x28, 0x30:
                guard let value = load(instruction.code == 0x20 ? 4 : instruction.code == 0x28 ? 2 : 1) else {
                    return 0
                }
                accumulator = value
            case 0x15: next += Int(accumulator == instruction.value ? instruction.jumpTrue : instruction.jumpFalse)
            case 0x06: return instruction.value
            case 0x16: return accumulator
            default: Issue.record("code \(instruction.code)")
            }
        }
        Issue.record("the program ran off its end")
        return 0
    }

    private func probe(_ index: UInt16) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: SteeringProbe.byteCount)
        SteeringProbe(index: index, learner: 9, nonce: 0x1122_3344_5566_7788).store(to: &bytes)
        return bytes
    }

    @Test("programs send a packet to the index of its slot, a probe where it asks, and the rest by hash")
    func program() {
        let program = SteeringProgram(table: [(7, 0), (200, 1), (3, 2)])
        #expect(run(program, on: packet(to: 7)) == 0)
        #expect(run(program, on: packet(to: 200)) == 1)
        #expect(run(program, on: packet(to: 3)) == 2)
        #expect(run(program, on: packet(to: 4)) == .max)
        #expect(run(program, on: packet(to: 0)) == .max)
        #expect(run(program, on: [4, 0, 0]) == 0)
        #expect(run(program, on: probe(513)) == 513)
        // The opcode of a probe without its magic number is a packet like others.
        var impostor = packet(to: 200)
        impostor[0] = SteeringProbe.opcode
        #expect(run(program, on: impostor) == 1)
        // As large as it can get: the kernel takes 4,096 instructions.
        let full = SteeringProgram(table: SlotClaim.slots.map { ($0, UInt16($0) - 1) })
        #expect(full.instructions.count <= 4096)
        for slot in SlotClaim.slots { #expect(run(full, on: packet(to: slot)) == UInt32(slot) - 1) }
    }

    @Test("probes are read back, and nothing else is taken for one")
    func probes() {
        let bytes = probe(77)
        func parse(_ bytes: [UInt8]) -> SteeringProbe? {
            bytes.withUnsafeBytes { SteeringProbe(RawSpan(_unsafeBytes: $0)) }
        }
        #expect(parse(bytes) == SteeringProbe(index: 77, learner: 9, nonce: 0x1122_3344_5566_7788))
        #expect(parse(Array(bytes.dropLast())) == nil)
        #expect(parse(bytes + [0]) == nil)
        for position in [0, 8, 9, 10, 11] {
            var changed = bytes
            changed[position] ^= 1
            #expect(parse(changed) == nil)
        }
    }

    private func living(_ slots: [UInt8]) -> SlotSet {
        var set = SlotSet()
        for slot in slots { set[slot] = true }
        return set
    }

    @Test("is learnt when all have answered; of two indices of one slot the lower counts")
    func learning() {
        var learner = SteeringLearner(joining: true)
        #expect(learner.shouldBegin(now: 0))
        learner.begin(count: 4, nonce: 42, now: 100)
        #expect(!learner.isFinished(now: 100))
        // Another attempt's, out of range, not a slot, and a second answer for the same index.
        learner.record(index: 0, slot: 5, nonce: 41)
        learner.record(index: 4, slot: 5, nonce: 42)
        learner.record(index: 0, slot: 0, nonce: 42)
        learner.record(index: 0, slot: 255, nonce: 42)
        learner.record(index: 3, slot: 20, nonce: 42)
        learner.record(index: 1, slot: 20, nonce: 42)
        learner.record(index: 1, slot: 99, nonce: 42)
        learner.record(index: 0, slot: 10, nonce: 42)
        #expect(!learner.isFinished(now: 100))
        learner.record(index: 2, slot: 30, nonce: 42)
        #expect(learner.isFinished(now: 100))
        #expect(learner.deadline == 0)
        let table = learner.finish(living: living([10, 20, 30]), now: 200)
        #expect(table.map(\.slot) == [10, 20, 30])
        #expect(table.map(\.index) == [0, 1, 2])
        #expect(learner.state == .idle)
        #expect(learner.deadline == .max)
    }

    @Test("ends without the answers of processes that do not run, and asks again, ever more rarely")
    func missingAnswers() {
        var learner = SteeringLearner(joining: true)
        var now: UInt64 = 0
        var waits: [UInt64] = []
        for _ in 0..<20 {
            guard learner.deadline != .max else { break }
            waits.append(max(learner.deadline, now) - now)
            now = max(learner.deadline, now)
            #expect(learner.shouldBegin(now: now))
            learner.begin(count: 2, nonce: 1, now: now)
            learner.record(index: 0, slot: 1, nonce: 1)
            now += SteeringLearner.answerTimeNanoseconds
            #expect(learner.isFinished(now: now))
            #expect(learner.finish(living: living([1, 2]), now: now).map(\.slot) == [1])
        }
        #expect(waits.count > 3)
        #expect(waits.count < 20)
        #expect(zip(waits.dropFirst(), waits.dropFirst(2)).allSatisfy { $0 < $1 })
        // What goes to the one that does not answer does not count as a mistake of the table.
        for _ in 0..<1000 { learner.noteMisdelivered(to: 2, now: now) }
        #expect(learner.deadline == .max)
        for _ in 0..<SteeringLearner.misdeliveryThreshold { learner.noteMisdelivered(to: 1, now: now) }
        #expect(learner.deadline != .max)
    }

    @Test("is left to another process that is learning")
    func otherLearner() {
        var learner = SteeringLearner(joining: true)
        learner.deferToOther(now: 1000)
        #expect(!learner.shouldBegin(now: 1000))
        #expect(learner.deadline == 1000 + SteeringLearner.answerTimeNanoseconds)
        learner.noteOtherLearning()
        #expect(learner.deadline == .max)
        for _ in 0..<SteeringLearner.misdeliveryThreshold { learner.noteMisdelivered(to: 1, now: 2000) }
        #expect(learner.deadline != .max)
        // Not while it is learning itself.
        learner.begin(count: 1, nonce: 5, now: 3000)
        learner.noteOtherLearning()
        #expect(learner.state != .idle)
    }

    @Test("is not learnt more often than the wait allows, however much goes astray")
    func rateLimit() {
        var learner = SteeringLearner(joining: false)
        var attempts = 0
        // A packet astray every 100 µs for 60 s, and a table that never helps.
        for step in 0..<600_000 as Range<UInt64> {
            let now = step * 100_000
            learner.noteMisdelivered(to: 3, now: now)
            if learner.isFinished(now: now) { _ = learner.finish(living: living([3]), now: now) }
            if learner.shouldBegin(now: now) {
                attempts += 1
                learner.begin(count: 1, nonce: 1, now: now)
                learner.record(index: 0, slot: 3, nonce: 1)
            }
        }
        #expect(attempts > 5)
        #expect(attempts < 25)
        // After a quiet time it is quick again.
        let later = 60_000_000_000 + SteeringLearner.quietNanoseconds * 2
        for _ in 0..<SteeringLearner.misdeliveryThreshold { learner.noteMisdelivered(to: 3, now: later) }
        #expect(learner.shouldBegin(now: later))
    }
}
