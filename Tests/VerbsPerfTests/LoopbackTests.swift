// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import VerbsPerf

/// Two processes over the software device on loopback. One at a time: they poll, and share the machine's processors.
@Suite("Two processes over the software device", .serialized, .timeLimit(.minutes(10)))
struct LoopbackTests {
    private func measure(
        _ test: PerfTest, _ options: String..., environment: [String: String] = [:],
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> [String: Any] {
        let process = try VerbsProcess(
            ["perf", test.rawValue, "--loopback", "--json"] + options, environment: environment)
        let outcome = process.outcome()
        try #require(outcome.status == 0, "\(outcome.errors)", sourceLocation: sourceLocation)
        return try outcome.json()
    }

    private func checked(_ result: [String: Any], _ end: String) -> (checked: Int, wrong: Int) {
        let verdict = (result["validation"] as? [String: Any])?[end] as? [String: Any]
        return (verdict?["checked"] as? Int ?? 0, verdict?["wrong"] as? Int ?? -1)
    }

    @Test("Every test runs over RC, and what arrives is what was sent", arguments: PerfTest.allCases)
    func reliable(test: PerfTest) throws {
        let result = try measure(test, "-n", "200", "--validate")
        #expect(result["test"] as? String == test.rawValue)
        let rows = (result["bandwidth"] as? [[String: Any]] ?? []) + (result["latency"] as? [[String: Any]] ?? [])
        #expect(rows.count == 1)
        #expect(rows.first?["n_iterations"] as? Int == 200)
        let here = checked(result, "here")
        let peer = checked(result, "peer")
        #expect(here.wrong == 0)
        #expect(peer.wrong == 0)
        switch test {
        case .sendBandwidth: #expect(peer.checked == 200)
        // The memory as it is at the end: one place for a message of 64 KiB.
        case .writeBandwidth: #expect(peer.checked == 1)
        case .sendLatency, .writeLatency: #expect(here.checked == 200 && peer.checked == 200)
        case .readBandwidth, .readLatency, .atomicBandwidth, .atomicLatency: #expect(here.checked == 200)
        }
    }

    @Test("Under the buffer guard too, what arrives is what was sent", arguments: PerfTest.allCases)
    func guarded(test: PerfTest) throws {
        let result = try measure(test, "-n", "100", "--validate", environment: ["VERBS_GUARD": "1"])
        let here = checked(result, "here")
        let peer = checked(result, "peer")
        #expect(here.wrong == 0 && peer.wrong == 0)
        #expect(here.checked + peer.checked > 0)
    }

    @Test(
        "The other transports, too",
        arguments: [
            (PerfTest.sendBandwidth, "UC", "4096"), (.sendLatency, "UC", "64"), (.writeLatency, "UC", "64"),
            (.sendBandwidth, "UD", "1024"), (.sendLatency, "UD", "64"),
        ])
    func unreliable(test: PerfTest, connection: String, size: String) throws {
        let result = try measure(test, "-c", connection, "-s", size, "-n", "200", "--validate")
        let peer = checked(result, "peer")
        #expect(peer.wrong == 0)
        // A full socket buffer loses some on a busy machine; one lost ping would end a latency test.
        #expect(peer.checked >= (test.measure == .latency ? 200 : 100))
    }

    @Test("Every test runs over queue pairs that the connection manager connected", arguments: PerfTest.allCases)
    func managed(test: PerfTest) throws {
        let result = try measure(test, "-R", "-n", "50", "--validate")
        #expect(result["connectionManager"] as? Bool == true)
        #expect(checked(result, "here").wrong == 0 && checked(result, "peer").wrong == 0)
    }

    @Test(
        "With -R: datagrams both ways, several queue pairs, shared receives, events",
        arguments: [
            ["-c", "UD", "-s", "512"], ["-c", "UD", "-s", "512", "-b", "-q", "2"], ["-q", "3", "-s", "512"],
            ["-q", "2", "-b", "-s", "64"], ["--use-srq", "-q", "2", "-s", "256"], ["-e", "-s", "512"],
        ])
    func managed(_ options: [String]) throws {
        let process = try VerbsProcess(
            ["perf", "send-bw", "--loopback", "--json", "-R", "-n", "100", "--validate"] + options)
        let outcome = process.outcome()
        try #require(outcome.status == 0, "\(outcome.errors)")
        #expect(checked(try outcome.json(), "peer").wrong == 0)
    }

    @Test("With -R and no server, the client says what to start")
    func managedAlone() throws {
        let process = try VerbsProcess(["perf", "send-bw", "-R", "-p", "18514", "127.0.0.1"])
        let outcome = process.outcome()
        #expect(outcome.status == 68)
        #expect(outcome.errors.contains("-R") && outcome.errors.contains("18514"))
    }

    @Test("A datagram whose size nobody gave is as long as the path MTU; all sizes end there")
    func datagramSizes() throws {
        let one = try measure(.sendBandwidth, "-c", "UD", "-n", "50")
        #expect((one["bandwidth"] as? [[String: Any]])?.compactMap { $0["MsgSize"] as? Int } == [4096])
        let all = try measure(.sendLatency, "-c", "UD", "-a", "-n", "20")
        #expect((all["latency"] as? [[String: Any]])?.compactMap { $0["MsgSize"] as? Int } == (1...12).map { 1 << $0 })
    }

    @Test("A figure below the limit that was set ends with status 1")
    func limit() throws {
        let outcome = try VerbsProcess.run("perf", "send-bw", "--loopback", "-n", "50", "-w", "1e9")
        #expect(outcome.status == 1)
        #expect(outcome.errors.contains("-w"))
    }

    @Test(
        "Options of the loops: directions, queue pairs, lists, shared receives, events, moderation",
        arguments: [
            ["-b", "-s", "1024"], ["-q", "3", "-s", "512"], ["-q", "2", "-b", "-s", "64"], ["-l", "8", "-s", "64"],
            ["--recv_post_list", "4", "-s", "64"], ["--use-srq", "-q", "2", "-s", "256"], ["-e", "-s", "1024"],
            ["-Q", "7", "-s", "64"], ["-t", "1", "-s", "64"], ["-r", "1", "-s", "64"], ["-m", "256", "-s", "5000"],
            ["-I", "128", "-s", "100"], ["-s", "1"], ["-s", "1M", "-t", "8"],
        ])
    func options(_ options: [String]) throws {
        let process = try VerbsProcess(
            ["perf", "send-bw", "--loopback", "--json", "-n", "200", "--validate"] + options)
        let outcome = process.outcome()
        try #require(outcome.status == 0, "\(outcome.errors)")
        let peer = checked(try outcome.json(), "peer")
        #expect(peer.wrong == 0)
        #expect(peer.checked == 200 * (options.firstIndex(of: "-q").map { Int(options[$0 + 1])! } ?? 1))
    }

    @Test(
        "READ and WRITE in both directions, and over several queue pairs",
        arguments: [PerfTest.readBandwidth, .writeBandwidth])
    func oneSided(test: PerfTest) throws {
        let result = try measure(test, "-b", "-q", "2", "-n", "50", "-s", "8192")
        let row = try #require((result["bandwidth"] as? [[String: Any]])?.first)
        #expect(row["n_iterations"] as? Int == 100)
        #expect(row["BW_average"] as? Double ?? 0 > 0)
    }

    @Test("All sizes give a row each, in order")
    func allSizes() throws {
        let result = try measure(.sendBandwidth, "-a", "-n", "5", "-r", "5")
        let sizes = (result["bandwidth"] as? [[String: Any]])?.compactMap { $0["MsgSize"] as? Int }
        #expect(sizes == (1...23).map { 1 << $0 })
    }

    @Test(
        "A timed run counts its messages",
        arguments: [PerfTest.sendBandwidth, .writeBandwidth, .sendLatency, .readLatency])
    func timed(test: PerfTest) throws {
        let result = try measure(test, "-D", "1", "-s", "64")
        let row = try #require(
            ((result["bandwidth"] as? [[String: Any]] ?? []) + (result["latency"] as? [[String: Any]] ?? [])).first)
        #expect(row["n_iterations"] as? Int ?? 0 > 0)
    }

