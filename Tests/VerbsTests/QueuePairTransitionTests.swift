// SPDX-License-Identifier: Apache-2.0
import Testing
import VerbsABI

/// The table against the kernel's (`qp_state_table` of drivers/infiniband/core/verbs.c), written out a second time, row
/// by row and as text.
@Suite("The table of queue pair transitions") struct QueuePairTransitionTests {
    /// transport, from, to, required, optional.
    static let rows: [(String, String, String, String, String)] = [
        ("RC", "RESET", "INIT", "PKEY_INDEX PORT ACCESS_FLAGS", ""),
        ("UC", "RESET", "INIT", "PKEY_INDEX PORT ACCESS_FLAGS", ""),
        ("UD", "RESET", "INIT", "PKEY_INDEX PORT QKEY", ""),
        ("RC", "INIT", "INIT", "", "PKEY_INDEX PORT ACCESS_FLAGS"),
        ("UC", "INIT", "INIT", "", "PKEY_INDEX PORT ACCESS_FLAGS"),
        ("UD", "INIT", "INIT", "", "PKEY_INDEX PORT QKEY"),
        (
            "RC", "INIT", "RTR", "AV PATH_MTU DEST_QPN RQ_PSN MAX_DEST_RD_ATOMIC MIN_RNR_TIMER",
            "ALT_PATH ACCESS_FLAGS PKEY_INDEX"
        ),
        ("UC", "INIT", "RTR", "AV PATH_MTU DEST_QPN RQ_PSN", "ALT_PATH ACCESS_FLAGS PKEY_INDEX"),
        ("UD", "INIT", "RTR", "", "PKEY_INDEX QKEY"),
        (
            "RC", "RTR", "RTS", "TIMEOUT RETRY_CNT RNR_RETRY SQ_PSN MAX_QP_RD_ATOMIC",
            "CUR_STATE ALT_PATH ACCESS_FLAGS MIN_RNR_TIMER PATH_MIG_STATE"
        ),
        ("UC", "RTR", "RTS", "SQ_PSN", "CUR_STATE ALT_PATH ACCESS_FLAGS PATH_MIG_STATE"),
        ("UD", "RTR", "RTS", "SQ_PSN", "CUR_STATE QKEY"),
        ("RC", "RTS", "RTS", "", "CUR_STATE ACCESS_FLAGS ALT_PATH PATH_MIG_STATE MIN_RNR_TIMER"),
        ("UC", "RTS", "RTS", "", "CUR_STATE ACCESS_FLAGS ALT_PATH PATH_MIG_STATE"),
        ("UD", "RTS", "RTS", "", "CUR_STATE QKEY"),
        ("RC", "RTS", "SQD", "", "EN_SQD_ASYNC_NOTIFY"),
        ("UC", "RTS", "SQD", "", "EN_SQD_ASYNC_NOTIFY"),
        ("UD", "RTS", "SQD", "", "EN_SQD_ASYNC_NOTIFY"),
        ("RC", "SQD", "RTS", "", "CUR_STATE ALT_PATH ACCESS_FLAGS MIN_RNR_TIMER PATH_MIG_STATE"),
        ("UC", "SQD", "RTS", "", "CUR_STATE ALT_PATH ACCESS_FLAGS PATH_MIG_STATE"),
        ("UD", "SQD", "RTS", "", "CUR_STATE QKEY"),
        (
            "RC", "SQD", "SQD", "",
            "PORT AV TIMEOUT RETRY_CNT RNR_RETRY MAX_QP_RD_ATOMIC MAX_DEST_RD_ATOMIC ALT_PATH ACCESS_FLAGS PKEY_INDEX MIN_RNR_TIMER PATH_MIG_STATE"
        ),
        ("UC", "SQD", "SQD", "", "AV ALT_PATH ACCESS_FLAGS PKEY_INDEX PATH_MIG_STATE"),
        ("UD", "SQD", "SQD", "", "PKEY_INDEX QKEY"),
        ("INI", "RESET", "INIT", "PKEY_INDEX PORT ACCESS_FLAGS", ""),
        ("TGT", "RESET", "INIT", "PKEY_INDEX PORT ACCESS_FLAGS", ""),
        ("INI", "INIT", "INIT", "", "PKEY_INDEX PORT ACCESS_FLAGS"),
        ("TGT", "INIT", "INIT", "", "PKEY_INDEX PORT ACCESS_FLAGS"),
        ("INI", "INIT", "RTR", "AV PATH_MTU DEST_QPN RQ_PSN", "ALT_PATH ACCESS_FLAGS PKEY_INDEX"),
        (
            "TGT", "INIT", "RTR", "AV PATH_MTU DEST_QPN RQ_PSN MAX_DEST_RD_ATOMIC MIN_RNR_TIMER",
            "ALT_PATH ACCESS_FLAGS PKEY_INDEX"
        ),
        (
            "INI", "RTR", "RTS", "TIMEOUT RETRY_CNT RNR_RETRY SQ_PSN MAX_QP_RD_ATOMIC",
            "CUR_STATE ALT_PATH ACCESS_FLAGS PATH_MIG_STATE"
        ),
        ("TGT", "RTR", "RTS", "TIMEOUT SQ_PSN", "CUR_STATE ALT_PATH ACCESS_FLAGS MIN_RNR_TIMER PATH_MIG_STATE"),
        ("INI", "RTS", "RTS", "", "CUR_STATE ACCESS_FLAGS ALT_PATH PATH_MIG_STATE"),
        ("TGT", "RTS", "RTS", "", "CUR_STATE ACCESS_FLAGS ALT_PATH PATH_MIG_STATE MIN_RNR_TIMER"),
        ("INI", "RTS", "SQD", "", "EN_SQD_ASYNC_NOTIFY"),
        ("TGT", "RTS", "SQD", "", "EN_SQD_ASYNC_NOTIFY"),
        ("INI", "SQD", "RTS", "", "CUR_STATE ALT_PATH ACCESS_FLAGS PATH_MIG_STATE"),
        ("TGT", "SQD", "RTS", "", "CUR_STATE ALT_PATH ACCESS_FLAGS MIN_RNR_TIMER PATH_MIG_STATE"),
        (
            "INI", "SQD", "SQD", "",
            "PORT AV TIMEOUT RETRY_CNT RNR_RETRY MAX_QP_RD_ATOMIC ALT_PATH ACCESS_FLAGS PKEY_INDEX PATH_MIG_STATE"
        ),
        (
            "TGT", "SQD", "SQD", "",
            "PORT AV TIMEOUT MAX_DEST_RD_ATOMIC ALT_PATH ACCESS_FLAGS PKEY_INDEX MIN_RNR_TIMER PATH_MIG_STATE"
        ),
        ("UC", "SQE", "RTS", "", "CUR_STATE ACCESS_FLAGS"),
        ("UD", "SQE", "RTS", "", "CUR_STATE QKEY"),
    ]

