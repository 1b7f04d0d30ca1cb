// SPDX-License-Identifier: Apache-2.0

extension NtupleRule {
    /// What the request that adds the filter says: the members of `struct ethtool_rx_flow_spec` that are not zero, bytes as far as they
    /// count, for people to compare with `ethtool -n`.
    package static func fieldTexts(_ rule: FlowRule, queue: UInt32) throws(FlowRuleError) -> [(
        name: String, value: String
    )] {
        let bytes = try encode(rule, queue: queue)
        func word(_ offset: Int) -> UInt32 {
            bytes[offset..<offset + 4].reversed().reduce(0) { $0 << 8 | UInt32($1) }
        }
        let type = word(Offset.flowType)
        var flags = type & FlowType.hasTag != 0 ? " | FLOW_EXT" : ""
        if type & FlowType.hasMAC != 0 { flags += " | FLOW_MAC_EXT" }
        let number = type & ~(FlowType.hasTag | FlowType.hasMAC)
        var texts = [("flow_type", (FlowType.names[number] ?? String(number)) + flags)]
        for (name, value, mask, count) in [
            ("u", Offset.value, Offset.mask, 52), ("ext", Offset.valueExtension, Offset.maskExtension, 20),
        ] {
            let used = (0..<count).last { bytes[value + $0] != 0 || bytes[mask + $0] != 0 }
            guard let used else { continue }
            texts.append(("h_\(name)", hex(bytes[value...(value + used)])))
            texts.append(("m_\(name)", hex(bytes[mask...(mask + used)])))
        }
        texts.append(("ring_cookie", rule.drops ? "RX_CLS_FLOW_DISC" : "queue \(queue)"))
        texts.append(("location", "RX_CLS_LOC_ANY"))
        return texts
    }

    private static func hex(_ bytes: ArraySlice<UInt8>) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
    }
}
