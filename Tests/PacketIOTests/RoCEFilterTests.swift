// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import TestNetwork
import Testing

@testable import PacketIO

private let hardware: [UInt8] = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55]
private let own4 = GID(ipv4: 0x0A58_0001)
private let own6 = GID(high: 0xFD88_0000_0000_0000, low: 1)

/// A frame with a RoCE packet, to be changed by one thing.
private func frame(ipv6: Bool = false, byteCount: Int = 64, change: (inout [UInt8]) -> Void = { _ in }) -> [UInt8] {
    let payload = packet(to: 9, byteCount: byteCount)
    let header = FrameHeader(
        destinationHardware: FrameHeader.word(hardware), sourceHardware: 0x0202_0202_0202,
        source: ipv6 ? GID(high: own6.high, low: 2) : GID(ipv4: 0x0A58_0002), destination: ipv6 ? own6 : own4,
        sourcePort: 0xC001, trafficClass: 0)
    var bytes = [UInt8](repeating: 0, count: header.byteCount) + payload
    bytes.withUnsafeMutableBytes { header.store(to: $0.baseAddress!, payloadByteCount: byteCount, identification: 0) }
    change(&bytes)
    return bytes
}

private struct Case: CustomTestStringConvertible, Sendable {
    let name: String
    let bytes: [UInt8]
    var isTaken = false
    var testDescription: String { name }
    init(_ name: String, _ bytes: [UInt8], isTaken: Bool = false) {
        self.name = name
        self.bytes = bytes
        self.isTaken = isTaken
    }
}

private let cases = [
    Case("IPv4", frame(), isTaken: true), Case("IPv6", frame(ipv6: true), isTaken: true),
    Case("as long as the MTU", frame(byteCount: 1472), isTaken: true),
    Case("as long as the MTU, IPv6", frame(ipv6: true, byteCount: 1452), isTaken: true),
    Case("longer than the MTU: a burst", frame(byteCount: 1476)),
    Case("longer than the MTU, IPv6", frame(ipv6: true, byteCount: 1456)),
    Case("to another Ethernet address", frame { $0[5] ^= 1 }),
    Case("to all", frame { $0.replaceSubrange(0..<6, with: repeatElement(0xFF, count: 6)) }),
    Case("with a VLAN tag", frame { $0.insert(contentsOf: [0x81, 0x00, 0x00, 0x05], at: 12) }),
    Case("ARP", frame { $0[13] = 0x06 }), Case("with IP options", frame { $0[14] = 0x46 }),
    Case("the first fragment", frame { $0[20] = 0x20 }), Case("another fragment", frame { $0[21] = 0x10 }),
    Case("TCP", frame { $0[23] = 6 }), Case("with an IPv6 extension", frame(ipv6: true) { $0[20] = 44 }),
    Case("to another address", frame { $0[33] ^= 1 }),
    Case("to another IPv6 address", frame(ipv6: true) { $0[40] ^= 1 }),
    Case("to another port", frame { $0[37] ^= 1 }), Case("of another slot", frame { $0[42 + 5] = 8 }),
    Case("of queue pair 1", frame { $0[42 + 5] = 0 }), Case("of a multicast queue pair", frame { $0[42 + 5] = 0xFF }),
    Case("a probe", frame { $0[42] = SteeringProbe.opcode }), Case("cut off", Array(frame().prefix(53))),
    Case("cut off, IPv6", Array(frame(ipv6: true).prefix(73))),
    Case("that may be cut up", frame { $0[20] = 0 }, isTaken: true),
]

/// It may be several joined; refused where that happens.
private let summed = Case("with a UDP checksum", frame { $0[40] = 1 })

@Suite(
    "Of frames, the XDP program and the AF_PACKET filter take", .serialized,
    .enabled(if: Privilege.networkNamespaces, "needs CAP_NET_ADMIN, CAP_BPF and iproute2"))