    @Test("Under loss, duplication and reordering the bytes still are right over RC")
    func faults() throws {
        let faults = ["VERBS_SOFT_FAULTS": "drop=0.02,duplicate=0.02,reorder=0.02,seed=11"]
        for test in [PerfTest.sendBandwidth, .readBandwidth, .atomicBandwidth] {
            let size = test == .atomicBandwidth ? [] : ["-s", "8192"]
            let process = try VerbsProcess(
                ["perf", test.rawValue, "--loopback", "--json", "-n", "100", "--validate", "-u", "12"] + size,
                environment: faults)
            let outcome = process.outcome(seconds: 90)
            try #require(outcome.status == 0, "\(outcome.errors)")
            let result = try outcome.json()
            #expect(checked(result, "here").wrong == 0)
            #expect(checked(result, "peer").wrong == 0)
        }
    }

    @Test(
        "What UD and UC lose is counted, and does not keep the test waiting",
        arguments: [["-c", "UD"], ["-c", "UC"], ["-c", "UD", "-b"]])
    func lost(_ options: [String]) throws {
        let process = try VerbsProcess(
            ["perf", "send-bw", "--loopback", "--json", "-s", "512", "-n", "300", "--stall", "20"] + options,
            environment: ["VERBS_SOFT_FAULTS": "drop=0.1,seed=3"])
        let outcome = process.outcome()
        try #require(outcome.status == 0, "\(outcome.errors)")
        if options.contains("-b") { #expect(try outcome.json()["lost"] as? Int ?? 0 > 0) }
    }

    @Test("The table that people read has perftest's heading and one row")
    func table() throws {
        let outcome = try VerbsProcess.run("perf", "send-lat", "--loopback", "-n", "100")
        try #require(outcome.status == 0, "\(outcome.errors)")
        let lines = outcome.output.split(separator: "\n").map(String.init)
        let heading = try #require(lines.firstIndex(of: ReportText.latencyHeading))
        let row = lines[heading + 1].split(whereSeparator: { $0 == " " || $0 == "\t" })
        #expect(row.count == 9)
        #expect(row.prefix(2) == ["2", "100"])
        #expect(row.dropFirst(2).allSatisfy { Double($0) != nil })
    }
}

@Suite("Two ends that do not fit, or that go away", .serialized, .timeLimit(.minutes(10)))
struct PeerTroubleTests {
    /// A port that is free at the moment.
    private func freePort() throws -> String { String(try PeerListener(port: 0, loopbackOnly: true).port) }

