// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// How a work request ended. Values that this library does not know are kept. The corresponding C type is
/// `enum ibv_wc_status`.
@frozen public struct WorkStatus: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
    /// The number of the C enumeration.
    public let rawValue: UInt32

    /// A value by its number.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// It was carried out.
    public static var success: WorkStatus { @inlinable get { WorkStatus(rawValue: 0) } }
    /// A receive was shorter than its message, or a send too long.
    public static let localLengthError = WorkStatus(rawValue: 1)
    /// The request does not fit its queue pair.
    public static let localQueuePairOperationError = WorkStatus(rawValue: 2)
    /// A local key or range was wrong.
    public static let localProtectionError = WorkStatus(rawValue: 4)
    /// Not carried out: the queue pair is in error, or has ended.
    public static let flushed = WorkStatus(rawValue: 5)
    /// A memory window could not be bound.
    public static let windowBindError = WorkStatus(rawValue: 6)
    /// The peer answered with something unexpected.
    public static let badResponse = WorkStatus(rawValue: 7)
    /// A write with immediate of the peer went where it may not.
    public static let localAccessError = WorkStatus(rawValue: 8)
    /// The peer found the request invalid.
    public static let remoteInvalidRequest = WorkStatus(rawValue: 9)
    /// The peer found key, range or access wrong.
    public static let remoteAccessError = WorkStatus(rawValue: 10)
    /// The peer could not carry it out.
    public static let remoteOperationError = WorkStatus(rawValue: 11)
    /// The peer does not answer.
    public static let retryExceeded = WorkStatus(rawValue: 12)
    /// The peer posts no receives.
    public static let rnrRetryExceeded = WorkStatus(rawValue: 13)
    /// The peer aborted it.
    public static let remoteAborted = WorkStatus(rawValue: 16)
    /// The device failed.
    public static let fatalError = WorkStatus(rawValue: 19)
    /// A response did not come in time.
    public static let responseTimeout = WorkStatus(rawValue: 20)
    /// Something else.
    public static let generalError = WorkStatus(rawValue: 21)

    /// What it usually means, and what to look at; empty for success and for values without advice.
    public var remedy: String {
        Self.texts[rawValue]?.remedy ?? ""
    }

    private static let texts: [UInt32: (name: String, remedy: String)] = [
        0: ("success", ""),
        1: (
            "local length error",
            "A receive was shorter than the message, or a send longer than the port or MTU allows."
        ),
        2: (
            "local queue pair operation error",
            "The request does not fit the queue pair: operation, flags or elements. A raw packet queue pair has it, too, where a "
                + "frame has a source that is not allowed (the counter frames_refused_source), or the process may not send."
        ),
        3: ("local EE context error", ""),
        4: (
            "local protection error",
            "An element's key or range is not of a region of this domain, or lacks the access."
        ),
        5: (
            "flushed", "An earlier request failed, or the queue pair went to ERR or was destroyed: see the first error."
        ),
        6: ("memory window bind error", "Check the window's type, the region's .windowBind access and its range."),
        7: ("bad response", "The peer answered with something unexpected: are both ends connected to each other?"),
        8: ("local access error", "The peer wrote with immediate to memory it has no right to."),
        9: (
            "remote invalid request",
            "The peer found the request invalid: too long for its receive, or an operation off."
        ),
        10: (
            "remote access error",
            "The rkey, range or access flags of the peer's region (or queue pair) do not allow it."
        ),
        11: ("remote operation error", "The peer could not carry it out; its queue pair is in error too."),
        12: (
            "transport retry exceeded",
            "The peer does not answer: it is gone, not yet at RTR, or behind a wrong GID, PSN or queue pair number."
        ),
        13: (
            "receiver not ready, retries exceeded",
            "The peer posts too few receives, or raise rnrRetry (7 is for ever)."
        ),
        14: ("local RDD violation", ""),
        15: ("remote invalid RD request", ""),
        16: ("remote aborted", ""),
        17: ("invalid EE context number", ""),
        18: ("invalid EE context state", ""),
        19: ("fatal error", "The device failed: see its asynchronous events."),
        20: ("response timeout", ""),
        21: ("general error", ""),
        22: ("tag matching error", ""),
        23: ("tag matching rendezvous incomplete", ""),
    ]
}

extension WorkStatus: CustomStringConvertible {
    /// In words.
    public var description: String { Self.texts[rawValue]?.name ?? "status \(rawValue)" }
}

/// What completed. Values that this library does not know are kept. The corresponding C type is `enum ibv_wc_opcode`.
@frozen public struct WorkOpcode: RawRepresentable, Hashable, Sendable, BitwiseCopyable {
    /// The number of the C enumeration.
    public let rawValue: UInt32

