// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// One entry of a receive queue, by value; its scatter/gather list follows it in the slot.
public struct ReceiveWorkRequest: Sendable, BitwiseCopyable {
    /// `wr_id`, given back in the completion.
    public var id: UInt64
    /// Number of scatter/gather entries.
    public var scatterGatherCount: UInt32
    /// Completed out of turn, by somebody who fills receives in place.
    var isDone: UInt32 = 0

    /// A value with these fields; the rest is zero.
    @inlinable
    public init(id: UInt64, scatterGatherCount: Int) {
        self.id = id
        self.scatterGatherCount = UInt32(truncatingIfNeeded: scatterGatherCount)
    }
}

/// A receive queue, of one queue pair or shared by several: the ring between the posting thread and the engine.
///
/// The value is a handle, as ``SendQueue``. Orderings are the same; `consumer` advances when the engine has *copied* a
/// work request for an arriving message, so a slot is free as soon as it is taken.
@safe public struct ReceiveQueue: @unchecked Sendable {
    @usableFromInline
    @safe struct Header: ~Copyable {
        /// Written by the poster, release; read by the engine, acquire.
        @usableFromInline let producer = Atomic<UInt32>(0)
        let padding = InlineArray<15, UInt32>(repeating: 0)
        /// Written by the engine, release; read by the poster, acquire.
        @usableFromInline let consumer = Atomic<UInt32>(0)
        /// What is posted is awaited: the queue pair is in ERR and flushes it, or somebody fills it in place. Written by the engine,
        /// read by the poster; both put a full fence between their store and their load (set this then take what is posted; publish then look here).
        @usableFromInline let isAwaited = Atomic<Bool>(false)
        /// These two are replaced by a resize, which the caller keeps apart from posting.
        @usableFromInline var mask: UInt32
        @usableFromInline var slots: UnsafeMutableRawPointer
        @usableFromInline let stride: UInt32
        @usableFromInline let scatterGatherMax: UInt32
        /// Shared queues: the index in the engine's table, and what the engine alone reads and writes.
        let index: UInt32
        let protectionDomain: UInt32
        let tag: UInt
        var limit: UInt32 = 0
        var limitReached = false
        var nextLimitReached: ReceiveQueue?
        /// Queue pairs that use it.
        var userCount = 0

        init(
            mask: UInt32, stride: UInt32, scatterGatherMax: UInt32, slots: UnsafeMutableRawPointer, index: UInt32,
            protectionDomain: UInt32, tag: UInt
        ) {
            self.mask = mask
            self.stride = stride
            self.scatterGatherMax = scatterGatherMax
            unsafe self.slots = slots
            self.index = index
            self.protectionDomain = protectionDomain
            self.tag = tag
        }
    }

    /// Allocated by the engine; valid until the queue is destroyed.
    @usableFromInline let header: UnsafeMutablePointer<Header>

    @usableFromInline static var listOffset: Int { MemoryLayout<ReceiveWorkRequest>.size }

    // MARK: Posting

    /// Work requests the queue holds.
    @inlinable public var capacity: Int { unsafe Int(header.pointee.mask) + 1 }
    /// Entries in one work request's scatter/gather list.
    @inlinable public var scatterGatherMax: Int { unsafe Int(header.pointee.scatterGatherMax) }

    /// Work requests that may be posted now.
    @inlinable public var freeCount: Int {
        unsafe capacity
            - Int(
                header.pointee.producer.load(ordering: .relaxed) &- header.pointee.consumer.load(ordering: .acquiring))
    }

    /// The slot of the `offset`-th work request after the last published one. Fill it, then ``publish(_:)``.
    ///
    /// - Precondition: `offset` is less than ``freeCount``.
    @inlinable public func slot(_ offset: Int) -> UnsafeMutablePointer<ReceiveWorkRequest> {
        let index = unsafe header.pointee.producer.load(ordering: .relaxed) &+ UInt32(truncatingIfNeeded: offset)
        return unsafe slot(at: index)
    }

