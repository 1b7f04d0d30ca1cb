// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// The service of a queue pair. The corresponding C type is `enum ibv_qp_type`.
public enum Transport: Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// RC: acknowledged, in order, with remote reads and atomics.
    case reliableConnected
    /// UC: in order, losses are silent; remote writes but no reads.
    case unreliableConnected
    /// UD: single packets to any queue pair.
    case unreliableDatagram
    /// Whole Ethernet frames, to and from the network interface. Which ones are received is said by flow rules:
    /// ``QueuePair/attach(_:mode:places:keepsSuperFrames:)``.
    case rawPacket

    /// The name in the man pages.
    public var description: String {
        switch self {
        case .reliableConnected: "RC"
        case .unreliableConnected: "UC"
        case .unreliableDatagram: "UD"
        case .rawPacket: "RAW_PACKET"
        }
    }

    var native: ibv_qp_type {
        switch self {
        case .reliableConnected: .IBV_QPT_RC
        case .unreliableConnected: .IBV_QPT_UC
        case .unreliableDatagram: .IBV_QPT_UD
        case .rawPacket: .IBV_QPT_RAW_PACKET
        }
    }
}

/// The state of a queue pair. The corresponding C type is `enum ibv_qp_state`.
public struct QueuePairState: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    /// The number of `enum ibv_qp_state`.
    public let rawValue: UInt32

    /// A state by its number.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    init(_ native: ibv_qp_state) { rawValue = native.rawValue }

    /// Fresh, or forgotten: nothing may be posted.
    public static let reset = QueuePairState(.IBV_QPS_RESET)
    /// INIT: receives may be posted.
    public static let initialized = QueuePairState(.IBV_QPS_INIT)
    /// RTR: messages arrive.
    public static let readyToReceive = QueuePairState(.IBV_QPS_RTR)
    /// RTS: sends may be posted.
    public static let readyToSend = QueuePairState(.IBV_QPS_RTS)
    /// SQD: sends that have begun are finished, no other is begun.
    public static let sendQueueDrained = QueuePairState(.IBV_QPS_SQD)
    /// SQE: a send failed (UC, UD); receives go on.
    public static let sendQueueError = QueuePairState(.IBV_QPS_SQE)
    /// ERR: everything posted is flushed.
    public static let error = QueuePairState(.IBV_QPS_ERR)

    /// The name in the man pages.
    public var description: String { QueuePairTransition.name(native) }

    /// The C enumeration is open: any number is a value of it.
    var native: ibv_qp_state { ibv_qp_state(rawValue: rawValue) ?? .IBV_QPS_UNKNOWN }
}

/// A path MTU. The corresponding C type is `enum ibv_mtu`.
public enum MTU: UInt32, Hashable, Sendable, Comparable, CaseIterable {
    case bytes256 = 1
    case bytes512 = 2
    case bytes1024 = 3
    case bytes2048 = 4
    case bytes4096 = 5

    /// The payload of a full packet.
    public var byteCount: Int { 128 << Int(rawValue) }

    /// The MTU of exactly that many bytes.
    public init?(byteCount: Int) {
        guard let mtu = MTU.allCases.first(where: { $0.byteCount == byteCount }) else { return nil }
        self = mtu
    }

    /// In the order of their sizes.
    public static func < (a: MTU, b: MTU) -> Bool { a.rawValue < b.rawValue }
}

/// How packets find the peer: the address vector of a queue pair or of an address handle.
///
/// The corresponding C type is `struct ibv_ah_attr`.
public struct PathAttributes: Hashable, Sendable {
    /// The peer's GID: required on RoCE, on InfiniBand only across subnets.
    public var gid: GID?
    /// The index of our own GID in the port's table.
    public var sourceGIDIndex: UInt8
    /// The peer's local identifier on InfiniBand, zero on RoCE.
    public var lid: UInt16
    /// The port, from 1.
    public var port: UInt8
    /// IPv6 flow label, 20 bits; RoCE devices derive the UDP source port from it.
    public var flowLabel: UInt32
    /// Time to live of the IP packet.
    public var hopLimit: UInt8
    /// DSCP and ECN bits of the IP packet.
    public var trafficClass: UInt8
    /// The service level, 4 bits.
    public var serviceLevel: UInt8
    /// A limit of the rate: a code of `enum ibv_rate`, zero for none.
    public var staticRate: UInt8

