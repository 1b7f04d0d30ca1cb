// SPDX-License-Identifier: Apache-2.0
import Verbs

/// What `verbs pingpong` was asked for; names and defaults of rdma-core's pingpong programs.
package struct PingPongOptions: Equatable, Sendable {
    package var connection = PerfConnection.rc
    package var device: String?
    package var devicePort = 1
    package var gidIndex: Int?
    /// Message size in bytes.
    package var size = 4096
    /// Path MTU in bytes.
    package var mtu = 1024
    package var iterations = 1000
    package var receiveDepth = 500
    package var serviceLevel = 0
    package var useEvents = false
    /// Check that each message is the one that was expected.
    package var checksData = false
    /// Queue pairs, of ``SharedPingPongTest`` only.
    package var queuePairs = 1

    package init() {}

    /// Judges the options.
    package func validated() throws(PerfError) {
        guard size >= 1, size <= 1 << 23 else { throw .usage("-s \(size): the size must be 1...\(1 << 23) bytes.") }
        guard MTU(byteCount: mtu) != nil else {
            throw .usage("-m \(mtu): a path MTU is one of 256, 512, 1024, 2048, 4096.")
        }
        guard iterations >= 1 else { throw .usage("-n \(iterations): at least one message must be exchanged.") }
        guard (1...16384).contains(receiveDepth) else { throw .usage("-r \(receiveDepth): must be 1...16384.") }
        guard (1...SharedPingPongTest.recordCount).contains(queuePairs) else {
            throw .usage("-q \(queuePairs): must be 1...\(SharedPingPongTest.recordCount).")
        }
    }

    /// How to connect a queue pair.
    func connectionOptions(activeMTU: MTU) -> ConnectionOptions {
        var options = ConnectionOptions()
        options.mtu = MTU(byteCount: mtu).map { min($0, activeMTU) }
        options.serviceLevel = UInt8(clamping: serviceLevel)
        options.maxReads = 1
        // A second: a stall of a busy machine is no loss.
        options.timeout = 18
        return options
    }
}

extension DeviceChoice {
    init(_ options: PingPongOptions, localAddress: [UInt8]) throws(PerfError) {
        var choice = PerfOptions(test: .sendLatency)
        choice.device = options.device
        choice.devicePort = options.devicePort
        choice.gidIndex = options.gidIndex
        try self.init(choice, localAddress: localAddress)
    }
}

/// What a ping-pong came to.
package struct PingPongResult: Equatable, Sendable, Encodable {
    package var device: String
    package var bytes: Int
    package var iterations: Int
    package var seconds: Double
    package var checkedMessages: Int

    /// The two lines of rdma-core's programs.
    package var text: String {
        let rate = Double(bytes) * 8 / seconds / 1e6
        let each = seconds * 1e6 / Double(iterations)
        return "\(bytes) bytes in \(fixed(seconds, 2)) seconds = \(fixed(rate, 2)) Mbit/sec\n"
            + "\(iterations) iters in \(fixed(seconds, 2)) seconds = \(fixed(each, 2)) usec/iter"
    }
}

