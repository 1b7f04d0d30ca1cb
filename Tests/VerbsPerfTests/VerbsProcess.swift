// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc

/// The built `verbs` program as a process of a test, bounded in time.
final class VerbsProcess: @unchecked Sendable {
    struct Outcome {
        var status: Int32
        var output: String
        var errors: String

        /// Standard output as JSON.
        func json() throws -> [String: Any] {
            try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any] ?? [:]
        }
    }

    /// The program stands beside the test bundle.
    static let program: URL = {
        // The test runner's own file: an .xctest bundle on Linux is an executable in the build folder.
        let arguments = CommandLine.arguments + [ProcessInfo.processInfo.arguments[0]]
        let bundle = arguments.first { $0.contains(".xctest") }.map { URL(fileURLWithPath: $0) }
        var folder = (bundle ?? URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath())
            .deletingLastPathComponent()
        while folder.path != "/" {
            let candidate = folder.appendingPathComponent("verbs")
            if FileManager.default.isExecutableFile(atPath: candidate.path) { return candidate }
            folder.deleteLastPathComponent()
        }
        return URL(fileURLWithPath: ".build/debug/verbs")
    }()

    private let process = Process()
    private let output = Pipe()
    private let errors = Pipe()
    // Filled by the two reading threads, read after both signalled.
    private var outputBytes = Data()
    private var errorBytes = Data()
    private let readers = DispatchGroup()

    var processIdentifier: Int32 { process.processIdentifier }

    /// Starts it. Only the software device is used, so that the test means the same on every machine.
    init(_ arguments: [String], environment: [String: String] = [:]) throws {
        process.executableURL = Self.program
        process.arguments = arguments
        var variables = ProcessInfo.processInfo.environment
        variables["VERBS_PROVIDER"] = "soft"
        variables["SWIFT_BACKTRACE"] = "enable=no"
        process.environment = variables.merging(environment) { $1 }
        process.standardOutput = output
        process.standardError = errors
        process.standardInput = FileHandle.nullDevice
        try process.run()
        for (pipe, isOutput) in [(output, true), (errors, false)] {
            readers.enter()
            Thread { [self] in
                let bytes = pipe.fileHandleForReading.readDataToEndOfFile()
                if isOutput { outputBytes = bytes } else { errorBytes = bytes }
                readers.leave()
            }.start()
        }
    }

    /// Waits for the end; kills the process if it does not come in time, and says so in the errors.
    func outcome(seconds: Double = 60) -> Outcome {
        let deadline = Date().addingTimeInterval(seconds)
        while process.isRunning, Date() < deadline { usleep(20_000) }
        let isLate = process.isRunning
        if isLate { Glibc.kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        // A grandchild that survives would keep the pipes open.
        _ = readers.wait(timeout: .now() + 5)
        return Outcome(
            status: process.terminationReason == .uncaughtSignal
                ? 128 + process.terminationStatus : process.terminationStatus,
            output: String(decoding: outputBytes, as: UTF8.self),
            errors: String(decoding: errorBytes, as: UTF8.self) + (isLate ? "\n(killed after \(seconds) s)" : ""))
    }

    func kill() { Glibc.kill(process.processIdentifier, SIGKILL) }

    static func run(_ arguments: String..., environment: [String: String] = [:]) throws -> Outcome {
        try VerbsProcess(arguments, environment: environment).outcome()
    }
}
