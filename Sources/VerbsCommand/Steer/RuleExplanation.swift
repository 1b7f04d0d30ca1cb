// SPDX-License-Identifier: Apache-2.0
import Verbs

/// What a rule means: its fields, and what it becomes for libibverbs and for the filters of a network adapter.
struct RuleExplanation: Encodable {
    struct Header: Encodable {
        var name: String
        var fields: [Field]
    }

    struct Field: Encodable {
        var name: String
        var value: String
    }

    /// The textual form with every header in its place.
    var rule: String
    var kind: String
    var priority: Int
    var devicePort: Int
    var doesNotTrap: Bool
    var headers: [Header]
    var actions: [String]
    /// `struct ibv_flow_attr` with its specifications, in hexadecimal; without counters, which are an object of the device.
    var attributes: String
    /// `struct ethtool_rx_flow_spec`, `nil` where the adapter's filters cannot say the rule.
    var ntuple: [Field]?
    var notNtuple: String?
    /// What the owner of the queue does, where a filter steers to it.
    var leftToOwner: [String]

    init(_ rule: FlowRule) {
        self.rule = rule.description
        kind = rule.kind.name
        priority = Int(rule.priority)
        devicePort = Int(rule.devicePort)
        doesNotTrap = rule.doesNotTrap
        headers = rule.specifications.map { specification in
            Header(
                name: specification.name,
                fields: specification.fieldTexts.map { Field(name: $0.name, value: $0.value) })
        }
        leftToOwner = []
        if let tag = rule.tag { leftToOwner.append("tag \(tag)") }
        if rule.counts { leftToOwner.append("count") }
        actions = (rule.drops ? ["drop"] : ["deliver"]) + leftToOwner
        var plain = rule
        plain.counts = false
        // Valid: it was parsed.
        attributes = (try? FlowAttributes.encode(plain)).map(Self.hex) ?? ""
        plain.tag = nil
        do throws(FlowRuleError) {
            ntuple = try NtupleRule.fieldTexts(plain, queue: 0).map { Field(name: $0.name, value: $0.value) }
        } catch {
            notNtuple = error.description
        }
    }

    private static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
    }

    var text: String {
        var lines = [rule, "  kind        \(kind), priority \(priority), device port \(devicePort)"]
        if doesNotTrap { lines.append("              packets go on to the rules behind it (dont-trap)") }
        for header in headers {
            let fields = header.fields.map { "\($0.name) \($0.value)" }.joined(separator: ", ")
            lines.append("  \(Self.padded(header.name))\(fields.isEmpty ? "any" : fields)")
        }
        if headers.isEmpty { lines.append("  packets     \(kind == "normal" ? "all" : "those of the kind")") }
        lines.append("  action      \(actions.joined(separator: ", "))")
        let bytes = attributes.split(separator: " ")
        lines.append("  ibv_flow_attr, \(bytes.count) bytes:")
        for start in stride(from: 0, to: bytes.count, by: 16) {
            let offset = String(start, radix: 16)
            let row = bytes[start..<min(start + 16, bytes.count)].joined(separator: " ")
            lines.append("    " + String(repeating: "0", count: 3 - offset.count) + "\(offset)  \(row)")
        }
        if let ntuple {
            lines.append("  ethtool_rx_flow_spec (ntuple):")
            lines += ntuple.map { "    \(Self.padded($0.name))\($0.value)" }
            if !leftToOwner.isEmpty {
                lines.append("    The owner of the queue does the rest: \(leftToOwner.joined(separator: ", ")).")
            }
        } else if let notNtuple {
            lines.append("  no ethtool filter (ntuple): \(notNtuple)")
        }
        return lines.joined(separator: "\n")
    }

    private static func padded(_ name: String) -> String {
        name + String(repeating: " ", count: max(1, 12 - name.count))
    }
}
