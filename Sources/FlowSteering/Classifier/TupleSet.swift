// SPDX-License-Identifier: Apache-2.0

/// Rules that look at the first ``width`` words of the key only, in a bounded number of hash tables.
///
/// One thread at a time uses it. It goes from the thread that built it to the one that looks up, never to two.
// Unchecked: it owns all of its memory, and whoever has it hands it over whole.
final class TupleSet: @unchecked Sendable {
    let width: Int
    /// Rules in one group before another table is tried.
    let groupLimit: Int
    private(set) var records: TupleRecords
    private(set) var tables: [TupleTable] = []
    private(set) var ruleCount = 0
    /// Rules that were put where the group was full already.
    private(set) var crowdedCount = 0

    /// No packet visits more tables of a set.
    static let tableCountMax = 48

    init(width: Int, masks: [FlowKey] = [], groupLimit: Int = 8, ruleCount: Int = 0) {
        self.width = width
        self.groupLimit = groupLimit
        records = TupleRecords(width: width, capacity: ruleCount + ruleCount / 4)
        tables = masks.prefix(Self.tableCountMax - 1).map {
            TupleTable(mask: $0, width: width, groupCount: ruleCount / max(masks.count, 1))
        }
    }

    deinit { tables.forEach { $0.deallocate() } }

    // MARK: Changes

    func insert(_ pattern: FlowKeyPattern, order: UInt64, id: UInt32) {
        let index = tableIndex(for: pattern)
        if let place = tables[index].find(pattern.value, in: records) {
            let first = records.add(pattern, order: order, id: id, to: place.first)
            if first != place.first { tables[index].update(place, to: first) }
        } else {
            let first = records.makeGroup(pattern, order: order, id: id)
            tables[index].insert(first, pattern.value, in: records)
        }
        ruleCount += 1
        let before = tables[index].bestOrder
        tables[index].note(order)
        if order < before { moveForward(index) }
    }

    /// Removes the rule; `false` if it is not here.
    func remove(_ pattern: FlowKeyPattern, order: UInt64) -> Bool {
        for index in tables.indices where tables[index].bestOrder <= order && tables[index].takes(pattern.mask) {
            guard let place = tables[index].find(pattern.value, in: records),
                (0..<records.groupCount(place.first)).contains(where: {
                    records.order(place.first + UInt32($0)) == order
                })
            else { continue }
            if let first = records.remove(order: order, from: place.first) {
                if first != place.first { tables[index].update(place, to: first) }
            } else {
                tables[index].remove(place, pattern.value)
            }
            ruleCount -= 1
            return true
        }
        return false
    }

    /// Of the tables that have room for the rule in its group the one with the most bits, so that coarse tables, which most packets find
    /// something in, hold only what fits nowhere else, and come late; a new one if all groups are full.
    private func tableIndex(for pattern: FlowKeyPattern) -> Int {
        var least: (index: Int, count: Int)?
        var finest: Int?
        for index in tables.indices
        where tables[index].takes(pattern.mask) && tables[index].bitCount > finest.map({ tables[$0].bitCount }) ?? -1 {
            let count = tables[index].find(pattern.value, in: records).map { records.groupCount($0.first) } ?? 0
            if count < groupLimit { finest = index }
            if count < least?.count ?? .max { least = (index, count) }
        }
        if let finest { return finest }
        // The last table is for rules that no other takes, so it takes all.
        if tables.count < Self.tableCountMax {
            let isLast = tables.count == Self.tableCountMax - 1
            let mask = isLast ? FlowKey() : TupleShape.trimmed(pattern.mask, width: width)
            if least == nil || !tables.contains(where: { $0.mask == mask }), !(isLast && least != nil) {
                tables.append(TupleTable(mask: mask, width: width, groupCount: 0))
                return tables.count - 1
            }
        }
        crowdedCount += 1
        // Some table takes it: either one was compatible, or the last one, whose mask is empty, is there.
        return least?.index ?? tables.firstIndex { $0.mask == FlowKey() } ?? 0
    }

    /// Tables are kept in the order of their best rules, so that a lookup may end early.
    private func moveForward(_ index: Int) {
        var place = index
        while place > 0, tables[place].bestOrder < tables[place - 1].bestOrder {
            tables.swapAt(place, place - 1)
            place -= 1
        }
    }
}
