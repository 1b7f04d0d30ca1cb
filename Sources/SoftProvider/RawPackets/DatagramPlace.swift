// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowSteering
import PacketIO
import RoCEWire
import VerbsABI

/// Flow rules that are only addresses and UDP ports, by ordinary UDP sockets: for a process without any privilege.
///
/// Each socket takes its port's datagrams from the kernel's stack, which would have nobody to give them to. What a rule asks beyond the
/// socket's address and port, the classifier sees to.
final class DatagramPlace: FramePlace {
    private var sockets: DatagramSockets
    private var ports: [FlowID: DatagramSockets.Port] = [:]
    private var ruleCounts: [DatagramSockets.Port: Int] = [:]

    var place: ProviderFlowPlace { .udp }
    var descriptors: [Int32] { sockets.descriptors }
    /// What the kernel drops before a socket is in the counters of UDP (`nstat UdpRcvbufErrors`).
    var dropped: UInt64 { 0 }

    init(_ interface: NetworkInterface, mode: ProviderFlowMode) throws(FramePlaceRefusal) {
        guard mode != .exclusive else {
            throw FramePlaceRefusal(
                "UDP sockets leave all other traffic to the kernel's stack: the exclusive mode needs XDP or TC")
        }
        sockets = DatagramSockets(interface: interface)
    }

    func insert(_ rule: FlowRule, _ id: FlowID) throws(FramePlaceRefusal) {
        let port = try Self.port(of: rule)
        do throws(PacketIOError) {
            try sockets.open(port)
        } catch {
            if case .system(_, EADDRINUSE) = error {
                throw FramePlaceRefusal("UDP port \(port.number) is in use by another socket")
            }
            throw FramePlaceRefusal(error)
        }
        ports[id] = port
        ruleCounts[port, default: 0] += 1
    }

    func remove(_ id: FlowID) {
        guard let port = ports.removeValue(forKey: id), let count = ruleCounts[port] else { return }
        ruleCounts[port] = count == 1 ? nil : count - 1
        if count == 1 { sockets.close(port) }
    }

    func receive(into frames: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int {
        unsafe sockets.receive(into: frames, limit: limit)
    }

    /// The socket that receives all that a rule wants.
    private static func port(of rule: FlowRule) throws(FramePlaceRefusal) -> DatagramSockets.Port {
        guard rule.kind == .normal, !rule.doesNotTrap else {
            throw FramePlaceRefusal(
                "a UDP socket has no copies of what others have: defaults and sniffers need AF_PACKET")
        }
        var address: GID?
        var isIPv6: Bool?
        for specification in rule.specifications where !specification.isInner {
            switch specification.header {
            case .ipv4(let header):
                isIPv6 = false
                guard let exact = exact(header.destination.bits) else {
                    throw FramePlaceRefusal("a UDP socket is bound to one address or to all: not to a prefix")
                }
                address = exact.map { GID(ipv4: $0) }
            case .ipv6(let header):
                isIPv6 = true
                guard let exact = exact(header.destination.bits) else {
                    throw FramePlaceRefusal("a UDP socket is bound to one address or to all: not to a prefix")
                }
                address = exact.map {
                    GID(high: UInt64(truncatingIfNeeded: $0 >> 64), low: UInt64(truncatingIfNeeded: $0))
                }
            case .udp(let ports):
                guard let isIPv6, let exact = exact(ports.destination), let number = exact else {
                    throw FramePlaceRefusal("a UDP socket needs a destination port without a mask")
                }
                return DatagramSockets.Port(address: address, isIPv6: isIPv6, number: number)
            default: throw FramePlaceRefusal("a UDP socket sees nothing but IP addresses and UDP ports")
            }
        }
        throw FramePlaceRefusal("a UDP socket receives UDP alone: the rule names none")
    }

    /// `.some(nil)` for any value, `nil` for a masked one.
    private static func exact<Value>(_ pattern: FlowPattern<Value>) -> Value?? {
        if pattern.isAny { return .some(nil) }
        return pattern.mask == .max ? .some(pattern.value) : nil
    }
}
