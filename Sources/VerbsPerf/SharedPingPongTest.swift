// SPDX-License-Identifier: Apache-2.0
import Verbs

/// Sends a message there and back over several queue pairs, which take what they receive from one shared queue.
///
/// The peer may be this program or rdma-core's ibv_srq_pingpong, whose `-n` counts the messages of all queue pairs together.
/// Each queue pair sends its next message when its last one is done and answered; so a queue pair never has more than one
/// message on its way to a peer, and a shared queue as deep as there are queue pairs is never empty.
package struct SharedPingPongTest: ~Copyable {
    /// The queue pairs that a peer tells of: so many records are exchanged, whatever `-q` says.
    package static let recordCount = 256

    private let options: PingPongOptions
    private let connection: PeerConnection
    private let device: DeviceChoice
    private let buffers: BufferPool
    private let queues: Queues
    private let depth: Int
    private var sent = 0
    private var received = 0
    private var checked = 0

    private var isServer: Bool { connection.role == .server }
    private var lanes: [Lane] { queues.lanes }

    /// One queue pair, and what its next message waits for.
    private final class Lane {
        let queuePair: QueuePair
        var waitsForSend = false
        var waitsForMessage = true
        /// What came, to be sent back (server).
        var answer: RegisteredBuffer?

        init(_ queuePair: consuming QueuePair) { self.queuePair = queuePair }

        var isReady: Bool { !waitsForSend && !waitsForMessage }

        func takeAnswer() -> RegisteredBuffer? { answer.take() }
    }

    /// All queues, made together.
    private struct Queues: ~Copyable {
        let completions: CompletionQueue
        let receives: SharedReceiveQueue
        let lanes: [Lane]
        /// Which one has a queue pair number.
        let indices: [UInt32: Int]

        init(_ options: PingPongOptions, _ domain: ProtectionDomain, depth: Int) throws(VerbsError) {
            let channel = options.useEvents ? try domain.context.makeCompletionChannel() : nil
            let completions = try domain.context.makeCompletionQueue(
                capacity: depth + options.queuePairs, channel: channel)
            let receives = try domain.makeSharedReceiveQueue(depth: depth)
            var lanes: [Lane] = []
            var indices: [UInt32: Int] = [:]
            for index in 0..<options.queuePairs {
                let lane = Lane(
                    try domain.makeQueuePair(
                        .reliableConnected, options: QueuePairOptions(sendDepth: 1, receiveDepth: 0),
                        sendCompletions: completions, receiveCompletions: completions, sharedReceives: receives))
                indices[lane.queuePair.number] = index
                lanes.append(lane)
            }
            self.completions = completions
            self.receives = receives
            self.lanes = lanes
            self.indices = indices
        }
    }

    /// Opens the device and makes the queue pairs; nothing is sent yet.
    package init(_ options: PingPongOptions, over connection: PeerConnection) throws(PerfError) {
        try options.validated()
        let device = try DeviceChoice(options, localAddress: connection.localAddress)
        let depth = max(options.queuePairs, min(options.receiveDepth, (64 << 20) / options.size))
        do throws(VerbsError) {
            let domain = try device.context.makeProtectionDomain()
            // Beside the receives, each queue pair has a message on its way and one that waits to be sent back.
            let buffers = try domain.makeBufferPool(count: depth + 2 * options.queuePairs, size: options.size)
            queues = try Queues(options, domain, depth: depth)
            self.buffers = buffers
        } catch {
            throw .device("\(error)")
        }
        self.options = options
        self.connection = connection
        self.device = device
        self.depth = depth
    }

    /// Runs the test. `line` gets the addresses of the ends of all queue pairs.
    package mutating func run(line: (String) -> Void) throws(PerfError) -> PingPongResult {
        var locals: [Endpoint] = []
        for lane in lanes {
            do throws(VerbsError) {
                locals.append(
                    try lane.queuePair.prepare(
                        port: device.port.number, gidIndex: device.gid?.index, access: .localWrite))
            } catch {
                throw .device("\(error)")
            }
        }
        for _ in 0..<depth { try postReceive() }
        for local in locals { line("  local address:  " + PingPongTest.text(local)) }
        try exchange(locals, line)
        // rdma-core's programs close the connection once the ends know each other.
        var watch = RunWatch(
            connection: connection, peerStays: false, isEmbeddedDevice: device.context.device.kind == .embedded,
            stallSeconds: 30, total: options.iterations)
        let started = monotonicNanoseconds()
        if !isServer {
            for lane in lanes { try postMessage(lane) }
        }
        while received < options.iterations || sent < options.iterations { try step(&watch) }
        let seconds = Double(monotonicNanoseconds() - started) / 1e9
        connection.finish()
        return PingPongResult(
            device: device.context.device.name, bytes: options.size * options.iterations * 2,
            iterations: options.iterations, seconds: seconds, checkedMessages: checked)
    }

    /// As with the other pingpong programs, but each message is ``recordCount`` records.
    private func exchange(_ locals: [Endpoint], _ line: (String) -> Void) throws(PerfError) {
        let own = PingPongRecord.table(of: locals.map(PingPongRecord.init), count: Self.recordCount)
        let done = Array("done\0".utf8)
        if isServer {
            let peers = try PingPongRecord.parse(
                table: connection.receive(Self.recordCount * PingPongRecord.byteCount), first: lanes.count)
            try connect(locals, peers, line)
            try connection.send(own)
            _ = try connection.receive(done.count)
        } else {
            try connection.send(own)
            let peers = try PingPongRecord.parse(
                table: connection.receive(Self.recordCount * PingPongRecord.byteCount), first: lanes.count)
            try connection.send(done)
            try connect(locals, peers, line)
        }
    }

    private func connect(
        _ locals: [Endpoint], _ peers: [PingPongRecord], _ line: (String) -> Void
    ) throws(PerfError) {
        for (index, record) in peers.enumerated() {
            let peer = record.endpoint(like: locals[index])
            line("  remote address: " + PingPongTest.text(peer))
            do throws(VerbsError) {
                try lanes[index].queuePair.connect(
                    to: peer, options: options.connectionOptions(activeMTU: device.port.activeMTU))
            } catch {
                throw .device("\(error)")
            }
        }
    }
}

