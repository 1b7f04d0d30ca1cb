// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// The completion of a work request, with the buffer that its post consumed.
///
/// A buffer that nobody takes returns to its pool with the completion.
@safe @frozen public struct Completion: ~Copyable {
    @usableFromInline let work: WorkCompletion
    @usableFromInline let buffer: UnsafeMutablePointer<cverbs_buffer>?

    @inlinable init(_ work: WorkCompletion, buffer: UnsafeMutablePointer<cverbs_buffer>?) {
        self.work = work
        unsafe self.buffer = buffer
    }

    @inlinable deinit { if let buffer = unsafe buffer { unsafe BufferPool.recycle(buffer) } }

    /// The buffer, ours again; `nil` where the post consumed none. After a receive its count is what arrived.
    @inlinable public consuming func takeBuffer() -> RegisteredBuffer? {
        let header = unsafe buffer
        discard self
        guard let header = unsafe header else { return nil }
        return unsafe RegisteredBuffer(header)
    }

    /// All members as a plain value.
    @inlinable public var workCompletion: WorkCompletion { work }

    /// What the caller gave at the post.
    @inlinable public var id: UInt64 { work.id }
    /// How it ended.
    @inlinable public var status: WorkStatus { work.status }
    /// Whether it ended well.
    @inlinable public var isSuccess: Bool { work.isSuccess }
    /// Of a failed request only whether it was a receive.
    @inlinable public var opcode: WorkOpcode { work.opcode }
    /// Bytes received or read; on UD with the 40 bytes of the GRH area.
    @inlinable public var byteCount: Int { work.byteCount }
    /// The local queue pair.
    @inlinable public var queuePair: UInt32 { work.queuePair }
    /// The sender's queue pair (UD).
    @inlinable public var sourceQueuePair: UInt32 { work.sourceQueuePair }
    /// The 32 bits that came with the message.
    @inlinable public var immediate: UInt32? { work.immediate }
    /// The key that the message ended.
    @inlinable public var invalidatedKey: UInt32? { work.invalidatedKey }
    /// The first 40 bytes of the buffer are the packet's global routing header (UD).
    @inlinable public var hasGRH: Bool { work.hasGRH }
    /// What is known of a received frame (raw packets).
    @inlinable public var frame: FrameDescription { work.frame }
}
