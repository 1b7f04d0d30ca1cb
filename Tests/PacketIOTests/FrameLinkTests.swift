// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import TestNetwork
import Testing

@testable import PacketIO

private let first = [GID(ipv4: 0x0A58_0001), GID(high: 0xFD88_0000_0000_0000, low: 1)]
private let second = [GID(ipv4: 0x0A58_0002), GID(high: 0xFD88_0000_0000_0000, low: 2)]

@Suite(
    "A link that sends and receives whole frames", .serialized, .timeLimit(.minutes(10)),
    .enabled(if: Privilege.networkNamespaces, "needs CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF and iproute2"))
struct FrameLinkTests {
    static let modes: [LinkPreference] = [.xdp, .genericXDP]
    static let links: [LinkPreference] = [.xdp, .genericXDP, .packet]

    private static func options(_ link: LinkPreference, slot: UInt8? = nil) -> UDPLinkOptions {
        var options = TestLink.patient
        options.link = link
        options.slot = slot
        return options
    }

    /// Sends to the peer until a packet goes as a whole frame, and takes what comes.
    private static func warm(_ sender: TestLink, _ receiver: TestLink, to destination: GID, index: Int) -> Bool {
        turn([sender, receiver]) {
            let before = sender.framesSent
            sender.send(packet(to: receiver.slot), to: destination, localIndex: index)
            return sender.framesSent > before
        }
    }

    @Test("carries packets both ways with all that their headers say", arguments: links, [0, 1])
    func carries(mode: LinkPreference, family: Int) throws {
        let seen = try VethPair.run { pair in
            let a = try TestLink(first, on: "va", options: Self.options(mode))
            let b = try pair.inSecond { try TestLink(second, on: "vb", options: Self.options(mode)) }
            let isWarm =
                Self.warm(a, b, to: second[family], index: family)
                && Self.warm(b, a, to: first[family], index: family)
            settle([a, b])
            a.forget()
            b.forget()
            let there = packet(to: b.slot, number: 7, byteCount: 1060)
            let back = packet(to: a.slot, number: 8, byteCount: 16)
            let before = (a.framesReceived, b.framesReceived)
            a.send(there, to: second[family], localIndex: family, trafficClass: 0x6A)
            b.send(back, to: first[family], localIndex: family)
            _ = turn([a, b]) { !a.segments.isEmpty && !b.segments.isEmpty }
            return (
                isWarm: isWarm, a: a, b: b, there: there, back: back,
                moved: (a.framesReceived - before.0, b.framesReceived - before.1)
            )
        }
        #expect(seen.isWarm)
        #expect(seen.b.segments == [seen.there])
        #expect(seen.a.segments == [seen.back])
        #expect(seen.b.sources == [first[family]])
        #expect(seen.b.destinations == [second[family]])
        #expect(seen.b.sourcePorts == [seen.a.state(family)?.sourcePort])
        #expect(seen.b.datagrams.map(\.trafficClass) == [0x6A])
        #expect(seen.b.identifications == [0])
        #expect(seen.moved == (1, 1))
        let details = [LinkPreference.xdp: "native", .genericXDP: "generic", .packet: "ring of frames"]
        #expect(seen.a.choice.detail.hasPrefix(details[mode] ?? "?"))
        #expect(seen.a.choice.kind == (mode == .packet ? .packet : .xdp))
    }

    @Test("leaves its poll set quiet when the interface goes down, and works when it is up again")
    func interfaceDown() throws {
        let mode = LinkPreference.packet
        let seen = try VethPair.run { pair in
            let a = try TestLink(first, on: "va", options: Self.options(mode))
            let b = try pair.inSecond { try TestLink(second, on: "vb", options: Self.options(mode)) }
            _ = Self.warm(a, b, to: second[0], index: 0)
            settle([a, b])
            try pair.command("ip link set va down")
            for _ in 0..<64 { a.turn() }
            var poll = pollfd(fd: a.descriptor, events: Int16(POLLIN), revents: 0)
            let ready = Glibc.poll(&poll, 1, 0)
            try pair.command("ip link set va up")
            try pair.command("ip addr replace fd88::1/64 dev va nodad")
            return (ready: ready, isWarm: Self.warm(a, b, to: second[0], index: 0))
        }
        #expect(seen.ready == 0, "who sleeps on the link would be woken for ever")
        #expect(seen.isWarm)
    }

