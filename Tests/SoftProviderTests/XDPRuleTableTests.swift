// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowSteering
import FlowTraffic
import Foundation
import PacketIO
import TestNetwork
import Testing

@testable import FlowPrograms
@testable import SoftProvider

/// A table and the model that it must agree with, given the same rules.
private struct TablePair: ~Copyable {
    var table: XDPRuleTable
    private var model = FlowModel()
    private(set) var rules: [FlowID: FlowRule] = [:]
    private var counted: [FlowID: XDPRuleTable.Counters] = [:]
    private var age: UInt64 = 0
    /// An entry of the socket map that frames can be redirected to.
    private let socket: Int32

    init(_ options: XDPRuleTable.Options = XDPRuleTable.Options()) throws {
        let table = try XDPRuleTable(options)
        let socket = clinuxnet_xdp_socket()
        // Programs are run on queue 0.
        try table.setSocket(0, to: socket)
        self.table = table
        self.socket = socket
    }

    deinit { close(socket) }

    /// Inserts a rule into both.
    mutating func insert(_ rule: FlowRule, _ id: UInt32) throws(XDPRuleError) {
        let id = FlowID(rawValue: id)
        try table.insert([XDPRule(rule, id: id, order: FlowOrder(rule, age: age))])
        model.insert(rule, id)
        rules[id] = rule
        counted[id] = XDPRuleTable.Counters(packets: 0, bytes: 0)
        age += 1
    }

    /// Why the table refuses rules; `nil` where it takes them.
    mutating func refusal(of rules: [XDPRule]) -> XDPRuleError? {
        do throws(XDPRuleError) {
            try table.insert(rules)
            return nil
        } catch {
            return error
        }
    }

    /// Inserts a rule into both, or says why not.
    mutating func refusal(_ rule: FlowRule, _ id: UInt32) -> XDPRuleError? {
        do throws(XDPRuleError) {
            try insert(rule, id)
            return nil
        } catch {
            return error
        }
    }

    mutating func remove(_ id: UInt32) throws {
        let id = FlowID(rawValue: id)
        #expect(try table.remove(id))
        model.remove(id)
        rules[id] = nil
        counted[id] = nil
    }

    /// Runs the program on a frame: the difference from what the model says, or `nil`; and whether a rule took it.
    mutating func compare(_ frame: [UInt8]) -> (difference: String?, isTaken: Bool) {
        let key = PacketHeaders.key(of: frame.span.bytes)
        let expected = model.verdict(for: key)
        var winner: FlowID?
        var verdict = BPFProgram.Verdict.pass
        for effect in expected.effects {
            switch effect {
            case .deliver(let id, _): (winner, verdict) = (id, .redirect)
            case .drop(let id): (winner, verdict) = (id, .drop)
            case .count: break
            }
        }
        let seen = table.verdict(on: frame)
        if let winner {
            counted[winner]?.packets += 1
            counted[winner]?.bytes += UInt64(frame.count)
        }
        let wrong = counted.filter { table.counters(of: $0.key) != $0.value }.keys.map(\.rawValue)
        for id in rules.keys { counted[id] = table.counters(of: id) }
        if seen == verdict, wrong.isEmpty { return (nil, winner != nil) }
        return (
            "verdict \(String(describing: seen)), the model's \(verdict) by rule \(String(describing: winner?.rawValue)); counters of \(wrong) differ; key \(key); frame \(frame)",
            winner != nil
        )
    }
}

/// Frames that are harder than those of ``FrameMaker``: cut off, with wrong lengths, long chains, and damaged.
private struct HardFrameMaker {
    private var frames: FrameMaker
    private var generator: SeededGenerator

    init(seed: UInt64) {
        frames = FrameMaker(seed: seed)
        generator = SeededGenerator(seed: ~seed)
    }

