// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Messages for other processes' mailboxes that were full.
///
/// A Unix datagram socket queues `net.unix.max_dgram_qlen` messages (10 in a new network namespace) however large its
/// buffer, less than a batch of packets. So what does not fit waits here, in order for each receiver, a short time and
/// in bounded memory; a receiver that does not run loses it, and does not hold up the others.
@safe struct HandOverQueue: ~Copyable {
    static let capacity = 256
    /// When to try again.
    static let retryNanoseconds: UInt64 = 50_000
    private static let payloadBytesMax = 65_536

    struct Entry {
        var header: PeerMessage
        var byteCount: Int
        var localIndex: Int
        var target: UInt8
        /// Whose mailbox it is for instead of a slot's; `target` is 0 then.
        var service: ServiceID?
        var expires: UInt64
    }

    /// One place for each entry; the kernel backs it with memory only where it is used. Owned by the queue.
    private let payloads: UnsafeMutableRawPointer
    private var entries: [Entry?]
    private var head = 0
    private var tail = 0
    /// Receivers for whom something waits: what comes later must not overtake it.
    private var waiting = SlotSet()

    init() {
        unsafe payloads = .allocate(byteCount: Self.capacity * Self.payloadBytesMax, alignment: 4096)
        entries = [Entry?](repeating: nil, count: Self.capacity)
    }

    deinit { unsafe payloads.deallocate() }

    var isEmpty: Bool { head == tail }

    /// The positions that may hold an entry.
    var range: Range<Int> { head..<tail }

    func isWaiting(_ target: UInt8) -> Bool { waiting[target] }

    /// Copies a message, to be dropped at a time of CLOCK_MONOTONIC; `false` where there is no room.
    mutating func append(
        _ header: PeerMessage, bytes: UnsafeRawPointer?, count: Int, localIndex: Int, target: UInt8,
        service: ServiceID? = nil, expires: UInt64
    ) -> Bool {
        guard tail - head < Self.capacity, count <= Self.payloadBytesMax else { return false }
        let place = tail % Self.capacity
        if let bytes = unsafe bytes { unsafe payload(tail).copyMemory(from: bytes, byteCount: count) }
        entries[place] = Entry(
            header: header, byteCount: count, localIndex: localIndex, target: target,
            service: service, expires: expires)
        tail += 1
        waiting[target] = true
        return true
    }

    /// The entry at a position of ``range``; `nil` where it is done with.
    func entry(_ position: Int) -> Entry? { entries[position % Self.capacity] }

    /// The bytes of an entry, valid until it is removed.
    func payload(_ position: Int) -> UnsafeMutableRawPointer {
        unsafe payloads + position % Self.capacity * Self.payloadBytesMax
    }

    mutating func remove(_ position: Int) { entries[position % Self.capacity] = nil }

    /// After a pass over the entries: gives the places of those removed back.
    mutating func settle(stillWaiting: SlotSet) {
        waiting = stillWaiting
        while head < tail, entries[head % Self.capacity] == nil { head += 1 }
    }
}
