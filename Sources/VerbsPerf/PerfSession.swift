// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// One test from the greeting to the end: walks a ``HandshakeScript`` over the connection and measures where it says so.
package final class PerfSession {
    private let connection: any PeerLink
    private let printer: PerfPrinter
    private let greeting: PeerGreeting
    private let options: PerfOptions
    private let plan: PerfPlan
    private let script: HandshakeScript
    private let endpoint: PerfEndpoint
    private var result: PerfResult
    private var lastReport = BandwidthReport.none
    private var recordRounds = 0
    /// How records look on the link.
    private let recordForm: DestinationRecord.Form

    private var isServer: Bool { connection.role == .server }

    /// Runs the test and returns what was measured. The text of it goes to the printer as it comes.
    package static func run(
        _ options: PerfOptions, over connection: any PeerLink, printer: PerfPrinter
    ) throws(PerfError) -> PerfResult {
        let session = try PerfSession(options, connection, printer)
        return try session.run()
    }

    private init(_ options: PerfOptions, _ connection: any PeerLink, _ printer: PerfPrinter) throws(PerfError) {
        self.connection = connection
        self.printer = printer
        greeting = try PeerGreeting(parsing: connection.exchange(PeerGreeting.own.encoded))
        guard !greeting.isKnownIncompatible else {
            throw .protocolMismatch(
                "The peer is perftest 6.28 (26.01.5), which exchanges a raw C structure; use any other version.")
        }
        let page = try Self.larger(UInt32(sysconf(Int32(_SC_PAGESIZE))), over: connection)
        let cacheLine = try Self.larger(64, over: connection)
        let managed = connection as? ManagedConnection
        let choice =
            if let managed {
                try DeviceChoice(managed)
            } else {
                try DeviceChoice(options, localAddress: connection.localAddress)
            }
        let mtu = try Self.smaller(choice.pathMTU(options), over: connection)
        var options = options
        if greeting.isOwn {
            options = try Self.agreed(options, pathMTU: mtu, over: connection)
        } else if options.validate {
            throw .usage("--validate needs this program at both ends; the peer is perftest \(greeting.version).")
        }
        self.options = options
        plan = try PerfPlan(options, isServer: connection.role == .server)
            .limited(toPathMTU: mtu.byteCount, sizeWasGiven: options.size != nil)
        script = HandshakeScript(plan, betweenOwnEnds: greeting.isOwn)
        endpoint = try PerfEndpoint(
            options: options, plan: plan, choice: choice, pathMTU: mtu, isServer: connection.role == .server,
            layout: BufferLayout(plan: plan, cycleBuffer: page, cacheLine: cacheLine))
        recordForm =
            managed == nil ? choice.gid == nil ? .withoutGID : .withGID : .structure(hasMarkers: greeting.hasMarkers)
        result = PerfResult(
            test: plan.test, role: connection.role == .server ? "server" : "client", connection: plan.connection,
            device: choice.context.device.name, gid: choice.gid.map { "\($0.gid)" }, gidIndex: choice.gid?.index,
            pathMTU: mtu.byteCount, queuePairs: plan.queuePairs, bidirectional: plan.bidirectional,
            connectionManager: plan.useConnectionManager,
            peer: PerfResult.Peer(version: greeting.version, isSameProgram: greeting.isOwn),
            unit: plan.test.measure == .latency ? "usec" : options.reportGigabits ? "Gb/sec" : "MB/sec",
            notes: plan.notes)
    }

    private func run() throws(PerfError) -> PerfResult {
        for note in plan.notes { printer.note(note) }
        printer.line(endpoint.banner.text)
        for step in script.opening { try take(step) }
        showHeading()
        for size in plan.sizes {
            for step in script.eachSize { try take(step, size: size) }
        }
        for step in script.closing { try take(step) }
        printer.line(ReportText.rule)
        connection.finish()
        return result
    }

    private func take(_ step: HandshakeScript.Step, size: Int = 0) throws(PerfError) {
        switch step {
        case .records: try exchangeRecords()
        case .sync: _ = try exchangeRecord(0, patience: .run)
        case .connect: try connect()
        case .postReceives: try endpoint.postReceives(size: size)
        case .run: try measure(size)
        case .report: try exchangeReport()
        case .verdict: try exchangeVerdict()
        }
    }
}

// Greeting.
extension PerfSession {
    /// Exchanges a number of which both ends use the larger.
    private static func larger(_ own: UInt32, over connection: any PeerLink) throws(PerfError) -> Int {
        let peer = UInt32(bigEndianBytes: try connection.exchange(own.bigEndianBytes))
        // A page or a cache line beyond this is noise, and would only make the region huge.
        guard peer <= 1 << 24 else {
            throw .protocolMismatch("The peer's page size or cache line of \(peer) bytes cannot be: it is no perftest.")
        }
        return Int(max(own, peer))
    }

    /// Exchanges the MTU code as a digit; both ends use the smaller.
    private static func smaller(_ own: MTU, over connection: any PeerLink) throws(PerfError) -> MTU {
        let answer = try connection.exchange([UInt8(ascii: "0") + UInt8(own.rawValue), 0])
        guard let peer = MTU(rawValue: UInt32(answer[0] &- UInt8(ascii: "0"))) else { return own }
        return min(own, peer)
    }

