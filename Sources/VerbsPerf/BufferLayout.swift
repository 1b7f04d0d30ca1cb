// SPDX-License-Identifier: Apache-2.0

/// Where the messages of a run lie in a buffer: `count` slots of `stride` bytes, used in turn.
package struct SlotRing: Equatable, Sendable {
    /// Address or offset of slot 0.
    package var base: UInt64
    package var stride: UInt64
    package var count: UInt64

    package func address(of message: Int) -> UInt64 {
        base + UInt64(message) % count * stride
    }
}

/// The places of all messages of one end in its one memory region. Pure arithmetic.
///
/// As in perftest, messages up to half of the cycle buffer go round in it at cache-line steps, larger ones all use one
/// place. Checking what arrives needs a place for each message in flight instead.
package struct BufferLayout: Equatable, Sendable {
    /// perftest's GRH in front of a UD message.
    package static let headerBytes = 40

    private let plan: PerfPlan
    private let cycle: UInt64
    private let line: UInt64
    private let sendArea: UInt64
    private let receiveArea: UInt64

    /// - Parameters:
    ///   - cycleBuffer: the larger page size of the two ends.
    ///   - cacheLine: the larger cache line of the two ends.
    package init(plan: PerfPlan, cycleBuffer: Int, cacheLine: Int) {
        self.plan = plan
        cycle = UInt64(cycleBuffer)
        line = UInt64(cacheLine)
        let largest = UInt64(plan.largestSize)
        let header: UInt64 = plan.connection == .ud ? UInt64(Self.headerBytes) : 0
        let plain = max(largest, cycle)
        if plan.validate {
            let slot = Self.roundedUp(largest + header, line)
            sendArea = max(plain, slot * UInt64(plan.transmitDepth))
            receiveArea = max(plain, slot * UInt64(plan.receiveDepth)) + line
        } else {
            sendArea = Self.roundedUp(plain, line)
            receiveArea = Self.roundedUp(plain + header, line) + line
        }
    }

    /// Bytes of the region that all queue pairs share.
    package var byteCount: Int { Int((sendArea + receiveArea) * UInt64(plan.queuePairs)) }

    /// Where queue pair `index` sends from, or takes READ and ATOMIC results.
    package func sendRing(_ index: Int, size: Int) -> SlotRing {
        ring(at: sendArea * UInt64(index), size: size, depth: plan.transmitDepth)
    }

    /// Where queue pair `index` receives. A UD message starts at the front of a cache line, its GRH 40 bytes before.
    package func receiveRing(_ index: Int, size: Int) -> SlotRing {
        let start = receiveStart(index)
        guard plan.connection == .ud else { return ring(at: start, size: size, depth: plan.receiveDepth) }
        let header = UInt64(Self.headerBytes)
        return ring(
            at: start + Self.roundedUp(header, line) - header, size: size + Self.headerBytes, depth: plan.receiveDepth)
    }

    /// What queue pair `index` lets its peer write and read.
    package func targetOffset(_ index: Int) -> UInt64 { receiveStart(index) }

    /// The places in the peer's target that messages use in turn; the same at both ends.
    package func targetRing(at address: UInt64, size: Int) -> SlotRing { cyclic(at: address, size: size) }

    private func receiveStart(_ index: Int) -> UInt64 {
        sendArea * UInt64(plan.queuePairs) + receiveArea * UInt64(index)
    }

    private func ring(at base: UInt64, size: Int, depth: Int) -> SlotRing {
        guard plan.validate else { return cyclic(at: base, size: size) }
        return SlotRing(base: base, stride: Self.roundedUp(UInt64(size), line), count: UInt64(depth))
    }

    private func cyclic(at base: UInt64, size: Int) -> SlotRing {
        let isBandwidth = plan.test.measure == .bandwidth
        guard isBandwidth, UInt64(size) <= cycle / 2 else { return SlotRing(base: base, stride: 0, count: 1) }
        let stride = Self.roundedUp(max(UInt64(size), 1), line)
        return SlotRing(base: base, stride: stride, count: cycle / stride)
    }

    private static func roundedUp(_ value: UInt64, _ multiple: UInt64) -> UInt64 {
        (value + multiple - 1) / multiple * multiple
    }
}
