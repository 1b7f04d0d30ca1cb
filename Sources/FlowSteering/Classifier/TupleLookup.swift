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

    private let scratch = TupleScratch()
    private let usesVectors: Bool

    /// Per packet of the batch: the order and the id of the best rule so far.
    var orders: UnsafeMutablePointer<UInt64> { unsafe scratch.orders }
    var ids: UnsafeMutablePointer<UInt32> { unsafe scratch.ids }

    /// - Parameter allowsVectors: Whether to look eight packets up at a time where the processor can.
    init(allowsVectors: Bool) {
        usesVectors = allowsVectors && clinuxnet_tuple_available() != 0
    }

    deinit { scratch.deallocate() }

    /// Begins a batch: no packet has a rule.
    func begin(_ count: Int) {
        for index in 0..<count {
            unsafe scratch.orders[index] = .max
            unsafe scratch.ids[index] = .max
        }
    }

    /// Looks the batch up in a set. `keys` are whole ``FlowKey``s, `count` of them.
    func look(_ keys: UnsafePointer<UInt64>, _ count: Int, in set: TupleSet) {
        switch set.width {
        case 2: unsafe TuplePasses<2>(scratch, keys, count, set).look(usesVectors)
        case 5: unsafe TuplePasses<5>(scratch, keys, count, set).look(usesVectors)
        case 8: unsafe TuplePasses<8>(scratch, keys, count, set).look(usesVectors)
        default: unsafe TuplePasses<20>(scratch, keys, count, set).look(usesVectors)
        }
    }
}

/// The scratch memory of a ``TupleLookup``, which owns it. Indices are below ``TupleLookup/batchMax``.
@safe private struct TupleScratch {
    let orders: UnsafeMutablePointer<UInt64>
    let ids: UnsafeMutablePointer<UInt32>
    /// Packet in the upper half, first record of a group in the lower.
    let hits: UnsafeMutablePointer<UInt64>
    /// One by one: the packets that still look into tables, and their hashes for the table.
    let active: UnsafeMutablePointer<UInt32>
    let hashes: UnsafeMutablePointer<UInt64>
    /// Eight at a time: the words of the keys, those of one place in all keys together; what tables multiply them by, and a table's mask;
    /// per packet its bucket and its tag in the table that was hashed last.
    let words: UnsafeMutablePointer<UInt64>
    let multipliers: UnsafeMutablePointer<UInt64>
    let mask: UnsafeMutablePointer<UInt64>
    let buckets: UnsafeMutablePointer<UInt64>
    let tags: UnsafeMutablePointer<UInt64>
    /// What all of these are in.
    private let memory: UnsafeMutablePointer<UInt64>

    init() {
        // Reason for unsafe code here: scratch memory and tables of the data path. Indices are below batchMax, or come from the set; keys
        // are read within the count that the caller gives.
        let (batch, words) = (TupleLookup.batchMax, FlowKey.wordCount)
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

    func deallocate() { unsafe memory.deallocate() }

    /// What the functions of clinuxnet_tuples.h work on.
    @inline(__always)
    var vectors: clinuxnet_tuple_batch {
        unsafe clinuxnet_tuple_batch(words: words, orders: orders, buckets: buckets, tags: tags, hits: hits)
    }
}

/// The passes of a ``TupleLookup`` over one batch and one set, whose rules look at the first `width` words of keys.
@safe private struct TuplePasses<let width: Int> {
    private let keys: UnsafePointer<UInt64>
    private let count: Int
    private let set: TupleSet
    private let records: UnsafeMutablePointer<UInt64>
    private let masks: UnsafeMutablePointer<UInt64>
    private let scratch: TupleScratch

    @inline(__always)
    init(_ scratch: TupleScratch, _ keys: UnsafePointer<UInt64>, _ count: Int, _ set: TupleSet) {
        unsafe self.keys = keys
        self.count = count
        self.set = set
        unsafe records = set.records.base
        unsafe masks = set.records.masks.base
        self.scratch = scratch
    }

