// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowSteering
import Foundation
import PacketIO
import Synchronization
import TestNetwork
import Testing

@testable import FlowPrograms
@testable import SoftProvider

/// Frames of the EtherType for experiments to one of the addresses that rules name.
private func frame(to address: UInt8, _ number: Int, byteCount: Int = 60) -> [UInt8] {
    var bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: number &* 7), count: byteCount)
    bytes.replaceSubrange(0..<14, with: [2, 0, 0, 0, 0, address, 2, 0, 0, 0, 1, 0, 0x88, 0xB5])
    for index in 0..<4 { bytes[14 + index] = UInt8(truncatingIfNeeded: number >> (index * 8)) }
    return bytes
}

private func number(of frame: [UInt8]) -> Int { (0..<4).reduce(0) { $0 | Int(frame[14 + $1]) << ($1 * 8) } }

/// Sends on a thread of its own until it is told to end, and no more ahead of the receiver than its ring holds.
private final class BackgroundSender: @unchecked Sendable {
    // The frames are the thread's alone once it has started.
    private var frames: XDPFrames
    private let sentCount = Atomic<Int>(0)
    private let takenCount = Atomic<Int>(0)
    private let isStopping = Atomic<Bool>(false)
    private let ended = Atomic<Bool>(false)

    init(_ frames: consuming XDPFrames) { self.frames = frames }

    /// Frames that were sent, once the thread has ended.
    var count: Int? { ended.load(ordering: .acquiring) ? sentCount.load(ordering: .relaxed) : nil }

    func start() {
        Foundation.Thread.detachNewThread { [self] in
            var sent = 0
            while !isStopping.load(ordering: .relaxed) {
                guard sent - takenCount.load(ordering: .relaxed) < 4000 else { continue }
                send(frame(to: 1, sent))
                sent += 1
            }
            sentCount.store(sent, ordering: .relaxed)
            ended.store(true, ordering: .releasing)
        }
    }

    func stop() { isStopping.store(true, ordering: .relaxed) }

    func setTaken(_ count: Int) { takenCount.store(count, ordering: .relaxed) }

    func send(_ bytes: [UInt8]) {
        let deadline = Waiter.now + 20_000_000_000
        while Waiter.now < deadline, !bytes.withUnsafeBytes({ frames.add($0) }) { frames.flush() }
        repeat { frames.flush() } while frames.isUnsent && Waiter.now < deadline
    }
}

@Suite(
    "Frames steered by rules in XDP", .serialized, .timeLimit(.minutes(10)),
    .enabled(if: Privilege.networkNamespaces, "needs CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF and iproute2"))
struct XDPSteeringTests {
    static let modes: [XDPAttachment.Mode] = [.native, .generic]

    private static func rule(_ text: String, _ id: UInt32, age: UInt64 = 0) throws -> XDPRule {
        let rule = try FlowRule(parsing: text)
        return XDPRule(rule, id: FlowID(rawValue: id), order: FlowOrder(rule, age: age))
    }

