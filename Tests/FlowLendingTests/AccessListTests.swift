// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import Testing

@testable import FlowLending

@Suite("The access file of steerd") struct AccessListTests {
    private func parsed(_ text: String) throws -> AccessList {
        try AccessList(parsing: text) { $0 == "alice" ? 1234 : nil }
    }

    @Test("Lines, comments and empty lines are read; users by number and by name")
    func lines() throws {
        let list = try parsed(
            """
            # who may have what

            user 1000 interface eth0 send ip udp dst-port 7000   # the port of the service
            user alice interface eth0 send eth type 0x88b5
            user 1000  interface eth1\tsend any
            user alice sockets 3
            user 0 interface eth2 xdp ip udp
            user 0 interface eth2 xdp send ip tcp
            """)
        #expect(list.entries.map(\.uid) == [1000, 1234, 1000, 0, 0])
        #expect(
            list.rules(of: 0, "eth2", by: .xdp) == [try FlowRule(parsing: "ip udp"), try FlowRule(parsing: "ip tcp")])
        #expect(list.rules(of: 0, "eth2", by: .send) == [try FlowRule(parsing: "ip tcp")])
        #expect(list.rules(of: 1000, "eth0", by: .xdp) == [])
        #expect(list.rules(of: 1000, "eth0", by: .send) == [try FlowRule(parsing: "ip udp dst-port 7000")])
        #expect(list.rules(of: 1000, "eth1", by: .send) == [.any])
        #expect(list.rules(of: 1234, "eth1", by: .send) == [])
        #expect(list.rules(of: 0, "eth0", by: .send) == [])
        #expect(list.socketCountMax(of: 1000) == 16)
        #expect(list.socketCountMax(of: 1234) == 3)
        let other = try parsed(list.lines.joined(separator: "\n") + "\nsockets 5 # each")
        #expect(other.entries == list.entries)
        #expect(other.socketCountMax(of: 1000) == 5)
        #expect(other.socketCountMax(of: 1234) == 3)
    }

    @Test(
        "What cannot be is refused with the number of the line and what to write",
        arguments: [
            ("ip udp", "line 1: does not begin with a user"),
            ("\nuser bob interface eth0 send any", "line 2: there is no user 'bob'"),
            ("user 1 eth0 send any", "line 1: the user is not followed by an interface"),
            ("user 1 interface a/b send any", "line 1: 'a/b' is no name of an interface"),
            ("# one\n\nuser 1 interface eth0 ip udp", "line 3: the word `send`"),
            ("user 1 interface eth0 send", "line 1: has no rule"),
            ("user 1 interface eth0 send from own", "line 1: has no rule"),
            ("user 1 interface eth0 send from", "line 1: behind `from`, sources: `` is no source"),
            ("user 1 interface eth0 send from ip udp", "line 1: behind `from`, sources: `ip` is no source"),
            ("user 1 interface eth0 send ip udp dst-port 70000", "line 1: in the rule, udp dst-port"),
            ("user 1 interface eth0 send udp", "line 1: in the rule, udp: which IP"),
            ("user 1 interface eth0 send ip vxlan vni 5", "line 1: 'ip vxlan vni 5' says more than a filter"),
            ("user 1 interface eth0 send sniffer", "line 1: 'sniffer' says more"),
            ("user 1 interface eth0 send any action drop", "line 1: 'any action drop' says more"),
            ("user 1 sockets", "line 1: sockets are not followed by a number of 0 to 4096"),
            ("\nsockets 4097", "line 2: sockets are not followed"),
            ("sockets 4 5", "line 1: sockets are not followed"),
            ("user bob sockets 4", "line 1: there is no user 'bob'"),
            ("user 1 interface eth0 xdp from own any", "line 1: `from` is of what is sent"),
            ("user 4294967296 interface eth0 send any", "line 1: there is no user '4294967296'"),
        ])
    func errors(text: String, start: String) {
        let error = #expect(throws: AccessList.Failure.self) { try parsed(text) }
        #expect(error?.description.hasPrefix(start) == true, "\(error?.description ?? "none")")
    }

    @Test("A user sends in the names that any line has behind `from`, or in any where a line has none")
    func sources() throws {
        let list = try parsed(
            """
            user 1 interface eth0 send from own ip udp dst-port 7000
            user 1 interface eth0 send from 02:00:00:00:00:01,10.0.0.0/8 any
            user 1 interface eth1 send from own any
            user 1 interface eth1 send any
            user alice interface eth1 send any
            user 1 interface eth0 xdp any
            user 1 interface eth2 xdp send from own any
            """)
        #expect(list.sources(of: 1, "eth0") == SourceCheck("own,02:00:00:00:00:01,10.0.0.0/8"))
        #expect(list.rules(of: 1, "eth0", by: .send) == [try FlowRule(parsing: "ip udp dst-port 7000"), .any])
        #expect(list.sources(of: 1, "eth1") == nil)
        #expect(list.sources(of: 1234, "eth1") == nil)
        #expect(list.entries[0].description == "user 1 interface eth0 send from own ip udp dst-port 7000")
        #expect(list.entries[3].description == "user 1 interface eth1 send any")
        #expect(list.entries[6].description == "user 1 interface eth2 send xdp from own any")
    }

    @Test("More rules than a filter holds are refused, at the first line of them")
    func tooMany() {
        let lines = (0..<600).map { "user 7 interface eth0 send ip src 10.0.0.1 udp src-port 5 dst-port \(1000 + $0)" }
        let error = #expect(throws: AccessList.Failure.self) { try parsed("\n" + lines.joined(separator: "\n")) }
        #expect(error?.line == 2)
    }

    @Test("Requests and replies read back; anything else is refused")
    func messages() throws {
        let rule = try FlowRule(parsing: "ip udp dst-port 7000 action tag 3")
        let request = LendingRequest(.receive, interface: "eth0", rules: [rule, .sniffer])
        #expect(try LendingRequest(parsing: request.bytes) == request)
        for sources in [nil, SourceCheck("own,10.0.0.0/8,other")] {
            for rules in [[], [rule, .sniffer]] {
                let reply = LendingReply.granted(rules, sources)
                #expect(LendingReply(parsing: reply.bytes) == reply)
            }
        }
        // A check that this version does not know is not taken for none.
        #expect(LendingReply(parsing: Array("granted\nfrom nobody".utf8)) == nil)
        #expect(LendingReply(parsing: LendingReply.refused("no").bytes) == .refused("no"))
        for reply in [LendingReply.frames("1 2"), .inserted(7), .removed, .busy("later")] {
            #expect(LendingReply(parsing: reply.bytes) == reply)
        }
        #expect(LendingReply(parsing: Array("inserted\n4096".utf8)) == nil)
        for change in [LendingChange.insert(FlowID(rawValue: 9), rule), .remove(FlowID(rawValue: 9))] {
            #expect(try LendingChange(parsing: change.bytes) == change)
        }
        for text in ["", "insert\n1", "insert\n1\nudp", "insert\nx\nany", "remove\n-1", "remove\n1\n2", "count\n1"] {
            #expect(throws: Refusal.self) { try LendingChange(parsing: Array(text.utf8)) }
        }
        for text in ["", "verbs-steerd 1", "verbs-steerd 2\nsend\neth0", "verbs-steerd 1\nreceive\neth0", "\u{0}\n\n"] {
            #expect(throws: Refusal.self) { try LendingRequest(parsing: Array(text.utf8)) }
        }
        #expect(throws: Refusal.self) { try LendingRequest(parsing: [UInt8](repeating: 0xFF, count: 16_000)) }
        #expect(LendingReply(parsing: [0xFF]) == nil)
    }
}
