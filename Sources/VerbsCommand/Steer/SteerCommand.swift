// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import Verbs

extension FlowMode: ExpressibleByArgument {}

struct SteerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "steer",
        abstract: "Steer packets to a queue pair by flow rules: what an interface can do, and what comes.",
        discussion: """
            Without a rule: the places that can carry rules out on the interface, each tried for a moment with a rule that no \
            packet matches. With rules: attaches them to a raw packet queue pair, says where they landed, and shows what comes, \
            until Ctrl-C.

            A rule names headers and what their fields must be, each with a mask behind a slash if only some bits count; then \
            `priority N`, `dont-trap`, and `action tag N`, `action drop` or `action count`:
              eth  src dst type vlan-tag vlan               tcp, udp  src-port dst-port
              ip   src dst proto tos ttl flags              esp  spi seq          vxlan  vni
              ip6  src dst flow-label next-header class hop-limit
              gre  flags type key                           mpls  entry label
            A rule may also be `any`, `all-default`, `multicast-default` or `sniffer`.

            Examples:
              verbs steer -d eth0
              verbs steer -d eth0 'ip udp dst-port 7000 action tag 3'
              verbs steer -d eth0 --quiet 'ip src 10.0.0.0/8 tcp dst-port 80' 'eth type 0x88b5'
              verbs steer -d eth0 --count 100 --pcap out.pcap sniffer
              verbs steer -d eth0 --place xdp,packet-ring --json 'ip udp dst-port 7000'
              verbs steer --explain 'ip dst 10.0.0.7 tcp dst-port 443 action drop'
            """)

    @Argument(help: ArgumentHelp("Rules, each one word of the shell: quote them.", valueName: "rule"))
    var rules: [String] = []

    @Option(
        name: [.customShort("d", allowingJoined: true), .customLong("ib-dev")],
        help: ArgumentHelp("Device, by its name or its network interface.", valueName: "dev"))
    var device: String?

    @Flag(name: .long, help: "Show what the rules mean, field by field and in bytes. No device is opened.")
    var explain = false

    @Option(name: .long, help: "Who has what no rule matches: exclusive (nobody), single-user (the kernel), shared.")
    var mode = FlowMode.singleUser

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Places that may be taken: \(FlowPlace.allCases.map(\.rawValue).joined(separator: ", ")). Default: all.",
            valueName: "place[,...]"))
    var place: String?

    @Option(name: .long, help: ArgumentHelp("End after this many packets.", valueName: "n"))
    var count: Int?

    @Option(name: .long, help: ArgumentHelp("End after this many seconds.", valueName: "s"))
    var seconds: Double?

    @Flag(name: .shortAndLong, help: "Show counts, once a second, not packets.")
    var quiet = false

    @Flag(
        name: .long, help: "Print JSON: one document, or with rules one line for each packet and the counts at the end."
    )
    var json = false

    @Option(
        name: .long, help: ArgumentHelp("Write what comes to this file, for tcpdump and Wireshark.", valueName: "file"))
    var pcap: String?

    func validate() throws {
        _ = try parsedRules()
        if let place { _ = try Self.places(place) }
        if explain, rules.isEmpty { throw ValidationError("--explain needs a rule.") }
        if !explain, device == nil { throw ValidationError("Name a device or a network interface with -d.") }
        if let count, count < 1 { throw ValidationError("--count \(count): must be at least 1.") }
        if let seconds, !(0.001...1e9).contains(seconds) {
            throw ValidationError("--seconds \(seconds): must be 0.001 to 1000000000.")
        }
        let captures = count != nil || seconds != nil || quiet || pcap != nil
        if captures, explain || rules.isEmpty {
            throw ValidationError(
                "--count, --seconds, --quiet and --pcap want rules to attach: `any` matches all packets.")
        }
    }

    func run() throws {
        if explain { return try showExplanations() }
        do throws(VerbsError) {
            let device = try Device.named(device ?? "")
            if rules.isEmpty { return try listPlaces(device) }
            try capture(device)
        } catch {
            CommandOutput.note("\(error)")
            // As sysexits has them: no permission, or the device cannot.
            throw ExitCode(error.cause == .permission ? 77 : 70)
        }
    }

    private func parsedRules() throws(ValidationError) -> [FlowRule] {
        var parsed: [FlowRule] = []
        for text in rules {
            do throws(FlowRuleError) {
                parsed.append(try FlowRule(parsing: text))
            } catch {
                throw ValidationError("In the rule '\(text)': \(error).")
            }
        }
        return parsed
    }

    /// The places of a list with commas.
    static func places(_ list: String) throws(ValidationError) -> Set<FlowPlace> {
        var places: Set<FlowPlace> = []
        for name in list.split(separator: ",") {
            guard let place = FlowPlace(rawValue: String(name)) else {
                let names = FlowPlace.allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("--place \(name): there is no such place; there are \(names).")
            }
            places.insert(place)
        }
        return places
    }

    private func showExplanations() throws {
        let explanations = try parsedRules().map(RuleExplanation.init)
        if json { return try CommandOutput.json(explanations) }
        print(explanations.map(\.text).joined(separator: "\n\n"))
    }

    private func listPlaces(_ device: Device) throws(VerbsError) {
        let report = try PlaceReport(device, mode: mode, among: chosenPlaces)
        CommandOutput.line(json ? CommandOutput.jsonLine(report) : report.text)
    }

    /// Judged in ``validate()``.
    private var chosenPlaces: Set<FlowPlace> {
        guard let place else { return Set(FlowPlace.allCases) }
        return (try? Self.places(place)) ?? []
    }

    private var chosenRules: [FlowRule] { (try? parsedRules()) ?? [] }

    private func capture(_ device: Device) throws(VerbsError) {
        let file: CaptureFile?
        do throws(CaptureFile.Failure) {
            file = try pcap.map { path throws(CaptureFile.Failure) in try CaptureFile(path: path) }
        } catch {
            throw VerbsError(
                .system, verb: "--pcap", code: error.code, subject: error.path,
                remedy: "Name a file that can be written")
        }
        let receiver = try FrameReceiver(device, chosenRules, mode: mode, places: chosenPlaces)
        var display = FrameDisplay(receiver, style: json ? .json : quiet ? .counts : .frames, file: file)
        try display.run(count: count, seconds: seconds)
    }
}
