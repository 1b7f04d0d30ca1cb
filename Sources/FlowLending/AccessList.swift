// SPDX-License-Identifier: Apache-2.0
import FlowSteering

/// Who may have which flows: the lines of `verbs steerd`'s access file.
///
/// ```
/// # who       where           by what         what it may ask for
/// user 1000   interface eth0  send            ip udp dst-port 7000
/// user alice  interface eth0  send from own   eth type 0x88b5
/// user bob    interface eth0  xdp             ip udp dst-port 7001
/// sockets 16           # that a user may have at a time
/// user alice sockets 4 # and this one
/// ```
package struct AccessList: Sendable, Equatable {
    /// A line: the most general rule that a user may ask for on an interface.
    package struct Entry: Sendable, Equatable, CustomStringConvertible {
        package let uid: UInt32
        package let interface: String
        /// What it may have the flows by.
        package let means: Set<Means>
        /// In whose name the library is to let the user send; `nil` for any.
        package let sources: SourceCheck?
        package let rule: FlowRule

        package var description: String {
            let words = Means.allCases.filter(means.contains).map(\.rawValue).joined(separator: " ")
            let from = sources.map { " from \($0)" } ?? ""
            return "user \(uid) interface \(interface) \(words)\(from) \(rule)"
        }
    }

    /// What is lent, by the word of a line.
    package enum Means: String, Sendable, CaseIterable {
        /// Packet sockets, which cannot be kept from sending.
        case send
        /// AF_XDP sockets, which receive, and take the flow from the kernel's stack and from all others.
        case xdp
    }

    /// A line that cannot be: which, what is wrong, and what to do.
    package struct Failure: Error, Equatable, CustomStringConvertible {
        package let line: Int
        package let reason: String

        package var description: String { "line \(line): \(reason)" }
    }

    package private(set) var entries: [Entry] = []
    /// Sockets that a user may have at a time, where no line says another number: a raw packet queue pair that sends has two on each
    /// interface.
    package private(set) var socketCountMax = 16
    /// The same for users that have a line of their own.
    package private(set) var socketCountMaxOfUser: [UInt32: Int] = [:]

    /// What a line may give: the kernel lists all packet sockets when one is counted.
    private static let socketCounts = 0...4096
    private static let form =
        "`user NAME|UID interface NAME send [from SOURCES] RULE`, or `xdp` in place of `send`, or both"

    /// Reads lines; what stands behind a `#` is a comment.
    ///
    /// - Parameter userID: the number of a user's name, `nil` if there is no such user.
    package init(parsing text: String, userID: (String) -> UInt32?) throws(Failure) {
        var lineNumbers: [Int] = []
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            let content = line.prefix { $0 != "#" }
            guard content.contains(where: { !$0.isWhitespace }) else { continue }
            if try isLimit(content, line: index + 1, userID) { continue }
            entries.append(try Self.entry(content, line: index + 1, userID))
            lineNumbers.append(index + 1)
        }
        for (index, entry) in entries.enumerated()
        where AccessFilter.program(for: rules(of: entry.uid, entry.interface, by: .send), interface: 1) == nil {
            throw Failure(
                line: lineNumbers[index],
                reason: "user \(entry.uid) has more rules on \(entry.interface) than a filter of the kernel holds; "
                    + "join them by masks, or leave some out")
        }
    }

    /// Reads a line about numbers; `false` for another.
    private mutating func isLimit(
        _ text: Substring, line: Int, _ userID: (String) -> UInt32?
    ) throws(Failure) -> Bool {
        let words = text.split(whereSeparator: \.isWhitespace)
        let isOfUser = words.count >= 3 && words[0] == "user" && words[2] == "sockets"
        guard isOfUser || words[0] == "sockets" else { return false }
        let number = words.last.flatMap { Int($0) }
        guard words.count == (isOfUser ? 4 : 2), let number, Self.socketCounts.contains(number) else {
            throw Failure(
                line: line,
                reason: "sockets are not followed by a number of \(Self.socketCounts.lowerBound) to "
                    + "\(Self.socketCounts.upperBound) alone; write `sockets 16` or `user NAME|UID sockets 16`")
        }
        if isOfUser {
            socketCountMaxOfUser[try Self.uid(words[1], line: line, userID)] = number
        } else {
            socketCountMax = number
        }
        return true
    }

    private static func uid(_ user: Substring, line: Int, _ userID: (String) -> UInt32?) throws(Failure) -> UInt32 {
        if let uid = UInt32(user) ?? userID(String(user)) { return uid }
        throw Failure(
            line: line,
            reason: "there is no user '\(user)' here; write its number, or a name that `getent passwd` knows")
    }

    private static func entry(
        _ text: Substring, line: Int, _ userID: (String) -> UInt32?
    ) throws(Failure) -> Entry {
        func fail(_ reason: String) -> Failure { Failure(line: line, reason: reason) }
        var words = text.split(whereSeparator: \.isWhitespace)[...]
        guard words.popFirst() == "user", let user = words.popFirst() else {
            throw fail("does not begin with a user; write \(form)")
        }
        let uid = try uid(user, line: line, userID)
        guard words.popFirst() == "interface", let interface = words.popFirst() else {
            throw fail("the user is not followed by an interface; write \(form)")
        }
        guard interface.utf8.count < 16, !interface.contains("/") else {
            throw fail("'\(interface)' is no name of an interface; `ip link` lists them")
        }
        var means: Set<Means> = []
        while let word = words.first.flatMap({ Means(rawValue: String($0)) }) {
            means.insert(word)
            words.removeFirst()
        }
        guard !means.isEmpty else {
            throw fail(
                """
                the word `send` does not follow the interface: a lent AF_PACKET socket can send any frame on every interface of \
                the network namespace, and the kernel cannot forbid it; write `send` to allow that, or `xdp` to lend AF_XDP sockets \
                alone, which receive only, or leave the user out
                """)
        }
        let sources = try Self.sources(&words, means, fail)
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
        return Entry(uid: uid, interface: String(interface), means: means, sources: sources, rule: rule)
    }

    /// `from own,10.0.0.0/8`, if it is there.
    private static func sources(
        _ words: inout ArraySlice<Substring>, _ means: Set<Means>, _ fail: (String) -> Failure
    ) throws(Failure) -> SourceCheck? {
        guard words.first == "from" else { return nil }
        guard means.contains(.send) else {
            throw fail("`from` is of what is sent, and `xdp` alone lends nothing that sends; leave it out")
        }
        words.removeFirst()
        do throws(FlowRuleError) {
            return try SourceCheck(parsing: String(words.popFirst() ?? ""))
        } catch {
            throw fail("behind `from`, \(error)")
        }
    }

    /// What a user may have of an interface, and by what.
    package func rules(of uid: UInt32, _ interface: String, by means: Means) -> [FlowRule] {
        entries.filter { $0.uid == uid && $0.interface == interface && $0.means.contains(means) }.map(\.rule)
    }

    /// Sockets that a user may have at a time.
    package func socketCountMax(of uid: UInt32) -> Int { socketCountMaxOfUser[uid] ?? socketCountMax }

    /// The lines in their normal form.
    package var lines: [String] {
        ["sockets \(socketCountMax)"]
            + socketCountMaxOfUser.sorted { $0.key < $1.key }.map { "user \($0.key) sockets \($0.value)" }
            + entries.map(\.description)
    }

    /// In whose name a user may send on an interface: what any of the lines allows; `nil` where one has no word of it.
    package func sources(of uid: UInt32, _ interface: String) -> SourceCheck? {
        let checks = entries.filter {
            $0.uid == uid && $0.interface == interface && $0.means.contains(.send)
        }.map(\.sources)
        guard let first = checks.first else { return nil }
        return checks.dropFirst().reduce(first) { sum, check in
            guard let sum, let check else { return nil }
            return sum.union(check)
        }
    }
}
