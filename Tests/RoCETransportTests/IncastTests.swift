// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import Testing

/// What a switch does with more than its link carries.
struct SwitchPort: CustomTestStringConvertible, Sendable {
    var queueBytes: Int
    var markBytes = Int.max

    /// At 10 Gb/s, 0.8 ms and 0.1 ms of queue; the latter holds one packet of each of 32 senders.
    static let deep = SwitchPort(queueBytes: 1 << 20)
    static let deepMarking = SwitchPort(queueBytes: 1 << 20, markBytes: 60_000)
    static let shallow = SwitchPort(queueBytes: 128_000)
    static let shallowMarking = SwitchPort(queueBytes: 128_000, markBytes: 40_000)

    var testDescription: String { "\(queueBytes) bytes\(markBytes < .max ? ", marks" : "")" }
}

@Suite("Congestion: 32 senders behind one link") struct IncastTests {
    private func run(_ port: SwitchPort, _ change: (inout IncastOptions) -> Void = { _ in }) -> IncastWorkload {
        var options = IncastOptions()
        options.queueBytes = port.queueBytes
        options.markBytes = port.markBytes
        change(&options)
        let incast = IncastWorkload(options)
        incast.run()
        return incast
    }

    @Test(
        "They use more than 80 % of the link, and none starves",
        arguments: [SwitchPort.deep, .deepMarking, .shallow, .shallowMarking])
    func sharing(port: SwitchPort) {
        // Long enough that it does not count who met a timeout, 4 to 17 ms, at the start.
        let incast = run(port) { $0.durationNanoseconds = 120_000_000 }
        #expect(incast.goodput > 0.8, "\(incast)")
        #expect(incast.least > 0.2, "\(incast)")
        #expect(incast.fairness > 0.8, "\(incast)")
        #expect(incast.failureCount == 0, "\(incast)")
    }

    /// Each has everything that it posted in flight, so that no window is full.
    @Test("Eight senders whose windows all fit in the queue share the link as well")
    func fewSenders() {
        let incast = run(.deep) {
            $0.senderCount = 8
            $0.durationNanoseconds = 120_000_000
        }
        #expect(incast.goodput > 0.8, "\(incast)")
        #expect(incast.least > 0.2, "\(incast)")
        #expect(incast.failureCount == 0, "\(incast)")
    }

    @Test("READs of 32 peers use more than 80 % of the link, and share it where it marks")
    func reading() {
        let incast = run(.deepMarking) { $0.operation = .rdmaRead }
        #expect(incast.goodput > 0.8, "\(incast)")
        #expect(incast.least > 0.2, "\(incast)")
        #expect(incast.fairness > 0.8, "\(incast)")
        #expect(incast.failureCount == 0, "\(incast)")
    }

    @Test("Without congestion control they collapse: retransmissions fill the link, or few senders do")
    func collapse() {
        let deep = run(.deep) { $0.hasCongestionControl = false }
        #expect(deep.goodput < 0.7, "\(deep)")
        let shallow = run(.shallow) { $0.hasCongestionControl = false }
        #expect(shallow.fairness < 0.2, "\(shallow)")
    }

    @Test("Each sender is told of marks at most every 50 µs")
    func notifications() {
        var options = IncastOptions()
        options.senderCount = 4
        options.markBytes = 0
        options.durationNanoseconds = 10_000_000
        options.warmUpNanoseconds = 0
        let incast = IncastWorkload(options)
        incast.run()
        #expect(incast.notificationsSent > 0, "\(incast)")
        #expect(incast.notificationsSent <= 4 * (options.durationNanoseconds / 50_000 + 1), "\(incast)")
    }
}

@Suite("Congestion: one sender whose delay is no queue") struct DelayTests {
    /// Goodput with congestion control as a share of that without, in the same network, or with a fixed window.
    private func ratio(windowBytes: Int = 0, _ change: (inout IncastOptions) -> Void) -> Double {
        var options = IncastOptions()
        options.senderCount = 1
        options.messageBytes = 256 * 1024
        options.depth = 16
        options.timeout = 14
        change(&options)
        let with = IncastWorkload(options)
        with.run()
        options.hasCongestionControl = false
        options.windowMaxBytes = windowBytes
        let without = IncastWorkload(options)
        without.run()
        return with.goodput / without.goodput
    }

    @Test("A host that looks for packets every 50 µs gets them as fast")
    func polling() {
        #expect(ratio { $0.pollNanoseconds = 50_000 } > 0.8)
    }

    @Test("A host that sleeps for 300 µs now and then gets them as fast")
    func sleeping() {
        let ratio = ratio {
            $0.stall = 0.002
            $0.stallNanoseconds = 300_000
        }
        #expect(ratio > 0.8)
    }

    @Test("A peer 1 ms away gets most of it, once the way is known not to be a queue")
    func farAway() {
        let ratio = ratio {
            $0.delayNanoseconds = 500_000
            $0.durationNanoseconds = 200_000_000
            $0.warmUpNanoseconds = 100_000_000
        }
        // Not all: a window leaves in a burst, which is a queue.
        #expect(ratio > 0.6)
    }

    /// Less than the initial window in each of the few times that both run would be a queue seen where there is none.
    @Test(
        "Two ends that run at times only, on a machine that became busy, are as fast as with a fixed initial window",
        arguments: [(1, 4), (3, 10), (3, 30), (1, 30)], [0, 0.0001, 0.001])
    func busyMachine(slice: (run: UInt64, period: UInt64), loss: Double) {
        let ratio = ratio(windowBytes: 64 * 1024) {
            $0.timeout = 18
            $0.loss = loss
            $0.slices = (0..<2).map {
                RunSlices(
                    periodNanoseconds: slice.period * 1_000_000, runNanoseconds: slice.run * 1_000_000,
                    seed: slice.period * 10 + slice.run + $0, start: 10_000_000)
            }
            $0.durationNanoseconds = 1_000_000_000
        }
        #expect(ratio > 0.6)
    }

    /// A window of a packet in 16 ms finds both asleep each time, which looks like the queue that it was narrowed for.
    @Test("Two ends that sleep when they have nothing to do do not slow down to nothing after the machine was busy")
    func sleepingWhenIdle() {
        let ratio = ratio(windowBytes: 64 * 1024) {
            $0.timeout = 18
            $0.wakeNanoseconds = 100_000
            $0.slices = (0..<2).map {
                RunSlices(
                    periodNanoseconds: 800_000, runNanoseconds: 50_000, seed: 30 + $0, start: 10_000_000,
                    end: 200_000_000)
            }
            $0.durationNanoseconds = 1_000_000_000
            $0.warmUpNanoseconds = 300_000_000
        }
        // Of the sixteen packets four are left, which the delay never makes fewer.
        #expect(ratio > 0.2)
    }
}