struct RoCEFilterTests {
    @Test("only those for this process's slot, by XDP", arguments: [false, true])
    func program(excludesJoined: Bool) throws {
        let verdicts = try VethPair.run { _ in
            let addresses = try RoCEFilterProgram.makeAddressMap()
            for gid in [own4, own6] { try addresses.set(RoCEFilterProgram.AddressKey(gid), to: UInt32(1)) }
            let sockets = try BPFMap(.sockets, keyBytes: 4, valueBytes: 4, entryCount: 1)
            let queue = try XDPQueue(
                interface: NetworkInterface.named("va")!.index, queue: 0, chunkByteCount: 2048, receiveCount: 64,
                transmitCount: 64, takesFragments: false)
            try sockets.set(UInt32(0), to: UInt32(queue.socket.descriptor))
            let program = try BPFProgram(
                xdp: RoCEFilterProgram(
                    hardwareAddress: hardware, slot: 9, mtu: 1500, excludesJoined: excludesJoined,
                    addressMap: addresses.number, socketMap: sockets.number
                ).assemble())
            return (cases + [summed]).map { program.verdict(on: $0.bytes) }
        }
        #expect(verdicts.last == (excludesJoined ? .pass : .redirect))
        for (tested, verdict) in zip(cases, verdicts) {
            #expect(verdict == (tested.isTaken ? .redirect : .pass), "\(tested.name)")
        }
    }

    /// Addresses and whole headers are looked at when the frame is taken apart.
    @Test("the same by AF_PACKET, but for addresses and frames that are cut off")
    func filter() throws {
        let arrived = try VethPair.run { pair in
            let interface = try NetworkInterface.named("va")!
            var ring = try PacketRing(
                interface: interface.index, layout: .frames, frameByteCount: 1514,
                filter: .frames(slot: 9, mtu: 1500))
            var sender = try pair.inSecond { try PacketSender(interface: NetworkInterface.named("vb")!.index) }
            var seen: [Int] = []
            for tested in cases + [summed] {
                var bytes = tested.bytes
                // What the cases have as the interface's own.
                if bytes.starts(with: hardware) { bytes.replaceSubrange(0..<6, with: interface.hardwareAddress) }
                bytes.withUnsafeBytes { frame in
                    sender.add(payload: frame.baseAddress! + 14, byteCount: frame.count - 14, headerByteCount: 14) {
                        $0.copyMemory(from: frame.baseAddress!, byteCount: 14)
                    }
                    _ = sender.flush()
                }
                ring.beginBatch()
                var count = 0
                let deadline = Waiter.now + (tested.isTaken ? 5_000_000_000 : 20_000_000)
                while count == 0, Waiter.now < deadline {
                    while ring.nextFrame() != nil { count += 1 }
                }
                seen.append(count)
            }
            return seen
        }
        for (tested, count) in zip(cases + [summed], arrived) where !tested.name.contains("to another address") {
            guard !tested.name.contains("IPv6 address"), !tested.name.contains("longer than"),
                !tested.name.contains("cut off")
            else { continue }
            #expect(count == (tested.isTaken ? 1 : 0), "\(tested.name)")
        }
    }

    @Test("Programs are assembled as the kernel's documentation has the instructions")
    func assembler() throws {
        var code = BPFAssembler()
        let end = code.makeLabel()
        code.compute(.r6, .move, .r1)
        code.load(.r2, .half, at: .r7, 12)
        code.jump(if: .r2, .notEqual, 8, to: end)
        code.load(.r1, constant: 0x1122_3344_5566_7788)
        code.store(constant: -1, .double, at: .stack, -8)
        code.call(.mapLookup)
        code.place(end)
        code.exit()
        // As LLVM's assembler writes them: r6 = r1; r2 = *(u16 *)(r7 + 12); if r2 != 8 goto +4; r1 = … ll;
        // *(u64 *)(r10 - 8) = -1; call 1; exit.
        #expect(
            try code.assemble().map(\.word) == [
                0x0000_0000_0000_16BF, 0x0000_0000_000C_7269, 0x0000_0008_0004_0255, 0x5566_7788_0000_0118,
                0x1122_3344_0000_0000, 0xFFFF_FFFF_FFF8_0A7A, 0x0000_0001_0000_0085, 0x0000_0000_0000_0095,
            ])
        var lost = BPFAssembler()
        lost.jump(to: lost.makeLabel())
        #expect(throws: PacketIOError.self) { try lost.assemble() }
    }
}
