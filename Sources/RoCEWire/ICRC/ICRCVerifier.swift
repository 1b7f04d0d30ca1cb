// SPDX-License-Identifier: Apache-2.0

/// Checks ICRCs of packets whose IPv4 identification nobody knows.
///
/// A UDP socket does not show the identification, which the ICRC covers. But the CRC is linear: two packets that differ
/// in the four bytes of identification and flags only have ICRCs whose difference tells those four bytes, uniquely, by
/// one multiplication (``CRCPolynomial``). So a packet is checked against the expected identification first; if that
/// fails, the four bytes that would explain the difference are computed, and the packet is refused unless they leave
/// the fragment offset alone. That is a check of 15 bits where the full one has 32;
/// ``PeerIdentification`` judges whether the peer would have sent that identification, which wins some back.
///
/// IPv6 has no identification: there the check is whole.
///
/// Seeds are cached by flow and length, and the factors by length. The caches (4 KiB) are behind a pointer: inside the
/// value they would make every copy that the compiler takes of its owner, to borrow it, as large.
@safe public struct ICRCVerifier: ~Copyable {
    /// What the ICRC says.
    public enum Verdict: Hashable, Sendable {
        /// It is right, with the expected identification or over IPv6: all 32 bits agree.
        case exact
        /// It is right if this was in the IPv4 header.
        case explained(identification: UInt16, dontFragment: Bool)
        /// It is wrong.
        case wrong
    }

    private struct Factor {
        var byteCount: UInt32 = .max
        var value = CRCPolynomial.one
    }

    private struct Caches: ~Copyable {
        var seeds = ICRCSeedCache()
        var factors = InlineArray<128, Factor>(repeating: Factor())
    }

    private static var slots: Int { 128 }
    /// Allocated here, freed in `deinit`.
    private let caches: UnsafeMutablePointer<Caches>

    /// A verifier with an empty cache.
    public init() {
        unsafe caches = .allocate(capacity: 1)
        unsafe caches.initialize(to: Caches())
    }

    deinit {
        unsafe caches.deinitialize(count: 1)
        unsafe caches.deallocate()
    }

    /// Checks a packet against an expected identification, and finds the one that it had if that fails.
    ///
    /// - Parameters:
    ///   - packet: the UDP payload, BTH to ICRC.
    ///   - flow: where it came from and where it arrived.
    ///   - identification: what the IPv4 header probably held; ignored for IPv6.
    public mutating func check(_ packet: RawSpan, _ flow: ICRC.Flow, expecting identification: UInt16) -> Verdict {
        guard packet.byteCount >= RoCEPacket.byteCountMin else { return .wrong }
        let seed = unsafe caches.pointee.seeds.seed(
            flow, udpPayloadByteCount: packet.byteCount, identification: identification)
        let covered = packet.byteCount &- RoCEPacket.icrcByteCount
        let difference = ICRC.compute(seed, over: packet.extracting(0..<covered)) ^ ICRC.stored(in: packet)
        if difference == 0 { return .exact }
        guard flow.source.isIPv4Mapped else { return .wrong }
        return explain(difference, coveredByteCount: covered, assumed: identification)
    }

    /// Checks a packet with what is known of its sender: the whole test that a receiver makes.
    ///
    /// - Parameters:
    ///   - segmentIndex: the packet's place in the datagram that the socket delivered (GRO), 0 if it is alone.
    ///   - peer: what the sender's identifications were like, which learns.
    /// - Returns: whether to take the packet.
    public mutating func accepts(
        _ packet: RawSpan, _ flow: ICRC.Flow, segmentIndex: Int, peer: inout PeerIdentification
    ) -> Bool {
        let expected = peer.expected(segmentIndex: segmentIndex)
        switch check(packet, flow, expecting: expected) {
        case .exact:
            if flow.source.isIPv4Mapped { peer.confirm(expected) }
            return true
        case .explained(let identification, let dontFragment):
            return peer.judge(identification, dontFragment: dontFragment)
        case .wrong:
            return false
        }
    }

    /// Checks a packet whose IPv4 header was seen: all 32 bits count.
    ///
    /// - Parameter peer: learns what the sender does, for packets of it that come by a socket.
    /// - Returns: whether to take the packet.
    public mutating func accepts(
        _ packet: RawSpan, _ flow: ICRC.Flow, identification: UInt16, dontFragment: Bool,
        peer: inout PeerIdentification
    ) -> Bool {
        switch check(packet, flow, expecting: identification) {
        case .exact:
            // Computed with DF set.
            guard dontFragment else { return false }
            peer.confirm(identification)
            return true
        case .explained(let found, let foundDontFragment):
            guard found == identification, foundDontFragment == dontFragment else { return false }
            peer.confirm(identification, dontFragment: dontFragment)
            return true
        case .wrong:
            return false
        }
    }

    /// Takes the difference back to the four bytes at offset 4 of the IPv4 header.
    private mutating func explain(_ difference: UInt32, coveredByteCount: Int, assumed: UInt16) -> Verdict {
        let bytes = (CRCPolynomial(bits: difference) * factor(coveredByteCount: coveredByteCount)).bits
        // The register takes bytes in from its low end, so the first byte (the high one of the identification) is low.
        let identification = assumed ^ UInt16(truncatingIfNeeded: bytes).byteSwapped
        switch bytes >> 16 {
        case 0: return .explained(identification: identification, dontFragment: true)
        case 0x40: return .explained(identification: identification, dontFragment: false)
        default: return .wrong
        }
    }

    private mutating func factor(coveredByteCount: Int) -> CRCPolynomial {
        // Lengths are multiples of four.
        let slot = coveredByteCount >> 2 & (Self.slots - 1)
        let key = UInt32(truncatingIfNeeded: coveredByteCount)
        if unsafe caches.pointee.factors[slot].byteCount == key { return unsafe caches.pointee.factors[slot].value }
        // From the start of the four bytes: themselves (4), the rest of the IPv4 header (12), UDP (8), the packet.
        let factor = CRCPolynomial.undoing(byteCount: coveredByteCount + 24)
        unsafe caches.pointee.factors[slot] = Factor(byteCount: key, value: factor)
        return factor
    }
}
