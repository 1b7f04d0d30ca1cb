// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Verbs
import VerbsPerf

extension RuleSetKind: ExpressibleByArgument {}

/// What `verbs perf` measures: messages, or frames and the rules that steer them.
enum PerfSubject: ExpressibleByArgument {
    case messages(PerfTest)
    case frames(RawTest)

    init?(argument: String) {
        if let test = PerfTest(rawValue: argument) {
            self = .messages(test)
        } else if let test = RawTest(rawValue: argument) {
            self = .frames(test)
        } else {
            return nil
        }
    }

    static var allValueStrings: [String] { PerfTest.allCases.map(\.rawValue) + RawTest.allCases.map(\.rawValue) }
}

/// What raw-bw, raw-lat and fs-rate have besides the options of the other tests.
struct RawArguments: ParsableArguments {
    @Option(
        name: [.customShort("E", allowingJoined: true), .customLong("dest_mac"), .customLong("dest-mac")],
        help: ArgumentHelp("Ethernet address that frames go to. Default: the peer's.", valueName: "mac"))
    var destinationMAC: String?

    @Option(
        name: [.customShort("J", allowingJoined: true), .customLong("dest_ip"), .customLong("dest-ip")],
        help: ArgumentHelp("IPv4 address in the frames. Default: the peer's.", valueName: "address"))
    var destinationAddress: String?

    @Option(
        name: [.customShort("K", allowingJoined: true), .customLong("dest_port"), .customLong("dest-port")],
        help: ArgumentHelp("UDP port in the frames, of the first queue pair.", valueName: "port"))
    var destinationPort = 7000

    @Flag(name: [.customShort("Z"), .customLong("server")], help: "Receive from whoever sends, without a peer.")
    var server = false

    @Flag(name: [.customShort("P"), .customLong("client")], help: "Send to --dest-mac, without a peer.")
    var client = false

    @Option(name: .long, help: ArgumentHelp("Steer by this rule, see `verbs steer --help`.", valueName: "rule"))
    var rule: String?

    @Option(
        name: .long,
        help: ArgumentHelp("Places that may carry the rules out, see `verbs steer --help`.", valueName: "place[,...]"))
    var place: String?

    @Option(name: .long, help: ArgumentHelp("exclusive, single-user or shared.", valueName: "mode"))
    var mode = FlowMode.singleUser

    @Option(name: .customLong("rule-set"), help: ArgumentHelp("Rules of fs-rate: acl, fw or ipc.", valueName: "kind"))
    var ruleSet = RuleSetKind.acl

    func options(_ test: RawTest, host: String?, _ arguments: PerfArguments) throws -> RawOptions {
        var options = RawOptions(test: test)
        options.host = host
        options.device = arguments.device
        options.devicePort = arguments.devicePort
        options.size = arguments.size?.value
        options.allSizes = arguments.allSizes
        options.iterations = arguments.iterations?.value
        options.durationSeconds = arguments.duration
        options.queuePairs = arguments.queuePairs
        options.transmitDepth = arguments.transmitDepth
        options.receiveDepth = arguments.receiveDepth
        options.reportGigabits = arguments.reportGigabits
        options.stallSeconds = arguments.stallSeconds
        if let destinationMAC {
            guard let pattern = MACPattern(destinationMAC), pattern.bits.mask == 0xFFFF_FFFF_FFFF else {
                throw ValidationError("--dest_mac \(destinationMAC): give an address such as 02:00:00:00:00:01.")
            }
            options.destinationMAC = pattern.bits.value
        }
        if let destinationAddress {
            guard let pattern = IPv4Pattern(destinationAddress), pattern.bits.mask == .max else {
                throw ValidationError("--dest_ip \(destinationAddress): give an address such as 10.0.0.7.")
            }
            options.destinationAddress = pattern.bits.value
        }
        options.destinationPort = destinationPort
        options.isServerAlone = server
        options.isClientAlone = client
        do throws(FlowRuleError) {
            options.rule = try rule.map { text throws(FlowRuleError) in try FlowRule(parsing: text) }
        } catch {
            throw ValidationError("--rule: \(error).")
        }
        options.mode = mode
        if let place { options.places = try SteerCommand.places(place) }
        options.ruleSet = ruleSet
        return options
    }
}
