// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import Testing

@testable import PacketIO

extension UDPLinkOptions {
    /// With shared memory.
    fileprivate static func sharing(slot: UInt8? = nil, faults: FaultPlan? = nil) -> UDPLinkOptions {
        var options = TestLink.patient
        options.sharesMemory = true
        options.slot = slot
        options.faults = faults
        return options
    }
}

extension TestLink {
    fileprivate var hostPeerCount: Int { Self.hostPeerCount(of: link!) }
    private static func hostPeerCount(of link: borrowing UDPLink) -> Int { link.hostPeerCount }
    fileprivate func announceSleep() -> Bool { link!.announceSleep() }
    fileprivate func takesUnsealed(_ slot: UInt8) -> Bool { link!.takesUnsealed(localIndex: 0, slot: slot) }
}

/// Two links that share an address, and memory.
private func pair(_ address: GID, faults: FaultPlan? = nil) throws -> (TestLink, TestLink) {
    let first = try TestLink([address], options: .sharing(faults: faults))
    let second = try TestLink([address], options: .sharing())
    first.link!.meet(slot: second.slot, localIndex: 0)
    #expect(turn([first, second]) { first.counters.sharedJoined == 1 && second.counters.sharedJoined == 1 })
    return (first, second)
}

extension UDPLink {
    /// Looks at the mailbox of the first address only.
    fileprivate mutating func acceptOffers() {
        used = 0
        batchCount = 0
        drainMailbox(addresses[0].mailbox!.descriptor, owner: nil, localIndex: 0)
    }
}

/// A process that offers memory of its own making, and writes what it likes to it.
private final class HostilePeer {
    let address: GID
    private let descriptor = CLinuxNet.socket(AF_UNIX, clinuxnet_sock_datagram, 0)
    private let ring = SendRing()
    let file: Int32
    let memory: UnsafeMutableRawPointer?

    init(_ address: GID, byteCount: Int = HostPeer.byteCount) {
        self.address = address
        file = clinuxnet_sealed_memory("swift-verbs-test", Int64(byteCount))
        memory = clinuxnet_map_shared(file, byteCount, 1)
    }

    deinit {
        close(descriptor)
        close(file)
        if let memory { munmap(memory, HostPeer.byteCount) }
    }

    func offer(slot: UInt8, to link: TestLink, file other: Int32? = nil) {
        var header = PeerMessage(kind: .offer)
        header.slot = slot
        var name = SlotName(address: address)
        name.setSlot(link.slot)
        _ = ring.handOver(header, bytes: nil, count: 0, from: descriptor, to: name, passing: other ?? file)
        for _ in 0..<50 { link.turn() }
    }

    func store(_ value: UInt64, at offset: Int) { memory!.storeBytes(of: value, toByteOffset: offset, as: UInt64.self) }
}

@Suite("Links of one host", .serialized) struct SameHostTests {
    @Test("pass packets through memory, in order and whole, both ways")
    func packets() throws {
        let address = freshAddress()
        let (first, second) = try pair(address)
        for round in 0..<50 as Range<UInt32> {
            let there = packet(to: second.slot, number: round, byteCount: 1000)
            let back = packet(to: first.slot, number: round, byteCount: 64)
            #expect(first.send(there, to: address) == 1)
            #expect(second.send(back, to: address) == 1)
            #expect(turn([first, second]) { second.segments.last == there && first.segments.last == back })
        }
        // A burst: its segments come as they were.
        var burst: [UInt8] = []
        for number in 0..<10 as Range<UInt32> { burst += packet(to: second.slot, number: number, byteCount: 100) }
        second.forget()
        #expect(first.send(burst, to: address, segmentSize: 100) == 1)
        #expect(turn([second]) { second.segments.count == 10 })
        #expect(second.datagrams.first?.segmentSize == 100 && second.datagrams.count == 1)
        #expect(second.sources == [address] && second.destinations == [address])
        #expect(first.counters.sharedSent == 51 && second.counters.sharedReceived == 51)
        #expect(first.takesUnsealed(second.slot) && second.takesUnsealed(first.slot))
    }

    @Test("use UDP where one of them does not take part, and for what is not for one process")
    func elsewhere() throws {
        let address = freshAddress()
        let off = try TestLink([address])
        let (first, second) = try pair(address)
        first.send(packet(to: off.slot), to: address)
        #expect(turn([first, second, off]) { !off.segments.isEmpty })
        #expect(!first.takesUnsealed(off.slot))
        #expect(first.counters.sharedSent == 0)
        let mixed = packet(to: second.slot, number: 1) + packet(to: off.slot, number: 2)
        #expect(first.send(mixed, to: address, segmentSize: 64) == 1)
        #expect(first.counters.sharedSent == 0)
        #expect(second.counters.sharedReceived == 0)
    }

