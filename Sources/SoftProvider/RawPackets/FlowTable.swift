// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import RoCETransport
import RoCEWire
import VerbsABI

/// What the flows of an interface do with a frame, by the id of their rule.
@safe struct FlowTable: ~Copyable {
    struct Entry {
        var qpn = QPN(truncating: 0)
        /// Whether there is a flow of this number.
        var isThere = false
        /// What completions of the flow say: the tag.
        var tag: UInt32 = 0
        var isTagged = false
        var drops = false
        /// Super-frames are delivered as they are.
        var keepsSuperFrames = false
        var packets: UInt64 = 0
        var bytes: UInt64 = 0
    }

    /// Grows in control calls; freed in `deinit`.
    private var entries: UnsafeMutablePointer<Entry>
    private var capacity = 16

    init() {
        unsafe entries = .allocate(capacity: capacity)
        unsafe entries.initialize(repeating: Entry(), count: capacity)
    }

    deinit { unsafe entries.deallocate() }

    mutating func set(_ id: FlowID, _ rule: FlowRule, _ qpn: QPN, keepsSuperFrames: Bool) {
        let index = Int(id.rawValue)
        if index >= capacity { grow(past: index) }
        var entry = Entry()
        entry.qpn = qpn
        entry.isThere = true
        entry.tag = rule.tag ?? 0
        entry.isTagged = rule.tag != nil
        entry.drops = rule.drops
        entry.keepsSuperFrames = keepsSuperFrames
        unsafe entries[index] = entry
    }

    mutating func remove(_ id: FlowID) { unsafe entries[Int(id.rawValue)].isThere = false }

    /// The flow of a number that somebody else names; `nil` if there is none.
    @inline(__always)
    func find(_ id: UInt32) -> UnsafeMutablePointer<Entry>? {
        guard id < capacity, unsafe entries[Int(id)].isThere else { return nil }
        return unsafe entries + Int(id)
    }

    /// The flow of a rule that is there.
    @inline(__always)
    func entry(_ id: UInt32) -> UnsafeMutablePointer<Entry> {
        precondition(id < capacity, "the classifier names rules that are there")
        return unsafe entries + Int(id)
    }

    private mutating func grow(past index: Int) {
        var wanted = capacity
        while wanted <= index { wanted *= 2 }
        let old = unsafe entries
        unsafe entries = .allocate(capacity: wanted)
        unsafe entries.initialize(from: old, count: capacity)
        unsafe (entries + capacity).initialize(repeating: Entry(), count: wanted - capacity)
        unsafe old.deallocate()
        capacity = wanted
    }
}
