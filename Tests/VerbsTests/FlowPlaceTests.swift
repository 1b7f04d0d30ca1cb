// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import FlowTraffic
import Glibc
import Testing
import Verbs

/// The same rules and frames through every place that this machine has, and through the model.
@Suite(
    "Places of flow rules", .enabled(if: VirtualWire.isAvailable, "wants root and the software device"),
    .serialized)
struct FlowPlaceTests {
    @Test(
        "A place that sees whole frames does what the model says",
        arguments: [FlowPlace.packetRing, .packet], 1...6 as ClosedRange<UInt64>)
    func equalsModel(place: FlowPlace, seed: UInt64) throws {
        try VirtualWire.run {
            var rules = RuleMaker(seed: seed)
            var frames = FrameMaker(seed: seed &* 7)
            var comparison = try Comparison(place: place, seed: seed)
            for _ in 0..<4 {
                try comparison.run(
                    rules: (0..<comparison.generator.pick([1, 6, 24])).map { _ in rules.rule() },
                    frames: (0..<200).map { _ in frames.frame() })
            }
        }
    }

    @Test(
        "An XDP program does what the model says of rules that it can carry out",
        .enabled(if: VirtualWire.hasXDP, "XDP programs want CAP_BPF and CAP_NET_ADMIN"),
        arguments: [FlowPlace.xdp, .xdpGeneric], 1...6 as ClosedRange<UInt64>)
    func programsEqualModel(place: FlowPlace, seed: UInt64) throws {
        try VirtualWire.run {
            var maker = RuleMaker(seed: seed)
            var frames = FrameMaker(seed: seed &* 7)
            var comparison = try Comparison(place: place, seed: seed)
            for _ in 0..<4 {
                var rules: [FlowRule] = []
                let count = comparison.generator.pick([1, 6, 10])
                while rules.count < count {
                    let rule = maker.rule()
                    let isDefault = rule.kind != .normal && rules.contains { $0.kind != .normal }
                    if !isDefault, Self.isForPrograms(rule) { rules.append(rule) }
                }
                try comparison.run(rules: rules, frames: (0..<200).map { _ in frames.frame() })
            }
        }
    }

    /// No copies, and nothing of tunnels.
    private static func isForPrograms(_ rule: FlowRule) -> Bool {
        if rule.kind == .sniffer || rule.doesNotTrap { return false }
        return rule.specifications.allSatisfy { specification in
            switch specification.header {
            case .vxlan, .gre, .mpls: false
            case .ethernet, .ipv4, .ipv6, .tcp, .udp, .esp: !specification.isInner
            }
        }
    }

    @Test("UDP sockets do what the model says of addresses and UDP ports", arguments: 1...6 as ClosedRange<UInt64>)
    func socketsEqualModel(seed: UInt64) throws {
        try VirtualWire.run(["addr add 10.88.0.3/24 dev w1"]) {
            let hardware = try VirtualWire.hardwareAddress(of: "w1")
            var comparison = try Comparison(place: .udp, seed: seed)
            for _ in 0..<4 {
                let texts = (0..<comparison.generator.pick([1, 6, 12])).map { _ -> String in
                    var text = "ip"
                    if comparison.generator.oneIn(2) { text += " dst 10.88.0.\(comparison.generator.pick([2, 3]))" }
                    if comparison.generator.oneIn(3) { text += " src 10.88.0.8/30" }
                    if comparison.generator.oneIn(6) { text += " ttl 64" }
                    text += " udp dst-port \(comparison.generator.pick([7000, 7001, 7002]))"
                    if comparison.generator.oneIn(3) { text += " src-port 9000" }
                    if comparison.generator.oneIn(4) { return text + " action drop" }
                    return text + " action tag \(comparison.generator.below(100))"
                }
                var frames: [[UInt8]] = []
                for _ in 0..<200 {
                    var datagram = Frames.Datagram()
                    datagram.hardware = hardware
                    datagram.source = [10, 88, 0, comparison.generator.pick([9, 10, 13])]
                    datagram.destination = [10, 88, 0, comparison.generator.pick([2, 3])]
                    datagram.timeToLive = comparison.generator.pick([1, 64])
                    datagram.sourcePort = comparison.generator.pick([9000, 9001])
                    datagram.destinationPort = comparison.generator.pick([7000, 7001, 7002])
                    datagram.payload = [UInt8](repeating: 7, count: 4 + comparison.generator.below(100))
                    frames.append(datagram.bytes)
                }
                try comparison.run(rules: try texts.map { try FlowRule(parsing: $0) }, frames: frames)
            }
        }
    }

    /// So many rules that their tables are built in a thread, while others come and go and frames are looked up.
    @Test("The tables of many rules are built while they are used, and say the same")
    func rebuildsBeside() throws {
        try VirtualWire.run {
            let sender = try FrameEnd("soft_w0")
            let context = try Device.named("soft_w1").open()
            let receiver = try FrameEnd(context, receives: 64)
            func rebuilds() throws -> UInt64 {
                try #require(context.counters.first { $0.name == "flow_tables_rebuilt" }).value
            }
            func expect(_ number: UInt16, tag: UInt32?) throws {
                try receiver.replenish()
                try sender.send(Frames.udp(to: number, payload: "one"))
                // Only this one is sure to be for a rule.
                try sender.send(Frames.udp(to: 999, payload: "end"))
                var tags: [UInt32?] = []
                repeat {
                    let completion = try receiver.next()
                    try require(completion.isSuccess)
                    tags.append(completion.workCompletion.frame.tag)
                } while tags.last != 999
                try require(tags.dropLast() == (tag.map { [$0] } ?? []), "port \(number): \(tags)")
            }
            func attach(_ number: UInt16) throws -> FlowHolder {
                let rule = try FlowRule(parsing: "ip udp dst-port \(number) action tag \(number)")
                return FlowHolder(try receiver.queuePair.attach(rule, places: [.packet]))
            }
            var flows = [try attach(999)]
            try receiver.replenish()
            for number in UInt16(1000)..<1300 { flows.append(try attach(number)) }
            let before = try rebuilds()
            var number: UInt16 = 1300
            while try rebuilds() == before {
                try require(number < 20_000, "the tables are built anew, in the end")
                flows.append(try attach(number))
                try expect(number - 150, tag: UInt32(number - 150))
                number += 1
            }
            // The last is of a rule that the tables were built without, or with.
            for tried in [1000, 1299, 1300, number - 1] { try expect(tried, tag: UInt32(tried)) }
            try expect(number, tag: nil)
            flows.removeSubrange(1..<101)
            try expect(1099, tag: nil)
            try expect(1100, tag: 1100)
        }
    }
}

