// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// Nodes, a network and the clock.
final class SimulatedWorld {
    let nodes: [SimulatedNode]
    let network: SimulatedNetwork
    private let indexOf: [GID: Int]
    /// Nodes that something happened to in this step.
    private var isTouched: [Bool]
    private(set) var now: Timestamp = 1_000
    /// Called after each round of a node, when completions are visible.
    var afterRound: ((Int) -> Void)?
    /// When the applications want their turn, besides.
    private var wakeUp: Timestamp?

    init(nodes: [SimulatedNode], network: SimulatedNetwork) {
        self.nodes = nodes
        self.network = network
        indexOf = Dictionary(uniqueKeysWithValues: nodes.enumerated().map { ($1.gid, $0) })
        isTouched = nodes.map { _ in false }
    }

    /// Lets every node make a round at that time, or before.
    func wake(at time: Timestamp) { wakeUp = min(wakeUp ?? .max, time) }

    /// Moves the clock to the next thing that happens and lets it happen. `false` if nothing ever will.
    func step() -> Bool {
        var next = network.nextArrival
        for index in nodes.indices {
            if let deadline = deadline(index) { next = min(next ?? .max, deadline) }
        }
        if let wakeUp { next = min(next ?? .max, wakeUp) }
        guard let next else { return false }
        now = max(now, next)
        let isTurn = wakeUp.map { $0 <= now } ?? false
        if isTurn { wakeUp = nil }
        for index in nodes.indices {
            isTouched[index] = isTurn && isRunning(index) || deadline(index).map { $0 <= now } ?? false
        }
        while let arrived = network.popArrived(now) {
            isTouched[arrived.receiver] = true
            nodes[arrived.receiver].receive(arrived.bytes, from: arrived.origin, now: now)
        }
        for index in nodes.indices where isTouched[index] {
            nodes[index].engine.pointee.advance(to: now)
            round(index)
        }
        return true
    }

    private func isRunning(_ index: Int) -> Bool { network.slices(index).map { $0.next(from: now) == now } ?? true }

    /// When a node's next timer is seen to.
    private func deadline(_ index: Int) -> Timestamp? {
        guard let deadline = nodes[index].engine.pointee.nextDeadline else { return nil }
        return network.slices(index)?.next(from: max(deadline, now)) ?? deadline
    }

    /// Outputs of one node, in the order of the engine's grammar.
    func round(_ index: Int) {
        let node = nodes[index]
        repeat {
            let more = node.engine.pointee.transmit(into: &node.transmitQueue, now: now)
            network.send(&node.transmitQueue, from: index, now: now) { indexOf[$0] }
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
