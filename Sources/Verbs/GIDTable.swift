// SPDX-License-Identifier: Apache-2.0

/// One valid entry of a port's GID table. The corresponding C type is `struct ibv_gid_entry`.
public struct GIDEntry: Hashable, Sendable {
    /// What travels on the wire for packets that name this GID.
    public enum Kind: Hashable, Sendable, CustomStringConvertible {
        case infiniBand
        /// An Ethernet frame of its own type; not routable.
        case roceV1
        /// A UDP datagram.
        case roceV2
        /// A kind newer than this library.
        case unknown(UInt32)

        /// As `ibv_devinfo -v` names it.
        public var description: String {
            switch self {
            case .infiniBand: "IB"
            case .roceV1: "RoCE v1"
            case .roceV2: "RoCE v2"
            case .unknown(let value): "type \(value)"
            }
        }
    }

    /// The place in the port's table.
    public let index: Int
    /// The address.
    public let gid: GID
    /// What travels on the wire for it.
    public let kind: Kind
    /// The network interface behind the entry, by name; a container sees only those that are its own.
    public let interface: String?

    /// An entry of all its members.
    public init(index: Int, gid: GID, kind: Kind, interface: String?) {
        self.index = index
        self.gid = gid
        self.kind = kind
        self.interface = interface
    }
}

/// The GID that is taken when the caller names none, and why.
///
/// A wrong GID is the commonest reason why queue pairs do not reach each other, and the index of the right one differs
/// from host to host. The order here: RoCE v2 before v1 before the rest, the peer's address family when it is known,
/// global before link-local, IPv4 before IPv6 (it needs no neighbour discovery), lowest index.
public struct GIDChoice: Hashable, Sendable {
    /// The entry that is taken.
    public let entry: GIDEntry
    /// One sentence for people: what decided.
    public let reason: String

    /// Chooses from a port's table; `nil` for an empty one. `peer` is the other side's GID where it is known already.
    public static func best(of table: [GIDEntry], peer: GID? = nil) -> GIDChoice? {
        let candidates = table.filter { !$0.gid.isZero }
        guard let winner = candidates.min(by: { Rank($0, peer: peer) < Rank($1, peer: peer) }) else { return nil }
        return GIDChoice(entry: winner, reason: explain(winner, among: candidates, peer: peer))
    }

    private static func explain(_ winner: GIDEntry, among candidates: [GIDEntry], peer: GID?) -> String {
        guard candidates.count > 1 else { return "the only GID of the port" }
        let rank = Rank(winner, peer: peer)
        var facts: [String] = []
        if candidates.contains(where: { Rank($0, peer: peer).kind != rank.kind }) {
            facts.append(rank.kind == 0 ? "RoCE v2 is preferred" : "\(winner.kind) is the best kind there is")
        }
        // From here on only the entries that tied so far are compared.
        var rest = candidates.filter { Rank($0, peer: peer).kind == rank.kind }
        if let peer, rest.contains(where: { Rank($0, peer: peer).family != rank.family }) {
            facts.append("it has the peer's family (\(peer.isIPv4Mapped ? "IPv4" : "IPv6"))")
        }
        rest = rest.filter { Rank($0, peer: peer).family == rank.family }
        if rest.contains(where: { Rank($0, peer: peer).scope != rank.scope }) {
            facts.append(
                rank.scope == 0 ? "global scope goes before link-local" : "it has the scope of the peer's address")
        }
        rest = rest.filter { Rank($0, peer: peer).scope == rank.scope }
        if rest.contains(where: { Rank($0, peer: peer).version != rank.version }) {
            facts.append("IPv4 goes before IPv6")
        }
        rest = rest.filter { Rank($0, peer: peer).version == rank.version }
        if rest.count > 1 { facts.append("the lowest index of \(rest.count) equals") }
        return facts.joined(separator: ", ")
    }

    /// The order of preference as a value: smaller is better, the fields decide from first to last.
    private struct Rank: Comparable {
        let kind: Int
        let family: Int
        let scope: Int
        let version: Int
        let index: Int

        init(_ entry: GIDEntry, peer: GID?) {
            kind =
                switch entry.kind {
                case .roceV2: 0
                case .roceV1: 1
                case .infiniBand: 2
                case .unknown: 3
                }
            family = peer.map { $0.isIPv4Mapped == entry.gid.isIPv4Mapped ? 0 : 1 } ?? 0
            // A link-local peer is reached from a link-local address only.
            let wantsLinkLocal = peer?.isLinkLocal ?? false
            scope = entry.gid.isLinkLocal == wantsLinkLocal ? 0 : 1
            version = entry.gid.isIPv4Mapped ? 0 : 1
            index = entry.index
        }

        static func < (a: Rank, b: Rank) -> Bool {
            (a.kind, a.family, a.scope, a.version, a.index) < (b.kind, b.family, b.scope, b.version, b.index)
        }
    }
}