    @Test("takes the bursts of a peer that has sockets alone, and is understood by it", arguments: links)
    func mixed(mode: LinkPreference) throws {
        let seen = try VethPair.run { pair in
            let a = try TestLink(first, on: "va", options: Self.options(mode))
            let b = try pair.inSecond { try TestLink(second, on: "vb") }
            _ = Self.warm(a, b, to: second[0], index: 0)
            settle([a, b])
            a.forget()
            b.forget()
            let burst = (0..<16).map { packet(to: a.slot, number: $0, byteCount: 1060) }
            b.send(burst.flatMap { $0 }, to: first[0], segmentSize: 1060)
            let answers = (0..<16).map { packet(to: b.slot, number: $0, byteCount: 28) }
            _ = a.send(bursts: answers, to: second[0])
            _ = turn([a, b]) { a.segments.count >= 16 && b.segments.count >= 16 }
            return (a: a, b: b, burst: burst, answers: answers)
        }
        #expect(seen.a.segments == seen.burst)
        #expect(seen.b.segments == seen.answers)
        // In the driver the kernel cuts bursts up before; behind it they may come in one piece: the socket's.
        if mode == .xdp { #expect(seen.a.identifications == (0..<16).map { UInt16($0) }) }
        #expect(seen.a.framesSent >= 16)
    }

    @Test(
        "sends the bytes that the kernel sends for the UDP socket", arguments: [LinkPreference.xdp, .packet], [0, 1])
    func bytes(asked: LinkPreference, family: Int) throws {
        let frames = try VethPair.run { pair in
            // So that bursts are cut up before they are seen.
            try pair.command("ip link set va gso_max_segs 1")
            let tap = try pair.inSecond { try FrameTap() }
            var captured: [[[UInt8]]] = []
            for link in [LinkPreference.udp, asked] {
                let a = try TestLink(first, on: "va", options: Self.options(link, slot: 9))
                let payload = packet(to: 77, number: 5, byteCount: 996)
                _ = turn([a]) {
                    let before = a.framesSent
                    a.send(packet(to: 77), to: second[family], localIndex: family)
                    return link == .udp ? !tap.frames(to: roceUDPPort).isEmpty : a.framesSent > before
                }
                _ = tap.frames(to: roceUDPPort)
                for trafficClass: UInt8 in [0, 0x02, 0xB9] {
                    a.send(payload, to: second[family], localIndex: family, trafficClass: trafficClass)
                }
                // Two segments, which carry identifications 0 and 1.
                a.send(
                    payload + packet(to: 77, number: 6, byteCount: 60), to: second[family], segmentSize: 996,
                    localIndex: family)
                captured.append(
                    tap.frames(to: roceUDPPort).filter { Self.isNumbered($0, family) }
                        .map { Self.comparable($0, family) })
            }
            return captured
        }
        #expect(frames[0].count == 5)
        #expect(frames[0] == frames[1])
    }

    /// Not one of the first, which the kernel keeps until it knows the neighbour, and may send after others that were looked at.
    private static func isNumbered(_ frame: [UInt8], _ family: Int) -> Bool {
        let payload = (family == 0 ? 34 : 54) + 8
        return frame[(payload + 8)..<(payload + 12)].contains { $0 != 0 }
    }

    /// Without what may differ: the source port, the UDP checksum, and the IPv6 flow label.
    private static func comparable(_ frame: [UInt8], _ family: Int) -> [UInt8] {
        var frame = frame
        let udp = family == 0 ? 34 : 54
        for offset in [udp, udp + 1, udp + 6, udp + 7] { frame[offset] = 0 }
        if family == 1 {
            frame[15] &= 0xF0
            frame[16] = 0
            frame[17] = 0
        }
        return frame
    }

    @Test("leaves the kernel what is the kernel's", arguments: modes)
    func others(mode: LinkPreference) throws {
        let outcome = try VethPair.run { pair in
            let a = try TestLink(first, on: "va", options: Self.options(mode))
            let echoes = try pair.inSecond { try Self.echoes(count: 3) }
            let isEchoed = try Self.exchangeTCP(pair, bytes: 3_000_000)
            // A second process of the host: frames are the first one's, its own come by the socket.
            let refusal: String
            do {
                _ = try TestLink(first, on: "va", options: Self.options(mode))
                refusal = ""
            } catch {
                refusal = "\(error)"
            }
            let other = try TestLink(first, on: "va")
            let b = try pair.inSecond { try TestLink(second, on: "vb") }
            let payload = packet(to: other.slot, number: 3)
            b.send(payload, to: first[0])
            let management = packet(to: 0, number: 4)
            b.send(management, to: first[0])
            _ = turn([a, other, b]) { !other.segments.isEmpty && a.segments.count + other.segments.count == 2 }
            return (
                echoes: echoes, isEchoed: isEchoed, refusal: refusal, taken: a.segments + other.segments,
                expected: [payload, management], frames: a.counters.xdpReceived
            )
        }
        #expect(outcome.echoes == 3)
        #expect(outcome.isEchoed)
        #expect(outcome.refusal.contains("is in use for XDP by another process"))
        #expect(Set(outcome.taken) == Set(outcome.expected))
        #expect(outcome.frames == 0)
    }

    /// Sends ICMP echo requests to the first's address, and says how many are answered.
    private static func echoes(count: Int) throws -> Int {
        let raw = try FileDescriptor(socket(AF_INET, clinuxnet_sock_raw, 1), call: "socket(ICMP)")
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x0A58_0001).bigEndian
        var answered = 0
        for number in 0..<UInt8(count) {
            // Type 8, its checksum, identifier 0x7652, number.
            let sum = 0x0800 + 0x7652 + UInt32(number)
            let checksum = ~UInt16(truncatingIfNeeded: sum >> 16 + sum & 0xFFFF)
            let request = [8, 0, UInt8(checksum >> 8), UInt8(truncatingIfNeeded: checksum), 0x76, 0x52, 0, number]
            guard
                clinuxnet_sendto(
                    raw.number, request, request.count, &address, UInt32(MemoryLayout<sockaddr_in>.size)) == 8
            else { throw SystemError.last("sendto(ICMP)") }
            let deadline = Waiter.now + 10_000_000_000
            var reply = [UInt8](repeating: 0, count: 256)
            while Waiter.now < deadline {
                if recv(raw.number, &reply, reply.count, 0) == 28, reply[20] == 0, reply[27] == number {
                    answered += 1
                    break
                }
            }
        }
        return answered
    }

