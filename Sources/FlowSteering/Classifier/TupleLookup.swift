// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Finds the first rule for each of up to ``batchMax`` packets.
///
/// Table by table, in three passes over the batch: hash and prefetch the bucket; compare tags and prefetch the rules; compare the rules.
/// So the memory that one packet waits for is fetched while others are worked on; the rules of one table are compared when the keys
/// are hashed for the next. A packet that has a rule already does not look into tables whose best rule comes later; as tables are in
/// the order of their best rules, it looks into no further one at all.
@safe struct TupleLookup: ~Copyable {
    static let batchMax = 32
    private static let hitCountMax = 256

    /// Per packet of the batch: the order and the id of the best rule so far.
    let orders: UnsafeMutablePointer<UInt64>
    let ids: UnsafeMutablePointer<UInt32>
    /// The packets that still look into tables, and their hashes for the table.
    private let hashes: UnsafeMutablePointer<UInt64>
    private let active: UnsafeMutablePointer<UInt32>
    /// Packet in the upper half, first record of a group in the lower.
    private let hits: UnsafeMutablePointer<UInt64>

    init() {
        // Reason for unsafe code here: scratch memory and tables of the data path. Indices are below batchMax or hitCountMax, or come from
        // the set; keys are read within the count that the caller gives.
        unsafe orders = .allocate(capacity: Self.batchMax)
        unsafe ids = .allocate(capacity: Self.batchMax)
        unsafe hashes = .allocate(capacity: Self.batchMax)
        unsafe active = .allocate(capacity: Self.batchMax)
        unsafe hits = .allocate(capacity: Self.hitCountMax)
    }

    deinit {
        unsafe orders.deallocate()
        unsafe ids.deallocate()
        unsafe hashes.deallocate()
        unsafe active.deallocate()
        unsafe hits.deallocate()
    }

    /// Begins a batch: no packet has a rule.
    func begin(_ count: Int) {
        for index in 0..<count {
            unsafe orders[index] = .max
            unsafe ids[index] = .max
        }
    }

    /// Looks the batch up in a set. `keys` are whole ``FlowKey``s, `count` of them.
    func look(_ keys: UnsafePointer<UInt64>, _ count: Int, in set: TupleSet) {
        switch set.width {
        case 2: unsafe Specialized<2>.look(self, keys, count, set)
        case 5: unsafe Specialized<5>.look(self, keys, count, set)
        case 8: unsafe Specialized<8>.look(self, keys, count, set)
        default: unsafe Specialized<20>.look(self, keys, count, set)
        }
    }

    /// The loops, for keys of `width` words.
    private enum Specialized<let width: Int> {
        @inline(never)
        static func look(
            _ lookup: borrowing TupleLookup, _ keys: UnsafePointer<UInt64>, _ count: Int, _ set: TupleSet
        ) {
            let records = unsafe set.records.base
            for packet in 0..<count { unsafe lookup.active[packet] = UInt32(truncatingIfNeeded: packet) }
            var activeCount = count
            var hitCount = 0
            unsafe set.tables.withUnsafeBufferPointer { tables in
                for table in tables.indices {
                    unsafe hash(lookup, keys, &activeCount, tables[table])
                    unsafe compareRules(lookup, keys, hitCount, records)
                    hitCount = 0
                    if activeCount == 0 { break }
                    hitCount = unsafe compareTags(lookup, keys, activeCount, tables[table], records)
                }
            }
            unsafe compareRules(lookup, keys, hitCount, records)
        }

        /// First pass. Leaves those packets in `active` that look into the table.
        @inline(__always)
        private static func hash(
            _ lookup: borrowing TupleLookup, _ keys: UnsafePointer<UInt64>, _ activeCount: inout Int,
            _ table: TupleTable
        ) {
            let (orders, hashes, active) = unsafe (lookup.orders, lookup.hashes, lookup.active)
            let (buckets, shift, bestOrder) = unsafe (table.buckets, table.shift, table.bestOrder)
            var mask = InlineArray<width, UInt64>(repeating: 0)
            for word in 0..<width { mask[word] = table.mask.words[word] }
            var count = 0
            for index in 0..<activeCount {
                let packet = unsafe active[index]
                let key = unsafe keys + Int(truncatingIfNeeded: packet) &* FlowKey.wordCount
                var sum: UInt64 = 0
                for word in 0..<width { unsafe sum &+= (key[word] & mask[word]) &* TupleTable.multiplier(word) }
                let hash = TupleTable.finish(sum)
                unsafe clinuxnet_prefetch(buckets + Int(truncatingIfNeeded: hash &>> shift) &* 8)
                unsafe hashes[count] = hash
                unsafe active[count] = packet
                unsafe count &+= orders[Int(truncatingIfNeeded: packet)] > bestOrder ? 1 : 0
            }
            activeCount = count
        }

