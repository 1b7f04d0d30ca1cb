// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// A completion queue: the ring between the engine and the one thread that polls at a time.
///
/// The value is a handle, as ``SendQueue``. The engine writes entries ahead and shows them all at once in
/// `Engine.publishCompletions()`, so that acknowledgements leave before a receive completion is seen.
///
/// - `producer`: written by the engine (release, after the entries), read by the poller (acquire).
/// - `consumer`: written by the poller (release, after it copied the entries), read by the engine (acquire).
/// - `arming`: set by the poller, taken by the engine. Both put a full fence between their store and their load
///   (arm then look at `producer`; publish then look at `arming`), so at least one of them sees the other.
@safe public struct CompletionQueue: @unchecked Sendable {
    /// What the poller wants to be told about.
    @usableFromInline
    enum Arming {
        @usableFromInline static var none: UInt32 { 0 }
        /// A receive whose sender asked for it (solicited), or an error.
        @usableFromInline static var solicited: UInt32 { 1 }
        @usableFromInline static var any: UInt32 { 2 }
    }

    @usableFromInline
    @safe struct Header: ~Copyable {
        @usableFromInline let producer = Atomic<UInt32>(0)
        let padding = InlineArray<15, UInt32>(repeating: 0)
        @usableFromInline let consumer = Atomic<UInt32>(0)
        @usableFromInline let arming = Atomic<UInt32>(0)
        /// Replaced by a resize, which the caller keeps apart from polling.
        @usableFromInline var mask: UInt32
        @usableFromInline var entries: UnsafeMutablePointer<CompletionEntry>
        let index: UInt32
        let tag: UInt
        // The engine's own, never read by the poller.
        /// Index after the last written entry, published or not.
        var written: UInt32 = 0
        /// `consumer` as last read.
        var consumerSeen: UInt32 = 0
        /// An entry since the last publication is solicited or an error.
        var solicited = false
        var isDirty = false
        var hasOverflowed = false
        var nextDirty: CompletionQueue?
        /// The application is to be told: a bit each for completion and for overflow.
        var events: UInt8 = 0
        var nextWithEvents: CompletionQueue?
        /// Halves of queue pairs that use it.
        var userCount = 0

        init(mask: UInt32, entries: UnsafeMutablePointer<CompletionEntry>, index: UInt32, tag: UInt) {
            self.mask = mask
            unsafe self.entries = unsafe entries
            self.index = index
            self.tag = tag
        }
    }

    /// Allocated by the engine; valid until the queue is destroyed.
    @usableFromInline let header: UnsafeMutablePointer<Header>

    // MARK: Polling

    /// Entries the queue holds.
    @inlinable public var capacity: Int { unsafe Int(header.pointee.mask) + 1 }

    /// Published entries that were not polled.
    @inlinable public var count: Int {
        unsafe Int(
            header.pointee.producer.load(ordering: .acquiring) &- header.pointee.consumer.load(ordering: .relaxed))
    }

    /// Copies up to `limit` entries out and frees them; returns how many. `struct ibv_wc` has the entries' layout.
    @inlinable public func poll(into entries: UnsafeMutablePointer<CompletionEntry>, limit: Int) -> Int {
        let consumer = unsafe header.pointee.consumer.load(ordering: .relaxed)
        let available = unsafe Int(header.pointee.producer.load(ordering: .acquiring) &- consumer)
        let taken = min(available, limit)
        if taken <= 0 { return 0 }
        for offset in 0..<taken {
            unsafe entries[offset] =
                header.pointee.entries[Int((consumer &+ UInt32(truncatingIfNeeded: offset)) & header.pointee.mask)]
        }
        unsafe header.pointee.consumer.store(consumer &+ UInt32(truncatingIfNeeded: taken), ordering: .releasing)
        return taken
    }

