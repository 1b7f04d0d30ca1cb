// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Synchronization

/// A ring of an AF_XDP socket that this process writes and the kernel reads: the fill ring (addresses of free chunks) and
/// the transmit ring (frames to send).
///
/// Two words are shared. `producer` is stored by us (release: the entries before it are written first) and loaded by
/// the kernel; `consumer` is stored by the kernel (release: it is done with the entries) and loaded by us (acquire).
/// Both count entries, wrap at 2^32, and are masked for use. The corresponding kernel code is `xsk_queue.h`.
///
/// One thread at a time. Grammar: ``reserve(_:)`` ──► ``push(_:)`` as often ──► ``submit()``.
@safe package struct XDPProducerRing<Entry: BitwiseCopyable>: ~Copyable {
    private let mapping: XDPRingMapping
    private let entries: UnsafeMutablePointer<Entry>
    private let mask: UInt32
    /// Ours: entries written, of which ``submit()`` has told the kernel some.
    private var head: UInt32 = 0
    /// What the kernel has read, as last seen: behind the true number, never before.
    private var tail: UInt32 = 0

    init(_ mapping: consuming XDPRingMapping) {
        unsafe entries = mapping.entries.assumingMemoryBound(to: Entry.self)
        mask = UInt32(mapping.entryCount - 1)
        self.mapping = mapping
    }

    /// Whether there is room for `count` more entries.
    @inline(__always)
    package mutating func reserve(_ count: Int) -> Bool {
        if Int(mask) + 1 - Int(head &- tail) >= count { return true }
        tail = unsafe mapping.consumer.pointee.load(ordering: .acquiring)
        return Int(mask) + 1 - Int(head &- tail) >= count
    }

    /// Writes an entry, for which there must be room. The kernel does not see it yet.
    @inline(__always)
    package mutating func push(_ entry: Entry) {
        unsafe entries[Int(head & mask)] = entry
        head &+= 1
    }

    /// Shows the kernel all entries.
    @inline(__always)
    package mutating func submit() { unsafe mapping.producer.pointee.store(head, ordering: .releasing) }

    /// Entries that the kernel has not read yet.
    package var pendingCount: Int { Int(head &- (unsafe mapping.consumer.pointee.load(ordering: .acquiring))) }

    /// Whether the kernel looks at the ring only when it is asked to. A hint that the kernel writes: no order needed.
    @inline(__always)
    package var needsWakeup: Bool {
        unsafe mapping.flags.pointee.load(ordering: .relaxed) & UInt32(CLINUXNET_XDP_RING_NEED_WAKEUP.rawValue) != 0
    }
}
