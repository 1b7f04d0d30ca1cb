// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// What may be done with a memory region, a memory window or through a queue pair. Local reading is always allowed.
///
/// The corresponding C type is `enum ibv_access_flags`.
public struct AccessFlags: OptionSet, Hashable, Sendable {
    /// The bits of `enum ibv_access_flags`.
    public let rawValue: UInt32

    /// Flags by their bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    private init(_ flag: ibv_access_flags) { rawValue = flag.rawValue }

    /// The device may write for this side: receives, results of reads and atomics.
    public static let localWrite = AccessFlags(.IBV_ACCESS_LOCAL_WRITE)
    /// Peers may write it.
    public static let remoteWrite = AccessFlags(.IBV_ACCESS_REMOTE_WRITE)
    /// Peers may read it.
    public static let remoteRead = AccessFlags(.IBV_ACCESS_REMOTE_READ)
    /// Peers may run atomic operations on it.
    public static let remoteAtomic = AccessFlags(.IBV_ACCESS_REMOTE_ATOMIC)
    /// Memory windows may be bound to the region.
    public static let windowBind = AccessFlags(.IBV_ACCESS_MW_BIND)
    /// Remote addresses count from zero instead of from the virtual address (windows of type 2, and regions).
    public static let zeroBased = AccessFlags(.IBV_ACCESS_ZERO_BASED)
    /// Peers may FLUSH what they wrote, until every processor and device sees it (RC). Needs
    /// ``DeviceAttributes/hasFlushGlobal``.
    public static let flushGlobal = AccessFlags(rawValue: cverbs_access_flush_global)
    /// Peers may FLUSH what they wrote, until it survives a loss of power (RC). Needs persistent memory, and
    /// ``DeviceAttributes/hasFlushPersistent``.
    public static let flushPersistent = AccessFlags(rawValue: cverbs_access_flush_persistent)
    /// Pages are brought in when the device needs them; nothing is pinned. Needs a device with ODP.
    public static let onDemand = AccessFlags(.IBV_ACCESS_ON_DEMAND)
    /// The memory is known to be of huge pages.
    public static let hugePages = AccessFlags(.IBV_ACCESS_HUGETLB)
    /// Writes of the device may pass each other; ignored where it is not known.
    public static let relaxedOrdering = AccessFlags(.IBV_ACCESS_RELAXED_ORDERING)

    /// Everything a remote side can be given: read, write and atomics (with the local write that they need).
    public static let remote: AccessFlags = [.localWrite, .remoteWrite, .remoteRead, .remoteAtomic]
}
