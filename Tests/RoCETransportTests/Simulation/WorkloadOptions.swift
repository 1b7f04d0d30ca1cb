// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// All that a simulated run is made of, drawn from its seed.
struct WorkloadOptions: CustomStringConvertible {
    let seed: UInt64
    var network = NetworkOptions()
    var mtu: PathMTU
    var byteCountMax: Int
    var nodeCount: Int
    var queuePairCount: Int
    var operationCount: Int
    var depth: Int
    var usesSharedReceiveQueue: Bool
    var receiveDepth: Int
    var receiveReadiness: Double
    var signalProbability: Double
    var inlineMax: Int
    var scatterGatherMax: Int
    var readAtomicMax: UInt8
    var timeout: UInt8
    let retryCount: UInt8 = 7
    var rnrTimer: UInt8
    var sendPSN: UInt32
    var receivePSN: UInt32
    /// Where responders start to count messages: 0 in life, but the numbers wrap after 2²⁴ of them.
    var messageSequence: UInt32
    var outage: Outage?
    var ipv6: Bool
    var windowBytes: Int
    var quantumBytes: Int
    var segmentCountMax: Int
    var arenaByteCount: Int
    /// Requests behind a gap that are kept.
    var earlyPacketCountMax: Int
    /// Peers are of our own, and send only what was lost again.
    var repeatsSelectively: Bool
    /// XRC: a queue pair for each direction, receives from one shared queue for each node.
    var isExtended: Bool

    /// Whether so much is lost that eight transmissions in a row may fail, and a connection with them.
    var mayLoseConnection: Bool {
        network.loss + network.corruption > 0.04 || network.reordering > 0.2 || network.burstLoss != nil
    }

    /// The same for the connection between two nodes, one of which may be cut off for longer than the retries last.
    func mayLoseConnection(_ a: Int, _ b: Int) -> Bool {
        if mayLoseConnection { return true }
        guard let outage, outage.isPermanent else { return false }
        return a == outage.node || b == outage.node
    }

    init(seed: UInt64) {
        var g = SeededGenerator(seed: seed)
        self.seed = seed
        network = Self.drawNetwork(&g)
        mtu = g.pick(PathMTU.allCases)
        byteCountMax = g.pick([64, 700, 5_000, 5_000, 40_000])
        if byteCountMax == 40_000, mtu < .bytes1024 { mtu = .bytes1024 }
        nodeCount = g.pick([2, 2, 2, 2, 3, 3, 5, 8])
        queuePairCount = nodeCount > 3 ? 1 : g.pick([1, 1, 2])
        operationCount = byteCountMax > 10_000 ? 30 : g.pick([30, 60, 200])
        if nodeCount > 3 { operationCount = nodeCount > 5 ? 4 : 10 }
        depth = g.pick([1, 2, 8, 16])
        usesSharedReceiveQueue = g.chance(0.3)
        receiveDepth = g.pick([1, 4, 16])
        receiveReadiness = g.pick([1, 1, 0.5, 0.1])
        signalProbability = g.pick([1, 0.5, 0.1])
        inlineMax = g.pick([0, 64, 220])
        scatterGatherMax = g.pick([1, 3, 8])
        readAtomicMax = g.pick([1, 2, 4, 16])
        timeout = g.pick([7, 9, 12])
        // A queue that takes longer than the timeout would make every transmission the last.
        if network.bitsPerSecond > 0 { timeout = 12 }
        rnrTimer = g.pick([1, 4, 8])
        sendPSN = g.chance(0.5) ? 0xFF_FFF0 + UInt32(g.below(16)) : UInt32(g.below(1 << 24))
        receivePSN = g.chance(0.5) ? 0xFF_FFF0 + UInt32(g.below(16)) : UInt32(g.below(1 << 24))
        messageSequence = g.chance(0.5) ? 0xFF_FFF0 + UInt32(g.below(16)) : 0
        outage = Self.drawOutage(nodeCount: nodeCount, timeout: timeout, &g)
        // A message that is cut off keeps its shared receive, and others may wait for that one for ever.
        if outage?.isPermanent == true { usesSharedReceiveQueue = false }
        ipv6 = g.chance(0.3)
        windowBytes = g.pick([2_000, 16_384, 65_536])
        quantumBytes = g.pick([100, 9_000, 65_536])
        segmentCountMax = g.pick([1, 64])
        arenaByteCount = g.pick([8_192, 262_144])
        earlyPacketCountMax = g.pick([0, 3, 256, 256])
        repeatsSelectively = g.chance(0.5)
        isExtended = g.chance(0.15) && outage?.isPermanent != true
        if isExtended {
            usesSharedReceiveQueue = true
            repeatsSelectively = false
        }
    }

