// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

/// A raw packet test between two ends, or of one end alone.
///
/// The server steers by a rule on its Ethernet address and a UDP port and counts what is delivered; the client builds the frames. Over
/// TCP each end tells the other its addresses, the client says what is run, and after each size both tell what they counted.
package final class RawSession {
    private let options: RawOptions
    private let link: PeerConnection?
    private let printer: PerfPrinter
    private let endpoint: RawEndpoint
    /// What the client runs, at both ends.
    private let plan: RawGreeting
    private let peer: RawGreeting?
    private var result: RawResult

    private var isServer: Bool { options.isServerAlone || link?.role == .server }

    /// Runs the test and returns what was measured. The text of it goes to the printer as it comes.
    ///
    /// - Parameter link: to the other end; `nil` for an end that is alone.
    package static func run(
        _ options: RawOptions, over link: PeerConnection?, printer: PerfPrinter
    ) throws(PerfError) -> RawResult {
        let session = try RawSession(options, link, printer)
        return try session.run()
    }

    private init(_ options: RawOptions, _ link: PeerConnection?, _ printer: PerfPrinter) throws(PerfError) {
        try options.validated()
        self.link = link
        self.printer = printer
        let (device, interface) = try Self.choose(options, localAddress: link?.localAddress ?? [])
        let isServer = options.isServerAlone || link?.role == .server
        let own = RawGreeting(
            test: options.test, mac: interface.mac, address: interface.address, port: options.destinationPort,
            // A server has the sizes of its client.
            sizes: isServer && link != nil ? [RawOptions.sizes.lowerBound] : try options.sizes(mtu: interface.mtu),
            iterations: options.durationSeconds == nil ? options.iterations ?? 1000 : 0,
            durationSeconds: options.durationSeconds ?? 0, queuePairs: options.queuePairs)
        if let link {
            peer = try RawGreeting(parsing: link.exchange(own.encoded))
        } else {
            peer = nil
        }
        plan = isServer ? peer ?? own : own
        guard peer == nil || peer?.test == options.test else {
            throw .protocolMismatch("The peer runs \(plan.test.rawValue): start the same test at both ends.")
        }
        if let largest = plan.sizes.last, largest > interface.mtu + 14 {
            throw .usage("-s \(largest): \(interface.name) takes frames of up to \(interface.mtu + 14) bytes here.")
        }
        var options = options
        options.queuePairs = plan.queuePairs
        let receives = isServer || options.test == .latency
        let depth = options.receiveDepth ?? max(64, min(4096, 32_000 / plan.queuePairs))
        endpoint = try RawEndpoint(
            device, interface, queuePairs: plan.queuePairs, transmitDepth: options.transmitDepth ?? 128,
            receiveDepth: receives ? depth : 1)
        self.options = options
        result = RawResult(
            options, role: isServer ? "server" : "client", device: device.context.device.name,
            interface: interface.name)
    }

    static func choose(
        _ options: RawOptions, localAddress: [UInt8]
    ) throws(PerfError) -> (DeviceChoice, InterfaceFacts) {
        var choice = PerfOptions(test: .sendBandwidth)
        choice.device = options.device
        choice.devicePort = options.devicePort
        let device = try DeviceChoice(choice, localAddress: localAddress)
        guard let name = device.context.device.interface else {
            throw .device("\(device.context.device.name) has no Ethernet interface: choose another device with -d.")
        }
        return (device, try InterfaceFacts(named: name))
    }

    private func run() throws(PerfError) -> RawResult {
        if isServer || options.test == .latency {
            try endpoint.postAllReceives()
            try endpoint.attach(rules, options)
            result.note(endpoint.placement)
        }
        showBanner()
        for size in plan.sizes {
            writeFrames(size)
            if let link { _ = try link.exchange(UInt64(size).bigEndianBytes) }
            switch options.test {
            case .bandwidth: if isServer { try receive(size) } else { try send(size) }
            case .latency: if isServer { try answer(size) } else { try measureLatency(size) }
            case .flowRate: break
            }
        }
        result.losses = endpoint.losses
        printer.line(ReportText.rule)
        for (name, value) in result.losses.sorted(by: { $0.key < $1.key }) { printer.line(" \(name): \(value)") }
        link?.finish()
        return result
    }

    // MARK: Rules and frames

    /// Frames of the server go to the port behind the client's.
    private var receivePort: Int { plan.port + (isServer ? 0 : 1) }

    private var rules: [FlowRule] {
        if let rule = options.rule { return [rule] }
        return (0..<plan.queuePairs).map { index in
            let rule = FlowRule.ipv4().udp(
                destinationPort: FlowPattern(exactly: UInt16(truncatingIfNeeded: receivePort + index)))
            // Who sends to an end that is alone may name any address; a UDP socket sees none.
            if options.isServerAlone || options.places == [.udp] { return rule }
            return rule.ethernet(
                destination: MACPattern(FlowPattern(endpoint.interface.mac, mask: 0xFFFF_FFFF_FFFF)))
        }
    }

    private func writeFrames(_ size: Int) {
        guard !isServer || options.test == .latency else { return }
        let interface = endpoint.interface
        for index in 0..<plan.queuePairs {
            let port = UInt16(truncatingIfNeeded: plan.port + index + (isServer ? 1 : 0))
            let frame = RawFrame(
                destinationMAC: options.destinationMAC ?? peer?.mac ?? 0, sourceMAC: interface.mac,
                sourceAddress: interface.address, destinationAddress: options.destinationAddress ?? peer?.address ?? 0,
                sourcePort: UInt16(truncatingIfNeeded: receivePort + index), destinationPort: port)
            endpoint.write(frame.bytes(size: size), index, 0)
        }
    }

    private func showBanner() {
        printer.line(ReportText.rule)
        printer.line("                    Raw Ethernet \(options.test == .latency ? "Latency" : "BW") Test")
        printer.line(" Device         : \(result.device)\t\tInterface      : \(result.interface)")
        printer.line(" Number of qps  : \(plan.queuePairs)\t\tFrames of      : IPv4 UDP, port \(plan.port)")
        if let place = result.place {
            printer.line(" Steered by     : \(place)\(result.takesFromStack == true ? ", taken from the kernel" : "")")
        }
        printer.line(ReportText.rule)
        switch options.test {
        case .bandwidth: printer.line(ReportText.bandwidthHeading(gigabits: options.reportGigabits))
        case .latency: if !isServer { printer.line(ReportText.latencyHeading) }
        case .flowRate: break
        }
    }

    // MARK: Bandwidth

    private func send(_ size: Int) throws(PerfError) {
        var sender = RawSender(endpoint, size: size)
        var watch = RawWatch(link: nil, stallSeconds: options.stallSeconds)
        let started = monotonicNanoseconds()
        let total = plan.durationSeconds > 0 ? Int.max : plan.iterations * plan.queuePairs
        var limit = total
        while sender.completed < limit {
            var moved = try sender.post(limit: limit)
            if try sender.poll() { moved = true }
            if plan.durationSeconds > 0, limit == total,
                monotonicNanoseconds() - started >= UInt64(plan.durationSeconds) * 1_000_000_000
            {
                limit = sender.posted
            }
            if moved { watch.moved() } else { _ = try watch.isIdle(sender.completed) }
        }
        let elapsed = monotonicNanoseconds() - started
        show(size, frames: sender.completed, nanoseconds: elapsed)
        guard let link else { return }
        let answer = try link.exchange(UInt64(sender.completed).bigEndianBytes, patience: .run)
        noteLost(size, sent: sender.completed, received: Int(clamping: UInt64(bigEndianBytes: answer)))
    }

    private func receive(_ size: Int) throws(PerfError) {
        var receiver = RawReceiver(endpoint)
        var watch = RawWatch(link: link, stallSeconds: options.stallSeconds)
        let total = link == nil && plan.durationSeconds == 0 ? plan.iterations * plan.queuePairs : Int.max
        var (first, last): (UInt64, UInt64) = (0, 0)
        while receiver.received < total {
            guard try receiver.poll() else {
                // The client has sent all, and nothing has come for a while.
                if try watch.isIdle(receiver.received) { break }
                continue
            }
            watch.moved()
            last = monotonicNanoseconds()
            if first == 0 { first = last }
            if link == nil, plan.durationSeconds > 0,
                last - first >= UInt64(plan.durationSeconds) * 1_000_000_000
            {
                break
            }
        }
        // Nobody tells an end that is alone how long the frames are.
        let mean = receiver.byteCount / max(1, receiver.received)
        show(link == nil ? mean : size, frames: receiver.received, nanoseconds: last - first)
        if receiver.tooLong > 0 {
            printer.note("\(receiver.tooLong) frames were longer than the MTU and were dropped.")
        }
        guard let link else { return }
        let answer = try link.exchange(UInt64(receiver.received).bigEndianBytes, patience: .run)
        noteLost(size, sent: Int(clamping: UInt64(bigEndianBytes: answer)), received: receiver.received)
    }

    private func noteLost(_ size: Int, sent: Int, received: Int) {
        let lost = max(0, sent - received)
        result.lost += lost
        if lost > 0 {
            printer.note(
                "\(lost) of \(sent) frames of \(size) bytes were lost on the way: nothing tells a sender to wait.")
        }
    }

    private func show(_ size: Int, frames: Int, nanoseconds: UInt64) {
        let measured = BandwidthMeasurement(size: size, messages: frames, nanoseconds: nanoseconds)
        let report = measured.report(gigabits: options.reportGigabits)
        result.bandwidth.append(report)
        printer.line(ReportText.row(report, gigabits: options.reportGigabits))
    }

    // MARK: Latency

    private func answer(_ size: Int) throws(PerfError) {
        var receiver = RawReceiver(endpoint)
        var sender = RawSender(endpoint, size: size)
        var watch = RawWatch(link: link, stallSeconds: options.stallSeconds)
        while true {
            let before = receiver.received
            if try receiver.poll(readsNumbers: true) {
                watch.moved()
                guard receiver.received > before else { continue }
                // The send before it has left: its frame came back.
                while sender.completed < sender.posted { _ = try sender.poll() }
                endpoint.setNumber(receiver.lastNumber, 0, 0)
                while try !sender.post(limit: sender.posted + 1) { _ = try sender.poll() }
            } else if try watch.isIdle(receiver.received) {
                break
            }
            _ = try sender.poll()
        }
        guard let link else { return }
        _ = try link.exchange(UInt64(receiver.received).bigEndianBytes, patience: .run)
    }

    /// How long an answer may take before it counts as lost.
    private static let answerNanoseconds: UInt64 = 500_000_000

    private func measureLatency(_ size: Int) throws(PerfError) {
        var receiver = RawReceiver(endpoint)
        var sender = RawSender(endpoint, size: size)
        var recorder = LatencyRecorder(keepsSamples: printer.listing == .sorted || printer.listing == .unsorted)
        let start = monotonicNanoseconds()
        let end = plan.durationSeconds > 0 ? start + UInt64(plan.durationSeconds) * 1_000_000_000 : UInt64.max
        let total = plan.durationSeconds > 0 ? Int.max : plan.iterations
        var (sent, lost) = (0, 0)
        while sent < total, monotonicNanoseconds() < end {
            sent += 1
            endpoint.setNumber(UInt64(sent), 0, 0)
            let posted = monotonicNanoseconds()
            while try !sender.post(limit: sender.posted + 1) { _ = try sender.poll() }
            var now = posted
            repeat {
                _ = try receiver.poll(readsNumbers: true)
                now = monotonicNanoseconds()
            } while receiver.lastNumber != UInt64(sent) && now - posted < Self.answerNanoseconds
            if receiver.lastNumber != UInt64(sent) {
                lost += 1
                guard lost < 10 || lost < sent / 2 else {
                    throw .stalled(
                        "\(lost) of \(sent) frames had no answer: is the peer's interface the one that its -d names?")
                }
            } else if recorder.add(now - posted) {
                recorder.drain()
            }
            while sender.completed < sender.posted { _ = try sender.poll() }
        }
        recorder.drain()
        result.lost += lost
        if let summary = recorder.summary(size: size, iterations: sent - lost, roundTrips: 2) {
            list(&recorder)
            result.latency.append(summary)
            printer.line(ReportText.row(summary))
        }
        if lost > 0 { printer.note("\(lost) of \(sent) frames had no answer and are not in the figures.") }
        if let link { _ = try link.exchange(UInt64(sent).bigEndianBytes, patience: .run) }
    }

    private func list(_ recorder: inout LatencyRecorder) {
        switch printer.listing {
        case .sorted: printer.line(ReportText.samples(recorder.samples.sorted(), roundTrips: 2))
        case .unsorted: printer.line(ReportText.samples(recorder.samples, roundTrips: 2))
        case .percentiles: printer.line(recorder.distribution(roundTrips: 2))
        case nil: break
        }
    }
}
