// SPDX-License-Identifier: Apache-2.0

/// One queue pair as perftest's handshake describes it: text of fixed length, hexadecimal fields, a NUL at the end.
///
/// With a GID (always on RoCE) 108 bytes: `lid:reads:qpn:psn:rkey:address:` then 16 bytes of GID and the SRQ number,
/// each with a colon after it. Without, 59 bytes, and no colon after the SRQ number.
package struct DestinationRecord: Equatable, Sendable {
    /// The two lengths of the record.
    package enum Form: Sendable {
        case withGID, withoutGID

        package var byteCount: Int { self == .withGID ? 108 : 59 }
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

    package var form: Form { gid.count == 16 ? .withGID : .withoutGID }

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
