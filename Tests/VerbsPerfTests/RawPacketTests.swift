// SPDX-License-Identifier: Apache-2.0
import Testing
import Verbs

@testable import VerbsPerf

@Suite("Raw packet tests of verbs perf")
struct RawPacketTests {
    @Test("The IPv4 header of a frame is that of a well-known example")
    func frame() {
        // The example of Wikipedia's article on the IPv4 header checksum.
        let header: [UInt8] = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xB8, 0x61, 0xC0, 0xA8, 0x00, 0x01, 0xC0, 0xA8,
            0x00, 0xC7,
        ]
        let frame = RawFrame(
            destinationMAC: 0x0200_0000_0002, sourceMAC: 0x0200_0000_0001, sourceAddress: 0xC0A8_0001,
            destinationAddress: 0xC0A8_00C7, sourcePort: 9000, destinationPort: 7000
        ).bytes(size: 0x73 + 14)
        #expect(frame.count == 0x73 + 14)
        #expect(Array(frame[..<14]) == [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0])
        #expect(Array(frame[14..<34]) == header)
        #expect(Array(frame[34..<42]) == [0x23, 0x28, 0x1B, 0x58, 0, 0x73 - 20, 0, 0])
    }

    @Test("A greeting comes back as it was, and other bytes are refused")
    func greeting() throws {
        for sizes in [[1500], [64, 128, 256, 512, 1024, 1514]] {
            let greeting = RawGreeting(
                test: .latency, mac: 0x0200_0000_0001, address: 0x0A00_0001, port: 7000, sizes: sizes, iterations: 500,
                durationSeconds: 0, queuePairs: 3)
            #expect(greeting.encoded.count == RawGreeting.byteCount)
            #expect(try RawGreeting(parsing: greeting.encoded) == greeting)
        }
        #expect(throws: PerfError.self) {
            try RawGreeting(parsing: PeerGreeting.own.encoded + [UInt8](repeating: 0, count: 80))
        }
        var wrong = RawGreeting(
            test: .bandwidth, mac: 1, address: 1, port: 7000, sizes: [64], iterations: 1, durationSeconds: 0,
            queuePairs: 1)
        wrong.queuePairs = 100_000
        #expect(throws: PerfError.self) { try RawGreeting(parsing: wrong.encoded) }
    }

    @Test("Sizes end with the largest frame of the interface")
    func sizes() throws {
        var options = RawOptions(test: .bandwidth)
        #expect(try options.sizes(mtu: 1500) == [1500])
        #expect(try options.sizes(mtu: 1400) == [1414])
        options.allSizes = true
        #expect(try options.sizes(mtu: 1500) == [64, 128, 256, 512, 1024, 1514])
        options.allSizes = false
        options.size = 1515
        #expect(throws: PerfError.self) { try options.sizes(mtu: 1500) }
    }

    @Test("What does not go together is refused")
    func validation() {
        func error(_ test: RawTest, _ change: (inout RawOptions) -> Void) -> PerfError? {
            var options = RawOptions(test: test)
            change(&options)
            do throws(PerfError) {
                try options.validated()
                return nil
            } catch {
                return error
            }
        }
        #expect(error(.bandwidth) { $0.queuePairs = 4 } == nil)
        #expect(error(.latency) { $0.queuePairs = 4 }?.exitStatus == 64)
        #expect(error(.latency) { $0.isServerAlone = true }?.exitStatus == 64)
        #expect(error(.bandwidth) { $0.isClientAlone = true }?.description.contains("--dest_mac") == true)
        #expect(error(.bandwidth) { $0.size = 63 }?.exitStatus == 64)
        #expect(error(.flowRate) { $0.iterations = 1 } == nil)
    }

    @Test("Rule sets are the same for the same seed, and their packets fit")
    func ruleSets() throws {
        for kind in RuleSetKind.allCases {
            let rules = kind.rules(200, seed: 7)
            #expect(rules == kind.rules(200, seed: 7))
            #expect(rules.count == 200 && Set(rules).count == 200)
            #expect(RuleSetKind.trace(rules, 50, seed: 8).count == 50)
        }
    }

    @Test("Generated rules have the prefixes, ports and protocols that ClassBench's sets of 100,000 have")
    func statistics() {
        // Percent in those sets: an open source (prefixes of 0 to 2), no ports at all, TCP, UDP.
        let published: [RuleSetKind: (open: Double, portless: Double, tcp: Double, udp: Double)] = [
            .fw: (64.8, 17.9, 58.0, 32.3), .acl: (0.2, 28.6, 87.4, 1.1), .ipc: (13.1, 38.0, 26.2, 38.1),
        ]
        for (kind, expected) in published {
            let rules = kind.rules(20_000, seed: 3)
            func percent(_ fits: (FiveTuple) -> Bool) -> Double { Double(rules.count(where: fits)) / 200 }
            #expect(abs(percent { $0.sourceLength <= 2 } - expected.open) < 4, "\(kind)")
            #expect(
                abs(percent { $0.sourcePortLength + $0.destinationPortLength == 0 } - expected.portless) < 4, "\(kind)")
            #expect(abs(percent { $0.number == 6 } - expected.tcp) < 4, "\(kind)")
            #expect(abs(percent { $0.number == 17 } - expected.udp) < 4, "\(kind)")
        }
    }
}
