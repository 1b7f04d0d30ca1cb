// SPDX-License-Identifier: Apache-2.0

/// Chooses the tables for a set of rules.
///
/// Greedy: the mask that takes the most of the rules that are left, a group counting no more than its limit, until few are left; or of
/// the masks that take nearly as many the one with the most bits. How large groups may be, and what is nearly, is tried out: for each
/// choice a set is built, keys are drawn from the rules, and the set whose lookups cost least is kept.
struct TuplePlan {
    struct Rule {
        let pattern: FlowKeyPattern
        let order: UInt64
        let id: UInt32
    }

    private let width: Int
    private let rules: [Rule]
    /// Rules by their exact mask, the most frequent first.
    private let shapes: [(mask: FlowKey, members: [Int])]
    /// Masks that tables may have, with how many rules could be in one if groups had no limit.
    private let candidates: [Candidate]

    private init(_ rules: [Rule], width: Int) {
        self.width = width
        self.rules = rules
        shapes = Dictionary(grouping: rules.indices) { rules[$0].pattern.mask }.map { ($0.key, $0.value) }
            .sorted { ($0.members.count, $1.members[0]) > ($1.members.count, $0.members[0]) }
        candidates = Self.candidates(shapes, width: width)
    }

    /// What is tried: rules in a group, and the part of the most rules that is nearly as many, in percent.
    private struct Choice {
        let groupLimit: Int
        let share: Int
    }

    private static let choices = [4, 16, 64].flatMap { limit in
        [90, 100].map { Choice(groupLimit: limit, share: $0) }
    }

    /// So few that the tables which insertion makes are good enough.
    private static let fewRules = 64

    /// The best set for these rules.
    static func build(_ rules: [Rule], width: Int) -> TupleSet {
        if rules.count <= fewRules {
            let set = TupleSet(width: width, ruleCount: rules.count)
            for rule in rules { set.insert(rule.pattern, order: rule.order, id: rule.id) }
            return set
        }
        let plan = TuplePlan(rules, width: width)
        let sample = plan.sampleKeys()
        var best: (set: TupleSet, cost: Int)?
        for choice in choices {
            let set = TupleSet(
                width: width, masks: plan.masks(choice), groupLimit: choice.groupLimit, ruleCount: rules.count)
            for rule in rules { set.insert(rule.pattern, order: rule.order, id: rule.id) }
            let cost = Self.cost(set, sample)
            if cost < best?.cost ?? .max { best = (set, cost) }
        }
        return best?.set ?? TupleSet(width: width)
    }

    // MARK: Masks

    private struct Candidate {
        let mask: FlowKey
        var bound: Int
    }

    /// Shapes that candidates are made of; the others find place in their tables, or get one when they are inserted.
    private static let shapeCountMax = 32
    private static let candidateCountMax = 1024

    private static func candidates(_ shapes: [(mask: FlowKey, members: [Int])], width: Int) -> [Candidate] {
        var seen: Set<FlowKey> = []
        var found: [Candidate] = []
        for shape in shapes.prefix(shapeCountMax) {
            for mask in TupleShape.candidates(shape.mask, width: width) where seen.insert(mask).inserted {
                var bound = 0
                for other in shapes where includes(other.mask, mask, width) { bound += other.members.count }
                found.append(Candidate(mask: mask, bound: bound))
            }
        }
        // Of those that could take as many, one with more bits first: its groups are smaller.
        found.sort { ($0.bound, TupleShape.bitCount($0.mask)) > ($1.bound, TupleShape.bitCount($1.mask)) }
        return Array(found.prefix(candidateCountMax))
    }

    private func masks(_ choice: Choice) -> [FlowKey] {
        var left = [Bool](repeating: true, count: rules.count)
        var leftCount = rules.count
        var chosen: [FlowKey] = []
        var candidates = candidates
        // A table costs every packet a visit: for a few rules it is cheaper to crowd a group.
        let worthIt = max(1, rules.count / 1000)
        while leftCount > 0, chosen.count < TupleSet.tableCountMax - 2 {
            guard let best = choose(&candidates, left, choice), candidates[best].bound >= worthIt else { break }
            let mask = candidates.remove(at: best).mask
            chosen.append(mask)
            let taken = take(mask, left, choice.groupLimit)
            for rule in taken { left[rule] = false }
            leftCount -= taken.count
        }
        return chosen
    }