    private static func drawNetwork(_ g: inout SeededGenerator) -> NetworkOptions {
        var network = NetworkOptions()
        network.delayNanoseconds = g.pick([500, 2_000, 20_000])
        network.jitterNanoseconds = g.chance(0.5) ? 0 : g.pick([200, 3_000])
        switch g.below(5) {
        case 0: break
        case 1: network.loss = g.pick([0.01, 0.03])
        case 2:
            network.loss = g.pick([0, 0.02])
            network.duplication = g.pick([0.01, 0.1, 0.5])
            network.reordering = g.pick([0, 0.01, 0.1])
            network.corruption = g.pick([0, 0.01])
        case 3:
            network.burstLoss = BurstLoss(
                enter: g.pick([0.001, 0.01]), leave: g.pick([0.1, 0.3]), loss: g.pick([0.5, 1]))
            network.reordering = g.pick([0, 0.01])
        default:
            network.loss = g.pick([0.05, 0.1, 0.3])
            network.duplication = g.pick([0, 0.1])
            network.reordering = g.pick([0, 0.1, 0.5])
        }
        if g.chance(0.3) {
            network.bitsPerSecond = g.pick([1_000_000_000, 10_000_000_000, 100_000_000_000])
            network.queueBytes = g.pick([20_000, 100_000, .max])
            network.markBytes = g.pick([5_000, 50_000, .max])
        }
        if g.chance(0.2) { network.pollNanoseconds = g.pick([1_000, 10_000]) }
        if g.chance(0.1) {
            network.stall = 0.01
            network.stallNanoseconds = 200_000
        }
        return network
    }

    /// Most runs have none. A short one is over before the retries are spent.
    private static func drawOutage(nodeCount: Int, timeout: UInt8, _ g: inout SeededGenerator) -> Outage? {
        guard g.chance(0.15) else { return nil }
        let start: Timestamp = 1_000 + g.pick([0, 20_000, 200_000])
        let isPermanent = g.chance(0.5)
        let length = (4_096 << UInt64(timeout)) * UInt64(1 + g.below(3)) / 2
        return Outage(node: g.below(nodeCount), start: start, end: isPermanent ? .max : start + length)
    }

    var description: String {
        "seed \(seed): \(network), mtu \(mtu.byteCount), bytes \(byteCountMax), nodes \(nodeCount), "
            + "queue pairs \(queuePairCount), operations \(operationCount), depth \(depth), "
            + "srq \(usesSharedReceiveQueue), receives \(receiveDepth) at \(receiveReadiness), "
            + "signaled \(signalProbability), inline \(inlineMax), sge \(scatterGatherMax), "
            + "read atomic \(readAtomicMax), timeout \(timeout), rnr \(rnrTimer), "
            + "psn \(sendPSN) \(receivePSN), msn \(messageSequence), "
            + "outage \(outage.map { "\($0)" } ?? "none"), ipv6 \(ipv6), window \(windowBytes), quantum \(quantumBytes), "
            + "segments \(segmentCountMax), arena \(arenaByteCount), "
            + "early \(earlyPacketCountMax), selective \(repeatsSelectively), xrc \(isExtended)"
    }
}