    @Test("put the same faults on what goes through memory, and keep its ICRCs")
    func faults() throws {
        let address = freshAddress()
        let (first, second) = try pair(address, faults: try FaultPlan(parsing: "drop=0.5,seed=3"))
        for number in 0..<200 as Range<UInt32> {
            #expect(first.send(packet(to: second.slot, number: number), to: address) == 1)
            second.turn()
        }
        let dropped = first.counters.faultsDropped
        #expect(dropped > 50 && dropped < 150)
        #expect(turn([second]) { second.counters.sharedReceived == 200 - dropped })
        #expect(second.segments.count == 200 - Int(dropped))
        #expect(!first.takesUnsealed(second.slot) && !second.takesUnsealed(first.slot))
    }

    @Test("wake a receiver that sleeps, once")
    func waking() throws {
        let address = freshAddress()
        let (first, second) = try pair(address)
        settle([first, second])
        let waiter = try Waiter()
        try waiter.add(second.descriptor, token: 1)
        #expect(!second.announceSleep())
        #expect(first.send(packet(to: second.slot), to: address) == 1)
        #expect(first.send(packet(to: second.slot, number: 1), to: address) == 1)
        #expect(first.counters.sharedWakes == 1)
        #expect(waiter.wait(until: Waiter.now + 5_000_000_000).readyCount == 1)
        #expect(second.announceSleep())
        #expect(turn([second]) { second.segments.count == 2 })
    }

