// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// What a queue pair needs and accepts on its way from one state to another.
///
/// ```
///  RESET ──► INIT ──► RTR ──► RTS ◄──► SQD          any ──► RESET, any but RESET ──► ERR
///             │└─┘      RTS┘└─┘  ▲      │└─┘
///                                └ SQE ◄ (send error on UC, UD)
/// ```
///
/// The table is the kernel's (`qp_state_table` of drivers/infiniband/core/verbs.c): an attribute that is neither
/// required nor optional for a transition is refused with EINVAL, as is a missing required one. C tells no more than
/// EINVAL; the table is here so that the software device can refuse, and the public API can explain, in words.
package struct QueuePairTransition: Equatable, Sendable {
    package let required: ibv_qp_attr_mask
    package let optional: ibv_qp_attr_mask

    /// What the table says about a set of attributes.
    package enum Verdict: Equatable, Sendable {
        case allowed
        /// The table has no such transition for this transport.
        case noSuchTransition
        /// Required attributes are missing.
        case missing(ibv_qp_attr_mask)
        /// Attributes are given that the transition does not take.
        case refused(ibv_qp_attr_mask)
    }

    /// The rule of a transition, or `nil` where the table has none (or for a type other than RC, XRC, UC, UD and raw packets).
    package static func rule(
        _ type: ibv_qp_type, from: ibv_qp_state, to: ibv_qp_state
    ) -> QueuePairTransition? {
        guard
            [.IBV_QPT_RC, .IBV_QPT_UC, .IBV_QPT_UD, .IBV_QPT_RAW_PACKET, .IBV_QPT_XRC_SEND, .IBV_QPT_XRC_RECV].contains(
                type)
        else { return nil }
        if to == .IBV_QPS_RESET { return isKnown(from) ? .bare : nil }
        if to == .IBV_QPS_ERR { return isKnown(from) && from != .IBV_QPS_RESET ? .bare : nil }
        switch (from, to) {
        case (.IBV_QPS_RESET, .IBV_QPS_INIT): return resetToInit(type)
        case (.IBV_QPS_INIT, .IBV_QPS_INIT):
            return type == .IBV_QPT_RAW_PACKET ? .bare : .init(optional: resetToInit(type).required)
        case (.IBV_QPS_INIT, .IBV_QPS_RTR): return initToReadyToReceive(type)
        case (.IBV_QPS_RTR, .IBV_QPS_RTS): return readyToReceiveToReadyToSend(type)
        case (.IBV_QPS_RTS, .IBV_QPS_RTS): return readyToSendAgain(type)
        case (.IBV_QPS_RTS, .IBV_QPS_SQD): return .init(optional: .IBV_QP_EN_SQD_ASYNC_NOTIFY)
        case (.IBV_QPS_SQD, .IBV_QPS_RTS): return readyToSendAgain(type)
        case (.IBV_QPS_SQD, .IBV_QPS_SQD): return drainedAgain(type)
        case (.IBV_QPS_SQE, .IBV_QPS_RTS): return sendErrorToReadyToSend(type)
        default: return nil
        }
    }

    /// Judges a mask as `ibv_modify_qp` takes it. `STATE` itself is always accepted; it selects the transition.
    package static func verdict(
        _ type: ibv_qp_type, from: ibv_qp_state, to: ibv_qp_state, mask: ibv_qp_attr_mask
    ) -> Verdict {
        guard let rule = rule(type, from: from, to: to) else { return .noSuchTransition }
        let given = mask.subtracting(.IBV_QP_STATE)
        let missing = rule.required.subtracting(given)
        guard missing.isEmpty else { return .missing(missing) }
        let refused = given.subtracting(rule.required).subtracting(rule.optional)
        return refused.isEmpty ? .allowed : .refused(refused)
    }

    /// The attributes of a mask by name, in the order of their bits; unknown bits as one hexadecimal number.
    package static func names(_ mask: ibv_qp_attr_mask) -> [String] {
        var names = attributeNames.filter { mask.contains($0.bit) }.map(\.name)
        let known = attributeNames.reduce(into: ibv_qp_attr_mask()) { $0.formUnion($1.bit) }
        let rest = mask.subtracting(known)
        if !rest.isEmpty { names.append("0x" + String(rest.rawValue, radix: 16)) }
        return names
    }

    /// A state as people and the man pages name it.
    package static func name(_ state: ibv_qp_state) -> String {
        switch state {
        case .IBV_QPS_RESET: "RESET"
        case .IBV_QPS_INIT: "INIT"
        case .IBV_QPS_RTR: "RTR"
        case .IBV_QPS_RTS: "RTS"
        case .IBV_QPS_SQD: "SQD"
        case .IBV_QPS_SQE: "SQE"
        case .IBV_QPS_ERR: "ERR"
        default: "UNKNOWN(\(state.rawValue))"
        }
    }

    private init(required: ibv_qp_attr_mask = [], optional: ibv_qp_attr_mask = []) {
        self.required = required
        self.optional = optional
    }

    private static let bare = QueuePairTransition()

    private static func isKnown(_ state: ibv_qp_state) -> Bool {
        (ibv_qp_state.IBV_QPS_RESET.rawValue...ibv_qp_state.IBV_QPS_ERR.rawValue).contains(state.rawValue)
    }
}

