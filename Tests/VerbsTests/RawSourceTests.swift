// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import Glibc
import Synchronization
import Testing
import Verbs

@Suite(
    "Sources of raw packets", .enabled(if: VirtualWire.isAvailable, "wants root and the software device"), .serialized,
    .timeLimit(.minutes(10)))
struct RawSourceTests {
    /// Where the rules of the sender are carried out, which says what it sends by: AF_XDP, or AF_PACKET also without any.
    static let places: [FlowPlace?] =
        [nil, .packetRing, .packet, .udp] + (VirtualWire.hasXDP ? [.xdp, .xdpGeneric, .xdpDirect] : [])

    @Test(
        "A frame in another's name is not sent, whatever sends: it fails once, and what is behind it is flushed",
        arguments: places)
    func refused(place: FlowPlace?) throws {
        try VirtualWire.run {
            let wire = try CheckedWire(place, .own)
            var expected: [[UInt8]] = []
            var refusedCount: UInt64 = 0
            for (number, forbidden) in try wire.forbidden.enumerated() {
                let first = wire.frame("first \(number)")
                let second = wire.frame("second \(number)")
                try require(try wire.send([first]) == [.success])
                try require(
                    try wire.send([second, forbidden, wire.frame("behind \(number)")])
                        == [.success, .localQueuePairOperationError, .flushed], "frame \(forbidden)")
                expected += [first, second]
                refusedCount += 1
                // Still in SQE: nothing is sent.
                try require(try wire.sender.queuePair.queryAttributes().state == .sendQueueError)
                try require(try wire.send([wire.frame("in SQE")]) == [.flushed])
                try wire.recover()
            }
            let short = [UInt8](repeating: 2, count: 13)
            try require(try wire.send([short]) == [.localLengthError])
            try wire.recover()
            let last = wire.frame("last")
            try require(try wire.send([last]) == [.success])
            expected.append(last)
            try require(try wire.received(upTo: last) == expected)
            try require(wire.counter("frames_refused_source") == refusedCount)
            try require(wire.counter("frames_sent") == UInt64(expected.count))
        }
    }

    @Test("Frames in pieces are judged as a whole, wherever they are cut", arguments: places)
    func pieces(place: FlowPlace?) throws {
        try VirtualWire.run {
            let wire = try CheckedWire(place, .own, elements: 4)
            var expected: [[UInt8]] = []
            var forbidden = wire.frame("forbidden")
            forbidden[29] = 77
            for size in [12, 16, 20, 27, 31, 100, 300] {
                let frame = wire.frame(String(repeating: "x", count: 4 * size < 56 ? 0 : 4 * size - 48))
                try wire.sender.sendInPieces(frame, of: (frame.count + 3) / 4)
                expected.append(frame)
                do {
                    try wire.sender.sendInPieces(forbidden, of: (forbidden.count + 3) / 4)
                    throw TimeoutError(description: "sent")
                } catch let error as TimeoutError { try require(error.description.contains("operation error")) }
                try wire.recover()
            }
            try require(try wire.received(upTo: expected[expected.count - 1]) == expected)
        }
    }

    @Test("What another thread writes to headers in flight is never on the wire in another's name", arguments: places)
    func rewritten(place: FlowPlace?) throws {
        try VirtualWire.run {
            let wire = try CheckedWire(place, .own)
            let race = try Race(wire)
            race.start()
            defer { race.stop() }
            let end = ContinuousClock.now + TestDevice.patience
            // Both must have happened, many times, or nothing was raced for.
            while race.sent < 1000 || race.refused < 100 {
                try require(ContinuousClock.now < end, "\(race.sent) sent, \(race.refused) refused")
                try race.round()
                for frame in try wire.taken() { try require(wire.isOwn(frame), "\(frame)") }
            }
            race.stop()
            let last = wire.frame("last")
            try require(try wire.send([last]) == [.success])
            for frame in try wire.received(upTo: last) { try require(wire.isOwn(frame), "\(frame)") }
            try require(wire.counter("frames_refused_source") == UInt64(race.refused))
        }
    }

    @Test("A check is of one queue pair until it is reset; networks and other frames are allowed by name")
    func scope() throws {
        try VirtualWire.run {
            let hardware = try VirtualWire.hardwareAddress(of: "w0")
            let text = hardware.map { String($0, radix: 16) }.joined(separator: ":")
            let wire = try CheckedWire(nil, try SourceCheck(parsing: "\(text),10.77.0.0/16,other"))
            let other = try FrameEnd(wire.context)
            var foreign = wire.frame("of another queue pair")
            foreign[6] ^= 2
            try other.send(foreign)
            var network = wire.frame("of a network")
            try require(try wire.send([network]) == [.localQueuePairOperationError])
            try wire.recover()
            network[27] = 77
            let strange = wire.frame("x", type: [0x88, 0xB5])
            try require(try wire.send([network, strange]) == [.success, .success])
            try wire.sender.queuePair.modify(QueuePairAttributes(state: .reset))
            try wire.sender.queuePair.start(port: 1)
            var reset = wire.frame("reset")
            reset[6] ^= 2
            try require(try wire.send([reset]) == [.success])
            try require(try wire.received(upTo: reset) == [foreign, network, strange, reset])
        }
    }