    static let types: [String: ibv_qp_type] = [
        "RC": .IBV_QPT_RC, "UC": .IBV_QPT_UC, "UD": .IBV_QPT_UD,
        "INI": .IBV_QPT_XRC_SEND, "TGT": .IBV_QPT_XRC_RECV,
    ]
    static let states: [(String, ibv_qp_state)] = [
        ("RESET", .IBV_QPS_RESET), ("INIT", .IBV_QPS_INIT), ("RTR", .IBV_QPS_RTR), ("RTS", .IBV_QPS_RTS),
        ("SQD", .IBV_QPS_SQD), ("SQE", .IBV_QPS_SQE), ("ERR", .IBV_QPS_ERR),
    ]
    /// The numbers of <infiniband/verbs.h>.
    static let bits: [String: UInt32] = [
        "CUR_STATE": 0x2, "EN_SQD_ASYNC_NOTIFY": 0x4, "ACCESS_FLAGS": 0x8, "PKEY_INDEX": 0x10, "PORT": 0x20,
        "QKEY": 0x40, "AV": 0x80, "PATH_MTU": 0x100, "TIMEOUT": 0x200, "RETRY_CNT": 0x400, "RNR_RETRY": 0x800,
        "RQ_PSN": 0x1000, "MAX_QP_RD_ATOMIC": 0x2000, "ALT_PATH": 0x4000, "MIN_RNR_TIMER": 0x8000,
        "SQ_PSN": 0x10000, "MAX_DEST_RD_ATOMIC": 0x20000, "PATH_MIG_STATE": 0x40000, "CAP": 0x80000,
        "DEST_QPN": 0x100000,
    ]

