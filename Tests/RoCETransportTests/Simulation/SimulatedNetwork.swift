// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// What the network does to frames.
struct NetworkOptions: CustomStringConvertible {
    var loss = 0.0
    var duplication = 0.0
    var reordering = 0.0
    var corruption = 0.0
    var delayNanoseconds: UInt64 = 1_000
    var jitterNanoseconds: UInt64 = 0

    var description: String {
        "loss \(loss) duplication \(duplication) reordering \(reordering) corruption \(corruption) "
            + "delay \(delayNanoseconds)+\(jitterNanoseconds) ns"
    }
}

/// A network in virtual time: frames on their way, the earliest first.
///
/// Frames to one node stay in order, whatever the jitter, but for `reordering`, which holds one back.
final class SimulatedNetwork {
    private struct Flight {
        var time: Timestamp
        var order: UInt64
        var receiver: Int
        var origin: DatagramOrigin
        var bytes: [UInt8]
    }

    var options: NetworkOptions
    private var generator: SeededGenerator
    private var heap: [Flight] = []
    private var order: UInt64 = 0
    private var latest: [Int: Timestamp] = [:]
    private(set) var framesSent = 0

    init(options: NetworkOptions, seed: UInt64) {
        self.options = options
        generator = SeededGenerator(seed: seed)
    }

    var nextArrival: Timestamp? { heap.first?.time }

    /// Sends all that a queue holds to the node with the burst's destination address.
    func send(_ queue: inout TransmitQueue, now: Timestamp, receiverOf: (GID) -> Int?) {
        for index in 0..<queue.count {
            let burst = queue.burst(index)
            guard let receiver = receiverOf(burst.path.destination) else { continue }
            let bytes = queue.bytes(of: burst)
            var segment = 0
            var offset = 0
            while offset < burst.byteCount {
                let count = min(burst.segmentSize, burst.byteCount - offset)
                let origin = DatagramOrigin(
                    source: burst.path.source, sourcePort: burst.path.sourcePort, localIndex: 0,
                    segmentIndex: UInt16(segment))
                framesSent += 1
                carry(Array(bytes[offset..<offset + count]), origin, to: receiver, now)
                offset += count
                segment += 1
            }
        }
        queue.removeAll()
    }

    private func carry(_ bytes: [UInt8], _ origin: DatagramOrigin, to receiver: Int, _ now: Timestamp) {
        if generator.chance(options.loss) { return }
        var bytes = bytes
        if generator.chance(options.corruption) {
            for _ in 0...generator.below(3) {
                bytes[generator.below(bytes.count)] ^= UInt8(1 << generator.below(8))
            }
        }
        var time = now + options.delayNanoseconds
        if options.jitterNanoseconds > 0 { time += generator.next() % options.jitterNanoseconds }
        // Frames do not overtake each other of themselves.
        time = max(time, latest[receiver, default: 0])
        latest[receiver] = time
        if generator.chance(options.reordering) {
            time += 1 + generator.next() % (4 * options.delayNanoseconds + 2_000)
        }
        push(Flight(time: time, order: order, receiver: receiver, origin: origin, bytes: bytes))
        if generator.chance(options.duplication) {
            let later = time + generator.next() % (2 * options.delayNanoseconds + 1)
            push(Flight(time: later, order: order, receiver: receiver, origin: origin, bytes: bytes))
        }
    }

    /// The next frame that has arrived at `now`.
    func popArrived(_ now: Timestamp) -> (receiver: Int, origin: DatagramOrigin, bytes: [UInt8])? {
        guard let first = heap.first, first.time <= now else { return nil }
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            var index = 0
            while true {
                var least = index
                for child in [2 * index + 1, 2 * index + 2] where child < heap.count && isBefore(child, least) {
                    least = child
                }
                if least == index { break }
                heap.swapAt(index, least)
                index = least
            }
        }
        return (first.receiver, first.origin, first.bytes)
    }

    private func push(_ flight: Flight) {
        order += 1
        heap.append(flight)
        heap[heap.count - 1].order = order
        var index = heap.count - 1
        while index > 0, isBefore(index, (index - 1) / 2) {
            heap.swapAt(index, (index - 1) / 2)
            index = (index - 1) / 2
        }
    }

    private func isBefore(_ a: Int, _ b: Int) -> Bool {
        (heap[a].time, heap[a].order) < (heap[b].time, heap[b].order)
    }
}
