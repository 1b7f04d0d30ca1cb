// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A classic BPF program on a socket, which says how many bytes of a packet it gets: all, or none.
///
/// Pure but for ``attach(to:)``: a list of instructions with two labels, `accept` and `refuse`, placed at its end.
package struct PacketFilter: Sendable, Equatable {
    /// What the kernel knows of a packet beside its bytes (`SKF_AD_…`), as an offset to load from.
    package enum Fact: UInt32, Sendable {
        case packetType = 0xFFFF_F004
        case interfaceIndex = 0xFFFF_F008
        case hasTag = 0xFFFF_F030
    }

    /// Where a jump goes that is not to the next instruction.
    package enum Target: Sendable { case accept, refuse }

    /// The offset of the IP header, wherever the filter's own bytes start (`SKF_NET_OFF`).
    package static let network: UInt32 = 0xFFF0_0000

    private struct Step: Equatable, Sendable {
        var code: UInt16
        var value: UInt32
        /// Of a jump: where to, if the comparison holds and if not; `nil` for the next instruction.
        var ifTrue: Target?
        var ifFalse: Target?
        /// Instructions to skip where it does not hold, instead.
        var skip = 0
    }

    private var steps: [Step] = []

    package init() {}

    package mutating func loadByte(at offset: UInt32) { append(0x30, offset) }
    package mutating func loadHalf(at offset: UInt32) { append(0x28, offset) }
    package mutating func load(_ fact: Fact) { append(0x20, fact.rawValue) }
    package mutating func loadLength() { append(0x80, 0) }
    package mutating func mask(_ value: UInt32) { append(0x54, value) }
    package mutating func require(_ value: UInt32, else target: Target) {
        steps.append(Step(code: 0x15, value: value, ifTrue: nil, ifFalse: target))
    }
    package mutating func refute(_ value: UInt32, else target: Target) {
        steps.append(Step(code: 0x15, value: value, ifTrue: target, ifFalse: nil))
    }
    package mutating func requireAtMost(_ value: UInt32, else target: Target) {
        steps.append(Step(code: 0x25, value: value, ifTrue: target, ifFalse: nil))
    }
    /// Ends the program here.
    package mutating func finish(_ target: Target) { append(0x06, target == .accept ? .max : 0) }

    /// The program, jumps resolved. At most some 250 instructions: a classic jump reaches no farther.
    package var instructions: [SteeringProgram.Instruction] {
        let end = steps.count
        func distance(_ target: Target?, _ index: Int) -> UInt8 {
            guard let target else { return 0 }
            return UInt8(clamping: end + (target == .accept ? 0 : 1) - index - 1)
        }
        var result = steps.enumerated().map { index, step in
            SteeringProgram.Instruction(
                code: step.code, jumpTrue: distance(step.ifTrue, index),
                jumpFalse: step.skip > 0 ? UInt8(clamping: step.skip) : distance(step.ifFalse, index),
                value: step.value)
        }
        result.append(SteeringProgram.Instruction(code: 0x06, jumpTrue: 0, jumpFalse: 0, value: .max))
        result.append(SteeringProgram.Instruction(code: 0x06, jumpTrue: 0, jumpFalse: 0, value: 0))
        return result
    }

    /// Puts the program in place; `false` with errno where the kernel refuses.
    func attach(to descriptor: Int32) -> Bool { Self.attach(instructions, to: descriptor) }

    /// Puts a program in place; `false` with errno where the kernel refuses.
    package static func attach(_ instructions: [SteeringProgram.Instruction], to descriptor: Int32) -> Bool {
        var filters = instructions.map {
            sock_filter(code: $0.code, jt: $0.jumpTrue, jf: $0.jumpFalse, k: $0.value)
        }
        return unsafe filters.withUnsafeMutableBufferPointer { buffer in
            // The kernel copies the instructions during the call.
            var program = unsafe sock_fprog(len: UInt16(buffer.count), filter: buffer.baseAddress)
            return unsafe setsockopt(
                descriptor, SOL_SOCKET, clinuxnet_so_attach_filter, &program, UInt32(MemoryLayout<sock_fprog>.size))
                == 0
        }
    }

    private mutating func append(_ code: UInt16, _ value: UInt32) {
        steps.append(Step(code: code, value: value))
    }
}

