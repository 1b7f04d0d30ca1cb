// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// One end of a link in memory, for tests: what one end sends the other receives, in order, as the kernel's loopback
/// would deliver it. Both ends belong to one thread.
///
/// Bounded like a socket buffer: what does not fit is lost and counted at the sender as `sendErrors`.
@safe package final class MemoryLink: PacketLink, BurstSink {
    /// Datagrams under way in one direction.
    package static let queueMax = 256

    package var counters = LinkCounters()
    package let address: GID
    package let sourcePort: UInt16
    package let maximumSegments: Int

    private weak var peer: MemoryLink?
    private var faults: FaultStage?
    /// Virtual time, told by ``maintain(now:)``.
    private var now: UInt64 = 0

    /// A ring of received datagrams; the memory of each is an allocation of its own, freed when its place is used again
    /// or the link goes.
    private let queue: UnsafeMutablePointer<Datagram>
    private var head = 0
    private var tail = 0
    private var batchStart = 0

    /// Makes the two ends.
    package static func pair(
        _ first: GID, _ second: GID, maximumSegments: Int = 64, faults: FaultPlan? = nil
    ) -> (MemoryLink, MemoryLink) {
        let a = MemoryLink(address: first, sourcePort: 0xC000, maximumSegments: maximumSegments, faults: faults)
        let b = MemoryLink(address: second, sourcePort: 0xC001, maximumSegments: maximumSegments, faults: faults)
        a.peer = b
        b.peer = a
        return (a, b)
    }

    private init(address: GID, sourcePort: UInt16, maximumSegments: Int, faults: FaultPlan?) {
        self.address = address
        self.sourcePort = sourcePort
        self.maximumSegments = faults == nil ? maximumSegments : 1
        if let faults { self.faults = FaultStage(faults) }
        unsafe queue = .allocate(capacity: Self.queueMax)
    }

    deinit {
        release(upTo: tail)
        unsafe queue.deallocate()
    }

    package func receive() -> Int {
        release(upTo: head)
        batchStart = head
        head = min(tail, head + 16)
        counters.receivedDatagrams += UInt64(head - batchStart)
        return head - batchStart
    }

    package func datagram(_ index: Int) -> Datagram {
        precondition(index >= 0 && batchStart + index < head, "datagram out of range")
        return unsafe queue[(batchStart + index) % Self.queueMax]
    }

    package func send(_ bursts: UnsafeBufferPointer<Burst>) -> Int {
        guard var stage = faults.take() else {
            for index in bursts.indices { _ = sendOne(unsafe bursts[index]) }
            return bursts.count
        }
        var sink = self
        let done = unsafe stage.send(bursts, through: &sink, now: now)
        faults = consume stage
        return done
    }

    package func maintain(now: UInt64) -> UInt64 {
        self.now = now
        guard var stage = faults.take() else { return .max }
        var sink = self
        let next = stage.release(through: &sink, now: now)
        faults = consume stage
        return next
    }

    func sendOne(_ burst: Burst) -> Bool {
        guard let peer, burst.localIndex == 0, burst.destination == peer.address, burst.segmentSize > 0,
            peer.tail - peer.batchStart < Self.queueMax
        else {
            counters.sendErrors += 1
            return true
        }
        let copy = UnsafeMutableRawPointer.allocate(byteCount: burst.byteCount, alignment: 64)
        unsafe copy.copyMemory(from: burst.base, byteCount: burst.byteCount)
        unsafe (peer.queue + peer.tail % Self.queueMax).initialize(
            to: Datagram(
                base: UnsafeRawPointer(copy), byteCount: burst.byteCount, segmentSize: burst.segmentSize,
                firstSegment: 0, localIndex: 0, source: address, destination: burst.destination,
                sourcePort: sourcePort, trafficClass: burst.trafficClass))
        peer.tail += 1
        counters.sentBursts += 1
        counters.sentSegments += UInt64(burst.segmentCount)
        counters.sentBytes += UInt64(burst.byteCount)
        return true
    }

    /// Frees the datagrams of the last batch.
    private func release(upTo end: Int) {
        for index in batchStart..<end {
            unsafe UnsafeMutableRawPointer(mutating: queue[index % Self.queueMax].base).deallocate()
        }
        batchStart = end
    }
}
