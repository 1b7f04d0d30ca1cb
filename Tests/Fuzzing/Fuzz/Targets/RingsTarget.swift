// SPDX-License-Identifier: Apache-2.0
import RoCETransport

extension FuzzTarget {
    /// An application that writes to work requests after it has posted them, while the engine works on them. (The rings'
    /// headers hold pointers: whoever can write there needs no ring.)
    static let rings = FuzzTarget(name: "rings", seeds: { engine.seeds($0) }) { bytes in
        var input = FuzzInput(bytes)
        let world = FuzzWorld(&input, isHonest: false)
        for _ in 0..<FuzzWorld.stepCountMax where !input.isAtEnd {
            if input.oneIn(3) { world.scribble(&input) }
            world.step(&input)
        }
        world.finish()
    }
}

extension FuzzWorld {
    /// Overwrites a few bytes of one slot, posted or not.
    fileprivate func scribble(_ input: inout FuzzInput) {
        let queues = input.pick(queuePairs).queues
        let place = input.below(8)
        if input.oneIn(2) {
            let slot = queues.sendQueue.slot(place)
            overwrite(slot, before: queues.sendQueue.inlineData(of: slot) + queues.sendQueue.inlineMax, &input)
        } else {
            let slot = queues.receiveQueue.slot(place)
            let list = queues.receiveQueue.scatterGatherList(of: slot)
            overwrite(slot, before: list + queues.receiveQueue.scatterGatherMax, &input)
        }
    }

    private func overwrite(
        _ start: UnsafeMutableRawPointer, before end: UnsafeMutableRawPointer, _ input: inout FuzzInput
    ) {
        let byteCount = end - start
        let offset = input.below(byteCount)
        for (step, byte) in input.take(min(1 + input.below(16), byteCount - offset)).enumerated() {
            start.storeBytes(of: byte, toByteOffset: offset + step, as: UInt8.self)
        }
    }
}
