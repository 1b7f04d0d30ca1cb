// SPDX-License-Identifier: Apache-2.0
import FlowSteering

/// Who may have which flows: the lines of `verbs steerd`'s access file.
///
/// ```
/// # who       where           may send        what it may ask for
/// user 1000   interface eth0  send            ip udp dst-port 7000
/// user alice  interface eth0  send from own   eth type 0x88b5
/// ```
package struct AccessList: Sendable, Equatable {
    /// A line: the most general rule that a user may ask for on an interface.
    package struct Entry: Sendable, Equatable, CustomStringConvertible {
        package let uid: UInt32
        package let interface: String
        /// In whose name the library is to let the user send; `nil` for any.
        package let sources: SourceCheck?
        package let rule: FlowRule

        package var description: String {
            let from = sources.map { " from \($0)" } ?? ""
            return "user \(uid) interface \(interface) send\(from) \(rule)"
        }
    }

    /// A line that cannot be: which, what is wrong, and what to do.
    package struct Failure: Error, Equatable, CustomStringConvertible {
        package let line: Int
        package let reason: String

        package var description: String { "line \(line): \(reason)" }
    }

    package private(set) var entries: [Entry] = []

    private static let form = "`user NAME|UID interface NAME send [from SOURCES] RULE`"

    /// Reads lines; what stands behind a `#` is a comment.
    ///
    /// - Parameter userID: the number of a user's name, `nil` if there is no such user.
    package init(parsing text: String, userID: (String) -> UInt32?) throws(Failure) {
        var lineNumbers: [Int] = []
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            let content = line.prefix { $0 != "#" }
            guard content.contains(where: { !$0.isWhitespace }) else { continue }
            entries.append(try Self.entry(content, line: index + 1, userID))
            lineNumbers.append(index + 1)
        }
        for (index, entry) in entries.enumerated()
        where AccessFilter.program(for: rules(of: entry.uid, entry.interface), interface: 1) == nil {
            throw Failure(
                line: lineNumbers[index],
                reason: "user \(entry.uid) has more rules on \(entry.interface) than a filter of the kernel holds; "
                    + "join them by masks, or leave some out")
        }
    }

    private static func entry(
        _ text: Substring, line: Int, _ userID: (String) -> UInt32?
    ) throws(Failure) -> Entry {
        func fail(_ reason: String) -> Failure { Failure(line: line, reason: reason) }
        var words = text.split(whereSeparator: \.isWhitespace)[...]
        guard words.popFirst() == "user", let user = words.popFirst() else {
            throw fail("does not begin with a user; write \(form)")
        }
        guard let uid = UInt32(user) ?? userID(String(user)) else {
            throw fail("there is no user '\(user)' here; write its number, or a name that `getent passwd` knows")
        }
        guard words.popFirst() == "interface", let interface = words.popFirst() else {
            throw fail("the user is not followed by an interface; write \(form)")
        }
        guard interface.utf8.count < 16, !interface.contains("/") else {
            throw fail("'\(interface)' is no name of an interface; `ip link` lists them")
        }
        guard words.first == "send" else {
            throw fail(
                """
                the word `send` does not follow the interface: a lent AF_PACKET socket can send any frame on every interface of \
                the network namespace, and the kernel cannot forbid it; write `send` to allow that, or leave the user out
                """)
        }
        words.removeFirst()
        let sources = try Self.sources(&words, fail)
        guard !words.isEmpty else {
            throw fail("has no rule; write one, such as `ip udp dst-port 7000`, or `any` for all")
        }
        let rule: FlowRule
        do throws(FlowRuleError) {
            rule = try FlowRule(parsing: words.joined(separator: " "))
        } catch {
            throw fail("in the rule, \(error)")
        }
        guard AccessFilter.isExpressible(rule) else {
            throw fail(
                "'\(rule)' says more than a filter of the kernel can; write eth, ip, ip6, tcp and udp alone, without actions "
                    + "(they cover what is inside of tunnels, too)")
        }
        return Entry(uid: uid, interface: String(interface), sources: sources, rule: rule)
    }

    /// `from own,10.0.0.0/8`, if it is there.
    private static func sources(
        _ words: inout ArraySlice<Substring>, _ fail: (String) -> Failure
    ) throws(Failure) -> SourceCheck? {
        guard words.first == "from" else { return nil }
        words.removeFirst()
        do throws(FlowRuleError) {
            return try SourceCheck(parsing: String(words.popFirst() ?? ""))
        } catch {
            throw fail("behind `from`, \(error)")
        }
    }

    /// What a user may have of an interface.
    package func rules(of uid: UInt32, _ interface: String) -> [FlowRule] {
        entries.filter { $0.uid == uid && $0.interface == interface }.map(\.rule)
    }

    /// In whose name a user may send on an interface: what any of the lines allows; `nil` where one has no word of it.
    package func sources(of uid: UInt32, _ interface: String) -> SourceCheck? {
        let checks = entries.filter { $0.uid == uid && $0.interface == interface }.map(\.sources)
        guard let first = checks.first else { return nil }
        return checks.dropFirst().reduce(first) { sum, check in
            guard let sum, let check else { return nil }
            return sum.union(check)
        }
    }
}
