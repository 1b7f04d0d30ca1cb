// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// What the IPv4 identifications of recent senders look like, which makes up for the 16 bits of ICRC that a UDP socket's
/// receiver loses. A table of fixed size: senders that share a place push each other out and are learnt anew.
///
/// Linux numbers its packets apart for each destination, so what one sends to a multicast group is learnt apart from what
/// it sends to our address.
@safe struct PeerTable: ~Copyable {
    private struct Peer {
        var source = GID.zero
        var destination = GID.zero
        var identification = PeerIdentification()
    }

    private static let placeCount = 256
    /// Allocated here, freed in `deinit`.
    private let places: UnsafeMutablePointer<Peer>
    /// Allocated here, freed in `deinit`: its tables are too large for a value that is moved about.
    private let verifier: UnsafeMutablePointer<ICRCVerifier>

    init() {
        unsafe places = .allocate(capacity: Self.placeCount)
        unsafe places.initialize(repeating: Peer(), count: Self.placeCount)
        unsafe verifier = .allocate(capacity: 1)
        unsafe verifier.initialize(to: ICRCVerifier())
    }

    deinit {
        unsafe places.deallocate()
        unsafe verifier.deinitialize(count: 1)
        unsafe verifier.deallocate()
    }

    /// Whether a packet's ICRC is right, if it has one.
    @inline(__always)
    mutating func accepts(_ packet: RawSpan, from origin: DatagramOrigin, local: GID) -> Bool {
        guard origin.isSealed else { return true }
        let flow = ICRC.Flow(source: origin.source, destination: local, sourcePort: origin.sourcePort)
        var hash = origin.source.low ^ origin.source.high ^ local.low &* 31
        hash ^= hash >> 32
        hash ^= hash >> 16
        hash ^= hash >> 8
        let place = Int(hash & 0xFF)
        if unsafe places[place].source != origin.source || places[place].destination != local {
            unsafe places[place] = Peer(source: origin.source, destination: local)
        }
        if let identification = origin.identification, origin.source.isIPv4Mapped {
            return unsafe verifier.pointee.accepts(
                packet, flow, identification: identification, dontFragment: origin.dontFragment,
                peer: &places[place].identification)
        }
        return unsafe verifier.pointee.accepts(
            packet, flow, segmentIndex: Int(origin.segmentIndex), peer: &places[place].identification)
    }
}
