// SPDX-License-Identifier: Apache-2.0

/// The first byte of a packet. Any value may arrive; ``descriptor`` says what it means.
public struct Opcode: RawRepresentable, Hashable, Sendable {
    /// Transport in the high three bits, operation in the low five.
    public let rawValue: UInt8

    /// An opcode, known or not.
    @inlinable @inline(__always)
    public init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// Congestion notification packet. The whole byte is the opcode.
    @inlinable public static var congestionNotification: Opcode { Opcode(rawValue: 0x81) }
    /// First opcode of the range for vendors, which the software device uses to learn how packets are steered.
    @inlinable public static var vendorFirst: Opcode { Opcode(rawValue: 0xC0) }

    // Reliable connection. The codes up to `rcWriteOnlyImmediate` exist on UC as well, 0x20 higher.
    /// RC SEND first.
    @inlinable public static var rcSendFirst: Opcode { Opcode(rawValue: 0x00) }
    /// RC SEND middle.
    @inlinable public static var rcSendMiddle: Opcode { Opcode(rawValue: 0x01) }
    /// RC SEND last.
    @inlinable public static var rcSendLast: Opcode { Opcode(rawValue: 0x02) }
    /// RC SEND last with immediate.
    @inlinable public static var rcSendLastImmediate: Opcode { Opcode(rawValue: 0x03) }
    /// RC SEND only.
    @inlinable public static var rcSendOnly: Opcode { Opcode(rawValue: 0x04) }
    /// RC SEND only with immediate.
    @inlinable public static var rcSendOnlyImmediate: Opcode { Opcode(rawValue: 0x05) }
    /// RC RDMA WRITE first.
    @inlinable public static var rcWriteFirst: Opcode { Opcode(rawValue: 0x06) }
    /// RC RDMA WRITE middle.
    @inlinable public static var rcWriteMiddle: Opcode { Opcode(rawValue: 0x07) }
    /// RC RDMA WRITE last.
    @inlinable public static var rcWriteLast: Opcode { Opcode(rawValue: 0x08) }
    /// RC RDMA WRITE last with immediate.
    @inlinable public static var rcWriteLastImmediate: Opcode { Opcode(rawValue: 0x09) }
    /// RC RDMA WRITE only.
    @inlinable public static var rcWriteOnly: Opcode { Opcode(rawValue: 0x0A) }
    /// RC RDMA WRITE only with immediate.
    @inlinable public static var rcWriteOnlyImmediate: Opcode { Opcode(rawValue: 0x0B) }
    /// RC RDMA READ request.
    @inlinable public static var rcReadRequest: Opcode { Opcode(rawValue: 0x0C) }
    /// RC RDMA READ response first.
    @inlinable public static var rcReadResponseFirst: Opcode { Opcode(rawValue: 0x0D) }
    /// RC RDMA READ response middle: the only response without an AETH.
    @inlinable public static var rcReadResponseMiddle: Opcode { Opcode(rawValue: 0x0E) }
    /// RC RDMA READ response last.
    @inlinable public static var rcReadResponseLast: Opcode { Opcode(rawValue: 0x0F) }
    /// RC RDMA READ response only; with no payload it also answers FLUSH and ATOMIC WRITE.
    @inlinable public static var rcReadResponseOnly: Opcode { Opcode(rawValue: 0x10) }
    /// RC acknowledge: ACK, RNR NAK or NAK by its syndrome.
    @inlinable public static var rcAcknowledge: Opcode { Opcode(rawValue: 0x11) }
    /// RC atomic acknowledge.
    @inlinable public static var rcAtomicAcknowledge: Opcode { Opcode(rawValue: 0x12) }
    /// RC compare and swap.
    @inlinable public static var rcCompareSwap: Opcode { Opcode(rawValue: 0x13) }
    /// RC fetch and add.
    @inlinable public static var rcFetchAdd: Opcode { Opcode(rawValue: 0x14) }
    /// RC SEND last with invalidate.
    @inlinable public static var rcSendLastInvalidate: Opcode { Opcode(rawValue: 0x16) }
    /// RC SEND only with invalidate.
    @inlinable public static var rcSendOnlyInvalidate: Opcode { Opcode(rawValue: 0x17) }
    /// RC FLUSH (IBTA annex A19).
    @inlinable public static var rcFlush: Opcode { Opcode(rawValue: 0x1C) }
    /// RC ATOMIC WRITE (IBTA annex A19).
    @inlinable public static var rcAtomicWrite: Opcode { Opcode(rawValue: 0x1D) }

    /// The opcode of XRC for one of RC, 0xA0 higher (IBTA annex A14).
    @inlinable @inline(__always)
    public var xrc: Opcode { Opcode(rawValue: rawValue | 0xA0) }

    // Unreliable connection.
    /// UC SEND first.
    @inlinable public static var ucSendFirst: Opcode { Opcode(rawValue: 0x20) }
    /// UC SEND middle.
    @inlinable public static var ucSendMiddle: Opcode { Opcode(rawValue: 0x21) }
    /// UC SEND last.
    @inlinable public static var ucSendLast: Opcode { Opcode(rawValue: 0x22) }
    /// UC SEND last with immediate.
    @inlinable public static var ucSendLastImmediate: Opcode { Opcode(rawValue: 0x23) }
    /// UC SEND only.
    @inlinable public static var ucSendOnly: Opcode { Opcode(rawValue: 0x24) }
    /// UC SEND only with immediate.
    @inlinable public static var ucSendOnlyImmediate: Opcode { Opcode(rawValue: 0x25) }
    /// UC RDMA WRITE first.
    @inlinable public static var ucWriteFirst: Opcode { Opcode(rawValue: 0x26) }
    /// UC RDMA WRITE middle.
    @inlinable public static var ucWriteMiddle: Opcode { Opcode(rawValue: 0x27) }
    /// UC RDMA WRITE last.
    @inlinable public static var ucWriteLast: Opcode { Opcode(rawValue: 0x28) }
    /// UC RDMA WRITE last with immediate.
    @inlinable public static var ucWriteLastImmediate: Opcode { Opcode(rawValue: 0x29) }
    /// UC RDMA WRITE only.
    @inlinable public static var ucWriteOnly: Opcode { Opcode(rawValue: 0x2A) }
    /// UC RDMA WRITE only with immediate.
    @inlinable public static var ucWriteOnlyImmediate: Opcode { Opcode(rawValue: 0x2B) }

    // Unreliable datagram.
    /// UD SEND only.
    @inlinable public static var udSendOnly: Opcode { Opcode(rawValue: 0x64) }
    /// UD SEND only with immediate.
    @inlinable public static var udSendOnlyImmediate: Opcode { Opcode(rawValue: 0x65) }
}

extension Opcode: CustomStringConvertible {
    /// `RC WRITE FIRST`, or the byte where it has no meaning.
    public var description: String {
        let d = descriptor
        guard d.isKnown else { return "opcode 0x" + String(rawValue, radix: 16) }
        return d.description
    }
}