    /// A path of all its members.
    public init(
        gid: GID?, sourceGIDIndex: UInt8, lid: UInt16 = 0, port: UInt8 = 1, flowLabel: UInt32 = 0,
        hopLimit: UInt8 = 64, trafficClass: UInt8 = 0, serviceLevel: UInt8 = 0, staticRate: UInt8 = 0
    ) {
        self.gid = gid
        self.sourceGIDIndex = sourceGIDIndex
        self.lid = lid
        self.port = port
        self.flowLabel = flowLabel
        self.hopLimit = hopLimit
        self.trafficClass = trafficClass
        self.serviceLevel = serviceLevel
        self.staticRate = staticRate
    }

    init(_ native: ibv_ah_attr) {
        self.init(
            gid: native.is_global != 0 ? GID(native.grh.dgid) : nil, sourceGIDIndex: native.grh.sgid_index,
            lid: native.dlid, port: native.port_num, flowLabel: native.grh.flow_label, hopLimit: native.grh.hop_limit,
            trafficClass: native.grh.traffic_class, serviceLevel: native.sl, staticRate: native.static_rate)
    }

    var native: ibv_ah_attr {
        var native = ibv_ah_attr()
        if let gid {
            native.is_global = 1
            native.grh.dgid = gid.native
            native.grh.sgid_index = sourceGIDIndex
            native.grh.flow_label = flowLabel
            native.grh.hop_limit = hopLimit
            native.grh.traffic_class = trafficClass
        }
        native.dlid = lid
        native.port_num = port
        native.sl = serviceLevel
        native.static_rate = staticRate
        return native
    }
}

/// What a state change sets. A member that is `nil` is left out of the change; which ones a transition needs and takes
/// is in the table at ``QueuePair/modify(_:)``.
///
/// The corresponding C types are `struct ibv_qp_attr` and `enum ibv_qp_attr_mask`.
public struct QueuePairAttributes: Hashable, Sendable {
    /// The state to go to.
    public var state: QueuePairState?
    /// The state that the change starts from, where the device may not know.
    public var currentState: QueuePairState?
    /// The index of the partition key in the port's table.
    public var pkeyIndex: UInt16?
    /// The port, from 1.
    public var port: UInt8?
    /// What the peer may do through this queue pair (RC, UC).
    public var access: AccessFlags?
    /// The key that datagrams must carry (UD).
    public var qkey: UInt32?
    /// The way to the peer.
    public var path: PathAttributes?
    /// The payload of a full packet on the way.
    public var pathMTU: MTU?
    /// The peer's queue pair number, 24 bits.
    public var destination: UInt32?
    /// The first packet sequence number expected, 24 bits.
    public var receivePSN: UInt32?
    /// The first packet sequence number sent, 24 bits.
    public var sendPSN: UInt32?
    /// Reads and atomics that this side may have outstanding (`max_rd_atomic`).
    public var maxReads: UInt8?
    /// Reads and atomics that the peer may have outstanding (`max_dest_rd_atomic`).
    public var maxDestinationReads: UInt8?
    /// A 5-bit code for the time the peer is asked to wait when no receive is posted: 12 is 0.64 ms, 0 is 655 ms.
    public var minRNRTimer: UInt8?
    /// A 5-bit code: an acknowledgement is missed after about 4.096 µs · 2^timeout, at the least; 0 waits for ever.
    public var timeout: UInt8?
    /// How often a lost packet is repeated, 0 to 7.
    public var retryCount: UInt8?
    /// How often a receiver without a receive is asked again, 0 to 6; 7 asks for ever.
    public var rnrRetry: UInt8?
    /// An event is wanted when the send queue has drained (to SQD).
    public var notifiesDrained: Bool?

    /// A change to a state, with nothing else yet.
    public init(state: QueuePairState? = nil) { self.state = state }

