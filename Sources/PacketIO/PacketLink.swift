// SPDX-License-Identifier: Apache-2.0

/// What the software device needs of a link. ``UDPLink`` and ``MemoryLink`` conform; code on the data path is generic
/// over it, so that it is specialised and nothing is called through a witness table.
///
/// A link belongs to one thread at a time (the holder of the device's progress lock).
package protocol PacketLink: ~Copyable {
    /// Takes what has arrived, up to one batch, without blocking, and returns the number of datagrams, which
    /// ``datagram(_:)`` then gives. 0 means that nothing was there.
    mutating func receive() -> Int

    /// A datagram of the last batch, `0 ..<` the count that ``receive()`` returned.
    mutating func datagram(_ index: Int) -> Datagram

    /// Sends bursts in order and returns how many are done with: sent, or refused by the kernel for good and counted.
    /// Fewer than given means that the kernel's queue is full; offer the rest again later.
    mutating func send(_ bursts: UnsafeBufferPointer<Burst>) -> Int

    /// Segments that a burst may have; 1 means that bursts are off.
    var maximumSegments: Int { get }

    /// Does what is due by time: call it when the returned time (nanoseconds of CLOCK_MONOTONIC, `UInt64.max` for
    /// never) has come, and now and then. Cheap when nothing is due.
    mutating func maintain(now: UInt64) -> UInt64
}
