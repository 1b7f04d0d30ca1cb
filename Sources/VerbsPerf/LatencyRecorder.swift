// SPDX-License-Identifier: Apache-2.0
import Histogram

/// Takes the round-trip times of a latency run.
///
/// The measuring loop writes each sample into a block that was allocated beforehand; ``drain()`` moves a full block
/// into the histogram and the running moments, between two samples, so that nothing of it is measured.
@safe package struct LatencyRecorder: ~Copyable {
    /// Samples between two drains.
    package static let blockCount = 65536

    /// `blockCount` round trips in nanoseconds, `used` of them valid; lives as long as this value.
    let block: UnsafeMutablePointer<UInt64>
    var used = 0

    private var histogram: Histogram<UInt64>
    private var count = 0
    private var least = UInt64.max
    private var most: UInt64 = 0
    // Welford's running mean and sum of squared deviations: no cancellation, unlike a sum of squares.
    private var mean = 0.0
    private var squaredDeviations = 0.0
    private let keepsSamples: Bool
    /// Every sample in order, if they are to be listed.
    package private(set) var samples: [UInt64] = []

    /// - Parameter keepsSamples: for the lists of `-H` and `-U`.
    package init(keepsSamples: Bool = false) {
        unsafe block = .allocate(capacity: Self.blockCount)
        unsafe block.initialize(repeating: 0, count: Self.blockCount)
        histogram = Histogram(lowestDiscernibleValue: 1, highestTrackableValue: 60_000_000_000)
        histogram.autoResize = true
        self.keepsSamples = keepsSamples
    }

    deinit { unsafe block.deallocate() }

    /// Adds one round trip in nanoseconds. Returns whether the block is full and ``drain()`` is due.
    @inline(__always)
    mutating func add(_ nanoseconds: UInt64) -> Bool {
        unsafe block[used] = nanoseconds
        used &+= 1
        return used == Self.blockCount
    }

    /// Adds samples that were taken elsewhere.
    package mutating func add(contentsOf samples: some Sequence<UInt64>) {
        for sample in samples where add(sample) { drain() }
        drain()
    }

    /// Empties the block into the statistics.
    package mutating func drain() {
        for index in 0..<used {
            let sample = unsafe block[index]
            count += 1
            least = min(least, sample)
            most = max(most, sample)
            let deviation = Double(sample) - mean
            mean += deviation / Double(count)
            squaredDeviations += deviation * (Double(sample) - mean)
            // A sample beyond the range resizes the histogram; what even that cannot hold is in `most`.
            _ = histogram.record(max(sample, 1))
            if keepsSamples { samples.append(sample) }
        }
        used = 0
    }

    /// The statistics of what was drained, `nil` if there was nothing.
    ///
    /// - Parameter roundTrips: how many one-way trips a sample is: 2 for ping and pong, 1 for READ and ATOMIC.
    package func summary(size: Int, iterations: Int, roundTrips: Double) -> LatencySummary? {
        guard count > 0 else { return nil }
        let scale = 1000 * roundTrips
        func percentile(_ percent: Double) -> Double {
            // A bucket's upper edge may lie beyond what was measured.
            Double(min(max(histogram.valueAtPercentile(percent), least), most)) / scale
        }
        return LatencySummary(
            size: size, iterations: iterations, least: Double(least) / scale, most: Double(most) / scale,
            typical: percentile(50), average: mean / scale,
            deviation: (squaredDeviations / Double(count)).squareRoot() / scale, percentile90: percentile(90),
            percentile99: percentile(99), percentile99_9: percentile(99.9), percentile99_99: percentile(99.99))
    }

    /// The percentile distribution as text, HdrHistogram's format; values in microseconds of one way.
    package func distribution(roundTrips: Double) -> String {
        var text = ""
        histogram.outputPercentileDistribution(to: &text, outputValueUnitScalingRatio: 1000 * roundTrips)
        return text
    }
}

/// The row of a latency table. Times in microseconds, one way for SEND and WRITE, there and back for READ and ATOMIC.
///
/// Every sample counts: perftest leaves out the two largest and computes the deviation in integers.
package struct LatencySummary: Equatable, Sendable, Codable {
    package var size: Int
    package var iterations: Int
    package var least: Double
    package var most: Double
    /// The median.
    package var typical: Double
    package var average: Double
    package var deviation: Double
    package var percentile90: Double
    package var percentile99: Double
    package var percentile99_9: Double
    package var percentile99_99: Double
    /// Round trips per second, of a timed run.
    package var transactionsPerSecond: Double?

    enum CodingKeys: String, CodingKey {
        case size = "MsgSize"
        case iterations = "n_iterations"
        case least = "t_min"
        case most = "t_max"
        case typical = "t_typical"
        case average = "t_avg"
        case deviation = "t_stdev"
        case percentile90 = "percentile_90"
        case percentile99 = "percentile_99"
        case percentile99_9 = "percentile_99.9"
        case percentile99_99 = "percentile_99.99"
        case transactionsPerSecond = "tps_average"
    }
}
