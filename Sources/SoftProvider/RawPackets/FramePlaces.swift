// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO
import VerbsABI

/// The places that an interface may have.
enum FramePlaces {
    /// Highest first; `verbs` is another provider's.
    static let order: [ProviderFlowPlace] = [.ntuple, .xdpDirect, .xdp, .xdpGeneric, .packetRing, .packet, .udp]

    /// - Parameter rules: what it is to carry out first; they are inserted afterwards.
    static func open(
        _ place: ProviderFlowPlace, _ interface: NetworkInterface, _ mode: ProviderFlowMode, for rules: [FlowRule]
    ) throws(FramePlaceRefusal) -> any FramePlace {
        switch place {
        case .ntuple: return try NtuplePlace.open(interface, mode: mode)
        case .xdpDirect: return try XDPDirectPlace(interface, mode: mode)
        case .xdp: return try openXDP(interface, mode, .native)
        case .xdpGeneric: return try openXDP(interface, mode, .generic)
        case .packetRing: return try PacketRingPlace(interface, mode: mode, for: rules)
        case .packet: return try PacketSocketPlace(interface, mode: mode, for: rules)
        case .udp: return try DatagramPlace(interface, mode: mode)
        default: throw FramePlaceRefusal("it is not of this device")
        }
    }

    private static func openXDP(
        _ interface: NetworkInterface, _ mode: ProviderFlowMode, _ attachment: XDPAttachment.Mode
    ) throws(FramePlaceRefusal) -> any FramePlace {
        if LentXDPPlace.isWanted { return try LentXDPPlace(interface, mode: mode, attachment: attachment) }
        return try XDPPlace(interface, mode: mode, attachment: attachment)
    }
}