    /// A value by its number.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// A send, with or without more.
    public static let send = WorkOpcode(rawValue: 0)
    /// An RDMA WRITE, with or without immediate.
    public static let write = WorkOpcode(rawValue: 1)
    /// An RDMA READ.
    public static let read = WorkOpcode(rawValue: 2)
    /// A COMPARE-AND-SWAP.
    public static let compareAndSwap = WorkOpcode(rawValue: 3)
    /// A FETCH-AND-ADD.
    public static let fetchAndAdd = WorkOpcode(rawValue: 4)
    /// The binding of a memory window.
    public static let bindWindow = WorkOpcode(rawValue: 5)
    /// The end of a key of this side.
    public static let localInvalidate = WorkOpcode(rawValue: 6)
    /// A FLUSH.
    public static let flush = WorkOpcode(rawValue: 8)
    /// An ATOMIC WRITE.
    public static let atomicWrite = WorkOpcode(rawValue: 9)
    /// A receive.
    public static let receive = WorkOpcode(rawValue: 128)
    /// A receive consumed by the peer's write with immediate: its buffer is untouched.
    public static let receiveOfWrite = WorkOpcode(rawValue: 129)

    /// Whether it is of a receive queue.
    @inlinable public var isReceive: Bool { rawValue & 128 != 0 }
}

extension WorkOpcode: CustomStringConvertible {
    /// In words.
    public var description: String {
        switch self {
        case .send: "SEND"
        case .write: "RDMA WRITE"
        case .read: "RDMA READ"
        case .compareAndSwap: "COMPARE-AND-SWAP"
        case .fetchAndAdd: "FETCH-AND-ADD"
        case .bindWindow: "BIND WINDOW"
        case .localInvalidate: "LOCAL INVALIDATE"
        case .flush: "FLUSH"
        case .atomicWrite: "ATOMIC WRITE"
        case .receive: "RECEIVE"
        case .receiveOfWrite: "RECEIVE of WRITE with immediate"
        default: "opcode \(rawValue)"
        }
    }
}

/// A completion as a plain value, for the raw level and for statistics: what ended, how, and the caller's id.
///
/// ``opcode`` and the rest are defined only where ``status`` is success; id, status, queue pair number and vendor error
/// always. The corresponding C type is `struct ibv_wc`, whose layout this has.
@frozen public struct WorkCompletion: Sendable, BitwiseCopyable {
    @usableFromInline var native: cverbs_wc

    /// An empty one, for storage.
    @inlinable public init() { native = cverbs_wc() }

    @inlinable init(_ native: cverbs_wc) { self.native = native }

    /// What the caller gave at the post.
    @inlinable public var id: UInt64 { native.wr_id }
    /// How it ended.
    @inlinable public var status: WorkStatus { WorkStatus(rawValue: native.status.rawValue) }
    /// Whether it ended well.
    @inlinable public var isSuccess: Bool { native.status.rawValue == 0 }
    /// What ended; defined for success only.
    @inlinable public var opcode: WorkOpcode { WorkOpcode(rawValue: native.opcode.rawValue) }
    /// The device's own word on an error.
    @inlinable public var vendorError: UInt32 { native.vendor_err }
    /// Bytes received or read; on UD with the 40 bytes of the GRH area.
    @inlinable public var byteCount: Int { Int(native.byte_len) }
    /// The local queue pair.
    @inlinable public var queuePair: UInt32 { native.qp_num }
    /// The sender's queue pair (UD).
    @inlinable public var sourceQueuePair: UInt32 { native.src_qp }
    /// The sender's local identifier (InfiniBand).
    @inlinable public var sourceLID: UInt16 { native.slid }
    /// The 32 bits that came with the message.
    @inlinable public var immediate: UInt32? {
        native.wc_flags & 2 != 0 ? UInt32(bigEndian: native.imm_data_or_invalidated_rkey) : nil
    }
    /// The key that the message ended.
    @inlinable public var invalidatedKey: UInt32? {
        native.wc_flags & 8 != 0 ? native.imm_data_or_invalidated_rkey : nil
    }
    /// The first 40 bytes of the buffer are the packet's global routing header (UD).
    @inlinable public var hasGRH: Bool { native.wc_flags & 1 != 0 }
    /// What is known of a received frame (raw packets).
    @inlinable public var frame: FrameDescription { FrameDescription(native) }
}

extension WorkCompletion: CustomStringConvertible {
    /// In words.
    public var description: String {
        isSuccess
            ? "\(opcode) of queue pair \(queuePair): \(byteCount) bytes"
            : "queue pair \(queuePair): \(status) (vendor error \(vendorError)). \(status.remedy)"
    }
}
