// SPDX-License-Identifier: Apache-2.0

// Declarations of this module are `public`, not `package`: Swift 6.3 does not inline a `package` function into another
// module, `@inlinable` or not, and the leaves here must vanish into the loops of the engine. The module is no product
// of the package, so nothing of it reaches users.

extension RawSpan {
    /// The big-endian integer at `offset`, which needs no alignment.
    ///
    /// Traps if the integer does not lie inside the span; after one check of `byteCount` the compiler drops the test.
    @inlinable @inline(__always)
    public func loadBigEndian<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, at offset: Int) -> T {
        // Safe: every bit pattern is an integer, and the load is bounds-checked.
        unsafe T(bigEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: type))
    }

    /// The integer at `offset` as it lies in memory: for values that travel opaque, such as immediate data.
    @inlinable @inline(__always)
    public func loadNative<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type, at offset: Int) -> T {
        // Safe for the same reasons.
        unsafe unsafeLoadUnaligned(fromByteOffset: offset, as: type)
    }
}

extension MutableRawSpan {
    /// Stores an integer in network byte order at `offset`; traps if it does not fit.
    @inlinable @inline(__always)
    public mutating func storeBigEndian<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: T.self)
    }

    /// Stores an integer as it lies in memory.
    @inlinable @inline(__always)
    public mutating func storeNative<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        storeBytes(of: value, toByteOffset: offset, as: T.self)
    }
}
