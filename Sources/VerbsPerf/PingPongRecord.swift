// SPDX-License-Identifier: Apache-2.0
import Verbs

/// How the programs ibv_rc_pingpong, ibv_uc_pingpong, ibv_ud_pingpong and ibv_srq_pingpong of rdma-core describe a queue
/// pair to each other over TCP: `lid:qpn:psn:gid` in hexadecimal and a NUL, 52 bytes.
package struct PingPongRecord: Equatable, Sendable {
    package static let byteCount = 52

    package var lid: UInt16
    package var queuePairNumber: UInt32
    package var psn: UInt32
    /// 16 bytes; all zero where no GID is used.
    package var gid: [UInt8]

    package init(lid: UInt16, queuePairNumber: UInt32, psn: UInt32, gid: [UInt8]) {
        self.lid = lid
        self.queuePairNumber = queuePairNumber
        self.psn = psn
        self.gid = gid
    }

    package func encoded() -> [UInt8] {
        var text = HexText()
        text.append(UInt64(lid), digits: 4, then: ":")
        text.append(UInt64(queuePairNumber), digits: 6, then: ":")
        text.append(UInt64(psn), digits: 6, then: ":")
        for byte in gid { text.append(UInt64(byte), digits: 2, then: nil) }
        return text.bytes + [0]
    }

    /// - Throws: ``PerfError/protocolMismatch(_:)`` for anything but exactly such a record.
    package init(parsing bytes: [UInt8]) throws(PerfError) {
        var reader = HexReader(bytes: bytes)
        guard bytes.count == Self.byteCount,
            let lid = reader.field(digits: 4), let qpn = reader.field(digits: 6), let psn = reader.field(digits: 6),
            let high = reader.half(digits: 16), let low = reader.field(digits: 16, terminator: 0)
        else {
            throw .protocolMismatch(
                "What connected there is no pingpong program: it did not send a record of the form lid:qpn:psn:gid.")
        }
        self.init(
            lid: UInt16(lid), queuePairNumber: UInt32(qpn), psn: UInt32(psn),
            gid: high.bigEndianBytes + low.bigEndianBytes)
    }
}

extension PingPongRecord {
    init(_ endpoint: Endpoint) {
        self.init(
            lid: endpoint.lid, queuePairNumber: endpoint.queuePair, psn: endpoint.psn, gid: endpoint.gid.bytes)
    }

    /// The end that the record describes; what it does not say is as at this end.
    func endpoint(like local: Endpoint) -> Endpoint {
        var peer = local
        peer.queuePair = queuePairNumber
        peer.psn = psn
        peer.lid = lid
        peer.gid = GID(bytes: gid) ?? .zero
        return peer
    }

    /// The message of ibv_srq_pingpong: always `count` records, zeros in those that no queue pair stands behind.
    package static func table(of records: [PingPongRecord], count: Int) -> [UInt8] {
        let empty = PingPongRecord(lid: 0, queuePairNumber: 0, psn: 0, gid: [UInt8](repeating: 0, count: 16))
        let rest = repeatElement(empty, count: max(0, count - records.count))
        return (records + rest).flatMap { $0.encoded() }
    }

    /// The first records of such a message.
    ///
    /// - Throws: ``PerfError/protocolMismatch(_:)`` if one is no record, or if there are not exactly `first` queue pairs.
    package static func parse(table: [UInt8], first: Int) throws(PerfError) -> [PingPongRecord] {
        var records: [PingPongRecord] = []
        for start in stride(from: 0, to: table.count, by: byteCount) {
            let record = try PingPongRecord(parsing: Array(table[start..<min(start + byteCount, table.count)]))
            guard record.queuePairNumber != 0 else { break }
            records.append(record)
        }
        guard records.count == first else {
            throw .protocolMismatch(
                "The peer has \(records.count) queue pairs and this end \(first): give both ends the same -q.")
        }
        return records
    }
}
