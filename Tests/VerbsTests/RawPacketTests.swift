// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

@Suite(
    "Raw packet queue pairs", .enabled(if: VirtualWire.isAvailable, "wants root and the software device"),
    .serialized)
struct RawPacketTests {
    @Test("A frame that a rule matches lies in the posted buffer as it was on the wire")
    func delivers() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let receiver = try FrameEnd("soft_w1")
            let flow = try receiver.queuePair.attach(
                try FlowRule(parsing: "ip udp dst-port 7000 action tag 9"), places: FlowPlace.sockets)
            try require(flow.placement.place == .packetRing)
            try receiver.post(count: 4)
            let frame = Frames.udp(to: 7000, payload: "steered")
            try sender.send(Frames.udp(to: 7001, payload: "not steered"))
            try sender.send(frame)
            let (bytes, completion) = try receiver.receive()
            try require(bytes == frame)
            try require(completion.frame.tag == 9)
            try require(completion.frame.vlanTag == nil)
            try require(try flow.counters.packets == 1)
            try require(try flow.counters.bytes == UInt64(frame.count))
        }
    }

    @Test("A VLAN tag stands in the frame and in the completion", arguments: [FlowPlace.packetRing, .packet])
    func tags(place: FlowPlace) throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let receiver = try FrameEnd("soft_w1")
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "eth vlan 5"), places: [place])
            try receiver.post(count: 4)
            var frame = Frames.udp(to: 7000, payload: "tagged")
            frame.insert(contentsOf: [0x81, 0, 0x20, 5], at: 12)
            let before = UInt64(time(nil)) * 1_000_000_000
            try sender.send(frame)
            let (bytes, completion) = try receiver.receive()
            try require(bytes == frame)
            try require(completion.frame.vlanTag == 0x2005)
            try require(completion.frame.tag == nil)
            let stamp = try #require(completion.frame.timestamp)
            try require(stamp >= before && stamp < before + 60_000_000_000)
            _ = try flow.counters
        }
    }

    @Test("A receive that is too short completes with a length error, and the next frame fits the next")
    func tooShort() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let receiver = try FrameEnd(try Device.named("soft_w1").open(), bufferSize: 100)
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            try receiver.post(count: 2)
            try sender.send(Frames.udp(to: 7000, payload: String(repeating: "x", count: 200)))
            try sender.send(Frames.udp(to: 7000, payload: "fits"))
            let failed = try receiver.next().workCompletion
            try require(failed.status == .localLengthError)
            let (bytes, _) = try receiver.receive()
            try require(bytes == Frames.udp(to: 7000, payload: "fits"))
            try require(try flow.counters.packets == 2)
        }
    }

    @Test("Frames without a receive are dropped and counted, and the queue pair goes on")
    func noReceive() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let context = try Device.named("soft_w1").open()
            let receiver = try FrameEnd(context)
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            for index in 0..<5 { try sender.send(Frames.udp(to: 7000, payload: "\(index)")) }
            try receiver.wait {
                context.counters.contains { $0.name == "frames_without_receive" && $0.value == 5 }
            }
            try require(try flow.counters.packets == 5)
            try receiver.post(count: 1)
            try sender.send(Frames.udp(to: 7000, payload: "after"))
            try require(try receiver.receive().0 == Frames.udp(to: 7000, payload: "after"))
        }
    }

    @Test("A frame is spread over the elements of a receive, and gathered from those of a send")
    func scatters() throws {
        try VirtualWire.run {
            let sender = try FrameEnd(try Device.named("soft_w0").open(), bufferSize: 64, elements: 4)
            let receiver = try FrameEnd(try Device.named("soft_w1").open(), bufferSize: 64, elements: 4)
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            let frame = Frames.udp(to: 7000, payload: String(repeating: "abcdefg", count: 20))
            guard var target = receiver.pool.take() else { throw TimeoutError(description: "the pool is empty") }
            for _ in 0..<3 { if let more = receiver.pool.take() { target.append(more) } }
            guard case .posted = receiver.queuePair.receive(target) else { throw TimeoutError(description: "refused") }
            try sender.sendInPieces(frame, of: 64)
            let completion = try receiver.next()
            try require(completion.isSuccess && completion.byteCount == frame.count)
            guard var buffer = completion.takeBuffer() else { throw TimeoutError(description: "no buffer") }
            var bytes = buffer.copyBytes()
            while let rest = buffer.takeRest() {
                buffer = rest
                bytes += buffer.copyBytes()
            }
            try require(Array(bytes.prefix(frame.count)) == frame)
            _ = try flow.counters
        }
    }

    @Test("From detaching on, nothing is delivered; the queue pair can go while flows lead to it")
    func detaches() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let context = try Device.named("soft_w1").open()
            let receiver = try FrameEnd(context)
            let other = try FrameEnd(context)
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            let rest = try other.queuePair.attach(.allDefault)
            try receiver.post(count: 2)
            try other.post(count: 4)
            try sender.send(Frames.udp(to: 7000, payload: "one"))
            try require(try receiver.receive().0 == Frames.udp(to: 7000, payload: "one"))
            try flow.detach()
            try sender.send(Frames.udp(to: 7000, payload: "two"))
            try require(try other.receive().0 == Frames.udp(to: 7000, payload: "two"))
            try require(try receiver.completions.next() == nil)
            _ = rest.placement
        }
    }

    @Test("What the kernel's stack has not cut up or summed comes as it would be on the wire")
    func superFrames() throws {
        try VirtualWire.run(["netns add wire-peer", "link set w0 netns wire-peer"]) {
            defer { try? VirtualWire.ip("netns del wire-peer") }
            for command in ["link set w0 up", "addr add 10.88.0.1/24 dev w0"] {
                try VirtualWire.ip("-n wire-peer \(command)")
            }
            let context = try Device.named("soft_w1").open()
            let cut = try FrameEnd(context, receives: 128)
            let whole = try FrameEnd(context, bufferSize: 65_536)
            let pieces = try cut.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000 dont-trap"))
            let frames = try whole.queuePair.attach(
                try FlowRule(parsing: "ip udp dst-port 7000 priority 1"), keepsSuperFrames: true)
            try cut.replenish()
            try whole.post(count: 4)
            // One send of ten segments by UDP GSO.
            let program = """
                import socket
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                s.setsockopt(17, 103, 1000)
                s.sendto(b''.join(bytes([i]) * 1000 for i in range(10)) + b'end', ('10.88.0.2', 7000))
                """
            try VirtualWire.command(["ip", "netns", "exec", "wire-peer", "python3", "-c", program])
            for index in 0..<11 {
                let (bytes, work) = try cut.receive()
                let payload = index < 10 ? [UInt8](repeating: UInt8(index), count: 1000) : Array("end".utf8)
                try require(Array(bytes.dropFirst(42)) == payload, "segment \(index)")
                try require(work.frame.isChecksumRight)
                try require(Frames.isSound(bytes))
            }
            let (bytes, _) = try whole.receive()
            try require(bytes.count == 42 + 10_003)
            try require(try pieces.counters.packets == 11)
            try require(try frames.counters.packets == 1)
        }
    }

    @Test(
        "A rule that no place has leaves the other flows where they are",
        .enabled(if: VirtualWire.hasXDP, "XDP programs want CAP_BPF and CAP_NET_ADMIN"))
    func refusedRule() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let receiver = try FrameEnd("soft_w1")
            let flow = try receiver.queuePair.attach(
                try FlowRule(parsing: "ip udp dst-port 7000"), places: [.xdp, .xdpGeneric])
            try require(flow.placement.place == .xdp)
            do {
                let other = try receiver.queuePair.attach(.sniffer)
                throw TimeoutError(description: "attached at \(other.placement.place)")
            } catch let error as VerbsError { try require(error.cause == .unsupported, "\(error)") }
            try receiver.post(count: 1)
            try sender.send(Frames.udp(to: 7000, payload: "still"))
            try require(try receiver.receive().0 == Frames.udp(to: 7000, payload: "still"))
            try require(flow.placement.place == .xdp)
        }
    }

    @Test(
        "An end with an XDP program sends through its socket, in pieces, and longer than a frame may be not at all",
        .enabled(if: VirtualWire.hasXDP, "XDP programs want CAP_BPF and CAP_NET_ADMIN"))
    func sendsByXDP() throws {
        try VirtualWire.run {
            let sender = try FrameEnd(try Device.named("soft_w0").open(), bufferSize: 1024, elements: 4)
            let receiver = try FrameEnd("soft_w1")
            let own = try sender.queuePair.attach(
                try FlowRule(parsing: "eth type 0x88b5"), places: [.xdp, .xdpGeneric])
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            try receiver.post(count: 60)
            for number in 0..<50 {
                let frame = Frames.udp(to: 7000, payload: String(repeating: "\(number % 10)", count: 1 + number * 29))
                try sender.sendInPieces(frame, of: 400)
                try require(try receiver.receive().0 == frame)
            }
            do {
                try sender.sendInPieces([UInt8](repeating: 1, count: 3000), of: 1000)
                throw TimeoutError(description: "3000 bytes were sent")
            } catch let error as TimeoutError { try require(error.description.contains("length"), error.description) }
            _ = try (own.counters, flow.counters)
        }
    }

    @Test("A rule that a place cannot carry out moves the flows to one that can, with what they counted")
    func movesDown() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let receiver = try FrameEnd("soft_w1")
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            try receiver.post(count: 4)
            try sender.send(Frames.udp(to: 7000, payload: "above"))
            try require(try receiver.receive().0 == Frames.udp(to: 7000, payload: "above"))
            let copies = try receiver.queuePair.attach(.sniffer)
            try require(flow.placement.place == .packetRing && copies.placement.place == .packetRing)
            try sender.send(Frames.udp(to: 7000, payload: "below"))
            for _ in 0..<2 { try require(try receiver.receive().0 == Frames.udp(to: 7000, payload: "below")) }
            try require(try flow.counters.packets == 2)
            try require(try copies.counters.packets == 1)
        }
    }

    @Test(
        "In the exclusive mode the kernel writes frames where they were posted, and nothing beside them",
        .enabled(if: VirtualWire.hasXDP, "XDP programs want CAP_BPF and CAP_NET_ADMIN"))
    func inPlace() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            // Odd addresses: 1601 bytes from buffer to buffer, of which a receive has 1536.
            let receiver = try FrameEnd(try Device.named("soft_w1").open(), receives: 32, bufferSize: 1601)
            let flow = try receiver.queuePair.attach(
                try FlowRule(parsing: "ip udp dst-port 7000 action tag 5"), mode: .exclusive)
            try require(flow.placement.place == .xdpDirect, "\(flow.placement)")
            let guardByte: UInt8 = 0xA5
            for _ in 0..<32 {
                guard var buffer = receiver.pool.take() else { throw TimeoutError(description: "the pool is empty") }
                buffer.fill(from: [UInt8](repeating: guardByte, count: 1601))
                buffer.count = 1536
                guard case .posted = receiver.queuePair.receive(buffer) else {
                    throw TimeoutError(description: "a receive was not posted")
                }
            }
            try receiver.warmUp(from: sender)
            for number in 0..<20 {
                let frame = Frames.udp(to: 7000, payload: String(repeating: "\(number % 10)", count: 20 + 50 * number))
                try sender.send(Frames.udp(to: 7001, payload: "nobody's"))
                try sender.send(frame)
                let completion = try receiver.nextAfterWarmUp()
                try require(completion.isSuccess && completion.frame.tag == 5, "\(completion.workCompletion)")
                guard var buffer = completion.takeBuffer() else { throw TimeoutError(description: "no buffer") }
                try require(buffer.copyBytes() == frame)
                buffer.count = 1601
                try require(buffer.copyBytes().dropFirst(frame.count).allSatisfy { $0 == guardByte })
            }
            try require(try flow.counters.packets >= 21)
            let left = receiver.queuePair.receivesInFlight
            // The others are the queue pair's again, and of the next place.
            try flow.detach()
            let next = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            try require(next.placement.place == .xdp)
            try sender.send(Frames.udp(to: 7000, payload: "copied"))
            try require(try receiver.receive().0 == Frames.udp(to: 7000, payload: "copied"))
            try require(receiver.queuePair.receivesInFlight == left - 1)
        }
    }

    @Test(
        "A receive that cannot be filled in place fails in its turn, behind those that wait for frames",
        .enabled(if: VirtualWire.hasXDP, "XDP programs want CAP_BPF and CAP_NET_ADMIN"))
    func inPlaceInTurn() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let receiver = try FrameEnd(try Device.named("soft_w1").open(), receives: 8)
            let region = try receiver.domain.makeRegion(length: 4096)
            let wrong = LocalMemory(address: region.ioAddress, length: 4096, lkey: region.lkey ^ 0xFF00)
            // The second is too short, the fourth names no region.
            for id in UInt64(1)...5 {
                if id == 4 {
                    try require(receiver.queuePair.receive(into: wrong, id: id) == .posted)
                    continue
                }
                guard var buffer = receiver.pool.take() else { throw TimeoutError(description: "the pool is empty") }
                if id == 2 { buffer.count = 64 }
                guard case .posted = receiver.queuePair.receive(buffer, id: id) else {
                    throw TimeoutError(description: "a receive was not posted")
                }
            }
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"), mode: .exclusive)
            try require(flow.placement.place == .xdpDirect, "\(flow.placement)")
            for _ in 0..<100 { try require(try receiver.completions.next() == nil) }
            let frame = Frames.udp(to: 7000, payload: "in turn")
            for id in UInt64(1)...5 {
                if id % 2 == 1 { try sender.send(frame) }
                let completion = try receiver.next()
                try require(completion.id == id, "\(completion.workCompletion)")
                switch id {
                case 2: try require(completion.status == .localLengthError)
                case 4: try require(completion.status == .localProtectionError)
                default: try require(completion.takeBuffer()?.copyBytes() == frame)
                }
            }
            try require(receiver.queuePair.receivesInFlight == 0)
            try flow.detach()
        }
    }

    @Test(
        "Where the memory of receives cannot be locked, another place has the rule, or the error says so",
        .enabled(if: VirtualWire.hasXDP, "XDP programs want CAP_BPF and CAP_NET_ADMIN"))
    func inPlaceWithoutMemory() throws {
        try VirtualWire.run {
            // CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF; what is locked counts against RLIMIT_MEMLOCK, 8 MiB or less.
            try VirtualWire.dropCapabilities(but: 1 << 12 | 1 << 13 | 1 << 39)
            let receiver = try FrameEnd(
                try Device.named("soft_w1").open(), receives: 64, bufferSize: 1 << 18)
            try receiver.replenish()
            do {
                let flow = try receiver.queuePair.attach(
                    try FlowRule(parsing: "ip udp dst-port 7000"), mode: .exclusive,
                    places: [.xdpDirect, .xdp, .xdpGeneric])
                throw TimeoutError(description: "attached at \(flow.placement.place)")
            } catch let error as VerbsError {
                try require("\(error)".contains("CAP_IPC_LOCK"), "\(error)")
            }
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            try require(flow.placement.place == .packetRing, "\(flow.placement)")
        }
    }

    @Test(
        "Receives that are filled in place are flushed when the queue pair goes to ERR",
        .enabled(if: VirtualWire.hasXDP, "XDP programs want CAP_BPF and CAP_NET_ADMIN"))
    func inPlaceFlush() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let context = try Device.named("soft_w1").open()
            let receiver = try FrameEnd(context, receives: 8)
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"), mode: .exclusive)
            try receiver.replenish()
            try receiver.warmUp(from: sender)
            // Another queue pair's end is none of this one's.
            let other = try FrameEnd(context, receives: 2)
            try other.replenish()
            try other.queuePair.modify(QueuePairAttributes(state: .error))
            for _ in 0..<2 { try require(try other.next().status == .flushed) }
            try sender.send(Frames.udp(to: 7000, payload: "still in place"))
            try require(try receiver.nextAfterWarmUp().isSuccess)
            let rest = receiver.queuePair.receivesInFlight
            try receiver.queuePair.modify(QueuePairAttributes(state: .error))
            try sender.send(Frames.udp(to: 7000, payload: "two"))
            for _ in 0..<rest {
                let work = try receiver.next().workCompletion
                try require(work.status == .flushed || work.byteCount == Frames.warm.count, "\(work)")
            }
            try require(try receiver.completions.next() == nil)
            try flow.detach()
        }
    }

    @Test("Without CAP_NET_RAW the next place is taken, or the error names the capability")
    func withoutPrivilege() throws {
        try VirtualWire.run {
            try VirtualWire.dropCapabilities()
            let receiver = try FrameEnd("soft_w1")
            let flow = try receiver.queuePair.attach(try FlowRule(parsing: "ip udp dst-port 7000"))
            try require(flow.placement.place == .udp)
            try require(
                flow.placement.refusals.contains { $0.place == .packetRing && $0.reason.contains("CAP_NET_RAW") })
            do {
                let other = try receiver.queuePair.attach(try FlowRule(parsing: "eth type 0x88b5"))
                throw TimeoutError(description: "attached at \(other.placement.place)")
            } catch let error as VerbsError {
                try require(error.cause == .permission)
                try require("\(error)".contains("CAP_NET_RAW"), "\(error)")
            }
        }
    }

    @Test("A queue pair of another kind has no flows, a raw one no peer")
    func wrongKind() throws {
        let context = try TestDevice.open()
        let domain = try context.makeProtectionDomain()
        let completions = try context.makeCompletionQueue(capacity: 300)
        let datagrams = try domain.makeQueuePair(.unreliableDatagram, completions: completions)
        #expect(throws: VerbsError.self) { try datagrams.start(port: 1) }
        do {
            _ = try datagrams.attach(.any)
            Issue.record("attached")
        } catch { #expect(error.subject == "transport") }
    }
}

