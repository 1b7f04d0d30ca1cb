// SPDX-License-Identifier: Apache-2.0

/// FLUSH extension header (IBTA annex A19): how far earlier writes must have got before the answer.
///
/// Bits 3...0 are the placement type, bits 5...4 the selectivity, the rest is reserved.
public struct FETH: Hashable, Sendable {
    /// 4.
    @inlinable public static var byteCount: Int { 4 }

    /// All 32 bits; reserved ones are kept.
    public var rawValue: UInt32

    /// A header with these bits.
    @inlinable @inline(__always)
    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// A header that asks for this placement, of the region or of the range in the RETH.
    @inlinable @inline(__always)
    public init(isGlobal: Bool, isPersistent: Bool, isWholeRegion: Bool) {
        rawValue = (isGlobal ? 0x1 : 0) | (isPersistent ? 0x2 : 0) | (isWholeRegion ? 0x10 : 0)
    }

    /// The header at `offset`, where 4 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        rawValue = bytes.loadBigEndian(UInt32.self, at: offset)
    }

    /// Writes the 4 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(rawValue, at: offset)
    }

    /// Placement bit 0: the data is to be visible to every observer.
    @inlinable public var isGlobal: Bool { rawValue & 0x1 != 0 }
    /// Placement bit 1: the data is to survive a loss of power.
    @inlinable public var isPersistent: Bool { rawValue & 0x2 != 0 }
    /// Selectivity 1: the whole region, instead of the range in the RETH.
    @inlinable public var isWholeRegion: Bool { rawValue >> 4 & 0x3 == 1 }
    /// Whether it asks for a placement, of what is known here only. Bits 31...6 are reserved, and not looked at.
    @inlinable public var isKnown: Bool { rawValue & 0xF != 0 && rawValue & 0xC == 0 && rawValue >> 4 & 0x3 <= 1 }
}
