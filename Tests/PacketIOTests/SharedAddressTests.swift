// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire
import TestNetwork
import Testing

@testable import PacketIO

/// Several links on one address, which to the kernel is the same as several processes.
@Suite("Processes that share an address", .serialized) struct SharedAddressTests {
    /// Every link sends `count` packets to every link; says whether each has got just its own.
    private func exchange(_ links: [TestLink], at address: GID, count: Int, from start: UInt32) -> Bool {
        for link in links { link.forget() }
        var expected: [UInt8: Set<[UInt8]>] = [:]
        var number = start
        for sender in links {
            for receiver in links {
                for _ in 0..<count {
                    let bytes = packet(to: receiver.slot, number: number)
                    number += 1
                    expected[receiver.slot, default: []].insert(bytes)
                    guard sender.send(bytes, to: address) == 1 else { return false }
                }
                for link in links { link.turn() }
            }
        }
        guard turn(links, until: { links.allSatisfy { $0.segments.count >= links.count * count } }) else {
            return false
        }
        settle(links)
        return links.allSatisfy { Set($0.segments) == expected[$0.slot] && $0.segments.count == links.count * count }
    }

    /// Waits until the table is learnt and no packet goes astray any more.
    private func converges(_ links: [TestLink], at address: GID) -> Bool {
        var number: UInt32 = 1_000_000
        return turn(links) {
            let before = links.reduce(0) { $0 + $1.counters.misdelivered }
            for sender in links {
                for receiver in links {
                    for _ in 0..<8 {
                        sender.send(packet(to: receiver.slot, number: number), to: address)
                        number += 1
                    }
                }
            }
            settle(links)
            let after = links.reduce(0) { $0 + $1.counters.misdelivered }
            return after == before && links.contains { $0.counters.steeringLearnt > 0 }
        }
    }

    /// Three links come, exchange packets, learn, and exchange packets again. Returns what went wrong.
    private func share(_ address: GID) throws -> [String] {
        let links = try (0..<3).map { _ in try TestLink([address]) }
        guard Set(links.map(\.slot)).count == 3 else { return ["slots"] }
        guard exchange(links, at: address, count: 20, from: 0) else { return ["exchange before steering"] }
        var isSteered = false
        for round in 1..<10 as Range<UInt32> where !isSteered {
            guard converges(links, at: address) else { return ["steering"] }
            let misdelivered = links.reduce(0) { $0 + $1.counters.misdelivered }
            let attempts = links.reduce(0) { $0 + $1.counters.steeringAttempts }
            guard exchange(links, at: address, count: 20, from: 10_000 * round) else {
                return ["exchange after steering"]
            }
            // Nobody else is on this address, so the table stays true, unless it is learnt again meanwhile: who is stopped for
            // a while by a busy machine does not answer in time, and is not in it.
            isSteered = links.reduce(0) { $0 + $1.counters.misdelivered } == misdelivered
            if !isSteered, links.reduce(0, { $0 + $1.counters.steeringAttempts }) == attempts { return ["misdelivery"] }
        }
        guard isSteered else { return ["misdelivery again and again"] }
        let isClean = links.allSatisfy { $0.counters.forwardedUntrusted == 0 && $0.counters.forwardedMalformed == 0 }
        return isClean ? [] : ["refused hand-overs"]
    }

    @Test("each get what is for their slots, before steering and after, over IPv4")
    func threeShareIPv4() throws {
        let problems = try share(freshAddress())
        #expect(problems == [])
    }

    @Test(
        "each get what is for their slots, before steering and after, over IPv6",
        .enabled(if: Privilege.networkNamespaces, "needs CAP_SYS_ADMIN and iproute2: there is one ::1"))
    func threeShareIPv6() throws {
        let problems = try inOwnNetwork { try share(loopbackIPv6) }
        #expect(problems == [])
    }

