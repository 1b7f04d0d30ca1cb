// SPDX-License-Identifier: Apache-2.0

/// A queue pair number: 24 bits.
public struct QPN: Hashable, Sendable {
    /// The number, 0...0xFFFFFF.
    public let rawValue: UInt32

    /// Takes the low 24 bits of `value`.
    @inlinable @inline(__always)
    public init(truncating value: UInt32) {
        rawValue = value & 0xFF_FFFF
    }

    /// Queue pair 0, the subnet manager's: it does not exist on Ethernet, and packets to it are dropped.
    @inlinable public static var subnetManagement: QPN { QPN(truncating: 0) }

    /// Queue pair 1, the general services interface, which carries the connection manager's messages.
    @inlinable public static var gsi: QPN { QPN(truncating: 1) }

    /// 0xFFFFFF: every member of the multicast group in the destination address.
    @inlinable public static var multicast: QPN { QPN(truncating: 0xFF_FFFF) }

    /// The process slot of the software device: the high 8 bits. Processes share a device's address, and this byte
    /// (byte 5 of the packet) says whose queue pair it is.
    @inlinable @inline(__always)
    public var slot: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 16) }
}

extension QPN: CustomStringConvertible {
    /// Hexadecimal with six digits, as `ibv_rc_pingpong` prints it.
    public var description: String {
        let digits = String(rawValue, radix: 16)
        return "0x" + String(repeating: "0", count: 6 - digits.count) + digits
    }
}
