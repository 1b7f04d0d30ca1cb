// SPDX-License-Identifier: Apache-2.0
import FlowTraffic
import Foundation
import RoCEWire
import Testing

@testable import FlowSteering

private let fixtures = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../Fixtures").standardized
private let neighbours = fixtures.appending(path: "Ethernet/neighbours.pcap")

extension SourceCheck {
    fileprivate func verdict(on frame: [UInt8]) -> SourceVerdict {
        let header = Array(frame.prefix(Self.headerByteCountMax))
        return verdict(on: header.span.bytes)
    }
}

/// Who sent a frame, in all places where it says so, as tshark reads it.
private struct Senders {
    var ethernet: Set<String>
    var addresses: Set<String>
    let isOther: Bool

    init(_ frame: [String: [String]]) {
        // Behind Ethernet and tags.
        let layers = frame["frame.protocols", default: []].first?.split(separator: ":") ?? []
        let network = layers.first { !["eth", "ethertype", "vlan", "ieee8021ad"].contains($0) }
        isOther = network.map { !["ip", "ipv6", "arp"].contains($0) } ?? true
        ethernet = Set(frame["eth.src", default: []].prefix(1))
        addresses = []
        switch network {
        case "ip": addresses = Set(frame["ip.src", default: []].prefix(1))
        case "ipv6":
            addresses = Set(frame["ipv6.src", default: []].prefix(1))
            addresses.formUnion(frame["icmpv6.nd.na.target_address", default: []])
            ethernet.formUnion(frame["icmpv6.opt.linkaddr", default: []])
        case "arp":
            addresses = Set(frame["arp.src.proto_ipv4", default: []])
            ethernet.formUnion(frame["arp.src.hw_mac", default: []])
        default: break
        }
    }

    var check: SourceCheck {
        SourceCheck(
            ethernet: ethernet.compactMap { MACPattern($0) }, ipv4: addresses.compactMap { IPv4Pattern($0) },
            ipv6: addresses.compactMap { IPv6Pattern($0) })
    }

    /// A check without one of them, and what it should say.
    var withoutOne: [(SourceCheck, SourceVerdict)] {
        ethernet.map { name in
            var less = self
            less.ethernet.remove(name)
            return (less.check, .foreignEthernet)
        }
            + addresses.map { name in
                var less = self
                less.addresses.remove(name)
                return (less.check, .foreignAddress)
            }
    }
}

@Suite("Checks of the sources of frames") struct SourceCheckTests {
    /// The capture's, with what tshark makes of them.
    private func dissected(_ file: URL) throws -> [(bytes: [UInt8], senders: Senders)] {
        let frames = try Dissection.frames(of: file)
        let dissection = try Dissection(of: file)
        try #require(frames.count == dissection.frames.count && !frames.isEmpty)
        return zip(frames, dissection.frames).map { ($0, Senders($1)) }
    }

    /// The frame passes where all senders that tshark sees are allowed, and only there.
    private func compare(_ bytes: [UInt8], _ senders: Senders, _ source: String) {
        var check = senders.check
        check.allowsOtherTypes = senders.isOther
        #expect(check.verdict(on: bytes) == .allowed, "\(source): \(check)")
        for (less, verdict) in senders.withoutOne {
            #expect(less.verdict(on: bytes) == verdict, "\(source): \(less)")
        }
        check.allowsOtherTypes = false
        #expect((check.verdict(on: bytes) == .otherType) == senders.isOther, "\(source): \(check)")
    }

    @Test(
        "What the kernel says to its neighbours passes for those alone that tshark sees in it",
        .enabled(if: Dissection.program != nil, "no tshark"))
    func neighbourhood() throws {
        let frames = try dissected(neighbours)
        for (index, frame) in frames.enumerated() { compare(frame.bytes, frame.senders, "frame \(index + 1)") }
        // ARP, neighbour solicitations and advertisements: a test that saw none of them would prove little.
        #expect(frames.contains { $0.bytes[12...13] == [0x08, 0x06] })
        for type in [133, 135, 136] as [UInt8] {
            #expect(frames.contains { $0.bytes[12...13] == [0x86, 0xDD] && $0.bytes[54] == type })
        }
    }