// The two filters that divide a link's packets between its AF_PACKET socket and its UDP sockets: what one takes the
// other refuses.
extension PacketFilter {
    /// Of the AF_PACKET socket: the frames that ``RoCEFilterProgram`` would redirect behind the driver, but for the
    /// address, which is looked at later.
    static func frames(slot: UInt8, mtu: Int) -> PacketFilter {
        var filter = PacketFilter()
        // To this host (PACKET_HOST), untagged.
        filter.load(.packetType)
        filter.require(0, else: .refuse)
        filter.load(.hasTag)
        filter.require(0, else: .refuse)
        filter.loadHalf(at: 12)
        var ipv6 = filter
        filter.require(0x0800, else: .refuse)
        filter.loadByte(at: 14)
        filter.require(0x45, else: .refuse)
        filter.loadByte(at: 23)
        filter.require(17, else: .refuse)
        filter.loadHalf(at: 20)
        filter.mask(0x3FFF)
        filter.require(0, else: .refuse)
        filter.loadHalf(at: 16)
        filter.requireAtMost(UInt32(mtu), else: .refuse)
        filter.finishUDP(at: 34, slot: slot)
        ipv6.require(0x86DD, else: .refuse)
        ipv6.loadByte(at: 20)
        ipv6.require(17, else: .refuse)
        ipv6.loadHalf(at: 18)
        ipv6.requireAtMost(UInt32(mtu - 40), else: .refuse)
        ipv6.finishUDP(at: 54, slot: slot)
        return either(filter, ipv6, at: 5)
    }

    /// Of a UDP socket beside it: all but those. The bytes start at the UDP header.
    static func sockets(interface: Int, slot: UInt8, mtu: Int, isIPv4: Bool) -> PacketFilter {
        var filter = PacketFilter()
        filter.load(.interfaceIndex)
        filter.require(UInt32(interface), else: .accept)
        filter.loadLength()
        filter.requireAtMost(UInt32(mtu - (isIPv4 ? 20 : 40)), else: .accept)
        if isIPv4 {
            filter.loadByte(at: network)
            filter.require(0x45, else: .accept)
        } else {
            filter.loadByte(at: network + 6)
            filter.require(17, else: .accept)
        }
        filter.loadHalf(at: 6)
        filter.require(0, else: .accept)
        filter.loadByte(at: 8 + 5)
        filter.require(UInt32(slot), else: .accept)
        filter.loadByte(at: 8)
        filter.refute(UInt32(SteeringProbe.opcode), else: .accept)
        filter.finish(.refuse)
        return filter
    }

    private mutating func finishUDP(at udp: UInt32, slot: UInt8) {
        loadHalf(at: udp + 2)
        require(UInt32(roceUDPPort), else: .refuse)
        // With a checksum it may be a burst in one piece.
        loadHalf(at: udp + 6)
        require(0, else: .refuse)
        loadByte(at: udp + 8 + 5)
        require(UInt32(slot), else: .refuse)
        loadByte(at: udp + 8)
        refute(UInt32(SteeringProbe.opcode), else: .refuse)
        finish(.accept)
    }

    /// Two programs that begin alike: the second is gone on with where the first's comparison at `branch` fails.
    private static func either(_ first: PacketFilter, _ second: PacketFilter, at branch: Int) -> PacketFilter {
        var joined = first
        joined.steps[branch].ifFalse = nil
        joined.steps[branch].skip = first.steps.count - branch - 1
        joined.steps += second.steps[branch...]
        return joined
    }
}
