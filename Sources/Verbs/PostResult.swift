// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// Why a work request was not posted. A small value: the data path neither allocates nor throws.
@frozen public struct PostError: Error, Hashable, Sendable, BitwiseCopyable {
    /// An error number of the provider, or one of the library's own below zero.
    public let code: Int32

    /// An error by its number.
    @inlinable public init(code: Int32) { self.code = code }

    /// All of the queue's depth is in flight: poll, then post again.
    public static let queueFull = PostError(code: -1)
    /// More scatter/gather elements than the queue pair was made for.
    public static let tooManyElements = PostError(code: -2)
    /// More inline bytes than the queue pair was made for.
    public static let inlineTooLong = PostError(code: -3)
    /// The remote memory is shorter than the buffer.
    public static let remoteTooShort = PostError(code: -4)
    /// The operation is not one of this queue pair's transport, or its receives come from a shared queue.
    public static let wrongTransport = PostError(code: -5)
    /// An atomic needs a buffer of exactly eight bytes.
    public static let atomicLength = PostError(code: -6)
    /// ATOMIC WRITE and FLUSH are not carried by work requests of this device.
    public static let placementNotCarried = PostError(code: -7)
}

extension PostError: CustomStringConvertible {
    /// What it means, and what to do.
    public var description: String {
        switch self {
        case .queueFull: "the queue is full: poll its completion queue, then post again"
        case .tooManyElements: "more scatter/gather elements than the queue pair was made for"
        case .inlineTooLong: "more inline bytes than the queue pair was made for (QueuePairOptions.maxInline)"
        case .remoteTooShort: "the remote memory is shorter than the buffer"
        case .wrongTransport: "the operation is not one of this queue pair: check its transport and receive queue"
        case .atomicLength: "an atomic operation takes a buffer of exactly eight bytes"
        case .placementNotCarried:
            "ATOMIC WRITE and FLUSH are not posted to devices of the kernel, whose ibv_post_send does not carry them; "
                + "the software device posts both (rxe of Linux 6.2 and later takes ATOMIC WRITE from it)"
        default: "\(ErrorNumber.name(code)): \(ErrorNumber.message(code))\(hint)"
        }
    }

    private var hint: String {
        switch code {
        case EINVAL: " (the queue pair is not in a state that takes it, or the operation is not one of its transport)"
        case ENOMEM: " (the provider's queue is full, or takes fewer elements)"
        default: ""
        }
    }
}

/// The outcome of a post that consumes a buffer: where it was not posted, the buffer comes back.
///
/// ```swift
/// switch consume result {
/// case .posted: break                        // the completion gives it back
/// case .full(let buffer): keep(buffer)       // poll, then try again
/// case .refused(let buffer, let error): …
/// }
/// ```
@frozen public enum PostResult: ~Copyable {
    /// The device has the buffer now.
    case posted
    /// The queue's depth is in flight. Poll and post again.
    case full(RegisteredBuffer)
    /// The provider, or the library before it, refused.
    case refused(RegisteredBuffer, PostError)
}

extension PostResult {
    /// Whether it was posted; a buffer that was not goes back to its pool.
    @inlinable public consuming func isPosted() -> Bool {
        switch consume self {
        case .posted: return true
        case .full: return false
        case .refused: return false
        }
    }

    /// For programs that size their queues so that no post can fail: throws the error, and lets the buffer go back to
    /// its pool.
    @inlinable public consuming func orThrow() throws(PostError) {
        switch consume self {
        case .posted: return
        case .full: throw .queueFull
        case .refused(_, let error): throw error
        }
    }
}

/// The outcome of a post that owns nothing: inline data, and the raw level.
@frozen public enum PostStatus: Hashable, Sendable {
    case posted
    /// The queue's depth is in flight. Poll and post again.
    case full
    case refused(PostError)

    /// Throws the error of what was not posted.
    @inlinable public func orThrow() throws(PostError) {
        switch self {
        case .posted: return
        case .full: throw .queueFull
        case .refused(let error): throw error
        }
    }
}
