// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import VerbsPerf

@Suite("Statistics")
struct StatisticsTests {
    @Test("Latency: every sample counts, the deviation has fractions, percentiles lie within the extremes")
    func latency() throws {
        var recorder = LatencyRecorder()
        // 1...1000 us round trips: mean 500.5, population deviation sqrt((1000^2 - 1) / 12).
        recorder.add(contentsOf: (1...1000).map { UInt64($0 * 1000) })
        let measured = recorder.summary(size: 2, iterations: 1000, roundTrips: 1)
        let summary = try #require(measured)
        #expect(summary.least == 1)
        #expect(summary.most == 1000)
        #expect(abs(summary.average - 500.5) < 1e-9)
        #expect(abs(summary.deviation - 288.6749902572095) < 1e-6)
        // Three significant digits.
        #expect(abs(summary.typical - 500) <= 1)
        #expect(abs(summary.percentile99 - 990) <= 1)
        #expect(abs(summary.percentile99_9 - 999) <= 1)
        #expect(summary.percentile99_99 <= summary.most)
    }

    @Test("One way is half of ping and pong")
    func halved() throws {
        var recorder = LatencyRecorder()
        recorder.add(contentsOf: [3000, 3000, 3000])
        let measured = recorder.summary(size: 2, iterations: 3, roundTrips: 2)
        let summary = try #require(measured)
        #expect(summary.average == 1.5)
        #expect(summary.deviation == 0)
        #expect(summary.least == 1.5)
        #expect(summary.percentile99 == 1.5)
    }

    @Test("The deviation is honest below a microsecond, where perftest prints 0.00")
    func smallDeviation() throws {
        var recorder = LatencyRecorder()
        recorder.add(contentsOf: [1000, 1200, 1000, 1200])
        let measured = recorder.summary(size: 2, iterations: 4, roundTrips: 1)
        let summary = try #require(measured)
        #expect(abs(summary.deviation - 0.1) < 1e-12)
    }

    @Test("More samples than a block holds, and samples beyond a minute, are all kept")
    func blocks() throws {
        var recorder = LatencyRecorder(keepsSamples: true)
        let count = LatencyRecorder.blockCount * 2 + 17
        recorder.add(contentsOf: repeatElement(UInt64(1000), count: count))
        recorder.add(contentsOf: [200_000_000_000])
        let measured = recorder.summary(size: 2, iterations: count, roundTrips: 1)
        let summary = try #require(measured)
        let kept = recorder.samples.count
        #expect(kept == count + 1)
        #expect(summary.most == 200_000_000)
        #expect(summary.typical == 1)
    }

    @Test("Nothing measured has no summary")
    func empty() {
        let recorder = LatencyRecorder()
        let summary = recorder.summary(size: 2, iterations: 0, roundTrips: 1)
        #expect(summary == nil)
    }

    @Test("The average counts all bytes over the whole time, in 2^20 bytes or 10^9 bits")
    func average() {
        let measurement = BandwidthMeasurement(size: 65536, messages: 1600, nanoseconds: 1_000_000_000)
        #expect(measurement.report(gigabits: false).average == 100)
        #expect(measurement.report(gigabits: true).average == 65536 * 1600 * 8 / 1e9)
        #expect(measurement.report(gigabits: false).messageRate == 0.0016)
        #expect(measurement.report(gigabits: false).peak == 0)
    }

    @Test("The peak is the best span from any post to any later completion")
    func peak() {
        var times = BandwidthTimes(count: 4)
        // Completions only for messages 1 and 3 (moderation 2).
        times.set(0, posted: 100, completed: 0)
        times.set(1, posted: 200, completed: 1100)
        times.set(2, posted: 1000, completed: 0)
        times.set(3, posted: 1010, completed: 1300)
        // 0..1: 1000/2; 0..3: 1200/4; 1..1: 900; 1..3: 1100/3; 2..3: 300/2; 3..3: 290.
        let least = times.leastNanosecondsPerMessage(postList: 1)
        #expect(least == 150)
        // Lists of two start at 0 and 2 only; lists of three at 0 and 3.
        let leastOfPairs = times.leastNanosecondsPerMessage(postList: 2)
        #expect(leastOfPairs == 150)
        let leastOfThrees = times.leastNanosecondsPerMessage(postList: 3)
        #expect(leastOfThrees == 290)
        let report = BandwidthMeasurement(
            size: 1_048_576, messages: 4, nanoseconds: 1200, leastNanosecondsPerMessage: 1_000_000
        ).report(gigabits: false)
        #expect(abs(report.peak - 1000) < 1e-9)
    }

    @Test("A timed run counts between its margins, by the times that the loop saw")
    func window() {
        let second: UInt64 = 1_000_000_000
        var window = DurationWindow(start: 5 * second, seconds: 10, margin: 2)
        window.advance(to: 6 * second)
        #expect(window.phase == .warmUp)
        window.advance(to: 7 * second + 5)
        #expect(window.phase == .counting)
        window.advance(to: 13 * second + 7)
        #expect(window.phase == .coolDown)
        #expect(window.countedNanoseconds == 6 * second + 2)
        window.advance(to: 15 * second)
        #expect(window.phase == .over)
    }

    @Test("A timed run whose loop looked away past the end is over all the same")
    func windowSkipped() {
        var window = DurationWindow(start: 0, seconds: 4, margin: 1)
        window.advance(to: 100_000_000_000)
        #expect(window.phase == .counting)
        window.advance(to: 100_000_000_001)
        #expect(window.phase == .over)
        #expect(window.countedNanoseconds == 1)
    }

    @Test("A changed byte anywhere in a message is found at its offset", arguments: [1, 7, 8, 9, 64, 1000])
    func pattern(size: Int) {
        let pattern = PayloadPattern(queuePair: 1, message: 77)
        var bytes = [UInt8](repeating: 0, count: size)
        bytes.withUnsafeMutableBytes { pattern.fill($0) }
        #expect(bytes.withUnsafeBytes { pattern.firstDifference(in: $0) } == nil)
        for offset in 0..<size {
            bytes[offset] ^= 0x40
            #expect(bytes.withUnsafeBytes { pattern.firstDifference(in: $0) } == offset)
            bytes[offset] ^= 0x40
        }
    }

    @Test("Neighbouring messages and queue pairs have different bytes")
    func patternsDiffer() {
        func bytes(_ queuePair: Int, _ message: Int) -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: 64)
            bytes.withUnsafeMutableBytes { PayloadPattern(queuePair: queuePair, message: message).fill($0) }
            return bytes
        }
        #expect(bytes(0, 0) != bytes(0, 1))
        #expect(bytes(0, 1) != bytes(1, 1))
    }
}
