// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// A set of process slots, 1...254.
package struct SlotSet: Sendable, Equatable {
    private var words = InlineWords()

    private struct InlineWords: Sendable, Equatable {
        var a: UInt64 = 0
        var b: UInt64 = 0
        var c: UInt64 = 0
        var d: UInt64 = 0
    }

    package init() {}

    package subscript(slot: UInt8) -> Bool {
        get { word(slot >> 6) >> UInt64(slot & 63) & 1 != 0 }
        set {
            let bit = UInt64(1) << UInt64(slot & 63)
            let value = newValue ? word(slot >> 6) | bit : word(slot >> 6) & ~bit
            switch slot >> 6 {
            case 0: words.a = value
            case 1: words.b = value
            case 2: words.c = value
            default: words.d = value
            }
        }
    }

    package var count: Int {
        words.a.nonzeroBitCount + words.b.nonzeroBitCount + words.c.nonzeroBitCount + words.d.nonzeroBitCount
    }

    package var isEmpty: Bool { count == 0 }

    private func word(_ index: UInt8) -> UInt64 {
        switch index {
        case 0: words.a
        case 1: words.b
        case 2: words.c
        default: words.d
        }
    }
}

/// One process's slot on one address: the mailbox socket whose name is the claim.
///
/// A queue pair number carries the slot in its high eight bits. 0 is not a slot, because queue pair 1 is the GSI of the
/// device, and neither is 255, because 0xFFFFFF is multicast. Closing the socket, or dying, frees the slot at once.
package struct SlotClaim: ~Copyable {
    package static let slots: ClosedRange<UInt8> = 1...254

    package let address: GID
    package let slot: UInt8
    let socket: FileDescriptor

    /// Claims the slot on one address; `nil` if a living process has it.
    package init?(address: GID, slot: UInt8, bufferBytes: Int) throws(PacketIOError) {
        var name = SlotName(address: address)
        name.setSlot(slot)
        guard let socket = try name.bindSocket() else { return nil }
        SocketOption.set(socket.number, SOL_SOCKET, clinuxnet_so_passcred, 1)
        // What a sender may have under way to mailboxes is bounded by its own send buffer.
        SocketOption.growBuffers(socket.number, bytes: bufferBytes)
        self.address = address
        self.slot = slot
        self.socket = socket
    }

    /// The slots of an address that living processes have, found by asking the kernel for each name (some 0.3 ms).
    package static func living(on address: GID) throws(PacketIOError) -> SlotSet {
        let probe = try FileDescriptor(CLinuxNet.socket(AF_UNIX, clinuxnet_sock_datagram, 0), call: "socket(AF_UNIX)")
        var name = SlotName(address: address)
        var living = SlotSet()
        for slot in slots {
            name.setSlot(slot)
            living[slot] = name.isTaken(probe: probe.number)
        }
        return living
    }
}
