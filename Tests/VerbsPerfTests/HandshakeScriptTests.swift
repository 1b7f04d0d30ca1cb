// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import VerbsPerf

@Suite("The order of a session")
struct HandshakeScriptTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let session: String
        let test: PerfTest
        var queuePairs = 1
        var bidirectional = false
        var all = false
        var connection = PerfConnection.rc
        var sizes = 1
        var testDescription: String { session }
    }

    static let cases = [
        Case(session: "send_bw", test: .sendBandwidth),
        Case(session: "send_bw_b2", test: .sendBandwidth, queuePairs: 2, bidirectional: true),
        Case(session: "send_bw_all_ud", test: .sendBandwidth, all: true, connection: .ud, sizes: 12),
        Case(
            session: "send_bw_b_all_ud", test: .sendBandwidth, bidirectional: true, all: true, connection: .ud,
            sizes: 12),
        Case(session: "write_bw", test: .writeBandwidth),
        Case(session: "write_bw_b", test: .writeBandwidth, bidirectional: true),
        Case(session: "write_bw_b_all", test: .writeBandwidth, bidirectional: true, all: true, sizes: 23),
        Case(session: "read_bw", test: .readBandwidth),
        Case(session: "atomic_bw", test: .atomicBandwidth),
        Case(session: "send_lat", test: .sendLatency),
        Case(session: "write_lat", test: .writeLatency),
        Case(session: "read_lat", test: .readLatency),
        Case(session: "atomic_lat", test: .atomicLatency),
    ]

    @Test("Both ends of the recorded sessions send messages of the lengths that the script foretells", arguments: cases)
    func lengths(_ example: Case) throws {
        var options = PerfOptions(test: example.test, host: "peer")
        options.queuePairs = example.queuePairs
        options.bidirectional = example.bidirectional
        options.allSizes = example.all
        options.connection = example.connection
        let script = HandshakeScript(try PerfPlan(options, isServer: false), betweenOwnEnds: false)
        let expected = script.messageLengths(
            queuePairs: example.queuePairs, sizes: example.sizes, record: .withGID)
        let fixture = try PerftestFixture(example.session)
        #expect(PerftestFixture.records(fixture.client).map(\.count) == expected)
        #expect(PerftestFixture.records(fixture.server).map(\.count) == expected)
    }

    @Test("A sync is the record of queue pair 0, unchanged")
    func syncRecord() throws {
        // -q 2: records 0 and 1, sync, records 0 and 1, sync.
        let client = PerftestFixture.records(try PerftestFixture("send_bw_b2").client)
        #expect(client[0] != client[1])
        #expect(client[2] == client[0])
        #expect(Array(client[3...4]) == Array(client[0...1]))
        #expect(client[5] == client[0])
    }

    @Test("A timed bidirectional SEND run exchanges no report, a WRITE run does")
    func timed() throws {
        var options = PerfOptions(test: .sendBandwidth, host: "peer")
        options.bidirectional = true
        options.durationSeconds = 5
        #expect(
            !HandshakeScript(try PerfPlan(options, isServer: false), betweenOwnEnds: false).eachSize.contains(.report))
        options.test = .writeBandwidth
        #expect(
            HandshakeScript(try PerfPlan(options, isServer: false), betweenOwnEnds: false).eachSize.contains(.report))
    }

    @Test("Two ends of this program close a WRITE latency session together, and compare notes when they validate")
    func ownEnds() throws {
        var options = PerfOptions(test: .writeLatency, host: "peer")
        options.validate = true
        let plan = try PerfPlan(options, isServer: false)
        #expect(HandshakeScript(plan, betweenOwnEnds: true).closing == [.sync, .verdict])
        #expect(HandshakeScript(plan, betweenOwnEnds: false).closing == [])
        options.test = .writeBandwidth
        #expect(
            HandshakeScript(try PerfPlan(options, isServer: false), betweenOwnEnds: true).closing
                == [.sync, .verdict, .report, .sync])
    }

    @Test(
        "With -R the queue pairs are connected first, between two barriers; the rest is as without",
        arguments: PerfTest.allCases)
    func connectionManager(test: PerfTest) throws {
        var options = PerfOptions(test: test, host: "peer")
        let plain = HandshakeScript(try PerfPlan(options, isServer: false), betweenOwnEnds: false)
        options.useConnectionManager = true
        let script = HandshakeScript(try PerfPlan(options, isServer: false), betweenOwnEnds: false)
        #expect(script.opening.prefix(3) == [.sync, .connect, .sync])
        #expect(Array(script.opening.dropFirst(3)) == plain.opening.filter { $0 != .connect })
        #expect(script.eachSize == plain.eachSize)
        #expect(script.closing == plain.closing)
    }
}
