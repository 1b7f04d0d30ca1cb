// SPDX-License-Identifier: Apache-2.0

/// When each message of a run was posted and when its completion was seen, for the peak. Allocated before the run;
/// the loops write through pointers, without bounds or exclusivity checks.
///
/// With moderation only some messages have a completion time of their own; the others stay 0.
@safe package struct BandwidthTimes: ~Copyable {
    package let count: Int
    /// Nanoseconds on the monotonic clock; `count` elements each, valid while this value lives.
    let posted: UnsafeMutablePointer<UInt64>
    let completed: UnsafeMutablePointer<UInt64>

    /// - Parameter count: messages over all queue pairs; 0 where the run does not measure a peak.
    package init(count: Int) {
        self.count = count
        unsafe posted = .allocate(capacity: max(count, 1))
        unsafe completed = .allocate(capacity: max(count, 1))
        unsafe posted.initialize(repeating: 0, count: max(count, 1))
        unsafe completed.initialize(repeating: 0, count: max(count, 1))
    }

    deinit {
        unsafe posted.deallocate()
        unsafe completed.deallocate()
    }

    package mutating func set(_ index: Int, posted postTime: UInt64, completed completionTime: UInt64) {
        precondition(index < count)
        unsafe posted[index] = postTime
        unsafe completed[index] = completionTime
    }

    /// The least time per message over all spans from a post to a later completion, in nanoseconds: perftest's peak.
    ///
    /// - Parameter stride: messages posted at a time, whose first one starts a span.
    package func leastNanosecondsPerMessage(postList stride: Int) -> Double {
        // Only messages with a completion time can end a span.
        let ends = (0..<count).filter { unsafe completed[$0] != 0 }
        var firstEnd = 0
        var least = Double.infinity
        var start = 0
        while start < count {
            while firstEnd < ends.count, ends[firstEnd] < start { firstEnd += 1 }
            for end in ends[firstEnd...] {
                let span = unsafe completed[end] &- posted[start]
                least = min(least, Double(span) / Double(end - start + 1))
            }
            start += max(stride, 1)
        }
        return least
    }
}

/// What a bandwidth run counted.
package struct BandwidthMeasurement: Equatable, Sendable {
    /// Message size in bytes.
    package var size: Int
    /// Messages counted, over all queue pairs.
    package var messages: Int
    /// From the first post to the last completion, or the counted part of a timed run.
    package var nanoseconds: UInt64
    /// `nil` without a peak.
    package var leastNanosecondsPerMessage: Double?

    package init(size: Int, messages: Int, nanoseconds: UInt64, leastNanosecondsPerMessage: Double? = nil) {
        self.size = size
        self.messages = messages
        self.nanoseconds = nanoseconds
        self.leastNanosecondsPerMessage = leastNanosecondsPerMessage
    }

    /// The row of the table: perftest's "MB" are 2^20 bytes, its gigabits 10^9 bits.
    package func report(gigabits: Bool) -> BandwidthReport {
        let unit: Double = gigabits ? 125_000_000 : 1_048_576
        let seconds = Double(max(nanoseconds, 1)) / 1e9
        let bytes = Double(size) * Double(messages)
        let peak = leastNanosecondsPerMessage.map { Double(size) / max($0, 1e-3) * 1e9 / unit } ?? 0
        return BandwidthReport(
            size: size, iterations: messages, peak: peak, average: bytes / seconds / unit,
            messageRate: Double(messages) / seconds / 1e6)
    }
}
