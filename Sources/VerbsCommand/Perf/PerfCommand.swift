// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import VerbsPerf

struct PerfCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "perf",
        abstract: "Measure bandwidth and latency of SEND, RDMA WRITE, RDMA READ, atomics and raw packets.",
        discussion: """
            Without a host this end is the server and waits; with one it is the client. Options, table and handshake \
            are those of perftest: ib_send_bw and its siblings can be the peer at either end, with the same options at \
            both. Between two ends of this program the server follows the client's options.

            Bandwidth is in MB/sec of 2^20 bytes (--report_gbits: 10^9 bits); latency in microseconds, one way for \
            SEND and WRITE, there and back for READ and atomics. Unlike perftest, every sample counts.

            Examples:
              verbs perf send-lat --loopback                   both ends here, as two processes
              verbs perf write-bw -s 65536                     server, on one machine ...
              verbs perf write-bw -s 65536 10.0.0.1            ... and the client on another
              verbs perf read-bw -a --report_gbits 10.0.0.1    all sizes
              verbs perf send-bw -c UD -D 10 -q 4 10.0.0.1     ten seconds, datagrams, four queue pairs
              ib_write_lat -d mlx5_0                           perftest as the server ...
              verbs perf write-lat -n 100000 10.0.0.1          ... of this client
              verbs perf read-bw -R 10.0.0.1                   connected by address, as ib_read_bw -R

            raw-bw and raw-lat are as raw_ethernet_bw and raw_ethernet_lat: frames (IPv4, UDP) between raw packet queue \
            pairs, steered to the server by a rule on its address and port. The server counts what is delivered; what is \
            lost on the way is said. fs-rate attaches and detaches -n rules and looks packets up; it has no peer.

              verbs perf raw-bw -d eth0 -s 64                  server ...
              verbs perf raw-bw -d eth0 -s 64 -D 5 10.0.0.1    ... and client
              verbs perf raw-bw -d eth0 --server -D 5          counts what others send to UDP port 7000
              verbs perf fs-rate -d eth0 -n 10000
            """)

    @Argument(help: ArgumentHelp("What to measure.", valueName: "test"))
    var subject: PerfSubject

    @Argument(help: ArgumentHelp("The server's name or address. Without it this end is the server.", valueName: "host"))
    var host: String?

    @Flag(name: .long, help: "Run both ends here, as two processes.")
    var loopback = false

    @Flag(name: .long, help: "Print the result as JSON instead of the table.")
    var json = false

    @OptionGroup(title: "perftest's options")
    var arguments: PerfArguments

    @OptionGroup(title: "Raw packets")
    var rawArguments: RawArguments

    // The second process of --loopback: a listening socket that it inherits.
    @Option(name: .customLong("serve-descriptor"), help: .hidden)
    var serveDescriptor: Int32?

    func validate() throws {
        if loopback, host != nil { throw ValidationError("--loopback runs both ends itself: leave the host out.") }
        if loopback, case .frames = subject {
            throw ValidationError("--loopback: start the two ends of a raw packet test yourself.")
        }
        // Judged before anything is connected; the peer may change some of it, which is judged again.
        do throws(PerfError) {
            switch subject {
            case .messages(let test):
                _ = try PerfPlan(arguments.options(test: test, host: host), isServer: host == nil && !loopback)
            case .frames(let test):
                try rawOptions(test).validated()
            }
        } catch {
            throw ValidationError("\(error)")
        }
    }

    func run() throws {
        do {
            switch subject {
            case .messages(let test) where loopback: try runLoopback(test)
            case .messages(let test):
                let options = arguments.options(test: test, host: host)
                try report(try PerfSession.run(options, over: connection(test), printer: printer))
            case .frames(let test): try report(try runRaw(rawOptions(test)))
            }
        } catch let error as PerfError {
            CommandOutput.note((serveDescriptor == nil ? "" : "server: ") + error.description)
            throw ExitCode(error.exitStatus)
        }
    }

    private func rawOptions(_ test: RawTest) throws(PerfError) -> RawOptions {
        do {
            return try rawArguments.options(test, host: host, arguments)
        } catch {
            throw .usage("\(error)")
        }
    }

    private func runRaw(_ options: RawOptions) throws -> RawResult {
        if options.test == .flowRate { return try FlowRateTest.run(options, printer: printer) }
        if options.isAlone { return try RawSession.run(options, over: nil, printer: printer) }
        if let host {
            let connection = try PeerConnection.connect(host: host, port: arguments.tcpPort)
            return try RawSession.run(options, over: connection, printer: printer)
        }
        let listener = try PeerListener(port: arguments.tcpPort)
        announce()
        return try RawSession.run(options, over: listener.accept(), printer: printer)
    }

    private func report(_ result: RawResult) throws {
        if json { try CommandOutput.json(result) }
        try result.check(bandwidthLimit: arguments.bandwidthLimit, messageRateLimit: arguments.messageRateLimit)
    }

    private func connection(_ test: PerfTest) throws -> any PeerLink {
        if let serveDescriptor {
            let connection = try PeerListener(adopting: serveDescriptor).accept(seconds: 30)
            guard arguments.connectionManager else { return connection }
            let listener = try ManagedListener(arguments.options(test: test, host: nil), port: 0)
            try listener.introduce(over: connection)
            return try listener.accept(seconds: 30)
        }
        if let host {
            guard arguments.connectionManager else {
                return try PeerConnection.connect(host: host, port: arguments.tcpPort)
            }
            return try ManagedConnection.connect(
                arguments.options(test: test, host: host), host: host, port: arguments.tcpPort)
        }
        if arguments.connectionManager {
            let listener = try ManagedListener(arguments.options(test: test, host: nil), port: arguments.tcpPort)
            announce()
            return try listener.accept()
        }
        let listener = try PeerListener(port: arguments.tcpPort)
        announce()
        return try listener.accept()
    }

    private func announce() {
        guard !json else { return }
        let stars = String(repeating: "*", count: 36)
        CommandOutput.line("\n\(stars)\n* Waiting for client to connect... *\n\(stars)")
    }

    /// The server half runs as another process: figures of one process would share its lock, its clock and its caches.
    private func runLoopback(_ test: PerfTest) throws {
        let listener = try PeerListener(port: 0, loopbackOnly: true)
        let server = try LoopbackServer(arguments: CommandLine.arguments, listener: listener)
        do {
            let first = try PeerConnection.connect(host: "127.0.0.1", port: listener.port)
            _ = consume listener
            let options = arguments.options(test: test, host: "127.0.0.1")
            let connection: any PeerLink =
                arguments.connectionManager ? try ManagedConnection.connect(options, introducedOver: first) : first
            let result = try PerfSession.run(options, over: connection, printer: printer)
            let status = server.wait()
            try report(result)
            guard status == 0 else { throw ExitCode(status) }
        } catch {
            server.stop()
            throw error
        }
    }

    private var printer: PerfPrinter {
        PerfPrinter(
            line: { [json, quiet = serveDescriptor != nil] text in if !json, !quiet { CommandOutput.line(text) } },
            note: { [quiet = serveDescriptor != nil] text in if !quiet { CommandOutput.note(text) } },
            progress: serveDescriptor == nil && CommandOutput.errorIsTerminal
                ? { CommandOutput.write($0, to: STDERR_FILENO) } : nil,
            listing: arguments.listSorted
                ? .sorted : arguments.listUnsorted ? .unsorted : arguments.percentiles ? .percentiles : nil)
    }

    private func report(_ result: PerfResult) throws {
        if json, serveDescriptor == nil { try CommandOutput.json(result) }
        try result.check(bandwidthLimit: arguments.bandwidthLimit, messageRateLimit: arguments.messageRateLimit)
    }
}
