// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import VerbsPerf

@Suite("The records of perftest's handshake")
struct HandshakeCodecTests {
    static let sessions = [
        "send_bw", "send_bw_b2", "send_bw_all_ud", "write_bw", "write_bw_b", "write_bw_b_all", "read_bw", "atomic_bw",
        "send_lat", "write_lat", "read_lat", "atomic_lat",
    ]

    @Test("Every recorded destination record reads and writes back to the same bytes", arguments: sessions)
    func destinationRecords(name: String) throws {
        let fixture = try PerftestFixture(name)
        let records = (fixture.client + fixture.server).filter { $0.count == 108 }
        #expect(records.count >= 8)
        for bytes in records {
            let record = try DestinationRecord(parsing: bytes, form: .withGID)
            #expect(record.encoded() == bytes)
        }
    }

    @Test("The fields of ib_read_lat's record are what the program printed")
    func fields() throws {
        let record = try DestinationRecord(parsing: try PerftestFixture("read_lat").client[4], form: .withGID)
        let printed = try PerftestFixture.output("read_lat.client")
        #expect(printed.contains(ReportText.address(record, isLocal: true, operation: .read).components(0)))
        #expect(record.outstandingReads == 128)
        #expect(record.gid.suffix(6) == [0xFF, 0xFF, 10, 9, 0, 1])
    }

