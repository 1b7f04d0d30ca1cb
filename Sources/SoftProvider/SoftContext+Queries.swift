// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import RoCEWire
import VerbsABI

extension SoftContext {
    package func queryDevice(_ attributes: UnsafeMutablePointer<ibv_device_attr_ex>) throws(ProviderError) {
        unsafe attributes.pointee = ibv_device_attr_ex()
        unsafe Self.fill(&attributes.pointee.orig_attr, guid: guid)
        // Completions are stamped with CLOCK_MONOTONIC in nanoseconds: a clock of 1,000,000 kHz.
        unsafe attributes.pointee.completion_timestamp_mask = UInt64.max
        unsafe attributes.pointee.hca_core_clock = 1_000_000
        // Without persistence: which memory survives a loss of power is not known here.
        unsafe attributes.pointee.device_cap_flags_ex =
            unsafe UInt64(attributes.pointee.orig_attr.device_cap_flags) | cverbs_device_flush_global
            | cverbs_device_atomic_write
        unsafe attributes.pointee.phys_port_cnt_ex = 1
        unsafe attributes.pointee.max_dm_size = UInt64(DeviceLimits.deviceMemoryBytes)
        // Nothing is pinned, so every registration is what on-demand paging promises.
        let datagrams = UInt32(IBV_ODP_SUPPORT_SEND.rawValue | IBV_ODP_SUPPORT_RECV.rawValue)
        let all =
            datagrams | UInt32(IBV_ODP_SUPPORT_WRITE.rawValue | IBV_ODP_SUPPORT_READ.rawValue)
            | UInt32(IBV_ODP_SUPPORT_ATOMIC.rawValue | IBV_ODP_SUPPORT_SRQ_RECV.rawValue)
        let implicit = AddressSpace.isReachable ? IBV_ODP_SUPPORT_IMPLICIT.rawValue : 0
        unsafe attributes.pointee.odp_caps.general_caps = UInt64(IBV_ODP_SUPPORT.rawValue | implicit)
        unsafe attributes.pointee.odp_caps.per_transport_caps.rc_odp_caps = all
        unsafe attributes.pointee.xrc_odp_caps = all
        unsafe attributes.pointee.odp_caps.per_transport_caps.uc_odp_caps = datagrams
        unsafe attributes.pointee.odp_caps.per_transport_caps.ud_odp_caps = datagrams
    }

    private static func fill(_ attributes: inout ibv_device_attr, guid: UInt64) {
        // The name of the firmware is what `ibv_devinfo` shows first; the version is that of the package.
        unsafe withUnsafeMutableBytes(of: &attributes.fw_ver) { bytes in
            for (index, byte) in "swift-verbs".utf8.enumerated() { unsafe bytes[index] = byte }
        }
        attributes.node_guid = guid
        attributes.sys_image_guid = guid
        // The number of no vendor, as rxe has it: programs take zero for a device that failed to say.
        attributes.vendor_id = 0xFF_FFFF
        attributes.max_mr_size = UInt64(Int64.max)
        attributes.page_size_cap = 0xFFFF_F000
        attributes.max_qp = Int32(DeviceLimits.queuePairs)
        attributes.max_qp_wr = Int32(DeviceLimits.workRequests)
        let capabilities: [ibv_device_cap_flags] = [
            .IBV_DEVICE_BAD_PKEY_CNTR, .IBV_DEVICE_BAD_QKEY_CNTR, .IBV_DEVICE_CURR_QP_STATE_MOD,
            .IBV_DEVICE_PORT_ACTIVE_EVENT, .IBV_DEVICE_SYS_IMAGE_GUID, .IBV_DEVICE_RC_RNR_NAK_GEN,
            .IBV_DEVICE_N_NOTIFY_CQ, .IBV_DEVICE_MEM_WINDOW, .IBV_DEVICE_MEM_MGT_EXTENSIONS,
            .IBV_DEVICE_MEM_WINDOW_TYPE_2B, .IBV_DEVICE_SRQ_RESIZE, .IBV_DEVICE_XRC,
        ]
        attributes.device_cap_flags = capabilities.reduce(0) { $0 | UInt32($1.rawValue) }
        attributes.max_sge = Int32(DeviceLimits.scatterGatherEntries)
        attributes.max_sge_rd = Int32(DeviceLimits.scatterGatherEntries)
        attributes.max_cq = Int32(DeviceLimits.completionQueues)
        attributes.max_cqe = Int32(DeviceLimits.completionQueueEntries)
        attributes.max_mr = Int32(DeviceLimits.memoryRegions)
        attributes.max_pd = Int32(DeviceLimits.protectionDomains)
        attributes.max_qp_rd_atom = Int32(DeviceLimits.readAtomicOperations)
        attributes.max_res_rd_atom = Int32(DeviceLimits.readAtomicOperations * DeviceLimits.queuePairs)
        attributes.max_qp_init_rd_atom = Int32(DeviceLimits.readAtomicOperations)
        // Atomic with respect to all queue pairs of this device, not to other writers of the memory.
        attributes.atomic_cap = IBV_ATOMIC_HCA
        attributes.max_mw = Int32(DeviceLimits.memoryWindows)
        attributes.max_mcast_grp = Int32(DeviceLimits.multicastGroups)
        attributes.max_mcast_qp_attach = Int32(DeviceLimits.queuePairs)
        attributes.max_total_mcast_qp_attach = Int32(DeviceLimits.queuePairs)
        attributes.max_ah = Int32(DeviceLimits.addressHandles)
        attributes.max_srq = Int32(DeviceLimits.sharedReceiveQueues)
        attributes.max_srq_wr = Int32(DeviceLimits.workRequests)
        attributes.max_srq_sge = Int32(DeviceLimits.scatterGatherEntries)
        attributes.max_pkeys = 1
        attributes.local_ca_ack_delay = 15
        attributes.phys_port_cnt = 1
    }