    mutating func frame() -> [UInt8] {
        var frame = generator.oneIn(6) ? chain() : frames.frame()
        if generator.oneIn(8) {
            for _ in 0..<(1 + generator.below(9)) {
                frame.insert(contentsOf: [generator.oneIn(2) ? 0x81 : 0x88, 0, 0x20, 100], at: 12)
                if frame[12] == 0x88 { frame[13] = 0xA8 }
            }
        }
        if generator.oneIn(8) {
            // The length in IPv4, and in IPv6.
            let offset = 14 + (frame[12] == 0x86 ? 4 : 2)
            frame[offset] = 0
            frame[offset + 1] = UInt8(generator.below(90))
        }
        if generator.oneIn(6) {
            for _ in 0..<(1 + generator.below(3)) {
                frame[generator.below(min(frame.count, 80))] = UInt8(generator.below(256))
            }
        }
        if generator.oneIn(5) { frame = Array(frame[..<(14 + generator.below(frame.count - 13))]) }
        return frame
    }

    /// IPv6 with up to ten extension headers, some of them long.
    mutating func chain() -> [UInt8] {
        let count = generator.below(11)
        let numbers = (0..<count).map { _ in generator.pick([0, 43, 44, 51, 60, 135, 139, 140] as [UInt8]) }
        let transport: UInt8 = generator.pick([6, 17, 50, 59])
        let chain = numbers + [transport]
        var body: [UInt8] = []
        for (index, number) in numbers.enumerated() {
            let units = generator.oneIn(3) ? generator.below(24) : 0
            var header = [UInt8](repeating: 0, count: number == 44 ? 8 : number == 51 ? 8 + units * 4 : 8 + units * 8)
            header[0] = chain[index + 1]
            if number == 44 {
                header[3] = generator.oneIn(3) ? 0x08 : 0x01
            } else {
                header[1] = UInt8(units)
            }
            body += header
        }
        for port in [generator.pick(FrameMaker.ports), generator.pick(FrameMaker.ports)] {
            body += [UInt8(port >> 8), UInt8(truncatingIfNeeded: port)]
        }
        body += [UInt8](repeating: 0, count: 16)
        var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xDD, 0x60, 0, 0, 1]
        frame += [UInt8(body.count >> 8), UInt8(truncatingIfNeeded: body.count), chain[0], 64]
        for low: UInt8 in [generator.pick([1, 2]), generator.pick([1, 2])] {
            frame += [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low]
        }
        return frame + body
    }
}

@Suite(
    "Flow rules in XDP", .serialized, .timeLimit(.minutes(10)),
    .enabled(if: Privilege.networkNamespaces, "needs CAP_NET_ADMIN and CAP_BPF"))
struct XDPRuleTableTests {
    private static func isCarriedOut(_ rule: FlowRule) -> Bool {
        if rule.kind == .sniffer || rule.doesNotTrap { return false }
        return rule.specifications.allSatisfy { specification in
            switch specification.header {
            case .vxlan, .gre, .mpls: false
            default: !specification.isInner
            }
        }
    }

    @Test(
        "Thousands of rules and frames have the verdicts and counts of the model, while rules come and go",
        arguments: 1...12 as ClosedRange<UInt64>, [false, true])
    func agreement(seed: UInt64, takesFragments: Bool) throws {
        var options = XDPRuleTable.Options()
        options.takesFragments = takesFragments
        options.marksFrames = seed % 2 == 0
        options.readsInPlace = seed % 3 != 0
        options.exchangesMasks = seed % 4 < 2
        var pair = try TablePair(options)
        var makers = (rules: RuleMaker(seed: seed), frames: HardFrameMaker(seed: seed))
        var generator = SeededGenerator(seed: seed &* 0x9E37)
        var taken = 0
        var next: UInt32 = 0
        for _ in 0..<20 {
            var rule = makers.rules.rule()
            while !Self.isCarriedOut(rule), !generator.oneIn(6) { rule = makers.rules.rule() }
            next += 1
            switch pair.refusal(rule, next) {
            case nil: #expect(Self.isCarriedOut(rule), "\(rule)")
            case .masks?: try pair.remove(pair.rules.keys.map(\.rawValue).min()!)
            // One that wants copies: of itself, or beside another default rule.
            case .unsupported?: #expect(!Self.isCarriedOut(rule) || rule.kind != .normal, "\(rule)")
            case let error?: throw error
            }
            if generator.oneIn(4), let id = pair.rules.keys.map(\.rawValue).sorted().randomElement(using: &generator) {
                try pair.remove(id)
            }
            for _ in 0..<30 {
                let (difference, isTaken) = pair.compare(makers.frames.frame())
                if let difference {
                    Issue.record("seed \(seed): \(difference); rules \(pair.rules)")
                    return
                }
                if isTaken { taken += 1 }
            }
        }
        #expect(taken > 20, "seed \(seed)")
    }

