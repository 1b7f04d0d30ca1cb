// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// Registered memory that has exactly one owner: this program, or the device.
///
/// Posting consumes the value, the completion gives it back (``Completion/takeBuffer()``); in between there is no name by
/// which the memory could be touched, so code that would touch it does not compile. A buffer that is let go returns to
/// its pool. It may be moved between threads. What the compiler cannot see, a pointer kept from before, is found by
/// ``Device/open(guardsBuffers:)``.
///
/// What the owner of a queue pair with remote access gives a peer by ``remote`` the peer may read and write at any time:
/// no language can know.
@safe @frozen public struct RegisteredBuffer: ~Copyable, @unchecked Sendable {  // One owner, who may be on any thread.
    @usableFromInline let header: UnsafeMutablePointer<cverbs_buffer>

    @inlinable init(_ header: UnsafeMutablePointer<cverbs_buffer>) { unsafe self.header = header }

    @inlinable deinit { unsafe BufferPool.recycle(header) }

    /// Gives up the value without returning the memory: it is the device's now.
    @inlinable consuming func leak() -> UnsafeMutablePointer<cverbs_buffer> {
        let header = unsafe header
        discard self
        return unsafe header
    }

    /// Bytes in use, from the first: what is sent, read or written; after a receive, what arrived. Up to ``capacity``.
    @inlinable public var count: Int {
        get { unsafe Int(header.pointee.element.length) }
        set {
            precondition(newValue >= 0 && newValue <= capacity, "count outside the buffer")
            unsafe header.pointee.element.length = UInt32(truncatingIfNeeded: newValue)
        }
    }

    /// The size of the memory, in bytes.
    @inlinable public var capacity: Int { unsafe Int(header.pointee.capacity) }

    /// The bytes in use.
    @inlinable public var bytes: RawSpan {
        @_lifetime(borrow self)
        borrowing get {
            // The memory lives as long as the pool, which lives as long as this value.
            unsafe _overrideLifetime(
                RawSpan(_unsafeStart: UnsafeRawPointer(header.pointee.bytes), byteCount: count), borrowing: self)
        }
    }

    /// The bytes in use, to write.
    @inlinable public var mutableBytes: MutableRawSpan {
        @_lifetime(&self)
        mutating get {
            // As above; exclusive, because the value is.
            unsafe _overrideLifetime(
                MutableRawSpan(_unsafeStart: header.pointee.bytes, byteCount: count), mutating: &self)
        }
    }

    /// Reads the bytes in use within a closure.
    @inlinable public func withBytes<R: ~Copyable, E>(_ body: (RawSpan) throws(E) -> R) throws(E) -> R {
        try body(bytes)
    }

    /// What a peer must be told to reach the bytes in use; worthless unless the pool was made with remote access.
    @inlinable public var remote: RemoteMemory {
        unsafe RemoteMemory(
            address: header.pointee.element.addr, rkey: header.pointee.rkey,
            length: UInt64(header.pointee.element.length))
    }
}

// Values in the buffer.
extension RegisteredBuffer {
    /// Reads a value at a byte offset, of any alignment; traps outside the bytes in use.
    @inlinable public func load<T: BitwiseCopyable>(at offset: Int = 0, as type: T.Type = T.self) -> T
    where T: FixedWidthInteger {
        // Any bit pattern is an integer.
        unsafe bytes.unsafeLoadUnaligned(fromByteOffset: offset, as: T.self)
    }

    /// Writes a value at a byte offset, of any alignment; traps outside the bytes in use.
    @inlinable public mutating func store<T: BitwiseCopyable>(_ value: T, at offset: Int = 0)
    where T: FixedWidthInteger {
        var span = mutableBytes
        span.storeBytes(of: value, toByteOffset: offset, as: T.self)
    }

    /// The bytes in use, copied.
    public func copyBytes() -> [UInt8] {
        // The memory is alive and ours during the call.
        unsafe [UInt8](UnsafeRawBufferPointer(start: header.pointee.bytes, count: count))
    }

    /// Copies bytes in and sets ``count`` to their number, which must not pass ``capacity``.
    @inlinable public mutating func fill(from source: RawSpan) {
        count = source.byteCount
        // Both spans are as long as the count, and apart: this value owns its memory.
        unsafe source.withUnsafeBytes { source in
            guard let base = source.baseAddress else { return }
            unsafe header.pointee.bytes.copyMemory(from: base, byteCount: source.count)
        }
    }

    /// Copies the elements of a collection in and sets ``count`` to their number, which must not pass ``capacity``.
    public mutating func fill(from source: some Collection<UInt8>) {
        count = source.count
        var span = mutableBytes
        for (offset, byte) in source.enumerated() { span.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self) }
    }
}

// Scatter/gather lists.
extension RegisteredBuffer {
    /// Adds a buffer at the end of the list that a post of this one names: a send gathers from all, a receive scatters
    /// over all in turn.
    public mutating func append(_ other: consuming RegisteredBuffer) {
        var last = unsafe header
        while let next = unsafe last.pointee.next { unsafe last = next }
        unsafe last.pointee.next = other.leak()
    }

    /// Takes off the list that follows this buffer, `nil` if there is none.
    public mutating func takeRest() -> RegisteredBuffer? {
        guard let next = unsafe header.pointee.next else { return nil }
        unsafe header.pointee.next = nil
        return unsafe RegisteredBuffer(next)
    }

    /// Bytes in use of this and all that follow.
    public var totalCount: Int {
        var sum = count
        var next = unsafe header.pointee.next
        while let header = unsafe next {
            sum += unsafe Int(header.pointee.element.length)
            unsafe next = header.pointee.next
        }
        return sum
    }
}
