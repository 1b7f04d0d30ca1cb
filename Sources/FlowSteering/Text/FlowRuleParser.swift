// SPDX-License-Identifier: Apache-2.0

/// Reads the textual form of one rule, word by word. Total: any text gives a rule or an error that names the word.
struct FlowRuleParser {
    private var words: ArraySlice<Substring>
    private var parsed = FlowRule()
    private var given: Set<String> = []

    /// More words than any rule has.
    private static let wordCountMax = 256

    init(_ text: String) {
        words = text.split(maxSplits: Self.wordCountMax, whereSeparator: \.isWhitespace)[...]
    }

    mutating func rule() throws(FlowRuleError) -> FlowRule {
        if words.isEmpty {
            throw syntax("rule", "is empty", "write `any` for all packets, or a header such as `udp dst-port 7000`")
        }
        if words.count > Self.wordCountMax {
            throw syntax("rule", "has more than \(Self.wordCountMax) words", "write several rules")
        }
        try kind()
        while let word = words.popFirst() {
            switch word {
            case "priority":
                parsed.priority = UInt16(try number("priority", upTo: 0xFFFF))
            case "device-port":
                parsed.devicePort = UInt8(try number("device-port", upTo: 0xFF))
            case "dont-trap":
                try once("dont-trap")
                parsed.doesNotTrap = true
            case "action":
                try action()
            case "inner":
                guard let next = words.popFirst() else {
                    throw syntax("inner", "ends the rule", "name the header inside of the tunnel: `inner ip src ...`")
                }
                try header(next, isInner: true)
            default:
                try header(word, isInner: false)
            }
        }
        return parsed
    }

    private mutating func kind() throws(FlowRuleError) {
        if words.first == "any" {
            words.removeFirst()
            return
        }
        guard let kind = FlowRule.Kind.allCases.first(where: { $0 != .normal && $0.name == words.first ?? "" }) else {
            return
        }
        words.removeFirst()
        parsed.kind = kind
    }

    private mutating func action() throws(FlowRuleError) {
        switch words.popFirst() {
        case "tag": parsed.tag = UInt32(try number("action tag", upTo: 0xFFFF_FFFF))
        case "drop":
            try once("action drop")
            parsed.drops = true
        case "count":
            try once("action count")
            parsed.counts = true
        case "deliver": try once("action deliver")
        case let other:
            throw syntax(
                "action", other.map { "`\($0)` is no action" } ?? "ends the rule",
                "write `tag NUMBER`, `drop`, `count` or `deliver`")
        }
    }

    private mutating func header(_ word: Substring, isInner: Bool) throws(FlowRuleError) {
        guard var header = FlowSpecification.Header.all.first(where: { $0.name == word }) else {
            let names = FlowSpecification.Header.all.map(\.name).joined(separator: ", ")
            throw syntax(
                String(word.prefix(40)), "is neither a header nor an option nor a field of the header before it",
                "headers are \(names); options are priority, dont-trap, device-port, action, inner")
        }
        let name = isInner ? "inner \(header.name)" : header.name
        try once(name)
        while let field = words.first {
            if let index = header.fields.firstIndex(where: { $0.name == field }) {
                words.removeFirst()
                let layout = header.fields[index]
                let place = "\(name) \(layout.name)"
                try once(place)
                let text = try value(place)
                guard let (value, mask) = layout.format.parse(text, bitCount: layout.bitCount) else {
                    throw syntax(place, "`\(text.prefix(80))` is no value of it", layout.format.hint(layout.bitCount))
                }
                header = header.setting(index, to: value, mask: mask)
            } else if let part = FlowSpecification.Header.parts.first(where: {
                $0.header == header.name && $0.name == field
            }), let index = header.fields.firstIndex(where: { $0.name == part.field }) {
                words.removeFirst()
                try once("\(name) \(part.field)")
                let number = try number("\(name) \(part.name)", upTo: part.numberMax)
                header = header.setting(index, to: number << part.shift, mask: part.mask)
            } else {
                break
            }
        }
        parsed = parsed.with(header, isInner: isInner)
    }

    // MARK: Words

    private mutating func value(_ place: String) throws(FlowRuleError) -> Substring {
        guard let text = words.popFirst() else { throw syntax(place, "has no value", "write one behind it") }
        return text
    }

    private mutating func number(_ place: String, upTo limit: UInt128) throws(FlowRuleError) -> UInt128 {
        try once(place)
        let text = try value(place)
        guard let number = FieldFormat.number(text), number <= limit else {
            throw syntax(place, "`\(text.prefix(80))` is no number up to \(limit)", "give one, in decimal or with 0x")
        }
        return number
    }

    private mutating func once(_ place: String) throws(FlowRuleError) {
        if !given.insert(place).inserted { throw syntax(place, "is given twice", "give it once") }
    }

    private func syntax(_ place: String, _ explanation: String, _ remedy: String) -> FlowRuleError {
        FlowRuleError(place, .syntax, explanation, remedy: remedy)
    }
}

extension FieldFormat {
    /// What to write, completing "; ".
    func hint(_ bitCount: Int) -> String {
        switch self {
        case .decimal, .hexadecimal:
            "give a number up to \(valueText(Self.ones(bitCount))), with a mask behind / if only some bits count"
        case .mac: "give an address such as 02:00:00:00:00:01, with a mask behind / if only some bits count"
        case .ipv4: "give an address such as 10.0.0.0, with a prefix length or a mask behind /"
        case .ipv6: "give an address such as fe80::1, with a prefix length or a mask behind /"
        }
    }
}
