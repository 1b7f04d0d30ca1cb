// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import Testing

@testable import PacketIO

@Suite("A UDP link", .serialized) struct UDPLinkTests {
    @Test("delivers a packet with its addresses, port and traffic class", arguments: ["IPv4", "IPv6"])
    func delivers(family: String) throws {
        let address = family == "IPv4" ? freshAddress() : loopbackIPv6
        let link = try TestLink([address])
        let state = try #require(link.state(0))
        #expect(state.sourcePort >= 0xC000)
        #expect(state.reception == .bound)
        #expect(state.receiveBufferBytes > 0)
        let bytes = packet(to: link.slot, number: 77, byteCount: 1000)
        let isTaken = sendUntilTaken(link, { link.segments.count == 1 }) {
            #expect(link.send(bytes, to: address, trafficClass: 0x6A) == 1)
        }
        #expect(isTaken)
        #expect(link.segments == [bytes])
        #expect(link.sources == [address])
        #expect(link.destinations == [address])
        #expect(link.sourcePorts == [state.sourcePort])
        #expect(link.datagrams[0].trafficClass == 0x6A)
        #expect(link.counters.sentBytes == link.counters.sentBursts * 1000)
        #expect(link.counters.receivedBytes == 1000)
    }

    @Test("takes addresses of both families and keeps them apart")
    func twoAddresses() throws {
        let first = freshAddress()
        let second = freshAddress()
        let link = try TestLink([first, loopbackIPv6, second])
        for (index, address) in [first, loopbackIPv6, second].enumerated() {
            #expect(link.state(index)?.gid == address)
            let isTaken = sendUntilTaken(link, { link.segments.count == 1 }) {
                link.send(packet(to: link.slot, number: UInt32(index)), to: address, localIndex: index)
            }
            #expect(isTaken)
            #expect(link.sources == [address])
        }
        // From the first to the second.
        link.forget()
        link.send(packet(to: link.slot), to: second, localIndex: 0)
        #expect(turn([link]) { link.segments.count == 1 })
        #expect(link.sources == [first])
        #expect(link.destinations == [second])
    }

    @Test("sends a burst of 15 packets of 4,112 bytes that arrives as one datagram", arguments: ["IPv4", "IPv6"])
    func burst(family: String) throws {
        let address = family == "IPv4" ? freshAddress() : loopbackIPv6
        let link = try TestLink([address])
        let pieces = (0..<15).map { packet(to: link.slot, number: UInt32($0), byteCount: 4112) }
        let isTaken = sendUntilTaken(link, { link.segments.count == 15 }) {
            #expect(link.send(pieces.flatMap { $0 }, to: address, segmentSize: 4112) == 1)
        }
        #expect(isTaken)
        #expect(link.segments == pieces)
        #expect(link.datagrams.count == 1)
        #expect(link.datagrams[0].segmentSize == 4112)
        #expect(link.datagrams[0].byteCount == 15 * 4112)
        #expect(link.counters.segmentationRefusals == 0)
        #expect(link.maximumSegments == 64)
    }

    @Test("sends many packets in one call and receives them in order")
    func manyPackets() throws {
        let address = freshAddress()
        let link = try TestLink([address])
        let payloads = (0..<100).map { packet(to: link.slot, number: UInt32($0), byteCount: 100 + $0) }
        #expect(link.send(bursts: payloads, to: address) == 100)
        #expect(turn([link]) { link.segments.count == 100 })
        #expect(link.segments == payloads)
    }