    @Test("each go on getting theirs when a member dies, and the steering is learnt again")
    func memberDies() throws {
        let address = freshAddress()
        var links = try (0..<4).map { _ in try TestLink([address]) }
        #expect(converges(links, at: address))
        // The first of the group: the last takes its index.
        links.removeFirst().die()
        #expect(exchange(links, at: address, count: 20, from: 0))
        #expect(converges(links, at: address))
        #expect(exchange(links, at: address, count: 20, from: 10_000))
    }

    @Test("take in one that joins late")
    func lateJoiner() throws {
        let address = freshAddress()
        var links = try (0..<2).map { _ in try TestLink([address]) }
        #expect(converges(links, at: address))
        links.append(try TestLink([address]))
        #expect(exchange(links, at: address, count: 20, from: 0))
        #expect(turn(links) { links[2].counters.steeringLearnt > 0 || links[0].counters.steeringLearnt > 1 })
        #expect(converges(links, at: address))
        #expect(exchange(links, at: address, count: 20, from: 10_000))
    }

    @Test("get the segments of one burst that are theirs, with their places in it")
    func mixedBurst() throws {
        let address = freshAddress()
        let a = try TestLink([address])
        let b = try TestLink([address])
        // a a b b a, the last shorter: a GRO aggregate of a network card may look like that.
        let slots = [a.slot, a.slot, b.slot, b.slot, a.slot]
        let pieces = slots.enumerated().map { packet(to: $1, number: UInt32($0), byteCount: $0 == 4 ? 100 : 512) }
        a.send(pieces.flatMap { $0 }, to: address, segmentSize: 512)
        #expect(turn([a, b]) { a.segments.count == 3 && b.segments.count == 2 })
        #expect(a.segments == [pieces[0], pieces[1], pieces[4]])
        #expect(b.segments == [pieces[2], pieces[3]])
        #expect(a.datagrams.map(\.firstSegment).sorted() == [0, 4])
        #expect(b.datagrams.map(\.firstSegment) == [2])
        #expect(b.datagrams.map(\.segmentSize) == [512])
    }

    @Test("keep what names no process: queue pairs 0 and 1, and multicast")
    func deviceTraffic() throws {
        let address = freshAddress()
        let links = try (0..<2).map { _ in try TestLink([address]) }
        links[0].send(packet(to: 0, number: 1), to: address)
        links[0].send(packet(to: 255, number: 2), to: address)
        #expect(turn(links) { links[0].segments.count + links[1].segments.count == 2 })
        #expect(links.allSatisfy { $0.counters.misdelivered == 0 })
    }

    @Test("hand a datagram to another process on request")
    func forwardOnRequest() throws {
        let address = freshAddress()
        let a = try TestLink([address])
        let b = try TestLink([address])
        let bytes = packet(to: 0, number: 5, byteCount: 280)
        a.send(bytes, to: address)
        #expect(turn([a, b]) { a.segments.count + b.segments.count == 1 })
        let holder = a.segments.isEmpty ? b : a
        let other = a.segments.isEmpty ? a : b
        let ports = holder.sourcePorts
        #expect(holder.forwardLast(toSlot: other.slot))
        #expect(turn([a, b]) { other.segments == [bytes] })
        #expect(other.sourcePorts == ports)
        #expect(other.sources == [address])
        #expect(other.destinations == [address])
        #expect(other.counters.forwardedReceived == 1)
    }