    @Test("A check that allows nothing is refused, and the queue pair stays as it was")
    func impossible() throws {
        try VirtualWire.run {
            let wire = try CheckedWire(nil, .own)
            try wire.sender.queuePair.modify(QueuePairAttributes(state: .reset))
            do {
                try wire.sender.queuePair.start(port: 1, sources: SourceCheck(ipv4: ["10.0.0.0/8"]))
                throw TimeoutError(description: "started")
            } catch let error as VerbsError {
                try require("\(error)".contains("allows no Ethernet address"), "\(error)")
            }
            try require(wire.sender.queuePair.state == .reset)
        }
    }
}

/// A sender whose frames are checked at one end of a wire, and at the other all that comes.
private final class CheckedWire {
    let context: Context
    let sender: FrameEnd
    private let receiver: FrameEnd
    private let sniffer: FlowKeeper
    private let flow: FlowKeeper?
    private let hardware: [UInt8]

    init(_ place: FlowPlace?, _ sources: SourceCheck, elements: Int = 1) throws {
        hardware = try VirtualWire.hardwareAddress(of: "w0")
        receiver = try FrameEnd(try Device.named("soft_w1").open(), receives: 1024)
        sniffer = FlowKeeper(try receiver.queuePair.attach(.sniffer, places: [.packetRing]))
        try receiver.replenish()
        context = try Device.named("soft_w0").open()
        sender = try FrameEnd(context, elements: elements, sources: sources)
        guard let place else {
            flow = nil
            return
        }
        // Receives in place have one element; nothing comes for the rule.
        let owner = place == .xdpDirect && elements > 1 ? try FrameEnd(context, receives: 8) : sender
        try owner.post(count: 4)
        let mode: FlowMode = place == .xdpDirect ? .exclusive : .singleUser
        let attached = try owner.queuePair.attach(
            try FlowRule(parsing: "ip udp dst-port 9999"), mode: mode, places: [place])
        try require(attached.placement.place == place, "\(attached.placement)")
        flow = FlowKeeper(attached, owner)
    }

    // MARK: Frames

    /// In the name of the interface; UDP to the other end, or another type.
    func frame(_ payload: String, type: [UInt8] = [8, 0]) -> [UInt8] {
        var datagram = Frames.Datagram()
        datagram.source = [10, 88, 0, 1]
        datagram.payload = Array(payload.utf8)
        var bytes = datagram.bytes
        bytes.replaceSubrange(6..<12, with: hardware)
        bytes.replaceSubrange(12..<14, with: type)
        return bytes
    }

    /// Whether the Ethernet and the IPv4 source are those of the interface.
    func isOwn(_ frame: [UInt8]) -> Bool {
        frame.count > 42 && frame[6..<12] == hardware[...] && frame[26..<30] == [10, 88, 0, 1]
    }

    /// Frames that are not in the name of the interface, each in another way.
    var forbidden: [[UInt8]] {
        get throws {
            let good = frame("forbidden")
            func changed(_ offset: Int) -> [UInt8] {
                var frame = good
                frame[offset] ^= 2
                return frame
            }
            var tagged = changed(29)
            tagged.insert(contentsOf: [0x81, 0, 0, 5], at: 12)
            // RFC 826: a reply that has another's address.
            var reply: [UInt8] = [2, 0, 0, 0, 0, 2] + hardware + [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]
            reply += hardware + [10, 88, 0, 77, 2, 0, 0, 0, 0, 2, 10, 88, 0, 2]
            let strange = frame("x", type: [0x88, 0xB5])
            return [changed(11), changed(29), tagged, reply, strange, Array(good[..<33])]
        }
    }

    // MARK: Sending

    /// Posts frames by one doorbell, and waits for what became of each.
    func send(_ frames: [[UInt8]]) throws -> [WorkStatus] {
        var batch = sender.queuePair.batch()
        for (index, frame) in frames.enumerated() {
            guard var buffer = sender.pool.take() else { throw TimeoutError(description: "the pool is empty") }
            buffer.fill(from: frame)
            guard case .posted = batch.post(.send, buffer, id: UInt64(index)) else {
                throw TimeoutError(description: "not posted")
            }
        }
        try batch.submit().orThrow()
        var statuses: [WorkStatus] = []
        for index in frames.indices {
            let work = try sender.next().workCompletion
            try require(work.id == UInt64(index), "\(work)")
            statuses.append(work.status)
        }
        try require(try sender.completions.next() == nil, "more than one completion of a frame")
        return statuses
    }

    /// From SQE back to RTS.
    func recover() throws { try sender.queuePair.modify(QueuePairAttributes(state: .readyToSend)) }

