// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The header of what processes of one host say to each other through their mailboxes.
///
/// Host byte order: it never leaves the host. Versioned by its magic number, because processes of different builds may
/// share an address.
struct PeerMessage: Equatable {
    static let byteCount = 56
    private static let magic: UInt32 = 0x5356_6d31  // "SVm1"

    enum Kind: UInt8 {
        /// The bytes that follow were received for the reader's slot, or are for all.
        case datagram = 1
        /// The answer to a steering probe; nothing follows.
        case probeAnswer = 2
        /// Memory to share, whose descriptor comes along, from the process of `slot`; nothing follows.
        case offer = 3
        /// Something is in shared memory, or it is given up; nothing follows.
        case wake = 4
    }

    var kind: Kind
    var trafficClass: UInt8 = 0
    var sourcePort: UInt16 = 0
    var segmentSize: UInt32 = 0
    var firstSegment: UInt32 = 0
    var source = GID(high: 0, low: 0)
    var destination = GID(high: 0, low: 0)
    // Of an answer; the slot of an offer too:
    var index: UInt16 = 0
    var slot: UInt8 = 0
    var nonce: UInt64 = 0

    init(kind: Kind) { self.kind = kind }

    /// Reads a header; `nil` where it is not one of ours.
    init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= Self.byteCount else { return nil }
        // In bounds: the length has just been checked, and all offsets are below it.
        guard unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 0, as: UInt32.self) == Self.magic,
            let kind = unsafe Kind(rawValue: bytes.unsafeLoad(fromByteOffset: 4, as: UInt8.self))
        else { return nil }
        self.kind = kind
        trafficClass = unsafe bytes.unsafeLoad(fromByteOffset: 5, as: UInt8.self)
        sourcePort = unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 6, as: UInt16.self)
        segmentSize = unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 8, as: UInt32.self)
        firstSegment = unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 12, as: UInt32.self)
        if kind != .datagram {
            index = unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 16, as: UInt16.self)
            slot = unsafe bytes.unsafeLoad(fromByteOffset: 18, as: UInt8.self)
            nonce = unsafe bytes.unsafeLoadUnaligned(fromByteOffset: 24, as: UInt64.self)
        } else {
            source = unsafe GID(
                high: bytes.unsafeLoadUnaligned(fromByteOffset: 16, as: UInt64.self),
                low: bytes.unsafeLoadUnaligned(fromByteOffset: 24, as: UInt64.self))
            destination = unsafe GID(
                high: bytes.unsafeLoadUnaligned(fromByteOffset: 32, as: UInt64.self),
                low: bytes.unsafeLoadUnaligned(fromByteOffset: 40, as: UInt64.self))
        }
    }

    /// Writes ``byteCount`` bytes.
    func store(to memory: UnsafeMutableRawPointer) {
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: Self.byteCount)
        unsafe memory.storeBytes(of: Self.magic, as: UInt32.self)
        unsafe memory.storeBytes(of: kind.rawValue, toByteOffset: 4, as: UInt8.self)
        unsafe memory.storeBytes(of: trafficClass, toByteOffset: 5, as: UInt8.self)
        unsafe memory.storeBytes(of: sourcePort, toByteOffset: 6, as: UInt16.self)
        unsafe memory.storeBytes(of: segmentSize, toByteOffset: 8, as: UInt32.self)
        unsafe memory.storeBytes(of: firstSegment, toByteOffset: 12, as: UInt32.self)
        switch kind {
        case .probeAnswer, .offer, .wake:
            unsafe memory.storeBytes(of: index, toByteOffset: 16, as: UInt16.self)
            unsafe memory.storeBytes(of: slot, toByteOffset: 18, as: UInt8.self)
            unsafe memory.storeBytes(of: nonce, toByteOffset: 24, as: UInt64.self)
        case .datagram:
            unsafe memory.storeBytes(of: source.high, toByteOffset: 16, as: UInt64.self)
            unsafe memory.storeBytes(of: source.low, toByteOffset: 24, as: UInt64.self)
            unsafe memory.storeBytes(of: destination.high, toByteOffset: 32, as: UInt64.self)
            unsafe memory.storeBytes(of: destination.low, toByteOffset: 40, as: UInt64.self)
        }
    }
}
