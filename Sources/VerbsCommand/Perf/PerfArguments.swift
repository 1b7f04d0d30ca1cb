// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import VerbsPerf

extension PerfTest: ExpressibleByArgument {}

extension PerfConnection: ExpressibleByArgument {
    package init?(argument: String) { self.init(rawValue: argument.uppercased()) }
}

extension PerfAtomic: ExpressibleByArgument {
    package init?(argument: String) { self.init(rawValue: argument.uppercased()) }
}

/// A number as perftest takes it: decimal, `0x` hexadecimal, and for sizes a suffix `K` or `M`.
struct Quantity: ExpressibleByArgument, Equatable {
    var value: Int

    init?(argument: String) {
        var text = argument[...]
        var factor = 1
        if let last = text.last, let scale = ["K": 1 << 10, "k": 1 << 10, "M": 1 << 20, "m": 1 << 20][last] {
            factor = scale
            text = text.dropLast()
        }
        let number = text.hasPrefix("0x") ? Int(text.dropFirst(2), radix: 16) : Int(text)
        guard let number, number >= 0, !number.multipliedReportingOverflow(by: factor).overflow else { return nil }
        value = number * factor
    }
}

/// perftest's options, letter by letter.
struct PerfArguments: ParsableArguments {
    @Option(
        name: [.customShort("d", allowingJoined: true), .customLong("ib-dev")],
        help: ArgumentHelp("Device, by its name or its network interface.", valueName: "dev"))
    var device: String?

    @Option(
        name: [.customShort("i", allowingJoined: true), .customLong("ib-port")],
        help: ArgumentHelp("Port of the device.", valueName: "port"))
    var devicePort = 1

    @Option(
        name: [.customShort("p", allowingJoined: true), .customLong("port")],
        help: ArgumentHelp(
            "Port on which the two ends find each other, of TCP or with -R of the connection manager.",
            valueName: "port"))
    var tcpPort = 18515

    @Option(
        name: [.customShort("s", allowingJoined: true), .customLong("size")],
        help: ArgumentHelp(
            "Message size in bytes, or with K or M. Default: 65536 for bandwidth, 2 for latency.", valueName: "size"))
    var size: Quantity?

    @Option(
        name: [.customShort("n", allowingJoined: true), .customLong("iters")],
        help: ArgumentHelp("Messages for each queue pair. Default: 1000, write-bw 5000.", valueName: "iters"))
    var iterations: Quantity?

    @Flag(name: [.customShort("a"), .customLong("all")], help: "Run sizes from 2 to 2^23.")
    var allSizes = false

    @Option(
        name: [.customShort("c", allowingJoined: true), .customLong("connection")],
        help: ArgumentHelp("Transport: RC, UC or UD.", valueName: "type"))
    var connection = PerfConnection.rc

    @Option(
        name: [.customShort("x", allowingJoined: true), .customLong("gid-index")],
        help: ArgumentHelp("Index in the GID table. Default: the port's best, see `verbs info`.", valueName: "index"))
    var gidIndex: Int?

    @Option(
        name: [.customShort("m", allowingJoined: true), .customLong("mtu")],
        help: ArgumentHelp("Path MTU, 256 to 4096. Default: the port's.", valueName: "mtu"))
    var mtu: Int?

    @Option(
        name: [.customShort("D", allowingJoined: true), .customLong("duration")],
        help: ArgumentHelp("Run for this many seconds instead of a number of messages.", valueName: "s"))
    var duration: Int?

    @Option(
        name: [.customShort("f", allowingJoined: true), .customLong("margin")],
        help: ArgumentHelp("Seconds at both ends of -D that are not counted. Default: 2.", valueName: "s"))
    var margin: Int?

    @Flag(name: [.customShort("b"), .customLong("bidirectional")], help: "Measure both directions at once.")
    var bidirectional = false

    @Option(
        name: [.customShort("q", allowingJoined: true), .customLong("qp")],
        help: ArgumentHelp("Queue pairs.", valueName: "n"))
    var queuePairs = 1

    @Option(
        name: [.customShort("t", allowingJoined: true), .customLong("tx-depth")],
        help: ArgumentHelp("Messages in flight. Default: 128, latency 1.", valueName: "n"))
    var transmitDepth: Int?

    @Option(
        name: [.customShort("r", allowingJoined: true), .customLong("rx-depth")],
        help: ArgumentHelp("Receives posted. Default: 512; UC and UD: as many as there are messages.", valueName: "n"))
    var receiveDepth: Int?

    @Option(
        name: [.customShort("Q", allowingJoined: true), .customLong("cq-mod")],
        help: ArgumentHelp("One completion for this many messages. Default: 100, above 8 KiB 1.", valueName: "n"))
    var completionModeration: Int?

    @Option(
        name: [.customShort("I", allowingJoined: true), .customLong("inline_size")],
        help: ArgumentHelp(
            "Messages up to this size travel in the work request. Default: 0, latency what the device has.",
            valueName: "size"))
    var inlineSize: Int?

    @Flag(name: [.customShort("e"), .customLong("events")], help: "Sleep on completion events instead of polling.")
    var useEvents = false

    @Option(
        name: [.customShort("o", allowingJoined: true), .customLong("outs")],
        help: ArgumentHelp("READ or ATOMIC requests in flight. Default: what the device has.", valueName: "n"))
    var outstandingReads: Int?

