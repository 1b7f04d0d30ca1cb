// SPDX-License-Identifier: Apache-2.0

/// Finds what a set of rules does with packets, fast: the place in user space for flow rules.
///
/// One thread at a time uses it. Rules come and go between lookups, each in microseconds; when many have, the tables are no longer
/// the best ones, and ``wantsRebuild`` says so. Then ``beginRebuild()`` gives a job that any thread may run while
/// lookups and changes go on here, and ``adopt(_:)`` takes its result in.
///
/// The result is that of ``FlowModel`` in all cases.
package final class FlowClassifier {
    /// Widths of keys: IPv4 with ports; IPv6 with ports; every header in front of a tunnel; everything.
    static let widths = [2, 5, 8, 20]

    private struct Entry {
        let rule: FlowRule
        let order: FlowOrder
        /// The number of the set that a normal rule is in.
        var set = 0
    }

    private var entries: [Entry?] = []
    private var freeIDs: [UInt32] = []
    private static let freeIDCountMin = 256
    private var age: UInt64 = 0
    /// Normal rules that take packets, by the words that they look at.
    private var trapping: [TupleSet]
    /// Normal rules that leave packets to others, too.
    private var copying: [TupleSet]
    /// Sniffers, and default rules, in order.
    private var sniffers: [FlowID] = []
    private var defaults: [FlowID] = []
    private let lookup: TupleLookup

    /// Changes of trapping rules since the last build.
    private var changeCount = 0
    /// Ids inserted and removed since a rebuild began.
    private var journal: [Change]?

    private enum Change {
        case inserted(UInt32)
        case removed(UInt32, FlowKeyPattern, order: UInt64)
    }

    /// No rules.
    ///
    /// - Parameter allowsVectors: Whether to look eight packets up at a time where the processor can; `false` is for tests.
    package init(allowsVectors: Bool = true) {
        lookup = TupleLookup(allowsVectors: allowsVectors)
        trapping = Self.widths.map { TupleSet(width: $0) }
        copying = Self.widths.map { TupleSet(width: $0) }
    }

    /// A classifier with these rules, as ``insert(_:)`` would add them one by one, and with the best tables for them at once. Their
    /// ids are 0 and up.
    package convenience init(_ rules: [FlowRule], allowsVectors: Bool = true) throws(FlowRuleError) {
        self.init(allowsVectors: allowsVectors)
        for rule in rules {
            try rule.validate()
            let id = UInt32(entries.count)
            let order = FlowOrder(rule, age: age)
            age += 1
            entries.append(Entry(rule: rule, order: order))
            if rule.kind == .normal && !rule.doesNotTrap {
                // The rebuild below enters it.
                entries[Int(id)]?.set = Self.setIndex(FlowKeyPattern(rule))
            } else {
                enter(rule, order, id)
            }
        }
        adopt(beginRebuild().run())
    }

    // MARK: Rules

    /// The number of rules.
    package var count: Int { entries.count - freeIDs.count }

    /// The rule with this id, if there is one.
    package func rule(_ id: FlowID) -> FlowRule? {
        entries.indices.contains(Int(id.rawValue)) ? entries[Int(id.rawValue)]?.rule : nil
    }

    /// Adds a rule.
    package func insert(_ rule: FlowRule) throws(FlowRuleError) -> FlowID {
        try rule.validate()
        let order = FlowOrder(rule, age: age)
        age += 1
        let entry = Entry(rule: rule, order: order)
        let id: UInt32
        // The number that is free for the longest time, of many: packets may be on their way that name one just freed.
        if freeIDs.count > Self.freeIDCountMin {
            let free = freeIDs.removeFirst()
            id = free
            entries[Int(id)] = entry
        } else {
            id = UInt32(entries.count)
            entries.append(entry)
        }
        enter(rule, order, id)
        return FlowID(rawValue: id)
    }

    /// Removes a rule; `false` if it is not there.
    @discardableResult
    package func remove(_ id: FlowID) -> Bool {
        guard entries.indices.contains(Int(id.rawValue)), let entry = entries[Int(id.rawValue)] else { return false }
        entries[Int(id.rawValue)] = nil
        freeIDs.append(id.rawValue)
        switch entry.rule.kind {
        case .sniffer: sniffers.removeAll { $0 == id }
        case .allDefault, .multicastDefault: defaults.removeAll { $0 == id }
        case .normal:
            let pattern = FlowKeyPattern(entry.rule)
            let sets = entry.rule.doesNotTrap ? copying : trapping
            _ = sets[entry.set].remove(pattern, order: entry.order.rawValue)
            if !entry.rule.doesNotTrap {
                changeCount += 1
                journal?.append(.removed(id.rawValue, pattern, order: entry.order.rawValue))
            }
        }
        return true
    }

    private func enter(_ rule: FlowRule, _ order: FlowOrder, _ id: UInt32) {
        switch rule.kind {
        case .sniffer: sniffers.append(FlowID(rawValue: id))
        case .allDefault, .multicastDefault: defaults.append(FlowID(rawValue: id))
        case .normal:
            let pattern = FlowKeyPattern(rule)
            let set = Self.setIndex(pattern)
            entries[Int(id)]?.set = set
            (rule.doesNotTrap ? copying : trapping)[set].insert(pattern, order: order.rawValue, id: id)
            if !rule.doesNotTrap {
                changeCount += 1
                journal?.append(.inserted(id))
            }
        }
    }

    /// The narrowest set that the rule fits in.
    private static func setIndex(_ pattern: FlowKeyPattern) -> Int {
        let last = (0..<FlowKey.wordCount).last { pattern.mask.words[$0] != 0 } ?? 0
        return widths.firstIndex { last < $0 } ?? widths.count - 1
    }

    // MARK: Rebuilding

    /// Whether the tables were made for other rules than there are: half of them have changed, or many groups are crowded.
    package var wantsRebuild: Bool {
        let rules = trapping.reduce(0) { $0 + $1.ruleCount }
        let crowded = trapping.reduce(0) { $0 + $1.crowdedCount }
        return journal == nil && changeCount > 64 && (changeCount > rules / 2 || crowded > max(64, rules / 8))
    }

    /// What is to be built, for any thread.
    package struct RebuildJob: Sendable {
        fileprivate let rules: [[(rule: FlowRule, order: UInt64, id: UInt32)]]

        /// Builds the tables: for 100,000 rules a matter of a second or more.
        package func run() -> Rebuilt {
            Rebuilt(
                sets: zip(FlowClassifier.widths, rules).map { width, rules in
                    TuplePlan.build(
                        rules.sorted { $0.order < $1.order }.map {
                            TuplePlan.Rule(pattern: FlowKeyPattern($0.rule), order: $0.order, id: $0.id)
                        },
                        width: width)
                })
        }
    }

    /// The tables that a job built.
    package struct Rebuilt: Sendable {
        fileprivate let sets: [TupleSet]
    }

    /// Takes a copy of the rules and notes what changes from here on, until ``adopt(_:)``. A job before this one is void.
    package func beginRebuild() -> RebuildJob {
        var rules = [[(rule: FlowRule, order: UInt64, id: UInt32)]](repeating: [], count: Self.widths.count)
        for (id, entry) in entries.enumerated() {
            guard let entry, entry.rule.kind == .normal, !entry.rule.doesNotTrap else { continue }
            rules[entry.set].append((entry.rule, entry.order.rawValue, UInt32(id)))
        }
        journal = []
        return RebuildJob(rules: rules)
    }

    /// Uses the tables of the job that ``beginRebuild()`` gave last, after the changes since then were made in them.
    package func adopt(_ rebuilt: Rebuilt) {
        for change in journal ?? [] {
            switch change {
            case .inserted(let id):
                // Removed since, or its id is another's: then its own entry in the journal follows.
                guard let entry = entries[Int(id)], entry.rule.kind == .normal, !entry.rule.doesNotTrap else {
                    continue
                }
                let pattern = FlowKeyPattern(entry.rule)
                let set = rebuilt.sets[Self.setIndex(pattern)]
                _ = set.remove(pattern, order: entry.order.rawValue)
                set.insert(pattern, order: entry.order.rawValue, id: id)
            case .removed(_, let pattern, let order):
                _ = rebuilt.sets[Self.setIndex(pattern)].remove(pattern, order: order)
            }
        }
        trapping = rebuilt.sets
        journal = nil
        changeCount = 0
    }

    // MARK: Looking up

    /// The normal rule that takes each packet: its id, or `UInt32.max`.
    ///
    /// This is all there is to know if ``hasCopies`` is false and no rule takes the packet by default; else see
    /// ``verdict(for:)``. Does not allocate.
    package func winners(_ keys: Span<FlowKey>, into ids: inout MutableSpan<UInt32>) {
        precondition(ids.count >= keys.count, "a place for each id is needed")
        // Reason for unsafe code here: the lookup works on pointers. The spans keep their memory alive meanwhile.
        unsafe keys.withUnsafeBufferPointer { keys in
            var start = 0
            while start < keys.count {
                let count = min(TupleLookup.batchMax, keys.count - start)
                unsafe look(keys.baseAddress! + start, count, in: trapping)
                for index in 0..<count { unsafe ids[start + index] = lookup.ids[index] }
                start += count
            }
        }
    }

    @inline(__always)
    private func look(_ keys: UnsafePointer<FlowKey>, _ count: Int, in sets: [TupleSet]) {
        lookup.begin(count)
        for set in sets where set.ruleCount > 0 {
            unsafe lookup.look(UnsafeRawPointer(keys).assumingMemoryBound(to: UInt64.self), count, in: set)
        }
    }

    /// Whether there are rules that have packets without taking them, so that one rule is not all that happens to a packet.
    package var hasCopies: Bool { !sniffers.isEmpty || copying.contains { $0.ruleCount > 0 } }

    /// Everything that happens to a packet.
    package func verdict(for key: FlowKey) -> FlowVerdict {
        var verdict = FlowVerdict()
        apply(sniffers, key, to: &verdict)
        let (id, order) = winner(key)
        for copy in copies(key, before: order) { apply(FlowID(rawValue: copy.id), to: &verdict) }
        if let id { apply(id, to: &verdict) }
        apply(defaults, key, to: &verdict)
        return verdict
    }

    private func winner(_ key: FlowKey) -> (FlowID?, order: UInt64) {
        unsafe withUnsafePointer(to: key) { unsafe look($0, 1, in: trapping) }
        let (id, order) = unsafe (lookup.ids[0], lookup.orders[0])
        return (order == .max ? nil : FlowID(rawValue: id), order)
    }

    /// All rules that do not trap, match, and come before `limit`, in order.
    private func copies(_ key: FlowKey, before limit: UInt64) -> [(order: UInt64, id: UInt32)] {
        copying.flatMap { $0.ruleCount == 0 ? [] : $0.matches(key, before: limit) }.sorted { $0.order < $1.order }
    }

    private func apply(_ ids: [FlowID], _ key: FlowKey, to verdict: inout FlowVerdict) {
        for id in ids {
            guard let rule = rule(id), verdict.isOpen(to: rule.kind), rule.kind != .multicastDefault || key.isMulticast
            else { continue }
            verdict.apply(rule, id)
        }
    }

    private func apply(_ id: FlowID, to verdict: inout FlowVerdict) {
        if let rule = rule(id) { verdict.apply(rule, id) }
    }

    // MARK: What it is made of

    /// The number of tables that a packet may visit, and of rules in the largest group of any.
    package var shape: (tables: Int, groupLimit: Int) {
        let sets = trapping.filter { $0.ruleCount > 0 }
        return (sets.reduce(0) { $0 + $1.tables.count }, sets.reduce(0) { max($0, $1.groupLimit) })
    }
}

extension TupleSet {
    /// Every rule that the packet matches and that comes before `limit`.
    func matches(_ key: FlowKey, before limit: UInt64) -> [(order: UInt64, id: UInt32)] {
        var found: [(order: UInt64, id: UInt32)] = []
        for table in tables where table.bestOrder < limit {
            guard let place = table.find(key, in: records) else { continue }
            for offset in 0..<UInt32(records.groupCount(place.first)) {
                let index = place.first + offset
                if records.matches(index, key), records.order(index) < limit {
                    found.append((records.order(index), records.id(index)))
                }
            }
        }
        return found
    }
}
