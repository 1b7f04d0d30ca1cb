// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// What a device can do, and its limits. The corresponding C type is `struct ibv_device_attr_ex`.
public struct DeviceAttributes: Hashable, Sendable {
    /// How far atomic operations of this device are atomic.
    public enum AtomicScope: Hashable, Sendable {
        case none
        /// Among the operations of this device.
        case device
        /// With the processor's own, too.
        case global
    }

    /// The vendor's version of the firmware.
    public let firmwareVersion: String
    /// In host order.
    public let nodeGUID: UInt64
    /// In host order.
    public let systemImageGUID: UInt64
    /// The vendor's number.
    public let vendorID: UInt32
    /// The vendor's number for the part.
    public let vendorPartID: UInt32
    /// The vendor's version of the part.
    public let hardwareVersion: UInt32
    /// Ports of the device.
    public let portCount: Int
    /// How far atomic operations are atomic.
    public let atomicScope: AtomicScope
    /// `device_cap_flags`, as they are.
    public let capabilityFlags: UInt32
    /// `device_cap_flags_ex`, as they are; zero from a provider without the extended query.
    public let capabilityFlagsExtended: UInt64

    /// In bytes.
    public let maxRegionLength: UInt64
    /// Queue pairs of the device, for all processes.
    public let maxQueuePairs: Int
    /// Work requests in a send or a receive queue.
    public let maxQueuePairDepth: Int
    /// Scatter/gather elements of a work request.
    public let maxElements: Int
    /// Scatter/gather elements of an RDMA READ.
    public let maxReadElements: Int
    /// Completion queues of the device.
    public let maxCompletionQueues: Int
    /// Entries of a completion queue.
    public let maxCompletionQueueCapacity: Int
    /// Memory regions of the device.
    public let maxRegions: Int
    /// Protection domains of the device.
    public let maxProtectionDomains: Int
    /// Reads and atomics that a queue pair may have outstanding towards this device.
    public let maxReadsAsTarget: Int
    /// Reads and atomics that a queue pair may have outstanding from this device.
    public let maxReadsAsInitiator: Int
    /// Memory windows of the device.
    public let maxWindows: Int
    /// Address handles of the device.
    public let maxAddressHandles: Int
    /// Shared receive queues of the device.
    public let maxSharedReceiveQueues: Int
    /// Receives of a shared receive queue.
    public let maxSharedReceiveQueueDepth: Int
    /// Scatter/gather elements of a receive of a shared queue.
    public let maxSharedReceiveQueueElements: Int
    /// Partition keys of a port.
    public let maxPartitionKeys: Int

    /// Memory windows of type 1.
    public var hasWindowsType1: Bool { has(.IBV_DEVICE_MEM_WINDOW) }
    /// Memory windows of type 2.
    public var hasWindowsType2: Bool { has(.IBV_DEVICE_MEM_WINDOW_TYPE_2A) || has(.IBV_DEVICE_MEM_WINDOW_TYPE_2B) }
    /// SEND with invalidate and local invalidate.
    public var hasMemoryManagementExtensions: Bool { has(.IBV_DEVICE_MEM_MGT_EXTENSIONS) }
    /// The device takes ATOMIC WRITE from its peers. Only the software device posts it by this library.
    public var hasAtomicWrite: Bool { capabilityFlagsExtended & cverbs_device_atomic_write != 0 }
    /// The device takes FLUSH to global visibility from its peers. Only the software device posts it by this library.
    public var hasFlushGlobal: Bool { capabilityFlagsExtended & cverbs_device_flush_global != 0 }
    /// The device takes FLUSH to persistence from its peers, for memory that is persistent.
    public var hasFlushPersistent: Bool { capabilityFlagsExtended & cverbs_device_flush_persistent != 0 }
    /// Whether there are shared receive queues.
    public var hasSharedReceiveQueues: Bool { maxSharedReceiveQueues > 0 }

    private func has(_ flag: ibv_device_cap_flags) -> Bool { capabilityFlags & flag.rawValue != 0 }