    static func mask(_ names: String) -> ibv_qp_attr_mask {
        ibv_qp_attr_mask(rawValue: names.split(separator: " ").reduce(0) { $0 | bits[String($1)]! })
    }

    @Test("has every row of the kernel's, and no other")
    func allRows() throws {
        for (typeName, type) in Self.types {
            for (fromName, from) in Self.states {
                for (toName, to) in Self.states {
                    let rule = QueuePairTransition.rule(type, from: from, to: to)
                    if toName == "RESET" || (toName == "ERR" && fromName != "RESET") {
                        #expect(rule?.required == [] && rule?.optional == [], "\(typeName) \(fromName) \(toName)")
                        continue
                    }
                    let row = Self.rows.first { $0.0 == typeName && $0.1 == fromName && $0.2 == toName }
                    #expect((rule != nil) == (row != nil), "\(typeName) \(fromName) \(toName)")
                    guard let rule, let row else { continue }
                    #expect(rule.required == Self.mask(row.3), "\(typeName) \(fromName) \(toName)")
                    #expect(rule.optional == Self.mask(row.4), "\(typeName) \(fromName) \(toName)")
                }
            }
        }
    }

    @Test("finds each attribute that is missing, and each that does not belong")
    func verdicts() throws {
        for row in Self.rows {
            let type = Self.types[row.0]!
            let from = Self.states.first { $0.0 == row.1 }!.1
            let to = Self.states.first { $0.0 == row.2 }!.1
            let required = Self.mask(row.3).union(.IBV_QP_STATE)
            let all = required.union(Self.mask(row.4))
            #expect(QueuePairTransition.verdict(type, from: from, to: to, mask: required) == .allowed)
            #expect(QueuePairTransition.verdict(type, from: from, to: to, mask: all) == .allowed)
            for bit in Self.bits.values.map(ibv_qp_attr_mask.init(rawValue:)) {
                if required.contains(bit) {
                    #expect(
                        QueuePairTransition.verdict(type, from: from, to: to, mask: all.subtracting(bit))
                            == .missing(bit))
                } else if !all.contains(bit) {
                    #expect(
                        QueuePairTransition.verdict(type, from: from, to: to, mask: all.union(bit)) == .refused(bit))
                }
            }
        }
        #expect(
            QueuePairTransition.verdict(.IBV_QPT_RC, from: .IBV_QPS_RESET, to: .IBV_QPS_RTS, mask: .IBV_QP_STATE)
                == .noSuchTransition)
    }

    @Test("names attributes as the C header does, in order, and keeps bits that it does not know")
    func names() {
        #expect(QueuePairTransition.names([.IBV_QP_PORT, .IBV_QP_ACCESS_FLAGS]) == ["ACCESS_FLAGS", "PORT"])
        #expect(QueuePairTransition.names(ibv_qp_attr_mask(rawValue: 1 << 30 | 1)) == ["STATE", "0x40000000"])
        #expect(QueuePairTransition.names([]) == [])
        for (name, bit) in Self.bits {
            #expect(QueuePairTransition.names(ibv_qp_attr_mask(rawValue: bit)) == [name])
        }
    }
}
