// SPDX-License-Identifier: Apache-2.0

/// One side of a connection, as a value to give to the other side: as text or as bytes, by whatever means there is.
public struct Endpoint: Hashable, Sendable {
    /// Both sides need the same.
    public var transport: Transport
    /// The queue pair number, 24 bits.
    public var queuePair: UInt32
    /// The first packet sequence number that this side sends, 24 bits.
    public var psn: UInt32
    /// The port's address.
    public var gid: GID
    /// The local identifier on InfiniBand, zero on RoCE.
    public var lid: UInt16
    /// The largest path MTU that this side's port takes.
    public var mtu: MTU
    /// Reads and atomics that this side answers at a time.
    public var maxReads: UInt8
    /// The key of datagrams to this side (UD).
    public var qkey: UInt32

    /// An endpoint of all its members.
    public init(
        transport: Transport, queuePair: UInt32, psn: UInt32, gid: GID, lid: UInt16 = 0, mtu: MTU,
        maxReads: UInt8 = 0, qkey: UInt32 = 0
    ) {
        self.transport = transport
        self.queuePair = queuePair
        self.psn = psn
        self.gid = gid
        self.lid = lid
        self.mtu = mtu
        self.maxReads = maxReads
        self.qkey = qkey
    }
}

// Bytes.
extension Endpoint {
    /// The size of the byte form.
    public static let byteCount = 36

    /// Version 1 (1 byte), transport (1), MTU code (1), reads (1), queue pair number (4), PSN (4), qkey (4), LID (2),
    /// zero (2), GID (16); numbers in network order.
    public var bytes: [UInt8] {
        var bytes = [1, transportCode, UInt8(mtu.rawValue), maxReads]
        for value in [queuePair, psn, qkey] {
            for shift in [24, 16, 8, 0] as [UInt32] { bytes.append(UInt8(truncatingIfNeeded: value >> shift)) }
        }
        bytes += [UInt8(lid >> 8), UInt8(truncatingIfNeeded: lid), 0, 0]
        return bytes + gid.bytes
    }

    /// Reads the byte form; `nil` for what is not one.
    public init?(bytes: some Collection<UInt8>) {
        let bytes = [UInt8](bytes)
        guard bytes.count == Self.byteCount, bytes[0] == 1, bytes[18] == 0, bytes[19] == 0,
            let transport = Self.transport(code: bytes[1]), let mtu = MTU(rawValue: UInt32(bytes[2])),
            let gid = GID(bytes: bytes[20...])
        else { return nil }
        func number(_ offset: Int) -> UInt32 { bytes[offset..<offset + 4].reduce(0) { $0 << 8 | UInt32($1) } }
        guard number(4) <= 0xFF_FFFF, number(8) <= 0xFF_FFFF else { return nil }
        self.init(
            transport: transport, queuePair: number(4), psn: number(8), gid: gid,
            lid: UInt16(bytes[16]) << 8 | UInt16(bytes[17]), mtu: mtu, maxReads: bytes[3], qkey: number(12))
    }

    private var transportCode: UInt8 {
        switch transport {
        case .reliableConnected: 2
        case .unreliableConnected: 3
        case .unreliableDatagram: 4
        case .rawPacket: 8
        }
    }

    private static func transport(code: UInt8) -> Transport? {
        switch code {
        case 2: .reliableConnected
        case 3: .unreliableConnected
        case 4: .unreliableDatagram
        case 8: .rawPacket
        default: nil
        }
    }
}

// Text.
extension Endpoint: LosslessStringConvertible {
    /// `RC,qpn=0x11a,psn=0x7f3a21,lid=0,mtu=4096,reads=16,qkey=0x0,gid=::ffff:10.0.0.1`
    public var description: String {
        func hex(_ value: UInt32) -> String { "0x" + String(value, radix: 16) }
        return "\(transport),qpn=\(hex(queuePair)),psn=\(hex(psn)),lid=\(lid),mtu=\(mtu.byteCount),reads=\(maxReads),"
            + "qkey=\(hex(qkey)),gid=\(gid)"
    }

    /// Reads the text form; `nil` for what is not one. Fields may come in any order; unknown ones are skipped, so that
    /// later versions can add some.
    public init?(_ description: String) {
        let parts = description.split(separator: ",", omittingEmptySubsequences: false)
        guard let transport = Transport.allCases.first(where: { $0.description == parts[0] }) else { return nil }
        var fields: [Substring: Substring] = [:]
        for part in parts.dropFirst() {
            let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard pair.count == 2, fields.updateValue(pair[1], forKey: pair[0]) == nil else { return nil }
        }
        func number(_ name: Substring, max: UInt32) -> UInt32? {
            guard let text = fields[name] else { return nil }
            let value = text.hasPrefix("0x") ? UInt32(text.dropFirst(2), radix: 16) : UInt32(text)
            return value.flatMap { $0 <= max ? $0 : nil }
        }
        guard let queuePair = number("qpn", max: 0xFF_FFFF), let psn = number("psn", max: 0xFF_FFFF),
            let lid = number("lid", max: 0xFFFF), let reads = number("reads", max: 0xFF),
            let qkey = number("qkey", max: .max),
            let mtu = number("mtu", max: .max).flatMap({ MTU(byteCount: Int($0)) }),
            let gid = fields["gid"].flatMap({ GID(String($0)) })
        else { return nil }
        self.init(
            transport: transport, queuePair: queuePair, psn: psn, gid: gid, lid: UInt16(lid), mtu: mtu,
            maxReads: UInt8(reads), qkey: qkey)
    }
}
