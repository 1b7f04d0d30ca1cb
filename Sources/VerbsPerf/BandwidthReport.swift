// SPDX-License-Identifier: Apache-2.0

/// One row of a bandwidth table; also what the two ends exchange after a run.
///
/// Rates are in the unit that the sender of the report shows: 2^20 bytes per second, or 10^9 bits with
/// `--report_gbits`. Both ends must use the same option, as with perftest.
package struct BandwidthReport: Equatable, Sendable, Codable {
    /// Message size in bytes.
    package var size: Int
    /// Messages counted, over all queue pairs.
    package var iterations: Int
    package var peak: Double
    package var average: Double
    /// Million messages per second.
    package var messageRate: Double

    package init(size: Int, iterations: Int, peak: Double, average: Double, messageRate: Double) {
        self.size = size
        self.iterations = iterations
        self.peak = peak
        self.average = average
        self.messageRate = messageRate
    }

    /// What a passive end sends; the peer ignores it.
    package static let none = BandwidthReport(size: 0, iterations: 0, peak: 0, average: 0, messageRate: 0)

    /// The sum of both directions of a bidirectional test, as perftest adds them: iterations stay those of one end.
    package func combined(with other: BandwidthReport) -> BandwidthReport {
        BandwidthReport(
            size: size, iterations: iterations, peak: peak + other.peak, average: average + other.average,
            messageRate: messageRate + other.messageRate)
    }

    /// The five fields in the order in which they are exchanged, each eight bytes, big-endian.
    package var fields: [[UInt8]] {
        [UInt64(size), UInt64(iterations), peak.bitPattern, average.bitPattern, messageRate.bitPattern].map(
            \.bigEndianBytes)
    }

    package static let fieldCount = 5

    /// Reads the five fields. A one-way server of perftest sends whatever was on its stack, so nothing is refused:
    /// a size or count that is no `Int` becomes zero.
    package init(fields: [[UInt8]]) {
        func word(_ index: Int) -> UInt64 {
            index < fields.count ? UInt64(bigEndianBytes: fields[index]) : 0
        }
        self.init(
            size: Int(exactly: word(0)) ?? 0, iterations: Int(exactly: word(1)) ?? 0,
            peak: Double(bitPattern: word(2)), average: Double(bitPattern: word(3)),
            messageRate: Double(bitPattern: word(4)))
    }
}

extension FixedWidthInteger {
    /// The bytes in network order.
    package var bigEndianBytes: [UInt8] {
        stride(from: Self.bitWidth - 8, through: 0, by: -8).map { UInt8(truncatingIfNeeded: self >> Self($0)) }
    }

    /// Reads as many bytes as there are, at most the type's own count, in network order.
    package init(bigEndianBytes bytes: some Sequence<UInt8>) {
        self = bytes.reduce(0) { $0 << 8 | Self(truncatingIfNeeded: $1) }
    }
}
