// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// A send queue: the ring of work requests between one posting thread and the engine.
///
/// The value is a handle, a pointer that may be copied freely; the engine allocates the ring with the queue pair and
/// frees it with it. Indices count up without end and are masked on access.
///
/// - `producer`: written by the poster (release, after the slot is filled), read by the engine (acquire).
/// - `consumer`: written by the engine (release, when the work request is complete), read by the poster (acquire).
///
/// A slot belongs to the engine from ``publish(_:)`` until `consumer` passes it: requests are retransmitted from it. What
/// the engine decides on (length, PSNs) it keeps apart, so a poster that scribbles in a posted slot hurts only itself.
@safe public struct SendQueue: @unchecked Sendable {
    @usableFromInline
    @safe struct Header: ~Copyable {
        @usableFromInline let producer = Atomic<UInt32>(0)
        // The two sides write to cache lines of their own.
        let padding = InlineArray<15, UInt32>(repeating: 0)
        @usableFromInline let consumer = Atomic<UInt32>(0)
        @usableFromInline let mask: UInt32
        @usableFromInline let stride: UInt32
        @usableFromInline let scatterGatherMax: UInt32
        @usableFromInline let inlineMax: UInt32
        @usableFromInline let slots: UnsafeMutableRawPointer

        init(mask: UInt32, stride: UInt32, scatterGatherMax: UInt32, inlineMax: UInt32, slots: UnsafeMutableRawPointer)
        {
            self.mask = mask
            self.stride = stride
            self.scatterGatherMax = scatterGatherMax
            self.inlineMax = inlineMax
            unsafe self.slots = slots
        }
    }

    /// Allocated by the engine; valid until the queue pair is destroyed.
    @usableFromInline let header: UnsafeMutablePointer<Header>

    /// Where a slot's scatter/gather list or inline data starts.
    @usableFromInline static var listOffset: Int { (MemoryLayout<SendWorkRequest>.size + 15) & ~15 }

    // MARK: Posting

    /// Work requests the queue holds.
    @inlinable public var capacity: Int { unsafe Int(header.pointee.mask) + 1 }
    /// Entries in one work request's scatter/gather list.
    @inlinable public var scatterGatherMax: Int { unsafe Int(header.pointee.scatterGatherMax) }
    /// Bytes of inline data in one work request.
    @inlinable public var inlineMax: Int { unsafe Int(header.pointee.inlineMax) }

    /// Work requests that may be posted now.
    @inlinable public var freeCount: Int {
        unsafe capacity
            - Int(
                header.pointee.producer.load(ordering: .relaxed) &- header.pointee.consumer.load(ordering: .acquiring))
    }

    /// The slot of the `offset`-th work request after the last published one. Fill it, then ``publish(_:)``.
    ///
    /// - Precondition: `offset` is less than ``freeCount``.
    @inlinable public func slot(_ offset: Int) -> UnsafeMutablePointer<SendWorkRequest> {
        let index = unsafe header.pointee.producer.load(ordering: .relaxed) &+ UInt32(truncatingIfNeeded: offset)
        return unsafe slot(at: index)
    }

    /// The scatter/gather list of a slot: ``scatterGatherMax`` entries.
    @inlinable public func scatterGatherList(
        of slot: UnsafeMutablePointer<SendWorkRequest>
    ) -> UnsafeMutablePointer<ScatterGatherEntry> {
        unsafe (UnsafeMutableRawPointer(slot) + Self.listOffset).assumingMemoryBound(to: ScatterGatherEntry.self)
    }

    /// The inline data of a slot: ``inlineMax`` bytes, in the place of the scatter/gather list.
    @inlinable public func inlineData(of slot: UnsafeMutablePointer<SendWorkRequest>) -> UnsafeMutableRawPointer {
        unsafe UnsafeMutableRawPointer(slot) + Self.listOffset
    }

    /// Hands the next `count` filled slots to the engine. Then call `Engine.doorbell`.
    @inlinable public func publish(_ count: Int) {
        let producer = unsafe header.pointee.producer.load(ordering: .relaxed)
        unsafe header.pointee.producer.store(producer &+ UInt32(truncatingIfNeeded: count), ordering: .releasing)
    }

    // MARK: Engine

    init(capacity: Int, scatterGatherMax: Int, inlineMax: Int) {
        let count = RingCapacity.rounded(capacity)
        let list = max(scatterGatherMax * MemoryLayout<ScatterGatherEntry>.stride, inlineMax)
        let stride = (Self.listOffset + list + 15) & ~15
        let slots = UnsafeMutableRawPointer.allocate(byteCount: stride * count, alignment: 64)
        // The list area is as large as the larger of the two, so both limits are what fits in it.
        let header = UnsafeMutablePointer<Header>.allocate(capacity: 1)
        unsafe header.initialize(
            to: Header(
                mask: UInt32(count - 1), stride: UInt32(stride), scatterGatherMax: UInt32(scatterGatherMax),
                inlineMax: UInt32(inlineMax), slots: slots))
        unsafe self.header = unsafe header
        for index in 0..<UInt32(count) {
            unsafe slot(at: index).initialize(to: SendWorkRequest(id: 0, operation: .send))
        }
    }

    /// Frees the ring; no handle may be used after it.
    func deallocate() {
        unsafe header.pointee.slots.deallocate()
        unsafe header.deinitialize(count: 1)
        unsafe header.deallocate()
    }

    @inlinable func slot(at index: UInt32) -> UnsafeMutablePointer<SendWorkRequest> {
        let offset = unsafe Int(index & header.pointee.mask) * Int(header.pointee.stride)
        return unsafe (header.pointee.slots + offset).assumingMemoryBound(to: SendWorkRequest.self)
    }

    /// Index after the last posted work request.
    @inlinable var posted: UInt32 { unsafe header.pointee.producer.load(ordering: .acquiring) }

    /// A copy of a posted work request: what is judged is the copy.
    @inlinable func request(at index: UInt32) -> SendWorkRequest { unsafe slot(at: index).pointee }

    /// The `wr_id` of a posted work request.
    @inlinable func id(at index: UInt32) -> UInt64 { unsafe slot(at: index).pointee.id }

    /// Gives all slots before `index` back to the poster.
    @inlinable func release(before index: UInt32) {
        unsafe header.pointee.consumer.store(index, ordering: .releasing)
    }
}

/// The capacity of a ring: a power of two.
enum RingCapacity {
    static func rounded(_ capacity: Int) -> Int {
        var count = 1
        while count < capacity { count *= 2 }
        return count
    }
}
