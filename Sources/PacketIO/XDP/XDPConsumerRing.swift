// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// A ring of an AF_XDP socket that the kernel writes and this process reads: the receive ring (frames) and the completion
/// ring (addresses of chunks that were sent).
///
/// `producer` is stored by the kernel (release) and loaded by us (acquire: then the entries before it can be read);
/// `consumer` is stored by us (release: we are done with the entries) and loaded by the kernel.
///
/// One thread at a time. Grammar: ``available`` ──► ``pop()`` as often, at most ──► ``release()``.
@safe package struct XDPConsumerRing<Entry: BitwiseCopyable>: ~Copyable {
    private let mapping: XDPRingMapping
    private let entries: UnsafeMutablePointer<Entry>
    private let mask: UInt32
    /// Ours: entries read, of which ``release()`` has told the kernel some.
    private var tail: UInt32 = 0
    /// What the kernel has written, as last seen.
    private var head: UInt32 = 0

    init(_ mapping: consuming XDPRingMapping) {
        unsafe entries = mapping.entries.assumingMemoryBound(to: Entry.self)
        mask = UInt32(mapping.entryCount - 1)
        self.mapping = mapping
    }

    /// Entries that can be read. One load of shared memory when there are none as far as is known.
    @inline(__always)
    package var available: Int {
        mutating get {
            if head == tail { head = unsafe mapping.producer.pointee.load(ordering: .acquiring) }
            return Int(head &- tail)
        }
    }

    /// Reads an entry, of which one must be available. Its place is not the kernel's yet.
    @inline(__always)
    package mutating func pop() -> Entry {
        let entry = unsafe entries[Int(tail & mask)]
        tail &+= 1
        return entry
    }

    /// The entry that ``pop()`` would read as its `offset`-th.
    @inline(__always)
    package func peek(_ offset: Int) -> Entry { unsafe entries[Int((tail &+ UInt32(offset)) & mask)] }

    /// Gives the places of what was read back to the kernel.
    @inline(__always)
    package mutating func release() { unsafe mapping.consumer.pointee.store(tail, ordering: .releasing) }
}
