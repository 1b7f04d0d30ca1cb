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
        case .xdp: return try XDPPlace(interface, mode: mode, attachment: .native)
        case .xdpGeneric: return try XDPPlace(interface, mode: mode, attachment: .generic)
        case .packetRing: return try PacketRingPlace(interface, mode: mode, for: rules)
        case .packet: return try PacketSocketPlace(interface, mode: mode, for: rules)
        case .udp: return try DatagramPlace(interface, mode: mode)
        default: throw FramePlaceRefusal("it is not of this device")
        }
    }
}
