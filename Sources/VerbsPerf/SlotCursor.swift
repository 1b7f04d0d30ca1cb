// SPDX-License-Identifier: Apache-2.0

/// Walks a ``SlotRing`` without division: the address of the next message.
struct SlotCursor {
    private(set) var address: UInt64
    private(set) var slot: UInt64 = 0
    let base: UInt64
    let stride: UInt64
    let count: UInt64

    init(_ ring: SlotRing) {
        base = ring.base
        stride = ring.stride
        count = ring.count
        address = ring.base
    }

    @inline(__always)
    mutating func advance() {
        slot &+= 1
        address &+= stride
        if slot == count {
            slot = 0
            address = base
        }
    }
}

/// What an atomic operation of a test finds and leaves: each place counts the operations that it has seen.
struct AtomicTurn {
    /// How many operations came to the same place before.
    let value: UInt64

    init(message: Int, cycleSlots: UInt64) {
        value = UInt64(truncatingIfNeeded: message) / cycleSlots
    }
}
