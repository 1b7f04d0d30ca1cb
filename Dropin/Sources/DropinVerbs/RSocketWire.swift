// SPDX-License-Identifier: Apache-2.0

// What stream rsockets say to each other: the protocol of rdma-core's rsockets, version 1 (librdmacm/docs/rsocket).

/// A piece of the peer's memory: where it is, the key to it, and its bytes (of a table: its entries).
struct RemoteRange: Equatable {
    /// What an entry of a table of these takes.
    static let byteCount = 16

    var address: UInt64
    var key: UInt32
    var length: UInt32

    /// The peer reads entries from its memory in its own byte order.
    func swapped(_ isSwapped: Bool) -> RemoteRange {
        isSwapped ? RemoteRange(address: address.byteSwapped, key: key.byteSwapped, length: length.byteSwapped) : self
    }
}

/// Both ends' private data while they connect; numbers are big-endian.
struct StreamGreeting: Equatable {
    static let byteCount = 40
    private static let bigEndianFlag: UInt8 = 1
    private static let offsetMapFlag: UInt8 = 2

    /// Messages that its owner takes before it grants more.
    var credits: UInt16
    /// Whether entries in its owner's memory are in another byte order than ours.
    var isSwapped = false
    /// How many entries its owner has for mapped memory, right behind `targets`.
    var offsetMapCount: Int
    /// Its owner's table of our receive buffers; `length` counts entries.
    var targets: RemoteRange
    /// Where the first bytes to its owner go.
    var firstBuffer: RemoteRange

    /// - Returns: `nil` for what is no greeting of version 1.
    init?(_ bytes: [UInt8]) {
        guard bytes.count >= Self.byteCount, bytes[0] == 1 else { return nil }
        func number<Integer: FixedWidthInteger>(_ offset: Int, as type: Integer.Type) -> Integer {
            bytes[offset..<offset + Integer.bitWidth / 8].reduce(0) { $0 << 8 | Integer(truncatingIfNeeded: $1) }
        }
        func range(_ offset: Int) -> RemoteRange {
            RemoteRange(
                address: number(offset, as: UInt64.self), key: number(offset + 8, as: UInt32.self),
                length: number(offset + 12, as: UInt32.self))
        }
        credits = number(2, as: UInt16.self)
        isSwapped = (bytes[1] & Self.bigEndianFlag != 0) == (1.littleEndian == 1)
        offsetMapCount = bytes[1] & Self.offsetMapFlag != 0 ? Self.count(ofScale: bytes[7]) : 0
        targets = range(8)
        firstBuffer = range(24)
        guard targets.length > 0 else { return nil }
    }

    init(credits: UInt16, offsetMapCount: Int, targets: RemoteRange, firstBuffer: RemoteRange) {
        self.credits = credits
        self.offsetMapCount = offsetMapCount
        self.targets = targets
        self.firstBuffer = firstBuffer
    }

    var bytes: [UInt8] {
        func number(_ value: some FixedWidthInteger) -> [UInt8] {
            stride(from: value.bitWidth - 8, through: 0, by: -8).map { UInt8(truncatingIfNeeded: value >> $0) }
        }
        func range(_ value: RemoteRange) -> [UInt8] { number(value.address) + number(value.key) + number(value.length) }
        let flags = Self.offsetMapFlag | (1.littleEndian == 1 ? 0 : Self.bigEndianFlag)
        return [1, flags] + number(credits) + [0, 0, 0, Self.scale(ofCount: offsetMapCount)] + range(targets)
            + range(firstBuffer)
    }

    /// A count in one byte: up to 128 as it is, more in steps of 256.
    static func scale(ofCount count: Int) -> UInt8 {
        count <= 128 ? UInt8(max(count, 0)) : UInt8(128 | min(count >> 8, 127))
    }

    static func count(ofScale scale: UInt8) -> Int { scale <= 128 ? Int(scale) : Int(scale & 127) << 8 }
}

/// The immediate data of a write: what it is in three bits, and a number in 29.
enum StreamMessage: Equatable {
    enum Control: UInt32 {
        /// No more comes, and no more is taken.
        case disconnect = 0
        /// Named by the protocol, which sends a write without immediate data instead.
        case keepalive = 1
        /// No more comes.
        case shutdown = 2
    }

    /// That many bytes were written to the next place of a receive buffer.
    case data(UInt32)
    /// Messages up to this number may be sent; an entry of the table of buffers may be new.
    case credit(UInt16)
    /// That entry of the table of mapped memory is new.
    case mapped(UInt32)
    case control(Control)

    private static let valueMask: UInt32 = 0x1FFF_FFFF

    /// - Returns: `nil` for what the protocol reserves.
    init?(immediate: UInt32) {
        let value = immediate & Self.valueMask
        switch immediate >> 29 {
        case 0: self = .data(value)
        case 4: self = .credit(UInt16(truncatingIfNeeded: value))
        case 6: self = .mapped(value)
        case 7:
            guard let control = Control(rawValue: value) else { return nil }
            self = .control(control)
        default: return nil
        }
    }

    var immediate: UInt32 {
        switch self {
        case .data(let count): count & Self.valueMask
        case .credit(let limit): 4 << 29 | UInt32(limit)
        case .mapped(let index): 6 << 29 | index & Self.valueMask
        case .control(let control): 7 << 29 | control.rawValue
        }
    }
}
