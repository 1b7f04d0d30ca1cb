// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import FlowTraffic
import Foundation
import PacketIO
import Synchronization
import TestNetwork
import Testing
import VerbsABI

@testable import FlowPrograms
@testable import SoftProvider

/// A UDP socket of the kernel's stack at 10.88.0.1 and fd88::1, and one that sends to it.
private struct StackSockets {
    let receiver: Int32
    let sender: Int32
    let isIPv6: Bool
    let port: UInt16

    init(_ pair: VethPair, port: UInt16, isIPv6: Bool = false, to host: UInt8 = 1, hasReceiver: Bool = true) throws {
        self.isIPv6 = isIPv6
        self.port = port
        receiver = hasReceiver ? Self.open(isIPv6) : -1
        sender = pair.inSecond { Self.open(isIPv6) }
        if hasReceiver, Self.call(bind, receiver, isIPv6, port, nil) != 0 { throw Failure(errno) }
        if Self.call(connect, sender, isIPv6, port, host) != 0 { throw Failure(errno) }
    }

    struct Failure: Error {
        let code: Int32
        init(_ code: Int32) { self.code = code }
    }

    private static func open(_ isIPv6: Bool) -> Int32 {
        socket(isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    }

    private static func call(
        _ call: (Int32, UnsafePointer<sockaddr>, UInt32) -> Int32, _ descriptor: Int32, _ isIPv6: Bool,
        _ port: UInt16, _ host: UInt8?
    ) -> Int32 {
        var bytes = [UInt8](repeating: 0, count: isIPv6 ? 28 : 16)
        bytes[0] = UInt8(isIPv6 ? AF_INET6 : AF_INET)
        bytes[2] = UInt8(port >> 8)
        bytes[3] = UInt8(port & 0xFF)
        if let host {
            if isIPv6 {
                bytes[8] = 0xFD
                bytes[9] = 0x88
                bytes[23] = host
            } else {
                bytes.replaceSubrange(4..<8, with: [10, 88, 0, host])
            }
        }
        return bytes.withUnsafeBytes {
            call(descriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), UInt32($0.count))
        }
    }

    /// `false` where an ICMP error of an earlier datagram has come.
    func send() -> Bool {
        let byte: UInt8 = 7
        return Glibc.send(sender, [byte], 1, 0) == 1
    }

    /// Sends some, and hears as many.
    func exchange(_ count: Int) -> Bool {
        for _ in 0..<count where !send() { return false }
        return (0..<count).allSatisfy { _ in hears() }
    }

    /// Whether a datagram comes to the socket. IPv6 may look for its neighbour a second time before.
    func hears(milliseconds: Int = 5000) -> Bool {
        var byte = [UInt8](repeating: 0, count: 8)
        for _ in 0..<milliseconds {
            if recv(receiver, &byte, 8, 0) > 0 { return true }
            usleep(1000)
        }
        return false
    }
}

/// What the thread that sends and the one that changes rules tell each other.
private final class Traffic: Sendable {
    private let state = Mutex((goesOn: true, isRight: true))

    var goesOn: Bool { state.withLock { $0.goesOn } }
    var isRight: Bool { state.withLock { $0.isRight } }
    func stop() { state.withLock { $0.goesOn = false } }
    func fail() { state.withLock { $0 = (false, false) } }
}

@Suite(
    "Flows of AF_PACKET sockets taken from the kernel's stack", .serialized, .timeLimit(.minutes(10)),
    .enabled(if: Privilege.networkNamespaces, "needs CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF and iproute2"))
struct StackTakerTests {
    static let places: [ProviderFlowPlace] = [.packetRing, .packet]

    private static func id(_ number: UInt32) -> FlowID { FlowID(rawValue: number) }

    /// Frames of a rule that the place receives, soon.
    private static func count(_ place: any FramePlace, of text: String, wanted: Int) throws -> Int {
        var flow = FlowModel()
        flow.insert(try FlowRule(parsing: text), id(1))
        let frames = UnsafeMutablePointer<ReceivedFrame>.allocate(capacity: 64)
        defer { frames.deallocate() }
        var count = 0
        for _ in 0..<500 where count < wanted {
            let received = place.receive(into: frames, limit: 64)
            for index in 0..<received {
                let key = PacketHeaders.key(of: RawSpan(_unsafeBytes: frames[index].bytes))
                if flow.verdict(for: key).outcome == .trapped { count += 1 }
            }
            if received == 0 { usleep(1000) }
        }
        return count
    }

