// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// What a send work request asks for; the numbers of `enum ibv_wr_opcode`. Numbers not listed are refused by the engine.
public struct SendOperation: RawRepresentable, Sendable, BitwiseCopyable, Equatable {
    /// As the C enumeration has it.
    public let rawValue: UInt8
    /// A value from its number.
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// `IBV_WR_RDMA_WRITE`
    @inlinable public static var rdmaWrite: Self { Self(rawValue: 0) }
    /// `IBV_WR_RDMA_WRITE_WITH_IMM`
    @inlinable public static var rdmaWriteWithImmediate: Self { Self(rawValue: 1) }
    /// `IBV_WR_SEND`
    @inlinable public static var send: Self { Self(rawValue: 2) }
    /// `IBV_WR_SEND_WITH_IMM`
    @inlinable public static var sendWithImmediate: Self { Self(rawValue: 3) }
    /// `IBV_WR_RDMA_READ`
    @inlinable public static var rdmaRead: Self { Self(rawValue: 4) }
    /// `IBV_WR_ATOMIC_CMP_AND_SWP`
    @inlinable public static var compareAndSwap: Self { Self(rawValue: 5) }
    /// `IBV_WR_ATOMIC_FETCH_AND_ADD`
    @inlinable public static var fetchAndAdd: Self { Self(rawValue: 6) }
    /// `IBV_WR_LOCAL_INV`
    @inlinable public static var localInvalidate: Self { Self(rawValue: 7) }
    /// `IBV_WR_BIND_MW`
    @inlinable public static var bindWindow: Self { Self(rawValue: 8) }
    /// `IBV_WR_SEND_WITH_INV`
    @inlinable public static var sendWithInvalidate: Self { Self(rawValue: 9) }
    /// `IBV_WR_FLUSH`
    @inlinable public static var flush: Self { Self(rawValue: 14) }
    /// `IBV_WR_ATOMIC_WRITE`
    @inlinable public static var atomicWrite: Self { Self(rawValue: 15) }
}

/// The bits of `enum ibv_send_flags`.
public struct SendFlags: OptionSet, Sendable, BitwiseCopyable {
    /// As the C enumeration has it.
    public let rawValue: UInt8
    /// A value from its number.
    @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Wait until every RDMA READ and atomic before this request is complete.
    @inlinable public static var fence: Self { Self(rawValue: 1) }
    /// Make a completion; without it only an error does.
    @inlinable public static var signaled: Self { Self(rawValue: 2) }
    /// Mark the last packet so that the remote side's solicited notification fires.
    @inlinable public static var solicited: Self { Self(rawValue: 4) }
    /// The data lies in the work request itself.
    @inlinable public static var inline: Self { Self(rawValue: 8) }
}

/// One entry of a send queue, by value. Its scatter/gather list or inline data follows it in the slot.
///
/// The fields that only one operation uses have names of their own, as computed properties over shared storage.
public struct SendWorkRequest: Sendable {
    /// `wr_id`, given back in the completion.
    public var id: UInt64
    /// RDMA and atomics: remote virtual address. Bind: first address of the window.
    public var remoteAddress: UInt64
    /// Atomics: the value added or compared. Bind: length of the window in bytes. FLUSH: bytes of the range.
    public var compareAdd: UInt64
    /// Compare-and-swap: the new value. Bind: region key and access. FLUSH: placement and selectivity.
    public var swap: UInt64
    /// RDMA and atomics: remote key. Bind: the key the window will have.
    public var remoteKey: UInt32
    /// `…WithImmediate`: 32 bits in network byte order, as `imm_data`. `…Invalidate`: the key to invalidate.
    /// Bind: the window's present key.
    public var immediate: UInt32
    /// What to do.
    public var operation: SendOperation
    /// How to do it.
    public var flags: SendFlags
    /// Number of scatter/gather entries; 0 with ``SendFlags/inline``.
    public var scatterGatherCount: UInt16
    /// Bytes of inline data; only with ``SendFlags/inline``.
    public var inlineLength: UInt32
    /// UD: destination queue pair number, 24 bits. XRC: the number of the peer's shared receive queue.
    public var remoteQPN: UInt32
    /// UD: Q_Key; with bit 31 set the queue pair's own is sent instead (as `ibv_post_send`).
    public var remoteQKey: UInt32
    /// UD: the address.
    public var address: AddressVector

    /// A value with these fields; the rest is zero.
    @inlinable
    public init(id: UInt64, operation: SendOperation, flags: SendFlags = .signaled) {
        self.id = id
        self.operation = operation
        self.flags = flags
        remoteAddress = 0
        compareAdd = 0
        swap = 0
        remoteKey = 0
        immediate = 0
        scatterGatherCount = 0
        inlineLength = 0
        remoteQPN = 0
        remoteQKey = 0
        address = AddressVector(destination: GID(ipv4: 0), localIndex: 0)
    }
}

/// FLUSH's names for the shared fields.
extension SendWorkRequest {
    /// The bytes from ``remoteAddress`` on; without meaning for the whole region.
    @inlinable public var flushLength: UInt64 {
        get { compareAdd }
        set { compareAdd = newValue }
    }
    /// How far earlier writes must have got, and of what; the low 32 bits of the field, as the header has them.
    @inlinable public var flushHeader: FETH {
        get { FETH(rawValue: UInt32(truncatingIfNeeded: swap)) }
        set { swap = UInt64(newValue.rawValue) }
    }
}

/// The bind operation's names for the shared fields (`struct ibv_mw_bind_info`).
extension SendWorkRequest {
    /// First address of the window, in the region's address space.
    @inlinable public var bindAddress: UInt64 {
        get { remoteAddress }
        set { remoteAddress = newValue }
    }
    /// Length of the window; 0 unbinds a type 1 window.
    @inlinable public var bindLength: UInt64 {
        get { compareAdd }
        set { compareAdd = newValue }
    }
    /// The window's key before the bind; it says which window is meant.
    @inlinable public var bindWindowKey: UInt32 {
        get { immediate }
        set { immediate = newValue }
    }
    /// The key after the bind: equal to ``bindWindowKey`` but for the low 8 bits.
    @inlinable public var bindNewKey: UInt32 {
        get { remoteKey }
        set { remoteKey = newValue }
    }
    /// Local key of the region that the window opens.
    @inlinable public var bindRegionKey: UInt32 {
        get { UInt32(truncatingIfNeeded: swap) }
        set { swap = swap & 0xFFFF_FFFF_0000_0000 | UInt64(newValue) }
    }
    /// What the window permits.
    @inlinable public var bindAccess: AccessFlags {
        get { AccessFlags(rawValue: UInt32(truncatingIfNeeded: swap >> 32)) }
        set { swap = swap & 0xFFFF_FFFF | UInt64(newValue.rawValue) << 32 }
    }
}
