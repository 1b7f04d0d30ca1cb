// SPDX-License-Identifier: Apache-2.0

/// A shared receive queue of XRC, and where its receives complete.
struct ExtendedQueue {
    /// What peers name it by, 24 bits: its place, and above that how many the engine had made, so that a number is not
    /// soon given again.
    let number: UInt32
    let xrcDomain: UInt32
    let queue: ReceiveQueue
    let completionQueue: CompletionQueue
}

/// The shared receive queues of XRC by number. The places are those of the engine's table of shared receive queues.
struct ExtendedQueueTable {
    private var places: [ExtendedQueue?] = []
    private var madeCount: UInt32 = 0
    private static let placeBits: UInt32 = 12
    /// The places that a number can say.
    static let countMax = 1 << 12

    /// The queue with this number.
    @inline(__always)
    func find(_ number: UInt32) -> ExtendedQueue? {
        let place = Int(number & (1 << Self.placeBits - 1))
        guard place < places.count, let found = places[place], found.number == number else { return nil }
        return found
    }

    /// Gives a queue a number, never 0.
    mutating func insert(_ queue: ReceiveQueue, _ completionQueue: CompletionQueue, xrcDomain: UInt32) -> UInt32 {
        let place = unsafe queue.header.pointee.index
        while places.count <= Int(place) { places.append(nil) }
        // 1...4095, over and over.
        let generation = madeCount % 4095 + 1
        madeCount &+= 1
        let number = generation << Self.placeBits | place
        places[Int(place)] = ExtendedQueue(
            number: number, xrcDomain: xrcDomain, queue: queue, completionQueue: completionQueue)
        return number
    }

    /// Whether a shared receive queue is one of XRC.
    func has(_ queue: ReceiveQueue) -> Bool {
        let place = unsafe Int(queue.header.pointee.index)
        return place < places.count && places[place] != nil
    }

    /// Takes a queue out, if it is one of XRC.
    mutating func remove(_ queue: ReceiveQueue) -> ExtendedQueue? {
        let place = unsafe Int(queue.header.pointee.index)
        guard place < places.count, let found = places[place] else { return nil }
        places[place] = nil
        return found
    }
}

/// What a queue pair of XRC has in the place of queues that it has not: nothing is ever posted or completed there.
struct VacantQueues {
    let receiveQueue: ReceiveQueue
    let completionQueue: CompletionQueue

    init(configuration: EngineConfiguration) {
        receiveQueue = ReceiveQueue(
            capacity: 1, scatterGatherMax: configuration.scatterGatherMax, index: ReceiveQueue.unshared,
            protectionDomain: 0, tag: 0)
        completionQueue = CompletionQueue(capacity: 1, index: .max, tag: 0)
    }

    func deallocate() {
        receiveQueue.deallocate()
        completionQueue.deallocate()
    }
}