    /// Between two ends of this program, the server follows the client.
    private static func agreed(
        _ options: PerfOptions, pathMTU: MTU, over connection: any PeerLink
    ) throws(PerfError) -> PerfOptions {
        // The size that will be run: what the path MTU makes of it is settled before the other end takes it over.
        let plan = try PerfPlan(options, isServer: connection.role == .server)
            .limited(toPathMTU: pathMTU.byteCount, sizeWasGiven: options.size != nil)
        let own = PeerParameters(plan, reportGigabits: options.reportGigabits)
        let peer = try PeerParameters(parsing: connection.exchange(own.encoded))
        if connection.role == .server { return try peer.adopted(by: options) }
        guard peer.test == options.test else {
            throw .protocolMismatch(
                "This end runs \(options.test.rawValue), the server \(peer.test.rawValue): run the same test at both ends."
            )
        }
        return options
    }
}

// Exchanges.
extension PerfSession {
    private func exchangeRecords() throws(PerfError) {
        for index in 0..<plan.queuePairs {
            let record = try exchangeRecord(index)
            try endpoint.setPeer(record, index: index)
        }
        // perftest prints in the second round.
        recordRounds += 1
        guard recordRounds == 2 else { return }
        for isLocal in [true, false] {
            for record in isLocal ? endpoint.records : endpoint.peers {
                printer.line(ReportText.address(record, isLocal: isLocal, operation: plan.test.operation))
            }
        }
    }

    private func exchangeRecord(
        _ index: Int, patience: PeerConnection.Patience = .setUp
    ) throws(PerfError) -> DestinationRecord {
        let own = endpoint.records[index]
        let bytes = try connection.exchange(own.encoded(as: recordForm), patience: patience)
        return try DestinationRecord(parsing: bytes, form: recordForm)
    }

    private func connect() throws(PerfError) {
        if let link = connection as? ManagedConnection {
            try endpoint.connect(through: link)
        } else {
            try endpoint.connect()
        }
    }

    /// Exchanges the figures; a bidirectional test adds them up, a passive server shows the client's.
    private func exchangeReport() throws(PerfError) {
        var fields: [[UInt8]] = []
        for field in lastReport.fields { fields.append(try connection.exchange(field, patience: .run)) }
        let peer = BandwidthReport(fields: fields)
        if plan.bidirectional {
            show(lastReport.combined(with: peer), ownAverage: lastReport.average)
        } else if isServer {
            show(peer)
        }
    }

    private func exchangeVerdict() throws(PerfError) {
        let own = try endpoint.verdict()
        let peer = ValidationVerdict(parsing: try connection.exchange(own.encoded, count: ValidationVerdict.byteCount))
        result.validation = PerfResult.Validation(here: own, peer: peer)
        printer.line(
            " Checked \(own.checked) messages here and \(peer.checked) at the peer: \(own.wrong + peer.wrong) wrong.")
    }
}

// Measuring and showing.
extension PerfSession {
    private func showHeading() {
        printer.line(ReportText.rule)
        switch plan.test.measure {
        case .bandwidth: printer.line(ReportText.bandwidthHeading(gigabits: options.reportGigabits))
        case .latency where isServer && plan.test.isResponderPassive: break
        case .latency:
            printer.line(plan.iterations == nil ? ReportText.timedLatencyHeading : ReportText.latencyHeading)
        }
    }

    private func measure(_ size: Int) throws(PerfError) {
        let total = (plan.iterations ?? 0) * plan.queuePairs
        var watch = RunWatch(
            connection: connection, isEmbeddedDevice: endpoint.isEmbeddedDevice, stallSeconds: options.stallSeconds,
            total: total, progress: printer.progress)
        defer { watch.finish() }
        switch plan.test.measure {
        case .bandwidth:
            // A one-way responder of WRITE, READ and ATOMIC has nothing to do but to be there.
            guard plan.test.operation == .send || plan.bidirectional || !isServer else { return }
            var run = BandwidthRun(endpoint: endpoint, size: size, watch: watch)
            lastReport = try run.measured().report(gigabits: options.reportGigabits)
            if run.lost > 0 {
                result.lost += run.lost
                printer.note(
                    "\(run.lost) of \(total) messages of \(size) bytes were lost: \(plan.connection.rawValue) does not repeat them."
                )
            }
            if !plan.bidirectional || !script.eachSize.contains(.report) { show(lastReport) }
        case .latency:
            guard !(isServer && plan.test.isResponderPassive) else { return }
            var run = LatencyRun(
                endpoint: endpoint, size: size, watch: watch,
                keepsSamples: printer.listing == .sorted || printer.listing == .unsorted)
            if let summary = try run.measured() { show(summary, &run) }
        }
    }

    private func show(_ report: BandwidthReport, ownAverage: Double? = nil) {
        result.bandwidth.append(report)
        printer.line(ReportText.row(report, gigabits: options.reportGigabits, ownAverage: ownAverage))
    }

    private func show(_ summary: LatencySummary, _ run: inout LatencyRun) {
        let roundTrips = plan.test.roundTripsPerLatency
        switch printer.listing {
        case .sorted: printer.line(ReportText.samples(run.recorder.samples.sorted(), roundTrips: roundTrips))
        case .unsorted: printer.line(ReportText.samples(run.recorder.samples, roundTrips: roundTrips))
        case .percentiles: printer.line(run.recorder.distribution(roundTrips: roundTrips))
        case nil: break
        }
        result.latency.append(summary)
        printer.line(ReportText.row(summary))
    }
}
