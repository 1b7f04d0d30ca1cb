// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import VerbsPerf

@Suite("The table is perftest's, byte for byte")
struct ReportTextTests {
    @Test("Bandwidth in MB/sec")
    func megabytes() throws {
        let printed = try PerftestFixture.output("send_bw.client")
        #expect(printed.contains(ReportText.bandwidthHeading(gigabits: false)))
        let report = BandwidthReport(size: 1024, iterations: 50, peak: 10.84, average: 3.60, messageRate: 0.003683)
        #expect(printed.contains(ReportText.row(report, gigabits: false)))
    }

    @Test("The rows of all sizes from 2 bytes to 8 MiB are what ib_write_bw -a -b printed of the reports it exchanged")
    func allSizes() throws {
        let fixture = try PerftestFixture("write_bw_b_all")
        let printed = try PerftestFixture.output("write_bw_b_all.client")
        let client = fixture.client.filter { $0.count == 8 }
        let server = fixture.server.filter { $0.count == 8 }
        #expect(client.count == 23 * 5)
        for size in 0..<23 {
            let fields = (size * 5)..<(size * 5 + 5)
            let own = BandwidthReport(fields: Array(client[fields]))
            let sum = own.combined(with: BandwidthReport(fields: Array(server[fields])))
            let row = ReportText.row(sum, gigabits: false)
            // A warning about the clock got into the recorded line here and there.
            #expect(printed.contains { $0.hasPrefix(row) }, "\(row)")
        }
    }

    @Test("Bandwidth in Gb/sec has six places below 0.1 and two above")
    func gigabits() throws {
        let heading = ReportText.bandwidthHeading(gigabits: true)
        let printed = try PerftestFixture.output("send_bw_b2.client")
        #expect(printed.contains(heading))
        // REPORT_FMT_EXT is chosen by one end's own average, about 0.07 here, before the two directions are added.
        let sum = BandwidthReport(size: 1024, iterations: 40, peak: 0.176320, average: 0.141345, messageRate: 0.017254)
        #expect(printed.contains(ReportText.row(sum, gigabits: true, ownAverage: 0.08)))
        #expect(
            ReportText.row(sum, gigabits: true)
                == " 1024       40               0.18               0.14   \t\t   0.017254")
    }

    @Test("Latency")
    func latency() throws {
        let printed = try PerftestFixture.output("send_lat.client")
        #expect(printed.contains(ReportText.latencyHeading))
        let summary = LatencySummary(
            size: 2, iterations: 20, least: 13.93, most: 100.34, typical: 14.46, average: 16.40, deviation: 4.13,
            percentile90: 0, percentile99: 100.34, percentile99_9: 100.34, percentile99_99: 0)
        #expect(printed.contains { $0 == ReportText.row(summary) || $0 == ReportText.row(summary) + " " })
    }

    @Test("Latency of a timed run")
    func timedLatency() throws {
        let printed = try PerftestFixture.output("send_lat_d.client")
        #expect(printed.contains(ReportText.timedLatencyHeading))
        let summary = LatencySummary(
            size: 2, iterations: 374, least: 0, most: 0, typical: 0, average: 4011.39, deviation: 0, percentile90: 0,
            percentile99: 0, percentile99_9: 0, percentile99_99: 0, transactionsPerSecond: 124.65)
        #expect(printed.contains { $0 == ReportText.row(summary) || $0 == ReportText.row(summary) + " " })
    }

    @Test("The banner's lines are those of ib_send_bw and ib_read_lat")
    func banner() throws {
        var options = PerfOptions(test: .sendBandwidth, host: "peer")
        options.iterations = 50
        options.size = 1024
        func lines(_ options: PerfOptions, reads: Int = 1, isServer: Bool = false) throws -> [String] {
            ReportBanner(
                plan: try PerfPlan(options, isServer: isServer), isServer: isServer, deviceName: "rxe0",
                linkLayer: "Ethernet", pathMTU: 4096, gidIndex: 1, inlineSize: 0, outstandingReads: reads
            ).text.split(separator: "\n").map(String.init)
        }
        // What this program has no word for is left out: nothing else differs.
        func expected(_ name: String) throws -> [String] {
            let all = try PerftestFixture.output(name).filter {
                !$0.hasPrefix(" PCIe relax order") && !$0.hasPrefix("Device not recognized")
            }
            let title = try #require(all.firstIndex { $0.hasSuffix("Test") })
            let end = try #require(all[(title + 1)...].firstIndex(of: ReportText.rule))
            return [ReportText.rule] + all[title...end]
        }
        #expect(try lines(options) == expected("send_bw.client"))
        #expect(try lines(options, isServer: true) == expected("send_bw.server"))
        var read = PerfOptions(test: .readLatency, host: "peer")
        read.iterations = 20
        #expect(try lines(read, reads: 128) == expected("read_lat.client"))
        var atomic = PerfOptions(test: .atomicBandwidth, host: "peer")
        atomic.iterations = 20
        #expect(try lines(atomic, reads: 128) == expected("atomic_bw.client"))
        var both = PerfOptions(test: .sendBandwidth, host: "peer")
        both.iterations = 20
        both.size = 1024
        both.bidirectional = true
        both.queuePairs = 2
        #expect(try lines(both) == expected("send_bw_b2.client"))
    }

    @Test("The address lines are ib_write_bw's")
    func addresses() throws {
        let fixture = try PerftestFixture("write_bw")
        let printed = try PerftestFixture.output("write_bw.client")
        let local = try DestinationRecord(parsing: fixture.client[4], form: .withGID)
        let remote = try DestinationRecord(parsing: fixture.server[4], form: .withGID)
        for (record, isLocal) in [(local, true), (remote, false)] {
            for line in ReportText.address(record, isLocal: isLocal, operation: .write).split(separator: "\n") {
                #expect(printed.contains(String(line)))
            }
        }
    }

    @Test("The list of all samples is numbered from 1, in microseconds one way")
    func samples() {
        #expect(ReportText.samples([3000, 4500], roundTrips: 2) == "#, usec\n1, 1.5\n2, 2.25\n")
    }
}
