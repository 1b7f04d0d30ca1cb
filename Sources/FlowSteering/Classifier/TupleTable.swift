// SPDX-License-Identifier: Apache-2.0

/// One hash table of a ``TupleSet``: groups of rules by their value under the table's mask.
///
/// Any rule fits whose own mask has all bits of the table's: the rule is compared as a whole when its group is found. A bucket is a
/// cache line: eight tags of 16 bits, eight indices of groups, and how many groups of this bucket had to go to later ones.
///
/// ```
/// word 0, 1   tags, 0 where free        word 6   groups that went on to the next bucket
/// word 2...5  indices of records        word 7   unused
/// ```
@safe struct TupleTable {
    static let bucketWordCount = 8
    private static let lanes: UInt64 = 0x0001_0001_0001_0001
    private static let lanesHigh: UInt64 = 0x8000_8000_8000_8000

    let mask: FlowKey
    let bitCount: Int
    /// No rule of the table comes before this one; stays behind when rules are removed.
    private(set) var bestOrder = UInt64.max
    private(set) var groupCount = 0
    private(set) var buckets: UnsafeMutablePointer<UInt64>
    /// 64 less the binary logarithm of the number of buckets, which is 2 or more.
    private(set) var shift: UInt64
    private let width: Int

    init(mask: FlowKey, width: Int, groupCount: Int) {
        self.mask = mask
        bitCount = TupleShape.bitCount(mask)
        self.width = width
        var logarithm: UInt64 = 1
        while groupCount > Self.fillMax << Int(logarithm) { logarithm += 1 }
        shift = 64 - logarithm
        unsafe buckets = Self.allocate(1 << Int(logarithm))
    }

    /// The memory is the set's to free: a table is a plain value.
    func deallocate() { unsafe buckets.deallocate() }

    /// Groups for each bucket before the table grows.
    private static let fillMax = 5

    private static func allocate(_ bucketCount: Int) -> UnsafeMutablePointer<UInt64> {
        // Reason for unsafe code here: buckets are cache lines, which arrays are not aligned to; every index is a hash shifted to the
        // number of buckets.
        let words = unsafe ClassifierMemory.allocate(wordCount: bucketCount * bucketWordCount)
        unsafe words.initialize(repeating: 0, count: bucketCount * bucketWordCount)
        return unsafe words
    }

    private var bucketCount: Int { 1 << Int(64 - shift) }

    // MARK: Hashing

    /// Odd, and unrelated from word to word.
    @inline(__always)
    static func multiplier(_ word: Int) -> UInt64 {
        var z = (UInt64(truncatingIfNeeded: word) &+ 1) &* 0x9E37_79B9_7F4A_7C15
        z = (z ^ z &>> 30) &* 0xBF58_476D_1CE4_E5B9
        return (z ^ z &>> 27) &* 0x94D0_49BB_1331_11EB | 1
    }

    @inline(__always)
    static func finish(_ sum: UInt64) -> UInt64 {
        let folded = (sum ^ sum &>> 32) &* 0x9FB2_1C65_1E98_DF25
        return folded ^ folded &>> 29
    }

    /// The top bits choose the bucket, the low ones are the tag. The tag's top bit is what ``lanes(of:with:)`` tells a free lane by.
    @inline(__always)
    static func tag(_ hash: UInt64) -> UInt64 { hash & 0xFFFF | 0x8000 }

    /// A bit at the top of each 16-bit lane of `word` that is `tag`, and perhaps of one above it that is another tag, but never of
    /// a free lane: there the difference has its top bit.
    @inline(__always)
    static func lanes(of word: UInt64, with tag: UInt64) -> UInt64 {
        let difference = word ^ tag &* lanes
        return (difference &- lanes) & ~difference & lanesHigh
    }

    /// A bit for each lane of a bucket that is `tag`: of lane 0 to 3 at the top of the lower byte of 16 bits, of 4 to 7 of the upper one.
    @inline(__always)
    static func lanes(in bucket: UnsafeMutablePointer<UInt64>, with tag: UInt64) -> UInt64 {
        unsafe lanes(of: bucket[0], with: tag) &>> 8 | lanes(of: bucket[1], with: tag)
    }

    /// The index in the lowest lane of ``lanes(in:with:)``; in some lane, if there is none.
    @inline(__always)
    static func index(in bucket: UnsafeMutablePointer<UInt64>, at lanes: UInt64) -> UInt32 {
        let bit = lanes.trailingZeroBitCount
        let lane = bit &>> 4 & 3 | bit &>> 1 & 4
        return unsafe UnsafeRawPointer(bucket + 2).assumingMemoryBound(to: UInt32.self)[lane]
    }

