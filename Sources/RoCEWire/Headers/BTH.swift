// SPDX-License-Identifier: Apache-2.0

/// Base transport header: the 12 bytes that every packet starts with.
///
/// ```
///  0       opcode
///  1       SE (0x80)  MigReq (0x40)  PadCnt (0x30)  TVer (0x0F)
///  2...3   P_Key
///  4       FECN (0x80)  BECN (0x40)  reserved        not covered by the ICRC
///  5...7   destination QPN
///  8       AckReq (0x80)  reserved
///  9...11  PSN
/// ```
/// The value keeps the three big-endian words, reserved bits included, so that it is read and written in three moves.
public struct BTH: Hashable, Sendable {
    /// 12.
    @inlinable public static var byteCount: Int { 12 }

    @usableFromInline var word0: UInt32
    @usableFromInline var word1: UInt32
    @usableFromInline var word2: UInt32

    /// A header for a packet to send: the default partition, transport version 0, no congestion marks.
    ///
    /// MigReq is 0, as in rxe; hardware sends 1; receivers must not care.
    @inlinable @inline(__always)
    public init(
        opcode: Opcode, destination: QPN, psn: PSN, padCount: Int = 0, solicitedEvent: Bool = false,
        acknowledgeRequest: Bool = false, partitionKey: PartitionKey = .default
    ) {
        word0 =
            UInt32(opcode.rawValue) << 24 | (solicitedEvent ? 0x80_0000 : 0) | UInt32(padCount & 3) << 20
            | UInt32(partitionKey.rawValue)
        word1 = destination.rawValue
        word2 = psn.rawValue | (acknowledgeRequest ? 0x8000_0000 : 0)
    }

    /// The header at `offset`, where 12 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int = 0) {
        word0 = bytes.loadBigEndian(UInt32.self, at: offset)
        word1 = bytes.loadBigEndian(UInt32.self, at: offset &+ 4)
        word2 = bytes.loadBigEndian(UInt32.self, at: offset &+ 8)
    }

    /// Writes the 12 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int = 0) {
        bytes.storeBigEndian(word0, at: offset)
        bytes.storeBigEndian(word1, at: offset &+ 4)
        bytes.storeBigEndian(word2, at: offset &+ 8)
    }

    /// What the packet is.
    @inlinable @inline(__always)
    public var opcode: Opcode {
        get { Opcode(rawValue: UInt8(truncatingIfNeeded: word0 >> 24)) }
        set { word0 = word0 & 0x00FF_FFFF | UInt32(newValue.rawValue) << 24 }
    }

    /// SE: the receiver of the message asked to be woken for such. Set on the last packet of a SEND or a WRITE with
    /// immediate only.
    @inlinable @inline(__always)
    public var solicitedEvent: Bool {
        get { word0 & 0x80_0000 != 0 }
        set { word0 = word0 & ~0x80_0000 | (newValue ? 0x80_0000 : 0) }
    }

    /// MigReq: automatic path migration state. Hardware sends 1, rxe sends 0; never act on it.
    @inlinable @inline(__always)
    public var migrationRequest: Bool {
        get { word0 & 0x40_0000 != 0 }
        set { word0 = word0 & ~0x40_0000 | (newValue ? 0x40_0000 : 0) }
    }

    /// PadCnt: the zero bytes, 0...3, that fill the payload up to a multiple of four.
    @inlinable @inline(__always)
    public var padCount: Int {
        get { Int(word0 >> 20 & 3) }
        set { word0 = word0 & ~0x30_0000 | UInt32(truncatingIfNeeded: newValue & 3) << 20 }
    }

    /// TVer: 0, or the packet is dropped.
    @inlinable @inline(__always)
    public var transportVersion: UInt8 { UInt8(truncatingIfNeeded: word0 >> 16 & 0xF) }

    /// P_Key.
    @inlinable @inline(__always)
    public var partitionKey: PartitionKey { PartitionKey(rawValue: UInt16(truncatingIfNeeded: word0)) }

    /// FECN: the packet met congestion.
    @inlinable @inline(__always)
    public var fecn: Bool {
        get { word1 & 0x8000_0000 != 0 }
        set { word1 = word1 & ~0x8000_0000 | (newValue ? 0x8000_0000 : 0) }
    }

    /// BECN: packets in the other direction met congestion. Set in a congestion notification.
    @inlinable @inline(__always)
    public var becn: Bool {
        get { word1 & 0x4000_0000 != 0 }
        set { word1 = word1 & ~0x4000_0000 | (newValue ? 0x4000_0000 : 0) }
    }

    /// The queue pair that the packet is for.
    @inlinable @inline(__always)
    public var destination: QPN {
        get { QPN(truncating: word1) }
        set { word1 = word1 & 0xFF00_0000 | newValue.rawValue }
    }

    /// AckReq: the requester wants an acknowledgement. rxe sets it on datagrams to queue pair 1 too, to no effect.
    @inlinable @inline(__always)
    public var acknowledgeRequest: Bool {
        get { word2 & 0x8000_0000 != 0 }
        set { word2 = word2 & ~0x8000_0000 | (newValue ? 0x8000_0000 : 0) }
    }

    /// The packet's sequence number, or in a NAK 0x60 the one that was expected.
    @inlinable @inline(__always)
    public var psn: PSN {
        get { PSN(truncating: word2) }
        set { word2 = word2 & 0xFF00_0000 | newValue.rawValue }
    }
}

extension BTH: CustomStringConvertible {
    /// The fields that are not at rest.
    public var description: String {
        var text = "\(opcode) to \(destination) psn \(psn)"
        if padCount != 0 { text += " pad \(padCount)" }
        if solicitedEvent { text += " SE" }
        if acknowledgeRequest { text += " AckReq" }
        if fecn { text += " FECN" }
        if becn { text += " BECN" }
        return text
    }
}
