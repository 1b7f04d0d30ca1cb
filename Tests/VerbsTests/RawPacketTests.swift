// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

@Suite("Raw packet queue pairs", .enabled(if: VirtualWire.isAvailable, "network namespaces want root"), .serialized)
struct RawPacketTests {
    @Test("A frame that a rule matches lies in the posted buffer as it was on the wire")
    func delivers() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let receiver = try FrameEnd("soft_w1")
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000 action tag 9"))
            try #require(flow.placement.place == .packetRing)
            try receiver.post(count: 4)
            let frame = Frames.udp(to: 7000, payload: "steered")
            try sender.send(Frames.udp(to: 7001, payload: "not steered"))
            try sender.send(frame)
            let (bytes, completion) = try receiver.receive()
            try #require(bytes == frame)
            try #require(completion.frame.tag == 9)
            try #require(completion.frame.vlanTag == nil)
            try #require(try flow.counters.packets == 1)
            try #require(try flow.counters.bytes == UInt64(frame.count))
        }
    }
}

/// A raw packet queue pair on a device.
final class FrameEnd {
    let domain: ProtectionDomain
    let pool: BufferPool
    let completions: CompletionQueue
    let queuePair: QueuePair

    convenience init(_ device: String) throws { try self.init(try Device.named(device).open()) }

    init(_ context: Context, receives: Int = 64, bufferSize: Int = 2048, elements: Int = 1) throws {
        domain = try context.makeProtectionDomain()
        pool = try domain.makeBufferPool(count: receives + 64, size: bufferSize)
        completions = try context.makeCompletionQueue(capacity: receives + 64)
        let options = QueuePairOptions(
            sendDepth: 64, receiveDepth: receives, sendElements: elements, receiveElements: elements)
        queuePair = try domain.makeQueuePair(.rawPacket, options: options, completions: completions)
        try queuePair.start(port: 1)
    }

    /// Posts as many receives as there is room for.
    func replenish() throws { try post(count: queuePair.receiveRoom) }

    /// Posts receives.
    func post(count: Int) throws {
        for _ in 0..<count {
            guard let buffer = pool.take() else { throw TimeoutError(description: "the pool is empty") }
            guard case .posted = queuePair.receive(buffer) else {
                throw TimeoutError(description: "a receive was not posted")
            }
        }
    }

    func send(_ bytes: [UInt8]) throws {
        guard var buffer = pool.take() else { throw TimeoutError(description: "the pool is empty") }
        buffer.fill(from: bytes)
        guard case .posted = queuePair.post(.send, buffer) else { throw TimeoutError(description: "not posted") }
        let work = try next().workCompletion
        guard work.isSuccess, work.opcode == .send else { throw TimeoutError(description: "\(work)") }
    }

    func next() throws -> Completion {
        let end = ContinuousClock.now + TestDevice.patience
        while ContinuousClock.now < end {
            if let completion = try completions.next() { return completion }
            usleep(20)
        }
        throw TimeoutError(description: "no completion within \(TestDevice.patience)")
    }

    func receive() throws -> ([UInt8], WorkCompletion) {
        let completion = try next()
        let work = completion.workCompletion
        try #require(work.isSuccess && work.opcode == .receive, "\(work)")
        guard let buffer = completion.takeBuffer() else { throw TimeoutError(description: "no buffer") }
        return (buffer.copyBytes(), work)
    }
}

/// Frames between the ends of a wire, built by hand.
enum Frames {
    /// A UDP datagram over IPv4 without UDP checksum.
    struct Datagram {
        var hardware: [UInt8] = [2, 0, 0, 0, 0, 2]
        var source: [UInt8] = [10, 88, 0, 9]
        var destination: [UInt8] = [10, 88, 0, 2]
        var timeToLive: UInt8 = 64
        var sourcePort: UInt16 = 9000
        var destinationPort: UInt16 = 7000
        var payload: [UInt8] = []

        var bytes: [UInt8] {
            var ip: [UInt8] = [0x45, 0] + half(28 + payload.count) + [0, 0, 0, 0, timeToLive, 17, 0, 0]
            ip += source + destination
            let sum = stride(from: 0, to: 20, by: 2).reduce(0) { $0 + Int(ip[$1]) << 8 + Int(ip[$1 + 1]) }
            ip.replaceSubrange(10..<12, with: half(~(sum & 0xFFFF + sum >> 16) & 0xFFFF))
            let ports = half(Int(sourcePort)) + half(Int(destinationPort))
            return hardware + [2, 0, 0, 0, 0, 1, 8, 0] + ip + ports + half(8 + payload.count) + [0, 0] + payload
        }
    }

    static func udp(to port: UInt16, payload: String) -> [UInt8] {
        var datagram = Datagram()
        datagram.destinationPort = port
        datagram.payload = Array(payload.utf8)
        return datagram.bytes
    }

    static func half(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 0xFF), UInt8(value & 0xFF)] }
}
