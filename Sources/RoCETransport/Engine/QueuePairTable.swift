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
    /// The numbers that were given back last, oldest first: peers may hold them connected for a while (the connection
    /// manager's time-wait), so they rest. Allocated here, freed in `deinit`.
    private let resting: UnsafeMutablePointer<UInt16>
    /// One bit a number. Allocated here, freed in `deinit`.
    private let isResting: UnsafeMutablePointer<UInt64>
    private var restCount = 0

    static let placeCount = 1 << 16
    /// With the most queue pairs that an engine may have there are numbers left.
    private static let restingMax = 8_192

    init() {
        unsafe places = .allocate(capacity: Self.placeCount)
        unsafe places.initialize(repeating: nil, count: Self.placeCount)
        unsafe resting = .allocate(capacity: Self.restingMax)
        unsafe isResting = .allocate(capacity: Self.placeCount / 64)
        unsafe isResting.initialize(repeating: 0, count: Self.placeCount / 64)
    }

    deinit {
        for index in 0..<Self.placeCount {
            guard let queuePair = unsafe places[index] else { continue }
            unsafe queuePair.deinitialize(count: 1)
            unsafe queuePair.deallocate()
        }
        unsafe places.deallocate()
        unsafe resting.deallocate()
        unsafe isResting.deallocate()
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
            if unsafe places[Int(low)] == nil && !rests(low) { return QPN(truncating: UInt32(slot) << 16 | low) }
        }
    }

    mutating func insert(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        unsafe places[Int(queuePair.pointee.qpn.rawValue & 0xFFFF)] = unsafe queuePair
        count += 1
    }

    /// Takes a queue pair out and ends it.
    mutating func destroy(_ queuePair: UnsafeMutablePointer<QueuePair>) {
        rest(UInt16(truncatingIfNeeded: unsafe queuePair.pointee.qpn.rawValue))
        unsafe places[Int(queuePair.pointee.qpn.rawValue & 0xFFFF)] = nil
        unsafe queuePair.deinitialize(count: 1)
        unsafe queuePair.deallocate()
        count -= 1
    }

    private func rests(_ number: UInt32) -> Bool {
        unsafe isResting[Int(number >> 6)] & 1 << UInt64(number & 63) != 0
    }

    private mutating func rest(_ number: UInt16) {
        let place = restCount % Self.restingMax
        if restCount >= Self.restingMax {
            let oldest = unsafe resting[place]
            unsafe isResting[Int(oldest >> 6)] &= ~(1 << UInt64(oldest & 63))
        }
        unsafe (resting + place).initialize(to: number)
        unsafe isResting[Int(number >> 6)] |= 1 << UInt64(number & 63)
        restCount += 1
    }
}
