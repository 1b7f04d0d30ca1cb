// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowTraffic
import Foundation
import Synchronization
import TestNetwork
import Testing

@testable import FlowLending
@testable import FlowSteering
@testable import PacketIO

/// A steerd in a thread of this process, which is in the network namespace of its maker.
private final class RunningServer: Sendable {
    let path: String
    private let isEnded = Atomic<Bool>(false)
    private let hasEnded = DispatchSemaphore(value: 0)
    /// What it has logged.
    let log = Mutex<[String]>([])

    init(_ lines: String, path: String) throws {
        self.path = path
        let access = try AccessList(parsing: lines) { _ in nil }
        let isThere = DispatchSemaphore(value: 0)
        let failure = Mutex<(any Error)?>(nil)
        Thread.detachNewThread { [self] in
            defer { hasEnded.signal() }
            do {
                let server = try LendingServer(path: path, access: access) { [self] text in
                    log.withLock { $0.append(text) }
                }
                isThere.signal()
                while !isEnded.load(ordering: .acquiring) { server.serve(milliseconds: 10) }
            } catch {
                failure.withLock { $0 = error }
                isThere.signal()
            }
        }
        isThere.wait()
        if let error = failure.withLock({ $0 }) { throw error }
    }

    func end() {
        isEnded.store(true, ordering: .releasing)
        hasEnded.wait()
    }
}

@Suite(
    "Sockets that steerd lends", .enabled(if: Privilege.networkNamespaces, "wants root, for network namespaces"),
    .serialized)
struct LendingTests {
    private static let rules = [
        "eth vlan 100", "eth vlan-tag 0xe000/0xe000", "ip udp dst-port 7000", "ip6 src fe80::/16 tcp dst-port 443",
    ]

    private func path() -> String { "/tmp/steerd-\(getpid())-\(UInt32.random(in: 0 ... .max)).sock" }

    private func remove(_ path: String) {
        unlink(path)
        unlink(path + ".lent")
    }

    private func lines(_ rules: [String]) -> String {
        rules.map { "user \(geteuid()) interface va send \($0)" }.joined(separator: "\n")
    }

    @Test(
        "A ring on a lent socket has just the frames that the lines of the user match, whose tags the kernel takes out, too",
        arguments: 1...4 as ClosedRange<UInt64>)
    func equalsModel(seed: UInt64) throws {
        let path = path()
        defer { remove(path) }
        let rules = try Self.rules.map { try FlowRule(parsing: $0) }
        var model = FlowModel()
        for (index, rule) in rules.enumerated() { model.insert(rule, FlowID(rawValue: UInt32(index))) }
        var maker = FrameMaker(seed: seed)
        let frames = (0..<400).map { _ in maker.frame() }
        let expected = frames.filter {
            model.verdict(for: PacketHeaders.key(of: $0.span.bytes)).outcome != .unmatched
        }
        let received = try VethPair.run { pair -> [[UInt8]] in
            let server = try RunningServer(lines(Self.rules), path: path)
            let interface = try #require(try NetworkInterface.named("va"))
            let lent = try LendingClient(path: path).receiving([rules[2]], on: "va")
            let granted = lent.rules
            try #require(granted == rules)
            var ring = try PacketRing(
                interface: interface.index, layout: .frames, frameByteCount: 2048, filter: nil, detail: .notes,
                socket: lent.takeSocket())
            server.end()
            try pair.inSecond { try send(frames, on: "vb") }
            var received: [[UInt8]] = []
            let deadline = Waiter.now + 5_000_000_000
            while received.count < expected.count, Waiter.now < deadline {
                ring.beginBatch()
                while let frame = ring.nextReceived() { received.append(Array(frame.bytes)) }
            }
            // What should not come would be there by now.
            clinuxnet_pause_milliseconds(50)
            ring.beginBatch()
            while let frame = ring.nextReceived() { received.append(Array(frame.bytes)) }
            return received
        }
        #expect(received == expected, "seed \(seed)")
        #expect(expected.count > 40 && expected.count < 360)
        #expect(expected.contains { $0[12] == 0x81 } && expected.contains { $0[12] == 0x88 })
    }

    @Test("The log has what users ask for without control characters, which a terminal would act on")
    func log() throws {
        let path = path()
        defer { remove(path) }
        let server = try RunningServer("", path: path)
        let reason = reason { () throws(Refusal) in
            _ = try LendingClient(path: path).receiving([.any], on: "\u{1B}[2J")
        }
        server.end()
        let log = server.log.withLock { $0.joined() }
        #expect(reason.contains("[2J"))
        #expect(log.contains("?[2J"))
        #expect(!log.contains("\u{1B}"))
    }

