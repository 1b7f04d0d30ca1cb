// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowLending
import FlowSteering
import PacketIO
import VerbsABI

/// The same as ``XDPPlace`` for a process without privileges: `verbs steerd` has made the sockets, and changes the program.
///
/// The sockets receive only: sending is left to AF_PACKET. The flows outlive the steerd; only rules cannot be changed then.
final class LentXDPPlace: FramePlace {
    private var frames: XDPFrames
    private let lent: LentInterface
    private let mode: XDPAttachment.Mode
    private let path: String
    var dropped: UInt64 { frames.dropped }

    var place: ProviderFlowPlace { mode == .native ? .xdp : .xdpGeneric }
    var namesRules: Bool { true }
    var lender: String? { path }
    var descriptors: [Int32] { (0..<frames.queueCount).map { frames.descriptor($0) } }

    /// Whether a steerd is to be asked: `VERBS_STEERD` says so, or the privileges are missing.
    static var isWanted: Bool {
        PacketSocketSource.chosenLender != nil || !Capability.missing(of: Capability.forXDP).isEmpty
    }

    init(
        _ interface: NetworkInterface, mode: ProviderFlowMode, attachment: XDPAttachment.Mode
    ) throws(FramePlaceRefusal) {
        let chosen = PacketSocketSource.chosenLender
        path = chosen ?? LendingClient.defaultPath
        self.mode = attachment
        let own = chosen == nil ? XDPSelection.impossibility(interface).map { "\($0), or have it lent: " } ?? "" : ""
        guard mode != .exclusive else {
            throw FramePlaceRefusal(
                "\(own)steerd lends no interface in the exclusive mode: choose another", isOfPrivilege: true)
        }
        do throws(Refusal) {
            lent = try LendingClient(path: path).interface(interface.name, mode: attachment)
            frames = try lent.openFrames()
        } catch {
            throw FramePlaceRefusal(own + error.reason, isOfPrivilege: true)
        }
    }

    func insert(_ rule: FlowRule, _ id: FlowID) throws(FramePlaceRefusal) {
        do throws(Refusal) {
            try lent.insert(rule, id)
        } catch {
            throw FramePlaceRefusal(error.reason, isOfPrivilege: true)
        }
    }

    func remove(_ id: FlowID) {
        // Where it fails the frames still come, and find no flow.
        try? lent.remove(id)
    }

    func counters(of id: FlowID) -> ProviderFlowCounters? {
        var counters = ProviderFlowCounters()
        guard let counted = lent.counters(of: id) else { return counters }
        counters.packets = counted.packets
        counters.bytes = counted.bytes
        return counters
    }

    func receive(into received: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int {
        unsafe frames.receive(into: received, limit: limit)
    }
}
