// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// What all queue pairs of an engine share, and their functions are lent: limits, counters, memory and the completion
/// queues with something to show.
@safe struct EngineCore: ~Copyable {
    let configuration: EngineConfiguration
    var counters = EngineCounters()
    var memory: MemoryTable
    var early: EarlyPacketPool
    var extendedQueues = ExtendedQueueTable()
    var habit = AnswerHabit()
    var hosts: HostShares
    /// The time of the call into the engine.
    var now: Timestamp = 0
    /// Completion queues with unpublished entries, linked through their headers.
    var dirty: CompletionQueue?
    /// Shared receive queues whose limit was reached, linked through their headers.
    var limitReached: ReceiveQueue?
    /// Local addresses, by index; allocated here, freed in `deinit`.
    let addresses: UnsafeMutablePointer<LocalAddress?>

    init(configuration: EngineConfiguration) {
        self.configuration = configuration
        memory = MemoryTable(countMax: configuration.memoryKeyCountMax, checked: configuration.checkedMemory)
        hosts = HostShares(bytesMax: configuration.hostBytesMax)
        early = EarlyPacketPool(slotCountMax: configuration.earlyPacketPoolCountMax)
        unsafe addresses = .allocate(capacity: configuration.localAddressCountMax)
        unsafe addresses.initialize(repeating: nil, count: configuration.localAddressCountMax)
    }

    deinit { unsafe addresses.deallocate() }

    /// The local address at an index from anywhere; `nil` if there is none.
    @inline(__always)
    func address(_ index: UInt8) -> LocalAddress? {
        guard Int(index) < configuration.localAddressCountMax else { return nil }
        return unsafe addresses[Int(index)]
    }

    /// Whether an address is one of our own, and so the peer is on this host.
    func isOurs(_ gid: GID) -> Bool {
        for index in 0..<configuration.localAddressCountMax {
            if let local = unsafe addresses[index], local.gid == gid { return true }
        }
        return false
    }

    /// Writes a completion, to be seen after `publishCompletions()`.
    @inline(__always)
    mutating func complete(_ queue: CompletionQueue, _ entry: CompletionEntry, solicited: Bool = false) {
        if !queue.write(entry, solicited: solicited) {
            counters.completionsLost &+= 1
            unsafe queue.header.pointee.hasOverflowed = true
        }
        if unsafe !queue.header.pointee.isDirty {
            unsafe queue.header.pointee.isDirty = true
            unsafe queue.header.pointee.nextDirty = dirty
            dirty = queue
        }
    }

    /// Takes a receive work request, and notes it if that reaches a shared queue's limit.
    mutating func take(
        from queue: ReceiveQueue, into list: UnsafeMutablePointer<ScatterGatherEntry>
    ) -> ReceiveWorkRequest? {
        guard let request = unsafe queue.take(into: list) else { return nil }
        let limit = unsafe queue.header.pointee.limit
        if limit != 0, queue.available < limit {
            unsafe queue.header.pointee.limit = 0
            if unsafe !queue.header.pointee.limitReached {
                unsafe queue.header.pointee.limitReached = true
                unsafe queue.header.pointee.nextLimitReached = limitReached
                limitReached = queue
            }
        }
        return request
    }
}
