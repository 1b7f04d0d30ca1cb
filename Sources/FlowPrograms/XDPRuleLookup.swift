// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// The rules that a program looks up.
struct XDPRuleLookup: ~Copyable {
    /// By the plan's keys.
    let rules: BPFMap
    /// One entry: for each tuple the best order in it and behind it, or one that is better: the search ends by it.
    let bounds: BPFSharedArray
    /// The masks, where they are exchanged; `nil` where they are part of the program.
    let masks: XDPMaskTable?

    init(_ plan: XDPRulePlan, ruleCountMax: Int, exchangesMasks: Bool) throws(PacketIOError) {
        let masks = exchangesMasks ? try XDPMaskTable(plan) : nil
        let rules = try BPFMap(
            .hash, keyBytes: (plan.words.count + (exchangesMasks ? 1 : 0)) * 8,
            valueBytes: XDPRulePlan.valueWordCount * 8, entryCount: ruleCountMax)
        let bounds = try BPFSharedArray(entryCount: 1, wordCount: XDPRulePlan.maskCountMax)
        for tuple in 0..<XDPRulePlan.maskCountMax { bounds[0, tuple] = .max }
        self.rules = rules
        self.bounds = bounds
        self.masks = masks
    }

    /// The tag of a tuple's mask; `nil` where masks are part of the program.
    func tag(of tuple: Int) -> UInt64? {
        switch masks {
        case .some(let masks): masks.tag(of: tuple)
        case nil: nil
        }
    }

    /// Gives a tuple without rules another mask, which the plan covers; `false` where masks are part of the program.
    func setMask(_ mask: FlowKey, tuple: Int, _ plan: XDPRulePlan) -> Bool {
        switch masks {
        case .some(let masks):
            masks.setMask(mask, tuple: tuple, plan)
            return true
        case nil: return false
        }
    }

    /// Makes a rule the one that acts on a key.
    func set(_ key: [UInt64], tuple: Int, order: UInt64, _ action: XDPRuleAction) throws(PacketIOError) {
        // Before the rule is there, so that no search ends in front of it.
        for index in 0...tuple where bounds[0, index] > order { bounds[0, index] = order }
        try rules.set(words: key, to: [order, action.name, action.action])
    }

    /// Takes the rule of a key out.
    func remove(_ key: [UInt64]) { rules.remove(words: key) }

    /// The best order in a tuple and behind it, or one that is better.
    func bound(_ tuple: Int) -> UInt64 { bounds[0, tuple] }

    /// Sets the bounds to what they need to be: `best` has the best order in each tuple.
    func raiseBounds(_ best: [UInt64]) {
        var bound = UInt64.max
        for tuple in best.indices.reversed() {
            bound = min(bound, best[tuple])
            bounds[0, tuple] = bound
        }
    }
}