    /// The scatter/gather list of a slot: ``scatterGatherMax`` entries.
    @inlinable public func scatterGatherList(
        of slot: UnsafeMutablePointer<ReceiveWorkRequest>
    ) -> UnsafeMutablePointer<ScatterGatherEntry> {
        unsafe (UnsafeMutableRawPointer(slot) + Self.listOffset).assumingMemoryBound(to: ScatterGatherEntry.self)
    }

    /// Hands the next `count` filled slots to the engine. A doorbell is needed only in the error state, to flush them.
    @inlinable public func publish(_ count: Int) {
        let producer = unsafe header.pointee.producer.load(ordering: .relaxed)
        unsafe header.pointee.producer.store(producer &+ UInt32(truncatingIfNeeded: count), ordering: .releasing)
    }

    /// Whether the engine has to be told of what was published, because it waits for it. To be asked after ``publish(_:)``.
    @inlinable package var needsDoorbell: Bool {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return unsafe header.pointee.isAwaited.load(ordering: .relaxed)
    }

    // MARK: Engine

    /// Whether the engine is to be told of each published work request.
    func setAwaited(_ isAwaited: Bool) {
        unsafe header.pointee.isAwaited.store(isAwaited, ordering: .relaxed)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    /// The index of a queue pair's own queue: in no table.
    static var unshared: UInt32 { .max }

    init(capacity: Int, scatterGatherMax: Int, index: UInt32, protectionDomain: UInt32, tag: UInt) {
        let count = RingCapacity.rounded(capacity)
        let stride = Self.listOffset + scatterGatherMax * MemoryLayout<ScatterGatherEntry>.stride
        let slots = unsafe Self.makeSlots(count: count, stride: stride)
        let header = UnsafeMutablePointer<Header>.allocate(capacity: 1)
        unsafe header.initialize(
            to: Header(
                mask: UInt32(count - 1), stride: UInt32(stride), scatterGatherMax: UInt32(scatterGatherMax),
                slots: slots, index: index, protectionDomain: protectionDomain, tag: tag))
        unsafe self.header = unsafe header
    }

    private static func makeSlots(count: Int, stride: Int) -> UnsafeMutableRawPointer {
        let slots = UnsafeMutableRawPointer.allocate(byteCount: stride * count, alignment: 64)
        for index in 0..<count {
            // Slots follow each other, each as long as the stride.
            unsafe (slots + index * stride).initializeMemory(
                as: ReceiveWorkRequest.self, to: ReceiveWorkRequest(id: 0, scatterGatherCount: 0))
        }
        return unsafe slots
    }

    /// Moves what is posted to a ring of another capacity. Nobody may post meanwhile.
    ///
    /// - Returns: `false` if more is posted than would fit.
    func resize(capacity: Int) -> Bool {
        let count = RingCapacity.rounded(capacity)
        guard Int(available) <= count else { return false }
        let stride = unsafe Int(header.pointee.stride)
        let slots = unsafe Self.makeSlots(count: count, stride: stride)
        for offset in 0..<available {
            let index = oldestIndex &+ offset
            // Both rings have slots of the same stride.
            unsafe (slots + (Int(index) & (count - 1)) * stride).copyMemory(from: slot(at: index), byteCount: stride)
        }
        unsafe header.pointee.slots.deallocate()
        unsafe header.pointee.slots = unsafe slots
        unsafe header.pointee.mask = UInt32(count - 1)
        return true
    }

    /// Frees the ring; no handle may be used after it.
    func deallocate() {
        unsafe header.pointee.slots.deallocate()
        unsafe header.deinitialize(count: 1)
        unsafe header.deallocate()
    }

    @inlinable func slot(at index: UInt32) -> UnsafeMutablePointer<ReceiveWorkRequest> {
        let offset = unsafe Int(index & header.pointee.mask) * Int(header.pointee.stride)
        return unsafe (header.pointee.slots + offset).assumingMemoryBound(to: ReceiveWorkRequest.self)
    }

    /// Posted work requests that nobody took.
    @inlinable var available: UInt32 {
        unsafe header.pointee.producer.load(ordering: .acquiring) &- header.pointee.consumer.load(ordering: .relaxed)
    }

    /// Takes the oldest work request: copies it and its list, and frees the slot. `nil` if there is none.
    ///
    /// - Parameter list: room for ``scatterGatherMax`` entries; the count in the result never exceeds that.
    @inlinable func take(into list: UnsafeMutablePointer<ScatterGatherEntry>) -> ReceiveWorkRequest? {
        guard available > 0 else { return nil }
        let index = unsafe header.pointee.consumer.load(ordering: .relaxed)
        let slot = unsafe slot(at: index)
        var request = unsafe slot.pointee
        request.scatterGatherCount = unsafe min(request.scatterGatherCount, header.pointee.scatterGatherMax)
        unsafe list.update(from: scatterGatherList(of: slot), count: Int(request.scatterGatherCount))
        unsafe header.pointee.consumer.store(index &+ 1, ordering: .releasing)
        return request
    }

    /// What the oldest posted work request can hold, in bytes; `nil` if there is none. Only a hint: the poster may write
    /// to the slot until it is taken.
    var nextByteCount: UInt64? {
        guard available > 0 else { return nil }
        let slot = unsafe slot(at: header.pointee.consumer.load(ordering: .relaxed))
        let count = unsafe Int(min(slot.pointee.scatterGatherCount, header.pointee.scatterGatherMax))
        var sum: UInt64 = 0
        for index in 0..<count { sum += unsafe UInt64(scatterGatherList(of: slot)[index].length) }
        return sum
    }

    // MARK: In place

    // A receive that somebody else fills stays posted until it is complete, so that whatever ends the queue pair flushes it.

    /// The index of the oldest posted work request.
    var oldestIndex: UInt32 { unsafe header.pointee.consumer.load(ordering: .relaxed) }

    /// A copy of a posted work request and its first element; `nil` where none is posted.
    func posted(at index: UInt32) -> (ReceiveWorkRequest, ScatterGatherEntry)? {
        guard index &- oldestIndex < available else { return nil }
        let slot = unsafe slot(at: index)
        return unsafe (slot.pointee, scatterGatherList(of: slot)[0])
    }

    /// A posted work request is complete; its slot is free when those before it are, too.
    func finish(at index: UInt32) {
        guard index &- oldestIndex < available else { return }
        unsafe slot(at: index).pointee.isDone = 1
        var oldest = oldestIndex
        let end = unsafe header.pointee.producer.load(ordering: .acquiring)
        while oldest != end, unsafe slot(at: oldest).pointee.isDone != 0 {
            unsafe slot(at: oldest).pointee.isDone = 0
            oldest &+= 1
        }
        unsafe header.pointee.consumer.store(oldest, ordering: .releasing)
    }

    /// Moves what is not complete together, so that it can be taken in turn again.
    func closeGaps() {
        let first = oldestIndex
        var target = first &+ available
        var source = target
        while source != first {
            source &-= 1
            if unsafe slot(at: source).pointee.isDone != 0 {
                unsafe slot(at: source).pointee.isDone = 0
                continue
            }
            target &-= 1
            if source == target { continue }
            // Slots are of one size, and both are the engine's until `consumer` passes them.
            unsafe UnsafeMutableRawPointer(slot(at: target)).copyMemory(
                from: slot(at: source), byteCount: Int(header.pointee.stride))
        }
        unsafe header.pointee.consumer.store(target, ordering: .releasing)
    }

    /// Forgets all posted work requests (RESET).
    func removeAll() {
        unsafe header.pointee.consumer.store(header.pointee.producer.load(ordering: .acquiring), ordering: .releasing)
    }
}