    /// A disconnect request to queue pair 1, laid out as in the IBTA's tables (BTH, DETH, MAD, DREQ): the communication of the peer that
    /// it names is one of `slot`.
    private func disconnectRequest(to slot: UInt8, number: UInt8) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 12 + 8 + 256 + 4)
        bytes[0] = 0x64  // UD, SEND only
        bytes[2...3] = [0xFF, 0xFF]  // P_Key
        bytes[7] = 1  // queue pair 1
        bytes[11] = number
        bytes[12...19] = [0x80, 0x01, 0, 0, 0, 0, 0, 1]  // Q_Key, and from queue pair 1
        bytes[20...23] = [1, 7, 2, 3]  // base version, CommMgt, class version, Send
        bytes[20 + 17] = 0x15  // ConnectDisconnectRequest
        bytes[20 + 24 + 3] = number  // local communication id
        bytes[20 + 24 + 4] = slot  // remote communication id
        return bytes
    }

    @Test(
        "get messages about their communications from the sender, whatever socket the kernel would choose",
        arguments: [false, true])
    func managementToSlot(sharesMemory: Bool) throws {
        let address = freshAddress()
        var options = TestLink.patient
        options.sharesMemory = sharesMemory
        let links = try (0..<3).map { _ in try TestLink([address], options: options) }
        let taken = Set(links.map(\.slot))
        // As many as a mailbox holds while nobody reads (net.unix.max_dgram_qlen).
        let messages = (0..<8).map { disconnectRequest(to: links[1].slot, number: $0) }
        for message in messages { links[0].send(message, to: address) }
        // The sender ends at once: nothing is left for it to hand on.
        links[0].die()
        #expect(turn([links[1], links[2]]) { links[1].segments.count == messages.count })
        let isWhole = links[1].segments == messages
        #expect(isWhole)
        #expect(links[1].counters.forwardedReceived == UInt64(messages.count))
        #expect(links[2].segments.isEmpty)
        // Of a process that is not there the kernel chooses one, which answers for it.
        let gone = disconnectRequest(to: (1...4).first { !taken.contains($0) }!, number: 99)
        links[1].send(gone, to: address)
        #expect(turn([links[1], links[2]]) { links[1].segments.last == gone || links[2].segments == [gone] })
    }

    @Test("count what is for a process that is not there")
    func noSuchProcess() throws {
        let address = freshAddress()
        let link = try TestLink([address])
        link.send(packet(to: link.slot == 9 ? 10 : 9), to: address)
        #expect(turn([link]) { link.counters.forwardNoProcess == 1 })
        #expect(link.segments.isEmpty)
    }

    @Test(
        "are served by another user's process that has the port, and take it over when that one goes",
        .enabled(if: Privilege.otherUsers, "needs CAP_SETUID"))
    func otherUser() throws {
        let address = freshAddress()
        let owner = try ownedBy(65_534) { try TestLink([address]) }
        let served = try TestLink([address])
        #expect(served.state(0)?.reception == .served(byUID: 65_534))
        #expect(served.state(0)?.receiveBufferBytes == 0)
        served.send(packet(to: served.slot, number: 1), to: address)
        #expect(turn([owner, served]) { served.segments.count == 1 })
        #expect(served.counters.forwardedReceived == 1)
        owner.die()
        #expect(turn([served]) { served.state(0)?.reception == .bound })
        served.send(packet(to: served.slot, number: 2), to: address)
        #expect(turn([served]) { served.segments.count == 2 })
        #expect(served.counters.forwardedReceived == 1)
    }

    @Test("say that a stranger has the port")
    func strangerHasPort() throws {
        let address = freshAddress()
        let stranger = try UDPSocket.makeReceiver(address, scope: 0, bufferBytes: 4096)
        let number = stranger.number ?? -1
        #expect(number >= 0)
        // As kernel rxe or a server would: not shared.
        SocketOption.set(number, SOL_SOCKET, clinuxnet_so_reuseport, 0)
        #expect(throws: PacketIOError.noAddress(first: .portInUse(address: address))) {
            _ = try TestLink([address])
        }
        _ = consume stranger
    }
}

extension TestLink {
    /// Forwards the only datagram of the last batch.
    func forwardLast(toSlot slot: UInt8) -> Bool {
        let bytes = segments.last!
        return bytes.withUnsafeBytes { buffer in
            var datagram = Datagram(
                base: buffer.baseAddress!, byteCount: buffer.count, segmentSize: buffer.count, firstSegment: 0,
                localIndex: 0, source: sources.last!, destination: destinations.last!, sourcePort: sourcePorts.last!,
                trafficClass: 0)
            datagram.trafficClass = 0
            return link!.forward(datagram, toSlot: slot)
        }
    }
}
