// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import Testing

@testable import PacketIO

/// Memory of one direction, and room for a record.
final class RingMemory: @unchecked Sendable {
    let shared = UnsafeMutableRawPointer.allocate(byteCount: SharedRing.byteCount, alignment: 4096)
    let target = UnsafeMutableRawPointer.allocate(byteCount: SharedRing.payloadBytesMax, alignment: 64)

    private var writer: SharedRingWriter
    private var reader: SharedRingReader

    init() {
        shared.initializeMemory(as: UInt8.self, repeating: 0, count: SharedRing.byteCount)
        writer = SharedRingWriter(shared)
        reader = SharedRingReader(shared)
    }

    func write(_ record: SharedRing.Record, _ bytes: [UInt8]) -> SharedRingWriter.Outcome {
        bytes.withUnsafeBytes { writer.write(record, $0.baseAddress!) }
    }

    func read() -> SharedRingReader.Outcome { reader.read(into: target) }
    var isEmpty: Bool { reader.isEmpty }
    var isDrained: Bool { writer.isDrained() }

    deinit {
        shared.deallocate()
        target.deallocate()
    }

    func bytes(_ count: Int) -> [UInt8] { Array(UnsafeRawBufferPointer(start: target, count: count)) }

    func store(_ value: UInt64, at offset: Int) { shared.storeBytes(of: value, toByteOffset: offset, as: UInt64.self) }
}

@Suite("A shared ring") struct SharedRingTests {
    @Test("gives the records as they were written, over many turns")
    func turns() {
        let memory = RingMemory()
        var generator = SplitMix64(seed: 5)
        for round in 0..<3000 {
            let count = Int.random(in: 1...(round % 3 == 0 ? 65_536 : 200), using: &generator)
            let payload = (0..<count).map { UInt8(truncatingIfNeeded: $0 &+ round) }
            let record = SharedRing.Record(
                byteCount: count, segmentSize: max(1, count / 2), trafficClass: UInt8(round & 255),
                isSealed: round & 1 == 0, sourcePort: UInt16(round))
            #expect(memory.isEmpty)
            #expect(memory.write(record, payload) == .written)
            #expect(memory.read() == .record(record))
            #expect(memory.bytes(count) == payload)
        }
        #expect(memory.isDrained)
    }

    @Test("is full when it is, and has room again when something was read")
    func full() {
        let memory = RingMemory()
        let payload = [UInt8](repeating: 7, count: 5000)
        let record = SharedRing.Record(byteCount: 5000, segmentSize: 5000)
        for _ in 0..<50 {
            var written = 0
            while memory.write(record, payload) == .written { written += 1 }
            #expect(written >= (SharedRing.capacity - 2 * 5024) / 5024)
            #expect(!memory.isDrained)
            #expect(memory.read() == .record(record))
            while memory.read() == .record(record) {}
            #expect(memory.isEmpty && memory.isDrained)
        }
    }

    @Test("wakes its reader once for each sleep that was announced")
    func waking() {
        let memory = RingMemory()
        let writer = SharedRingWriter(memory.shared)
        let reader = SharedRingReader(memory.shared)
        #expect(!writer.takesWaking())
        reader.announceSleep()
        #expect(writer.takesWaking() && !writer.takesWaking())
        #expect(!writer.isClosed && !writer.isJoined && !writer.wantsSeals)
        reader.close()
        reader.join(wantsSeals: false)
        #expect(writer.isClosed && writer.isJoined && !writer.wantsSeals)
        reader.join(wantsSeals: true)
        #expect(writer.isJoined && writer.wantsSeals)
    }

    @Test("A reader takes nothing that cannot be")
    func hostileWriter() {
        func outcome(tail: UInt64, _ first: UInt64, _ second: UInt64 = 0, after offset: Int = 0)
            -> SharedRingReader.Outcome
        {
            let memory = RingMemory()
            memory.store(first, at: SharedRing.controlBytes + offset)
            memory.store(second, at: SharedRing.controlBytes + 8 + offset)
            memory.store(tail, at: 0)
            return memory.read()
        }
        let good = SharedRing.Record(byteCount: 64, segmentSize: 64).words.0
        #expect(outcome(tail: 80, good) == .record(SharedRing.Record(byteCount: 64, segmentSize: 64, isSealed: false)))
        #expect(outcome(tail: 64, good) == .broken)  // longer than what is there
        #expect(outcome(tail: 81, good) == .broken)
        #expect(outcome(tail: UInt64(SharedRing.capacity) + 16, good) == .broken)
        #expect(outcome(tail: 0 &- 16, good) == .broken)
        #expect(outcome(tail: 80, 0) == .broken)
        #expect(outcome(tail: 80, 65_537 | 1 << 32) == .broken)
        #expect(outcome(tail: 80, 64) == .broken)  // segments of nothing
        #expect(outcome(tail: 80, 64 | 65 << 32) == .broken)
        #expect(outcome(tail: 80, .max) == .broken)  // a turn at the start
    }

    @Test("A writer does not believe a position that cannot be")
    func hostileReader() {
        let memory = RingMemory()
        let payload = [UInt8](repeating: 7, count: 60_000)
        let record = SharedRing.Record(byteCount: 60_000, segmentSize: 60_000)
        while memory.write(record, payload) == .written {}
        memory.store(1 << 40, at: 64)
        #expect(memory.write(record, payload) == .broken)
        memory.store(0 &- 16, at: 64)
        #expect(memory.write(record, payload) == .broken)
    }

    @Test("Two threads pass records in order")
    func threads() {
        let memory = RingMemory()
        let count: UInt32 = 20_000
        let isDone = Atomic<Bool>(false)
        let thread = startThread {
            var writer = SharedRingWriter(memory.shared)
            var number: UInt32 = 0
            while number < count, !isDone.load(ordering: .relaxed) {
                let bytes = [UInt32](repeating: number, count: 1 + Int(number % 700))
                let record = SharedRing.Record(byteCount: bytes.count * 4, segmentSize: 4)
                let outcome = bytes.withUnsafeBytes { writer.write(record, $0.baseAddress!) }
                if outcome == .written { number += 1 } else { sched_yield() }
            }
        }
        var reader = SharedRingReader(memory.shared)
        var expected: UInt32 = 0
        while expected < count {
            switch reader.read(into: memory.target) {
            case .none: sched_yield()
            case .broken:
                Issue.record("broken at \(expected)")
                isDone.store(true, ordering: .relaxed)
                pthread_join(thread, nil)
                return
            case .record(let record):
                let words = UnsafeRawBufferPointer(start: memory.target, count: record.byteCount).bindMemory(
                    to: UInt32.self)
                guard record.byteCount == 4 * (1 + Int(expected % 700)), words.allSatisfy({ $0 == expected }) else {
                    Issue.record("record \(expected) is wrong")
                    isDone.store(true, ordering: .relaxed)
                    pthread_join(thread, nil)
                    return
                }
                expected += 1
            }
        }
        pthread_join(thread, nil)
    }
}

/// Runs a closure on a thread of its own.
private func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t {
    var thread = pthread_t()
    pthread_create(
        &thread, nil,
        { argument in
            Unmanaged<ThreadBody>.fromOpaque(argument!).takeRetainedValue().body()
            return nil
        }, Unmanaged.passRetained(ThreadBody(body)).toOpaque())
    return thread
}

private final class ThreadBody {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}