    @Test(
        "come to the place alone, without a word of the stack, until they are given back",
        arguments: places, ["ip udp dst-port 7000", "ip6 udp dst-port 7000"])
    func taken(place: ProviderFlowPlace, text: String) throws {
        let isIPv6 = text.hasPrefix("ip6")
        let seen = try VethPair.run { pair in
            let interface = try NetworkInterface.named("va")!
            let flow = try StackSockets(pair, port: 7000, isIPv6: isIPv6)
            let other = try StackSockets(pair, port: 7001, isIPv6: isIPv6)
            // The stack would answer that there is nobody.
            let unbound = try StackSockets(pair, port: 7002, isIPv6: isIPv6, hasReceiver: false)
            var steps: [Bool] = [flow.send() && flow.hears()]
            let frames = try FramePlaces.open(place, interface, .singleUser, for: [])
            try frames.insert(FlowRule(parsing: text), Self.id(1))
            try frames.insert(FlowRule(parsing: text.replacing("7000", with: "7002")), Self.id(2))
            steps.append(frames.reasonForCopies(of: Self.id(1)) == nil)
            for _ in 0..<5 { steps.append(flow.send()) }
            for _ in 0..<3 {
                steps.append(unbound.send())
                usleep(20_000)
            }
            steps.append(other.send() && other.hears())
            steps.append(!flow.hears(milliseconds: 100))
            let count = try Self.count(frames, of: text, wanted: 5)
            frames.remove(Self.id(1))
            steps.append(flow.send() && flow.hears())
            return (steps: steps, count: count)
        }
        #expect(seen.steps == [Bool](repeating: true, count: 13))
        #expect(seen.count == 5)
    }

    @Test("are all that the interface brings in the exclusive mode, and back with the place", arguments: places)
    func exclusive(place: ProviderFlowPlace) throws {
        let seen = try VethPair.run { pair in
            let interface = try NetworkInterface.named("va")!
            let other = try StackSockets(pair, port: 7001)
            var steps: [Bool] = [other.send() && other.hears()]
            var frames: (any FramePlace)? = try FramePlaces.open(place, interface, .exclusive, for: [])
            try frames?.insert(FlowRule(parsing: "ip udp dst-port 7000"), Self.id(1))
            steps.append(other.send() && !other.hears(milliseconds: 100))
            frames = nil
            steps.append(other.send() && other.hears())
            return steps
        }
        #expect(seen == [true, true, true])
    }

