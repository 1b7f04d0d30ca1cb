// SPDX-License-Identifier: Apache-2.0

/// The outcome of a work request; the numbers of `enum ibv_wc_status`.
public struct CompletionStatus: RawRepresentable, Sendable, BitwiseCopyable, Equatable {
    /// As the C enumeration has it.
    public let rawValue: UInt32
    /// A value from its number.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// `IBV_WC_SUCCESS`
    @inlinable public static var success: Self { Self(rawValue: 0) }
    /// `IBV_WC_LOC_LEN_ERR`
    @inlinable public static var localLengthError: Self { Self(rawValue: 1) }
    /// `IBV_WC_LOC_QP_OP_ERR`
    @inlinable public static var localQueuePairOperationError: Self { Self(rawValue: 2) }
    /// `IBV_WC_LOC_PROT_ERR`
    @inlinable public static var localProtectionError: Self { Self(rawValue: 4) }
    /// `IBV_WC_WR_FLUSH_ERR`
    @inlinable public static var flushed: Self { Self(rawValue: 5) }
    /// `IBV_WC_MW_BIND_ERR`
    @inlinable public static var windowBindError: Self { Self(rawValue: 6) }
    /// `IBV_WC_BAD_RESP_ERR`
    @inlinable public static var badResponseError: Self { Self(rawValue: 7) }
    /// `IBV_WC_LOC_ACCESS_ERR`
    @inlinable public static var localAccessError: Self { Self(rawValue: 8) }
    /// `IBV_WC_REM_INV_REQ_ERR`
    @inlinable public static var remoteInvalidRequestError: Self { Self(rawValue: 9) }
    /// `IBV_WC_REM_ACCESS_ERR`
    @inlinable public static var remoteAccessError: Self { Self(rawValue: 10) }
    /// `IBV_WC_REM_OP_ERR`
    @inlinable public static var remoteOperationError: Self { Self(rawValue: 11) }
    /// `IBV_WC_RETRY_EXC_ERR`
    @inlinable public static var retriesExceeded: Self { Self(rawValue: 12) }
    /// `IBV_WC_RNR_RETRY_EXC_ERR`
    @inlinable public static var receiverNotReadyRetriesExceeded: Self { Self(rawValue: 13) }
}

/// Which operation completed; the numbers of `enum ibv_wc_opcode`.
public struct CompletionOperation: RawRepresentable, Sendable, BitwiseCopyable, Equatable {
    /// As the C enumeration has it.
    public let rawValue: UInt32
    /// A value from its number.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// `IBV_WC_SEND`
    @inlinable public static var send: Self { Self(rawValue: 0) }
    /// `IBV_WC_RDMA_WRITE`
    @inlinable public static var rdmaWrite: Self { Self(rawValue: 1) }
    /// `IBV_WC_RDMA_READ`
    @inlinable public static var rdmaRead: Self { Self(rawValue: 2) }
    /// `IBV_WC_COMP_SWAP`
    @inlinable public static var compareAndSwap: Self { Self(rawValue: 3) }
    /// `IBV_WC_FETCH_ADD`
    @inlinable public static var fetchAndAdd: Self { Self(rawValue: 4) }
    /// `IBV_WC_BIND_MW`
    @inlinable public static var bindWindow: Self { Self(rawValue: 5) }
    /// `IBV_WC_LOCAL_INV`
    @inlinable public static var localInvalidate: Self { Self(rawValue: 6) }
    /// `IBV_WC_FLUSH`
    @inlinable public static var flush: Self { Self(rawValue: 8) }
    /// `IBV_WC_ATOMIC_WRITE`
    @inlinable public static var atomicWrite: Self { Self(rawValue: 9) }
    /// `IBV_WC_RECV`
    @inlinable public static var receive: Self { Self(rawValue: 128) }
    /// `IBV_WC_RECV_RDMA_WITH_IMM`
    @inlinable public static var receiveRDMAWithImmediate: Self { Self(rawValue: 129) }
}

/// The bits of `enum ibv_wc_flags`.
public struct CompletionFlags: OptionSet, Sendable, BitwiseCopyable {
    /// As the C enumeration has it.
    public let rawValue: UInt32
    /// A value from its number.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// `IBV_WC_GRH`: 40 bytes of header precede the data.
    @inlinable public static var grh: Self { Self(rawValue: 1) }
    /// `IBV_WC_WITH_IMM`
    @inlinable public static var withImmediate: Self { Self(rawValue: 2) }
    /// `IBV_WC_IP_CSUM_OK`
    @inlinable public static var checksumIsRight: Self { Self(rawValue: 4) }
    /// `IBV_WC_WITH_INV`
    @inlinable public static var withInvalidate: Self { Self(rawValue: 8) }
}

/// One entry of a completion queue: exactly the layout and the numbers of `struct ibv_wc` (48 bytes), so that a poll is
/// a copy.
public struct CompletionEntry: Sendable, BitwiseCopyable {
    /// `wr_id` of the work request.
    public var id: UInt64
    /// How it ended.
    public var status: CompletionStatus
    /// Which operation; valid with ``CompletionStatus/success`` only.
    public var operation: CompletionOperation
    /// Always 0.
    public var vendorError: UInt32
    /// Bytes received, or read.
    public var byteLength: UInt32
    /// Immediate data in network byte order, or the invalidated key.
    public var immediate: UInt32
    /// The queue pair.
    public var qpn: UInt32
    /// UD: the sender.
    public var sourceQPN: UInt32
    /// What of the entry is valid.
    public var flags: CompletionFlags
    /// Always 0.
    public var pkeyIndex: UInt16
    /// Always 0: there are no LIDs on Ethernet.
    public var sourceLID: UInt16
    /// UD: 2 for a datagram over IPv4, 1 over IPv6, as rxe.
    public var serviceLevel: UInt8
    /// 0, but for received frames: see ``FrameFacts``.
    public var destinationPathBits: UInt8

    /// A value with these fields; the rest is zero.
    @inlinable
    public init(id: UInt64, status: CompletionStatus, operation: CompletionOperation, qpn: UInt32) {
        self.id = id
        self.status = status
        self.operation = operation
        self.qpn = qpn
        vendorError = 0
        byteLength = 0
        immediate = 0
        sourceQPN = 0
        flags = []
        pkeyIndex = 0
        sourceLID = 0
        serviceLevel = 0
        destinationPathBits = 0
    }
}
