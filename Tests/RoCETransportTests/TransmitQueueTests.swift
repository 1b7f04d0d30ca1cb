// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

@testable import RoCETransport

@Suite("The transmit queue") struct TransmitQueueTests {
    private let path = TransmitPath(
        source: GID(ipv4: 0x0A00_0001), destination: GID(ipv4: 0x0A00_0002), sourcePort: 50_000, localIndex: 0)

    private func add(
        _ byteCount: Int, to queue: inout TransmitQueue, path: TransmitPath? = nil, endsMessage: Bool = true
    ) -> Bool {
        guard var room = queue.reserve(byteCount: byteCount) else { return false }
        for offset in 0..<byteCount { room.storeBytes(of: UInt8(offset & 0xFF), toByteOffset: offset, as: UInt8.self) }
        queue.commit(byteCount: byteCount, path: path ?? self.path, endsMessage: endsMessage)
        return true
    }

    private func shapes(_ queue: borrowing TransmitQueue) -> [String] {
        (0..<queue.count).map { index in
            let burst = queue.burst(index)
            return "\(burst.segmentCount)x\(burst.segmentSize)=\(burst.byteCount)"
        }
    }

    @Test("Equal frames of one way make a burst, which a shorter one that ends a message closes")
    func bursts() {
        var queue = TransmitQueue()
        for size in [1000, 1000, 1000, 600, 600] { #expect(add(size, to: &queue)) }
        #expect(shapes(queue) == ["4x1000=3600", "1x600=600"])
    }

    @Test("A shorter frame that ends no message starts a burst, as does a longer one or one to another peer")
    func separate() {
        var queue = TransmitQueue()
        #expect(add(1000, to: &queue))
        #expect(add(900, to: &queue, endsMessage: false))
        #expect(add(900, to: &queue))
        #expect(add(1000, to: &queue))
        var other = path
        other.destination = GID(ipv4: 9)
        #expect(add(1000, to: &queue, path: other))
        #expect(shapes(queue) == ["1x1000=1000", "2x900=1800", "1x1000=1000", "1x1000=1000"])
    }

    @Test("Frames to our own address, for processes that take them so, have no ICRC and no company of others")
    func unsealed() {
        let host = TransmitPath(source: path.source, destination: path.source, sourcePort: 50_000, localIndex: 2)
        var queue = TransmitQueue()
        func addFrame(slot: UInt8, path: TransmitPath, _ queue: inout TransmitQueue) {
            var room = queue.reserve(byteCount: 100)!
            for offset in 0..<100 { room.storeBytes(of: 0xEE, toByteOffset: offset, as: UInt8.self) }
            room.storeBytes(of: slot, toByteOffset: 5, as: UInt8.self)
            queue.commit(byteCount: 100, path: path, endsMessage: true)
        }
        queue.setUnsealed(true, localIndex: 2, slot: 7)
        queue.setUnsealed(true, localIndex: 2, slot: 8)
        queue.setUnsealed(true, localIndex: 99, slot: 8)
        for slot: UInt8 in [7, 7, 8, 9, 9] { addFrame(slot: slot, path: host, &queue) }
        addFrame(slot: 7, path: path, &queue)
        var other = host
        other.localIndex = 3
        addFrame(slot: 7, path: other, &queue)
        queue.setUnsealed(false, localIndex: 2, slot: 7)
        addFrame(slot: 7, path: host, &queue)

        let bursts = (0..<queue.count).map { queue.burst($0) }
        #expect(bursts.map(\.segmentCount) == [2, 1, 2, 1, 1, 1])
        #expect(bursts.map(\.isSealed) == [false, false, true, true, true, true])
        for burst in bursts {
            let trailer = Array(queue.bytes(of: burst)).suffix(4)
            #expect(Array(trailer) == [0, 0, 0, 0] || burst.isSealed)
        }
    }

    @Test("A burst has at most 64 frames and 65,000 bytes, or as many as the link permits")
    func limits() {
        var small = TransmitQueue()
        for _ in 0..<65 { #expect(add(100, to: &small)) }
        #expect(shapes(small) == ["64x100=6400", "1x100=100"])
        var large = TransmitQueue()
        for _ in 0..<16 { #expect(add(4_128, to: &large)) }
        #expect(shapes(large) == ["15x4128=61920", "1x4128=4128"])
        var single = TransmitQueue(segmentCountMax: 1)
        for _ in 0..<3 { #expect(add(100, to: &single)) }
        let count = single.count
        #expect(count == 3)
    }

    @Test("Frame i of a burst has the ICRC of IPv4 identification i, and of 0 when it is to go alone")
    func seals() {
        var queue = TransmitQueue()
        for _ in 0..<5 { #expect(add(400, to: &queue)) }
        let flow = ICRC.Flow(source: path.source, destination: path.destination, sourcePort: path.sourcePort)
        for round in 0..<2 {
            let burst = queue.burst(0)
            let bytes = Array(queue.bytes(of: burst))
            for index in 0..<5 {
                let frame = Array(bytes[index * 400..<index * 400 + 400])
                let seed = ICRC.seed(
                    flow, udpPayloadByteCount: 400, identification: round == 0 ? UInt16(index) : 0)
                let isValid = ICRC.isValid(frame.span.bytes, seed)
                #expect(isValid)
            }
            queue.sealFirstBurstSingly()
        }
    }

    @Test("A full queue takes nothing until the link has emptied it, and keeps what the link did not send")
    func full() {
        var queue = TransmitQueue(arenaByteCount: 10_000, burstCountMax: 4, segmentCountMax: 2)
        for _ in 0..<8 { _ = add(1000, to: &queue) }
        let count = queue.count
        #expect(count == 4)
        #expect(!add(1000, to: &queue))
        queue.removeFirst(3)
        #expect(shapes(queue) == ["1x1000=1000"], "the last burst is not joined, it could need another")
        #expect(!add(9_000, to: &queue), "room comes back when all is gone")
        queue.removeFirst(9)
        let isEmpty = queue.isEmpty
        #expect(isEmpty)
        #expect(add(9_000, to: &queue))
    }

    @Test("An idle queue pair takes less than 4 KiB beside its queues")
    func footprint() {
        let configuration = EngineConfiguration(slot: 1)
        let saved = configuration.readAtomicMax * MemoryLayout<SavedResponse>.stride
        let reads = configuration.readAtomicMax * MemoryLayout<ReadProgress>.stride
        #expect(MemoryLayout<QueuePair>.size + saved + reads < 4096)
        #expect(MemoryLayout<SendProgress>.stride <= 24)
    }
}
