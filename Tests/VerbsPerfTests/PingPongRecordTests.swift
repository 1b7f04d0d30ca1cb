// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import VerbsPerf

@Suite("The record of rdma-core's pingpong programs")
struct PingPongRecordTests {
    @Test("The recorded records read and write back to the same bytes", arguments: ["rc_pingpong", "ud_pingpong"])
    func recorded(name: String) throws {
        let fixture = try PerftestFixture(name)
        for bytes in [fixture.client[0], fixture.server[0]] {
            let record = try PingPongRecord(parsing: bytes)
            #expect(record.encoded() == bytes)
            #expect(record.gid.suffix(6) == [0xFF, 0xFF, 10, 9, 0, 1])
        }
        #expect(fixture.client[1] == Array("done\0".utf8))
    }

    @Test("The fields are what ibv_rc_pingpong printed")
    func fields() throws {
        let record = try PingPongRecord(parsing: PerftestFixture("rc_pingpong").client[0])
        #expect(record.queuePairNumber == 0x12)
        #expect(record.psn == 0x3c0c3c)
        #expect(record.lid == 0)
    }

    @Test("Anything else is an error, never a trap")
    func damaged() throws {
        let good = try PerftestFixture("rc_pingpong").client[0]
        for index in good.indices {
            var bytes = good
            bytes[index] = UInt8(ascii: "x")
            #expect(throws: PerfError.self) { try PingPongRecord(parsing: bytes) }
            #expect(throws: PerfError.self) { try PingPongRecord(parsing: Array(good.prefix(index))) }
        }
    }

    @Test("ibv_srq_pingpong's message is always 256 records, of which the first are queue pairs")
    func table() throws {
        let fixture = try PerftestFixture("rc_pingpong")
        let records = try [fixture.client[0], fixture.server[0]].map { try PingPongRecord(parsing: $0) }
        let bytes = PingPongRecord.table(of: records, count: SharedPingPongTest.recordCount)
        #expect(bytes.count == 256 * 52)
        #expect(Array(bytes.prefix(104)) == fixture.client[0] + fixture.server[0])
        // sprintf of a zeroed structure, as the program does it.
        let empty = Array("0000:000000:000000:00000000000000000000000000000000\0".utf8)
        #expect(Array(bytes[104..<156]) == empty && Array(bytes.suffix(52)) == empty)
        #expect(try PingPongRecord.parse(table: bytes, first: 2) == records)
        for count in [1, 3] {
            #expect(throws: PerfError.self) { try PingPongRecord.parse(table: bytes, first: count) }
        }
        #expect(throws: PerfError.self) { try PingPongRecord.parse(table: Array(bytes.prefix(80)), first: 1) }
    }
}
