// SPDX-License-Identifier: Apache-2.0

/// Atomic extension header: the operands of COMPARE SWAP and FETCH ADD.
///
/// ```
///  0...7    virtual address, a multiple of 8
///  8...11   R_Key
///  12...19  swap (or the number to add)
///  20...27  compare (0 and ignored in FETCH ADD)
/// ```
/// Operands are big-endian on the wire and in host order in memory.
public struct AtomicETH: Hashable, Sendable {
    /// 28.
    @inlinable public static var byteCount: Int { 28 }

    /// The address of the 8 bytes; not a multiple of 8 is an invalid request.
    public var virtualAddress: UInt64
    /// The region's key.
    public var rkey: MemoryKey
    /// What to store if the comparison holds, or the number to add.
    public var swapOrAdd: UInt64
    /// What memory must hold for the swap to happen.
    public var compare: UInt64

    /// A header with these fields.
    @inlinable @inline(__always)
    public init(virtualAddress: UInt64, rkey: MemoryKey, swapOrAdd: UInt64, compare: UInt64) {
        self.virtualAddress = virtualAddress
        self.rkey = rkey
        self.swapOrAdd = swapOrAdd
        self.compare = compare
    }

    /// The header at `offset`, where 28 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        virtualAddress = bytes.loadBigEndian(UInt64.self, at: offset)
        rkey = MemoryKey(rawValue: bytes.loadBigEndian(UInt32.self, at: offset &+ 8))
        swapOrAdd = bytes.loadBigEndian(UInt64.self, at: offset &+ 12)
        compare = bytes.loadBigEndian(UInt64.self, at: offset &+ 20)
    }

    /// Writes the 28 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(virtualAddress, at: offset)
        bytes.storeBigEndian(rkey.rawValue, at: offset &+ 8)
        bytes.storeBigEndian(swapOrAdd, at: offset &+ 12)
        bytes.storeBigEndian(compare, at: offset &+ 20)
    }
}
