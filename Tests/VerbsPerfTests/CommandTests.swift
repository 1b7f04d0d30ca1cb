// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Foundation
import Testing
import VerbsPerf

@testable import VerbsCommand

@Suite("The command line of perf")
struct PerfArgumentsTests {
    private func options(_ words: String...) throws -> PerfOptions {
        let command = try #require(try VerbsCommand.parseAsRoot(["perf"] + words) as? PerfCommand)
        guard case .messages(let test) = command.subject else { throw PerfError.usage("no test of messages") }
        return command.arguments.options(test: test, host: command.host)
    }

    @Test("perftest's letters, apart and joined")
    func letters() throws {
        let apart = try options(
            "send-bw", "-d", "rxe0", "-s", "1024", "-n", "50", "-x", "3", "-q", "2", "-b", "-F", "host")
        #expect(apart.device == "rxe0")
        #expect(apart.size == 1024)
        #expect(apart.iterations == 50)
        #expect(apart.gidIndex == 3)
        #expect(apart.queuePairs == 2)
        #expect(apart.bidirectional)
        #expect(apart.host == "host")
        let joined = try options("send-bw", "-drxe0", "-s1024", "-n50", "-x3", "-q2", "-bF", "host")
        #expect(joined == apart)
    }

    @Test("perftest's long names")
    func longNames() throws {
        let long = try options(
            "write-bw", "--ib-dev=rxe0", "--ib-port=1", "--port=18516", "--size=64", "--iters=100", "--connection=UC",
            "--gid-index=0", "--mtu=1024", "--bidirectional", "--qp=1", "--tx-depth=16", "--cq-mod=2",
            "--inline_size=32", "--qp-timeout=15", "--sl=1", "--tclass=96", "--post_list=2", "--report_gbits",
            "--noPeak", "--limit_bw=1.5", "--limit_msgrate=0.5", "--CPU-freq")
        #expect(long.tcpPort == 18516)
        #expect(long.connection == .uc)
        #expect(long.mtu == 1024)
        #expect(long.transmitDepth == 16)
        #expect(long.completionModeration == 2)
        #expect(long.inlineSize == 32)
        #expect(long.timeoutExponent == 15)
        #expect(long.serviceLevel == 1)
        #expect(long.trafficClass == 96)
        #expect(long.postList == 2)
        #expect(long.reportGigabits)
        #expect(long.skipPeak)
        #expect(long.bandwidthLimit == 1.5)
        #expect(long.messageRateLimit == 0.5)
        #expect(try options("atomic-lat", "-A", "CMP_AND_SWAP", "-o", "4").atomic == .compareAndSwap)
        #expect(try options("send-bw", "-D", "10", "-f", "1").durationSeconds == 10)
        #expect(try options("send-lat", "-e").useEvents)
        #expect(try options("send-lat", "-R", "-F").useConnectionManager)
        #expect(try options("send-lat", "--rdma_cm").useConnectionManager)
        #expect(try options("send-bw", "--use-srq", "-r", "64").receiveDepth == 64)
        #expect(try options("send-bw", "-c", "ud").connection == .ud)
    }

    @Test(
        "Numbers as perftest takes them",
        arguments: [("64", 64), ("0x40", 64), ("4K", 4096), ("1M", 1 << 20), ("2k", 2048)])
    func quantities(text: String, value: Int) {
        #expect(Quantity(argument: text)?.value == value)
    }

    @Test("What is no number is refused", arguments: ["", "K", "-1", "x", "9223372036854775807K", "1.5"])
    func noQuantities(text: String) {
        #expect(Quantity(argument: text) == nil)
    }

    @Test(
        "What does not fit is refused by name, before anything is connected",
        arguments: [
            (["send-bw", "-R", "-c", "UC"], "-R"), (["send-bw", "-z"], "-z"), (["send-bw", "-O"], "-O"),
            (["send-bw", "-g"], "-g"),
            (["send-bw", "-n", "2"], "-n 2"), (["read-bw", "-c", "UD"], "-c RC"),
            (["send-bw", "--loopback", "host"], "--loopback"), (["send-bw", "--stall", "0"], "--stall"),
            (["nothing"], "nothing"),
        ])
    func refused(words: [String], name: String) {
        let error = #expect(throws: (any Error).self) { try VerbsCommand.parseAsRoot(["perf"] + words) }
        if let error {
            #expect(VerbsCommand.message(for: error).contains(name))
            #expect(VerbsCommand.exitCode(for: error) == .validationFailure)
        }
    }

    @Test("The server is what has no host")
    func roles() throws {
        #expect(try options("send-bw").host == nil)
        #expect(try options("send-bw", "10.0.0.1").host == "10.0.0.1")
    }
}

@Suite("The commands' own output", .timeLimit(.minutes(10)))
struct CommandOutputTests {
    @Test(
        "Every subcommand explains itself with examples", arguments: ["devices", "info", "doctor", "pingpong", "perf"])
    func help(command: String) throws {
        let outcome = try VerbsProcess.run(command, "--help")
        #expect(outcome.status == 0)
        #expect(outcome.output.contains("Examples:"))
        #expect(outcome.output.contains("verbs \(command)"))
    }

    @Test("The software device on loopback is listed, as text and as JSON")
    func devices() throws {
        let text = try VerbsProcess.run("devices")
        #expect(text.status == 0, "\(text.errors)")
        #expect(text.output.contains("soft_lo"))
        let json = try VerbsProcess.run("devices", "--json")
        let rows = try #require(try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [[String: Any]])
        #expect(rows.contains { $0["name"] as? String == "soft_lo" && $0["gid"] as? String == "::ffff:127.0.0.1" })
    }

    @Test("A device shows its ports, its GIDs and the reason of the default")
    func info() throws {
        let text = try VerbsProcess.run("info", "-v", "-d", "soft_lo")
        #expect(text.status == 0, "\(text.errors)")
        #expect(text.output.contains("* is the default:"))
        #expect(text.output.contains("max_qp_wr"))
        let json = try VerbsProcess.run("info", "-d", "lo", "--json")
        let devices = try #require(try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [[String: Any]])
        #expect(devices.first?["name"] as? String == "soft_lo")
    }

    @Test("A device that does not exist is an error that lists those that do")
    func noDevice() throws {
        let outcome = try VerbsProcess.run("info", "-d", "mlx9_9")
        #expect(outcome.status != 0)
        #expect(outcome.errors.contains("mlx9_9") && outcome.errors.contains("soft_lo"))
        #expect(!outcome.errors.contains("Fatal error"))
    }

    @Test("The doctor's findings are JSON, and its status is 0 or 1")
    func doctor() throws {
        let outcome = try VerbsProcess.run("doctor", "--json")
        #expect(outcome.status == 0 || outcome.status == 1)
        let findings = try #require(
            try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [[String: Any]])
        #expect(findings.contains { ($0["subject"] as? String)?.hasPrefix("device soft_lo") == true })
        #expect(findings.allSatisfy { ["ok", "note", "warning", "failure"].contains($0["level"] as? String ?? "") })
    }
}
