// SPDX-License-Identifier: Apache-2.0
import Foundation
import RoCEWire
import Testing

@Suite("Numbers and names of the wire")
struct ValueTests {
    @Test("sequence numbers wrap, and their distance is signed")
    func psn() {
        let top = PSN(truncating: 0xFF_FFFF)
        #expect(top + 1 == PSN(truncating: 0))
        #expect(PSN(truncating: 0) - 1 == top)
        #expect(PSN(truncating: 5) - top == 6)
        #expect(top - PSN(truncating: 5) == -6)
        #expect(PSN(truncating: 0x7F_FFFF) - PSN(truncating: 0) == 0x7F_FFFF)
        #expect(PSN(truncating: 0x80_0000) - PSN(truncating: 0) == -0x80_0000)
        #expect(PSN(truncating: 0xFF00_0001).rawValue == 1)
        #expect(PSN(truncating: 3) + -4 == top)
        #expect(MSN(truncating: 0xFF_FFFF) + 2 == MSN(truncating: 1))
        #expect(MSN(truncating: 1) - MSN(truncating: 0xFF_FFFF) == 2)
    }

    @Test("queue pair numbers show their slot")
    func qpn() {
        #expect(QPN(truncating: 0xAB_1234).slot == 0xAB)
        #expect(QPN(truncating: 0x11).description == "0x000011")
        #expect(QPN.gsi.rawValue == 1 && QPN.multicast.rawValue == 0xFF_FFFF)
    }