    func hash(_ key: FlowKey) -> UInt64 {
        var sum: UInt64 = 0
        for word in 0..<width { sum &+= (key.words[word] & mask.words[word]) &* Self.multiplier(word) }
        return Self.finish(sum)
    }

    /// Whether a rule with this mask can be in the table.
    func takes(_ ruleMask: FlowKey) -> Bool {
        var missing: UInt64 = 0
        for word in 0..<width { missing |= mask.words[word] & ~ruleMask.words[word] }
        return missing == 0
    }

    // MARK: Groups

    /// Where a group is: its bucket, its lane in it, and its first record.
    struct Place {
        let bucket: Int
        let lane: Int
        let first: UInt32
    }

    private func lanePointer(_ bucket: Int, _ lane: Int) -> UnsafeMutablePointer<UInt32> {
        unsafe UnsafeMutableRawPointer(buckets + bucket * Self.bucketWordCount + 2)
            .assumingMemoryBound(to: UInt32.self) + lane
    }

    private func tag(_ bucket: Int, _ lane: Int) -> UInt64 {
        unsafe buckets[bucket * Self.bucketWordCount + lane / 4] >> UInt64(lane % 4 * 16) & 0xFFFF
    }

    /// The group for rules with this value, if there is one.
    func find(_ value: FlowKey, in records: borrowing TupleRecords) -> Place? {
        let hash = hash(value)
        var bucket = Int(hash >> shift)
        for _ in 0..<bucketCount {
            for lane in 0..<8 where tag(bucket, lane) == Self.tag(hash) {
                let first = unsafe lanePointer(bucket, lane).pointee
                if isSame(value, first, records) { return Place(bucket: bucket, lane: lane, first: first) }
            }
            if unsafe buckets[bucket * Self.bucketWordCount + 6] == 0 { return nil }
            bucket = (bucket + 1) & (bucketCount - 1)
        }
        return nil
    }

    private func isSame(_ value: FlowKey, _ first: UInt32, _ records: borrowing TupleRecords) -> Bool {
        let record = unsafe records.record(first)
        for word in 0..<width {
            if unsafe (record[word] ^ value.words[word]) & mask.words[word] != 0 { return false }
        }
        return true
    }

    /// Notes that a rule with this order is here.
    mutating func note(_ order: UInt64) { bestOrder = min(bestOrder, order) }

    mutating func insert(_ first: UInt32, _ value: FlowKey, in records: borrowing TupleRecords) {
        if groupCount >= Self.fillMax * bucketCount { grow(records) }
        place(first, hash(value))
        groupCount += 1
    }

    private func place(_ first: UInt32, _ hash: UInt64) {
        var bucket = Int(hash >> shift)
        while true {
            for lane in 0..<8 where tag(bucket, lane) == 0 {
                unsafe buckets[bucket * Self.bucketWordCount + lane / 4] |= Self.tag(hash) << UInt64(lane % 4 * 16)
                unsafe lanePointer(bucket, lane).pointee = first
                return
            }
            unsafe buckets[bucket * Self.bucketWordCount + 6] += 1
            bucket = (bucket + 1) & (bucketCount - 1)
        }
    }

    /// The group has moved.
    func update(_ place: Place, to first: UInt32) { unsafe lanePointer(place.bucket, place.lane).pointee = first }

    mutating func remove(_ place: Place, _ value: FlowKey) {
        unsafe buckets[place.bucket * Self.bucketWordCount + place.lane / 4] &= ~(0xFFFF << UInt64(place.lane % 4 * 16))
        var bucket = Int(hash(value) >> shift)
        while bucket != place.bucket {
            unsafe buckets[bucket * Self.bucketWordCount + 6] -= 1
            bucket = (bucket + 1) & (bucketCount - 1)
        }
        groupCount -= 1
    }

    private mutating func grow(_ records: borrowing TupleRecords) {
        let old = unsafe buckets
        let oldCount = bucketCount
        unsafe buckets = Self.allocate(oldCount * 2)
        shift -= 1
        for bucket in 0..<oldCount {
            let words = unsafe old + bucket * Self.bucketWordCount
            for lane in 0..<8 where unsafe words[lane / 4] >> UInt64(lane % 4 * 16) & 0xFFFF != 0 {
                let first = unsafe UInt32(truncatingIfNeeded: words[2 + lane / 2] >> UInt64(lane % 2 * 32))
                var value = FlowKey()
                for word in 0..<width { unsafe value.words[word] = records.record(first)[word] }
                place(first, hash(value))
            }
        }
        unsafe old.deallocate()
    }
}