    @Test("are found by the VLAN tag that the kernel takes off, and by those behind it")
    func tags() throws {
        let seen = try VethPair.run { pair in
            let interface = try NetworkInterface.named("va")!
            var options = XDPRuleTable.Options()
            options.kind = .ingress
            var table = try XDPRuleTable(options)
            let texts = [
                "eth vlan 100 ip udp dst-port 7000 action drop", "eth vlan 200 ip action drop",
                "ip udp dst-port 7000 priority 5 action drop",
            ]
            for (index, text) in texts.enumerated() {
                let rule = try FlowRule(parsing: text)
                try table.insert([XDPRule(rule, id: Self.id(UInt32(index)), order: FlowOrder(rule, age: UInt64(index)))]
                )
            }
            try table.attach(to: interface.index, mode: .ingress)
            let sender = try pair.inSecond { try FrameSender(interface: NetworkInterface.named("vb")!.index) }
            var frameSender = consume sender
            var plain: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]
            plain += [0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 4, 0, 0x1B, 0x58, 0, 8, 0, 0]
            func tagged(_ tags: [[UInt8]]) -> [UInt8] { Array(plain[..<12]) + tags.flatMap { $0 } + plain[12...] }
            let sent: [([UInt8], UInt32)] = [
                (tagged([[0x81, 0, 0, 100]]), 0), (tagged([[0x88, 0xA8, 0, 200], [0x81, 0, 0, 100]]), 1),
                (tagged([[0x81, 0, 0, 7], [0x81, 0, 0, 100]]), 2), (plain, 2),
            ]
            var found: [[UInt64]] = []
            for (frame, _) in sent {
                var bytes = frame
                bytes.withUnsafeMutableBytes { memory in
                    var vector = iovec(iov_base: memory.baseAddress, iov_len: memory.count)
                    var count = 1
                    _ = frameSender.send(&vector, stride: 1, counts: &count, count: 1)
                }
                for _ in 0..<200
                where (0..<3).reduce(0, { $0 + table.counters(of: Self.id($1))!.packets }) <= found.count {
                    usleep(1000)
                }
                found.append((0..<3).map { table.counters(of: Self.id($0))!.packets })
            }
            return found
        }
        #expect(seen == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 2]])
    }

    @Test("have the verdicts of the model", arguments: 1...8 as ClosedRange<UInt64>)
    func agreement(seed: UInt64) throws {
        var options = XDPRuleTable.Options()
        options.kind = .ingress
        var table = try XDPRuleTable(options)
        var model = FlowModel()
        var rules = RuleMaker(seed: seed)
        var frames = FrameMaker(seed: seed &* 7)
        var number: UInt32 = 0
        var taken = 0
        for _ in 0..<40 {
            var rule = rules.rule()
            guard rule.kind != .sniffer, !rule.doesNotTrap else { continue }
            rule.drops = true
            rule.tag = nil
            rule.counts = false
            number += 1
            do throws(XDPRuleError) {
                try table.insert([XDPRule(rule, id: Self.id(number), order: FlowOrder(rule, age: UInt64(number)))])
            } catch {
                switch error {
                case .unsupported, .masks: continue
                default: throw error
                }
            }
            model.insert(rule, Self.id(number))
            for _ in 0..<20 {
                let frame = frames.frame()
                let isTaken = model.verdict(for: PacketHeaders.key(of: frame.span.bytes)).outcome == .dropped
                if isTaken { taken += 1 }
                #expect(table.verdict(on: frame) == (isTaken ? .drop : .pass), "seed \(seed), frame \(frame)")
            }
        }
        #expect(taken > 10)
    }

    @Test(
        "are copied where a rule asks for it or the program cannot hold it, which is said, and taken when there is room"
    )
    func copies() throws {
        let seen = try VethPair.run { pair in
            var taker = try StackTaker(NetworkInterface.named("va")!, mode: .singleUser)
            for length in 1...17 {
                taker.insert(try FlowRule(parsing: "ip src 128.0.0.0/\(length)"), Self.id(UInt32(length)))
            }
            for (index, text) in ["sniffer", "ip dont-trap", "ip vxlan vni 5"].enumerated() {
                taker.insert(try FlowRule(parsing: text), Self.id(UInt32(20 + index)))
            }
            let before = [1, 17, 20, 21, 22].map { taker.reasonForCopies(of: Self.id($0)) }
            taker.remove(Self.id(3))
            return before + [taker.reasonForCopies(of: Self.id(17))]
        }
        let parts: [String?] = [nil, "16 ways", "asks for copies", "asks for copies", "VXLAN", nil]
        for (reason, part) in zip(seen, parts) {
            if let part { #expect(reason?.contains(part) == true) } else { #expect(reason == nil) }
        }
    }

    @Test("are taken up to sixteen masks at a time while many come and go, by one program")
    func manyMasks() throws {
        let masks = 60
        let seen = try VethPair.run { pair in
            var taker = try StackTaker(NetworkInterface.named("va")!, mode: .singleUser)
            var programs = Set<Int?>()
            var wrong: [Int] = []
            for round in 0..<3 {
                for mask in 0..<masks {
                    let text = "ip src 128.0.0.0/\(1 + mask % 30) dst 64.0.0.0/\(2 + mask / 30)"
                    taker.insert(try FlowRule(parsing: text), Self.id(UInt32(mask)))
                    if round > 0 || mask >= 4 { programs.insert(taker.programID) }
                }
                for mask in 0..<masks {
                    let taken = (mask..<masks).count { taker.reasonForCopies(of: Self.id(UInt32($0))) == nil }
                    if taken != min(16, masks - mask) { wrong.append(taken) }
                    taker.remove(Self.id(UInt32(mask)))
                    programs.insert(taker.programID)
                }
            }
            return (programs: programs.count, wrong: wrong)
        }
        // Few rules are in the program itself.
        #expect(seen.programs == 1)
        #expect(seen.wrong == [])
    }

    @Test("stay the place's, and others the stack's, while masks go and come under the traffic")
    func exchangeUnderTraffic() throws {
        let seen = try VethPair.run { pair in
            var taker = try StackTaker(NetworkInterface.named("va")!, mode: .singleUser)
            let flow = try StackSockets(pair, port: 7000)
            let other = try StackSockets(pair, port: 7001)
            taker.insert(try FlowRule(parsing: "ip udp dst-port 7000"), Self.id(0))
            for length in 1...14 {
                taker.insert(try FlowRule(parsing: "ip src 128.0.0.0/\(length)"), Self.id(UInt32(length)))
            }
            // In turn in one place: with half of the mask before or after it, a rule would match the other socket's frames.
            let rules = try [
                "ip udp dst-port 0 src-port 0", "ip udp dst-port 0", "ip src 10.88.0.2 udp dst-port 0",
                "ip src 10.88.0.3 udp",
            ].map { try FlowRule(parsing: $0) }
            let traffic = Traffic()
            let thread = Thread {
                while traffic.goesOn {
                    for _ in 0..<20 { _ = flow.send() }
                    if !other.exchange(20) { traffic.fail() }
                }
            }
            var exchanged = 0
            while exchanged < 5_000, traffic.goesOn {
                taker.insert(rules[exchanged % rules.count], Self.id(100))
                if taker.reasonForCopies(of: Self.id(100)) != nil { traffic.fail() }
                taker.remove(Self.id(100))
                exchanged += 1
            }
            traffic.stop()
            thread.join()
            return (isRight: traffic.isRight, leaked: flow.hears(milliseconds: 50), exchanged: exchanged)
        }
        #expect(seen.isRight)
        #expect(!seen.leaked)
        #expect(seen.exchanged == 5_000)
    }
}
