// SPDX-License-Identifier: Apache-2.0
import Verbs

/// Flow rules attached and detached in a second, as perftest's raw_ethernet_fs_rate, and packets in a second that the classifier finds
/// the rule of, with all of them in it.
package enum FlowRateTest {
    private static let packetCount = 100_000
    private static let batchCount = 32
    private static let seed: UInt64 = 1

    /// A flow, of which many stand in a list.
    private final class Attached {
        private var flow: Flow?
        init(_ flow: consuming Flow) { self.flow = consume flow }
        func detach() throws(VerbsError) { try flow.take()?.detach() }
    }

    /// Runs the test; there is no peer.
    package static func run(_ options: RawOptions, printer: PerfPrinter) throws(PerfError) -> RawResult {
        try options.validated()
        let (device, interface) = try RawSession.choose(options, localAddress: [])
        let rules = options.ruleSet.rules(options.iterations ?? 1000, seed: seed)
        var result = RawResult(
            options, role: "client", device: device.context.device.name, interface: interface.name)
        let rates = try attach(rules, options, device, &result)
        let lookups = try lookups(rules)
        result.unit = "1/sec"
        result.flowRates = RawResult.FlowRates(
            rules: rules.count, attached: rates.attached, detached: rates.detached, lookups: lookups)
        printer.line(ReportText.rule)
        printer.line("                    Raw Ethernet flow steering rate Test")
        printer.line(
            " Device         : \(result.device)\t\tSteered by     : \(result.place ?? "nothing")")
        printer.line(ReportText.rule)
        printer.line(" #rules     attach[rules/sec]   detach[rules/sec]   lookups[packets/sec]")
        printer.line(
            " \(padded("\(rules.count)", 9))  \(fixed(rates.attached, 2, width: 17))   \(fixed(rates.detached, 2, width: 17))   "
                + fixed(lookups, 2, width: 20))
        printer.line(ReportText.rule)
        return result
    }

    private static func attach(
        _ rules: [FiveTuple], _ options: RawOptions, _ device: DeviceChoice, _ result: inout RawResult
    ) throws(PerfError) -> (attached: Double, detached: Double) {
        let flows = rules.map(\.rule)
        do throws(VerbsError) {
            let domain = try device.context.makeProtectionDomain()
            let completions = try device.context.makeCompletionQueue(capacity: 16)
            let queuePair = try domain.makeQueuePair(
                .rawPacket, options: QueuePairOptions(sendDepth: 1, receiveDepth: 1), completions: completions)
            try queuePair.start(port: device.port.number)
            // The place is opened for the first rule; that is no rate.
            let opening = try queuePair.attach(.multicastDefault, mode: options.mode, places: options.places)
            var attached: [Attached] = []
            attached.reserveCapacity(flows.count)
            let started = monotonicNanoseconds()
            for rule in flows {
                attached.append(Attached(try queuePair.attach(rule, mode: options.mode, places: options.places)))
            }
            let between = monotonicNanoseconds()
            result.note(opening.placement)
            let resumed = monotonicNanoseconds()
            for flow in attached { try flow.detach() }
            let ended = monotonicNanoseconds()
            try opening.detach()
            return (
                Double(flows.count) / Double(max(1, between - started)) * 1e9,
                Double(flows.count) / Double(max(1, ended - resumed)) * 1e9
            )
        } catch {
            throw .device("\(error)")
        }
    }

    private static func lookups(_ rules: [FiveTuple]) throws(PerfError) -> Double {
        let classifier: FlowClassifier
        do throws(FlowRuleError) {
            classifier = try FlowClassifier(rules.map(\.rule))
        } catch {
            throw .device("\(error)")
        }
        let frames = RuleSetKind.trace(rules, packetCount, seed: seed &+ 1).map { packet in
            // A TCP frame has the ports where a UDP one has them.
            var frame = RawFrame(
                destinationMAC: 0x0200_0000_0001, sourceMAC: 0x0200_0000_0002, sourceAddress: packet.source,
                destinationAddress: packet.destination, sourcePort: packet.sourcePort,
                destinationPort: packet.destinationPort
            ).bytes(size: 64)
            frame[23] = packet.number
            return frame
        }
        // Read only: the bytes are any.
        let keys = frames.map { unsafe PacketHeaders.key(of: $0.span.bytes) }
        var ids = [UInt32](repeating: 0, count: batchCount)
        var best = 0.0
        for _ in 0..<5 {
            let started = monotonicNanoseconds()
            var span = ids.mutableSpan
            var position = 0
            while position + batchCount <= keys.count {
                classifier.winners(keys.span.extracting(position..<position + batchCount), into: &span)
                position += batchCount
            }
            best = max(best, Double(position) / Double(max(1, monotonicNanoseconds() - started)) * 1e9)
        }
        return best
    }
}
