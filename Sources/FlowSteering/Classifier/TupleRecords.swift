// SPDX-License-Identifier: Apache-2.0

/// The rules of a ``TupleSet`` in memory of their own: groups of records, each group contiguous and in the order of its rules.
///
/// A record is width + 2 words: value, order, and the id with a mark on the last of a group and the number of the mask. Masks stand once
/// for all rules that have them, so that a record of IPv4 is half a cache line. A group of n records has
/// room for the next power of two, so that its capacity need not be kept.
@safe struct TupleRecords: ~Copyable {
    let width: Int
    let stride: Int
    private(set) var base: UnsafeMutablePointer<UInt64>
    private(set) var masks: RuleMasks
    private var capacity: Int
    private var used = 0
    /// Free places by the power of two of their size.
    private var free: [[UInt32]]

    static let lastMark: UInt64 = 1 << 32
    static let maskShift: UInt64 = 33

    init(width: Int, capacity: Int) {
        self.width = width
        stride = width + 2
        self.capacity = max(capacity, 16)
        masks = RuleMasks(width: width)
        // Reason for unsafe code here: rules are read by pointer in the lookup; all indices come from this type, which owns the
        // memory until deinit.
        unsafe base = ClassifierMemory.allocate(wordCount: self.capacity * stride)
        free = Array(repeating: [], count: 32)
    }

    deinit { unsafe base.deallocate() }

    @inline(__always)
    func record(_ index: UInt32) -> UnsafeMutablePointer<UInt64> { unsafe base + Int(index) * stride }

    func order(_ index: UInt32) -> UInt64 { unsafe record(index)[width] }

    func isLast(_ index: UInt32) -> Bool { unsafe record(index)[width + 1] & Self.lastMark != 0 }

    private func maskIndex(_ index: UInt32) -> Int {
        unsafe Int(truncatingIfNeeded: record(index)[width + 1] >> Self.maskShift)
    }

    /// Whether a packet with this key fits the rule.
    func matches(_ index: UInt32, _ key: FlowKey) -> Bool {
        let record = unsafe record(index)
        let mask = unsafe masks.base + maskIndex(index) * width
        var difference: UInt64 = 0
        for word in 0..<width { unsafe difference |= key.words[word] & mask[word] ^ record[word] }
        return difference == 0
    }

    func id(_ index: UInt32) -> UInt32 { unsafe UInt32(truncatingIfNeeded: record(index)[width + 1]) }

    /// The number of records in the group that begins at `first`.
    func groupCount(_ first: UInt32) -> Int {
        var index = first
        while !isLast(index) { index += 1 }
        return Int(index - first) + 1
    }

    // MARK: Changing groups

    /// A group of one.
    mutating func makeGroup(_ pattern: FlowKeyPattern, order: UInt64, id: UInt32) -> UInt32 {
        let place = allocate(1)
        write(pattern, order: order, id: UInt64(id) | Self.lastMark, at: place)
        return place
    }

    /// Adds a rule to a group; returns where the group is then.
    mutating func add(_ pattern: FlowKeyPattern, order: UInt64, id: UInt32, to first: UInt32) -> UInt32 {
        let count = groupCount(first)
        var start = first
        if count & (count - 1) == 0 {
            start = allocate(count * 2)
            unsafe record(start).update(from: record(first), count: count * stride)
            release(first, count)
        }
        var position = 0
        while position < count, self.order(start + UInt32(position)) < order { position += 1 }
        let place = start + UInt32(position)
        if position == count {
            unsafe record(place - 1)[width + 1] &= ~Self.lastMark
            write(pattern, order: order, id: UInt64(id) | Self.lastMark, at: place)
        } else {
            unsafe record(place + 1).update(from: record(place), count: (count - position) * stride)
            write(pattern, order: order, id: UInt64(id), at: place)
        }
        return start
    }

    /// Removes the rule with this order from a group. Returns where the group is then, `nil` if nothing is left of it; or
    /// `.some(first)` unchanged if it has no such rule, which the caller has excluded.
    mutating func remove(order: UInt64, from first: UInt32) -> UInt32? {
        let count = groupCount(first)
        guard let position = (0..<count).first(where: { self.order(first + UInt32($0)) == order }) else { return first }
        masks.release(maskIndex(first + UInt32(position)))
        if count == 1 {
            release(first, 1)
            return nil
        }
        let place = first + UInt32(position)
        unsafe record(place).update(from: record(place + 1), count: (count - 1 - position) * stride)
        if position == count - 1 { unsafe record(place - 1)[width + 1] |= Self.lastMark }
        let left = count - 1
        guard left & (left - 1) == 0 else { return first }
        // The group has room for twice as many: into a smaller place.
        let start = allocate(left)
        unsafe record(start).update(from: record(first), count: left * stride)
        release(first, count)
        return start
    }

    private mutating func write(_ pattern: FlowKeyPattern, order: UInt64, id: UInt64, at place: UInt32) {
        let mask = masks.take(pattern.mask)
        let record = unsafe record(place)
        for word in 0..<width { unsafe record[word] = pattern.value.words[word] }
        unsafe record[width] = order
        unsafe record[width + 1] = id | UInt64(mask) << Self.maskShift
    }

    // MARK: Places

    private static func sizeClass(_ count: Int) -> Int {
        count <= 1 ? 0 : Int.bitWidth - (count - 1).leadingZeroBitCount
    }

    private mutating func allocate(_ count: Int) -> UInt32 {
        let sizeClass = Self.sizeClass(count)
        if let place = free[sizeClass].popLast() { return place }
        let size = 1 << sizeClass
        if used + size > capacity {
            let larger = max(capacity * 2, used + size)
            let moved = unsafe ClassifierMemory.allocate(wordCount: larger * stride)
            unsafe moved.update(from: base, count: used * stride)
            unsafe base.deallocate()
            unsafe base = moved
            capacity = larger
        }
        defer { used += size }
        return UInt32(used)
    }

    private mutating func release(_ place: UInt32, _ count: Int) { free[Self.sizeClass(count)].append(place) }
}