    @Test(
        "sends one by one where the kernel does not segment, as far as identifications allow",
        arguments: ["IPv4", "IPv6"])
    func segmentationRefused(family: String) throws {
        let address = family == "IPv4" ? freshAddress() : loopbackIPv6
        let link = try TestLink([address])
        // Without checksums the kernel refuses to segment: what devices without checksum offload did before Linux 6.11.
        if family == "IPv4" {
            #expect(SocketOption.set(link.senderDescriptor, SOL_SOCKET, SO_NO_CHECK, 1))
        } else {
            #expect(SocketOption.set(link.senderDescriptor, Constant.udp, 101, 1))
        }
        let pieces = (0..<4).map { packet(to: link.slot, number: UInt32($0), byteCount: 500) }
        #expect(link.maximumSegments == 64)
        #expect(link.send(pieces.flatMap { $0 }, to: address, segmentSize: 500) == 1)
        #expect(link.maximumSegments == 1)
        #expect(link.counters.segmentationRefusals == 1)
        #expect(link.counters.sendErrors == 0)
        let expected = family == "IPv4" ? Array(pieces[..<1]) : pieces
        if family == "IPv4" {
            #expect(turn([link]) { link.segments.count == expected.count })
            settle([link])
        } else if !turn([link], until: { link.segments.count == expected.count }, seconds: 1) {
            // From now on the pieces leave one by one.
            let isTaken = sendUntilTaken(link, { link.segments.count == expected.count }) {
                for piece in pieces { link.send(piece, to: address) }
            }
            #expect(isTaken)
        }
        #expect(link.segments == expected)
    }

    @Test("listens to all its sockets while one is flooded")
    func flood() throws {
        let flooded = freshAddress()
        let quiet = freshAddress()
        let link = try TestLink([flooded, quiet])
        let flood = packet(to: link.slot, number: 1)
        let lone = packet(to: link.slot, number: 2)
        // Hot already when the lone packet comes.
        for _ in 0..<200 { link.send(flood, to: flooded) }
        for _ in 0..<20 { link.turn() }
        link.forget()
        link.send(lone, to: quiet)
        var turns = 0
        while !link.segments.contains(lone), turns < 100 {
            // More than a batch takes.
            for _ in 0..<20 { link.send(flood, to: flooded) }
            link.turn()
            turns += 1
        }
        #expect(turns <= 24)
        // And the flood was not kept out for it.
        #expect(link.segments.contains(flood))
    }

    @Test("drops and counts what the kernel refuses, and goes on")
    func refusals() throws {
        let address = freshAddress()
        let link = try TestLink([address])
        // Longer than a UDP datagram over IPv4 may be.
        #expect(link.send([UInt8](repeating: 0, count: 65_530), to: address) == 1)
        #expect(link.counters.sendErrors == 1)
        #expect(link.counters.lastSendError == UInt64(EMSGSIZE))
        // No such local address.
        #expect(link.send(packet(to: link.slot), to: address, localIndex: 3) == 1)
        #expect(link.send(packet(to: link.slot), to: address, localIndex: -1) == 1)
        #expect(link.counters.sendErrors == 3)
        // A segment longer than the path's MTU: not a reason to turn bursts off.
        #expect(link.send([UInt8](repeating: 0, count: 65_535), to: address, segmentSize: 65_520) == 1)
        #expect(link.counters.sendErrors == 4)
        #expect(link.maximumSegments == 64)
        link.send(packet(to: link.slot), to: address)
        #expect(turn([link]) { link.segments.count == 1 })
    }

    @Test("counts what is too short for a packet")
    func runts() throws {
        let address = freshAddress()
        let link = try TestLink([address])
        let sender = try plainSocket(AF_INET)
        defer { close(sender) }
        for count in [0, 1, 5, 6, 11] {
            sendPlain([UInt8](repeating: 0xFE, count: count), from: sender, to: address)
        }
        #expect(turn([link]) { link.counters.receiveTooShort == 5 })
        #expect(link.segments.isEmpty)
    }

    @Test("takes UDP checksum 0 over IPv6, as rxe sends it")
    func zeroChecksum() throws {
        let link = try TestLink([loopbackIPv6])
        let sender = try plainSocket(AF_INET6)
        defer { close(sender) }
        // UDP_NO_CHECK6_TX.
        #expect(SocketOption.set(sender, Constant.udp, 101, 1))
        let bytes = packet(to: link.slot, number: 4711)
        let isTaken = sendUntilTaken(link, { link.segments.contains(bytes) }) {
            sendPlain(bytes, from: sender, to: loopbackIPv6)
        }
        #expect(isTaken)
    }

