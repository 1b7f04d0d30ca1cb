// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// The XDP program of a link: frames that carry RoCEv2 for this process's slot go to its AF_XDP sockets, all else up the
/// stack, and so to the UDP sockets that stay open.
///
/// A frame is taken if its Ethernet destination is the interface, it is untagged, is IPv4 without options and fragments or
/// IPv6 without extensions, is UDP to port 4791 of one of the link's addresses, is not longer than the interface's MTU
/// (a longer one is a burst that the kernel has not cut up yet: only the socket's GRO tells the segments), is no steering
/// probe, and has the slot in the high byte of its destination queue pair number. So queue pair 1, multicast, other
/// slots and everything else of the host stay with the kernel.
///
/// Pure: a description; ``BPFProgram`` loads it.
package struct RoCEFilterProgram: Sendable {
    /// The six bytes of the interface.
    package var hardwareAddress: [UInt8]
    package var slot: UInt8
    /// The longest IP packet that is taken.
    package var mtu: Int
    /// Whether frames may come that the kernel has joined, or not cut up yet, though they are no longer than the MTU:
    /// behind the driver. Those have a UDP checksum, which GSO and GRO insist on, so only frames without one are taken.
    package var excludesJoined: Bool
    /// The descriptor of a hash map: addresses as 16 bytes in network order, IPv4 as IPv4-mapped.
    package var addressMap: Int32
    /// The descriptor of a socket map by receive queue.
    package var socketMap: Int32

    package init(
        hardwareAddress: [UInt8], slot: UInt8, mtu: Int, excludesJoined: Bool, addressMap: Int32, socketMap: Int32
    ) {
        self.excludesJoined = excludesJoined
        self.hardwareAddress = hardwareAddress
        self.slot = slot
        self.mtu = mtu
        self.addressMap = addressMap
        self.socketMap = socketMap
    }

    /// A map for ``addressMap``.
    package static func makeAddressMap() throws(PacketIOError) -> BPFMap {
        try BPFMap(.hash, keyBytes: 16, valueBytes: 4, entryCount: UDPLink.addressesMax)
    }

    /// The key of an address in ``addressMap``.
    package struct AddressKey: BitwiseCopyable {
        private var high: UInt64
        private var low: UInt64

        package init(_ gid: GID) {
            high = gid.high.bigEndian
            low = gid.low.bigEndian
        }
    }

    private enum Offset {
        static let etherType: Int16 = 12
        static let network: Int16 = 14
        static let bthBytes: Int32 = 12
        static let slotInBTH: Int16 = 5
        static let keyOnStack: Int16 = -16
    }

    // struct xdp_md
    private enum Context {
        static let data: Int16 = 0
        static let dataEnd: Int16 = 4
        static let queue: Int16 = 16
    }

    /// The instructions. Registers: r6 the context, r7 the frame, r8 its end.
    package func assemble() throws(PacketIOError) -> [BPFInstruction] {
        var code = BPFAssembler()
        let pass = code.makeLabel()
        let ipv6 = code.makeLabel()
        let lookup = code.makeLabel()
        code.compute(.r6, .move, .r1)
        code.load(.r7, .word, at: .r6, Context.data)
        code.load(.r8, .word, at: .r6, Context.dataEnd)
        matchEthernet(&code, ipv6: ipv6, else: pass)
        matchIPv4(&code, else: pass)
        code.jump(to: lookup)
        code.place(ipv6)
        matchIPv6(&code, else: pass)
        code.place(lookup)
        code.load(.r1, mapDescriptor: addressMap)
        code.compute(.r2, .move, .stack)
        code.compute(.r2, .add, Int32(Offset.keyOnStack))
        code.call(.mapLookup)
        code.jump(if: .r0, .equal, 0, to: pass)
        code.load(.r2, .word, at: .r6, Context.queue)
        code.load(.r1, mapDescriptor: socketMap)
        code.compute(.r3, .move, BPFProgram.Verdict.pass.rawValue)
        code.call(.redirectMap)
        code.exit()
        code.place(pass)
        code.compute(.r0, .move, BPFProgram.Verdict.pass.rawValue)
        code.exit()
        return try code.assemble()
    }

    /// Falls through for IPv4.
    private func matchEthernet(_ code: inout BPFAssembler, ipv6: BPFAssembler.Label, else pass: BPFAssembler.Label) {
        requireBytes(14 + 20 + 8 + Offset.bthBytes, &code, else: pass)
        code.load(.r2, .word, at: .r7, 0)
        code.jump(ifWord: .r2, .notEqual, word(hardwareAddress[0..<4]), to: pass)
        code.load(.r2, .half, at: .r7, 4)
        code.jump(if: .r2, .notEqual, half(hardwareAddress[4], hardwareAddress[5]), to: pass)
        code.load(.r2, .half, at: .r7, Offset.etherType)
        code.jump(if: .r2, .equal, half(0x86, 0xDD), to: ipv6)
        code.jump(if: .r2, .notEqual, half(0x08, 0x00), to: pass)
    }

    private func matchIPv4(_ code: inout BPFAssembler, else pass: BPFAssembler.Label) {
        let ip = Offset.network
        code.load(.r2, .byte, at: .r7, ip)
        code.jump(if: .r2, .notEqual, 0x45, to: pass)
        code.load(.r2, .byte, at: .r7, ip + 9)
        code.jump(if: .r2, .notEqual, Int32(IPv4Header.udp), to: pass)
        // More fragments, or an offset.
        code.load(.r2, .half, at: .r7, ip + 6)
        code.jump(if: .r2, .anyBitSet, half(0x3F, 0xFF), to: pass)
        code.load(.r2, .half, at: .r7, ip + 2)
        code.swapToNetworkOrder(.r2, bits: 16)
        code.jump(if: .r2, .greater, Int32(mtu), to: pass)
        matchUDP(&code, at: ip + 20, else: pass)
        code.store(constant: 0, .double, at: .stack, Offset.keyOnStack)
        code.store(constant: Int32(bitPattern: 0xFFFF_0000), .word, at: .stack, Offset.keyOnStack + 8)
        code.load(.r2, .word, at: .r7, ip + 16)
        code.store(.r2, .word, at: .stack, Offset.keyOnStack + 12)
    }

    private func matchIPv6(_ code: inout BPFAssembler, else pass: BPFAssembler.Label) {
        let ip = Offset.network
        requireBytes(14 + 40 + 8 + Offset.bthBytes, &code, else: pass)
        code.load(.r2, .byte, at: .r7, ip)
        code.compute(.r2, .and, 0xF0)
        code.jump(if: .r2, .notEqual, 0x60, to: pass)
        code.load(.r2, .byte, at: .r7, ip + 6)
        code.jump(if: .r2, .notEqual, Int32(IPv4Header.udp), to: pass)
        code.load(.r2, .half, at: .r7, ip + 4)
        code.swapToNetworkOrder(.r2, bits: 16)
        code.jump(if: .r2, .greater, Int32(mtu - 40), to: pass)
        matchUDP(&code, at: ip + 40, else: pass)
        for word: Int16 in 0..<4 {
            code.load(.r2, .word, at: .r7, ip + 24 + word * 4)
            code.store(.r2, .word, at: .stack, Offset.keyOnStack + word * 4)
        }
    }

    private func matchUDP(_ code: inout BPFAssembler, at udp: Int16, else pass: BPFAssembler.Label) {
        let bth = udp + 8
        code.load(.r2, .half, at: .r7, udp + 2)
        code.jump(
            if: .r2, .notEqual, half(UInt8(roceUDPPort >> 8), UInt8(truncatingIfNeeded: roceUDPPort)), to: pass)
        if excludesJoined {
            code.load(.r2, .half, at: .r7, udp + 6)
            code.jump(if: .r2, .notEqual, 0, to: pass)
        }
        code.load(.r2, .byte, at: .r7, bth + Offset.slotInBTH)
        code.jump(if: .r2, .notEqual, Int32(slot), to: pass)
        code.load(.r2, .byte, at: .r7, bth)
        code.jump(if: .r2, .equal, Int32(SteeringProbe.opcode), to: pass)
    }

    /// The verifier wants the bytes compared with the end before they are read.
    private func requireBytes(_ count: Int32, _ code: inout BPFAssembler, else pass: BPFAssembler.Label) {
        code.compute(.r2, .move, .r7)
        code.compute(.r2, .add, count)
        code.jump(if: .r2, .greater, .r8, to: pass)
    }

    /// Bytes of a frame as a load of this little-endian machine shows them.
    private func half(_ first: UInt8, _ second: UInt8) -> Int32 { Int32(first) | Int32(second) << 8 }
    private func word(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }
}
