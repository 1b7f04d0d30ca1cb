// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// Nodes, a network and the clock.
final class SimulatedWorld {
    let nodes: [SimulatedNode]
    let network: SimulatedNetwork
    private(set) var now: Timestamp = 1_000
    /// Called after each round of a node, when completions are visible.
    var afterRound: ((Int) -> Void)?
    /// When the application wants its turn, besides.
    var applicationDeadline: (() -> Timestamp?)?

    init(nodes: [SimulatedNode], network: SimulatedNetwork) {
        self.nodes = nodes
        self.network = network
    }

    /// Moves the clock to the next thing that happens and lets it happen. `false` if nothing ever will.
    func step() -> Bool {
        var next = network.nextArrival
        for node in nodes {
            if let deadline = node.engine.pointee.nextDeadline { next = min(next ?? .max, deadline) }
        }
        if let deadline = applicationDeadline?() { next = min(next ?? .max, deadline) }
        guard let next else { return false }
        now = max(now, next)
        while let arrived = network.popArrived(now) {
            nodes[arrived.receiver].receive(arrived.bytes, from: arrived.origin, now: now)
        }
        for index in nodes.indices {
            nodes[index].engine.pointee.advance(to: now)
            round(index)
        }
        return true
    }

    /// Outputs of one node, in the order of the engine's grammar.
    func round(_ index: Int) {
        let node = nodes[index]
        repeat {
            let more = node.engine.pointee.transmit(into: &node.transmitQueue, now: now)
            network.send(&node.transmitQueue, now: now) { gid in nodes.firstIndex { $0.gid == gid } }
            if !more { break }
        } while true
        node.engine.pointee.publishCompletions()
        node.drainEvents()
        afterRound?(index)
    }

    /// Runs until `isDone`, or nothing happens any more, or the limits are reached.
    @discardableResult
    func run(stepMax: Int = 200_000, until isDone: () -> Bool) -> Bool {
        for index in nodes.indices { round(index) }
        for _ in 0..<stepMax {
            if isDone() { return true }
            if !step() { return isDone() }
        }
        return isDone()
    }
}
