// SPDX-License-Identifier: Apache-2.0

/// The masks of the rules of a ``TupleSet``, each once: many rules share few, which stay in the nearest cache.
@safe struct RuleMasks: ~Copyable {
    private let width: Int
    /// `width` words for each mask.
    private(set) var base: UnsafeMutablePointer<UInt64>
    private var capacity = 64
    private var indices: [FlowKey: Int] = [:]
    /// Per mask, the rules that have it.
    private var useCounts: [Int] = []
    private var free: [Int] = []

    init(width: Int) {
        self.width = width
        // Reason for unsafe code here: as the records, masks are read by pointer in the lookup; all indices come from this type,
        // which owns the memory until deinit.
        unsafe base = ClassifierMemory.allocate(wordCount: capacity * width)
    }

    deinit { unsafe base.deallocate() }

    /// The number of the mask, for one more rule.
    mutating func take(_ mask: FlowKey) -> Int {
        if let index = indices[mask] {
            useCounts[index] += 1
            return index
        }
        let index = free.popLast() ?? useCounts.count
        if index == useCounts.count {
            useCounts.append(0)
            if index == capacity { grow() }
        }
        for word in 0..<width { unsafe base[index * width + word] = mask.words[word] }
        indices[mask] = index
        useCounts[index] = 1
        return index
    }

    /// One rule less has the mask.
    mutating func release(_ index: Int) {
        useCounts[index] -= 1
        guard useCounts[index] == 0 else { return }
        var mask = FlowKey()
        for word in 0..<width { unsafe mask.words[word] = base[index * width + word] }
        indices[mask] = nil
        free.append(index)
    }

    private mutating func grow() {
        let larger = unsafe ClassifierMemory.allocate(wordCount: capacity * 2 * width)
        unsafe larger.update(from: base, count: capacity * width)
        unsafe base.deallocate()
        unsafe base = larger
        capacity *= 2
    }
}
