// SPDX-License-Identifier: Apache-2.0

/// What a test came to, for machines; the row keys are those of perftest's JSON.
package struct PerfResult: Sendable, Encodable {
    /// The program at the other end.
    package struct Peer: Sendable, Encodable {
        /// What the peer calls its version of perftest.
        package var version: String
        /// Whether it is this program.
        package var isSameProgram: Bool
    }

    /// What each end says of the bytes that it got.
    package struct Validation: Sendable, Encodable {
        package var here: ValidationVerdict
        package var peer: ValidationVerdict
    }

    package var test: PerfTest
    package var role: String
    package var connection: PerfConnection
    package var device: String
    package var gid: String?
    package var gidIndex: Int?
    package var pathMTU: Int
    package var queuePairs: Int
    package var bidirectional: Bool
    /// Whether the connection manager connected the queue pairs (`-R`).
    package var connectionManager: Bool
    package var peer: Peer
    /// `MB/sec` (2^20 bytes), `Gb/sec` (10^9 bits) or `usec`.
    package var unit: String
    package var bandwidth: [BandwidthReport] = []
    package var latency: [LatencySummary] = []
    package var validation: Validation?
    /// Messages that did not reach this end, over UC and UD.
    package var lost = 0
    package var notes: [String] = []

    /// Holds the result against what was promised and what was asked for.
    ///
    /// - Throws: ``PerfError/corrupted(_:)`` for messages that were not right at either end,
    ///   ``PerfError/belowLimit(_:)`` below a limit of the user.
    package func check(bandwidthLimit: Double?, messageRateLimit: Double?) throws(PerfError) {
        if let validation, validation.here.wrong + validation.peer.wrong > 0 {
            let bad = validation.here.wrong > 0 ? validation.here : validation.peer
            throw .corrupted(
                """
                \(bad.wrong) of \(bad.checked) messages checked \(validation.here.wrong > 0 ? "here" : "by the peer") \
                were wrong, the first from its byte \(bad.firstWrongOffset) on.
                """)
        }
        // A one-way receiver has no figures of its own.
        for row in bandwidth where row.iterations > 0 {
            if let limit = bandwidthLimit, row.average < limit {
                throw .belowLimit("The average bandwidth \(row.average) \(unit) is below the limit \(limit) (-w).")
            }
            if let limit = messageRateLimit, row.messageRate < limit {
                throw .belowLimit("The message rate \(row.messageRate) Mpps is below the limit \(limit) (-y).")
            }
        }
    }
}

extension BandwidthReport {
    enum CodingKeys: String, CodingKey {
        case size = "MsgSize"
        case iterations = "n_iterations"
        case peak = "BW_peak"
        case average = "BW_average"
        case messageRate = "MsgRate"
    }
}

/// Where a session's text goes while it runs.
package struct PerfPrinter {
    /// How single latencies are listed.
    package enum Listing: Sendable {
        case sorted, unsorted, percentiles
    }

    /// A line of the table.
    package var line: (String) -> Void
    /// A remark beside it.
    package var note: (String) -> Void
    /// How far a long run is, in one line that the next one overwrites; `nil` where nobody watches.
    package var progress: ((String) -> Void)?
    package var listing: Listing?

    package init(
        line: @escaping (String) -> Void, note: @escaping (String) -> Void, progress: ((String) -> Void)? = nil,
        listing: Listing? = nil
    ) {
        self.line = line
        self.note = note
        self.progress = progress
        self.listing = listing
    }
}
