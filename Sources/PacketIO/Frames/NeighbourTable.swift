// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Ethernet addresses of peers, as the kernel has them, for a second at a time.
///
/// A destination without a fresh entry goes by the UDP socket, which makes the kernel find it, or find out that it has
/// gone; the table asks the kernel what it knows soon after. So the kernel stays the judge of routes and neighbours, and
/// a stream of frames costs it one packet a second.
///
/// A table of fixed size: destinations that share a place push each other out.
@safe struct NeighbourTable: ~Copyable {
    static let lifetimeNanoseconds: UInt64 = 1_000_000_000
    /// When the kernel is asked again that knew nothing: the packet that went by its socket may make it find out. The wait
    /// doubles up to the maximum.
    static let waitMinNanoseconds: UInt64 = 1_000_000
    static let waitMaxNanoseconds: UInt64 = 1_000_000_000
    /// How long after a burst frames stay with the socket: two ways at a time would put packets out of order.
    static let burstNanoseconds: UInt64 = 2_000_000
    private static let placeCount = 256

    private struct Entry {
        var destination = GID.zero
        var localIndex: UInt8 = 0
        /// Somebody wanted to send, and the kernel has not been asked since.
        var isWanted = false
        var hardwareAddress: UInt64 = 0
        /// Frames may be sent until then; 0 while nothing is known.
        var until: UInt64 = 0
        /// Bursts go by the socket, and what follows one so soon goes the same way.
        var socketUntil: UInt64 = 0
        /// The kernel is not asked before.
        var notBefore: UInt64 = 0
        var wait = NeighbourTable.waitMinNanoseconds
    }

    /// Allocated here, freed in `deinit`.
    private let entries: UnsafeMutablePointer<Entry>
    private let routes: RouteSocket
    private let interface: Int
    private(set) var wantedCount = 0

    init(interface: Int) throws(PacketIOError) {
        routes = try RouteSocket()
        self.interface = interface
        unsafe entries = .allocate(capacity: Self.placeCount)
        unsafe entries.initialize(repeating: Entry(), count: Self.placeCount)
    }

    deinit { unsafe entries.deallocate() }

    /// Where to send frames for a destination now; `nil` for by the socket.
    @inline(__always)
    mutating func hardwareAddress(of destination: GID, localIndex: Int, now: UInt64) -> UInt64? {
        let place = Self.place(of: destination)
        if unsafe entries[place].destination == destination && Int(entries[place].localIndex) == localIndex
            && entries[place].until > now
        {
            if unsafe entries[place].socketUntil > now { return nil }
            return unsafe entries[place].hardwareAddress
        }
        want(destination, localIndex: localIndex, at: place, now: now)
        return nil
    }

    /// A burst goes by the socket.
    @inline(__always)
    mutating func noteBurst(to destination: GID, now: UInt64) {
        let place = Self.place(of: destination)
        if unsafe entries[place].destination == destination {
            unsafe entries[place].socketUntil = now + Self.burstNanoseconds
        }
    }

    /// Asks the kernel about those that were wanted.
    mutating func refresh(now: UInt64, source: (Int) -> GID?) {
        guard wantedCount > 0 else { return }
        wantedCount = 0
        for place in 0..<Self.placeCount where unsafe entries[place].isWanted {
            unsafe entries[place].isWanted = false
            let destination = unsafe entries[place].destination
            guard let own = source(unsafe Int(entries[place].localIndex)),
                let found = routes.neighbour(destination, from: own, interface: interface)
            else {
                unsafe entries[place].notBefore = now + entries[place].wait
                unsafe entries[place].wait = min(entries[place].wait * 2, Self.waitMaxNanoseconds)
                continue
            }
            unsafe entries[place].wait = Self.waitMinNanoseconds
            unsafe entries[place].hardwareAddress = found
            unsafe entries[place].until = now + Self.lifetimeNanoseconds
        }
    }

    /// Forgets all: addresses of the link have changed.
    mutating func removeAll() {
        unsafe entries.update(repeating: Entry(), count: Self.placeCount)
        wantedCount = 0
    }

    @inline(never)
    private mutating func want(_ destination: GID, localIndex: Int, at place: Int, now: UInt64) {
        if unsafe entries[place].destination == destination && Int(entries[place].localIndex) == localIndex {
            if unsafe entries[place].isWanted || now < entries[place].notBefore { return }
            unsafe entries[place].isWanted = true
        } else {
            unsafe entries[place] = Entry(
                destination: destination, localIndex: UInt8(truncatingIfNeeded: localIndex), isWanted: true)
        }
        wantedCount += 1
    }

    private static func place(of gid: GID) -> Int {
        var hash = gid.low ^ gid.high &* 31
        hash ^= hash >> 32
        hash ^= hash >> 16
        hash ^= hash >> 8
        return Int(hash & UInt64(placeCount - 1))
    }
}