    @Test(
        "IPv6 is parsed through its extension headers, and stops where the model's parser does",
        arguments: [false, true])
    func extensionHeaders(takesFragments: Bool) throws {
        var options = XDPRuleTable.Options()
        options.takesFragments = takesFragments
        var pair = try TablePair(options)
        let texts = [
            "ip6 udp dst-port 53", "ip6 udp src-port 80 priority 1", "ip6 udp priority 2", "ip6 tcp dst-port 443",
            "ip6 tcp priority 2", "ip6 esp priority 2", "ip6 next-header 59 priority 2",
            "ip6 next-header 44 priority 3",
            "ip6 next-header 51 priority 3", "ip6 priority 4",
        ]
        for (index, text) in texts.enumerated() { try pair.insert(FlowRule(parsing: text), UInt32(index)) }
        var makers = HardFrameMaker(seed: 11)
        var generator = SeededGenerator(seed: 12)
        for _ in 0..<1500 {
            var frame = makers.chain()
            if generator.oneIn(3) { frame = Array(frame[..<(54 + generator.below(frame.count - 53))]) }
            if let difference = pair.compare(frame).difference {
                Issue.record("\(difference)")
                return
            }
        }
        for (index, text) in texts.enumerated() {
            let counters = pair.table.counters(of: FlowID(rawValue: UInt32(index)))
            #expect(counters.map { $0.packets > 5 } == true, "\(text)")
        }
    }