    @inline(never)
    func look(_ usesVectors: Bool) {
        // Fewer are faster one by one.
        if usesVectors && count >= 8 { lookWithVectors() } else { lookOneByOne() }
    }

    // MARK: Eight at a time

    @inline(__always)
    private func lookWithVectors() {
        for packet in 0..<count {
            for word in 0..<width {
                unsafe scratch.words[word &* TupleLookup.batchMax &+ packet] = keys[packet &* FlowKey.wordCount &+ word]
            }
        }
        var batch = unsafe scratch.vectors
        var left = UInt32.max &>> UInt32(truncatingIfNeeded: TupleLookup.batchMax &- count)
        var hitCount = 0
        unsafe set.tables.withUnsafeBufferPointer { tables in
            for index in tables.indices {
                let table = unsafe tables[index]
                for word in 0..<width { unsafe scratch.mask[word] = table.mask.words[word] }
                var part = unsafe clinuxnet_tuple_table(
                    buckets: table.buckets, mask: scratch.mask, multipliers: scratch.multipliers, shift: table.shift,
                    best_order: table.bestOrder)
                left = unsafe clinuxnet_tuple_hash(&batch, &part, UInt32(width), left)
                compareRules(hitCount)
                hitCount = 0
                if left == 0 { break }
                var others: UInt32 = 0
                hitCount = Int(truncatingIfNeeded: unsafe clinuxnet_tuple_hits(&batch, left, &others))
                for hit in 0..<hitCount { unsafe prefetchRecord(scratch.hits[hit] & 0xFFFF_FFFF) }
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
        for packet in 0..<count { unsafe scratch.active[packet] = UInt32(truncatingIfNeeded: packet) }
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
            let packet = unsafe scratch.active[index]
            let key = unsafe keys + Int(truncatingIfNeeded: packet) &* FlowKey.wordCount
            var sum: UInt64 = 0
            for word in 0..<width { unsafe sum &+= (key[word] & mask[word]) &* TupleTable.multiplier(word) }
            let hash = TupleTable.finish(sum)
            unsafe clinuxnet_prefetch(buckets + Int(truncatingIfNeeded: hash &>> shift) &* 8)
            unsafe scratch.hashes[count] = hash
            unsafe scratch.active[count] = packet
            unsafe count &+= scratch.orders[Int(truncatingIfNeeded: packet)] > bestOrder ? 1 : 0
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
            let hash = unsafe scratch.hashes[index]
            let packet = unsafe scratch.active[index]
            let place = Int(truncatingIfNeeded: hash &>> shift)
            let bucket = unsafe buckets + place &* 8
            let lanes = unsafe TupleTable.lanes(in: bucket, with: TupleTable.tag(hash))
            let first = unsafe lanes == 0 ? 0 : UInt64(TupleTable.index(in: bucket, at: lanes))
            prefetchRecord(first)
            unsafe scratch.hits[hitCount] = UInt64(packet) &<< 32 | first
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
            let hit = unsafe scratch.hits[index]
            compareGroup(packet: Int(truncatingIfNeeded: hit &>> 32), from: hit & 0xFFFF_FFFF)
        }
    }

    /// Compares the rules of a group until one takes the packet, or all that are left come later than the one that has it.
    @inline(__always)
    private func compareGroup(packet: Int, from first: UInt64) {
        let key = unsafe keys + packet &* FlowKey.wordCount
        var record = unsafe records + Int(truncatingIfNeeded: first) &* (width &+ 2)
        let limit = unsafe scratch.orders[packet]
        while unsafe record[width] < limit {
            let id = unsafe record[width &+ 1]
            let mask = unsafe masks + Int(truncatingIfNeeded: id &>> TupleRecords.maskShift) &* width
            var difference: UInt64 = 0
            for word in 0..<width { unsafe difference |= key[word] & mask[word] ^ record[word] }
            if difference == 0 {
                unsafe scratch.orders[packet] = record[width]
                unsafe scratch.ids[packet] = UInt32(truncatingIfNeeded: id)
                return
            }
            if id & TupleRecords.lastMark != 0 { return }
            unsafe record += width &+ 2
        }
    }
}