    @Test(
        "perftest's structure of -R, 56 bytes, since 6.29 with eight more in front of the GID",
        arguments: [false, true])
    func structure(hasMarkers: Bool) throws {
        // struct pingpong_dest of perftest_resources.h, filled in by hand.
        let gid: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 9, 0, 1]
        let bytes: [UInt8] =
            [0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0, 0x11, 0, 0x23, 0xC8, 0xEF, 0, 0, 0x22, 0x22, 0, 0, 0, 0]
            + [0, 0, 0x55, 0x77, 0x6C, 0xA9, 0x10, 0] + [UInt8](repeating: 0, count: hasMarkers ? 8 : 0) + gid
            + [0, 0, 0, 3, 0, 0, 0, 0]
        let form = DestinationRecord.Form.structure(hasMarkers: hasMarkers)
        #expect(bytes.count == form.byteCount)
        let record = try DestinationRecord(parsing: bytes, form: form)
        #expect(record.lid == 1 && record.outstandingReads == 16)
        #expect(record.queuePairNumber == 0x11 && record.psn == 0x23_C8EF && record.rkey == 0x2222)
        #expect(record.address == 0x5577_6CA9_1000 && record.gid == gid && record.sharedReceiveQueueNumber == 3)
        #expect(record.encoded(as: form) == bytes)
        #expect(throws: PerfError.self) { _ = try DestinationRecord(parsing: Array(bytes.dropLast()), form: form) }
        #expect(PeerGreeting(version: hasMarkers ? "6.29" : "6.06", isOwn: false).hasMarkers == hasMarkers)
    }

    @Test("A record without a GID has 59 bytes and no colon at its end")
    func withoutGID() throws {
        // The format string of perftest_communication.h, filled in by hand.
        let text = "0001:0010:000011:23c8ef:00002222:000055776ca91000:00000000\0"
        let record = try DestinationRecord(parsing: Array(text.utf8), form: .withoutGID)
        #expect(record.lid == 1)
        #expect(record.outstandingReads == 16)
        #expect(record.queuePairNumber == 0x11)
        #expect(record.psn == 0x23c8ef)
        #expect(record.rkey == 0x2222)
        #expect(record.address == 0x5577_6ca9_1000)
        #expect(record.encoded() == Array(text.utf8))
    }

    @Test("A damaged record is an error that shows what came")
    func damaged() throws {
        let good = try PerftestFixture("send_bw").client[4]
        for (index, byte) in [(0, UInt8(ascii: "x")), (4, UInt8(ascii: "0")), (107, UInt8(1)), (50, UInt8(ascii: ":"))]
        {
            var bytes = good
            bytes[index] = byte
            #expect(throws: PerfError.self) { try DestinationRecord(parsing: bytes, form: .withGID) }
        }
        #expect(throws: PerfError.self) { try DestinationRecord(parsing: Array(good.dropLast()), form: .withGID) }
        #expect(throws: PerfError.self) { try DestinationRecord(parsing: [], form: .withoutGID) }
        #expect(throws: PerfError.self) { try DestinationRecord(parsing: good, form: .withoutGID) }
    }

    @Test("The version of a stock program reads, and ours reads the same to it")
    func greeting() throws {
        let stock = try PerftestFixture("send_lat").client[0]
        let greeting = try PeerGreeting(parsing: stock)
        #expect(greeting == PeerGreeting(version: "6.06", isOwn: false))
        #expect(greeting.encoded == stock)
        let own = PeerGreeting.own.encoded
        #expect(own.count == 16)
        // atof() stops at the NUL.
        #expect(Array(own.prefix(5)) == Array(stock.prefix(5)))
        #expect(try PeerGreeting(parsing: own).isOwn)
    }

    @Test("An old version, the one that insists on a raw structure, and noise are told apart")
    func versions() throws {
        #expect(throws: PerfError.self) {
            try PeerGreeting(parsing: PeerGreeting(version: "5.60", isOwn: false).encoded)
        }
        #expect(throws: PerfError.self) { try PeerGreeting(parsing: Array("GET / HTTP/1.1\r\n".utf8)) }
        #expect(throws: PerfError.self) { try PeerGreeting(parsing: Array(repeating: 0, count: 16)) }
        #expect(throws: PerfError.self) { try PeerGreeting(parsing: Array("6".utf8)) }
        #expect(try PeerGreeting(parsing: PeerGreeting(version: "6.28", isOwn: false).encoded).isKnownIncompatible)
        #expect(!(try PeerGreeting(parsing: PeerGreeting(version: "6.29", isOwn: false).encoded).isKnownIncompatible))
    }

    @Test("The report of ib_read_bw's client has the numbers that it printed")
    func report() throws {
        let fixture = try PerftestFixture("read_bw")
        let fields = Array(fixture.client.filter { $0.count == 8 })
        let report = BandwidthReport(fields: fields)
        #expect(report.size == 4096)
        #expect(report.iterations == 20)
        #expect(try PerftestFixture.output("read_bw.client").contains(ReportText.row(report, gigabits: false)))
        #expect(report.fields == fields)
    }

    @Test("A report of garbage, as a one-way server sends it, is taken without harm")
    func garbageReport() {
        let report = BandwidthReport(fields: Array(repeating: Array(repeating: 0xFF, count: 8), count: 5))
        #expect(report.size == 0)
        #expect(report.iterations == 0)
        #expect(report.average.isNaN)
    }

    @Test("Parameters between two ends of this program survive the socket, and noise does not pass")
    func parameters() throws {
        var options = PerfOptions(test: .writeBandwidth, host: "peer")
        options.size = 4096
        options.iterations = 50
        options.queuePairs = 3
        options.bidirectional = true
        let parameters = PeerParameters(try PerfPlan(options, isServer: false), reportGigabits: true)
        let bytes = parameters.encoded
        #expect(bytes.count == PeerParameters.byteCount)
        #expect(try PeerParameters(parsing: bytes) == parameters)
        for byte in UInt8.min...UInt8.max {
            // Whatever comes is a value or an error, never a trap.
            _ = try? PeerParameters(parsing: Array(repeating: byte, count: PeerParameters.byteCount))
        }
    }

    @Test("The server follows the client, except in what is measured")
    func adoption() throws {
        var options = PerfOptions(test: .sendBandwidth, host: "peer")
        options.durationSeconds = 7
        options.connection = .ud
        options.size = 512
        let parameters = PeerParameters(try PerfPlan(options, isServer: false), reportGigabits: false)
        let adopted = try parameters.adopted(by: PerfOptions(test: .sendBandwidth))
        #expect(adopted.durationSeconds == 7)
        #expect(adopted.connection == .ud)
        #expect(adopted.size == 512)
        #expect(adopted.iterations == nil)
        #expect(throws: PerfError.self) { try parameters.adopted(by: PerfOptions(test: .sendLatency)) }
    }
}

extension String {
    fileprivate func components(_ line: Int) -> String {
        split(separator: "\n").map(String.init)[line]
    }
}
