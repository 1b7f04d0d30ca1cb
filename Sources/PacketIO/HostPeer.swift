// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// Another process on one of our addresses, and the memory that it and we share: a ring in each direction.
///
/// ```
///             meet                        it has joined
///   (none) ──────────▶ offered ─────────────────────────▶ joined
///      │                                                    ▲  │ either goes, or breaks the rules
///      └────────────── it offered: join ────────────────────┘  ▼
///                                                            (none)
/// ```
/// Who offers makes the memory, and passes its descriptor through the other's mailbox. The memory is a sealed file of
/// fixed length, so that no access can fail whatever the other does; both unmap it when they go, and so it goes.
///
/// Trivial, so that it can be looked at in place; whoever takes it out of the link calls ``leave()``.
@safe struct HostPeer {
    static let byteCount = 2 * SharedRing.byteCount

    let slot: UInt8
    let localIndex: Int
    /// Mapped; unmapped by ``leave()``.
    private let memory: UnsafeMutableRawPointer
    var writer: SharedRingWriter
    var reader: SharedRingReader
    /// The other reads what we write.
    var isJoined: Bool
    let since: UInt64
    /// Looks at the sockets before the first record is taken: what the other sent over UDP before it is in there, and
    /// comes first. Bounded, because others send there too.
    var looksBeforeFirst: UInt8 = 64
    /// It had a first record before the look that is under way.
    var waitsForLook = false
    /// Since when its ring has been full; 0 while it is not.
    var fullSince: UInt64 = 0
    /// How far it had read when that was last looked at, and since when it is so far; 0 for up to date.
    var stalledPosition: UInt64 = 0
    var stalledSince: UInt64 = 0

    /// - Parameter isOurs: we made the memory: we write the first direction, the other writes the second.
    init(slot: UInt8, localIndex: Int, memory: UnsafeMutableRawPointer, isOurs: Bool, now: UInt64) {
        self.slot = slot
        self.localIndex = localIndex
        unsafe self.memory = memory
        let second = unsafe memory + SharedRing.byteCount
        unsafe writer = SharedRingWriter(isOurs ? memory : second)
        unsafe reader = SharedRingReader(isOurs ? second : memory)
        isJoined = !isOurs
        since = now
    }

    /// Ends our part.
    func leave() {
        reader.close()
        unsafe _ = munmap(memory, Self.byteCount)
    }
}