    private func waitForListener(_ port: String) throws {
        // Connecting would use the server up; its listening socket shows in the kernel's table.
        let hex = String(Int(port)!, radix: 16, uppercase: true)
        let wanted = ":" + String(repeating: "0", count: 4 - hex.count) + hex + " "
        for _ in 0..<200 {
            let tables = ["/proc/net/tcp", "/proc/net/tcp6"].compactMap {
                try? String(contentsOfFile: $0, encoding: .utf8)
            }
            if tables.contains(where: {
                $0.split(separator: "\n").contains { $0.contains(wanted) && $0.contains(" 0A ") }
            }) {
                return
            }
            usleep(50_000)
        }
        Issue.record("the server does not listen")
    }

    @Test("The server follows the client's options, and both exit well")
    func serverFollows() throws {
        let port = try freePort()
        let server = try VerbsProcess(["perf", "send-bw", "-p", port])
        try waitForListener(port)
        let client = try VerbsProcess(["perf", "send-bw", "-p", port, "-s", "512", "-n", "100", "-q", "2", "127.0.0.1"])
        #expect(client.outcome().status == 0)
        let outcome = server.outcome()
        #expect(outcome.status == 0, "\(outcome.errors)")
        #expect(outcome.output.contains(" Number of qps   : 2"))
    }

    @Test("Another test at the other end is an error at both, which names the two")
    func otherTest() throws {
        let port = try freePort()
        let server = try VerbsProcess(["perf", "write-bw", "-p", port])
        try waitForListener(port)
        let client = try VerbsProcess(["perf", "send-bw", "-p", port, "127.0.0.1"]).outcome()
        #expect(client.status == 76)
        #expect(client.errors.contains("send-bw") && client.errors.contains("write-bw"))
        let outcome = server.outcome()
        #expect(outcome.status == 76)
        #expect(!outcome.errors.contains("Fatal error"))
    }

