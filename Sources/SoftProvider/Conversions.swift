// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import RoCETransport
import RoCEWire
import VerbsABI

// Between the C structures of verbs.h and the engine's values. The numbers agree by design; the types do not.

extension ibv_gid {
    init(_ gid: GID) {
        self.init()
        unsafe withUnsafeMutableBytes(of: &self) { bytes in
            unsafe bytes.storeBytes(of: gid.high.bigEndian, toByteOffset: 0, as: UInt64.self)
            unsafe bytes.storeBytes(of: gid.low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
    }

    var gid: GID {
        unsafe withUnsafeBytes(of: self) { bytes in
            GID(
                high: UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
                low: UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
        }
    }
}

extension AddressVector {
    /// - Parameter gidCount: the length of the GID table, which bounds the source index.
    /// - Throws: EINVAL with the attribute that does not fit.
    init(_ attributes: ibv_ah_attr, gidCount: Int, verb: StaticString) throws(ProviderError) {
        guard attributes.is_global != 0 else {
            throw ProviderError(
                verb, code: EINVAL, detail: "ah_attr.is_global is 0: RoCE addresses its packets by GID, so it must be 1"
            )
        }
        guard Int(attributes.grh.sgid_index) < gidCount else {
            throw ProviderError(
                verb, code: EINVAL,
                detail: "ah_attr.grh.sgid_index \(attributes.grh.sgid_index) of a GID table of \(gidCount)")
        }
        self.init(
            destination: attributes.grh.dgid.gid, localIndex: attributes.grh.sgid_index,
            trafficClass: attributes.grh.traffic_class, hopLimit: attributes.grh.hop_limit,
            serviceLevel: attributes.sl, flowLabel: attributes.grh.flow_label & 0xF_FFFF)
    }

    var attributes: ibv_ah_attr {
        var attributes = ibv_ah_attr()
        attributes.grh.dgid = ibv_gid(destination)
        attributes.grh.flow_label = flowLabel
        attributes.grh.sgid_index = localIndex
        attributes.grh.hop_limit = hopLimit
        attributes.grh.traffic_class = trafficClass
        attributes.sl = serviceLevel
        attributes.is_global = 1
        attributes.port_num = 1
        return attributes
    }
}

extension QueuePairAttributes {
    /// The attributes that `mask` names; the others keep the engine's defaults and are not looked at.
    init(_ attributes: ibv_qp_attr, mask: QueuePairAttributeMask, gidCount: Int) throws(ProviderError) {
        self.init()
        if mask.contains(.state) {
            guard let state = QueuePairState(rawValue: UInt8(truncatingIfNeeded: attributes.qp_state.rawValue)) else {
                throw Self.invalid("qp_state \(attributes.qp_state.rawValue)")
            }
            self.state = state
        }
        if mask.contains(.addressVector) {
            addressVector = try AddressVector(attributes.ah_attr, gidCount: gidCount, verb: "ibv_modify_qp")
        }
        if mask.contains(.port), attributes.port_num != 1 {
            throw Self.invalid("port_num \(attributes.port_num): the device has port 1 alone")
        }
        if mask.contains(.pkeyIndex), attributes.pkey_index != 0 {
            throw Self.invalid("pkey_index \(attributes.pkey_index): the device has P_Key index 0 alone")
        }
        if mask.contains(.pathMTU), !(1...5).contains(attributes.path_mtu.rawValue) {
            throw Self.invalid("path_mtu \(attributes.path_mtu.rawValue): IBV_MTU_256 (1) to IBV_MTU_4096 (5)")
        }
        try Self.check(mask.contains(.readAtomicMax), attributes.max_rd_atomic, "max_rd_atomic")
        try Self.check(mask.contains(.destinationReadAtomicMax), attributes.max_dest_rd_atomic, "max_dest_rd_atomic")
        sendQueueDrainedNotify = attributes.en_sqd_async_notify != 0
        accessFlags = AccessFlags(rawValue: attributes.qp_access_flags)
        qkey = attributes.qkey
        pathMTU = UInt8(truncatingIfNeeded: attributes.path_mtu.rawValue)
        timeout = attributes.timeout & 31
        retryCount = attributes.retry_cnt & 7
        rnrRetry = attributes.rnr_retry & 7
        rnrTimerMin = attributes.min_rnr_timer & 31
        receivePSN = attributes.rq_psn & 0xFF_FFFF
        sendPSN = attributes.sq_psn & 0xFF_FFFF
        destinationQPN = attributes.dest_qp_num & 0xFF_FFFF
        readAtomicMax = attributes.max_rd_atomic
        destinationReadAtomicMax = attributes.max_dest_rd_atomic
    }

    private static func check(_ isSet: Bool, _ value: UInt8, _ name: String) throws(ProviderError) {
        guard isSet, Int(value) > DeviceLimits.readAtomicOperations else { return }
        throw invalid("\(name) \(value): at most \(DeviceLimits.readAtomicOperations)")
    }

    private static func invalid(_ detail: String) -> ProviderError {
        ProviderError("ibv_modify_qp", code: EINVAL, detail: detail)
    }

    /// The whole as `ibv_query_qp` gives it.
    func store(to attributes: inout ibv_qp_attr) {
        attributes.qp_state = ibv_qp_state(rawValue: UInt32(state.rawValue))!
        attributes.cur_qp_state = attributes.qp_state
        attributes.path_mtu = ibv_mtu(rawValue: UInt32(pathMTU))!
        attributes.path_mig_state = IBV_MIG_MIGRATED
        attributes.qkey = qkey
        attributes.rq_psn = receivePSN
        attributes.sq_psn = sendPSN
        attributes.dest_qp_num = destinationQPN
        attributes.qp_access_flags = accessFlags.rawValue
        attributes.ah_attr = addressVector.attributes
        attributes.en_sqd_async_notify = sendQueueDrainedNotify ? 1 : 0
        attributes.max_rd_atomic = readAtomicMax
        attributes.max_dest_rd_atomic = destinationReadAtomicMax
        attributes.min_rnr_timer = rnrTimerMin
        attributes.port_num = 1
        attributes.timeout = timeout
        attributes.retry_cnt = retryCount
        attributes.rnr_retry = rnrRetry
    }
}

extension ProviderError {
    /// A failed system call, or what it meant for the link.
    package init(_ function: StaticString, _ error: PacketIOError) {
        let code: Int32 =
            switch error {
            case .system(_, let code): code
            case .portInUse: EADDRINUSE
            case .noSlot: EUSERS
            case .noAddress: EADDRNOTAVAIL
            case .limit: ENOMEM
            case .invalid: EINVAL
            case .unavailable: EOPNOTSUPP
            }
        self.init(function, code: code, detail: "\(error)")
    }

    /// The engine's refusal as the `errno` that rdma-core documents for it.
    init(_ function: StaticString, _ error: EngineError) {
        switch error {
        case .limitReached(let name):
            self.init(function, code: ENOMEM, detail: "the device's limit of \(name) is reached")
        case .invalidArgument(let name): self.init(function, code: EINVAL, detail: "\(name)")
        case .busy(let reason): self.init(function, code: EBUSY, detail: "\(reason)")
        case .unknownObject: self.init(function, code: EINVAL, detail: "no such object on this device")
        }
    }
}
