// SPDX-License-Identifier: Apache-2.0

/// One queue pair as perftest's handshake describes it: text of fixed length, hexadecimal fields, a NUL at the end; or,
/// through the connection manager (`-R`), a C structure with its numbers in network order.
///
/// With a GID (always on RoCE) 108 bytes: `lid:reads:qpn:psn:rkey:address:` then 16 bytes of GID and the SRQ number,
/// each with a colon after it. Without, 59 bytes, and no colon after the SRQ number.
package struct DestinationRecord: Equatable, Sendable {
    /// How a record is written.
    package enum Form: Equatable, Sendable {
        /// Text.
        case withGID, withoutGID
        /// perftest's structure, since version 6.29 with one address more.
        case structure(hasMarkers: Bool)

        package var byteCount: Int {
            switch self {
            case .withGID: 108
            case .withoutGID: 59
            case .structure(let hasMarkers): hasMarkers ? 64 : 56
            }
        }
    }

    package var lid: UInt16 = 0
    /// READ and ATOMIC requests that this end accepts; 1 in tests of the other operations.
    package var outstandingReads: UInt16 = 1
    package var queuePairNumber: UInt32
    package var psn: UInt32
    package var rkey: UInt32 = 0
    /// Where the peer may write or read: valid for the larger of the message size and the cycle buffer.
    package var address: UInt64 = 0
    package var gid: [UInt8] = []
    package var sharedReceiveQueueNumber: UInt32 = 0

    package init(
        queuePairNumber: UInt32, psn: UInt32, lid: UInt16 = 0, outstandingReads: UInt16 = 1, rkey: UInt32 = 0,
        address: UInt64 = 0, gid: [UInt8] = []
    ) {
        self.lid = lid
        self.outstandingReads = outstandingReads
        self.queuePairNumber = queuePairNumber
        self.psn = psn
        self.rkey = rkey
        self.address = address
        self.gid = gid
    }

    /// The form of the text.
    package var form: Form { gid.count == 16 ? .withGID : .withoutGID }

    /// The bytes on the link.
    package func encoded(as form: Form) -> [UInt8] {
        if case .structure(let hasMarkers) = form { structure(hasMarkers: hasMarkers) } else { encoded() }
    }

    /// The bytes on the socket, trailing NUL included.
    package func encoded() -> [UInt8] {
        var text = HexText()
        text.append(UInt64(lid), digits: 4, then: ":")
        text.append(UInt64(outstandingReads), digits: 4, then: ":")
        text.append(UInt64(queuePairNumber), digits: 6, then: ":")
        text.append(UInt64(psn), digits: 6, then: ":")
        text.append(UInt64(rkey), digits: 8, then: ":")
        text.append(address, digits: 16, then: ":")
        if form == .withGID {
            for byte in gid { text.append(UInt64(byte), digits: 2, then: ":") }
            text.append(UInt64(sharedReceiveQueueNumber), digits: 8, then: ":")
        } else {
            text.append(UInt64(sharedReceiveQueueNumber), digits: 8, then: nil)
        }
        return text.bytes + [0]
    }

    /// Reads a record; every field must have its exact length, as the programs write it.
    ///
    /// - Throws: ``PerfError/protocolMismatch(_:)`` for anything else.
    package init(parsing bytes: [UInt8], form: Form) throws(PerfError) {
        if case .structure(let hasMarkers) = form {
            guard bytes.count == form.byteCount else {
                throw Self.mismatch(bytes, "a record of \(form.byteCount) bytes")
            }
            self.init(structure: bytes, hasMarkers: hasMarkers)
            return
        }
        guard bytes.count == form.byteCount, bytes.last == 0 else {
            throw Self.mismatch(bytes, "a record of \(form.byteCount) bytes that ends in NUL")
        }
        var reader = HexReader(bytes: bytes)
        guard
            let lid = reader.field(digits: 4), let reads = reader.field(digits: 4),
            let qpn = reader.field(digits: 6), let psn = reader.field(digits: 6),
            let rkey = reader.field(digits: 8), let address = reader.field(digits: 16)
        else { throw Self.mismatch(bytes, "six hexadecimal fields") }
        var gid: [UInt8] = []
        if form == .withGID {
            for _ in 0..<16 {
                guard let byte = reader.field(digits: 2) else { throw Self.mismatch(bytes, "a GID") }
                gid.append(UInt8(byte))
            }
        }
        guard let srqn = reader.field(digits: 8, terminator: form == .withGID ? UInt8(ascii: ":") : 0) else {
            throw Self.mismatch(bytes, "a shared receive queue number")
        }
        self.init(
            queuePairNumber: UInt32(qpn), psn: UInt32(psn), lid: UInt16(lid), outstandingReads: UInt16(reads),
            rkey: UInt32(rkey), address: address, gid: gid)
        sharedReceiveQueueNumber = UInt32(srqn)
    }

    private static func mismatch(_ bytes: [UInt8], _ expected: String) -> PerfError {
        let printable = bytes.prefix(120).map { (32..<127).contains($0) ? Character(UnicodeScalar($0)) : "." }
        return .protocolMismatch(
            """
            The peer sent "\(String(printable))" where \(expected) belongs. Does it run the same test, with the same \
            -q, and does it use a GID as this end does?
            """)
    }
}

// The structure of `-R`: five 32-bit numbers, 4 bytes of padding, the address, (8 bytes for data validation), the GID,
// the number of the shared receive queue and the index of the GID.
extension DestinationRecord {
    private static let addressOffset = 24

    private func structure(hasMarkers: Bool) -> [UInt8] {
        var bytes: [UInt8] = []
        for number in [UInt32(lid), UInt32(outstandingReads), queuePairNumber, psn, rkey, 0] {
            bytes += number.bigEndianBytes
        }
        bytes += address.bigEndianBytes
        if hasMarkers { bytes += UInt64(0).bigEndianBytes }
        bytes += gid.count == 16 ? gid : [UInt8](repeating: 0, count: 16)
        return bytes + sharedReceiveQueueNumber.bigEndianBytes + UInt32(0).bigEndianBytes
    }

    /// Any bytes are a record: a peer's first ones are zeros.
    private init(structure bytes: [UInt8], hasMarkers: Bool) {
        func number(_ index: Int) -> UInt32 { UInt32(bigEndianBytes: bytes[(4 * index)..<(4 * index + 4)]) }
        let gid = Self.addressOffset + (hasMarkers ? 16 : 8)
        self.init(
            queuePairNumber: number(2) & 0xFF_FFFF, psn: number(3) & 0xFF_FFFF, lid: UInt16(clamping: number(0)),
            outstandingReads: UInt16(clamping: number(1)), rkey: number(4),
            address: UInt64(bigEndianBytes: bytes[Self.addressOffset..<(Self.addressOffset + 8)]),
            gid: Array(bytes[gid..<(gid + 16)]))
        sharedReceiveQueueNumber = UInt32(bigEndianBytes: bytes[(gid + 16)..<(gid + 20)])
    }
}
