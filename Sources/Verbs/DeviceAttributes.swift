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

    public let firmwareVersion: String
    /// In host order.
    public let nodeGUID: UInt64
    /// In host order.
    public let systemImageGUID: UInt64
    public let vendorID: UInt32
    public let vendorPartID: UInt32
    public let hardwareVersion: UInt32
    public let portCount: Int
    public let atomicScope: AtomicScope
    /// `device_cap_flags`, as they are.
    public let capabilityFlags: UInt32

    /// In bytes.
    public let maxRegionLength: UInt64
    public let maxQueuePairs: Int
    /// Work requests in a send or a receive queue.
    public let maxQueuePairDepth: Int
    /// Scatter/gather elements of a work request.
    public let maxElements: Int
    /// Scatter/gather elements of an RDMA READ.
    public let maxReadElements: Int
    public let maxCompletionQueues: Int
    public let maxCompletionQueueCapacity: Int
    public let maxRegions: Int
    public let maxProtectionDomains: Int
    /// Reads and atomics that a queue pair may have outstanding towards this device.
    public let maxReadsAsTarget: Int
    /// Reads and atomics that a queue pair may have outstanding from this device.
    public let maxReadsAsInitiator: Int
    public let maxWindows: Int
    public let maxAddressHandles: Int
    public let maxSharedReceiveQueues: Int
    public let maxSharedReceiveQueueDepth: Int
    public let maxSharedReceiveQueueElements: Int
    public let maxPartitionKeys: Int

    public var hasWindowsType1: Bool { has(.IBV_DEVICE_MEM_WINDOW) }
    public var hasWindowsType2: Bool { has(.IBV_DEVICE_MEM_WINDOW_TYPE_2A) || has(.IBV_DEVICE_MEM_WINDOW_TYPE_2B) }
    /// SEND with invalidate and local invalidate.
    public var hasMemoryManagementExtensions: Bool { has(.IBV_DEVICE_MEM_MGT_EXTENSIONS) }
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
    public enum State: Hashable, Sendable {
        case down
        case initializing
        case armed
        case active
        case deferred
        case unknown(UInt32)
    }

    public enum LinkLayer: Hashable, Sendable {
        case infiniBand
        case ethernet
        case unspecified
    }

    public let number: UInt8
    public let state: State
    public let linkLayer: LinkLayer
    public let maxMTU: MTU
    public let activeMTU: MTU
    /// In bytes.
    public let maxMessageLength: UInt32
    /// The local identifier on InfiniBand, zero on RoCE.
    public let lid: UInt16
    public let gidTableLength: Int
    public let pkeyTableLength: Int
    /// `active_width` and `active_speed` as the port gives them (codes of the specification).
    public let activeWidthCode: UInt8
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