// Ping and pong.
extension SharedPingPongTest {
    /// Takes one completion, if there is one, and sends what it was waited for with.
    private mutating func step(_ watch: inout RunWatch) throws(PerfError) {
        if let completion = try next() {
            watch.moved()
            return try take(completion)
        }
        if options.useEvents { try watch.look(received) } else { try watch.isIdle(count: received) }
    }

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
            // ibv_srq_pingpong leaves once it has its counts, with messages and acknowledgements of ours on their way: then
            // this end has all that it may expect too.
            if received >= options.iterations, !completion.opcode.isReceive {
                sent = max(sent, options.iterations)
                return
            }
            throw .device("\(completion.workCompletion). \(received) messages were received before.")
        }
        guard let index = queues.indices[completion.queuePair] else {
            throw .device("A completion names queue pair \(completion.queuePair), which is none of this test's.")
        }
        let lane = lanes[index]
        if completion.opcode.isReceive {
            let count = completion.byteCount
            guard let message = completion.takeBuffer() else { return }
            guard count == options.size else {
                throw .protocolMismatch(
                    "A message of \(count) bytes came instead of \(options.size): give both ends the same -s.")
            }
            received += 1
            lane.waitsForMessage = false
            try postReceive()
            if isServer { lane.answer = consume message } else { try check(message) }
        } else {
            // The buffer returns to the pool by itself.
            sent += 1
            lane.waitsForSend = false
        }
        if lane.isReady, sent < options.iterations { try postMessage(lane) }
    }

    /// The next message of a queue pair; the server's is what it received.
    private func postMessage(_ lane: Lane) throws(PerfError) {
        guard var buffer = lane.takeAnswer() ?? buffers.take() else {
            throw .device("No buffer is free for the next message.")
        }
        buffer.count = options.size
        if !isServer {
            // The buffer is ours until it is posted. All messages are the same: ibv_srq_pingpong answers out of the one
            // buffer that it receives into, so an answer is the last message of any queue pair.
            var bytes = buffer.mutableBytes
            unsafe bytes.withUnsafeMutableBytes { unsafe PayloadPattern(queuePair: 0, message: 0).fill($0) }
        }
        do throws(PostError) {
            try lane.queuePair.post(.send, buffer).orThrow()
        } catch {
            throw .device("Posting a send failed: \(error).")
        }
        lane.waitsForSend = true
        lane.waitsForMessage = true
    }

    private func postReceive() throws(PerfError) {
        guard var buffer = buffers.take() else { throw .device("No buffer is free to receive into.") }
        buffer.count = options.size
        do throws(PostError) {
            try queues.receives.receive(buffer).orThrow()
        } catch {
            throw .device("Posting a receive failed: \(error).")
        }
    }

    private mutating func check(_ message: borrowing RegisteredBuffer) throws(PerfError) {
        guard options.checksData else { return }
        let pattern = PayloadPattern(queuePair: 0, message: 0)
        // The buffer is ours, and borrowed for longer than the call.
        let difference = unsafe message.bytes.withUnsafeBytes { unsafe pattern.firstDifference(in: $0) }
        if let difference {
            throw .corrupted("Message \(received) came back wrong from its byte \(difference) on.")
        }
        checked += 1
    }
}
