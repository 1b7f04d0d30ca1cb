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
            #expect(flow.placement.place == .packetRing)
            try receiver.post(count: 4)
            let frame = Frames.udp(to: 7000, payload: "steered")
            try sender.send(Frames.udp(to: 7001, payload: "not steered"))
            try sender.send(frame)
            let (bytes, completion) = try receiver.receive()
            #expect(bytes == frame)
            #expect(completion.frame.tag == 9)
            #expect(completion.frame.vlanTag == nil)
            #expect(try flow.counters.packets == 1)
            #expect(try flow.counters.bytes == UInt64(frame.count))
        }
    }
}

/// A raw packet queue pair on a device.
final class FrameEnd {
    let context: Context
    let domain: ProtectionDomain
    let pool: BufferPool
    let completions: CompletionQueue
    let queuePair: QueuePair

    init(_ device: String, bufferSize: Int = 2048, elements: Int = 1) throws {
        context = try Device.named(device).open()
        domain = try context.makeProtectionDomain()
        pool = try domain.makeBufferPool(count: 128, size: bufferSize)
        completions = try context.makeCompletionQueue(capacity: 256)
        let options = QueuePairOptions(
            sendDepth: 64, receiveDepth: 128, sendElements: elements, receiveElements: elements)
        queuePair = try domain.makeQueuePair(.rawPacket, options: options, completions: completions)
        try queuePair.start(port: 1)
    }

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
        let completion = try next()
        #expect(completion.isSuccess && completion.opcode == .send, "\(completion.workCompletion)")
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
        #expect(work.isSuccess && work.opcode == .receive, "\(work)")
        guard let buffer = completion.takeBuffer() else { throw TimeoutError(description: "no buffer") }
        return (buffer.copyBytes(), work)
    }
}

/// Frames between the ends of a wire, built by hand.
enum Frames {
    /// A UDP datagram over IPv4 without UDP checksum.
    static func udp(to port: UInt16, payload: String) -> [UInt8] {
        let data = Array(payload.utf8)
        var ip: [UInt8] = [0x45, 0] + half(28 + data.count) + [0, 0, 0, 0, 64, 17, 0, 0]
        ip += [10, 88, 0, 1, 10, 88, 0, 2]
        let sum = stride(from: 0, to: 20, by: 2).reduce(0) { $0 + Int(ip[$1]) << 8 + Int(ip[$1 + 1]) }
        ip.replaceSubrange(10..<12, with: half(~(sum & 0xFFFF + sum >> 16) & 0xFFFF))
        let ethernet: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]
        return ethernet + ip + half(9000) + half(Int(port)) + half(8 + data.count) + [0, 0] + data
    }

    static func half(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 0xFF), UInt8(value & 0xFF)] }
}
