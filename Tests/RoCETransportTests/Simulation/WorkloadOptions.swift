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
    var rnrTimer: UInt8
    var sendPSN: UInt32
    var receivePSN: UInt32
    var ipv6: Bool
    var windowBytes: Int
    var quantumBytes: Int
    var segmentCountMax: Int
    var arenaByteCount: Int

    /// Whether so much is lost that eight transmissions in a row may fail, and a connection with them.
    var mayLoseConnection: Bool { network.loss + network.corruption > 0.04 || network.reordering > 0.2 }

    init(seed: UInt64) {
        var g = SeededGenerator(seed: seed)
        self.seed = seed
        network.delayNanoseconds = g.pick([500, 2_000, 20_000])
        network.jitterNanoseconds = g.chance(0.5) ? 0 : g.pick([200, 3_000])
        switch g.below(4) {
        case 0: break
        case 1: network.loss = g.pick([0.01, 0.03])
        case 2:
            network.loss = g.pick([0, 0.02])
            network.duplication = g.pick([0.01, 0.1, 0.5])
            network.reordering = g.pick([0, 0.01, 0.1])
            network.corruption = g.pick([0, 0.01])
        default:
            network.loss = g.pick([0.05, 0.1, 0.3])
            network.duplication = g.pick([0, 0.1])
            network.reordering = g.pick([0, 0.1, 0.5])
        }
        mtu = g.pick(PathMTU.allCases)
        byteCountMax = g.pick([64, 700, 5_000, 5_000, 40_000])
        if byteCountMax == 40_000, mtu < .bytes1024 { mtu = .bytes1024 }
        nodeCount = g.pick([2, 2, 2, 3])
        queuePairCount = g.pick([1, 1, 2])
        operationCount = byteCountMax > 10_000 ? 30 : g.pick([30, 60, 200])
        depth = g.pick([1, 2, 8, 16])
        usesSharedReceiveQueue = g.chance(0.3)
        receiveDepth = g.pick([1, 4, 16])
        receiveReadiness = g.pick([1, 1, 0.5, 0.1])
        signalProbability = g.pick([1, 0.5, 0.1])
        inlineMax = g.pick([0, 64, 220])
        scatterGatherMax = g.pick([1, 3, 8])
        readAtomicMax = g.pick([1, 2, 4, 16])
        timeout = g.pick([7, 9, 12])
        rnrTimer = g.pick([1, 4, 8])
        sendPSN = g.chance(0.5) ? 0xFF_FFF0 + UInt32(g.below(16)) : UInt32(g.below(1 << 24))
        receivePSN = g.chance(0.5) ? 0xFF_FFF0 + UInt32(g.below(16)) : UInt32(g.below(1 << 24))
        ipv6 = g.chance(0.3)
        windowBytes = g.pick([2_000, 16_384, 65_536])
        quantumBytes = g.pick([100, 9_000, 65_536])
        segmentCountMax = g.pick([1, 64])
        arenaByteCount = g.pick([8_192, 262_144])
    }

    var description: String {
        "seed \(seed): \(network), mtu \(mtu.byteCount), bytes \(byteCountMax), nodes \(nodeCount), "
            + "queue pairs \(queuePairCount), operations \(operationCount), depth \(depth), "
            + "srq \(usesSharedReceiveQueue), receives \(receiveDepth) at \(receiveReadiness), "
            + "signaled \(signalProbability), inline \(inlineMax), sge \(scatterGatherMax), "
            + "read atomic \(readAtomicMax), timeout \(timeout), rnr \(rnrTimer), "
            + "psn \(sendPSN) \(receivePSN), ipv6 \(ipv6), window \(windowBytes), quantum \(quantumBytes), "
            + "segments \(segmentCountMax), arena \(arenaByteCount)"
    }
}
