// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Finds the first rule for each of up to ``batchMax`` packets.
///
/// Table by table, in three passes over the batch: hash and prefetch the bucket; compare tags and prefetch the rules; compare the rules.
/// So the memory that one packet waits for is fetched while others are worked on; the rules of one table are compared when the keys
/// are hashed for the next. A packet that has a rule already does not look into tables whose best rule comes later; as tables are in
/// the order of their best rules, it looks into no further one at all.
///
/// Where the processor has AVX-512 the first two passes take eight packets at a time (clinuxnet_tuples.h).
@safe struct TupleLookup: ~Copyable {
    static let batchMax = Int(CLINUXNET_TUPLE_BATCH)

    /// Per packet of the batch: the order and the id of the best rule so far.
    let orders: UnsafeMutablePointer<UInt64>
    let ids: UnsafeMutablePointer<UInt32>
    /// Packet in the upper half, first record of a group in the lower.
    fileprivate let hits: UnsafeMutablePointer<UInt64>
    /// One by one: the packets that still look into tables, and their hashes for the table.
    fileprivate let active: UnsafeMutablePointer<UInt32>
    fileprivate let hashes: UnsafeMutablePointer<UInt64>
    /// Eight at a time: the words of the keys, those of one place in all keys together; what tables multiply them by, and a table's mask;
    /// per packet its bucket and its tag in the table that was hashed last.
    fileprivate let words: UnsafeMutablePointer<UInt64>
    fileprivate let multipliers: UnsafeMutablePointer<UInt64>
    fileprivate let mask: UnsafeMutablePointer<UInt64>
    fileprivate let buckets: UnsafeMutablePointer<UInt64>
    fileprivate let tags: UnsafeMutablePointer<UInt64>
    fileprivate let usesVectors: Bool
    /// What all of these are in.
    private let memory: UnsafeMutablePointer<UInt64>

    /// - Parameter allowsVectors: Whether to look eight packets up at a time where the processor can.
    init(allowsVectors: Bool) {
        usesVectors = allowsVectors && clinuxnet_tuple_available() != 0
        // Reason for unsafe code here: scratch memory and tables of the data path. Indices are below batchMax, or come from the set; keys
        // are read within the count that the caller gives.
        let (batch, words) = (Self.batchMax, FlowKey.wordCount)
        // Eight hits more than there may be, as vectors are stored whole.
        let wordCount = 5 * batch + (batch + 8) + batch * words + 2 * words
        unsafe memory = ClassifierMemory.allocate(wordCount: wordCount)
        unsafe memory.initialize(repeating: 0, count: wordCount)
        unsafe orders = memory
        unsafe hashes = orders + batch
        unsafe buckets = hashes + batch
        unsafe tags = buckets + batch
        unsafe hits = tags + batch
        unsafe self.words = hits + (batch + 8)
        unsafe multipliers = self.words + batch * words
        unsafe mask = multipliers + words
        // The last part, two packets to a word.
        let halves = unsafe UnsafeMutableRawPointer(mask + words).bindMemory(to: UInt32.self, capacity: 2 * batch)
        unsafe ids = halves
        unsafe active = halves + batch
        for word in 0..<words { unsafe multipliers[word] = TupleTable.multiplier(word) }
    }

    deinit { unsafe memory.deallocate() }

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
        case 2: unsafe TuplePasses<2>(self, keys, count, set).look()
        case 5: unsafe TuplePasses<5>(self, keys, count, set).look()
        case 8: unsafe TuplePasses<8>(self, keys, count, set).look()
        default: unsafe TuplePasses<20>(self, keys, count, set).look()
        }
    }
}

