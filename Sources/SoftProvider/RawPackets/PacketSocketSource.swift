// SPDX-License-Identifier: Apache-2.0
import FlowLending
import FlowSteering
import Glibc
import PacketIO
import VerbsABI

/// An AF_PACKET socket of this process, or one that `verbs steerd` lends it: where it lacks the privilege, or `VERBS_STEERD` says so.
struct PacketSocketSource: ~Copyable {
    let socket: UnboundPacketSocket
    /// What a lent socket is for; `nil` for one of the process.
    let grant: PacketSocketGrant?

    /// The socket alone.
    consuming func takeSocket() -> UnboundPacketSocket { socket }

    /// A socket that receives what these rules match, at least.
    static func receiving(
        _ rules: [FlowRule], on interface: NetworkInterface
    ) throws(FramePlaceRefusal) -> PacketSocketSource {
        try open(interface) { client throws(Refusal) in try client.receiving(rules, on: interface.name) }
    }

    /// A socket that sends.
    static func sending(on interface: NetworkInterface) throws(FramePlaceRefusal) -> PacketSocketSource {
        try open(interface) { client throws(Refusal) in try client.sending(on: interface.name) }
    }

    /// The steerd that `VERBS_STEERD` says is to be asked in any case.
    static var chosenLender: String? {
        // Copied at once, as all of the environment.
        let path = unsafe getenv("VERBS_STEERD").map { unsafe String(cString: $0) } ?? ""
        return path.isEmpty ? nil : path
    }

    private static func open(
        _ interface: NetworkInterface, _ ask: (LendingClient) throws(Refusal) -> LentSocket
    ) throws(FramePlaceRefusal) -> PacketSocketSource {
        let chosen = chosenLender
        if chosen == nil {
            do throws(PacketIOError) {
                return PacketSocketSource(socket: try UnboundPacketSocket(), grant: nil)
            } catch {
                guard case .system(_, EPERM) = error else { throw FramePlaceRefusal(error) }
            }
        }
        let client = LendingClient(path: chosen ?? LendingClient.defaultPath)
        do throws(Refusal) {
            let lent = try ask(client)
            let grant = PacketSocketGrant(lender: client.path, rules: lent.rules, sources: lent.sources)
            return PacketSocketSource(socket: lent.takeSocket(), grant: grant)
        } catch {
            throw FramePlaceRefusal(
                chosen == nil
                    ? "socket(AF_PACKET) needs CAP_NET_RAW: run as root, or give the program the capability, or have `verbs "
                        + "steerd` lend the socket: \(error.reason)"
                    : error.reason, isOfPrivilege: true)
        }
    }
}

/// What a lent socket is for, whatever becomes of its lender.
struct PacketSocketGrant {
    let lender: String
    /// What its filter lets pass.
    let rules: [FlowRule]
    /// What may be sent; `nil` for anything.
    let sources: SourceCheck?

    /// Of a flow that comes later.
    func check(_ rule: FlowRule) throws(FramePlaceRefusal) {
        if rules.contains(where: { $0.covers(rule) }) { return }
        throw FramePlaceRefusal(
            "the socket that steerd at \(lender) lent does not receive '\(rule)'; it receives "
                + rules.map { "'\($0)'" }.joined(separator: ", "), isOfPrivilege: true)
    }
}
