// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import VerbsPerf

/// A change of good options that must be refused with a message that has the option's name.
struct Refusal: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let change: @Sendable (inout PerfOptions) -> Void

    init(_ name: String, change: @escaping @Sendable (inout PerfOptions) -> Void) {
        testDescription = name
        self.change = change
    }
}

@Suite("What the options come to")
struct PerfPlanTests {
    private func plan(
        _ test: PerfTest, isServer: Bool = false, _ change: (inout PerfOptions) -> Void = { _ in }
    ) throws -> PerfPlan {
        var options = PerfOptions(test: test, host: isServer ? nil : "peer")
        change(&options)
        return try PerfPlan(options, isServer: isServer)
    }

    @Test("-R leaves GID and path MTU to the connection manager, and says so; UC it does not connect")
    func connectionManager() throws {
        let plan = try plan(.sendBandwidth) {
            $0.useConnectionManager = true
            $0.gidIndex = 1
            $0.mtu = 1024
        }
        #expect(plan.useConnectionManager)
        #expect(plan.notes.count == 2)
        #expect(throws: PerfError.self) {
            try self.plan(.sendBandwidth) {
                $0.useConnectionManager = true
                $0.connection = .uc
            }
        }
    }

    @Test("perftest's defaults")
    func defaults() throws {
        let send = try plan(.sendBandwidth)
        #expect(send.sizes == [65536])
        #expect(send.length == .iterations(1000))
        #expect(send.transmitDepth == 128)
        #expect(send.receiveDepth == 512)
        // Large messages: every one completes.
        #expect(send.completionModeration == 1)
        #expect(try plan(.writeBandwidth).length == .iterations(5000))
        #expect(try plan(.sendLatency).sizes == [2])
        #expect(try plan(.sendLatency).transmitDepth == 1)
        #expect(try plan(.atomicLatency).sizes == [8])
    }

    @Test("Small messages are moderated by 100, bounded by the send queue")
    func moderation() throws {
        #expect(try plan(.sendBandwidth) { $0.size = 1024 }.completionModeration == 100)
        #expect(
            try plan(.sendBandwidth) {
                $0.size = 1024; $0.transmitDepth = 16
            }.completionModeration == 16)
        // As the recorded ib_send_bw -n 50 -s 1024 printed.
        let recorded = try plan(.sendBandwidth) {
            $0.size = 1024; $0.iterations = 50
        }
        #expect(recorded.completionModeration == 50)
        #expect(recorded.transmitDepth == 50)
        #expect(recorded.receiveDepth == 50)
        let asked = try plan(.sendBandwidth) { $0.completionModeration = 10 }
        #expect(asked.completionModeration == 10)
        #expect(!asked.notes.isEmpty)
    }

    @Test("All sizes are the 23 powers of two from 2 to 8 MiB")
    func allSizes() throws {
        let all = try plan(.writeBandwidth) { $0.allSizes = true }
        #expect(all.sizes.first == 2)
        #expect(all.sizes.last == 8_388_608)
        #expect(all.sizes.count == 23)
    }

    @Test("An unreliable receiver posts all it can beforehand")
    func unreliableDepth() throws {
        #expect(
            try plan(.sendBandwidth) {
                $0.connection = .ud; $0.iterations = 5000
            }.receiveDepth == 5000)
        #expect(
            try plan(.sendBandwidth) {
                $0.connection = .uc; $0.iterations = 50000
            }.receiveDepth == 16000)
        #expect(
            try plan(.sendBandwidth) {
                $0.connection = .ud; $0.receiveDepth = 64
            }.receiveDepth == 64)
    }

    @Test("A UD message fits the path MTU, unless a size was asked for")
    func datagrams() throws {
        let plain = try plan(.sendBandwidth) { $0.connection = .ud }
        #expect(try plain.limited(toPathMTU: 1024, sizeWasGiven: false).sizes == [1024])
        #expect(throws: PerfError.self) { try plain.limited(toPathMTU: 1024, sizeWasGiven: true) }
        let all = try plan(.sendBandwidth) {
            $0.connection = .ud; $0.allSizes = true
        }
        #expect(try all.limited(toPathMTU: 1024, sizeWasGiven: false).sizes == (1...10).map { 1 << $0 })
        let reliable = try plan(.sendBandwidth)
        #expect(try reliable.limited(toPathMTU: 1024, sizeWasGiven: false).sizes == [65536])
    }

    @Test("The peak is looked for where it can be")
    func peak() throws {
        #expect(try plan(.writeBandwidth).measuresPeak)
        #expect(!(try plan(.writeBandwidth) { $0.skipPeak = true }.measuresPeak))
        #expect(!(try plan(.writeBandwidth) { $0.iterations = 20001 }.measuresPeak))
        #expect(!(try plan(.writeBandwidth) { $0.durationSeconds = 5 }.measuresPeak))
        #expect(!(try plan(.sendBandwidth, isServer: true).measuresPeak))
        #expect(!(try plan(.sendLatency).measuresPeak))
    }

    @Test("A post list sets the moderation and must divide the iterations")
    func postList() throws {
        #expect(
            try plan(.sendBandwidth) {
                $0.size = 64; $0.postList = 8
            }.completionModeration == 8)
        #expect(throws: PerfError.self) {
            try plan(.sendBandwidth) {
                $0.postList = 7; $0.iterations = 1000
            }
        }
        #expect(throws: PerfError.self) {
            try plan(.sendBandwidth) {
                $0.postList = 8; $0.completionModeration = 3
            }
        }
        #expect(throws: PerfError.self) { try plan(.sendLatency) { $0.postList = 2 } }
        #expect(throws: PerfError.self) {
            try plan(.sendBandwidth) {
                $0.postList = 256; $0.iterations = 512
            }
        }
    }

    @Test(
        "What does not fit together is refused with the option's name",
        arguments: [
            Refusal("-n") { $0.iterations = 4 }, Refusal("-s") { $0.size = 0 }, Refusal("-s") { $0.size = 8_388_609 },
            Refusal("-q") { $0.queuePairs = 0 }, Refusal("-t") { $0.transmitDepth = 0 },
            Refusal("-m") { $0.mtu = 1500 },
            Refusal("-D") { $0.durationSeconds = 0 },
            Refusal("-f") {
                $0.durationSeconds = 4; $0.marginSeconds = 2
            },
            Refusal("-c") {
                $0.connection = .uc; $0.test = .readBandwidth
            },
            Refusal("-b") {
                $0.bidirectional = true; $0.test = .sendLatency
            },
            Refusal("-s") {
                $0.size = 16; $0.test = .atomicBandwidth
            },
            Refusal("-D") {
                $0.durationSeconds = 5; $0.allSizes = true
            },
            Refusal("-e") {
                $0.durationSeconds = 5; $0.useEvents = true
            },
            Refusal("--use-srq") {
                $0.useSharedReceiveQueue = true; $0.test = .writeBandwidth
            },
            Refusal("-u") { $0.timeoutExponent = 32 }, Refusal("-p") { $0.tcpPort = 65536 },
        ])
    func refused(_ refusal: Refusal) throws {
        let error = #expect(throws: PerfError.self) { try plan(.sendBandwidth, refusal.change) }
        let text = try #require(error).description
        #expect(text.contains(refusal.testDescription))
        #expect(error?.exitStatus == 64)
    }

    @Test("A short timed run gives up its margins rather than its measurement")
    func margins() throws {
        #expect(try plan(.sendBandwidth) { $0.durationSeconds = 3 }.length == .seconds(3, margin: 0))
        #expect(try plan(.sendBandwidth) { $0.durationSeconds = 10 }.length == .seconds(10, margin: 2))
        #expect(
            try plan(.sendBandwidth) {
                $0.durationSeconds = 3; $0.marginSeconds = 1
            }.length == .seconds(3, margin: 1))
    }
}

