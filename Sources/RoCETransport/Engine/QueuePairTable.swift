// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The queue pairs of an engine by number, without a hash: the low 16 bits index a table of 65,536 pointers.
///
/// The queue pair found must still be compared with all 24 bits of the number. Number 1, the general services interface,
/// has the place that no other number uses.
@safe struct QueuePairTable: ~Copyable {
    /// Allocated here, freed in `deinit` with the queue pairs.
    private let places: UnsafeMutablePointer<UnsafeMutablePointer<QueuePair>?>
    private(set) var count = 0

    static let placeCount = 1 << 16

    init() {
        unsafe places = .allocate(capacity: Self.placeCount)
        unsafe places.initialize(repeating: nil, count: Self.placeCount)
    }

    deinit {
        for index in 0..<Self.placeCount {
            guard let queuePair = unsafe places[index] else { continue }
            unsafe queuePair.deinitialize(count: 1)
            unsafe queuePair.deallocate()
        }
        unsafe places.deallocate()
    }

    /// The queue pair with this number.
    @inline(__always)
    func find(_ qpn: QPN) -> UnsafeMutablePointer<QueuePair>? {
        guard let found = unsafe places[Int(qpn.rawValue & 0xFFFF)], unsafe found.pointee.qpn == qpn else { return nil }
        return unsafe found
    }

    /// The queue pair in a place, for walks over all.
    func at(_ place: Int) -> UnsafeMutablePointer<QueuePair>? { unsafe places[place] }

    /// A number that is free: the slot and 16 random bits. The caller keeps `count` well below the number of places.
    func freeNumber(slot: UInt8, using generator: inout some RandomNumberGenerator) -> QPN {
        while true {
            // 0 and 1 are special numbers, 0xFFFF would be multicast's in the last slot.
            let low = UInt32.random(in: 2...0xFFFE, using: &generator)
            if unsafe places[Int(low)] == nil { return QPN(truncating: UInt32(slot) << 16 | low) }
        }
    }

    mutating func insert(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        unsafe places[Int(queuePair.pointee.qpn.rawValue & 0xFFFF)] = unsafe queuePair
        count += 1
    }

    /// Takes a queue pair out and ends it.
    mutating func destroy(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        unsafe places[Int(queuePair.pointee.qpn.rawValue & 0xFFFF)] = nil
        unsafe queuePair.deinitialize(count: 1)
        unsafe queuePair.deallocate()
        count -= 1
    }
}