    init(_ extended: ibv_device_attr_ex) {
        let native = extended.orig_attr
        // The bytes of a local copy, read during the call; a version that fills the field has no terminator.
        firmwareVersion = unsafe withUnsafeBytes(of: native.fw_ver) { bytes in
            unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        nodeGUID = UInt64(bigEndian: native.node_guid)
        systemImageGUID = UInt64(bigEndian: native.sys_image_guid)
        vendorID = native.vendor_id
        vendorPartID = native.vendor_part_id
        hardwareVersion = native.hw_ver
        portCount = Int(native.phys_port_cnt)
        atomicScope =
            switch native.atomic_cap {
            case IBV_ATOMIC_HCA: .device
            case IBV_ATOMIC_GLOB: .global
            default: .none
            }
        capabilityFlags = native.device_cap_flags
        capabilityFlagsExtended = extended.device_cap_flags_ex
        maxRegionLength = native.max_mr_size
        maxQueuePairs = Int(native.max_qp)
        maxQueuePairDepth = Int(native.max_qp_wr)
        maxElements = Int(native.max_sge)
        maxReadElements = Int(native.max_sge_rd)
        maxCompletionQueues = Int(native.max_cq)
        maxCompletionQueueCapacity = Int(native.max_cqe)
        maxRegions = Int(native.max_mr)
        maxProtectionDomains = Int(native.max_pd)
        maxReadsAsTarget = Int(native.max_qp_rd_atom)
        maxReadsAsInitiator = Int(native.max_qp_init_rd_atom)
        maxWindows = Int(native.max_mw)
        maxAddressHandles = Int(native.max_ah)
        maxSharedReceiveQueues = Int(native.max_srq)
        maxSharedReceiveQueueDepth = Int(native.max_srq_wr)
        maxSharedReceiveQueueElements = Int(native.max_srq_sge)
        maxPartitionKeys = Int(native.max_pkeys)
    }
}

/// The state of a port and its GIDs. The corresponding C type is `struct ibv_port_attr`.
public struct PortAttributes: Hashable, Sendable {
    /// How far a port is up.
    public enum State: Hashable, Sendable {
        case down
        case initializing
        case armed
        case active
        case deferred
        case unknown(UInt32)
    }

    /// What is below the transport.
    public enum LinkLayer: Hashable, Sendable {
        case infiniBand
        case ethernet
        case unspecified
    }

    /// Ports count from 1.
    public let number: UInt8
    /// How far the port is up.
    public let state: State
    /// What is below the transport.
    public let linkLayer: LinkLayer
    /// The largest path MTU that the port can have.
    public let maxMTU: MTU
    /// The largest path MTU that it has now.
    public let activeMTU: MTU
    /// In bytes.
    public let maxMessageLength: UInt32
    /// The local identifier on InfiniBand, zero on RoCE.
    public let lid: UInt16
    /// Entries of the GID table, valid or not.
    public let gidTableLength: Int
    /// Entries of the table of partition keys.
    public let pkeyTableLength: Int
    /// `active_width` and `active_speed` as the port gives them (codes of the specification).
    public let activeWidthCode: UInt8
    /// `active_speed`, as the port gives it.
    public let activeSpeedCode: UInt8
    /// The valid entries of the port's GID table.
    public let gids: [GIDEntry]

    /// The GID taken when none is named, and why; `nil` where the port has none.
    public func preferredGID(for peer: GID? = nil) -> GIDChoice? { GIDChoice.best(of: gids, peer: peer) }

    init(number: UInt8, _ native: ibv_port_attr, gids: [GIDEntry]) {
        self.number = number
        state =
            switch native.state {
            case .IBV_PORT_DOWN: .down
            case .IBV_PORT_INIT: .initializing
            case .IBV_PORT_ARMED: .armed
            case .IBV_PORT_ACTIVE: .active
            case .IBV_PORT_ACTIVE_DEFER: .deferred
            default: .unknown(native.state.rawValue)
            }
        linkLayer =
            switch Int(native.link_layer) {
            case Int(IBV_LINK_LAYER_INFINIBAND): .infiniBand
            case Int(IBV_LINK_LAYER_ETHERNET): .ethernet
            // Old kernels leave it out for InfiniBand.
            default: .unspecified
            }
        maxMTU = MTU(rawValue: native.max_mtu.rawValue) ?? .bytes256
        activeMTU = MTU(rawValue: native.active_mtu.rawValue) ?? .bytes256
        maxMessageLength = native.max_msg_sz
        lid = native.lid
        gidTableLength = Int(native.gid_tbl_len)
        pkeyTableLength = Int(native.pkey_tbl_len)
        activeWidthCode = native.active_width
        activeSpeedCode = native.active_speed
        self.gids = gids
    }
}
