// SPDX-License-Identifier: Apache-2.0

/// RDMA extension header: the remote memory of a WRITE, READ, FLUSH or ATOMIC WRITE.
///
/// ```
///  0...7    virtual address
///  8...11   R_Key
///  12...15  DMA length: of the whole message, 0...2^31
/// ```
public struct RETH: Hashable, Sendable {
    /// 16.
    @inlinable public static var byteCount: Int { 16 }

    /// The first byte, in the address space of the region.
    public var virtualAddress: UInt64
    /// The region's key. With length 0 it is not to be checked (IBTA C9-88).
    public var rkey: MemoryKey
    /// The bytes of the whole message.
    public var length: UInt32

    /// A header with these fields.
    @inlinable @inline(__always)
    public init(virtualAddress: UInt64, rkey: MemoryKey, length: UInt32) {
        self.virtualAddress = virtualAddress
        self.rkey = rkey
        self.length = length
    }

    /// The header at `offset`, where 16 bytes must be.
    @inlinable @inline(__always)
    public init(parsing bytes: RawSpan, at offset: Int) {
        virtualAddress = bytes.loadBigEndian(UInt64.self, at: offset)
        rkey = MemoryKey(rawValue: bytes.loadBigEndian(UInt32.self, at: offset &+ 8))
        length = bytes.loadBigEndian(UInt32.self, at: offset &+ 12)
    }

    /// Writes the 16 bytes at `offset`.
    @inlinable @inline(__always)
    public func emit(into bytes: inout MutableRawSpan, at offset: Int) {
        bytes.storeBigEndian(virtualAddress, at: offset)
        bytes.storeBigEndian(rkey.rawValue, at: offset &+ 8)
        bytes.storeBigEndian(length, at: offset &+ 12)
    }
}
