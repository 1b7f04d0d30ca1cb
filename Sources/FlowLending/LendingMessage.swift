// SPDX-License-Identifier: Apache-2.0
import FlowSteering

/// What a process asks of `verbs steerd`: one message of text, and a line for each part.
struct LendingRequest: Equatable {
    /// What the socket is for.
    enum Purpose: String {
        case receive, send
        /// AF_XDP sockets of an interface, and a program in the driver or above it.
        case xdp
        case xdpGeneric = "xdp-generic"
    }

    /// The first line: of another version, another line.
    static let version = "verbs-steerd 1"
    /// Bytes of the longest request.
    static let byteCountMax = 8192

    var purpose: Purpose
    var interface: String
    /// What is to be received, at least one rule; none for the others.
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
        guard rules.isEmpty == (purpose != .receive) else {
            throw Refusal("rules are for receiving: ask for one at least")
        }
    }
}

/// What the borrower of an interface asks further, on the same connection.
enum LendingChange: Equatable {
    case insert(FlowID, FlowRule)
    case remove(FlowID)

    var bytes: [UInt8] {
        switch self {
        case .insert(let id, let rule): Array("insert\n\(id.rawValue)\n\(rule)".utf8)
        case .remove(let id): Array("remove\n\(id.rawValue)".utf8)
        }
    }

    /// Reads what a borrower may have sent; the text of the error is for it.
    init(parsing bytes: [UInt8]) throws(Refusal) {
        let lines = String(decoding: bytes.prefix(LendingRequest.byteCountMax), as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.count >= 2, let id = UInt32(lines[1]).map({ FlowID(rawValue: $0) }) else {
            throw Refusal("this is no change of version 1: use a library and a steerd of the same version")
        }
        switch (lines[0], lines.count) {
        case ("insert", 3):
            do throws(FlowRuleError) {
                self = .insert(id, try FlowRule(parsing: String(lines[2])))
            } catch {
                throw Refusal("in the rule '\(lines[2].prefix(80))', \(error)")
            }
        case ("remove", 2): self = .remove(id)
        default: throw Refusal("this is no change of version 1: use a library and a steerd of the same version")
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
    /// For each queue a socket and the file of its memory come along, and the array that rules count in; how they lie in memory.
    case frames(String)
    /// A rule is there, and counts in that entry; with the first one comes what holds the program on the interface.
    case inserted(Int)
    case removed
    case refused(String)
    /// For now: somebody has just given it back, or has it.
    case busy(String)

    var bytes: [UInt8] {
        switch self {
        case .granted(let rules, let sources):
            Array(
                (["granted"] + rules.map(\.description) + (sources.map { ["from \($0)"] } ?? []))
                    .joined(separator: "\n").utf8)
        case .frames(let layout): Array("frames\n\(layout)".utf8)
        case .inserted(let entry): Array("inserted\n\(entry)".utf8)
        case .removed: Array("removed".utf8)
        case .refused(let reason): Array("refused\n\(reason)".utf8)
        case .busy(let reason): Array("busy\n\(reason)".utf8)
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
        case "frames" where lines.count == 2: self = .frames(String(lines[1]))
        case "inserted" where lines.count == 2:
            guard let entry = Int(lines[1]), (0..<InterfaceLease.ruleCountMax).contains(entry) else { return nil }
            self = .inserted(entry)
        case "removed": self = .removed
        case "busy": self = .busy(lines[1...].joined(separator: " "))
        case "refused": self = .refused(lines[1...].joined(separator: " "))
        default: return nil
        }
    }
}
