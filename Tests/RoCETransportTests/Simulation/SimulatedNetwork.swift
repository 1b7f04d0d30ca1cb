// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// A node that nothing reaches and from which nothing comes, for a time.
struct Outage: CustomStringConvertible {
    var node: Int
    var start: Timestamp
    /// `.max`: for ever.
    var end: Timestamp

    var isPermanent: Bool { end == .max }

    var description: String { "node \(node) from \(start) to \(isPermanent ? "the end" : "\(end)")" }
}

/// A frame as it enters the network.
struct SentFrame {
    var bytes: [UInt8]
    var origin: DatagramOrigin
    var sender: Int
    var receiver: Int
    var time: Timestamp
}

/// A network in virtual time: a switch with one link to each node, and the frames on their way, the earliest first.
final class SimulatedNetwork {
    private struct Flight {
        var time: Timestamp
        var order: UInt64 = 0
        /// It is at the switch, not yet at the receiver.
        var isAtSwitch = false
        var frame: SentFrame
    }

    /// Of links that have none of their own.
    private let options: NetworkOptions
    private var generator: SeededGenerator
    private var links: [SimulatedLink] = []
    private var heap: [Flight] = []
    private var order: UInt64 = 0
    /// When each node's own link to the switch is free.
    private var uplinkFree: [Int: Timestamp] = [:]
    private(set) var framesSent = 0
    /// What a node's own link to the switch carries, which its frames leave one after the other; 0 for no limit.
    var uplinkBitsPerSecond: UInt64 = 0
    var outage: Outage?
    /// Sees every frame before anything happens to it.
    var observer: ((SentFrame) -> Void)?
    /// Frames that are lost, whatever their link does.
    var filter: ((SentFrame) -> Bool)?

    init(options: NetworkOptions, seed: UInt64) {
        self.options = options
        generator = SeededGenerator(seed: seed)
    }

    var nextArrival: Timestamp? { heap.first?.time }

    /// The link to a node.
    func link(_ receiver: Int) -> SimulatedLink {
        prepareLinks(receiver)
        return links[receiver]
    }

    /// When a node runs, if not always.
    func slices(_ node: Int) -> RunSlices? { node < links.count ? links[node].options.slices : options.slices }

    /// Gives a node a link of its own kind.
    func setLink(_ receiver: Int, _ options: NetworkOptions) {
        prepareLinks(receiver)
        links[receiver] = SimulatedLink(options: options)
    }

    private func prepareLinks(_ receiver: Int) {
        while links.count <= receiver { links.append(SimulatedLink(options: options)) }
    }

    /// Sends all that a queue holds to the node with the burst's destination address.
    func send(_ queue: inout TransmitQueue, from sender: Int, now: Timestamp, receiverOf: (GID) -> Int?) {
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
                    segmentIndex: UInt16(segment), trafficClass: burst.path.trafficClass)
                framesSent += 1
                let frame = SentFrame(
                    bytes: Array(bytes[offset..<offset + count]), origin: origin, sender: sender, receiver: receiver,
                    time: now)
                observer?(frame)
                leave(frame)
                offset += count
                segment += 1
            }
        }
        queue.removeAll()
    }

    private func leave(_ frame: SentFrame) {
        if filter?(frame) == true { return }
        if let outage, frame.time >= outage.start, frame.time < outage.end,
            outage.node == frame.sender || outage.node == frame.receiver
        {
            return
        }
        guard uplinkBitsPerSecond > 0 else { return carry(frame) }
        let bits = UInt64(frame.bytes.count + SimulatedLink.overheadBytes) * 8
        let time = max(uplinkFree[frame.sender] ?? 0, frame.time) + bits * 1_000_000_000 / uplinkBitsPerSecond
        uplinkFree[frame.sender] = time
        var frame = frame
        frame.time = time
        push(Flight(time: time, isAtSwitch: true, frame: frame))
    }

    /// Over the link to the receiver.
    private func carry(_ frame: SentFrame) {
        prepareLinks(frame.receiver)
        let passage = links[frame.receiver].carry(
            byteCount: frame.bytes.count, isMarkable: frame.origin.trafficClass & 3 != 0, now: frame.time, &generator)
        guard let passage else { return }
        var frame = frame
        if passage.isCorrupted {
            for _ in 0...generator.below(3) {
                frame.bytes[generator.below(frame.bytes.count)] ^= UInt8(1 << generator.below(8))
            }
        }
        if passage.isMarked { frame.origin.trafficClass |= 3 }
        push(Flight(time: passage.arrival, frame: frame))
        if let copyArrival = passage.copyArrival { push(Flight(time: copyArrival, frame: frame)) }
    }

    /// The next frame that has arrived at `now`.
    func popArrived(_ now: Timestamp) -> SentFrame? {
        while let first = heap.first, first.time <= now {
            removeFirst()
            if !first.isAtSwitch { return first.frame }
            carry(first.frame)
        }
        return nil
    }

    private func removeFirst() {
        let last = heap.removeLast()
        if heap.isEmpty { return }
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