    /// Sends bytes through the kernel's stack from the second to the first, and says whether all came as they were.
    private static func exchangeTCP(_ pair: VethPair, bytes count: Int) throws -> Bool {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(listener) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(7001).bigEndian
        address.sin_addr.s_addr = UInt32(0x0A58_0001).bigEndian
        let length = UInt32(MemoryLayout<sockaddr_in>.size)
        guard clinuxnet_bind(listener, &address, length) == 0, listen(listener, 1) == 0 else {
            throw SystemError.last("listen")
        }
        let client = pair.inSecond { socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0) }
        defer { close(client) }
        guard clinuxnet_connect(client, &address, length) == 0 else { throw SystemError.last("connect") }
        let server = accept(listener, nil, nil)
        defer { close(server) }
        var sent = 0
        var received = 0
        var isRight = true
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while received < count {
            let part = (sent..<min(sent + 16_384, count)).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            let written = part.isEmpty ? 0 : send(client, part, part.count, clinuxnet_message_dontwait)
            if written > 0 { sent += written }
            let taken = recv(server, &chunk, chunk.count, clinuxnet_message_dontwait)
            if taken > 0 {
                for offset in 0..<taken where chunk[offset] != UInt8(truncatingIfNeeded: (received + offset) &* 7) {
                    isRight = false
                }
                received += taken
            } else if taken == 0 {
                return false
            }
        }
        return isRight
    }

    @Test("is undone with its owner, and the next one may have the interface")
    func undone() throws {
        let states = try VethPair.run { pair in
            var seen: [Bool] = []
            for _ in 0..<2 {
                let link = try TestLink(first, on: "va", options: Self.options(.xdp))
                seen.append(try pair.command("ip link show va").contains("xdp"))
                link.die()
                seen.append(try pair.command("ip link show va").contains("xdp"))
            }
            return seen
        }
        #expect(states == [true, false, true, false])
    }

    @Test("of a large MTU takes frames that lie in several chunks", arguments: links)
    func fragments(mode: LinkPreference) throws {
        let seen = try VethPair.run { pair in
            try pair.command("ip link set va mtu 9000")
            _ = try pair.inSecond { try pair.command("ip link set vb mtu 9000") }
            let a = try TestLink(first, on: "va", options: Self.options(mode))
            // Sends long frames whole, too.
            let b = try pair.inSecond { try TestLink(second, on: "vb", options: Self.options(.packet)) }
            _ = Self.warm(b, a, to: first[0], index: 0)
            settle([a, b])
            a.forget()
            let before = a.framesReceived
            let long = packet(to: a.slot, number: 1, byteCount: 8_900)
            let path = packet(to: a.slot, number: 2, byteCount: 4_128)
            b.send(long, to: first[0])
            b.send(path, to: first[0])
            _ = turn([a, b]) { a.segments.count == 2 }
            return (a: a, sent: [long, path], frames: a.framesReceived - before)
        }
        #expect(seen.a.segments == seen.sent)
        #expect(seen.frames == 2)
    }

    @Test("of AF_PACKET hears each packet once, though the kernel's stack has it too, and other slots' by the socket")
    func once() throws {
        let seen = try VethPair.run { pair in
            let a = try TestLink(first, on: "va", options: Self.options(.packet))
            let b = try pair.inSecond { try TestLink(second, on: "vb", options: Self.options(.packet)) }
            _ = Self.warm(b, a, to: first[0], index: 0)
            settle([a, b])
            a.forget()
            let before = a.framesReceived
            let sent = (0..<50).map { packet(to: a.slot, number: $0) }
            for payload in sent { b.send(payload, to: first[0]) }
            b.send(packet(to: 0, number: 99), to: first[0])
            _ = turn([a, b]) { a.segments.count >= 51 }
            settle([a, b])
            return (a: a, sent: sent + [packet(to: 0, number: 99)], frames: a.framesReceived - before)
        }
        #expect(Set(seen.a.segments) == Set(seen.sent))
        #expect(seen.a.segments.count == 51)
        #expect(seen.frames == 50)
    }

    @Test("sends frames again after its interface was down", arguments: links)
    func downAndUp(mode: LinkPreference) throws {
        let seen = try VethPair.run { pair in
            let a = try TestLink(first, on: "va", options: Self.options(mode))
            let b = try pair.inSecond { try TestLink(second, on: "vb", options: Self.options(mode)) }
            let isWarm = Self.warm(a, b, to: second[0], index: 0)
            try pair.command("ip link set va down")
            for number in 0..<10 as Range<UInt32> { a.send(packet(to: b.slot, number: number), to: second[0]) }
            settle([a, b])
            try pair.command("ip link set va up")
            let isSent = Self.warm(a, b, to: second[0], index: 0)
            b.forget()
            let isTaken = turn([a, b]) {
                a.send(packet(to: b.slot, number: 77), to: second[0])
                return b.segments.contains(packet(to: b.slot, number: 77))
            }
            return (isWarm: isWarm, isSent: isSent, isTaken: isTaken, frames: b.framesReceived)
        }
        #expect(seen.isWarm)
        #expect(seen.isSent)
        #expect(seen.isTaken)
        #expect(seen.frames > 0)
    }

    @Test("keeps the packets of one call in order, though long bursts go by the socket", arguments: links)
    func order(mode: LinkPreference) throws {
        let seen = try VethPair.run { pair in
            let a = try TestLink(first, on: "va", options: Self.options(mode))
            let b = try pair.inSecond { try TestLink(second, on: "vb", options: Self.options(mode)) }
            let isWarm = Self.warm(b, a, to: first[0], index: 0)
            settle([a, b])
            var sent: [[UInt8]] = []
            var taken: [[UInt8]] = []
            for round in 0..<20 as Range<UInt32> {
                // What the answer to a READ is: the first and the last packet have more headers than those between.
                let packets = (0..<10).map { packet(to: a.slot, number: round * 10 + $0, byteCount: 200) }
                a.forget()
                // So long that the burst before it does not keep the first one from being a frame.
                usleep(5_000)
                _ = b.send(
                    bursts: [packets[0], Array(packets[1...8].joined()), packets[9]], to: first[0], segmentSize: 200)
                _ = turn([a, b]) { a.segments.count >= 10 }
                sent += packets
                taken += a.segments
            }
            return (sent: sent, taken: taken, isWarm: isWarm)
        }
        #expect(seen.isWarm)
        #expect(seen.taken.map { $0[11] } == seen.sent.map { $0[11] })
        #expect(seen.taken == seen.sent)
    }

    @Test(
        "A ring of AF_PACKET gives every frame, in order",
        arguments: [PacketRing.Layout.frames, .blocks(milliseconds: 1)])
    func rings(layout: PacketRing.Layout) throws {
        let seen = try VethPair.run { pair in
            var ring = try pair.inSecond {
                try PacketRing(
                    interface: NetworkInterface.named("vb")!.index, layout: layout, frameByteCount: 1514, filter: nil)
            }
            let a = try TestLink(first, on: "va")
            var numbers: [UInt8] = []
            // More than a batch, and more than the ring has places, so that they are used again.
            for round in 0..<100 {
                for index in 0..<64 { a.send(packet(to: 77, number: UInt32(round * 64 + index)), to: second[0]) }
                let deadline = Waiter.now + 10_000_000_000
                var count = 0
                while count < 64, Waiter.now < deadline {
                    ring.beginBatch()
                    while let frame = ring.nextFrame() {
                        guard frame.count == 42 + 64, frame[23] == 17 else { continue }
                        numbers.append(frame[42 + 11])
                        count += 1
                    }
                }
            }
            return numbers
        }
        #expect(seen == (0..<6400).map { UInt8(truncatingIfNeeded: $0) })
    }

    @Test("is chosen by itself only where it was measured to be faster, and says why not")
    func automatic() throws {
        let choice = try VethPair.run { _ in
            try TestLink(first, on: "va", options: Self.options(.automatic)).choice
        }
        #expect(choice.kind == (XDPSelection.fasterDrivers.contains("veth") ? .xdp : .udp))
        #expect(choice.kind == .xdp || choice.reason.contains("driver veth"))
        let loopback = try inOwnNetwork {
            try TestLink([GID(ipv4: 0x7F00_0001)], options: Self.options(.automatic)).choice
        }
        #expect(loopback.kind == .udp)
    }

    @Test("names the capabilities that are missing")
    func capabilities() {
        #expect(Capability.missing(of: Capability.forXDP, effective: 0) == [.netRaw, .netAdmin, .bpf])
        #expect(Capability.missing(of: Capability.forXDP, effective: 1 << 13 | 1 << 12) == [.bpf])
        #expect(Capability.missing(of: Capability.forXDP, effective: 1 << 13 | 1 << 12 | 1 << 39).isEmpty)
        // Before CAP_BPF there was CAP_SYS_ADMIN.
        #expect(Capability.missing(of: Capability.forXDP, effective: 1 << 13 | 1 << 12 | 1 << 21).isEmpty)
    }
}

