// SPDX-License-Identifier: Apache-2.0

// The textual form of rules, for command lines and tests:
//
//   rule   = [ "any" | "all-default" | "multicast-default" | "sniffer" ] { ["inner"] HEADER { FIELD VALUE } | option }
//   option = "priority" N | "dont-trap" | "device-port" N | "action" ( "tag" N | "drop" | "count" | "deliver" )
//
//   eth  src dst type vlan-tag, vlan (the tag's low 12 bits)      tcp, udp  src-port dst-port
//   ip   src dst proto tos ttl flags                              esp  spi seq        vxlan  vni
//   ip6  src dst flow-label next-header class hop-limit           gre  flags type key     mpls  entry, label
//
// A VALUE is a number (decimal or 0x), or an address, and may have a mask behind a slash; `ip src 10.0.0.0/24`.
extension FlowRule: LosslessStringConvertible {
    /// Reads the textual form; `nil` if it is not well formed or the rule cannot be. ``init(parsing:)`` says why.
    public init?(_ text: String) {
        guard let rule = try? FlowRule(parsing: text) else { return nil }
        self = rule
    }

    /// The textual form, which ``init(parsing:)`` reads as the same rule.
    public var description: String {
        var words: [String] = []
        if kind != .normal { words.append(kind.name) }
        if kind == .normal && specifications.isEmpty { words.append("any") }
        for specification in specifications {
            words.append(specification.name)
            for field in specification.fieldTexts { words += [field.name, field.value] }
        }
        if priority != 0 { words += ["priority", String(priority)] }
        if devicePort != 1 { words += ["device-port", String(devicePort)] }
        if doesNotTrap { words.append("dont-trap") }
        if let tag { words += ["action tag", String(tag)] }
        if drops { words.append("action drop") }
        if counts { words.append("action count") }
        return words.joined(separator: " ")
    }

    /// Reads the textual form and validates the rule.
    public init(parsing text: String) throws(FlowRuleError) {
        var parser = FlowRuleParser(text)
        self = try parser.rule()
        try validate()
    }
}

extension FlowSpecification {
    /// The fields that it wants, in the words of the textual form: `dst-port` and `7000`.
    package var fieldTexts: [(name: String, value: String)] {
        header.fields.filter { $0.mask != 0 || $0.value != 0 }.map(header.text(of:))
    }
}

extension FlowSpecification.Header {
    /// The shorter word where a field has only those bits.
    fileprivate func text(of field: FieldView) -> (name: String, value: String) {
        for part in Self.parts where part.header == name && part.field == field.name && part.mask == field.mask {
            return (part.name, String(field.value >> part.shift))
        }
        return (field.name, field.text)
    }

    /// A word of its own for some bits of a field.
    struct Part: Sendable {
        let name: String
        let header: String
        let field: String
        let mask: UInt128
        let shift: UInt128

        /// The largest number that it takes.
        var numberMax: UInt128 { mask >> shift }
    }

    static let parts = [
        Part(name: "vlan", header: "eth", field: "vlan-tag", mask: 0xFFF, shift: 0),
        Part(name: "label", header: "mpls", field: "entry", mask: 0xFFFF_F000, shift: 12),
    ]
}