        /// Second pass, and the third whenever there are many hits. Returns how many hits are left for the third.
        @inline(__always)
        private static func compareTags(
            _ lookup: borrowing TupleLookup, _ keys: UnsafePointer<UInt64>, _ activeCount: Int, _ table: TupleTable,
            _ records: UnsafeMutablePointer<UInt64>
        ) -> Int {
            let (hashes, active, hits) = unsafe (lookup.hashes, lookup.active, lookup.hits)
            let (buckets, shift) = unsafe (table.buckets, table.shift)
            var hitCount = 0
            for index in 0..<activeCount {
                let hash = unsafe hashes[index]
                let tag = TupleTable.tag(hash)
                let home = unsafe buckets + Int(truncatingIfNeeded: hash &>> shift) &* 8
                var bucket = unsafe home
                var low = unsafe TupleTable.lanes(of: bucket[0], with: tag)
                var high = unsafe TupleTable.lanes(of: bucket[1], with: tag)
                if unsafe low | high | bucket[6] == 0 { continue }
                let packet = unsafe UInt64(active[index]) &<< 32
                while true {
                    while low != 0 {
                        let lane = low.trailingZeroBitCount &>> 4
                        let first = unsafe bucket[2 &+ lane &>> 1] &>> UInt64(truncatingIfNeeded: (lane & 1) &<< 5)
                        unsafe hits[hitCount] = packet | first & 0xFFFF_FFFF
                        unsafe prefetchRecord(records, first & 0xFFFF_FFFF)
                        hitCount &+= 1
                        low &= low &- 1
                    }
                    while high != 0 {
                        let lane = high.trailingZeroBitCount &>> 4
                        let first = unsafe bucket[4 &+ lane &>> 1] &>> UInt64(truncatingIfNeeded: (lane & 1) &<< 5)
                        unsafe hits[hitCount] = packet | first & 0xFFFF_FFFF
                        unsafe prefetchRecord(records, first & 0xFFFF_FFFF)
                        hitCount &+= 1
                        high &= high &- 1
                    }
                    if hitCount > hitCountMax &- 16 {
                        unsafe compareRules(lookup, keys, hitCount, records)
                        hitCount = 0
                    }
                    if unsafe bucket[6] == 0 { break }
                    let next = unsafe (bucket - buckets) &+ 8
                    unsafe bucket = buckets + (next & ((8 &<< Int(truncatingIfNeeded: 64 &- shift)) &- 1))
                    if unsafe bucket == home { break }
                    unsafe low = TupleTable.lanes(of: bucket[0], with: tag)
                    unsafe high = TupleTable.lanes(of: bucket[1], with: tag)
                }
            }
            return hitCount
        }

        @inline(__always)
        private static func prefetchRecord(_ records: UnsafeMutablePointer<UInt64>, _ index: UInt64) {
            let record = unsafe records + Int(truncatingIfNeeded: index) &* (2 &* width &+ 2)
            unsafe clinuxnet_prefetch(record)
            unsafe clinuxnet_prefetch(record + (2 &* width &+ 1))
        }

        /// Third pass.
        @inline(__always)
        private static func compareRules(
            _ lookup: borrowing TupleLookup, _ keys: UnsafePointer<UInt64>, _ hitCount: Int,
            _ records: UnsafeMutablePointer<UInt64>
        ) {
            let (orders, ids, hits) = unsafe (lookup.orders, lookup.ids, lookup.hits)
            for index in 0..<hitCount {
                let hit = unsafe hits[index]
                let packet = Int(truncatingIfNeeded: hit &>> 32)
                let key = unsafe keys + packet &* FlowKey.wordCount
                var record = unsafe records + Int(truncatingIfNeeded: hit & 0xFFFF_FFFF) &* (2 &* width &+ 2)
                let limit = unsafe orders[packet]
                while unsafe record[2 &* width] < limit {
                    var difference: UInt64 = 0
                    for word in 0..<width {
                        unsafe difference |= key[word] & record[width &+ word] ^ record[word]
                    }
                    let id = unsafe record[2 &* width &+ 1]
                    if difference == 0 {
                        unsafe orders[packet] = record[2 &* width]
                        unsafe ids[packet] = UInt32(truncatingIfNeeded: id)
                        break
                    }
                    if id & TupleRecords.lastMark != 0 { break }
                    unsafe record += 2 &* width &+ 2
                }
            }
        }

        private static var hitCountMax: Int { TupleLookup.hitCountMax }
    }
}