    @Test("RNR timers are those of IBTA's table, in microseconds")
    func rnrTimer() {
        let table: [UInt64] = [
            655_360, 10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 1920, 2560, 3840, 5120, 7680,
            10_240, 15_360, 20_480, 30_720, 40_960, 61_440, 81_920, 122_880, 163_840, 245_760, 327_680, 491_520,
        ]
        for (code, microseconds) in table.enumerated() {
            let timer = RNRTimer(truncating: UInt8(code))
            #expect(timer.nanoseconds == microseconds * 1000)
            #expect(RNRTimer(atLeastNanoseconds: microseconds * 1000) == timer)
            if code != 0 { #expect(RNRTimer(atLeastNanoseconds: microseconds * 1000 - 1) == timer) }
        }
        #expect(RNRTimer(atLeastNanoseconds: .max).code == 0)
        #expect(RNRTimer(truncating: 25).description == "61.44 ms (code 25)")
    }

    @Test("path MTUs have the verbs' codes and rdma_cm's choice for an interface")
    func pathMTU() {
        #expect(PathMTU.allCases.map(\.byteCount) == [256, 512, 1024, 2048, 4096])
        #expect(PathMTU.allCases.map(\.rawValue) == [1, 2, 3, 4, 5])
        #expect(PathMTU(interfaceMTU: 1500) == .bytes1024)
        #expect(PathMTU(interfaceMTU: 4192) == .bytes4096)
        #expect(PathMTU(interfaceMTU: 4191) == .bytes2048)
        #expect(PathMTU(interfaceMTU: 65_536) == .bytes4096)
        #expect(PathMTU(interfaceMTU: 351) == nil)
    }

    @Test("syndromes say what IBTA's table says")
    func syndrome() {
        #expect(Syndrome(rawValue: 0x1F).meaning == .acknowledged(creditCode: 0x1F))
        #expect(Syndrome(rawValue: 0x00).meaning == .acknowledged(creditCode: 0))
        #expect(Syndrome(rawValue: 0x39).meaning == .receiverNotReady(RNRTimer(truncating: 25)))
        #expect(Syndrome(rawValue: 0x60).meaning == .refused(.sequenceError))
        #expect(Syndrome(rawValue: 0x62).meaning == .refused(.remoteAccessError))
        #expect(Syndrome(rawValue: 0x7F).meaning == .refused(Syndrome.NAKCode(rawValue: 0x1F)))
        for byte in [0x40, 0x5F, 0x80, 0xFF] as [UInt8] { #expect(Syndrome(rawValue: byte).meaning == .reserved) }
        #expect(Syndrome.refused(.invalidRequest).rawValue == 0x61)
        #expect(Syndrome.receiverNotReady(RNRTimer(truncating: 0)).rawValue == 0x20)
    }

    @Test("flow labels and queue pairs give the source ports of the kernel")
    func sourcePorts() throws {
        // Both seen on the wire.
        #expect(FlowLabel(truncating: 0xC464F).udpSourcePort == 50_814)
        #expect(QPN.gsi.udpSourcePort == 55_410)
        #expect(FlowLabel(sourcePort: 0xFFFF, destinationPort: 1).rawValue == (0xFFFF * 31 + 1) & 0xF_FFFF)
        var checked = 0
        for capture in Capture.all where capture.name.hasSuffix("rc_pingpong.pcap") {
            var frames: [(flow: ICRC.Flow, destination: QPN)] = []
            for frame in capture.frames {
                guard case .frame(let outer) = RoCEFrame.parse(ethernet: frame.span.bytes),
                    case .packet(let packet) = RoCEPacket.parse(frame.span.bytes.extracting(outer.udpPayload))
                else { continue }
                frames.append((outer.flow, packet.bth.destination))
            }
            let there = try #require(frames.first)
            let back = try #require(frames.first { $0.flow.source != there.flow.source })
            let port = FlowLabel(there.destination, back.destination).udpSourcePort
            #expect(there.flow.sourcePort == port && back.flow.sourcePort == port)
            checked += 1
        }
        #expect(checked == 2)
    }

    @Test("partition keys match as the kernel matches them")
    func partitionKey() {
        let full = PartitionKey.default
        let limited = PartitionKey(rawValue: 0x7FFF)
        #expect(full.matches(full) && full.matches(limited) && limited.matches(full))
        #expect(!limited.matches(limited))
        #expect(!full.matches(PartitionKey(rawValue: 0xFFFE)))
        #expect(!PartitionKey(rawValue: 0x8000).matches(PartitionKey(rawValue: 0x8000)))
    }

    @Test("opcodes say where they stand and which way they go")
    func opcodes() {
        #expect(Opcode.rcWriteOnlyImmediate.description == "RC WRITE ONLY with immediate")
        #expect(Opcode.rcSendLastInvalidate.description == "RC SEND LAST with invalidate")
        #expect(Opcode(rawValue: 0xB5).description == "opcode 0xb5")
        let rc = [
            "SEND FIRST", "SEND MIDDLE", "SEND LAST", "SEND LAST with immediate", "SEND ONLY",
            "SEND ONLY with immediate", "WRITE FIRST", "WRITE MIDDLE", "WRITE LAST", "WRITE LAST with immediate",
            "WRITE ONLY", "WRITE ONLY with immediate", "READ REQUEST", "READ RESPONSE FIRST", "READ RESPONSE MIDDLE",
            "READ RESPONSE LAST", "READ RESPONSE ONLY", "ACKNOWLEDGE", "ATOMIC ACKNOWLEDGE", "COMPARE SWAP",
            "FETCH ADD",
        ]
        for (code, name) in rc.enumerated() {
            #expect(Opcode(rawValue: UInt8(code)).description == "RC " + name)
            #expect(Opcode(rawValue: UInt8(code) | 0xA0).description == "XRC " + name)
            if code <= 0x0B { #expect(Opcode(rawValue: UInt8(code) | 0x20).description == "UC " + name) }
        }
        #expect(Opcode.udSendOnly.description == "UD SEND ONLY")
        #expect(Opcode.udSendOnlyImmediate.description == "UD SEND ONLY with immediate")
        #expect(Opcode.rcFlush.description == "RC FLUSH" && Opcode.rcAtomicWrite.description == "RC ATOMIC WRITE")
        #expect(Opcode.congestionNotification.description == "CNP")
        let requests: Set<UInt8> = Set(0x00...0x0C).union(0x20...0x2B).union([
            0x13, 0x14, 0x16, 0x17, 0x1C, 0x1D, 0x64, 0x65,
        ]).union(0xA0...0xAC).union([0xB3, 0xB4, 0xB6, 0xB7, 0xBC, 0xBD])
        let responses = Set<UInt8>(0x0D...0x12).union(0xAD...0xB2)
        for opcode in UInt8.min...UInt8.max {
            let descriptor = Opcode(rawValue: opcode).descriptor
            #expect(descriptor.isRequest == requests.contains(opcode))
            #expect(descriptor.isResponse == responses.contains(opcode))
            #expect(descriptor.isKnown == (descriptor.transport != .unknown))
            #expect(descriptor.isKnown == (descriptor.operation != .unknown))
        }
        let starts: Set<UInt8> = [0x00, 0x06, 0x0D, 0x20, 0x26, 0xA0, 0xA6, 0xAD]
        let middles: Set<UInt8> = [0x01, 0x07, 0x0E, 0x21, 0x27, 0xA1, 0xA7, 0xAE]
        let ends: Set<UInt8> = [
            0x02, 0x03, 0x08, 0x09, 0x0F, 0x16, 0x22, 0x23, 0x28, 0x29, 0xA2, 0xA3, 0xA8, 0xA9, 0xAF, 0xB6,
        ]
        for opcode in UInt8.min...UInt8.max where Opcode(rawValue: opcode).descriptor.isKnown {
            let descriptor = Opcode(rawValue: opcode).descriptor
            #expect(descriptor.startsMessage == !(middles.contains(opcode) || ends.contains(opcode)))
            #expect(descriptor.endsMessage == !(middles.contains(opcode) || starts.contains(opcode)))
        }
    }

    @Test("FLUSH has its RETH behind the FETH")
    func flush() {
        let bth = BTH(opcode: .rcFlush, destination: QPN(truncating: 2), psn: PSN(truncating: 3))
        var packet = RoCEPacket(bth: bth, payloadByteCount: 0)
        packet.feth = FETH(rawValue: 0x12)
        packet.reth = RETH(virtualAddress: 0x1122_3344_5566_7788, rkey: MemoryKey(rawValue: 0x99AA_BBCC), length: 5)
        var bytes = [UInt8](repeating: 0, count: packet.byteCount)
        var span = bytes.mutableSpan
        var all = span.mutableBytes
        #expect(packet.emitHeaders(into: &all) == 32)
        #expect(Array(bytes[12..<32]) == [UInt8](hex: "00000012 1122334455667788 99aabbcc 00000005"))
        guard case .packet(let parsed) = RoCEPacket.parse(bytes.span.bytes) else {
            Issue.record("refused")
            return
        }
        #expect(parsed.feth == packet.feth && parsed.reth == packet.reth)
        #expect(parsed.feth.isPersistent && !parsed.feth.isGlobal && parsed.feth.isWholeRegion)
    }

    @Test("MAC addresses give the identifiers that the kernel makes of them")
    func mac() {
        let mac = MACAddress(truncating: 0x0200_0000_0001)
        #expect(mac.description == "02:00:00:00:00:01")
        #expect(GID(linkLocal: mac) == GID("fe80::ff:fe00:1"))
        #expect(MACAddress(multicast: GID("239.1.2.3")!).description == "01:00:5e:01:02:03")
        #expect(MACAddress(multicast: GID("239.129.2.3")!).description == "01:00:5e:01:02:03")
        #expect(MACAddress(multicast: GID("ff02::1:ff00:1")!).description == "33:33:ff:00:00:01")
    }

    @Test("the datagram's 40 bytes hold a valid IPv4 header in the second half, or an IPv6 header")
    func routeHeaderArea() {
        var bytes = [UInt8](repeating: 0xA5, count: 40)
        do {
            var span = bytes.mutableSpan
            var all = span.mutableBytes
            RouteHeaderArea.emit(
                into: &all, source: GID("10.9.2.1")!, destination: GID("10.9.2.2")!, trafficClass: 8, hopLimit: 64,
                udpPayloadByteCount: 288)
        }
        #expect(bytes.prefix(20).allSatisfy { $0 == 0 })
        // The checksum of an IPv4 header, summed with it, is all ones.
        var sum = stride(from: 20, to: 40, by: 2).reduce(0) { $0 + Int(bytes[$1]) << 8 + Int(bytes[$1 + 1]) }
        while sum > 0xFFFF { sum = sum >> 16 + sum & 0xFFFF }
        #expect(sum == 0xFFFF)
        let header = IPv4Header(parsing: bytes.span.bytes, at: 20)
        #expect(header?.totalByteCount == 316 && header?.typeOfService == 8)
        do {
            var span = bytes.mutableSpan
            var all = span.mutableBytes
            RouteHeaderArea.emit(
                into: &all, source: GID("fd00::1")!, destination: GID("fd00::2")!, trafficClass: 8, hopLimit: 3,
                udpPayloadByteCount: 288)
        }
        let grh = IPv6Header(parsing: bytes.span.bytes)
        #expect(grh?.source == GID("fd00::1") && grh?.destination == GID("fd00::2"))
        #expect(grh?.payloadByteCount == 296 && grh?.hopLimit == 3 && grh?.trafficClass == 8)
    }

    @Test("Ethernet headers with a VLAN tag, and frames in them, parse and write again")
    func vlan() throws {
        let plain = try #require(Capture.all.first).frames[0]
        let tagged = Array(plain[..<12]) + [0x81, 0x00, 0x60, 0x2A] + plain[12...]
        guard case .frame(let outer) = RoCEFrame.parse(ethernet: tagged.span.bytes),
            case .frame(let original) = RoCEFrame.parse(ethernet: plain.span.bytes)
        else {
            Issue.record("refused")
            return
        }
        #expect(outer.udpPayload.lowerBound == original.udpPayload.lowerBound + 4 && outer.flow == original.flow)
        let parsed = EthernetHeader(parsing: tagged.span.bytes)
        let header = try #require(parsed)
        #expect(header.tag == 0x602A && header.byteCount == 18)
        var again = [UInt8](repeating: 0, count: 18)
        var span = again.mutableSpan
        var all = span.mutableBytes
        header.emit(into: &all)
        #expect(again == Array(tagged[..<18]))
    }
}

@Suite("GIDs as text")
struct GIDTextTests {
    /// What the C library makes of the text.
    private func system(_ text: String) -> GID? {
        var bytes = [UInt8](repeating: 0, count: 16)
        if inet_pton(AF_INET6, text, &bytes) == 1 { return GID(parsing: bytes.span.bytes, at: 0) }
        guard inet_pton(AF_INET, text, &bytes) == 1 else { return nil }
        return GID(ipv4: bytes.span.bytes.loadBigEndian(UInt32.self, at: 0))
    }

    @Test(
        "are read as the C library reads addresses",
        arguments: [
            "::", "::1", "1::", "fe80::1", "fe80::ff:fe00:1", "1:2:3:4:5:6:7:8", "::ffff:10.9.2.1", "10.9.2.1",
            "64:ff9b::192.0.2.33", "1:2:3:4:5:6:1.2.3.4", "::2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "ABCD::EF01",
            "0000:0000:0000:0000:0000:ffff:0a09:0201", "1:0:0:2:0:0:0:3", "255.255.255.255", "0.0.0.0",
            "", ":", ":::", "1", "1:2", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::", "g::", "::1.2.3", "::1.2.3.4.5",
            "1.2.3.4::", "1.2.3.256", "1.2.3", "1.2.3.4.5", "::+1", "::-1", " ::1", "::1 ", "fe80::1%eth0",
            "1:2:3:4:5:6:7:",
            ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3.4:5", "+1.2.3.4", "a.b.c.d", "::1:2:3:4:5:6:7:8",
        ])
    func reading(_ text: String) {
        #expect(GID(text) == system(text))
    }

    @Test("are written as the C library writes addresses")
    func writing() {
        var random = SplitMix64(seed: 6)
        for _ in 0..<5_000 {
            var groups = (0..<8).map { _ in UInt64.random(in: 0...0xFFFF, using: &random) }
            for i in 0..<8 where Int.random(in: 0..<5, using: &random) < 3 { groups[i] = 0 }
            // Two forms in which the C library shows an embedded IPv4 address, one of which is out of use.
            if groups[0..<6].allSatisfy({ $0 == 0 }) { continue }
            let gid = GID(
                high: groups[0..<4].reduce(0) { $0 << 16 | $1 }, low: groups[4..<8].reduce(0) { $0 << 16 | $1 })
            var bytes = [UInt8](repeating: 0, count: 16)
            var span = bytes.mutableSpan
            var all = span.mutableBytes
            gid.emit(into: &all, at: 0)
            var text = [CChar](repeating: 0, count: 64)
            _ = inet_ntop(AF_INET6, bytes, &text, 64)
            let system = String(decoding: text.prefix { $0 != 0 }.map(UInt8.init), as: UTF8.self)
            #expect(gid.description == system)
            #expect(GID(gid.description) == gid && GID(gid.fullText) == gid)
        }
        #expect(GID(ipv4: 0x0A09_0201).description == "::ffff:10.9.2.1")
        #expect(GID(ipv4: 0x0A09_0201).addressText == "10.9.2.1")
        #expect(GID(ipv4: 0x0A09_0201).fullText == "0000:0000:0000:0000:0000:ffff:0a09:0201")
    }

    @Test("know their kind")
    func kinds() {
        #expect(GID("fe80::1")!.isLinkLocal && GID("febf::1")!.isLinkLocal && !GID("fec0::1")!.isLinkLocal)
        #expect(GID("224.0.0.1")!.isMulticast && GID("ff02::1")!.isMulticast && !GID("10.0.0.1")!.isMulticast)
        #expect(GID("127.0.0.2")!.isLoopback && GID("::1")!.isLoopback && !GID("::2")!.isLoopback)
        #expect(GID("10.9.2.1")!.isIPv4Mapped && GID("10.9.2.1")!.ipv4 == 0x0A09_0201)
    }
}
