// SPDX-License-Identifier: Apache-2.0
import ArgumentParser

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Check limits, capabilities, port 4791, GIDs and kernel modules, each finding with its remedy.",
        discussion: """
            The exit status is 0 if the machine can be used as it is, and 1 if something prevents it. Nothing is changed.

            Examples:
              verbs doctor
              verbs doctor --json | jq '.[] | select(.level == "failure")'
            """)

    @Flag(name: .long, help: "Print the findings as JSON.")
    var json = false

    @Flag(name: .shortAndLong, help: "Show what is in order too.")
    var verbose = false

    func run() throws {
        let report = DoctorReport(.gathered())
        if json {
            try CommandOutput.json(report.findings)
        } else {
            print(report.text(verbose: verbose))
        }
        throw ExitCode(report.exitStatus)
    }
}

extension DoctorReport {
    /// The report for people: what needs attention, worst last where the eye is.
    func text(verbose: Bool) -> String {
        let shown = findings.filter { verbose || $0.level > .ok || $0.subject.hasPrefix("device") }
        var lines: [String] = []
        for finding in shown.sorted(by: { $0.level < $1.level }) {
            lines.append("\(finding.level.mark) \(finding.subject): \(finding.text)")
            if !finding.remedy.isEmpty { lines.append("          \(finding.remedy)") }
        }
        let counts = Finding.Level.allCases.map { level in (level, findings.count { $0.level == level }) }
        lines.append("")
        lines.append(counts.map { "\($1) \($0.rawValue)" }.joined(separator: ", ") + ".")
        return lines.joined(separator: "\n")
    }
}

extension Finding.Level {
    fileprivate var mark: String {
        switch self {
        case .ok: "[ok]     "
        case .note: "[note]   "
        case .warning: "[warning]"
        case .failure: "[failure]"
        }
    }
}