/// Sends a message there and back, again and again, over one queue pair.
///
/// The peer may be this program or ibv_rc_pingpong, ibv_uc_pingpong or ibv_ud_pingpong. Written with the ownership level
/// of `Verbs`: a buffer is posted and comes back with its completion, and nothing can touch it in between.
package struct PingPongTest: ~Copyable {
    private static let qkey: UInt32 = 0x1111_1111
    /// A send's completion may come after the answer, even after the answer to the next one.
    private static let sendDepth = 4

    private let options: PingPongOptions
    private let connection: PeerConnection
    private let device: DeviceChoice
    private let buffers: BufferPool
    private let queues: Queues
    /// Receives posted: one is enough, and more than a few would only take memory.
    private let depth: Int
    private var destination: DatagramDestination?
    private var sent = 0
    private var received = 0
    private var checked = 0

    private var isServer: Bool { connection.role == .server }
    private var header: Int { options.connection == .ud ? BufferLayout.headerBytes : 0 }

    /// Opens the device and makes the queue pair; nothing is sent yet.
    package init(_ options: PingPongOptions, over connection: PeerConnection) throws(PerfError) {
        try options.validated()
        let device = try DeviceChoice(options, localAddress: connection.localAddress)
        let depth = min(options.receiveDepth, options.iterations, max(2, (64 << 20) / options.size))
        do throws(VerbsError) {
            let domain = try device.context.makeProtectionDomain()
            let slot = options.size + (options.connection == .ud ? BufferLayout.headerBytes : 0)
            let buffers = try domain.makeBufferPool(count: depth + Self.sendDepth, size: slot)
            let channel = options.useEvents ? try device.context.makeCompletionChannel() : nil
            queues = try Queues(options, domain, depth: depth, channel: channel)
            self.buffers = buffers
        } catch {
            throw .device("\(error)")
        }
        self.options = options
        self.connection = connection
        self.device = device
        self.depth = depth
    }

    /// The two queues, made together.
    private struct Queues: ~Copyable {
        let completions: CompletionQueue
        let queuePair: QueuePair

        init(
            _ options: PingPongOptions, _ domain: ProtectionDomain, depth: Int, channel: CompletionChannel?
        ) throws(VerbsError) {
            let transport: Transport =
                switch options.connection {
                case .rc: .reliableConnected
                case .uc: .unreliableConnected
                case .ud: .unreliableDatagram
                }
            let completions = try domain.context.makeCompletionQueue(
                capacity: depth + PingPongTest.sendDepth, channel: channel)
            queuePair = try domain.makeQueuePair(
                transport, options: QueuePairOptions(sendDepth: PingPongTest.sendDepth, receiveDepth: depth),
                completions: completions)
            self.completions = completions
        }
    }

    /// Runs the test. `line` gets the addresses of the two ends.
    package mutating func run(line: (String) -> Void) throws(PerfError) -> PingPongResult {
        let local: Endpoint
        do throws(VerbsError) {
            local = try queues.queuePair.prepare(
                port: device.port.number, gidIndex: device.gid?.index, access: .localWrite, qkey: Self.qkey)
        } catch {
            throw .device("\(error)")
        }
        for _ in 0..<depth { try postReceive() }
        line("  local address:  " + Self.text(local))
        try exchange(local, line)
        // rdma-core's programs close the connection once the ends know each other.
        var watch = RunWatch(
            connection: connection, peerStays: false, isEmbeddedDevice: device.context.device.kind == .embedded,
            stallSeconds: 30, total: options.iterations)
        let started = monotonicNanoseconds()
        if !isServer { try postMessage() }
        while received < options.iterations || sent < options.iterations { try step(&watch) }
        let seconds = Double(monotonicNanoseconds() - started) / 1e9
        connection.finish()
        return PingPongResult(
            device: device.context.device.name, bytes: options.size * options.iterations * 2,
            iterations: options.iterations, seconds: seconds, checkedMessages: checked)
    }

    /// The client writes first and tells when it is done; the server connects before it answers, so that it is ready
    /// for the client's first message.
    private mutating func exchange(_ local: Endpoint, _ line: (String) -> Void) throws(PerfError) {
        let own = PingPongRecord(local)
        let done = Array("done\0".utf8)
        if isServer {
            let peer = try PingPongRecord(parsing: connection.receive(PingPongRecord.byteCount))
            try connect(local, peer, line)
            try connection.send(own.encoded())
            _ = try connection.receive(done.count)
        } else {
            try connection.send(own.encoded())
            let peer = try PingPongRecord(parsing: connection.receive(PingPongRecord.byteCount))
            try connection.send(done)
            try connect(local, peer, line)
        }
    }

    private mutating func connect(
        _ local: Endpoint, _ record: PingPongRecord, _ line: (String) -> Void
    ) throws(PerfError) {
        let peer = record.endpoint(like: local)
        line("  remote address: " + Self.text(peer))
        let options = self.options.connectionOptions(activeMTU: device.port.activeMTU)
        do throws(VerbsError) {
            if self.options.connection == .ud {
                try queues.queuePair.start()
                destination = try queues.queuePair.destination(of: peer, options: options)
            } else {
                try queues.queuePair.connect(to: peer, options: options)
            }
        } catch {
            throw .device("\(error)")
        }
    }

    /// An end as rdma-core's programs print it.
    static func text(_ endpoint: Endpoint) -> String {
        func hex(_ value: UInt32, _ width: Int) -> String {
            let digits = String(value, radix: 16)
            return "0x" + String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        return "LID \(hex(UInt32(endpoint.lid), 4)), QPN \(hex(endpoint.queuePair, 6)), PSN \(hex(endpoint.psn, 6)), "
            + "GID \(endpoint.gid)"
    }
}

// Ping and pong.
extension PingPongTest {
    /// Takes one completion, if there is one, and answers what was received.
    private mutating func step(_ watch: inout RunWatch) throws(PerfError) {
        if let completion = try next() {
            watch.moved()
            return try take(completion)
        }
        if options.useEvents { try watch.look(received) } else { try watch.isIdle(count: received) }
    }

    /// The next completion; with events, waits for one a while.
    private func next() throws(PerfError) -> Completion? {
        do throws(VerbsError) {
            if options.useEvents, try !queues.completions.wait(timeout: .milliseconds(100)) { return nil }
            return try queues.completions.next()
        } catch {
            throw .device("\(error)")
        }
    }

    private mutating func take(_ completion: consuming Completion) throws(PerfError) {
        guard completion.isSuccess else {
            throw .device("\(completion.workCompletion). \(received) messages were received before.")
        }
        // What a send gives back returns to the pool by itself.
        guard completion.opcode.isReceive else { return }
        let count = completion.byteCount
        guard let message = completion.takeBuffer() else { return }
        guard count == options.size + header else {
            throw .protocolMismatch(
                "A message of \(count - header) bytes came instead of \(options.size): give both ends the same -s.")
        }
        received += 1
        if isServer {
            try postEcho(of: message)
        } else {
            try check(message)
            if sent < options.iterations { try postMessage() }
        }
        if received + depth <= options.iterations { try postReceive(message) }
    }

    /// The client's next message.
    private mutating func postMessage() throws(PerfError) {
        guard var buffer = buffers.take() else { throw .device("No buffer is free for the next message.") }
        buffer.count = options.size
        if options.checksData || sent < Self.sendDepth {
            // The buffer is ours until it is posted.
            var bytes = buffer.mutableBytes
            unsafe bytes.withUnsafeMutableBytes { unsafe PayloadPattern(queuePair: 0, message: sent).fill($0) }
        }
        try post(buffer)
    }

    /// The server sends back what it got.
    private mutating func postEcho(of message: borrowing RegisteredBuffer) throws(PerfError) {
        guard var buffer = buffers.take() else { throw .device("No buffer is free for the answer.") }
        buffer.count = options.size
        buffer.fill(from: message.bytes.extracting(droppingFirst: header))
        try post(buffer)
    }

    private mutating func post(_ buffer: consuming RegisteredBuffer) throws(PerfError) {
        do throws(PostError) {
            if let destination {
                try queues.queuePair.post(.send, buffer, to: destination).orThrow()
            } else {
                try queues.queuePair.post(.send, buffer).orThrow()
            }
        } catch {
            throw .device("Posting a send failed: \(error).")
        }
        sent += 1
    }

    private func postReceive() throws(PerfError) {
        guard let buffer = buffers.take() else { throw .device("No buffer is free to receive into.") }
        try postReceive(buffer)
    }

    private func postReceive(_ buffer: consuming RegisteredBuffer) throws(PerfError) {
        var buffer = buffer
        buffer.count = options.size + header
        do throws(PostError) {
            try queues.queuePair.receive(buffer).orThrow()
        } catch {
            throw .device("Posting a receive failed: \(error).")
        }
    }

    private mutating func check(_ message: borrowing RegisteredBuffer) throws(PerfError) {
        guard options.checksData else { return }
        let pattern = PayloadPattern(queuePair: 0, message: received - 1)
        // The buffer is ours, and borrowed for longer than the call.
        let difference = unsafe message.bytes.extracting(droppingFirst: header).withUnsafeBytes {
            unsafe pattern.firstDifference(in: $0)
        }
        if let difference {
            throw .corrupted("Message \(received) came back wrong from its byte \(difference) on.")
        }
        checked += 1
    }
}
