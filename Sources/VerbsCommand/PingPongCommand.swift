// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import VerbsPerf

struct PingPongCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pingpong",
        abstract: "Send a message there and back, to see whether two ends reach each other.",
        discussion: """
            Without a host this end is the server. The peer may be ibv_rc_pingpong, ibv_uc_pingpong, ibv_ud_pingpong \
            or ibv_srq_pingpong of rdma-core: options and handshake are theirs.

            Examples:
              verbs pingpong                       server, on one machine ...
              verbs pingpong 10.0.0.1              ... and the client on another
              verbs pingpong --type ud -s 1024 -c 10.0.0.1
              verbs pingpong --type srq -q 4       RC queue pairs that share their receives
              ibv_rc_pingpong -d rxe0 -g 1         rdma-core's server of this client
            """)

    @Argument(help: ArgumentHelp("The server's name or address. Without it this end is the server.", valueName: "host"))
    var host: String?

    /// Which of rdma-core's programs the test is.
    enum Kind: String, ExpressibleByArgument, CaseIterable {
        case rc, uc, ud, srq

        init?(argument: String) { self.init(rawValue: argument.lowercased()) }
    }

    @Option(
        name: .customLong("type"),
        help: ArgumentHelp(
            "Transport: rc, uc or ud; or srq: rc with several queue pairs that share their receives.",
            valueName: "type"))
    var kind = Kind.rc

    @Option(
        name: [.customShort("q", allowingJoined: true), .customLong("num-qp")],
        help: ArgumentHelp("Queue pairs, with --type srq. Default: 16.", valueName: "n"))
    var queuePairs: Int?

    @Option(
        name: [.customShort("d", allowingJoined: true), .customLong("ib-dev")],
        help: ArgumentHelp("Device, by its name or its network interface.", valueName: "dev"))
    var device: String?

    @Option(
        name: [.customShort("i", allowingJoined: true), .customLong("ib-port")],
        help: ArgumentHelp("Port of the device.", valueName: "port"))
    var devicePort = 1

    @Option(
        name: [.customShort("g", allowingJoined: true), .customLong("gid-idx")],
        help: ArgumentHelp("Index in the GID table. Default: the port's best.", valueName: "index"))
    var gidIndex: Int?

    @Option(
        name: [.customShort("p", allowingJoined: true), .customLong("port")],
        help: ArgumentHelp("TCP port on which the two ends find each other.", valueName: "port"))
    var tcpPort = 18515

    @Option(
        name: [.customShort("s", allowingJoined: true), .customLong("size")],
        help: ArgumentHelp("Message size in bytes, or with K or M. Default: 4096, ud 1024.", valueName: "size"))
    var size: Quantity?

    @Option(
        name: [.customShort("m", allowingJoined: true), .customLong("mtu")],
        help: ArgumentHelp("Path MTU, 256 to 4096.", valueName: "mtu"))
    var mtu = 1024

    @Option(
        name: [.customShort("r", allowingJoined: true), .customLong("rx-depth")],
        help: ArgumentHelp("Receives posted.", valueName: "n"))
    var receiveDepth = 500

    @Option(
        name: [.customShort("n", allowingJoined: true), .customLong("iters")],
        help: ArgumentHelp("Messages each way.", valueName: "n"))
    var iterations = 1000

    @Option(
        name: [.customShort("l", allowingJoined: true), .customLong("sl")],
        help: ArgumentHelp("Service level.", valueName: "sl"))
    var serviceLevel = 0

    @Flag(name: [.customShort("e"), .customLong("events")], help: "Sleep on completion events instead of polling.")
    var useEvents = false

    @Flag(name: [.customShort("c"), .customLong("chk")], help: "Check each message that comes back.")
    var checksData = false

    @Flag(name: .long, help: "Print the result as JSON.")
    var json = false

    private var connection: PerfConnection {
        switch kind {
        case .rc, .srq: .rc
        case .uc: .uc
        case .ud: .ud
        }
    }

    private var options: PingPongOptions {
        var options = PingPongOptions()
        options.connection = connection
        options.queuePairs = queuePairs ?? (kind == .srq ? 16 : 1)
        options.device = device
        options.devicePort = devicePort
        options.gidIndex = gidIndex
        options.size = size?.value ?? (connection == .ud ? 1024 : 4096)
        options.mtu = mtu
        options.iterations = iterations
        options.receiveDepth = receiveDepth
        options.serviceLevel = serviceLevel
        options.useEvents = useEvents
        options.checksData = checksData
        return options
    }

    func validate() throws {
        guard kind == .srq || queuePairs == nil else {
            throw ValidationError("-q: only --type srq has several queue pairs.")
        }
        guard (1...65535).contains(tcpPort) else { throw ValidationError("-p \(tcpPort): must be 1...65535.") }
        do {
            try options.validated()
        } catch {
            throw ValidationError("\(error)")
        }
    }

    func run() throws {
        do {
            let connection =
                try host.map { try PeerConnection.connect(host: $0, port: tcpPort) }
                ?? PeerListener(port: tcpPort).accept()
            let result = try run(over: connection)
            if json {
                try CommandOutput.json(result)
            } else {
                CommandOutput.line(result.text)
                if checksData, host != nil { CommandOutput.line("\(result.checkedMessages) messages came back right") }
            }
        } catch let error as PerfError {
            CommandOutput.note(error.description)
            throw ExitCode(error.exitStatus)
        }
    }

    private func run(over connection: PeerConnection) throws -> PingPongResult {
        func show(_ line: String) { if !json { CommandOutput.line(line) } }
        if kind == .srq {
            var test = try SharedPingPongTest(options, over: connection)
            return try test.run(line: show)
        }
        var test = try PingPongTest(options, over: connection)
        return try test.run(line: show)
    }
}