/// The passes of a ``TupleLookup`` over one batch and one set, whose rules look at the first `width` words of keys.
@safe private struct TuplePasses<let width: Int> {
    private let keys: UnsafePointer<UInt64>
    private let count: Int
    private let set: TupleSet
    private let records: UnsafeMutablePointer<UInt64>
    private let masks: UnsafeMutablePointer<UInt64>
    private let orders: UnsafeMutablePointer<UInt64>
    private let ids: UnsafeMutablePointer<UInt32>
    private let hits: UnsafeMutablePointer<UInt64>
    private let active: UnsafeMutablePointer<UInt32>
    private let hashes: UnsafeMutablePointer<UInt64>
    private let words: UnsafeMutablePointer<UInt64>
    private let tableMask: UnsafeMutablePointer<UInt64>
    private let batch: clinuxnet_tuple_batch
    private let multipliers: UnsafeMutablePointer<UInt64>
    private let usesVectors: Bool

    @inline(__always)
    init(_ lookup: borrowing TupleLookup, _ keys: UnsafePointer<UInt64>, _ count: Int, _ set: TupleSet) {
        unsafe self.keys = keys
        self.count = count
        self.set = set
        unsafe records = set.records.base
        unsafe masks = set.records.masks.base
        unsafe orders = lookup.orders
        unsafe ids = lookup.ids
        unsafe hits = lookup.hits
        unsafe active = lookup.active
        unsafe hashes = lookup.hashes
        unsafe words = lookup.words
        unsafe tableMask = lookup.mask
        unsafe multipliers = lookup.multipliers
        unsafe batch = clinuxnet_tuple_batch(
            words: lookup.words, orders: lookup.orders, buckets: lookup.buckets, tags: lookup.tags, hits: lookup.hits)
        usesVectors = lookup.usesVectors
    }

    @inline(never)
    func look() {
        // Fewer are faster one by one.
        if usesVectors && count >= 8 { lookWithVectors() } else { lookOneByOne() }
    }

    // MARK: Eight at a time

    @inline(__always)
    private func lookWithVectors() {
        for packet in 0..<count {
            for word in 0..<width {
                unsafe words[word &* TupleLookup.batchMax &+ packet] = keys[packet &* FlowKey.wordCount &+ word]
            }
        }
        var batch = unsafe batch
        var left = UInt32.max &>> UInt32(truncatingIfNeeded: TupleLookup.batchMax &- count)
        var hitCount = 0
        unsafe set.tables.withUnsafeBufferPointer { tables in
            for index in tables.indices {
                let table = unsafe tables[index]
                for word in 0..<width { unsafe tableMask[word] = table.mask.words[word] }
                var part = unsafe clinuxnet_tuple_table(
                    buckets: table.buckets, mask: tableMask, multipliers: multipliers, shift: table.shift,
                    best_order: table.bestOrder)
                left = unsafe clinuxnet_tuple_hash(&batch, &part, UInt32(width), left)
                compareRules(hitCount)
                hitCount = 0
                if left == 0 { break }
                var others: UInt32 = 0
                hitCount = Int(truncatingIfNeeded: unsafe clinuxnet_tuple_hits(&batch, left, &others))
                for hit in 0..<hitCount { unsafe prefetchRecord(hits[hit] & 0xFFFF_FFFF) }
                while others != 0 {
                    let packet = others.trailingZeroBitCount
                    let place = unsafe batch.buckets[packet] &- UInt64(UInt(bitPattern: table.buckets))
                    unsafe compareOthers(
                        packet, Int(truncatingIfNeeded: place &>> 6), batch.tags[packet] & 0xFFFF, table)
                    others &= others &- 1
                }
            }
        }
        compareRules(hitCount)
    }

    // MARK: One by one

    @inline(__always)
    private func lookOneByOne() {
        for packet in 0..<count { unsafe active[packet] = UInt32(truncatingIfNeeded: packet) }
        var activeCount = count
        var hitCount = 0
        unsafe set.tables.withUnsafeBufferPointer { tables in
            for table in tables.indices {
                unsafe hash(&activeCount, tables[table])
                compareRules(hitCount)
                hitCount = 0
                if activeCount == 0 { break }
                hitCount = unsafe compareTags(activeCount, tables[table])
            }
        }
        compareRules(hitCount)
    }