@Suite("Where messages lie")
struct BufferLayoutTests {
    private func layout(_ change: (inout PerfOptions) -> Void) throws -> (BufferLayout, PerfPlan) {
        var options = PerfOptions(test: .sendBandwidth, host: "peer")
        change(&options)
        let plan = try PerfPlan(options, isServer: false)
        return (BufferLayout(plan: plan, cycleBuffer: 4096, cacheLine: 64), plan)
    }

    @Test("Small messages go round in the cycle buffer at cache lines, as perftest's")
    func cycle() throws {
        let (layout, _) = try layout { $0.size = 100 }
        let ring = layout.targetRing(at: 0x10000, size: 100)
        #expect(ring == SlotRing(base: 0x10000, stride: 128, count: 32))
        #expect(ring.address(of: 31) == 0x10000 + 31 * 128)
        #expect(ring.address(of: 32) == 0x10000)
        // Above half of it, all messages use one place.
        #expect(layout.targetRing(at: 0x10000, size: 2049).count == 1)
        #expect(layout.targetRing(at: 0, size: 2048) == SlotRing(base: 0, stride: 2048, count: 2))
    }

    @Test("No place of any message overlaps another queue pair's or lies outside", arguments: [false, true], [1, 5])
    func disjoint(validate: Bool, queuePairs: Int) throws {
        for connection in [PerfConnection.rc, .ud] {
            for size in [1, 64, 100, 2048, 4000] {
                let (layout, plan) = try layout {
                    $0.size = size
                    $0.validate = validate
                    $0.queuePairs = queuePairs
                    $0.connection = connection
                    $0.iterations = 300
                }
                var areas: [Range<UInt64>] = []
                for index in 0..<queuePairs {
                    let receiveSize = size + (connection == .ud ? 40 : 0)
                    let rings = [
                        (layout.sendRing(index, size: size), size),
                        (layout.receiveRing(index, size: size), receiveSize),
                    ]
                    for (ring, length) in rings {
                        areas.append(ring.base..<(ring.base + (ring.count - 1) * ring.stride + UInt64(length)))
                    }
                    #expect(layout.targetOffset(index) + UInt64(max(size, 4096)) <= UInt64(layout.byteCount))
                    if validate { #expect(layout.receiveRing(index, size: size).count == plan.receiveDepth) }
                }
                areas.sort { $0.lowerBound < $1.lowerBound }
                for (first, second) in zip(areas, areas.dropFirst()) { #expect(first.upperBound <= second.lowerBound) }
                #expect(areas.last!.upperBound <= UInt64(layout.byteCount))
            }
        }
    }

    @Test("A UD message lies on a cache line, its GRH before it")
    func datagram() throws {
        let (layout, _) = try layout {
            $0.size = 64; $0.connection = .ud
        }
        #expect((layout.receiveRing(0, size: 64).base + 40) % 64 == 0)
    }
}
