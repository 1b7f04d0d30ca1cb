// SPDX-License-Identifier: Apache-2.0
import FlowSteering

/// What a process asks of `verbs steerd`: one message of text, and a line for each part.
struct LendingRequest: Equatable {
    /// What the socket is for.
    enum Purpose: String { case receive, send }

    /// The first line: of another version, another line.
    static let version = "verbs-steerd 1"
    /// Bytes of the longest request.
    static let byteCountMax = 8192

    var purpose: Purpose
    var interface: String
    /// What is to be received, at least one rule; none for sending.
    var rules: [FlowRule]

    /// As bytes of the message.
    var bytes: [UInt8] {
        Array(([Self.version, purpose.rawValue, interface] + rules.map(\.description)).joined(separator: "\n").utf8)
    }

    init(_ purpose: Purpose, interface: String, rules: [FlowRule]) {
        self.purpose = purpose
        self.interface = interface
        self.rules = rules
    }

    /// Reads what anybody may have sent; the text of the error is for the sender.
    init(parsing bytes: [UInt8]) throws(Refusal) {
        let lines = String(decoding: bytes.prefix(Self.byteCountMax + 1), as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false)
        guard bytes.count <= Self.byteCountMax, lines.count >= 3, lines[0] == Self.version,
            let purpose = Purpose(rawValue: String(lines[1]))
        else { throw Refusal("this is no request of version 1: use a library and a steerd of the same version") }
        self.purpose = purpose
        interface = String(lines[2].prefix(64))
        rules = []
        for line in lines[3...] {
            do throws(FlowRuleError) {
                rules.append(try FlowRule(parsing: String(line)))
            } catch {
                throw Refusal("in the rule '\(line.prefix(80))', \(error)")
            }
        }
        guard rules.isEmpty == (purpose == .send) else {
            throw Refusal("rules are for receiving: ask for one at least")
        }
    }
}

/// Why something is not lent: for people, with what would help.
package struct Refusal: Error, Equatable {
    package let reason: String

    init(_ reason: String) { self.reason = reason }
}

/// What `verbs steerd` answers; a socket comes along with what is granted.
enum LendingReply: Equatable {
    /// The rules that the socket lets pass: the asked ones are among what they cover. And what may be sent, where not all may.
    case granted([FlowRule], SourceCheck?)
    case refused(String)

    var bytes: [UInt8] {
        switch self {
        case .granted(let rules, let sources):
            Array(
                (["granted"] + rules.map(\.description) + (sources.map { ["from \($0)"] } ?? []))
                    .joined(separator: "\n").utf8)
        case .refused(let reason): Array("refused\n\(reason)".utf8)
        }
    }

    init?(parsing bytes: [UInt8]) {
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
        switch lines.first {
        case "granted":
            var rules = lines[1...]
            var sources: SourceCheck?
            if let last = rules.last, last.hasPrefix("from ") {
                // Nothing is sent that a check which is not understood might forbid.
                guard let check = SourceCheck(String(last.dropFirst("from ".count))) else { return nil }
                sources = check
                rules.removeLast()
            }
            self = .granted(rules.compactMap { FlowRule(String($0)) }, sources)
        case "refused": self = .refused(lines[1...].joined(separator: " "))
        default: return nil
        }
    }
}
