// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import RoCEWire
import VerbsABI

/// The flows of an interface, and what has to be known of all of them together without looking at each.
struct FlowRoster {
    struct Member {
        let rule: FlowRule
        let qpn: QPN
        /// Where its creator lets it be carried out.
        let places: Set<ProviderFlowPlace>
        fileprivate let age: UInt64
    }

    private var members: [FlowID: Member] = [:]
    private var age: UInt64 = 0
    private var countOfQueuePair: [QPN: Int] = [:]
    /// How many rule a place out.
    private var exclusions: [ProviderFlowPlace: Int] = [:]
    /// Defaults and sniffers.
    private var specialCount = 0

    var isEmpty: Bool { members.isEmpty }

    /// Each rule takes what it matches.
    var isNormal: Bool { specialCount == 0 }

    /// In the order of their creation.
    var inOrder: [(id: FlowID, rule: FlowRule)] {
        members.sorted { $0.value.age < $1.value.age }.map { ($0.key, $0.value.rule) }
    }

    /// In any order.
    var ids: some Collection<FlowID> { members.keys }

    /// The queue pairs that have some.
    var queuePairs: some Collection<QPN> { countOfQueuePair.keys }

    /// Those of some places that no flow rules out.
    func allowed(of places: Set<ProviderFlowPlace>) -> Set<ProviderFlowPlace> {
        places.filter { exclusions[$0] == nil }
    }

    func contains(_ id: FlowID) -> Bool { members[id] != nil }

    mutating func add(_ id: FlowID, _ rule: FlowRule, _ qpn: QPN, places: Set<ProviderFlowPlace>) {
        members[id] = Member(rule: rule, qpn: qpn, places: places, age: age)
        age += 1
        count(rule, qpn, places, by: 1)
    }

    mutating func remove(_ id: FlowID) {
        guard let member = members.removeValue(forKey: id) else { return }
        count(member.rule, member.qpn, member.places, by: -1)
    }

    private mutating func count(_ rule: FlowRule, _ qpn: QPN, _ places: Set<ProviderFlowPlace>, by step: Int) {
        func add<Key: Hashable>(to counts: inout [Key: Int], _ key: Key) {
            let new = counts[key, default: 0] + step
            counts[key] = new == 0 ? nil : new
        }
        add(to: &countOfQueuePair, qpn)
        for place in ProviderFlowPlace.allCases where !places.contains(place) { add(to: &exclusions, place) }
        if rule.kind != .normal { specialCount += step }
    }
}