    @Test("follows the address set of its interface")
    func refresh() throws {
        let first = freshAddress()
        let second = freshAddress()
        let link = try TestLink([first])
        let slot = link.slot
        func entry(_ gid: GID) -> NetworkInterface.Address { .init(gid: gid, prefixLength: 8, scope: 0) }
        link.link!.refresh(addresses: [entry(first), entry(second)])
        #expect(link.index(of: second) == 1)
        link.send(packet(to: slot, number: 1), to: second, localIndex: 0)
        #expect(turn([link]) { link.segments.count == 1 })
        link.link!.refresh(addresses: [entry(second)])
        #expect(link.state(0) == nil)
        #expect(link.index(of: second) == 1)
        #expect(link.slot == slot)
        link.send(packet(to: slot, number: 2), to: second, localIndex: 1)
        #expect(turn([link]) { link.segments.count == 2 })
        // The slot of the first is free again.
        #expect(try becomesFree(slot, on: first))
        // 10.255.255.254 is not an address of this host.
        let foreign = GID(ipv4: 0x0AFF_FFFE)
        link.link!.refresh(addresses: [entry(second), entry(foreign)])
        #expect(link.refusals == [foreign])
    }

    @Test("receives what is sent to a multicast group that it joined, and no longer when it left")
    func multicast() throws {
        let group = GID(ipv4: 0xEF01_0000 | UInt32.random(in: 1...0xFFFE))
        let address = GID(ipv4: 0x7F00_0001)
        let links = try (0..<2).map { _ in try TestLink([address]) }
        for link in links { try link.link!.joinGroup(group, localIndex: 0) }
        try links[0].link!.joinGroup(group, localIndex: 0)
        let bytes = packet(to: 255, number: 1)
        links[0].send(bytes, to: group)
        #expect(turn(links) { links.allSatisfy { $0.segments.contains(bytes) } })
        #expect(links.allSatisfy { $0.destinations.contains(group) })

        // Joined twice, so still in after one leave; the other is out.
        links[0].link!.leaveGroup(group)
        links[1].link!.leaveGroup(group)
        let next = packet(to: 255, number: 2)
        links[1].send(next, to: group)
        #expect(turn(links) { links[0].segments.contains(next) })
        settle(links)
        #expect(!links[1].segments.contains(next))
    }

    @Test("sends one frame at a time where faults are on")
    func faultsTurnBurstsOff() throws {
        var options = UDPLinkOptions()
        options.faults = try FaultPlan(parsing: "drop=1")
        let address = freshAddress()
        let link = try TestLink([address], options: options)
        #expect(link.maximumSegments == 1)
        #expect(link.send(packet(to: link.slot), to: address) == 1)
        settle([link])
        #expect(link.segments.isEmpty)
        #expect(link.counters.faultsDropped == 1)
    }

    @Test("releases a delayed frame by its own clock")
    func delayedFrame() throws {
        var options = UDPLinkOptions()
        options.faults = try FaultPlan(parsing: "delay=1,delay_us=2000")
        let address = freshAddress()
        let link = try TestLink([address], options: options)
        let bytes = packet(to: link.slot, number: 9)
        #expect(link.send(bytes, to: address) == 1)
        let due = link.link!.maintain(now: Waiter.now)
        #expect(due < UInt64.max)
        #expect(turn([link]) { link.segments == [bytes] })
        #expect(link.counters.faultsDelayed == 1)
    }

    private func plainSocket(_ family: Int32) throws -> Int32 {
        let made = CLinuxNet.socket(family, clinuxnet_sock_datagram, 0)
        try #require(made >= 0)
        return made
    }

    private func sendPlain(_ bytes: [UInt8], from descriptor: Int32, to address: GID) {
        var memory = [UInt8](repeating: 0, count: 28)
        let length = SocketAddress.write(address, port: 4791, scope: 0, to: &memory)
        #expect(clinuxnet_sendto(descriptor, bytes, bytes.count, memory, length) == bytes.count)
    }
}
