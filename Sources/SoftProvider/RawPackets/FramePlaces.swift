// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO
import VerbsABI

/// The places that an interface may have.
enum FramePlaces {
    /// Highest first; `verbs` is another provider's.
    static let order: [ProviderFlowPlace] = [.ntuple, .xdpDirect, .xdp, .xdpGeneric, .packetRing, .packet, .udp]

    static func open(
        _ place: ProviderFlowPlace, _ interface: NetworkInterface, _ mode: ProviderFlowMode
    ) throws(FramePlaceRefusal) -> any FramePlace {
        switch place {
        case .ntuple: return try NtuplePlace.open(interface, mode: mode)
        case .xdpDirect: return try XDPDirectPlace(interface, mode: mode)
        case .xdp: return try XDPPlace(interface, mode: mode, attachment: .native)
        case .xdpGeneric: return try XDPPlace(interface, mode: mode, attachment: .generic)
        case .packetRing: return try PacketRingPlace(interface, mode: mode)
        case .packet: return try PacketSocketPlace(interface, mode: mode)
        case .udp: return try DatagramPlace(interface, mode: mode)
        default: throw FramePlaceRefusal("it is not of this device")
        }
    }
}