/// Rules on three queue pairs at one end of a wire, frames from the other, and the model beside it.
private struct Comparison {
    var generator: SeededGenerator
    private let place: FlowPlace
    private let sender: FrameEnd
    private let receivers: [FrameEnd]

    /// What happened to a frame: who had it, with which tag, and which it was.
    private struct Delivery: Hashable, Comparable, CustomStringConvertible {
        let queuePair: Int
        let tag: UInt32?
        let number: UInt32

        static func < (a: Delivery, b: Delivery) -> Bool {
            (a.number, a.queuePair, a.tag ?? .max) < (b.number, b.queuePair, b.tag ?? .max)
        }
        var description: String { "frame \(number) to \(queuePair), tag \(tag.map(String.init) ?? "none")" }
    }

    init(place: FlowPlace, seed: UInt64) throws {
        generator = SeededGenerator(seed: seed &* 31)
        self.place = place
        sender = try FrameEnd("soft_w0")
        let context = try Device.named("soft_w1").open()
        receivers = try (0..<3).map { _ in try FrameEnd(context, receives: 1024) }
    }

    mutating func run(rules: [FlowRule], frames: [[UInt8]]) throws {
        var model = FlowModel()
        var flows: [FlowHolder] = []
        var owners: [Int] = []
        var priorities = Array(UInt16(0)..<UInt16(rules.count))
        priorities.shuffle(using: &generator)
        for (index, rule) in rules.enumerated() {
            // Which of two rules of one priority wins is not defined.
            let rule = rule.kind == .normal ? rule.priority(priorities[index]) : rule
            let owner = generator.below(receivers.count)
            flows.append(FlowHolder(try attach(rule, owner)))
            try require(flows[index].flow.placement.place == place)
            owners.append(owner)
            model.insert(rule, FlowID(rawValue: UInt32(index)))
        }
        var expected: [Delivery] = []
        var counts = [UInt64](repeating: 0, count: rules.count)
        for (number, frame) in frames.enumerated() {
            let numbered = Self.numbered(frame, UInt32(number))
            for effect in model.verdict(for: PacketHeaders.key(of: numbered.span.bytes)).effects {
                switch effect {
                case .deliver(let id, let tag):
                    let index = Int(id.rawValue)
                    counts[index] += 1
                    expected.append(Delivery(queuePair: owners[index], tag: tag, number: UInt32(number)))
                case .drop(let id): counts[Int(id.rawValue)] += 1
                case .count: break
                }
            }
        }
        for receiver in receivers { try receiver.replenish() }
        for (number, frame) in frames.enumerated() { try sender.send(Self.numbered(frame, UInt32(number))) }

        var found: [Delivery] = []
        // Nothing more comes when all counters are at their ends and the queues are empty after that.
        var areCounted = false
        let end = ContinuousClock.now + .seconds(5)
        while ContinuousClock.now < end {
            var isIdle = true
            for (index, receiver) in receivers.enumerated() {
                while let completion = try receiver.completions.next() {
                    isIdle = false
                    let work = completion.workCompletion
                    guard work.isSuccess, let buffer = completion.takeBuffer() else {
                        throw TimeoutError(description: "\(work)")
                    }
                    let bytes = buffer.copyBytes()
                    let number = bytes.suffix(4).reduce(0) { $0 << 8 | UInt32($1) }
                    found.append(Delivery(queuePair: index, tag: work.frame.tag, number: number))
                    try require(Int(number) < frames.count)
                    if place != .udp { try require(bytes == Self.numbered(frames[Int(number)], number)) }
                }
            }
            if areCounted, isIdle { break }
            areCounted = try flows.indices.allSatisfy { try flows[$0].flow.counters.packets >= counts[$0] }
        }
        try require(found.sorted() == expected.sorted(), "rules: \(rules.map(\.description))")
        for index in flows.indices {
            try require(try flows[index].flow.counters.packets == counts[index], "counter of \(rules[index])")
        }
    }

    /// A socket of the round before may live on for a moment, in a process that another test is just starting.
    private func attach(_ rule: FlowRule, _ owner: Int) throws -> Flow {
        let end = ContinuousClock.now + .seconds(5)
        while true {
            do throws(VerbsError) {
                return try receivers[owner].queuePair.attach(rule, places: [place])
            } catch {
                guard "\(error)".contains("in use by another socket"), ContinuousClock.now < end else { throw error }
                usleep(1000)
            }
        }
    }

    /// With a number at the end: behind what the headers speak of, or the end of the payload.
    private static func numbered(_ frame: [UInt8], _ number: UInt32) -> [UInt8] {
        frame.dropLast(4) + [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: number >> $0) }
    }
}

/// Flows are not copied; an array wants what is.
private final class FlowHolder {
    let flow: Flow
    init(_ flow: consuming Flow) { self.flow = flow }
}