    @Test(
        "Packets of RoCE pass for their senders, over IPv4 and IPv6",
        .enabled(if: Dissection.program != nil, "no tshark"),
        arguments: ["rping", "rc_pingpong_ipv6", "mckey_multicast"])
    func captures(name: String) throws {
        for frame in try dissected(fixtures.appending(path: "Captures/\(name).pcap")) {
            compare(frame.bytes, frame.senders, name)
        }
    }

    @Test(
        "Frames of random headers pass for the senders that tshark sees",
        .enabled(if: Dissection.program != nil, "no tshark"),
        arguments: [1, 2] as [UInt64])
    func randomFrames(seed: UInt64) throws {
        var maker = FrameMaker(seed: seed)
        let frames = (0..<600).map { _ in maker.frame() }
        let file = FileManager.default.temporaryDirectory.appending(path: "sources-\(UUID().uuidString).pcap")
        defer { try? FileManager.default.removeItem(at: file) }
        try Dissection.write(frames, to: file)
        for (index, frame) in try dissected(file).enumerated() {
            compare(frame.bytes, frame.senders, "seed \(seed), frame \(index + 1)")
        }
    }

    @Test("The interface's own addresses are those of its frames and of no others'")
    func own() throws {
        let first = SourceCheck.own.resolved(
            ethernet: MACAddress(truncating: 0x0200_0000_8801),
            addresses: ["10.88.0.1", "fd88::1", "fe80::ff:fe00:8801"].compactMap { GID($0) })
        var passed = 0
        for frame in try Dissection.frames(of: neighbours) {
            // The source of duplicate address detection is nobody's.
            let isFromNobody = frame[12...13] == [0x86, 0xDD] && frame[22..<38].allSatisfy { $0 == 0 }
            let isOfFirst = frame[11] == 1
            let verdict = first.verdict(on: frame)
            #expect(
                verdict == (!isOfFirst ? .foreignEthernet : isFromNobody ? .foreignAddress : .allowed), "\(frame)")
            if verdict == .allowed { passed += 1 }
            let withNobody = first.union(SourceCheck(ipv6: ["::"]))
            #expect((withNobody.verdict(on: frame) == .allowed) == isOfFirst)
        }
        #expect(passed > 15)
        #expect(SourceCheck.own.verdict(on: try #require(Dissection.frames(of: neighbours).last)) == .foreignEthernet)
    }

    @Test("A frame that is cut anywhere passes for nobody for whom the whole does not")
    func cutFrames() throws {
        let strict = SourceCheck(ethernet: ["02:00:00:00:88:01"], ipv4: ["10.88.0.1"], ipv6: ["fd88::1"])
        var maker = FrameMaker(seed: 5)
        let frames = try Dissection.frames(of: neighbours) + (0..<60).map { _ in maker.frame() }
        for frame in frames {
            for check in [strict, SourceCheck(ethernet: [.any], ipv4: ["10.88.0.1"], ipv6: ["fd88::1"])] {
                let whole = check.verdict(on: frame)
                for end in 0..<min(frame.count, SourceCheck.headerByteCountMax) {
                    let part = check.verdict(on: Array(frame[..<end]))
                    if end < 14 { #expect(part == .tooShort) }
                    if part == .allowed { #expect(whole == .allowed, "\(end) bytes of \(frame)") }
                    // What it says when it ends in a header.
                    if whole == .allowed { #expect([.allowed, .unreadable, .tooShort].contains(part)) }
                }
            }
        }
    }

    @Test("Damaged frames pass for nobody but those that another reader of headers sees")
    func damagedFrames() throws {
        let check = SourceCheck(
            ethernet: ["02:00:00:00:88:01"], ipv4: ["10.88.0.0/24"], ipv6: ["fd88::/64", "fe80::/10"], otherTypes: true)
        var generator = SeededGenerator(seed: 77)
        let frames = try Dissection.frames(of: neighbours)
        var passed = 0
        for _ in 0..<20_000 {
            var frame = generator.pick(frames)
            for _ in 0..<generator.pick([1, 1, 2, 4]) {
                frame[generator.below(min(frame.count, 80))] = UInt8(truncatingIfNeeded: generator.next())
            }
            guard check.verdict(on: frame) == .allowed else { continue }
            passed += 1
            let key = key(of: frame)
            let layers = key.layers(inner: false)
            #expect(key[.ethernetSource, inner: false] == 0x0200_0000_8801)
            if layers.contains(.ipv4) { #expect(key[.ipv4Source, inner: false] >> 8 == 0x0A5800) }
            if layers.contains(.ipv6) {
                let high = key[.ipv6SourceHigh, inner: false]
                #expect(high == 0xFD88_0000_0000_0000 || high >> 54 == 0x3FA)
            }
        }
        #expect(passed > 1000)
    }

    // MARK: Headers by hand, on frames of the kernel

    private static let first = SourceCheck(
        ethernet: ["02:00:00:00:88:01", "02:00:00:00:88:02"], ipv4: ["10.88.0.0/24"], ipv6: ["fd88::/64"])

    /// The neighbour advertisement of the capture: Ethernet, IPv6, 8 bytes, the target, and one option.
    private func advertisement() throws -> [UInt8] {
        try #require(Dissection.frames(of: neighbours).first { $0[12...13] == [0x86, 0xDD] && $0[54] == 136 })
    }

    /// With an extension header in front of what follows IPv6.
    private func inserting(_ header: [UInt8], number: UInt8, into frame: [UInt8]) -> [UInt8] {
        var frame = frame
        var header = header
        header[0] = frame[20]
        frame[20] = number
        frame.insert(contentsOf: header, at: 54)
        let byteCount = Int(frame[18]) << 8 + Int(frame[19]) + header.count
        frame[18] = UInt8(byteCount >> 8)
        frame[19] = UInt8(byteCount & 0xFF)
        return frame
    }

    @Test("Two tags are looked through; behind a third nothing is read")
    func tags() throws {
        for frame in [try advertisement(), try #require(try Dissection.frames(of: neighbours).first { $0[12] == 8 })] {
            var frame = frame
            for tag in [[0x81, 0, 0, 5], [0x88, 0xA8, 0, 6], [0x81, 0, 0, 7]] as [[UInt8]] {
                #expect(Self.first.verdict(on: frame) == .allowed)
                frame.insert(contentsOf: tag, at: 12)
            }
            #expect(Self.first.verdict(on: frame) == .unreadable)
            var other = Self.first
            other.allowsOtherTypes = true
            #expect(other.verdict(on: frame) == .unreadable)
        }
    }

    @Test("An advertisement for another's address is found behind extension headers, or refused where it may be hidden")
    func hiddenAdvertisement() throws {
        var foreign = try advertisement()
        // Outside of fd88::/64, but for the option's address.
        foreign[62] = 0xFC
        #expect(Self.first.verdict(on: foreign) == .foreignAddress)
        let options: [UInt8] = [0, 0, 1, 4, 0, 0, 0, 0]
        var frame = foreign
        var honest = try advertisement()
        for number in [60, 0, 60, 43, 135] as [UInt8] {
            frame = inserting(options, number: number, into: frame)
            honest = inserting(options, number: number, into: honest)
            #expect(Self.first.verdict(on: frame) == .foreignAddress)
            #expect(Self.first.verdict(on: honest) == .allowed)
        }
        // The first fragment.
        #expect(
            Self.first.verdict(on: inserting([0, 0, 0, 1, 0, 0, 0, 9], number: 44, into: foreign)) == .foreignAddress)
        // Behind 248 bytes of options: past what is copied.
        let long = [0, 30] + [UInt8](repeating: 0, count: 246)
        #expect(Self.first.verdict(on: inserting(long, number: 60, into: honest)) == .unreadable)
        // A header that ends behind the packet, and one that is cut off with it.
        #expect(Self.first.verdict(on: inserting([0, 200, 1, 4, 0, 0, 0, 0], number: 60, into: honest)) == .unreadable)
        #expect(Self.first.verdict(on: Array(inserting(options, number: 60, into: honest)[..<57])) == .unreadable)
    }

    @Test("Options of neighbour discovery: another's link-layer address, and lengths that cannot be")
    func options() throws {
        var frame = try advertisement()
        #expect(frame.count == 86)
        frame[85] = 3
        #expect(Self.first.verdict(on: frame) == .foreignEthernet)
        for length in [0, 2] as [UInt8] {
            frame = try advertisement()
            frame[79] = length
            #expect(Self.first.verdict(on: frame) == .unreadable)
        }
        // Padding of the frame is not of the packet.
        frame = try advertisement() + [2, 1, 2, 0, 0, 0, 0, 9]
        #expect(Self.first.verdict(on: frame) == .allowed)
        // A packet that is longer than the frame.
        frame = try advertisement()
        frame[19] += 8
        #expect(Self.first.verdict(on: frame) == .unreadable)
    }

    @Test("IPv4 headers and ARP that contradict themselves are refused")
    func contradictions() throws {
        let frames = try Dissection.frames(of: neighbours)
        var packet = try #require(frames.first { $0[12...13] == [8, 0] })
        #expect(Self.first.verdict(on: packet) == .allowed)
        for first in [0x44, 0x55, 0x60, 0x05] as [UInt8] {
            packet[14] = first
            #expect(Self.first.verdict(on: packet) == .unreadable)
        }
        // Options of 40 bytes, of which 39 are there.
        packet[14] = 0x4F
        #expect(Self.first.verdict(on: Array(packet[..<73])) == .unreadable)
        #expect(Self.first.verdict(on: Array(packet[..<74])) == .allowed)
        let request = try #require(frames.first { $0[12...13] == [8, 6] })
        #expect(Self.first.verdict(on: request) == .allowed)
        // Other hardware, another protocol, other lengths.
        for offset in [15, 16, 18, 19] {
            var frame = request
            frame[offset] ^= 1
            #expect(Self.first.verdict(on: frame) == .unreadable)
        }
    }

    @Test("An IPv4 address in the form of IPv6 is not that of IPv4")
    func mapped() {
        var frame: [UInt8] = [2, 0, 0, 0, 0x88, 2, 2, 0, 0, 0, 0x88, 1, 0x86, 0xDD, 0x60, 0, 0, 0, 0, 0, 59, 64]
        frame += [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 88, 0, 1] + [UInt8](repeating: 0, count: 16)
        #expect(Self.first.verdict(on: frame) == .foreignAddress)
    }

    // MARK: Text

    @Test(
        "The text reads back", arguments: ["own", "own,other", "02:00:00:00:00:01,10.0.0.0/8,192.168.1.7,fd00::/8,::1"])
    func text(text: String) throws {
        let check = try SourceCheck(parsing: text)
        #expect(check.description == text)
        #expect(SourceCheck(text) == check)
    }

    @Test(
        "Text that is no check is refused, with what to write",
        arguments: [
            ("", "`` is no source"), ("own,", "`` is no source"), ("mine", "`mine` is no source"),
            ("own other", "is no source"),
            ("10.0.0.0/8", "allows no Ethernet address"), ("other", "allows no Ethernet address"),
            ("own,10.0.0.1/8", "bits behind its prefix"), ("own,fd00::1/8", "bits behind its prefix"),
            ("own,10.0.0.0/33", "is no source"), ("own,02:00:00:00:00", "is no source"),
        ])
    func errors(text: String, reason: String) {
        let error = #expect(throws: FlowRuleError.self) { try SourceCheck(parsing: text) }
        #expect(error?.description.contains(reason) == true, "\(error?.description ?? "none")")
        #expect(SourceCheck(text) == nil)
    }
}