    package func queryPort(
        _ port: UInt8, _ attributes: UnsafeMutablePointer<ibv_port_attr>
    ) throws(ProviderError) {
        guard port == 1 else {
            throw ProviderError("ibv_query_port", code: EINVAL, detail: "port \(port): the device has port 1 alone")
        }
        var port = ibv_port_attr()
        port.state = isUp ? .IBV_PORT_ACTIVE : .IBV_PORT_DOWN
        port.max_mtu = .IBV_MTU_4096
        port.active_mtu = activeMTU
        port.gid_tbl_len = Int32(gids.count)
        port.port_cap_flags = UInt32(IBV_PORT_CM_SUP.rawValue) | UInt32(IBV_PORT_IP_BASED_GIDS.rawValue)
        port.max_msg_sz = DeviceLimits.messageBytes
        port.pkey_tbl_len = 1
        port.max_vl_num = 1
        port.subnet_timeout = 0
        let speed = description.interface.map { PortSpeed.of(interface: $0) } ?? .loopback
        port.active_width = speed.width
        port.active_speed = speed.speed
        port.phys_state = isUp ? 5 : 3
        port.link_layer = UInt8(IBV_LINK_LAYER_ETHERNET)
        unsafe attributes.pointee = port
    }

    package func queryGIDTable() throws(ProviderError) -> [ibv_gid_entry] {
        gids.enumerated().map { index, gid in
            var entry = ibv_gid_entry()
            entry.gid = ibv_gid(gid)
            entry.gid_index = UInt32(index)
            entry.port_num = 1
            entry.gid_type = UInt32(IBV_GID_TYPE_ROCE_V2.rawValue)
            entry.ndev_ifindex = UInt32(interfaceIndex)
            return entry
        }
    }

    package func queryPKey(port: UInt8, index: Int32) throws(ProviderError) -> UInt16 {
        guard port == 1, index == 0 else {
            throw ProviderError("ibv_query_pkey", code: EINVAL, detail: "the device has port 1 and P_Key index 0 alone")
        }
        return 0xFFFF
    }

    /// The largest path MTU whose packets fit the interface, less the longest stack of headers, as kernel rxe reckons it.
    static func largestPathMTU(interfaceMTU: Int) -> ibv_mtu {
        let largestHeaders = 80
        return switch interfaceMTU - largestHeaders {
        case 4096...: .IBV_MTU_4096
        case 2048...: .IBV_MTU_2048
        case 1024...: .IBV_MTU_1024
        case 512...: .IBV_MTU_512
        default: .IBV_MTU_256
        }
    }
}