    func counter(_ name: String) -> UInt64? { context.counters.first { $0.name == name }?.value }

    // MARK: Receiving

    /// The frames that have come since the last call.
    func taken() throws -> [[UInt8]] {
        var frames: [[UInt8]] = []
        while let completion = try receiver.completions.next() {
            guard completion.isSuccess, let buffer = completion.takeBuffer() else {
                throw TimeoutError(description: "a receive failed")
            }
            frames.append(buffer.copyBytes())
        }
        try receiver.replenish()
        return frames
    }

    /// All frames that come, to the last.
    func received(upTo last: [UInt8]) throws -> [[UInt8]] {
        let end = ContinuousClock.now + TestDevice.patience
        var frames: [[UInt8]] = []
        while frames.last != last {
            try require(ContinuousClock.now < end, "\(frames.count) frames came, without the last")
            frames += try taken()
        }
        return frames
    }
}

/// Flows are not copied. With it stays whose queue pair it leads to.
private final class FlowKeeper {
    let flow: Flow
    let owner: FrameEnd?

    init(_ flow: consuming Flow, _ owner: FrameEnd? = nil) {
        self.flow = flow
        self.owner = owner
    }
}

/// Sends the same frames again and again, while a thread writes other senders into them: as another process may that has the memory, too, by
/// a mapping of its own, in which the thread sanitizer sees nothing wrong.
private final class Race: @unchecked Sendable {
    private static let count = 32
    private static let stride = 128
    private static let byteCount = count * stride

    private(set) var sent = 0
    private(set) var refused = 0
    private let wire: CheckedWire
    private let region: MemoryRegion
    private let memory: UnsafeMutableRawPointer
    private let frame: [UInt8]
    private let isStopping = Atomic<Bool>(false)
    private let hasEnded = Atomic<Bool>(true)

    init(_ wire: CheckedWire) throws {
        self.wire = wire
        frame = wire.frame("raced for")
        guard let file = tmpfile() else { throw TimeoutError(description: "tmpfile: errno \(errno)") }
        defer { fclose(file) }
        try require(ftruncate(fileno(file), Self.byteCount) == 0, "ftruncate: errno \(errno)")
        let mappings = (0..<2).map { _ in
            mmap(nil, Self.byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0)
        }
        guard !mappings.contains(MAP_FAILED), let first = mappings[0], let second = mappings[1] else {
            throw TimeoutError(description: "mmap: errno \(errno)")
        }
        memory = second
        region = try wire.sender.domain.register(
            UnsafeMutableRawBufferPointer(start: first, count: Self.byteCount))
        for index in 0..<Self.count { (memory + index * Self.stride).copyMemory(from: frame, byteCount: frame.count) }
    }

    deinit {
        munmap(memory, Self.byteCount)
        munmap(region.bytes.baseAddress!, Self.byteCount)
    }

    func start() {
        hasEnded.store(false, ordering: .relaxed)
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<Race>.fromOpaque(argument!).takeRetainedValue().rewrite()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        pthread_detach(thread)
    }

    func stop() {
        isStopping.store(true, ordering: .relaxed)
        while !hasEnded.load(ordering: .acquiring) { usleep(100) }
    }

    /// Frame by frame, the Ethernet source is another's for a moment, then the IPv4 source: mostly none is.
    private func rewrite() {
        var turn = 0
        while !isStopping.load(ordering: .relaxed) {
            turn += 1
            let slot = memory + turn % Self.count * Self.stride
            slot.storeBytes(of: frame[11] ^ 1, toByteOffset: 11, as: UInt8.self)
            slot.storeBytes(of: frame[11], toByteOffset: 11, as: UInt8.self)
            slot.storeBytes(of: frame[29] ^ 2, toByteOffset: 29, as: UInt8.self)
            slot.storeBytes(of: frame[29], toByteOffset: 29, as: UInt8.self)
        }
        for index in 0..<Self.count {
            (memory + index * Self.stride).copyMemory(from: frame, byteCount: frame.count)
        }
        hasEnded.store(true, ordering: .releasing)
    }

    /// One doorbell: a run of frames that are sent, then one that is refused and others that are flushed, if any is.
    func round() throws {
        var batch = wire.sender.queuePair.batch()
        for index in 0..<Self.count {
            let memory = region.local(offset: index * Self.stride, length: frame.count)
            guard batch.post(.send, from: memory, id: UInt64(index)) == .posted else {
                throw TimeoutError(description: "not posted")
            }
        }
        try batch.submit().orThrow()
        var failure: WorkStatus?
        for index in 0..<Self.count {
            let work = try wire.sender.next().workCompletion
            try require(work.id == UInt64(index), "\(work)")
            switch (failure, work.status) {
            case (nil, .success): sent += 1
            case (nil, .localQueuePairOperationError):
                refused += 1
                failure = work.status
            case (_?, .flushed): break
            default: throw TimeoutError(description: "\(work) behind \(String(describing: failure))")
            }
        }
        if failure != nil { try wire.recover() }
    }
}
