// SPDX-License-Identifier: Apache-2.0
import Verbs

// What `--validate` adds to a run: each message has bytes of its own, and a place of its own while it is in flight.
extension BandwidthRun {
    /// Gives the next message its bytes, or clears the place for what a READ brings.
    @inline(never)
    func prepare(_ lane: UnsafeMutablePointer<Lane>, _ index: Int) {
        // Inside the region; no request in flight uses the place, which there are as many of as the queue is deep.
        let bytes = unsafe endpoint.bytes(at: lane.pointee.local.address, count: size)
        switch plan.test.operation {
        case .send, .write: unsafe PayloadPattern(queuePair: index, message: lane.pointee.posted).fill(bytes)
        case .read: unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
        case .atomic: unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0xFF)
        }
    }

    /// Checks what READs and atomics brought; they complete in order.
    @inline(never)
    func checkResults(_ lane: UnsafeMutablePointer<Lane>, _ index: Int, count: Int) {
        guard plan.test.isResponderPassive else { return }
        let ring = endpoint.sendRing(index, size: size)
        for message in unsafe lane.pointee.completed..<(lane.pointee.completed + count) {
            let bytes = unsafe UnsafeRawBufferPointer(endpoint.bytes(at: ring.address(of: message), count: size))
            let slots = unsafe lane.pointee.remote.count
            if plan.test.operation == .read {
                let pattern = PayloadPattern(queuePair: index, message: Int(UInt64(message) % slots))
                unsafe endpoint.check.add(pattern.firstDifference(in: bytes))
            } else {
                let turn = AtomicTurn(message: message, cycleSlots: slots)
                let found = unsafe bytes.loadUnaligned(as: UInt64.self)
                endpoint.check.add(found == turn.value ? nil : 0)
            }
        }
    }

    /// Checks a received message before its place is posted again.
    @inline(never)
    func checkMessage(_ completion: WorkCompletion) {
        // With a shared queue the id names the place alone; which sender it was, the queue pair tells.
        let index = laneIndex(completion)
        let ring = endpoint.receiveRing(index, size: size)
        let header = plan.connection == .ud ? BufferLayout.headerBytes : 0
        guard completion.byteCount == size + header else { return endpoint.check.add(0) }
        let bytes = unsafe UnsafeRawBufferPointer(
            endpoint.bytes(at: ring.address(of: Int(completion.id >> 32)) + UInt64(header), count: size))
        let expected = unsafe checkedMessages[index]
        if let found = unsafe number(of: bytes, index, around: expected) {
            unsafe checkedMessages[index] = max(expected, found + 1)
            endpoint.check.add(nil)
        } else {
            unsafe checkedMessages[index] = expected + 1
            unsafe endpoint.check.add(
                PayloadPattern(queuePair: index, message: expected).firstDifference(in: bytes))
        }
    }

    /// Messages of an unreliable transport may be missing or overtake each other by as many at most.
    private static let displacementMax = 4096

    /// Which message the bytes are: over RC it must be the expected one.
    private func number(of bytes: UnsafeRawBufferPointer, _ index: Int, around expected: Int) -> Int? {
        func matches(_ message: Int) -> Bool {
            unsafe PayloadPattern(queuePair: index, message: message).firstDifference(in: bytes) == nil
        }
        if matches(expected) { return expected }
        guard plan.connection != .rc else { return nil }
        return (1...Self.displacementMax).lazy.flatMap { [expected + $0, expected - $0] }.first {
            $0 >= 0 && matches($0)
        }
    }

    private func laneIndex(_ completion: WorkCompletion) -> Int {
        guard endpoint.queues.hasSharedReceives else { return Int(truncatingIfNeeded: completion.id & 0xFFFF_FFFF) }
        return (0..<plan.queuePairs).first { unsafe queuePairs[$0].number == completion.queuePair } ?? 0
    }
}