/// A raw packet queue pair on a device.
final class FrameEnd {
    let domain: ProtectionDomain
    let pool: BufferPool
    let completions: CompletionQueue
    let queuePair: QueuePair

    convenience init(_ device: String) throws { try self.init(try Device.named(device).open()) }

    init(
        _ context: Context, receives: Int = 64, bufferSize: Int = 2048, elements: Int = 1, sources: SourceCheck? = nil
    ) throws {
        domain = try context.makeProtectionDomain()
        pool = try domain.makeBufferPool(count: receives + 64, size: bufferSize)
        completions = try context.makeCompletionQueue(capacity: receives + 64)
        let options = QueuePairOptions(
            sendDepth: 64, receiveDepth: receives, sendElements: elements, receiveElements: elements)
        queuePair = try domain.makeQueuePair(.rawPacket, options: options, completions: completions)
        try queuePair.start(port: 1, sources: sources)
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

    /// Receives a first frame, of those that are sent until one comes: a receive that was just posted may be on its way to where
    /// frames are taken from.
    func warmUp(from sender: FrameEnd) throws {
        let end = ContinuousClock.now + TestDevice.patience
        while ContinuousClock.now < end {
            try sender.send(Frames.warm)
            for _ in 0..<100 {
                if let completion = try completions.next() {
                    guard completion.isSuccess else { throw TimeoutError(description: "\(completion.workCompletion)") }
                    return
                }
                usleep(1000)
            }
        }
        throw TimeoutError(description: "no frame arrives")
    }

    /// The next completion that is not of one more frame of ``warmUp(from:)``.
    func nextAfterWarmUp() throws -> Completion {
        while true {
            let completion = try next()
            if completion.byteCount != Frames.warm.count { return completion }
        }
    }

    /// Sends a frame that lies in several buffers.
    func sendInPieces(_ bytes: [UInt8], of size: Int) throws {
        var list: RegisteredBuffer?
        var start = bytes.startIndex
        while start < bytes.endIndex {
            guard var piece = pool.take() else { throw TimeoutError(description: "the pool is empty") }
            let end = min(start + size, bytes.endIndex)
            piece.fill(from: bytes[start..<end])
            start = end
            if var first = list.take() {
                first.append(piece)
                list = consume first
            } else {
                list = consume piece
            }
        }
        guard let list, case .posted = queuePair.post(.send, list) else {
            throw TimeoutError(description: "not posted")
        }
        let work = try next().workCompletion
        guard work.isSuccess else { throw TimeoutError(description: "\(work)") }
    }

    /// Polls until something holds; nothing may complete meanwhile.
    func wait(until holds: () throws -> Bool) throws {
        let end = ContinuousClock.now + TestDevice.patience
        while try !holds() {
            guard ContinuousClock.now < end else { throw TimeoutError(description: "it does not come about") }
            guard try completions.next() == nil else { throw TimeoutError(description: "something completed") }
            usleep(100)
        }
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
        try require(work.isSuccess && work.opcode == .receive, "\(work)")
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

    /// Shorter than any other.
    static let warm = udp(to: 7000, payload: "warm")

    static func udp(to port: UInt16, payload: String) -> [UInt8] {
        var datagram = Datagram()
        datagram.destinationPort = port
        datagram.payload = Array(payload.utf8)
        return datagram.bytes
    }

    /// Whether the checksums of an IPv4 header and of what is behind it, UDP, are right: their sum with the rest is all ones.
    static func isSound(_ frame: [UInt8]) -> Bool {
        func sum(_ bytes: ArraySlice<UInt8>) -> Int {
            let bytes = Array(bytes) + (bytes.count % 2 == 0 ? [] : [0])
            return stride(from: 0, to: bytes.count, by: 2).reduce(0) { $0 + Int(bytes[$1]) << 8 + Int(bytes[$1 + 1]) }
        }
        func folded(_ sum: Int) -> Int {
            let once = sum & 0xFFFF + sum >> 16
            return once & 0xFFFF + once >> 16
        }
        let length = frame.count - 34
        return folded(sum(frame[14..<34])) == 0xFFFF
            && folded(sum(frame[26..<34]) + 17 + length + sum(frame[34...])) == 0xFFFF
    }

    static func half(_ value: Int) -> [UInt8] { [UInt8(value >> 8 & 0xFF), UInt8(value & 0xFF)] }
}

extension FlowPlace {
    /// Those that want no program in the kernel.
    static let sockets: Set<FlowPlace> = [.packetRing, .packet, .udp]
}

/// As `#require`, for bodies that run in a thread of their own: there an issue would be of no test.
func require(_ condition: Bool, _ message: String = "", line: Int = #line) throws {
    guard condition else { throw TimeoutError(description: "line \(line) does not hold. \(message)") }
}
