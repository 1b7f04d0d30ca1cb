// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

@testable import PacketIO

@Suite("Faults") struct FaultTests {
    @Test("are drawn from SplitMix64 as its author publishes it")
    func generator() {
        var generator = SplitMix64(seed: 1_234_567)
        // The reference sequence of this seed, known from several implementations.
        let expected: [UInt64] = [
            6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
            4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
        ]
        #expect((0..<5).map { _ in generator.next() } == expected)
    }

    @Test("happen exactly as often as the seed says")
    func exactCounts() throws {
        var injector = FaultInjector(
            try FaultPlan(parsing: "drop=0.1,duplicate=0.05,reorder=0.02,corrupt=0.01,delay=0.03,seed=7"))
        var dropped = 0
        var duplicated = 0
        var reordered = 0
        var delayed = 0
        var corrupted: [(frame: Int, bit: Int)] = []
        for frame in 0..<100_000 {
            let decision = injector.decide(byteCount: 64)
            dropped += decision.isDropped ? 1 : 0
            duplicated += decision.isDuplicated ? 1 : 0
            reordered += decision.overtakenBy == nil ? 0 : 1
            delayed += decision.isDelayed ? 1 : 0
            if let bit = decision.corruptBit { corrupted.append((frame, bit)) }
        }
        // Computed by a separate program in another language from the description of the draws.
        #expect(dropped == 10_035)
        #expect(duplicated == 4_552)
        #expect(reordered == 1_840)
        #expect(delayed == 2_634)
        #expect(corrupted.count == 912)
        #expect(corrupted.prefix(3).map(\.frame) == [107, 158, 182])
        #expect(corrupted.prefix(3).map(\.bit) == [327, 477, 8])
    }

    @Test("of a frame do not depend on how the frames before it were sent")
    func independentOfLength() throws {
        let plan = try FaultPlan(parsing: "drop=0.3,duplicate=0.3,seed=5")
        var short = FaultInjector(plan)
        var long = FaultInjector(plan)
        for _ in 0..<1000 {
            let a = short.decide(byteCount: 20)
            let b = long.decide(byteCount: 4000)
            #expect(a.isDropped == b.isDropped && a.isDuplicated == b.isDuplicated)
        }
    }

    @Test("are read from text, and what is not understood is named")
    func parsing() throws {
        let plan = try FaultPlan(parsing: "drop=0.1,duplicate=1,reorder=0,corrupt=0.01,delay=0.5,delay_us=250,seed=9")
        #expect(plan.drop == 0.1)
        #expect(plan.duplicate == 1)
        #expect(plan.reorder == 0)
        #expect(plan.corrupt == 0.01)
        #expect(plan.delay == 0.5)
        #expect(plan.delayNanoseconds == 250_000)
        #expect(plan.seed == 9)
        #expect(try FaultPlan(parsing: "") == FaultPlan())
        for text in ["drop", "drop=", "drop=2", "drop=-0.1", "drop=nan", "speed=1", "seed=x", "delay_us=99999999"] {
            #expect(throws: PacketIOError.self, "\(text)") { try FaultPlan(parsing: text) }
        }
    }

    /// Sends `count` numbered frames through a pair of links with faults and returns what came.
    private func run(_ text: String, count: Int) throws -> (received: [[UInt8]], counters: LinkCounters) {
        let (a, b) = MemoryLink.pair(GID(ipv4: 1), GID(ipv4: 2), faults: try FaultPlan(parsing: text))
        #expect(a.maximumSegments == 1)
        var received: [[UInt8]] = []
        func drain() {
            while true {
                let batch = b.receive()
                if batch == 0 { break }
                for index in 0..<batch { received.append(Array(b.datagram(index).bytes)) }
            }
        }
        for number in 0..<count {
            _ = a.maintain(now: UInt64(number) * 1000)
            let bytes = packet(to: 1, number: UInt32(number))
            bytes.withUnsafeBytes { buffer in
                let burst = Burst(
                    base: buffer.baseAddress!, byteCount: buffer.count, segmentSize: buffer.count, localIndex: 0,
                    trafficClass: 0, destination: b.address)
                #expect(withUnsafePointer(to: burst) { a.send(UnsafeBufferPointer(start: $0, count: 1)) } == 1)
            }
            drain()
        }
        #expect(a.maintain(now: .max) == .max)
        drain()
        return (received, a.counters)
    }

    @Test("change the stream by just what is counted")
    func conservation() throws {
        let count = 1500
        let result = try run("drop=0.1,duplicate=0.1,reorder=0.1,corrupt=0.05,delay=0.1,seed=3", count: count)
        let counters = result.counters
        #expect(counters.faultsDropped > 100)
        #expect(counters.faultsDuplicated > 100)
        #expect(counters.faultsReordered > 50)
        #expect(counters.faultsDelayed > 50)
        #expect(counters.faultsCorrupted > 50)
        #expect(result.received.count == count - Int(counters.faultsDropped) + Int(counters.faultsDuplicated))
        // What is not one of the frames sent differs from one in one bit. A corrupted frame that was also duplicated
        // comes twice.
        let sent = Set((0..<count).map { packet(to: 1, number: UInt32($0)) })
        let changed = Set(result.received.filter { !sent.contains($0) })
        #expect(changed.count == Int(counters.faultsCorrupted))
        for frame in changed {
            let isOneBitOff = (0..<frame.count * 8).contains { bit in
                var original = frame
                original[bit / 8] ^= 1 << UInt8(bit % 8)
                return sent.contains(original)
            }
            #expect(isOneBitOff)
        }
    }

    @Test("that only reorder lose nothing, and move a frame by four places at most")
    func reordering() throws {
        let result = try run("reorder=0.2,seed=4", count: 2000)
        #expect(result.counters.faultsReordered > 300)
        let numbers = result.received.map { frame in frame[8..<12].reduce(0) { $0 << 8 | Int($1) } }
        #expect(Set(numbers) == Set(0..<2000))
        #expect(numbers.count == 2000)
        #expect(numbers != Array(0..<2000))
        for (place, number) in numbers.enumerated() { #expect(abs(place - number) <= 8) }
    }

    @Test("that do not happen leave the stream alone")
    func none() throws {
        let result = try run("seed=4", count: 500)
        #expect(result.received == (0..<500).map { packet(to: 1, number: UInt32($0)) })
    }
}
