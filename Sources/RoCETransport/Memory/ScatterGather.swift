// SPDX-License-Identifier: Apache-2.0

// Copies between packets and the memory that scatter/gather lists name. All the engine's access to application memory,
// other than by a remote key, is here. Every entry is copied before it is judged, and judged at each use, because the
// application may deregister a region, or write to a posted list, at any time.

/// A scatter/gather list and the domain that its keys must belong to.
@safe struct ScatterGatherList {
    /// In a send queue's slot or a queue pair's own copy; valid as long as that.
    let entries: UnsafeMutablePointer<ScatterGatherEntry>
    let count: Int
    let protectionDomain: UInt32

    init(_ entries: UnsafeMutablePointer<ScatterGatherEntry>, count: Int, protectionDomain: UInt32) {
        unsafe self.entries = unsafe entries
        self.count = count
        self.protectionDomain = protectionDomain
    }

    /// The sum of the lengths.
    var byteCount: UInt64 {
        var sum: UInt64 = 0
        for index in 0..<count { unsafe sum += UInt64(entries[index].length) }
        return sum
    }

    /// Whether all entries are memory of ours with these permissions.
    func isAccessible(in memory: borrowing MemoryTable, access: AccessFlags) -> Bool {
        for index in 0..<count {
            let entry = unsafe entries[index]
            if entry.length == 0 { continue }
            guard
                unsafe memory.local(
                    entry.lkey, address: entry.address, byteCount: entry.length, protectionDomain: protectionDomain,
                    access: access) != nil
                    || memory.boundless(entry.lkey, protectionDomain: protectionDomain, access: access) != nil
            else { return false }
        }
        return true
    }

    /// Copies `target.byteCount` bytes from `offset` of the list. `false` if a key does not open its entry any more, its memory is not
    /// there, or the list is too short.
    func gather(from offset: UInt64, into target: UnsafeMutableRawBufferPointer, memory: borrowing MemoryTable) -> Bool
    {
        unsafe walk(from: offset, byteCount: target.count, memory: memory, access: []) { piece, at, count in
            unsafe (target.baseAddress! + at).copyMemory(from: piece, byteCount: count)
        } boundless: { region, address, at, count in
            let place = unsafe UnsafeMutableRawBufferPointer(rebasing: target[at..<at + count])
            switch region {
            case .null:
                unsafe place.initializeMemory(as: UInt8.self, repeating: 0)
                return true
            case .addressSpace: return unsafe memory.checked?.read(address, place) ?? false
            }
        }
    }

    /// Copies `source` to `offset` of the list. `false` as in ``gather(from:into:memory:)``.
    func scatter(_ source: UnsafeRawBufferPointer, to offset: UInt64, memory: borrowing MemoryTable) -> Bool {
        unsafe walk(from: offset, byteCount: source.count, memory: memory, access: .localWrite) { piece, at, count in
            unsafe piece.copyMemory(from: source.baseAddress! + at, byteCount: count)
        } boundless: { region, address, at, count in
            switch region {
            case .null: return true
            case .addressSpace:
                let bytes = unsafe UnsafeRawBufferPointer(rebasing: source[at..<at + count])
                return unsafe memory.checked?.write(address, bytes) ?? false
            }
        }
    }

    /// Goes over a range piece by piece; those of regions that have no memory of their own are apart, and may fail.
    @inline(__always)
    private func walk(
        from offset: UInt64, byteCount: Int, memory: borrowing MemoryTable, access: AccessFlags,
        _ copy: (_ piece: UnsafeMutableRawPointer, _ at: Int, _ count: Int) -> Void,
        boundless: (_ region: MemoryTable.Boundless, _ address: UInt64, _ at: Int, _ count: Int) -> Bool
    ) -> Bool {
        var skip = offset
        var done = 0
        var index = 0
        while done < byteCount {
            guard index < count else { return false }
            let entry = unsafe entries[index]
            index &+= 1
            if skip >= UInt64(entry.length) {
                skip &-= UInt64(entry.length)
                continue
            }
            let start = unsafe memory.local(
                entry.lkey, address: entry.address, byteCount: entry.length, protectionDomain: protectionDomain,
                access: access)
            let length = min(Int(UInt64(entry.length) &- skip), byteCount &- done)
            if let start = unsafe start {
                unsafe copy(start + Int(skip), done, length)
            } else {
                guard
                    let region = memory.boundless(
                        entry.lkey, protectionDomain: protectionDomain, access: access),
                    boundless(region, entry.address &+ skip, done, length)
                else { return false }
            }
            done &+= length
            skip = 0
        }
        return true
    }
}
