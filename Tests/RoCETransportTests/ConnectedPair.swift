// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// Two nodes with one connected queue pair each, and a page of registered memory on both sides.
final class ConnectedPair {
    final class Side {
        let node: SimulatedNode
        let memory: UnsafeMutableRawBufferPointer
        let key: MemoryKey
        let sendCompletions: CompletionQueue
        let receiveCompletions: CompletionQueue
        let queues: QueuePairQueues

        init(_ node: SimulatedNode, _ change: (inout QueuePairCreation) -> Void, type: QueuePairType) {
            self.node = node
            memory = .allocate(byteCount: 1 << 17, alignment: 64)
            memory.initializeMemory(as: UInt8.self, repeating: 0)
            key = node.register(memory)
            sendCompletions = node.makeCompletionQueue(tag: 1)
            receiveCompletions = node.makeCompletionQueue(tag: 2)
            var creation = QueuePairCreation(
                type: type, protectionDomain: 1, sendCompletionQueue: sendCompletions,
                receiveCompletionQueue: receiveCompletions, tag: 3)
            change(&creation)
            queues = node.makeQueuePair(creation)
        }

        deinit { memory.deallocate() }

        func entry(_ offset: Int, _ length: Int) -> ScatterGatherEntry {
            ScatterGatherEntry(address: address(offset), length: UInt32(length), lkey: key.rawValue)
        }

        func address(_ offset: Int) -> UInt64 { UInt64(UInt(bitPattern: memory.baseAddress! + offset)) }

        func fill(_ range: Range<Int>, _ start: UInt8) {
            for (step, index) in range.enumerated() { memory[index] = start &+ UInt8(truncatingIfNeeded: step &* 7) }
        }
    }

    let a: Side
    let b: Side
    let world: SimulatedWorld

    init(
        type: QueuePairType = .rc, options: ConnectionOptions = ConnectionOptions(),
        network: NetworkOptions = NetworkOptions(), ipv6: Bool = false,
        configure: (inout EngineConfiguration) -> Void = { _ in },
        change: (inout QueuePairCreation) -> Void = { _ in }
    ) {
        a = Side(SimulatedNode(address: 0x0A01_0001, seed: 1, ipv6: ipv6, configure: configure), change, type: type)
        b = Side(SimulatedNode(address: 0x0A01_0002, seed: 2, ipv6: ipv6, configure: configure), change, type: type)
        world = SimulatedWorld(nodes: [a.node, b.node], network: SimulatedNetwork(options: network, seed: 3))
        var back = options
        swap(&back.sendPSN, &back.receivePSN)
        a.node.connect(a.queues.qpn, type: type, to: b.node.gid, b.queues.qpn, options)
        b.node.connect(b.queues.qpn, type: type, to: a.node.gid, a.queues.qpn, back)
    }

    /// Runs until nothing happens any more.
    func settle() { world.run(stepMax: 20_000) { false } }
}
