// SPDX-License-Identifier: Apache-2.0

/// Memory of the other side, as a value that may be copied and sent there and back: where it is, the key that opens it,
/// and how much of it there is.
///
/// It gives no access by itself: the other side's registration decides, and ends it.
@frozen public struct RemoteMemory: Hashable, Sendable, BitwiseCopyable {
    /// The virtual address in the other process (or the offset in a zero-based region or window).
    public let address: UInt64
    /// In bytes.
    public let length: UInt64
    /// The key of the other side.
    public let rkey: UInt32

    /// A range with its key.
    @inlinable public init(address: UInt64, rkey: UInt32, length: UInt64) {
        self.address = address
        self.length = length
        self.rkey = rkey
    }

    /// A part of it; `nil` where the part is not wholly inside.
    @inlinable public func part(offset: Int, length count: Int) -> RemoteMemory? {
        guard offset >= 0, count >= 0, UInt64(offset) <= length, UInt64(count) <= length - UInt64(offset) else {
            return nil
        }
        return RemoteMemory(address: address &+ UInt64(offset), rkey: rkey, length: UInt64(count))
    }

    /// The same from a byte on, to the end; the offset must be inside.
    @inlinable public subscript(from offset: Int) -> RemoteMemory {
        precondition(offset >= 0 && UInt64(offset) <= length, "offset outside the remote memory")
        return RemoteMemory(address: address &+ UInt64(offset), rkey: rkey, length: length - UInt64(offset))
    }
}

extension RemoteMemory {
    /// The size of the byte form.
    public static let byteCount = 20

    /// Twenty bytes: address, length, key, each in network order.
    public var bytes: [UInt8] {
        [address, length].flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(56 - $0 * 8)) } }
            + (0..<4).map { UInt8(truncatingIfNeeded: rkey >> UInt32(24 - $0 * 8)) }
    }

    /// Reads the byte form; `nil` if the count is wrong or the range passes the end of the address space.
    public init?(bytes: some Collection<UInt8>) {
        guard bytes.count == Self.byteCount else { return nil }
        let address = bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
        let length = bytes.dropFirst(8).prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
        guard length == 0 || address <= UInt64.max - (length - 1) else { return nil }
        self.init(address: address, rkey: bytes.dropFirst(16).reduce(0) { $0 << 8 | UInt32($1) }, length: length)
    }
}

/// Memory of this side as a work request of the raw level names it: address, length and local key.
///
/// Whoever posts one promises that the memory is registered and left alone until the completion. The corresponding C
/// type is `struct ibv_sge`, whose layout this has.
@frozen public struct LocalMemory: Hashable, Sendable, BitwiseCopyable {
    /// The virtual address, or the offset in a zero-based region.
    public let address: UInt64
    /// In bytes.
    public let length: UInt32
    /// The local key.
    public let lkey: UInt32

    /// A range with its key.
    @inlinable public init(address: UInt64, length: UInt32, lkey: UInt32) {
        self.address = address
        self.length = length
        self.lkey = lkey
    }
}