    /// Asks for one ``Event/completion(tag:)`` at the next entry published; poll once more after it, as with
    /// `ibv_req_notify_cq`. A wish for any entry is not narrowed by a later one for solicited entries.
    @inlinable public func arm(solicitedOnly: Bool) {
        if solicitedOnly {
            _ = unsafe header.pointee.arming.compareExchange(
                expected: Arming.none, desired: Arming.solicited, ordering: .relaxed)
        } else {
            unsafe header.pointee.arming.store(Arming.any, ordering: .relaxed)
        }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    // MARK: Engine

    init(capacity: Int, index: UInt32, tag: UInt) {
        let count = RingCapacity.rounded(capacity)
        let entries = UnsafeMutablePointer<CompletionEntry>.allocate(capacity: count)
        unsafe entries.initialize(
            repeating: CompletionEntry(id: 0, status: .success, operation: .send, qpn: 0), count: count)
        let header = UnsafeMutablePointer<Header>.allocate(capacity: 1)
        unsafe header.initialize(to: Header(mask: UInt32(count - 1), entries: entries, index: index, tag: tag))
        unsafe self.header = unsafe header
    }

    /// Frees the ring; no handle may be used after it.
    func deallocate() {
        unsafe header.pointee.entries.deallocate()
        unsafe header.deinitialize(count: 1)
        unsafe header.deallocate()
    }

    /// Writes an entry, unpublished. `false` if the queue is full: the entry is lost.
    @inline(__always)
    func write(_ entry: CompletionEntry, solicited: Bool) -> Bool {
        let written = unsafe header.pointee.written
        if unsafe written &- header.pointee.consumerSeen > header.pointee.mask {
            unsafe header.pointee.consumerSeen = header.pointee.consumer.load(ordering: .acquiring)
            if unsafe written &- header.pointee.consumerSeen > header.pointee.mask { return false }
        }
        unsafe header.pointee.entries[Int(written & header.pointee.mask)] = entry
        unsafe header.pointee.written = written &+ 1
        if solicited || entry.status != .success { unsafe header.pointee.solicited = true }
        return true
    }

    /// Shows all written entries. `true` if the queue was armed for one of them.
    func publish() -> Bool {
        unsafe header.pointee.producer.store(header.pointee.written, ordering: .releasing)
        let solicited = unsafe header.pointee.solicited
        unsafe header.pointee.solicited = false
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let arming = unsafe header.pointee.arming.load(ordering: .relaxed)
        if arming == Arming.none || (arming == Arming.solicited && !solicited) { return false }
        unsafe header.pointee.arming.store(Arming.none, ordering: .relaxed)
        return true
    }

    /// Forgets the entries of a queue pair. Nobody may poll meanwhile. Entries that are not published stay so.
    func remove(entriesOf qpn: UInt32) {
        let consumer = unsafe header.pointee.consumer.load(ordering: .acquiring)
        let published = unsafe header.pointee.producer.load(ordering: .relaxed)
        let mask = unsafe header.pointee.mask
        var kept = consumer
        var keptPublished = consumer
        var index = consumer
        while unsafe index != header.pointee.written {
            if index == published { keptPublished = kept }
            let entry = unsafe header.pointee.entries[Int(index & mask)]
            if entry.qpn != qpn {
                unsafe header.pointee.entries[Int(kept & mask)] = entry
                kept &+= 1
            }
            index &+= 1
        }
        if unsafe header.pointee.written == published { keptPublished = kept }
        unsafe header.pointee.written = kept
        unsafe header.pointee.producer.store(keptPublished, ordering: .releasing)
    }

    /// Moves the entries to a ring of another capacity. Nobody may poll meanwhile.
    ///
    /// - Returns: `false` if the entries that wait are more than that.
    func resize(capacity: Int) -> Bool {
        let count = RingCapacity.rounded(capacity)
        let consumer = unsafe header.pointee.consumer.load(ordering: .acquiring)
        let written = unsafe header.pointee.written
        guard Int(written &- consumer) <= count else { return false }
        let entries = UnsafeMutablePointer<CompletionEntry>.allocate(capacity: count)
        unsafe entries.initialize(
            repeating: CompletionEntry(id: 0, status: .success, operation: .send, qpn: 0), count: count)
        var index = consumer
        while index != written {
            unsafe entries[Int(index) & (count - 1)] = header.pointee.entries[Int(index & header.pointee.mask)]
            index &+= 1
        }
        unsafe header.pointee.entries.deallocate()
        unsafe header.pointee.entries = unsafe entries
        unsafe header.pointee.mask = UInt32(count - 1)
        return true
    }
}
