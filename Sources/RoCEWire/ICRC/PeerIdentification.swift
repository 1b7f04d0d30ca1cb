// SPDX-License-Identifier: Apache-2.0

/// What one sender's IPv4 identifications are like: judges one that was deduced from an ICRC.
///
/// A corrupt packet passes the deduction with one chance in 2^15, and then shows a random identification. Senders are
/// not random: a UDP socket as ours sends 0, or the index of the segment in a GSO send; the kernel's rxe counts up for
/// each destination; hardware counts or stays at one value. So an identification must fit what the sender did before.
/// One that does not is refused once; the next that fits *it* shows that the sender went on from there. A sender that
/// fits nothing (random identifications) is recognised after ``strikesMax`` such packets in a row, and then believed.
///
/// A trivial value of twelve bytes: keep one for each peer address, or for each queue pair.
public struct PeerIdentification: Hashable, Sendable {
    /// How the sender numbers.
    enum Habit: UInt8 {
        /// Nothing seen yet.
        case unknown
        /// 0 or the segment's index.
        case zeroBased
        /// One value, or counting up.
        case counting
        /// Neither: anything goes.
        case random
    }

    /// The most segments of one GSO send (Linux: `UDP_MAX_SEGMENTS`).
    static let segmentsMax: UInt16 = 128
    /// How far ahead a counter may have gone, counting what the sender sent to others.
    static let windowAhead: UInt16 = 2048
    /// How far behind a reordered packet may be.
    static let windowBehind: UInt16 = 256
    /// Misfits in a row which say that a sender is random.
    static let strikesMax: UInt8 = 8

    private(set) var habit = Habit.unknown
    private var dontFragment = true
    /// Misfits in a row.
    private var strikes: UInt8 = 0
    /// Zero-based identifications in a row, from a sender that was not known as such.
    private var zeroes: UInt8 = 0
    private var last: UInt16 = 0
    /// How a counting sender went on last: 1, or 0 if it stays at one value.
    private var step: UInt16 = 1
    private var candidate: UInt16 = 0

    /// A sender of whom nothing is known.
    public init() {}

    /// The identification to try first.
    ///
    /// - Parameter segmentIndex: the packet's place in the datagram that the socket delivered.
    @inlinable
    public func expected(segmentIndex: Int) -> UInt16 {
        isCounting ? next : UInt16(truncatingIfNeeded: segmentIndex)
    }

    @usableFromInline var isCounting: Bool { habit == .counting }
    @usableFromInline var next: UInt16 { last &+ step }

    /// Notes that a packet with this identification was right in all 32 bits.
    public mutating func confirm(_ identification: UInt16, dontFragment: Bool = true) {
        strikes = 0
        learn(identification, dontFragment: dontFragment)
    }

    /// Judges an identification that explains an ICRC, and learns from it.
    ///
    /// - Returns: whether to take the packet.
    public mutating func judge(_ identification: UInt16, dontFragment: Bool) -> Bool {
        if fits(identification, dontFragment) {
            strikes = 0
            learn(identification, dontFragment: dontFragment)
            return true
        }
        let follows = strikes > 0 && Self.isNear(identification, candidate)
        candidate = identification
        strikes += 1
        guard follows || strikes >= Self.strikesMax else { return false }
        habit = follows ? .counting : .random
        strikes = 0
        zeroes = 0
        last = identification
        self.dontFragment = dontFragment
        return true
    }

    private func fits(_ identification: UInt16, _ dontFragment: Bool) -> Bool {
        switch habit {
        case .unknown, .random: true
        case .zeroBased: dontFragment && identification < Self.segmentsMax
        case .counting: dontFragment == self.dontFragment && (identification == 0 || Self.isNear(identification, last))
        }
    }

    /// Whether a counter that stood at `last` may show `identification`: the same, a little ahead, or a straggler.
    private static func isNear(_ identification: UInt16, _ last: UInt16) -> Bool {
        identification &- last <= windowAhead || last &- identification <= windowBehind
    }

    private mutating func learn(_ identification: UInt16, dontFragment: Bool) {
        let isZeroBased = dontFragment && identification < Self.segmentsMax
        switch habit {
        case .unknown:
            habit = isZeroBased ? .zeroBased : .counting
            self.dontFragment = dontFragment
            last = identification
        case .zeroBased, .random:
            last = identification
        case .counting:
            // A counter comes by 0...127 once in a while; a sender that shows nothing else is zero-based.
            zeroes = isZeroBased && identification &- last != 1 ? zeroes + 1 : 0
            if zeroes >= Self.strikesMax { habit = .zeroBased }
            step = identification == last ? 0 : 1
            // A straggler does not turn the counter back.
            if identification &- last <= Self.windowAhead { last = identification }
        }
    }
}
