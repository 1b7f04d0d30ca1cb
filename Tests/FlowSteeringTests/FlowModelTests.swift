// SPDX-License-Identifier: Apache-2.0
import FlowTraffic
import Testing

@testable import FlowSteering

@Suite("Meaning of a set of rules") struct FlowModelTests {
    /// UDP 10.0.0.1:1024 to 10.0.0.2:53, from and to unicast addresses.
    private let packet: FlowKey = {
        var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]
        frame += [0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 4, 0, 0, 53, 0, 8, 0, 0]
        return key(of: frame)
    }()

    /// What happens, in a form that compares.
    private struct Result: Equatable {
        let effects: [FlowEffect]
        let outcome: FlowVerdict.Outcome

        init(_ effects: [FlowEffect], _ outcome: FlowVerdict.Outcome) {
            self.effects = effects
            self.outcome = outcome
        }
    }

    private func effects(_ rules: String..., key: FlowKey? = nil) throws -> Result {
        var model = FlowModel()
        for (id, text) in rules.enumerated() {
            model.insert(try FlowRule(parsing: text), FlowID(rawValue: UInt32(id)))
        }
        let verdict = model.verdict(for: key ?? packet)
        return Result(verdict.effects, verdict.outcome)
    }

    private func deliver(_ id: UInt32, tag: UInt32? = nil) -> FlowEffect { .deliver(FlowID(rawValue: id), tag: tag) }

    @Test("The lowest priority number wins, whatever the order of creation")
    func priority() throws {
        #expect(
            try effects("ip priority 2", "ip udp dst-port 53 priority 1 action tag 7", "any priority 3")
                == Result([deliver(1, tag: 7)], .trapped))
        #expect(try effects("ip udp dst-port 54 priority 0", "ip priority 65535") == Result([deliver(1)], .trapped))
        #expect(try effects("ip udp dst-port 54") == Result([], .unmatched))
    }

    @Test("A rule that does not trap has a copy, and the next ones see the packet")
    func doesNotTrap() throws {
        #expect(
            try effects("ip priority 1", "any dont-trap action tag 1", "ip udp dont-trap priority 2")
                == Result([deliver(1, tag: 1), deliver(0)], .trapped))
        #expect(try effects("any dont-trap") == Result([deliver(0)], .unmatched))
        // Of equal priority it comes first.
        #expect(try effects("any", "any dont-trap") == Result([deliver(1), deliver(0)], .trapped))
    }

    @Test("Default rules lose to every normal rule, and each has what is left")
    func defaults() throws {
        #expect(try effects("all-default", "ip priority 65535") == Result([deliver(1)], .trapped))
        #expect(
            try effects("all-default", "all-default action tag 2", "multicast-default")
                == Result([deliver(0), deliver(1, tag: 2)], .left))
        #expect(try effects("any dont-trap", "all-default") == Result([deliver(0), deliver(1)], .left))
        var group = packet
        group[.ethernetDestination, inner: false] = 0x0100_5E00_0001
        #expect(try effects("multicast-default", "all-default", key: group) == Result([deliver(0), deliver(1)], .left))
        #expect(try effects("all-default action drop", key: group).outcome == .dropped)
    }

    @Test("A sniffer has a copy of everything, also of what is dropped")
    func sniffer() throws {
        let drop = FlowEffect.drop(FlowID(rawValue: 0))
        #expect(try effects("any action drop", "sniffer") == Result([deliver(1), drop], .dropped))
        #expect(try effects("sniffer", "sniffer") == Result([deliver(0), deliver(1)], .unmatched))
    }

    @Test("A dropped packet reaches nobody behind, and may be counted")
    func drop() throws {
        let id = FlowID(rawValue: 0)
        #expect(
            try effects("ip action drop action count", "any priority 1", "all-default")
                == Result([.count(id), .drop(id)], .dropped))
    }

    @Test("Where two rules of one priority match, the winner is said to be undefined")
    func undefined() throws {
        func isDefined(_ rules: String...) throws -> Bool {
            var model = FlowModel()
            for (id, text) in rules.enumerated() {
                model.insert(try FlowRule(parsing: text), FlowID(rawValue: UInt32(id)))
            }
            return model.isDefined(for: packet)
        }
        #expect(try isDefined("ip", "any priority 1", "sniffer", "all-default"))
        #expect(try !isDefined("ip", "any"))
        #expect(try !isDefined("ip", "any dont-trap"))
        #expect(try isDefined("ip priority 1", "any dont-trap"))
        #expect(try isDefined("ip", "ip udp dst-port 54"))
    }

    @Test("The masked words of a rule and its fields by name agree", arguments: 1...6 as ClosedRange<UInt64>)
    func patternEqualsFields(seed: UInt64) {
        var rules = RuleMaker(seed: seed)
        var frames = FrameMaker(seed: seed)
        var hits = 0
        for _ in 0..<200 {
            var rule = rules.rule()
            guard rule.kind == .normal else { continue }
            rule.doesNotTrap = false
            var model = FlowModel()
            model.insert(rule, FlowID(rawValue: 0))
            for _ in 0..<10 {
                let key = key(of: frames.frame())
                let fits = model.verdict(for: key).outcome != .unmatched
                #expect(FlowKeyPattern(rule).matches(key) == fits, "seed \(seed), \(rule), key \(key)")
                if fits { hits += 1 }
            }
        }
        #expect(hits > 20)
    }

    @Test("Every rule reads back from its text", arguments: 1...5 as ClosedRange<UInt64>)
    func textRoundTrip(seed: UInt64) throws {
        var rules = RuleMaker(seed: seed)
        for _ in 0..<150 {
            let rule = rules.rule()
            #expect(try FlowRule(parsing: rule.description) == rule, "seed \(seed)")
        }
    }
}