    @Test("that both offer at once agree on one memory")
    func tie() throws {
        let address = freshAddress()
        let first = try TestLink([address], options: .sharing(slot: 7))
        let second = try TestLink([address], options: .sharing(slot: 9))
        first.link!.meet(slot: 9, localIndex: 0)
        second.link!.meet(slot: 7, localIndex: 0)
        #expect(
            turn([first, second]) {
                first.send(packet(to: 9), to: address)
                second.send(packet(to: 7), to: address)
                return first.counters.sharedReceived > 0 && second.counters.sharedReceived > 0
            })
        #expect(first.hostPeerCount == 1 && second.hostPeerCount == 1)
        #expect(first.counters.sharedBroken == 0 && second.counters.sharedBroken == 0)
    }

    @Test("keep the memory that the other took, though its own offer comes later")
    func lateOffer() throws {
        let address = freshAddress()
        let first = try TestLink([address], options: .sharing(slot: 7))
        let second = try TestLink([address], options: .sharing(slot: 9))
        second.link!.meet(slot: 7, localIndex: 0)
        first.link!.meet(slot: 9, localIndex: 0)
        // The second gives its offer up and joins; the first sees that before it sees the offer.
        #expect(turn([second]) { second.counters.sharedJoined == 1 })
        _ = first.link!.maintain(now: Waiter.now)
        #expect(first.counters.sharedJoined == 1)
        second.send(packet(to: 7, number: 1), to: address)
        #expect(turn([first]) { !first.segments.isEmpty })
        settle([first, second])
        second.send(packet(to: 7, number: 2), to: address)
        #expect(turn([first]) { first.counters.sharedReceived == 2 })
        #expect(first.hostPeerCount == 1 && second.hostPeerCount == 1)
    }

    @Test("take what was sent over UDP before the first packet through memory first")
    func order() throws {
        let address = freshAddress()
        let first = try TestLink([address], options: .sharing())
        let second = try TestLink([address], options: .sharing())
        first.link!.meet(slot: second.slot, localIndex: 0)
        var expected: [[UInt8]] = []
        for number in 0..<40 as Range<UInt32> {
            expected.append(packet(to: second.slot, number: number))
            #expect(first.send(expected.last!, to: address) == 1)
            // It joins in the middle; nobody else receives on this address meanwhile.
            if number == 20 { second.link!.acceptOffers() }
        }
        #expect(first.counters.sharedSent == 19)
        // The kernel gives some to the socket of the first, which hands them on.
        #expect(turn([first, second]) { second.segments.count == 40 })
        if second.counters.forwardedReceived == 0 { #expect(second.segments == expected) }
    }

    @Test("leave a peer that is gone, and meet the next one of its slot")
    func gone() throws {
        let address = freshAddress()
        let first = try TestLink([address], options: .sharing())
        for round in 0..<3 as Range<UInt32> {
            let second = try TestLink([address], options: .sharing(slot: first.slot == 77 ? 78 : 77))
            #expect(
                turn([first, second]) {
                    first.send(packet(to: second.slot, number: round), to: address)
                    return second.counters.sharedReceived > 0
                })
            second.die()
            // It is told; and where it could not be, it asks.
            #expect(turn([first]) { first.hostPeerCount == 0 })
        }
        #expect(first.counters.sharedJoined == 3)
        // Devices of other tests in this process may have some for a moment, too.
        let end = Waiter.now + 20_000_000_000
        while sharedMappingCount() != 0, Waiter.now < end { usleep(1000) }
        #expect(sharedMappingCount() == 0)
    }

    @Test("hold a sender up for a moment only when a peer does not read, and then leave it")
    func stopped() throws {
        let address = freshAddress()
        let (first, second) = try pair(address)
        let other = try TestLink([address], options: .sharing())
        first.link!.meet(slot: other.slot, localIndex: 0)
        #expect(turn([first, other]) { other.counters.sharedJoined == 1 && first.counters.sharedJoined == 2 })
        let large = packet(to: second.slot, byteCount: 60_000)
        let begin = Waiter.now
        while first.counters.sharedDropped == 0, Waiter.now - begin < 5_000_000_000 {
            first.send(large, to: address)
        }
        #expect(first.counters.sendBackpressure > 0 && first.counters.sharedDropped > 0)
        #expect(first.send(packet(to: other.slot), to: address) == 1)
        #expect(turn([other]) { other.segments.count == 1 })
        // It does not read for a quarter of a second: its packets go over UDP from then on.
        #expect(turn([first]) { first.hostPeerCount == 1 })
        #expect(first.counters.sharedBroken == 1)
        // When it runs again it finds the ring closed, and they meet anew.
        #expect(
            turn([first, second]) {
                second.send(packet(to: first.slot), to: address)
                return first.counters.sharedReceived > 0
            })
    }

    @Test("refuse memory that could be made shorter, or is of another size, and keep no descriptor")
    func offers() throws {
        let address = freshAddress()
        let link = try TestLink([address], options: .sharing(slot: 100))
        settle([link])
        let peer = HostilePeer(address)
        let short = HostilePeer(address, byteCount: HostPeer.byteCount - 64)
        var ends: [Int32] = [0, 0]
        pipe(&ends)
        let files = [short.file, peer.file, ends[0]].compactMap(FileIdentity.init)
        #expect(files.map(\.descriptorCount) == [1, 1, 2])
        short.offer(slot: 101, to: link)
        peer.offer(slot: 0, to: link)
        peer.offer(slot: 255, to: link)
        peer.offer(slot: 100, to: link)
        peer.offer(slot: 101, to: link, file: link.descriptor)
        peer.offer(slot: 101, to: link, file: ends[0])
        close(ends[0])
        close(ends[1])
        #expect(link.counters.sharedJoined == 0 && link.hostPeerCount == 0)
        peer.offer(slot: 101, to: link)
        #expect(link.counters.sharedJoined == 1)
        #expect(files.map(\.descriptorCount) == [1, 1, 0])
    }

    @Test("take only whole packets for themselves from memory, and leave who writes what cannot be")
    func hostile() throws {
        let address = freshAddress()
        let link = try TestLink([address], options: .sharing(slot: 100))
        // As long as it holds its slot it counts as alive. The slot is the lower one, so its offers count.
        let claim = try SlotClaim(address: address, slot: 50, bufferBytes: 65_536)
        let peer = HostilePeer(address)
        var writer = SharedRingWriter(peer.memory!)
        peer.offer(slot: 50, to: link)
        func write(_ bytes: [UInt8], segmentSize: Int? = nil) {
            let record = SharedRing.Record(byteCount: bytes.count, segmentSize: segmentSize ?? bytes.count)
            _ = writer.write(record, bytes)
            for _ in 0..<20 { link.turn() }
        }
        write(packet(to: 100))
        #expect(link.segments.count == 1)
        write(packet(to: 99))
        write([1, 2, 3])
        write(packet(to: 100) + packet(to: 99), segmentSize: 64)
        write(packet(to: 100, byteCount: 70), segmentSize: 64)
        #expect(link.counters.sharedMalformed == 4 && link.segments.count == 1)

        var generator = SplitMix64(seed: 29)
        for _ in 0..<200 {
            let other = HostilePeer(address)
            other.offer(slot: 50, to: link)
            for _ in 0..<8 {
                let offset = [0, 64, 128, 192, 200, 208].randomElement(using: &generator)!
                let value = [generator.next(), generator.next() & 0xFFFF0, 16, .max].randomElement(using: &generator)!
                other.store(value, at: offset + [0, SharedRing.byteCount].randomElement(using: &generator)!)
                link.turn()
                link.send(packet(to: 50, byteCount: 60_000), to: address)
            }
        }
        #expect(link.counters.sharedBroken > 50)
        #expect(link.hostPeerCount <= 1)
        _ = consume claim
        #expect(turn([link]) { link.hostPeerCount == 0 })
    }
}

/// Mappings of memory that this process shares with peers.
private func sharedMappingCount() -> Int {
    guard let maps = fopen("/proc/self/maps", "r") else { return -1 }
    defer { fclose(maps) }
    var buffer = [CChar](repeating: 0, count: 4096)
    var count = 0
    while fgets(&buffer, 4096, maps) != nil {
        let line = String(decoding: buffer.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        if line.contains("memfd:swift-verbs (deleted)") { count += 1 }
    }
    return count
}

/// A file, by which to know its descriptors: other tests open and close theirs meanwhile.
private struct FileIdentity: Equatable {
    private let device: UInt64
    private let number: UInt64

    init?(_ descriptor: Int32) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { return nil }
        device = UInt64(status.st_dev)
        number = UInt64(status.st_ino)
    }

    /// How many descriptors of this process are of the file.
    var descriptorCount: Int { (0..<4096 as Range<Int32>).count { FileIdentity($0) == self } }
}