    @Option(
        name: [.customShort("A", allowingJoined: true), .customLong("atomic_type")],
        help: ArgumentHelp("CMP_AND_SWAP or FETCH_AND_ADD.", valueName: "type"))
    var atomic = PerfAtomic.fetchAndAdd

    @Option(
        name: [.customShort("l", allowingJoined: true), .customLong("post_list")],
        help: ArgumentHelp("Work requests posted with one doorbell.", valueName: "n"))
    var postList = 1

    @Option(
        name: .customLong("recv_post_list"),
        help: ArgumentHelp("Receives posted at once.", valueName: "n"))
    var receivePostList = 1

    @Flag(name: .customLong("use-srq"), help: "Receive through a shared receive queue of -r entries.")
    var useSharedReceiveQueue = false

    @Option(
        name: [.customShort("u", allowingJoined: true), .customLong("qp-timeout")],
        help: ArgumentHelp("Acknowledgement timeout: 4.096 us * 2^n.", valueName: "n"))
    var timeoutExponent = 14

    @Option(
        name: [.customShort("S", allowingJoined: true), .customLong("sl")],
        help: ArgumentHelp("Service level.", valueName: "sl"))
    var serviceLevel = 0

    @Option(name: .customLong("tclass"), help: ArgumentHelp("Traffic class (DSCP and ECN).", valueName: "n"))
    var trafficClass = 0

    @Flag(name: .customLong("report_gbits"), help: "Report in Gb/sec (10^9 bits) instead of MB/sec (2^20 bytes).")
    var reportGigabits = false

    @Flag(name: [.customShort("N"), .customLong("noPeak")], help: "Do not look for the peak bandwidth.")
    var skipPeak = false

    @Option(
        name: [.customShort("w", allowingJoined: true), .customLong("limit_bw")],
        help: ArgumentHelp("Fail if the average bandwidth is below this.", valueName: "value"))
    var bandwidthLimit: Double?

    @Option(
        name: [.customShort("y", allowingJoined: true), .customLong("limit_msgrate")],
        help: ArgumentHelp("Fail if the message rate is below this.", valueName: "value"))
    var messageRateLimit: Double?

    @Flag(name: [.customShort("H"), .customLong("report-histogram")], help: "List all latencies, sorted.")
    var listSorted = false

    @Flag(name: [.customShort("U"), .customLong("report-unsorted")], help: "List all latencies in order.")
    var listUnsorted = false

    @Flag(name: .customLong("percentiles"), help: "Print the percentile distribution of the latencies.")
    var percentiles = false

    @Flag(
        name: [.customShort("F"), .customLong("CPU-freq")],
        help: "Accepted for perftest's sake: the figures do not depend on the processor's frequency.")
    var ignoreFrequency = false

    @Flag(
        name: [.customShort("R"), .customLong("rdma_cm"), .customLong("rdma-cm")],
        help: "Find each other, and connect RC and UD queue pairs, through the connection manager. Both ends need it.")
    var connectionManager = false

    @Flag(name: .customLong("validate"), help: "Check what arrives. Both ends must be this program.")
    var validatesData = false

    @Option(
        name: .customLong("stall"),
        help: ArgumentHelp("Give up when nothing moves for this many seconds.", valueName: "s"))
    var stallSeconds = 60

    // What perftest has and this program has not is refused by name, not as an unknown option.
    @Flag(name: [.customShort("z"), .customLong("comm_rdma_cm")], help: .hidden) var connectionManagerExchange = false
    @Flag(name: [.customShort("O"), .customLong("dualport")], help: .hidden) var dualPort = false
    @Flag(name: [.customShort("g"), .customLong("mcg")], help: .hidden) var multicast = false

    func validate() throws {
        for (given, option) in [
            (connectionManagerExchange, "-z"), (dualPort, "-O"), (multicast, "-g"),
        ] where given {
            throw ValidationError(
                "\(option) of perftest is not supported. Without it, both ends find each other over TCP, with -R through the connection manager."
            )
        }
        guard stallSeconds > 0 else { throw ValidationError("--stall must be at least 1 second.") }
    }

    func options(test: PerfTest, host: String?) -> PerfOptions {
        var options = PerfOptions(test: test, host: host)
        options.device = device
        options.devicePort = devicePort
        options.tcpPort = tcpPort
        options.size = size?.value
        options.iterations = iterations?.value
        options.allSizes = allSizes
        options.connection = connection
        options.gidIndex = gidIndex
        options.mtu = mtu
        options.durationSeconds = duration
        options.marginSeconds = margin
        options.bidirectional = bidirectional
        options.queuePairs = queuePairs
        options.transmitDepth = transmitDepth
        options.receiveDepth = receiveDepth
        options.completionModeration = completionModeration
        options.inlineSize = inlineSize
        options.useEvents = useEvents
        options.serviceLevel = serviceLevel
        options.trafficClass = trafficClass
        options.timeoutExponent = timeoutExponent
        options.atomic = atomic
        options.outstandingReads = outstandingReads
        options.postList = postList
        options.receivePostList = receivePostList
        options.useSharedReceiveQueue = useSharedReceiveQueue
        options.reportGigabits = reportGigabits
        options.skipPeak = skipPeak
        options.bandwidthLimit = bandwidthLimit
        options.messageRateLimit = messageRateLimit
        options.validate = validatesData
        options.stallSeconds = stallSeconds
        options.useConnectionManager = connectionManager
        return options
    }
}