    @Test("Frames that the kernel sent have the verdicts of the model")
    func captures() throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../Fixtures/Captures")
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            .filter { $0.pathExtension == "pcap" }.sorted { $0.path < $1.path }
        try #require(files.count > 20)
        var pair = try TablePair()
        let texts = [
            "ip udp dst-port 4791 priority 2", "ip6 udp dst-port 4791 priority 2 action drop", "ip tcp priority 3",
            "ip dst 10.0.0.0/8 udp src-port 49152/0xF000 priority 1", "eth type 0x806", "multicast-default",
        ]
        for (index, text) in texts.enumerated() {
            try pair.insert(FlowRule(parsing: text), UInt32(index))
        }
        var taken = 0
        for file in files {
            for frame in try Self.frames(of: file) where frame.count >= 14 && frame.count < 3_000 {
                let (difference, isTaken) = pair.compare(frame)
                #expect(difference == nil, "\(file.lastPathComponent)")
                if isTaken { taken += 1 }
            }
        }
        #expect(taken > 500)
    }

    /// Classic little-endian pcap of Ethernet frames.
    private static func frames(of capture: URL) throws -> [[UInt8]] {
        let bytes = try [UInt8](Data(contentsOf: capture))
        func word(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[at + $1]) << ($1 * 8) } }
        var frames: [[UInt8]] = []
        var offset = 24
        while offset + 16 <= bytes.count {
            let end = offset + 16 + word(offset + 8)
            frames.append(Array(bytes[offset + 16..<end]))
            offset = end
        }
        return frames
    }

    @Test("Headers that reach into a second buffer of the frame are parsed, too")
    func headersInFragments() throws {
        var options = XDPRuleTable.Options()
        options.takesFragments = true
        var pair = try TablePair(options)
        try pair.insert(try FlowRule(parsing: "ip6 udp dst-port 53"), 1)
        try pair.insert(try FlowRule(parsing: "ip6 priority 1 action drop"), 2)
        for headers in 1...8 {
            for port: UInt8 in [53, 54] {
                var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xDD, 0x60, 0, 0, 0]
                let body = headers * 2048 + 8
                frame += [UInt8(body >> 8), UInt8(body & 0xFF), 60, 64] + [UInt8](repeating: 1, count: 32)
                for index in 0..<headers {
                    frame += [index == headers - 1 ? 17 : 60, 255] + [UInt8](repeating: 0, count: 2046)
                }
                frame += [4, 0, 0, port, 0, 8, 0, 0]
                let (difference, isTaken) = pair.compare(frame)
                #expect(difference == nil, "\(headers) headers, port \(port)")
                #expect(isTaken)
            }
        }
    }

    @Test("Rules that it cannot carry out are refused with their name and the reason, and change nothing")
    func refusals() throws {
        var pair = try TablePair()
        try pair.insert(try FlowRule(parsing: "ip udp dst-port 53"), 1)
        try pair.insert(try FlowRule(parsing: "all-default"), 2)
        let refused = [
            ("sniffer", "a sniffer has copies"), ("ip dont-trap", "does not trap"), ("ip gre key 7", "GRE"),
            ("ip vxlan vni 5", "VXLAN"), ("mpls", "MPLS"), ("ip inner ip", "inside of a tunnel"),
            ("multicast-default", "rule 2 has the packets, too"), ("all-default", "rule 2 has the packets, too"),
        ]
        for (index, (text, reason)) in refused.enumerated() {
            let rule = try FlowRule(parsing: text)
            let id = FlowID(rawValue: UInt32(10 + index))
            // With a good rule before it, which is not there afterwards either.
            let good = XDPRule(.any, id: FlowID(rawValue: 5), order: FlowOrder(.any, age: 8))
            switch pair.refusal(of: [good, XDPRule(rule, id: id, order: FlowOrder(rule, age: 9))]) {
            case .unsupported(let named, let ruleText, let explanation)?:
                #expect(named == id && ruleText == rule.description && explanation.contains(reason), "\(text)")
            case let other: Issue.record("\(text): \(String(describing: other))")
            }
            #expect(pair.table.ruleCount == 2)
        }
        var frames = FrameMaker(seed: 3)
        for _ in 0..<200 { #expect(pair.compare(frames.frame()).difference == nil) }
        #expect(throws: XDPRuleError.duplicate(FlowID(rawValue: 1))) {
            try pair.table.insert([XDPRule(.any, id: FlowID(rawValue: 1), order: FlowOrder(.any, age: 9))])
        }
    }

    @Test(
        "A rule for all frames acts where no better one does, whatever is behind it",
        arguments: [BPFProgram.Kind.xdp, .ingress])
    func everything(kind: BPFProgram.Kind) throws {
        var options = XDPRuleTable.Options()
        options.kind = kind
        var pair = try TablePair(options)
        let action = kind == .ingress ? " action drop" : ""
        var frames = FrameMaker(seed: 5)
        /// Frames that the program does not treat as the model does.
        func differences(_ pair: inout TablePair) -> Int {
            (0..<50).count { _ in pair.compare(frames.frame()).difference != nil }
        }
        var wrong: [Int] = []
        try pair.insert(try FlowRule(parsing: "any priority 2" + action), 1)
        wrong.append(differences(&pair))
        try pair.insert(try FlowRule(parsing: "ip udp priority 1" + action), 2)
        wrong.append(differences(&pair))
        try pair.insert(try FlowRule(parsing: "ip tcp priority 3" + action), 3)
        try pair.insert(try FlowRule(parsing: "all-default" + action), 4)
        wrong.append(differences(&pair))
        try pair.remove(1)
        wrong.append(differences(&pair))
        #expect(wrong == [0, 0, 0, 0])
    }

    @Test("Sixteen masks are tried, and the rule of a seventeenth is refused until one is gone")
    func masks() throws {
        var pair = try TablePair()
        func rule(_ length: Int) -> FlowRule {
            FlowRule.any.with(
                .ipv4(
                    IPv4Specification(
                        source: IPv4Pattern(FlowPattern(0, mask: UInt32.max << UInt32(32 - length)))))
            )
            .priority(UInt16(100 - length))
        }
        for length in 1...16 { try pair.insert(rule(length), UInt32(length)) }
        #expect(throws: XDPRuleError.masks(FlowID(rawValue: 17), rule: rule(17).description, maximum: 16)) {
            try pair.insert(rule(17), 17)
        }
        #expect(pair.table.ruleCount == 16)
        for length in 0..<16 {
            // The source address 0 but for one bit.
            var frame = [UInt8](repeating: 0, count: 60)
            frame.replaceSubrange(12..<16, with: [0x08, 0x00, 0x45, 0])
            frame[26 + length / 8] = 0x80 >> UInt8(length % 8)
            #expect(pair.compare(frame).difference == nil)
        }
        try pair.remove(3)
        try pair.insert(rule(17), 17)
        var frames = FrameMaker(seed: 4)
        for _ in 0..<100 { #expect(pair.compare(frames.frame()).difference == nil) }
    }

    @Test(
        "Masks that are exchanged come and go by the hundred with the verdicts of the model, and one program",
        arguments: [BPFProgram.Kind.xdp, .ingress])
    func exchangedMasks(kind: BPFProgram.Kind) throws {
        var options = XDPRuleTable.Options()
        options.kind = kind
        options.exchangesMasks = true
        var pair = try TablePair(options)
        var generator = SeededGenerator(seed: 21)
        func prefix(_ lengths: [Int]) -> String {
            let length = generator.oneIn(4) ? 0 : generator.pick(lengths)
            let network = UInt32(generator.pick([10, 138])) << 24
            let address = network | UInt32(generator.below(2) << 8 | generator.below(2))
            let bits = length == 0 ? 0 : address & UInt32.max << UInt32(32 - length)
            return "\(bits >> 24).\(bits >> 16 & 0xFF).\(bits >> 8 & 0xFF).\(bits & 0xFF)/\(length)"
        }
        func rule() throws -> FlowRule {
            var text = "ip src \(prefix([1, 8, 12, 23, 24, 31, 32])) dst \(prefix([1, 2, 9, 23, 25, 31, 32]))"
            if generator.oneIn(2) { text += " udp dst-port \(generator.below(3))" }
            text += " priority \(generator.below(4))"
            return try FlowRule(parsing: kind == .ingress || generator.oneIn(2) ? text + " action drop" : text)
        }
        var next: UInt32 = 0
        // Of more than four rules the program has none in itself.
        for length in 8...12 {
            try pair.insert(try FlowRule(parsing: "ip src 10.0.0.0/\(length) udp dst-port 9 action drop"), next)
            next += 1
        }
        let program = pair.table.programID
        var seen = (masks: Set<FlowKey>(), refused: 0, taken: 0)
        for _ in 0..<600 {
            let new = try rule()
            switch pair.refusal(new, next) {
            case nil: seen.masks.insert(FlowKeyPattern(new).mask)
            case .masks?: seen.refused += 1
            case let error?: throw error
            }
            next += 1
            if generator.oneIn(2), let id = pair.rules.keys.map(\.rawValue).sorted().randomElement(using: &generator) {
                try pair.remove(id)
            }
            for _ in 0..<5 {
                var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]
                frame += [0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0]
                for _ in 0..<2 {
                    frame += [generator.pick([10, 138]), 0, UInt8(generator.below(2)), UInt8(generator.below(2))]
                }
                frame += [4, 0, 0, UInt8(generator.below(3)), 0, 8, 0, 0]
                let (difference, isTaken) = pair.compare(frame)
                if let difference {
                    Issue.record("\(difference); rules \(pair.rules)")
                    return
                }
                if isTaken { seen.taken += 1 }
            }
        }
        #expect(seen.masks.count > 40 && seen.refused > 20 && seen.taken > 200, "\(seen)")
        #expect(pair.table.programID == program)
        // What the program does not read yet takes another one, which goes on reading it.
        while pair.table.ruleCount > 10 { try pair.remove(pair.rules.keys.first!.rawValue) }
        try pair.insert(try FlowRule(parsing: "ip6 src 2001:db8::1 action drop"), next)
        let grown = pair.table.programID
        #expect(grown != program)
        try pair.remove(next)
        try pair.insert(try FlowRule(parsing: "ip dst 10.0.0.0/30 action drop"), next + 1)
        try pair.insert(try FlowRule(parsing: "ip6 src 2001:db8::/64 action drop"), next + 2)
        #expect(pair.table.programID == grown)
        var frames = FrameMaker(seed: 22)
        for _ in 0..<200 { #expect(pair.compare(frames.frame()).difference == nil) }
    }

    @Test("No tag comes twice, so that a frame with an old one finds no rule by another mask")
    func tags() throws {
        let rule = try FlowRule(parsing: "ip src 10.0.0.1 udp dst-port 7")
        let plan = try XDPRulePlan([XDPRule(rule, id: FlowID(rawValue: 1), order: FlowOrder(rule, age: 1))])
        let masks = try XDPMaskTable(plan)
        var seen = Set((0..<16).map { masks.tag(of: $0) })
        for index in 0..<160 {
            masks.setMask(plan.masks[0], tuple: index % 16, plan)
            let tag = masks.tag(of: index % 16)
            #expect(seen.insert(tag).inserted)
            #expect(tag & XDPMaskTable.tupleOnes == UInt64(index % 16))
            for (place, word) in plan.words.enumerated() {
                #expect(masks.words[index % 16, place] == plan.masks[0].words[word])
            }
        }
        #expect(seen.count == 176)
    }

    @Test("The program stays where a rule has a mask that is there, also if the rule comes before all others")
    func mapUpdates() throws {
        var pair = try TablePair()
        try pair.insert(try FlowRule(parsing: "ip udp dst-port 53 priority 5"), 1)
        try pair.insert(try FlowRule(parsing: "ip dst 10.0.0.2 priority 6"), 2)
        // Few rules are in the program itself.
        for id in 11...14 as ClosedRange<UInt32> {
            try pair.insert(try FlowRule(parsing: "ip udp dst-port \(id) priority 9"), id)
        }
        let program = pair.table.programID
        var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]
        frame += [0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 4, 0, 0, 53, 0, 8, 0, 0]
        #expect(pair.compare(frame).difference == nil)
        // The tuple that is tried last has the best rule now; then it is gone again; then the same pattern twice.
        try pair.insert(try FlowRule(parsing: "ip dst 10.0.0.2 priority 0 action drop"), 3)
        #expect(pair.compare(frame).difference == nil)
        #expect(pair.table.verdict(on: frame) == .drop)
        try pair.remove(3)
        #expect(pair.compare(frame).difference == nil)
        #expect(pair.table.verdict(on: frame) == .redirect)
        try pair.insert(try FlowRule(parsing: "ip udp dst-port 53 priority 7 action drop"), 4)
        try pair.remove(1)
        #expect(pair.table.verdict(on: frame) == .redirect)
        try pair.remove(2)
        #expect(pair.table.verdict(on: frame) == .drop)
        #expect(pair.table.programID == program)
        try pair.insert(try FlowRule(parsing: "ip tcp"), 5)
        #expect(pair.table.programID != program)
    }

    @Test("A rule's frames go to the socket that it names; without one they end, and are not the kernel's")
    func sockets() throws {
        var options = XDPRuleTable.Options()
        options.socketCount = 4
        var table = try XDPRuleTable(options)
        let socket = clinuxnet_xdp_socket()
        defer { close(socket) }
        try table.setSocket(3, to: socket)
        let texts = ["eth dst 02:00:00:00:00:01", "eth dst 02:00:00:00:00:02", "eth dst 02:00:00:00:00:03"]
        for (index, number) in [nil, 3, 2].enumerated() {
            let rule = try FlowRule(parsing: texts[index])
            let order = FlowOrder(rule, age: UInt64(index))
            try table.insert([XDPRule(rule, id: FlowID(rawValue: UInt32(index)), order: order, socket: number)])
        }
        let verdicts = (1...4).map { address in
            table.verdict(on: [2, 0, 0, 0, 0, address] + [UInt8](repeating: 0, count: 54))
        }
        #expect(verdicts == [.drop, .redirect, .drop, .pass])
    }

    @Test("A table that is full says so, and has room when a rule is gone")
    func capacity() throws {
        var options = XDPRuleTable.Options()
        options.ruleCountMax = 4
        var pair = try TablePair(options)
        for port in 1...4 { try pair.insert(try FlowRule(parsing: "ip udp dst-port \(port)"), UInt32(port)) }
        #expect(throws: XDPRuleError.full(maximum: 4)) { try pair.insert(FlowRule(parsing: "ip udp dst-port 5"), 5) }
        try pair.remove(2)
        try pair.insert(try FlowRule(parsing: "ip udp dst-port 5"), 5)
        #expect(pair.table.counters(of: FlowID(rawValue: 5)) == XDPRuleTable.Counters(packets: 0, bytes: 0))
        #expect(pair.table.counters(of: FlowID(rawValue: 2)) == nil)
    }
}
