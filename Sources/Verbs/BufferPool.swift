// SPDX-License-Identifier: Apache-2.0
import Synchronization
import VerbsABI

/// Registered buffers of one size, taken and given back.
///
/// ```swift
/// let pool = try domain.makeBufferPool(count: 64, size: 4096)
/// guard var buffer = pool.take() else { return }     // all 64 are in use
/// buffer.store(42, at: 0)
/// try queuePair.post(.send, buffer).orThrow()        // `buffer` is gone until its completion
/// ```
///
/// A buffer goes back when it is let go, from any thread. As long as one is out, the pool with its memory region,
/// protection domain and device stays.
@safe public final class BufferPool: @unchecked Sendable {  // The free list is behind a mutex, the rest constant.
    /// The memory of all buffers.
    public let region: MemoryRegion
    /// How many buffers there are, in and out.
    public let count: Int
    /// The size of each buffer, in bytes.
    public let size: Int

    /// From one buffer to the next.
    private let stride: Int
    private let headers: UnsafeMutablePointer<cverbs_buffer>
    private let free: Mutex<FreeList>

    /// Indices of the buffers that are in.
    private struct FreeList {
        var indices: [UInt32]
    }

    /// Buffers over a region that exists. Nothing else may use the region's bytes, and no other pool.
    @unsafe public init(over region: MemoryRegion, count: Int, size: Int, stride: Int? = nil) throws(VerbsError) {
        let stride = stride ?? size
        guard count > 0, size > 0, size <= UInt32.max, stride >= size, count <= region.length / stride else {
            throw VerbsError(
                .invalidAttribute, verb: "ibv_reg_mr", subject: "buffer pool",
                value: "\(count) buffers, one every \(stride) bytes", limit: Diagnosis.bytes(UInt64(region.length)),
                remedy: "Ask for fewer or smaller buffers, or a larger region")
        }
        guard let base = unsafe region.base else {
            throw VerbsError(
                .unsupported, verb: "ibv_reg_dmabuf_mr", subject: "buffer pool",
                remedy: "The memory of a dmabuf cannot be read by the processor: use the raw level")
        }
        self.region = region
        self.count = count
        self.size = size
        self.stride = stride
        unsafe headers = .allocate(capacity: count)
        free = Mutex(FreeList(indices: (0..<UInt32(count)).reversed()))
        let pool = unsafe UnsafeRawPointer(Unmanaged.passUnretained(self).toOpaque())
        for index in 0..<count {
            // Within the region by the guard above; headers live as long as the pool.
            let offset = index * stride
            let element = ibv_sge(addr: region.ioAddress &+ UInt64(offset), length: UInt32(size), lkey: region.lkey)
            unsafe (headers + index).initialize(
                to: cverbs_buffer(
                    element: element, bytes: base + offset, next: nil, pool: pool, capacity: UInt32(size),
                    rkey: region.rkey))
        }
    }

    deinit { unsafe headers.deallocate() }

    /// A buffer, its count set to the full size and its bytes as the last user left them; `nil` when all are out.
    public func take() -> RegisteredBuffer? {
        let index = free.withLock { list -> UInt32? in
            let index = list.indices.popLast()
            // The first one out keeps the pool until the last one is back.
            if index != nil, list.indices.count == count - 1 { _ = unsafe Unmanaged.passRetained(self) }
            return index
        }
        guard let index else { return nil }
        return unsafe RegisteredBuffer(headers + Int(index))
    }

    /// How many buffers are in.
    public var available: Int { free.withLock { $0.indices.count } }

    /// Takes back a chain of buffers, each into its own pool.
    @usableFromInline @inline(never) static func recycle(_ chain: UnsafeMutablePointer<cverbs_buffer>) {
        var next: UnsafeMutablePointer<cverbs_buffer>? = unsafe chain
        while let header = unsafe next {
            unsafe next = header.pointee.next
            // The pool is alive: it holds itself while one of its buffers is out.
            unsafe Unmanaged<BufferPool>.fromOpaque(header.pointee.pool)._withUnsafeGuaranteedRef {
                unsafe $0.giveBack(header)
            }
        }
    }

    /// The bytes, from its first, that a buffer shares with nobody.
    static func stride(of header: UnsafeMutablePointer<cverbs_buffer>) -> Int {
        // As above.
        unsafe Unmanaged<BufferPool>.fromOpaque(header.pointee.pool)._withUnsafeGuaranteedRef { $0.stride }
    }

    private func giveBack(_ header: UnsafeMutablePointer<cverbs_buffer>) {
        unsafe header.pointee.next = nil
        unsafe header.pointee.element.length = header.pointee.capacity
        let isLast = free.withLock { list in
            unsafe list.indices.append(UInt32(header - headers))  // Within the capacity reserved by `init`.
            return list.indices.count == count
        }
        if isLast { unsafe Unmanaged.passUnretained(self).release() }
    }
}

extension ProtectionDomain {
    /// Makes a pool with memory of its own. `size` is in bytes; buffers start at multiples of 64 bytes, and where the
    /// device guards buffers (``Device/open(guardsBuffers:)``) each has pages of its own.
    public func makeBufferPool(
        count: Int, size: Int, access: AccessFlags = .localWrite, pages: MemoryRegion.Pages = .standard
    ) throws(VerbsError) -> BufferPool {
        let unit = context.bufferGuard == nil ? 64 : GuardedRegion.pageSize
        let stride = size <= Int.max - unit ? (size + unit - 1) & ~(unit - 1) : size
        let (length, overflow) = max(1, count).multipliedReportingOverflow(by: max(1, stride))
        let region = try makeRegion(length: overflow ? Int.max : length, access: access, pages: pages)
        // Nobody else has the region.
        return try unsafe BufferPool(over: region, count: count, size: size, stride: stride)
    }
}
