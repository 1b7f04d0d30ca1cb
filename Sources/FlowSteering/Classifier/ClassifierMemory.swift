// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Memory of the classifier's tables: on cache lines, and in huge pages where there is much of it, as lookups go to places all over it.
enum ClassifierMemory {
    private static let hugePageSize = 2 << 20

    /// The caller frees it with `deallocate()`.
    static func allocate(wordCount: Int) -> UnsafeMutablePointer<UInt64> {
        let byteCount = wordCount * 8
        let isLarge = byteCount >= hugePageSize
        // Reason for unsafe code here: arrays are aligned to no cache line.
        let raw = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: isLarge ? hugePageSize : 64)
        // Where the kernel refuses, the pages are small.
        if isLarge { unsafe _ = madvise(raw, byteCount & ~(hugePageSize - 1), CInt(MADV_HUGEPAGE)) }
        return unsafe raw.bindMemory(to: UInt64.self, capacity: wordCount)
    }
}