extension TestLink {
    fileprivate var framesSent: UInt64 { counters.xdpSent + counters.packetSent }
    fileprivate var framesReceived: UInt64 { counters.xdpReceived + counters.packetReceived }
}

/// What arrives at the interfaces of a network namespace, as the kernel sees it.
final class FrameTap {
    private let socket: FileDescriptor

    init() throws {
        socket = try FileDescriptor(
            CLinuxNet.socket(AF_PACKET, clinuxnet_sock_raw, Int32(UInt16(0x0003).bigEndian)),
            call: "socket(AF_PACKET)")
    }

    /// Frames that have arrived for a UDP port, without what the namespace sends itself.
    func frames(to port: UInt16) -> [[UInt8]] {
        var found: [[UInt8]] = []
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            var address = sockaddr_ll()
            var length = UInt32(MemoryLayout<sockaddr_ll>.size)
            let count = withUnsafeMutablePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    recvfrom(socket.number, &buffer, buffer.count, 0, $0, &length)
                }
            }
            if count < 0 { return found }
            guard count > 58, address.sll_pkttype != 4 else { continue }  // PACKET_OUTGOING
            let udp = buffer[12] == 0x08 ? 34 : 54
            if UInt16(buffer[udp + 2]) << 8 | UInt16(buffer[udp + 3]) == port { found.append(Array(buffer[..<count])) }
        }
    }
}