// The rows of the table.
extension QueuePairTransition {
    /// Whether it repeats requests of its own: of XRC, the end that sends.
    private static func requests(_ type: ibv_qp_type) -> Bool { type == .IBV_QPT_RC || type == .IBV_QPT_XRC_SEND }

    /// Whether it answers requests: of XRC, the end that receives.
    private static func responds(_ type: ibv_qp_type) -> Bool { type == .IBV_QPT_RC || type == .IBV_QPT_XRC_RECV }

    private static func resetToInit(_ type: ibv_qp_type) -> QueuePairTransition {
        if type == .IBV_QPT_RAW_PACKET { return .init(required: .IBV_QP_PORT) }
        let common: ibv_qp_attr_mask = [.IBV_QP_PKEY_INDEX, .IBV_QP_PORT]
        return .init(required: common.union(type == .IBV_QPT_UD ? .IBV_QP_QKEY : .IBV_QP_ACCESS_FLAGS))
    }

    private static func initToReadyToReceive(_ type: ibv_qp_type) -> QueuePairTransition {
        if type == .IBV_QPT_RAW_PACKET { return .bare }
        if type == .IBV_QPT_UD { return .init(optional: [.IBV_QP_PKEY_INDEX, .IBV_QP_QKEY]) }
        var required: ibv_qp_attr_mask = [.IBV_QP_AV, .IBV_QP_PATH_MTU, .IBV_QP_DEST_QPN, .IBV_QP_RQ_PSN]
        if responds(type) { required.formUnion([.IBV_QP_MAX_DEST_RD_ATOMIC, .IBV_QP_MIN_RNR_TIMER]) }
        return .init(
            required: required, optional: [.IBV_QP_ALT_PATH, .IBV_QP_ACCESS_FLAGS, .IBV_QP_PKEY_INDEX])
    }

    private static func readyToReceiveToReadyToSend(_ type: ibv_qp_type) -> QueuePairTransition {
        if type == .IBV_QPT_RAW_PACKET { return readyToSendAgain(type) }
        var required: ibv_qp_attr_mask = .IBV_QP_SQ_PSN
        if requests(type) || responds(type) { required.formUnion(.IBV_QP_TIMEOUT) }
        if requests(type) {
            required.formUnion([.IBV_QP_RETRY_CNT, .IBV_QP_RNR_RETRY, .IBV_QP_MAX_QP_RD_ATOMIC])
        }
        return .init(required: required, optional: readyToSendAgain(type).optional)
    }