    @Test("No server: one line that says so, no trace")
    func noServer() throws {
        let outcome = try VerbsProcess.run("perf", "send-bw", "-p", try freePort(), "127.0.0.1")
        #expect(outcome.status == 68)
        #expect(outcome.errors.split(separator: "\n").count == 1)
        #expect(outcome.errors.contains("No server at 127.0.0.1"))
    }

    @Test(
        "A client that is killed in the middle ends the server with an error, in both kinds of waiting",
        arguments: ["send-bw", "write-bw", "send-lat", "write-lat", "read-lat"])
    func killedClient(test: String) throws {
        let port = try freePort()
        let server = try VerbsProcess(["perf", test, "-p", port])
        try waitForListener(port)
        let client = try VerbsProcess(["perf", test, "-p", port, "-D", "60", "127.0.0.1"])
        usleep(1_500_000)
        client.kill()
        _ = client.outcome()
        let outcome = server.outcome(seconds: 30)
        #expect(outcome.status == 69 || outcome.status == 70, "\(outcome.status): \(outcome.errors)")
        #expect(!outcome.errors.isEmpty)
        #expect(!outcome.errors.contains("Fatal error"))
    }

    @Test(
        "A server that is killed in the middle ends the client with an error",
        arguments: ["send-bw", "write-bw", "write-lat"])
    func killedServer(test: String) throws {
        let port = try freePort()
        let server = try VerbsProcess(["perf", test, "-p", port])
        try waitForListener(port)
        let client = try VerbsProcess(["perf", test, "-p", port, "-D", "60", "-u", "8", "127.0.0.1"])
        usleep(1_500_000)
        server.kill()
        _ = server.outcome()
        let outcome = client.outcome(seconds: 40)
        #expect(outcome.status == 69 || outcome.status == 70, "\(outcome.status): \(outcome.errors)")
        #expect(!outcome.errors.contains("Fatal error"))
    }

    @Test(
        "Ping-pong, with the data checked",
        arguments: [
            ["--type", "rc"], ["--type", "uc"], ["--type", "ud"], ["-e"], ["--type", "srq", "-q", "4"],
            ["--type", "srq", "-q", "3", "-e"],
        ])
    func pingPong(_ options: [String]) throws {
        let port = try freePort()
        let arguments = ["pingpong", "-p", port, "-n", "200", "-s", "1000"] + options
        let server = try VerbsProcess(arguments)
        try waitForListener(port)
        let client = try VerbsProcess(arguments + ["-c", "--json", "127.0.0.1"]).outcome()
        try #require(client.status == 0, "\(client.errors)")
        // Of several queue pairs each may have one more on its way when the last one is done.
        let checked = try #require(client.json()["checkedMessages"] as? Int)
        #expect(options.contains("srq") ? (200..<204).contains(checked) : checked == 200)
        let outcome = server.outcome()
        #expect(outcome.status == 0, "\(outcome.errors)")
        #expect(outcome.output.contains("400000 bytes in"))
    }

    @Test("Ping-pong under the buffer guard, with the data checked", arguments: ["rc", "ud", "srq"])
    func guardedPingPong(_ type: String) throws {
        let port = try freePort()
        let arguments = ["pingpong", "-p", port, "-n", "100", "-s", "1000", "--type", type]
        let environment = ["VERBS_GUARD": "1"]
        let server = try VerbsProcess(arguments, environment: environment)
        try waitForListener(port)
        let client = try VerbsProcess(arguments + ["-c", "--json", "127.0.0.1"], environment: environment).outcome()
        try #require(client.status == 0, "\(client.errors)")
        #expect(try client.json()["checkedMessages"] as? Int ?? 0 >= 100)
        let outcome = server.outcome()
        #expect(outcome.status == 0, "\(outcome.errors)")
    }

    @Test("Ping-pong over a different number of queue pairs is refused")
    func pingPongMismatch() throws {
        let port = try freePort()
        let arguments = ["pingpong", "-p", port, "--type", "srq"]
        let server = try VerbsProcess(arguments + ["-q", "2"])
        try waitForListener(port)
        _ = try VerbsProcess(arguments + ["-q", "3", "127.0.0.1"]).outcome()
        let outcome = server.outcome()
        #expect(outcome.status == 76)
        #expect(outcome.errors.contains("has 3 queue pairs and this end 2"), "\(outcome.errors)")
    }
}