    @Test(
        "go to the socket with the rule's identifier, end, or go on to the kernel's stack, unless the interface is exclusive",
        arguments: modes, [false, true])
    func verdicts(mode: XDPAttachment.Mode, isExclusive: Bool) throws {
        let seen = try VethPair.run { pair in
            let interface = try NetworkInterface.named("va")!
            var receiver = try XDPFrames(interface)
            var options = XDPRuleTable.Options()
            options.marksFrames = true
            options.missVerdict = isExclusive ? .drop : .pass
            var table = try XDPRuleTable(options)
            try table.setSocket(0, to: receiver.descriptor(0))
            try table.insert([
                Self.rule("eth dst 02:00:00:00:00:01 action tag 5", 0x8000_0007),
                Self.rule("eth dst 02:00:00:00:00:02 action drop", 8),
            ])
            // What goes on comes by here.
            var ring = try PacketRing(interface: interface.index, layout: .frames, frameByteCount: 1514, filter: nil)
            try table.attach(to: interface.index, mode: mode)
            let sender = try pair.inSecond { BackgroundSender(try XDPFrames(NetworkInterface.named("vb")!)) }
            for index in 0..<300 { sender.send(frame(to: UInt8(1 + index % 3), index, byteCount: 60 + index)) }
            var delivered: [[UInt8]] = []
            var marks = Set<UInt32?>()
            var passed: [[UInt8]] = []
            let deadline = Waiter.now + 10_000_000_000
            while delivered.count < 100 || passed.count < (isExclusive ? 0 : 100), Waiter.now < deadline {
                receiver.beginBatch()
                while let bytes = receiver.nextFrame() {
                    delivered.append(Array(bytes))
                    marks.insert(receiver.mark)
                }
                ring.beginBatch()
                while let bytes = ring.nextFrame() {
                    if bytes.count > 14, bytes[12] == 0x88, bytes[13] == 0xB5 { passed.append(Array(bytes)) }
                }
            }
            return (
                delivered: delivered, marks: marks, passed: passed,
                counters: [0x8000_0007, 8].map { table.counters(of: FlowID(rawValue: $0)) }
            )
        }
        let sent = (0..<300).map { frame(to: UInt8(1 + $0 % 3), $0, byteCount: 60 + $0) }
        func part(_ rest: Int) -> [[UInt8]] { sent.indices.filter { $0 % 3 == rest }.map { sent[$0] } }
        #expect(seen.delivered == part(0))
        #expect(seen.marks == [0x8000_0007])
        #expect(seen.passed == (isExclusive ? [] : part(2)))
        #expect(
            seen.counters
                == [0, 1].map { rest in
                    XDPRuleTable.Counters(packets: 100, bytes: part(rest).reduce(0) { $0 + UInt64($1.count) })
                })
    }

    @Test("are neither lost nor steered wrongly while rules come and go and programs are exchanged", arguments: modes)
    func exchange(mode: XDPAttachment.Mode) throws {
        let seen = try VethPair.run { pair in
            let interface = try NetworkInterface.named("va")!
            var receiver = try XDPFrames(interface)
            var options = XDPRuleTable.Options()
            options.marksFrames = true
            options.missVerdict = .drop
            var table = try XDPRuleTable(options)
            try table.setSocket(0, to: receiver.descriptor(0))
            try table.insert([Self.rule("eth dst 02:00:00:00:00:01 priority 1", 1)])
            try table.attach(to: interface.index, mode: mode)
            let sender = try pair.inSecond { BackgroundSender(try XDPFrames(NetworkInterface.named("vb")!)) }
            sender.start()
            var numbers: [Int] = []
            var marks = Set<UInt32?>()
            var programs = Set<Int>()
            var round: UInt64 = 0
            let deadline = Waiter.now + 30_000_000_000
            while numbers.count < sender.count ?? .max, Waiter.now < deadline {
                receiver.beginBatch()
                while let bytes = receiver.nextFrame() {
                    numbers.append(number(of: Array(bytes)))
                    marks.insert(receiver.mark)
                }
                sender.setTaken(numbers.count)
                if round == 10 {
                    sender.stop()
                    continue
                }
                // A mask that is new each time, and a rule of a known mask; both come before the first and fit other frames.
                round += 1
                try table.insert([
                    Self.rule("ip src 10.0.0.0/\(8 + round % 20)", 100, age: round),
                    Self.rule("eth dst 02:00:00:00:00:09", 101, age: round),
                ])
                programs.insert(table.programID)
                try table.remove(FlowID(rawValue: 100))
                try table.remove(FlowID(rawValue: 101))
            }
            sender.stop()
            return (
                sent: sender.count, numbers: numbers, marks: marks, programs: programs.count,
                dropped: receiver.newlyDropped,
                counters: table.counters(of: FlowID(rawValue: 1))
            )
        }
        #expect(seen.numbers == Array(0..<(seen.sent ?? 0)))
        #expect(seen.numbers.count > 0)
        // None from the times when it is the only rule.
        #expect(seen.marks.contains(1) && seen.marks.isSubset(of: [nil, 1]))
        #expect(seen.programs == 10)
        #expect(seen.dropped == 0)
        #expect(seen.counters?.packets == UInt64(seen.numbers.count))
    }

    @Test("land in posted buffers, where nothing is written before the frame")
    func direct() throws {
        let seen = try VethPair.run { pair in
            let interface = try NetworkInterface.named("va")!
            let memory = try XDPMemory(byteCount: 1 << 16)
            var queue = try XDPDirectQueue(
                interface: interface.index, queue: 0,
                memory: UnsafeMutableRawBufferPointer(start: memory.base, count: memory.byteCount),
                frameByteCount: 1514)
            var options = XDPRuleTable.Options()
            options.missVerdict = .drop
            var table = try XDPRuleTable(options)
            try table.setSocket(0, to: queue.descriptor)
            try table.insert([Self.rule("eth dst 02:00:00:00:00:01", 1)])
            try table.attach(to: interface.index, mode: .native)
            let isPosted = queue.post(memory.base + 4321, byteCount: 1514, id: 77)
            queue.submit()
            let sender = try pair.inSecond { BackgroundSender(try XDPFrames(NetworkInterface.named("vb")!)) }
            for address: UInt8 in [2, 3, 1] { sender.send(frame(to: address, Int(address), byteCount: 1514)) }
            let deadline = Waiter.now + 10_000_000_000
            var arrival: [Int] = []
            while arrival.isEmpty, Waiter.now < deadline {
                if let frame = queue.poll() {
                    arrival = [Int(frame.id), frame.address - memory.base, frame.byteCount]
                }
            }
            let bytes = Array(UnsafeRawBufferPointer(start: memory.base, count: memory.byteCount))
            return (isPosted: isPosted, arrival: arrival, bytes: bytes)
        }
        #expect(seen.isPosted)
        #expect(seen.arrival == [77, 4321, 1514])
        #expect(Array(seen.bytes[4321..<4321 + 1514]) == frame(to: 1, 1, byteCount: 1514))
        #expect(seen.bytes[..<4321].allSatisfy { $0 == 0 } && seen.bytes[(4321 + 1514)...].allSatisfy { $0 == 0 })
    }
}
