// SPDX-License-Identifier: Apache-2.0

/// The order of a perftest session, from the first record on. A pure value: the session walks
/// it, tests compare it with what the stock programs do.
///
/// Each exchange is lock-step: the client writes then reads, the server reads then writes.
package struct HandshakeScript: Equatable, Sendable {
    /// What the two ends do together.
    package enum Step: Equatable, Sendable {
        /// The record of every queue pair, one exchange each.
        case records
        /// The record of queue pair 0 again, as a barrier.
        case sync
        /// Bring the queue pairs to RTR and RTS, with `-R` through the connection manager.
        case connect
        /// Post the receives of one run.
        case postReceives
        /// Measure one message size.
        case run
        /// Exchange the five fields of a ``BandwidthReport``.
        case report
        /// Exchange how many messages were checked and how many were wrong. Only between ends of this package.
        case verdict
    }

    package let opening: [Step]
    package let eachSize: [Step]
    package let closing: [Step]

    /// - Parameter betweenOwnEnds: the peer is this program too, so that steps may be added that perftest lacks.
    package init(_ plan: PerfPlan, betweenOwnEnds: Bool) {
        let bandwidth = plan.test.measure == .bandwidth
        let timed = plan.iterations == nil
        var opening: [Step]
        var closing: [Step]
        switch (plan.test.operation, bandwidth) {
        case (.send, _):
            opening = [.records, .connect, .sync, .records]
            var steps: [Step] = [.postReceives, .sync, .run]
            if plan.bidirectional, !timed { steps.append(.report) }
            if bandwidth, plan.allSizes { steps.append(.sync) }
            eachSize = steps
            closing = [.sync]
        case (_, true):
            opening = [.records, .connect, .records, .sync]
            if plan.bidirectional {
                eachSize = plan.allSizes ? [.sync, .run, .sync, .report] : [.sync, .run, .report]
                closing = [.sync]
            } else {
                eachSize = [.run]
                closing = [.sync, .report, .sync]
            }
        case (let operation, false):
            opening = [.sync, .records, .connect, .records, .sync]
            eachSize = [.run]
            // ib_write_lat closes its socket at the end of the run without a word.
            closing = operation == .write && !betweenOwnEnds ? [] : [.sync]
        }
        if betweenOwnEnds, plan.validate {
            closing.insert(.verdict, at: closing.firstIndex(of: .report) ?? 1)
        }
        // With -R the queue pairs are connected before the first record, between two barriers.
        if plan.useConnectionManager {
            opening = [.sync, .connect, .sync] + opening.filter { $0 != .connect }
        }
        self.opening = opening
        self.closing = closing
    }

    /// The lengths of the messages of one end in order, for a session over `queuePairs` and `sizes`.
    package func messageLengths(queuePairs: Int, sizes: Int, record: DestinationRecord.Form) -> [Int] {
        let steps = opening + Array(repeating: eachSize, count: sizes).flatMap(\.self) + closing
        return steps.flatMap { step -> [Int] in
            switch step {
            case .records: Array(repeating: record.byteCount, count: queuePairs)
            case .sync: [record.byteCount]
            case .report: Array(repeating: 8, count: BandwidthReport.fieldCount)
            case .verdict: [ValidationVerdict.byteCount]
            case .connect, .postReceives, .run: []
            }
        }
    }
}

/// The result of `--validate` at one end.
package struct ValidationVerdict: Equatable, Sendable, Codable {
    package var checked: UInt64 = 0
    package var wrong: UInt64 = 0
    /// Bytes from the start of the first wrong message to its first wrong byte; meaningless while `wrong` is 0.
    package var firstWrongOffset: UInt64 = 0

    package static let byteCount = 24

    package init(checked: UInt64 = 0, wrong: UInt64 = 0, firstWrongOffset: UInt64 = 0) {
        self.checked = checked
        self.wrong = wrong
        self.firstWrongOffset = firstWrongOffset
    }

    package var encoded: [UInt8] { [checked, wrong, firstWrongOffset].flatMap(\.bigEndianBytes) }

    package init(parsing bytes: [UInt8]) {
        self.init(
            checked: UInt64(bigEndianBytes: bytes.prefix(8)),
            wrong: UInt64(bigEndianBytes: bytes.dropFirst(8).prefix(8)),
            firstWrongOffset: UInt64(bigEndianBytes: bytes.dropFirst(16).prefix(8)))
    }
}