    private func send(_ frames: [[UInt8]], on name: String) throws {
        let interface = try #require(try NetworkInterface.named(name))
        let socket = try UnboundPacketSocket()
        try #require(clinuxnet_packet_bind(socket.descriptor, Int32(interface.index), 0) == 0)
        for frame in frames { try #require(Glibc.send(socket.descriptor, frame, frame.count, 0) == frame.count) }
    }

    @Test("A socket for sending sends, and receives nothing")
    func sending() throws {
        let path = path()
        defer { remove(path) }
        let frame =
            [UInt8](repeating: 0xFF, count: 6) + [2, 0, 0, 0, 0, 9, 0x88, 0xB5] + [UInt8](repeating: 7, count: 46)
        let (arrived, received) = try VethPair.run { pair -> (Bool, Int) in
            let server = try RunningServer(lines(["any"]), path: path)
            defer { server.end() }
            let near = try #require(try NetworkInterface.named("va"))
            var sender = try FrameSender(
                interface: near.index, socket: LendingClient(path: path).sending(on: "va").takeSocket())
            let duplicate = try LendingClient(path: path).sending(on: "va")
            try #require(clinuxnet_packet_bind(duplicate.socket.descriptor, Int32(near.index), 3) == 0)
            return try pair.inSecond {
                let far = try #require(try NetworkInterface.named("vb"))
                var ring = try PacketRing(interface: far.index, layout: .frames, frameByteCount: 2048, filter: nil)
                try send([frame], on: "vb")
                var bytes = frame
                let outcome = bytes.withUnsafeMutableBytes { bytes in
                    var vector = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
                    return sender.send(&vector, stride: 1, counts: [1], count: 1)
                }
                try #require(outcome == .sent(1))
                let deadline = Waiter.now + 5_000_000_000
                var hasArrived = false
                while !hasArrived, Waiter.now < deadline {
                    ring.beginBatch()
                    while let next = ring.nextFrame() { if Array(next) == frame { hasArrived = true } }
                }
                var buffer = [UInt8](repeating: 0, count: 2048)
                return (hasArrived, recv(duplicate.socket.descriptor, &buffer, buffer.count, 0))
            }
        }
        #expect(arrived)
        #expect(received == -1)
    }

    @Test("The names in which a user may send come along with the socket for sending")
    func sources() throws {
        let path = path()
        defer { unlink(path) }
        let (sending, receiving, rules) = try VethPair.run { _ -> (SourceCheck?, SourceCheck?, [FlowRule]) in
            let server = try RunningServer(lines(["from own,10.1.0.0/16 any"]), path: path)
            defer { server.end() }
            let client = LendingClient(path: path)
            let sending = try client.sending(on: "va").sources
            let lent = try client.receiving([.any], on: "va")
            return (sending, lent.sources, lent.rules)
        }
        #expect(sending == SourceCheck("own,10.1.0.0/16"))
        #expect(receiving == nil)
        #expect(rules == [.any])
    }

    @Test("Who is in another network namespace is told so, and an interface that is not there")
    func otherNamespace() throws {
        let path = path()
        defer { remove(path) }
        let (other, missing) = try VethPair.run { pair -> (String, String) in
            let server = try RunningServer(lines(["any"]) + "\nuser \(geteuid()) interface vz send any", path: path)
            defer { server.end() }
            func reason(_ interface: String) -> String {
                do throws(Refusal) {
                    _ = try LendingClient(path: path).receiving([.any], on: interface)
                    return ""
                } catch {
                    return error.reason
                }
            }
            return (pair.inSecond { reason("va") }, reason("vz"))
        }
        #expect(other.contains("serves another network namespace"))
        #expect(missing.contains("has no interface vz"))
    }

    @Test("A path of one that died is taken over; that of a living one, and what is no socket, is not")
    func paths() throws {
        let path = path()
        defer { remove(path) }
        let first = try RunningServer(lines(["any"]), path: path)
        let second = #expect(throws: PacketIOError.self) { try RunningServer("", path: path) }
        #expect(second?.description.contains("another steerd listens at \(path)") == true)
        first.end()
        #expect(access(path, F_OK) == 0)
        try RunningServer(lines(["any"]), path: path).end()
        unlink(path)
        try Data().write(to: URL(filePath: path))
        let third = #expect(throws: PacketIOError.self) { try RunningServer("", path: path) }
        #expect(third?.description.contains("is no socket") == true)
        #expect(throws: PacketIOError.self) { try RunningServer("", path: String(repeating: "a", count: 108)) }
        #expect(access(path, F_OK) == 0)
    }

    private func reason(_ client: LendingClient) -> String {
        do throws(Refusal) {
            _ = try client.sending(on: "va")
            return ""
        } catch {
            return error.reason
        }
    }

    @Test("A user has as many sockets as the lines say, of the steerds of a path together, until nobody holds one")
    func socketCount() throws {
        let path = path()
        defer { remove(path) }
        let limit = "\nuser \(geteuid()) sockets 2"
        let (full, again, afterwards) = try VethPair.run { _ -> (String, String, String) in
            let client = LendingClient(path: path)
            let first = try RunningServer(lines(["any"]) + limit, path: path)
            let one = try client.sending(on: "va")
            // A socket lives as long as one of its descriptors.
            let copy: UnboundPacketSocket
            do {
                let two = try client.sending(on: "va")
                copy = UnboundPacketSocket(taking: dup(two.socket.descriptor))
            }
            let full = reason(client)
            first.end()
            let second = try RunningServer(lines(["any"]) + limit, path: path)
            defer { second.end() }
            let again = reason(client)
            close(consume copy)
            let afterwards = reason(client)
            _ = one.socket.descriptor
            return (full, again, afterwards)
        }
        #expect(full.contains("has 2 lent sockets, and its access file allows 2: close one"))
        #expect(again.contains("has 2 lent sockets"))
        #expect(afterwards == "")
    }

    private func close(_ socket: consuming UnboundPacketSocket) {}

    private static func frame(_ type: UInt8, _ number: Int) -> [UInt8] {
        [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, type, UInt8(number)] + [UInt8](repeating: 7, count: 45)
    }

    /// Those that come until there are as many, or a time has passed; of the only rule, so that none names it.
    private func receive(_ count: Int, of frames: inout XDPFrames) -> [[UInt8]] {
        var received: [[UInt8]] = []
        let deadline = Waiter.now + 5_000_000_000
        while received.count < count, Waiter.now < deadline {
            frames.beginBatch()
            while let bytes = frames.nextFrame() {
                #expect(frames.mark == nil)
                received.append(Array(bytes))
            }
        }
        return received
    }

    private func reason(_ body: () throws(Refusal) -> Void) -> String {
        do throws(Refusal) {
            try body()
            return ""
        } catch {
            return error.reason
        }
    }

    @Test(
        "AF_XDP sockets have what a rule within the lines selects, with its name and counts, also when the steerd has ended"
    )
    func lentInterface() throws {
        let path = path()
        defer { remove(path) }
        let wanted = (0..<20).map { Self.frame(0xB5, $0) }
        let other = (0..<20).map { Self.frame(0xB6, $0) }
        let line = "user \(geteuid()) interface va xdp eth type 0x88b5"
        let results = try VethPair.run {
            pair -> (before: [[UInt8]], after: [[UInt8]], counted: UInt64?, reasons: [String]) in
            let server = try RunningServer(line, path: path)
            let client = LendingClient(path: path)
            let rule = try FlowRule(parsing: "eth type 0x88b5")
            var reasons = [reason { () throws(Refusal) in _ = try client.sending(on: "va") }]
            let lent = try client.interface("va", mode: .native)
            var frames = try lent.openFrames()
            reasons.append(reason { () throws(Refusal) in try lent.insert(.any, FlowID(rawValue: 4)) })
            reasons.append(reason { () throws(Refusal) in _ = try client.interface("va", mode: .native) })
            try lent.insert(rule, FlowID(rawValue: 5))
            try pair.inSecond { try send(other + wanted, on: "vb") }
            let before = receive(wanted.count, of: &frames)
            server.end()
            try pair.inSecond { try send(other + wanted, on: "vb") }
            let after = receive(wanted.count, of: &frames)
            reasons.append(reason { () throws(Refusal) in try lent.insert(rule, FlowID(rawValue: 6)) })
            return (before, after, lent.counters(of: FlowID(rawValue: 5))?.packets, reasons)
        }
        #expect(results.before == wanted)
        #expect(results.after == wanted)
        #expect(results.counted == 40)
        #expect(results.reasons[0].contains("has no line for va"))
        #expect(
            results.reasons[1].contains("may not have 'any' of va by XDP: its access file allows 'eth type 0x88b5'"))
        #expect(results.reasons[2].contains("another process has va by XDP"))
        #expect(results.reasons[3].contains("has ended, or did not answer in time: the flows go on as they are"))
    }

