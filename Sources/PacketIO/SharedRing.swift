// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// Where the parts of one direction between two processes lie in their shared memory.
///
/// ```
///   0  tail      bytes ever written    the writer stores (release), the reader loads (acquire)
///  64  head      bytes ever read       the reader stores (release), the writer loads (acquire)
/// 128  sleeps    1: wake the reader    the reader sets it before it sleeps, the writer takes it down
/// 132  closed    1: nobody reads       the reader sets it when it goes
/// 136  joined    1: somebody reads, 2: and wants ICRCs; the reader sets it before it takes part
/// 192  records   `SharedRing.capacity` bytes
/// ```
/// Both processes can write to all of it at any time. So each keeps its own position in its own memory, loads a shared
/// word once, and believes nothing of it until it is checked: a peer can harm what it sends itself, and no more.
@safe package enum SharedRing {
    /// Bytes of records: a power of two, more than one record, and small enough to stay in a core's cache.
    package static let capacity = 1 << 19
    /// Bytes of one direction, with its control words.
    package static let byteCount = controlBytes + capacity
    /// Control words: a cache line for each side's position, and one for what seldom changes.
    package static let controlBytes = 192
    /// The longest record's payload.
    package static let payloadBytesMax = 65_536
    /// Before each payload; records start at multiples of it.
    static let headerBytes = 16

    @inline(__always)
    static func word(_ memory: UnsafeMutableRawPointer, _ offset: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
        unsafe (memory + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    @inline(__always)
    static func flag(_ memory: UnsafeMutableRawPointer, _ offset: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        unsafe (memory + offset).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// Bytes that a record takes.
    @inline(__always)
    static func footprint(_ payload: Int) -> Int {
        (headerBytes &+ payload &+ headerBytes &- 1) & ~(headerBytes &- 1)
    }

    /// What stands before the bytes of a burst.
    package struct Record: Equatable, Sendable {
        /// Bytes of all segments; 1...``payloadBytesMax``.
        package var byteCount: Int
        /// Bytes of each segment but the last.
        package var segmentSize: Int
        package var trafficClass: UInt8
        /// Each segment carries an ICRC.
        package var isSealed: Bool
        /// The port that the ICRCs were made for.
        package var sourcePort: UInt16

        package init(
            byteCount: Int, segmentSize: Int, trafficClass: UInt8 = 0, isSealed: Bool = true, sourcePort: UInt16 = 0
        ) {
            self.byteCount = byteCount
            self.segmentSize = segmentSize
            self.trafficClass = trafficClass
            self.isSealed = isSealed
            self.sourcePort = sourcePort
        }

        /// The first word of a header that says: go on at the start.
        static let turn: UInt64 = .max

        var words: (UInt64, UInt64) {
            (
                UInt64(byteCount) | UInt64(segmentSize) << 32,
                UInt64(trafficClass) | UInt64(isSealed ? 1 : 0) << 8 | UInt64(sourcePort) << 16
            )
        }

        /// A record as the peer says it is; `nil` where that cannot be.
        init?(_ first: UInt64, _ second: UInt64) {
            byteCount = Int(first & 0xFFFF_FFFF)
            segmentSize = Int(first >> 32)
            guard byteCount > 0, byteCount <= payloadBytesMax, segmentSize > 0, segmentSize <= byteCount else {
                return nil
            }
            trafficClass = UInt8(truncatingIfNeeded: second)
            isSealed = second >> 8 & 1 != 0
            sourcePort = UInt16(truncatingIfNeeded: second >> 16)
        }
    }
}

/// The sending end of a direction. One process, one thread at a time.
@safe package struct SharedRingWriter {
    /// Of the owner of the mapping, who ends this writer first.
    private let memory: UnsafeMutableRawPointer
    /// Ours alone; the shared word is a copy of it.
    private var tail: UInt64 = 0
    /// As last seen: behind the reader's true one, never before.
    private var head: UInt64 = 0

    /// What became of a record.
    package enum Outcome { case written, full, broken }

    package init(_ memory: UnsafeMutableRawPointer) { unsafe self.memory = memory }

    /// Writes a record and shows it to the reader. `broken` where the reader's position cannot be.
    @inline(__always)
    package mutating func write(_ record: SharedRing.Record, _ bytes: UnsafeRawPointer) -> Outcome {
        let footprint = SharedRing.footprint(record.byteCount)
        var position = Int(tail & UInt64(SharedRing.capacity - 1))
        let skip = position + footprint > SharedRing.capacity ? SharedRing.capacity - position : 0
        let needed = UInt64(footprint + skip)
        if tail &- head &+ needed > UInt64(SharedRing.capacity) {
            guard refreshHead() else { return .broken }
            if tail &- head &+ needed > UInt64(SharedRing.capacity) { return .full }
        }
        let area = unsafe memory + SharedRing.controlBytes
        if skip > 0 {
            unsafe SharedRing.word(area, position).pointee.store(SharedRing.Record.turn, ordering: .relaxed)
            position = 0
        }
        let words = record.words
        unsafe SharedRing.word(area, position).pointee.store(words.0, ordering: .relaxed)
        unsafe SharedRing.word(area, position + 8).pointee.store(words.1, ordering: .relaxed)
        unsafe (area + position + SharedRing.headerBytes).copyMemory(from: bytes, byteCount: record.byteCount)
        tail &+= needed
        unsafe SharedRing.word(memory, 0).pointee.store(tail, ordering: .releasing)
        return .written
    }

    /// Whether the reader is to be woken. Asked after a write, once for all that were written.
    @inline(__always)
    package func takesWaking() -> Bool {
        // Before the look, so that either we see the flag or the reader, who sets it first, sees the record.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let flag = unsafe SharedRing.flag(memory, 128)
        guard unsafe flag.pointee.load(ordering: .relaxed) != 0 else { return false }
        return unsafe flag.pointee.exchange(0, ordering: .relaxed) != 0
    }

    /// Whether all that was written has been read. `broken` counts as read.
    package mutating func isDrained() -> Bool { !refreshHead() || head == tail }

    /// How far the reader has come.
    package var readerPosition: UInt64 { head }

    /// Whether nobody will read any more.
    @inline(__always)
    package var isClosed: Bool { unsafe SharedRing.flag(memory, 132).pointee.load(ordering: .relaxed) != 0 }

    /// Whether somebody reads; until then nothing is to be written.
    package var isJoined: Bool { unsafe SharedRing.flag(memory, 136).pointee.load(ordering: .acquiring) != 0 }

    /// Whether the reader wants ICRCs.
    package var wantsSeals: Bool { unsafe SharedRing.flag(memory, 136).pointee.load(ordering: .relaxed) > 1 }

    private mutating func refreshHead() -> Bool {
        let seen = unsafe SharedRing.word(memory, 64).pointee.load(ordering: .acquiring)
        // Forward, and not past what was written.
        guard seen &- head <= tail &- head else { return false }
        head = seen
        return true
    }
}

/// The receiving end of a direction. One process, one thread at a time.
@safe package struct SharedRingReader {
    /// Of the owner of the mapping, who ends this reader first.
    private let memory: UnsafeMutableRawPointer
    /// Ours alone; the shared word is a copy of it.
    private var head: UInt64 = 0

    /// What there was.
    package enum Outcome: Equatable { case none, record(SharedRing.Record), broken }

    package init(_ memory: UnsafeMutableRawPointer) { unsafe self.memory = memory }

    /// Whether something is there: one load.
    @inline(__always)
    package var isEmpty: Bool { unsafe SharedRing.word(memory, 0).pointee.load(ordering: .acquiring) == head }

    /// Copies the next record to memory of the reader's own, which takes ``SharedRing/payloadBytesMax`` bytes, and gives
    /// its place back. `broken` where what the peer wrote cannot be; the ring is then of no use any more.
    @inline(__always)
    package mutating func read(into target: UnsafeMutableRawPointer) -> Outcome {
        let available = unsafe SharedRing.word(memory, 0).pointee.load(ordering: .acquiring) &- head
        if available == 0 { return .none }
        let mask = UInt64(SharedRing.headerBytes - 1)
        guard available <= UInt64(SharedRing.capacity), available & mask == 0 else { return .broken }
        let area = unsafe memory + SharedRing.controlBytes
        var left = Int(available)
        var position = Int(head & UInt64(SharedRing.capacity - 1))
        var first = unsafe SharedRing.word(area, position).pointee.load(ordering: .relaxed)
        var skip = 0
        if first == SharedRing.Record.turn {
            skip = SharedRing.capacity - position
            guard position > 0, left > skip else { return .broken }
            left -= skip
            position = 0
            first = unsafe SharedRing.word(area, 0).pointee.load(ordering: .relaxed)
        }
        let second = unsafe SharedRing.word(area, position + 8).pointee.load(ordering: .relaxed)
        guard let record = SharedRing.Record(first, second) else { return .broken }
        let footprint = SharedRing.footprint(record.byteCount)
        guard footprint <= left, position + footprint <= SharedRing.capacity else { return .broken }
        unsafe target.copyMemory(from: area + position + SharedRing.headerBytes, byteCount: record.byteCount)
        head &+= UInt64(skip + footprint)
        unsafe SharedRing.word(memory, 64).pointee.store(head, ordering: .releasing)
        return .record(record)
    }

    /// Says that the next record is to wake us. Look for records after it, before sleeping.
    package func announceSleep() {
        unsafe SharedRing.flag(memory, 128).pointee.store(1, ordering: .relaxed)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    /// Says that nobody reads any more.
    package func close() { unsafe SharedRing.flag(memory, 132).pointee.store(1, ordering: .releasing) }

    /// Says that somebody reads, and whether segments are to carry ICRCs because somebody looks at them.
    package func join(wantsSeals: Bool) {
        unsafe SharedRing.flag(memory, 136).pointee.store(wantsSeals ? 2 : 1, ordering: .releasing)
    }
}
