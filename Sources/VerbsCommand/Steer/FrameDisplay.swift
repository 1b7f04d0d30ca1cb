// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// Shows what a ``FrameReceiver`` receives until an end is reached.
struct FrameDisplay: ~Copyable {
    enum Style {
        /// A line for each frame.
        case frames
        /// A table of counts, once a second.
        case counts
        /// A line of JSON for each frame.
        case json
    }

    private let receiver: FrameReceiver
    private let style: Style
    private var file: CaptureFile?
    private var taken = 0
    /// Completions with an error: frames longer than a receive, which is as long as any.
    private var failed = 0
    /// What is still to be written to standard output.
    private var pending = ""
    private var shownRows = 0
    private var previous: [FlowCounters] = []
    private var clock = LocalClock()

    init(_ receiver: FrameReceiver, style: Style, file: consuming CaptureFile?) {
        self.receiver = receiver
        self.style = style
        self.file = file
    }

    /// Receives `count` frames, for `seconds`, or until the user ends it.
    mutating func run(count: Int?, seconds: Double?) throws(VerbsError) {
        StopSignal.listen()
        showPlacements()
        let start = ContinuousClock.now
        let end = seconds.map { start + .nanoseconds(Int64($0 * 1e9)) }
        var nextTable = start + .seconds(1)
        while !StopSignal.isGiven, taken < count ?? .max {
            let now = ContinuousClock.now
            if let end, now >= end { break }
            if style == .counts, now >= nextTable {
                try showCounts(isLast: false)
                nextTable += .seconds(1)
            }
            if try !takeBatch(limit: count ?? .max) {
                flush()
                // A signal or the next table is not waited for longer than this.
                _ = try receiver.completions.wait(timeout: .milliseconds(100))
            }
        }
        flush()
        do throws(CaptureFile.Failure) { try file?.flush() } catch { throw Self.error(error) }
        try showCounts(isLast: true)
    }

    /// Takes what has come, up to 256 frames at once; `false` if nothing had.
    private mutating func takeBatch(limit: Int) throws(VerbsError) -> Bool {
        for position in 0..<256 {
            guard taken < limit, let completion = try receiver.completions.next() else { return position > 0 }
            try take(completion)
        }
        flush()
        return true
    }

    private mutating func take(_ completion: consuming Completion) throws(VerbsError) {
        let work = completion.workCompletion
        guard let buffer = completion.takeBuffer() else { return }
        guard work.isSuccess else {
            failed += 1
            guard work.status == .localLengthError else {
                throw VerbsError(
                    .system, verb: "ibv_poll_cq", subject: "\(work.status)", remedy: work.status.remedy)
            }
            return try receiver.post(buffer)
        }
        taken += 1
        try show(buffer, work.frame)
        try receiver.post(buffer)
    }

    private mutating func show(_ buffer: borrowing RegisteredBuffer, _ facts: FrameDescription) throws(VerbsError) {
        let time = facts.timestamp ?? LocalClock.nanoseconds
        switch style {
        case .frames: pending += line(buffer.bytes, facts, time)
        case .json: pending += CommandOutput.jsonLine(FrameRecord(buffer.bytes, facts, time))
        case .counts: break
        }
        do throws(CaptureFile.Failure) {
            try file?.add(buffer.bytes, nanoseconds: time)
        } catch {
            throw Self.error(error)
        }
    }

    private static func error(_ failure: CaptureFile.Failure) -> VerbsError {
        VerbsError(
            .system, verb: "write", code: failure.code, subject: failure.path, remedy: "Is there room for the file?")
    }

    private mutating func flush() {
        if !pending.isEmpty { CommandOutput.write(pending, to: STDOUT_FILENO) }
        pending = ""
    }

    private mutating func line(_ frame: RawSpan, _ facts: FrameDescription, _ time: UInt64) -> String {
        let summary = FrameSummary(of: frame)
        var text = "\(clock.text(time)) \(String(frame.byteCount).leftPadded(to: 5)) B"
        if let tag = facts.tag { text += "  tag \(tag)" }
        if let vlan = facts.vlanTag { text += "  vlan \(vlan & 0xFFF)" }
        text += "  \(summary.source) > \(summary.destination)  \(summary.kind)"
        if let from = summary.from, let to = summary.to { text += "  \(from.text) > \(to.text)" }
        return text + "\n"
    }

    // MARK: Rules

    private func showPlacements() {
        if style == .json {
            return CommandOutput.write(CommandOutput.jsonLine(RuleRecord.list(receiver)), to: STDOUT_FILENO)
        }
        for attached in receiver.flows {
            let placement = attached.flow.placement
            CommandOutput.note(
                "'\(attached.flow.rule)' is carried out by \(placement.place)"
                    + (placement.lender.map { ", lent by steerd at \($0)" } ?? "") + "; the kernel's stack "
                    + (placement.reasonForCopies.map { "has the packets too: \($0)" } ?? "does not see the packets"))
        }
        // All flows of an interface are in one place.
        for refusal in receiver.flows.first?.flow.placement.refusals ?? [] {
            CommandOutput.note("  not by \(refusal)")
        }
    }

    private mutating func showCounts(isLast: Bool) throws(VerbsError) {
        if style == .json {
            if isLast {
                CommandOutput.write(CommandOutput.jsonLine(try EndRecord(receiver, taken, failed)), to: STDOUT_FILENO)
            }
            return
        }
        var table = AlignedTable(heading: ["packets", "bytes", "packets/s", "rule"])
        var counters: [FlowCounters] = []
        for (index, attached) in receiver.flows.enumerated() {
            let counted = try attached.flow.counters
            let rate = index < previous.count ? String(counted.packets - previous[index].packets) : "-"
            table.add([String(counted.packets), String(counted.bytes), isLast ? "-" : rate, "\(attached.flow.rule)"])
            counters.append(counted)
        }
        previous = counters
        var text = table.text
        if isLast {
            text += "\n\(taken) packets received"
            for loss in receiver.losses { text += ", \(loss.value) \(loss.name)" }
        }
        // On a terminal the table stays where it is.
        if shownRows > 0, CommandOutput.isTerminal { text = "\u{1B}[\(shownRows)A\u{1B}[J" + text }
        shownRows = receiver.flows.count + 1
        CommandOutput.line(text)
    }
}

/// The time of day in the user's zone.
struct LocalClock {
    private var second = Int.min
    private var prefix = ""

    static var nanoseconds: UInt64 {
        var time = timespec()
        _ = unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    /// `17:05:09.123456` for nanoseconds since 1970.
    mutating func text(_ nanoseconds: UInt64) -> String {
        var seconds = time_t(nanoseconds / 1_000_000_000)
        if seconds != second {
            second = seconds
            var parts = unsafe tm()
            _ = unsafe localtime_r(&seconds, &parts)
            prefix = unsafe [parts.tm_hour, parts.tm_min, parts.tm_sec].map { $0 < 10 ? "0\($0)" : "\($0)" }
                .joined(separator: ":")
        }
        let micro = String(nanoseconds % 1_000_000_000 / 1000)
        return "\(prefix).\(String(repeating: "0", count: 6 - micro.count))\(micro)"
    }
}

extension String {
    func leftPadded(to width: Int) -> String { String(repeating: " ", count: max(0, width - count)) + self }
}
