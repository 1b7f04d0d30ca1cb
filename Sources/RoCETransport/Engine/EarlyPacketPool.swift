// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Copies of request packets that came before the one that their queue pair expects, of all queue pairs of an engine.
///
/// Allocated with the engine and written to from the start on, so that the kernel gives it pages only as far as it was ever
/// used. The packets of a queue pair are a list through the slots, in the order of their PSNs (see ``EarlyPackets``).
@safe struct EarlyPacketPool: ~Copyable {
    /// Headers of the longest request, the largest path MTU, and the ICRC.
    static let packetByteCountMax = 4096 + BTH.byteCount + 28 + RoCEPacket.icrcByteCount

    /// One packet: what was parsed, and the length of what it was parsed from.
    private struct Slot {
        var packet: RoCEPacket
        var byteCount: Int
        var next: Int32
    }

    private let slotCountMax: Int32
    private let slots: UnsafeMutablePointer<Slot>
    private let storage: UnsafeMutableRawPointer
    /// Slots before this one were used.
    private var usedCount: Int32 = 0
    /// First of the free slots among them, or -1.
    private var free: Int32 = -1

    init(slotCountMax: Int) {
        self.slotCountMax = Int32(slotCountMax)
        unsafe slots = .allocate(capacity: slotCountMax)
        unsafe storage = .allocate(byteCount: slotCountMax * Self.packetByteCountMax, alignment: 64)
    }

    deinit {
        unsafe slots.deallocate()
        unsafe storage.deallocate()
    }

    /// Keeps a copy; -1 if there is no room.
    mutating func keep(_ packet: RoCEPacket, _ data: RawSpan) -> Int32 {
        guard data.byteCount <= Self.packetByteCountMax, free >= 0 || usedCount < slotCountMax else { return -1 }
        let index: Int32
        if free >= 0 {
            index = free
            free = next(index)
        } else {
            index = usedCount
            usedCount += 1
        }
        unsafe (slots + Int(index)).initialize(to: Slot(packet: packet, byteCount: data.byteCount, next: -1))
        unsafe data.withUnsafeBytes { unsafe place(index).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        return index
    }

    mutating func release(_ index: Int32) {
        setNext(index, free)
        free = index
    }

    /// The packet in a slot, until that is released.
    func packet(_ index: Int32) -> RoCEPacket { unsafe slots[Int(index)].packet }

    /// Its bytes. The caller does not release the slot while it reads them.
    func bytes(_ index: Int32) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: place(index), count: slots[Int(index)].byteCount)
    }

    func next(_ index: Int32) -> Int32 { unsafe slots[Int(index)].next }
    mutating func setNext(_ index: Int32, _ next: Int32) { unsafe slots[Int(index)].next = next }

    private func place(_ index: Int32) -> UnsafeMutableRawPointer {
        unsafe storage + Int(index) * Self.packetByteCountMax
    }
}

/// The packets that one queue pair keeps: slots of the pool, in the order of their PSNs.
struct EarlyPackets {
    private(set) var first: Int32 = -1
    private var last: Int32 = -1
    private(set) var count: Int32 = 0
    /// One that came early was not kept.
    var hasDropped = false
    /// The peer was told of the gap, and has gone back.
    var isToldOf = false

    /// Keeps a packet. `false` if it is there already, or there is no room.
    mutating func insert(_ packet: RoCEPacket, _ data: RawSpan, _ pool: inout EarlyPacketPool) -> Bool {
        // Nearly always behind the last.
        var before = last
        if last >= 0, packet.bth.psn - pool.packet(last).bth.psn <= 0 {
            before = -1
            var index = first
            while packet.bth.psn - pool.packet(index).bth.psn > 0 {
                before = index
                index = pool.next(index)
            }
            if packet.bth.psn == pool.packet(index).bth.psn { return false }
        }
        let index = pool.keep(packet, data)
        guard index >= 0 else {
            hasDropped = true
            return false
        }
        let after = before < 0 ? first : pool.next(before)
        pool.setNext(index, after)
        if before < 0 { first = index } else { pool.setNext(before, index) }
        if after < 0 { last = index }
        count += 1
        return true
    }

    mutating func removeFirst(_ pool: inout EarlyPacketPool) {
        let index = first
        first = pool.next(index)
        if first < 0 { last = -1 }
        count -= 1
        pool.release(index)
    }

    /// - Returns: how many there were.
    mutating func removeAll(_ pool: inout EarlyPacketPool) -> Int {
        let removed = Int(count)
        while first >= 0 { removeFirst(&pool) }
        self = EarlyPackets()
        return removed
    }
}