    /// First pass. Leaves those packets in `active` that look into the table.
    @inline(__always)
    private func hash(_ activeCount: inout Int, _ table: TupleTable) {
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

    /// Second pass. Returns the number of hits for the third.
    ///
    /// Whether a packet finds a group is a matter of chance: what is done for one that does is done for all, without a branch.
    @inline(__always)
    private func compareTags(_ activeCount: Int, _ table: TupleTable) -> Int {
        let (buckets, shift) = unsafe (table.buckets, table.shift)
        var hitCount = 0
        for index in 0..<activeCount {
            let hash = unsafe hashes[index]
            let packet = unsafe active[index]
            let place = Int(truncatingIfNeeded: hash &>> shift)
            let bucket = unsafe buckets + place &* 8
            let lanes = unsafe TupleTable.lanes(in: bucket, with: TupleTable.tag(hash))
            let first = unsafe lanes == 0 ? 0 : UInt64(TupleTable.index(in: bucket, at: lanes))
            prefetchRecord(first)
            unsafe hits[hitCount] = UInt64(packet) &<< 32 | first
            hitCount &+= lanes == 0 ? 0 : 1
            if unsafe lanes & (lanes &- 1) | bucket[6] != 0 {
                compareOthers(Int(truncatingIfNeeded: packet), place, TupleTable.tag(hash), table)
            }
        }
        return hitCount
    }

    // MARK: Of either way

    @inline(__always)
    private func prefetchRecord(_ index: UInt64) {
        let record = unsafe records + Int(truncatingIfNeeded: index) &* (width &+ 2)
        unsafe clinuxnet_prefetch(record)
        // One of IPv4 is in one cache line.
        if width > 2 { unsafe clinuxnet_prefetch(record + (width &+ 1)) }
    }

    /// What is rare, at once: other groups with the same tag in the bucket than the first one, and groups that went on to later buckets.
    @inline(never)
    private func compareOthers(_ packet: Int, _ home: Int, _ tag: UInt64, _ table: TupleTable) {
        let buckets = unsafe table.buckets
        let last = (1 &<< Int(truncatingIfNeeded: 64 &- table.shift)) &- 1
        var place = home
        var lanes = unsafe TupleTable.lanes(in: buckets + home &* 8, with: tag)
        // The first is a hit already.
        lanes &= lanes &- 1
        while true {
            while lanes != 0 {
                unsafe compareGroup(packet: packet, from: UInt64(TupleTable.index(in: buckets + place &* 8, at: lanes)))
                lanes &= lanes &- 1
            }
            if unsafe buckets[place &* 8 &+ 6] == 0 { return }
            place = (place &+ 1) & last
            if place == home { return }
            unsafe lanes = TupleTable.lanes(in: buckets + place &* 8, with: tag)
        }
    }

    /// Third pass.
    @inline(__always)
    private func compareRules(_ hitCount: Int) {
        for index in 0..<hitCount {
            let hit = unsafe hits[index]
            compareGroup(packet: Int(truncatingIfNeeded: hit &>> 32), from: hit & 0xFFFF_FFFF)
        }
    }

    /// Compares the rules of a group until one takes the packet, or all that are left come later than the one that has it.
    @inline(__always)
    private func compareGroup(packet: Int, from first: UInt64) {
        let key = unsafe keys + packet &* FlowKey.wordCount
        var record = unsafe records + Int(truncatingIfNeeded: first) &* (width &+ 2)
        let limit = unsafe orders[packet]
        while unsafe record[width] < limit {
            let id = unsafe record[width &+ 1]
            let mask = unsafe masks + Int(truncatingIfNeeded: id &>> TupleRecords.maskShift) &* width
            var difference: UInt64 = 0
            for word in 0..<width { unsafe difference |= key[word] & mask[word] ^ record[word] }
            if difference == 0 {
                unsafe orders[packet] = record[width]
                unsafe ids[packet] = UInt32(truncatingIfNeeded: id)
                return
            }
            if id & TupleRecords.lastMark != 0 { return }
            unsafe record += width &+ 2
        }
    }
}