    var native: (attributes: ibv_qp_attr, mask: ibv_qp_attr_mask) {
        var value = ibv_qp_attr()
        var mask: ibv_qp_attr_mask = []
        func set<T>(_ source: T?, _ bit: ibv_qp_attr_mask, _ store: (T) -> Void) {
            guard let source else { return }
            store(source)
            mask.formUnion(bit)
        }
        set(state, .IBV_QP_STATE) { value.qp_state = $0.native }
        set(currentState, .IBV_QP_CUR_STATE) { value.cur_qp_state = $0.native }
        set(pkeyIndex, .IBV_QP_PKEY_INDEX) { value.pkey_index = $0 }
        set(port, .IBV_QP_PORT) { value.port_num = $0 }
        set(access, .IBV_QP_ACCESS_FLAGS) { value.qp_access_flags = $0.rawValue }
        set(qkey, .IBV_QP_QKEY) { value.qkey = $0 }
        set(path, .IBV_QP_AV) { value.ah_attr = $0.native }
        set(pathMTU, .IBV_QP_PATH_MTU) { value.path_mtu = $0.native }
        set(destination, .IBV_QP_DEST_QPN) { value.dest_qp_num = $0 }
        set(receivePSN, .IBV_QP_RQ_PSN) { value.rq_psn = $0 }
        set(sendPSN, .IBV_QP_SQ_PSN) { value.sq_psn = $0 }
        set(maxReads, .IBV_QP_MAX_QP_RD_ATOMIC) { value.max_rd_atomic = $0 }
        set(maxDestinationReads, .IBV_QP_MAX_DEST_RD_ATOMIC) { value.max_dest_rd_atomic = $0 }
        set(minRNRTimer, .IBV_QP_MIN_RNR_TIMER) { value.min_rnr_timer = $0 }
        set(timeout, .IBV_QP_TIMEOUT) { value.timeout = $0 }
        set(retryCount, .IBV_QP_RETRY_CNT) { value.retry_cnt = $0 }
        set(rnrRetry, .IBV_QP_RNR_RETRY) { value.rnr_retry = $0 }
        set(notifiesDrained, .IBV_QP_EN_SQD_ASYNC_NOTIFY) { value.en_sqd_async_notify = $0 ? 1 : 0 }
        return (value, mask)
    }

    /// What a query returns, or what of it the mask names.
    init(_ native: ibv_qp_attr, mask: ibv_qp_attr_mask = ibv_qp_attr_mask(rawValue: .max)) {
        func get<T>(_ bit: ibv_qp_attr_mask, _ value: @autoclosure () -> T) -> T? { mask.contains(bit) ? value() : nil }
        state = get(.IBV_QP_STATE, QueuePairState(native.qp_state))
        currentState = get(.IBV_QP_CUR_STATE, QueuePairState(native.cur_qp_state))
        pkeyIndex = get(.IBV_QP_PKEY_INDEX, native.pkey_index)
        port = get(.IBV_QP_PORT, native.port_num)
        access = get(.IBV_QP_ACCESS_FLAGS, AccessFlags(rawValue: UInt32(native.qp_access_flags)))
        qkey = get(.IBV_QP_QKEY, native.qkey)
        path = get(.IBV_QP_AV, PathAttributes(native.ah_attr))
        pathMTU = get(.IBV_QP_PATH_MTU, MTU(rawValue: native.path_mtu.rawValue)) ?? nil
        destination = get(.IBV_QP_DEST_QPN, native.dest_qp_num)
        receivePSN = get(.IBV_QP_RQ_PSN, native.rq_psn)
        sendPSN = get(.IBV_QP_SQ_PSN, native.sq_psn)
        maxReads = get(.IBV_QP_MAX_QP_RD_ATOMIC, native.max_rd_atomic)
        maxDestinationReads = get(.IBV_QP_MAX_DEST_RD_ATOMIC, native.max_dest_rd_atomic)
        minRNRTimer = get(.IBV_QP_MIN_RNR_TIMER, native.min_rnr_timer)
        timeout = get(.IBV_QP_TIMEOUT, native.timeout)
        retryCount = get(.IBV_QP_RETRY_CNT, native.retry_cnt)
        rnrRetry = get(.IBV_QP_RNR_RETRY, native.rnr_retry)
        notifiesDrained = get(.IBV_QP_EN_SQD_ASYNC_NOTIFY, native.en_sqd_async_notify != 0)
    }
}

extension MTU {
    var native: ibv_mtu {
        switch self {
        case .bytes256: .IBV_MTU_256
        case .bytes512: .IBV_MTU_512
        case .bytes1024: .IBV_MTU_1024
        case .bytes2048: .IBV_MTU_2048
        case .bytes4096: .IBV_MTU_4096
        }
    }
}

extension GID {
    init(_ native: ibv_gid) {
        let prefix = unsafe UInt64(bigEndian: native.global.subnet_prefix)
        let identifier = unsafe UInt64(bigEndian: native.global.interface_id)
        self.init(high: prefix, low: identifier)
    }

    var native: ibv_gid {
        var native = ibv_gid()
        unsafe native.global.subnet_prefix = high.bigEndian
        unsafe native.global.interface_id = low.bigEndian
        return native
    }
}
