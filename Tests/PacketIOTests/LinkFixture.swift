// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import TestNetwork
import Testing

@testable import PacketIO

/// A link in a box that tests can pass around and destroy at will.
final class TestLink {
    var link: UDPLink?
    /// Payloads of all segments that have come, in order.
    private(set) var segments: [[UInt8]] = []
    private(set) var datagrams: [(segmentSize: Int, byteCount: Int, firstSegment: Int, trafficClass: UInt8)] = []
    private(set) var sources: [GID] = []
    private(set) var sourcePorts: [UInt16] = []
    private(set) var destinations: [GID] = []
    private(set) var identifications: [UInt16?] = []

    /// Packets for others are kept for long, because a machine that runs many tests may stop one of them for a while.
    static var patient: UDPLinkOptions {
        var options = UDPLinkOptions()
        options.handOverLifetimeNanoseconds = 60_000_000_000
        return options
    }

    init(
        _ addresses: [GID], on interface: String = "lo", options: UDPLinkOptions = TestLink.patient
    ) throws {
        // Not `#require`: a link may be made on another thread than the test's.
        guard let interface = try NetworkInterface.named(interface) else {
            throw PacketIOError.invalid("no interface \(interface)")
        }
        link = try UDPLink.open(
            on: interface,
            addresses: addresses.map { NetworkInterface.Address(gid: $0, prefixLength: 8, scope: 0) }, options: options)
    }

    var slot: UInt8 { link!.slot }
    var choice: LinkChoice { link!.choice }
    var counters: LinkCounters { link!.counters }
    var maximumSegments: Int { Self.maximumSegments(of: link!) }
    private static func maximumSegments(of link: borrowing UDPLink) -> Int { link.maximumSegments }
    var descriptor: Int32 { Self.descriptor(of: link!) }
    private static func descriptor(of link: borrowing UDPLink) -> Int32 { link.descriptor }
    var senderDescriptor: Int32 { Self.senderDescriptor(of: link!) }
    private static func senderDescriptor(of link: borrowing UDPLink) -> Int32 {
        link.addresses[0].sender?.descriptor ?? -1
    }
    var refusals: [GID] { link!.refusals.map(\.address) }
    func state(_ index: Int) -> LinkAddressState? { link!.address(at: index) }
    func index(of gid: GID) -> Int? { link!.index(of: gid) }

    /// What the kernel does to a process that dies.
    func die() { spawning.withLock { _ in link = nil } }

    /// Makes it do what is due, and take what is there.
    @discardableResult func turn() -> Int {
        guard link != nil else { return 0 }
        let count = link!.receive()
        for index in 0..<count {
            let datagram = link!.datagram(index)
            datagrams.append(
                (datagram.segmentSize, datagram.byteCount, datagram.firstSegment, datagram.trafficClass))
            sources.append(datagram.source)
            sourcePorts.append(datagram.sourcePort)
            destinations.append(datagram.destination)
            identifications.append(datagram.identification)
            for segment in 0..<datagram.segmentCount { segments.append(Array(datagram.segment(segment))) }
        }
        _ = link!.maintain(now: Waiter.now)
        return count
    }

    func forget() {
        segments = []
        datagrams = []
        sources = []
        sourcePorts = []
        destinations = []
        identifications = []
    }

    @discardableResult
    func send(
        _ bytes: [UInt8], to destination: GID, segmentSize: Int? = nil, localIndex: Int = 0, trafficClass: UInt8 = 0
    ) -> Int {
        bytes.withUnsafeBytes { buffer in
            let burst = Burst(
                base: buffer.baseAddress!, byteCount: buffer.count, segmentSize: segmentSize ?? buffer.count,
                localIndex: localIndex, trafficClass: trafficClass, destination: destination)
            return withUnsafePointer(to: burst) { link!.send(UnsafeBufferPointer(start: $0, count: 1)) }
        }
    }

    /// Several bursts in one call, longer ones in segments.
    func send(bursts payloads: [[UInt8]], to destination: GID, segmentSize: Int = 4096) -> Int {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: payloads.count * 4096, alignment: 8)
        defer { memory.deallocate() }
        let bursts = payloads.enumerated().map { index, payload in
            let base = memory.baseAddress! + index * 4096
            base.copyMemory(from: payload, byteCount: payload.count)
            return Burst(
                base: base, byteCount: payload.count, segmentSize: min(payload.count, segmentSize), localIndex: 0,
                trafficClass: 0,
                destination: destination)
        }
        return bursts.withUnsafeBufferPointer { link!.send($0) }
    }
}

/// A payload that looks like a packet to `slot`: RC SEND ONLY, and then a number by which to know it again.
func packet(to slot: UInt8, number: UInt32 = 0, byteCount: Int = 64) -> [UInt8] {
    var bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: number &* 7 &+ 3), count: byteCount)
    bytes[0] = 0x04
    bytes[5] = slot
    withUnsafeBytes(of: number.bigEndian) { bytes.replaceSubrange(8..<12, with: $0) }
    return bytes
}

/// Turns all links until the condition holds, for at most some seconds.
func turn(_ links: [TestLink], until condition: () -> Bool, seconds: UInt64 = 10) -> Bool {
    let deadline = Waiter.now + seconds * 1_000_000_000
    while Waiter.now < deadline {
        for link in links { link.turn() }
        if condition() { return true }
    }
    return false
}

/// Sends to an address that links of other tests share, and again each second, until the condition holds. What the
/// kernel has put into the socket of a link that goes is lost, as datagrams may be.
func sendUntilTaken(_ link: TestLink, _ condition: () -> Bool, send: () -> Void) -> Bool {
    let deadline = Waiter.now + 10_000_000_000
    while Waiter.now < deadline {
        link.forget()
        send()
        let again = Waiter.now + 1_000_000_000
        while Waiter.now < again {
            link.turn()
            if condition() { return true }
        }
    }
    return false
}

/// Turns all links until nothing has come for a while.
func settle(_ links: [TestLink]) {
    var idle = 0
    while idle < 200 {
        let count = links.reduce(0) { $0 + $1.turn() }
        idle = count == 0 ? idle + 1 : 0
    }
}

/// A loopback address that nobody else uses: all of 127.0.0.0/8 is local.
func freshAddress() -> GID {
    GID(ipv4: 0x7F00_0000 | UInt32.random(in: 0x40_0000...0xBF_FFFE))
}

/// Whether a slot becomes free. At once, but for one thing: a process that another test is just starting has a copy of
/// every descriptor until it executes its program.
func becomesFree(_ slot: UInt8, on address: GID) throws -> Bool {
    let deadline = Waiter.now + 10_000_000_000
    while Waiter.now < deadline { if try isFree(slot, on: address) { return true } }
    return false
}

/// Whether a slot can be claimed now.
func isFree(_ slot: UInt8, on address: GID) throws -> Bool {
    switch try SlotClaim(address: address, slot: slot, bufferBytes: 4096) {
    case .none: false
    case .some: true
    }
}

let loopbackIPv6 = GID(high: 0, low: 1)

/// Runs a body in which new sockets belong to another user.
func ownedBy<Result>(_ uid: UInt32, _ body: () throws -> Result) rethrows -> Result {
    // A socket belongs to the file system user of the thread that makes it, which unlike the other identities is a
    // property of the thread in the C library too. Not in Swift's Glibc module.
    typealias SetUser = @convention(c) (UInt32) -> Int32
    let setUser = unsafeBitCast(dlsym(nil, "setfsuid")!, to: SetUser.self)
    _ = setUser(uid)
    defer { _ = setUser(0) }
    return try body()
}