    /// The finest of the candidates that take nearly the most. What one takes only shrinks from round to round, so an old figure is an
    /// upper bound, and only candidates whose bound is high enough are counted again.
    private func choose(_ candidates: inout [Candidate], _ left: [Bool], _ choice: Choice) -> Int? {
        var most = 0
        var counted: [Int] = []
        for index in candidates.indices.sorted(by: { candidates[$0].bound > candidates[$1].bound }) {
            if candidates[index].bound * 100 <= most * choice.share { break }
            candidates[index].bound = take(candidates[index].mask, left, choice.groupLimit).count
            most = max(most, candidates[index].bound)
            counted.append(index)
        }
        return counted.filter { candidates[$0].bound * 100 >= most * choice.share }
            .max { TupleShape.bitCount(candidates[$0].mask) < TupleShape.bitCount(candidates[$1].mask) }
    }

    /// The rules that a table with this mask would take: the first `limit` of each group.
    private func take(_ mask: FlowKey, _ left: [Bool], _ limit: Int) -> [Int] {
        let logarithm = UInt64(max(8, Int.bitWidth - (rules.count * 8).leadingZeroBitCount))
        var counts = [UInt8](repeating: 0, count: 1 << Int(logarithm))
        var taken: [Int] = []
        for shape in shapes where Self.includes(shape.mask, mask, width) {
            for rule in shape.members where left[rule] {
                var sum: UInt64 = 0
                for word in 0..<width {
                    sum &+= (rules[rule].pattern.value.words[word] & mask.words[word]) &* TupleTable.multiplier(word)
                }
                // Two groups in one counter are rare, and cost no more than a rule elsewhere.
                let place = Int(TupleTable.finish(sum) >> (64 - logarithm))
                if Int(counts[place]) < limit {
                    counts[place] += 1
                    taken.append(rule)
                }
            }
        }
        return taken
    }

    private static func includes(_ mask: FlowKey, _ part: FlowKey, _ width: Int) -> Bool {
        var missing: UInt64 = 0
        for word in 0..<width { missing |= part.words[word] & ~mask.words[word] }
        return missing == 0
    }

    // MARK: Trial

    private static let sampleCount = 1024

    /// Keys that rules match, with other bits at random.
    private func sampleKeys() -> [FlowKey] {
        var state: UInt64 = 0x5EED
        return (0..<min(Self.sampleCount, rules.count)).map { index in
            let pattern = rules[index * rules.count / min(Self.sampleCount, rules.count)].pattern
            var key = pattern.value
            for word in 0..<width {
                state = TupleTable.finish(state &+ 0x9E37_79B9_7F4A_7C15)
                key.words[word] |= state & ~pattern.mask.words[word]
            }
            return key
        }
    }

    /// In cycles, roughly: a table that is visited, a group that is found, a rule that is compared.
    private static func cost(_ set: TupleSet, _ keys: [FlowKey]) -> Int { keys.reduce(0) { $0 + set.cost(of: $1) } }
}

extension TupleSet {
    /// What it costs to look this key up, as ``TupleLookup`` does.
    fileprivate func cost(of key: FlowKey) -> Int {
        var best = UInt64.max
        var cycles = 0
        for table in tables where table.bestOrder < best {
            cycles += 17
            guard let place = table.find(key, in: records) else { continue }
            cycles += 40
            for offset in 0..<UInt32(records.groupCount(place.first)) {
                let index = place.first + offset
                if records.order(index) >= best { break }
                cycles += 12
                if records.matches(index, key) {
                    best = records.order(index)
                    break
                }
            }
        }
        return cycles
    }
}