    @Test("Sockets of another boot or network namespace do not count, nor what is no line of the file")
    func lentFile() {
        let text = "verbs-steerd lent 1\nboot 7\n12 1000\n13 1001\nx\n14\n"
        #expect(LentSockets.holders(in: text, place: "boot 7") == [12: 1000, 13: 1001])
        #expect(LentSockets.holders(in: text, place: "boot 8") == [:])
        #expect(LentSockets.holders(in: "verbs-steerd lent 2\nboot 7\n12 1000\n", place: "boot 7") == [:])
        #expect(LentSockets.holders(in: "", place: "boot 7") == [:])
    }

    @Test("The oldest of a user's connections gives way to the seventeenth; one that says nothing is closed in the end")
    func silentConnections() throws {
        let path = path()
        defer { remove(path) }
        let server = try RunningServer(lines(["any"]), path: path)
        defer { server.end() }
        let first = try Held(path)
        var others: [Held] = []
        for _ in 1..<LendingServer.connectionsOfUserMax { others.append(try Held(path)) }
        // The server accepts in order.
        let next = try Held(path)
        #expect(first.isClosed)
        #expect(!next.isClosed(within: 0))
        #expect(next.isClosed)
        #expect(others.allSatisfy { $0.isClosed })
    }

    /// A connection that says nothing.
    private final class Held {
        private let socket: LocalSocket
        init(_ path: String) throws { socket = try LocalSocket.connected(to: path) }

        /// Whether it ends: not how soon.
        var isClosed: Bool { isClosed(within: 30_000) }

        func isClosed(within milliseconds: Int32) -> Bool {
            switch socket.receive(within: milliseconds) {
            case .closed: true
            case .nothing: false
            case .message: false
            }
        }
    }
}