    private static func readyToSendAgain(_ type: ibv_qp_type) -> QueuePairTransition {
        if type == .IBV_QPT_RAW_PACKET { return .init(optional: .IBV_QP_RATE_LIMIT) }
        if type == .IBV_QPT_UD { return .init(optional: [.IBV_QP_CUR_STATE, .IBV_QP_QKEY]) }
        var optional: ibv_qp_attr_mask = [
            .IBV_QP_CUR_STATE, .IBV_QP_ACCESS_FLAGS, .IBV_QP_ALT_PATH, .IBV_QP_PATH_MIG_STATE,
        ]
        if responds(type) { optional.formUnion(.IBV_QP_MIN_RNR_TIMER) }
        return .init(optional: optional)
    }

    private static func drainedAgain(_ type: ibv_qp_type) -> QueuePairTransition {
        if type == .IBV_QPT_RAW_PACKET { return .bare }
        if type == .IBV_QPT_UD { return .init(optional: [.IBV_QP_PKEY_INDEX, .IBV_QP_QKEY]) }
        var optional: ibv_qp_attr_mask = [
            .IBV_QP_AV, .IBV_QP_ALT_PATH, .IBV_QP_ACCESS_FLAGS, .IBV_QP_PKEY_INDEX, .IBV_QP_PATH_MIG_STATE,
        ]
        if requests(type) || responds(type) { optional.formUnion([.IBV_QP_PORT, .IBV_QP_TIMEOUT]) }
        if requests(type) {
            optional.formUnion([.IBV_QP_RETRY_CNT, .IBV_QP_RNR_RETRY, .IBV_QP_MAX_QP_RD_ATOMIC])
        }
        if responds(type) { optional.formUnion([.IBV_QP_MAX_DEST_RD_ATOMIC, .IBV_QP_MIN_RNR_TIMER]) }
        return .init(optional: optional)
    }

    /// RC and XRC are never in SQE: its errors go to ERR at once.
    private static func sendErrorToReadyToSend(_ type: ibv_qp_type) -> QueuePairTransition? {
        switch type {
        case .IBV_QPT_UC: .init(optional: [.IBV_QP_CUR_STATE, .IBV_QP_ACCESS_FLAGS])
        case .IBV_QPT_UD: .init(optional: [.IBV_QP_CUR_STATE, .IBV_QP_QKEY])
        case .IBV_QPT_RAW_PACKET: .bare
        default: nil
        }
    }

    private static let attributeNames: [(bit: ibv_qp_attr_mask, name: String)] = [
        (.IBV_QP_STATE, "STATE"), (.IBV_QP_CUR_STATE, "CUR_STATE"),
        (.IBV_QP_EN_SQD_ASYNC_NOTIFY, "EN_SQD_ASYNC_NOTIFY"), (.IBV_QP_ACCESS_FLAGS, "ACCESS_FLAGS"),
        (.IBV_QP_PKEY_INDEX, "PKEY_INDEX"), (.IBV_QP_PORT, "PORT"), (.IBV_QP_QKEY, "QKEY"), (.IBV_QP_AV, "AV"),
        (.IBV_QP_PATH_MTU, "PATH_MTU"), (.IBV_QP_TIMEOUT, "TIMEOUT"), (.IBV_QP_RETRY_CNT, "RETRY_CNT"),
        (.IBV_QP_RNR_RETRY, "RNR_RETRY"), (.IBV_QP_RQ_PSN, "RQ_PSN"),
        (.IBV_QP_MAX_QP_RD_ATOMIC, "MAX_QP_RD_ATOMIC"), (.IBV_QP_ALT_PATH, "ALT_PATH"),
        (.IBV_QP_MIN_RNR_TIMER, "MIN_RNR_TIMER"), (.IBV_QP_SQ_PSN, "SQ_PSN"),
        (.IBV_QP_MAX_DEST_RD_ATOMIC, "MAX_DEST_RD_ATOMIC"), (.IBV_QP_PATH_MIG_STATE, "PATH_MIG_STATE"),
        (.IBV_QP_CAP, "CAP"), (.IBV_QP_DEST_QPN, "DEST_QPN"), (.IBV_QP_RATE_LIMIT, "RATE_LIMIT"),
    ]
}
