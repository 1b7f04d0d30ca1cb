// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import SoftEnds
import Testing
import VerbsABI

@testable import SoftProvider

extension SoftEnd {
    fileprivate func counter(_ name: String) -> UInt64 {
        path.counters().first { $0.name == name }?.value ?? 0
    }
}

@Suite("Two devices of one host", .serialized, .timeLimit(.minutes(10)))
struct SameHostDeviceTests {
    /// Two contexts of this process, connected, with memory in common.
    private func pair() throws -> (SoftEnd, SoftEnd) {
        let first = try SoftEnd()
        let second = try SoftEnd()
        try first.connect(to: second.description)
        try second.connect(to: first.description)
        return (first, second)
    }

    @Test("Payload of SEND, WRITE, READ and atomics arrives through shared memory as it was")
    func payload() throws {
        let (first, second) = try pair()
        first.fill(9)
        let half = first.byteCount / 2
        // Until both have met, packets may go over UDP.
        for round in 0..<2000 where first.counter("link_shared_tx_bursts") < 200 {
            #expect(second.postReceive(id: UInt64(round), offset: half, length: 20_000) == 0)
            #expect(first.post(.IBV_WR_SEND, id: 1, offset: 0, length: 20_000) == 0)
            #expect(first.post(.IBV_WR_RDMA_WRITE, id: 2, offset: 0, length: half, remote: second.description) == 0)
            #expect(
                first.post(
                    .IBV_WR_RDMA_READ, id: 3, offset: half, length: half, remote: second.description) == 0)
            #expect(first.completions(3).map(\.status) == [.IBV_WC_SUCCESS, .IBV_WC_SUCCESS, .IBV_WC_SUCCESS])
            #expect(second.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
        }
        #expect(first.counter("link_shared_tx_bursts") >= 200)
        #expect(second.counter("link_shared_rx_bursts") > 0 && first.counter("link_shared_rx_bursts") > 0)
        #expect(memcmp(first.memory, second.memory, half) == 0)
        #expect(memcmp(first.memory, first.memory + half, half) == 0)
        #expect(memcmp(first.memory, second.memory + half, 20_000) == 0)
        // Other than where the machine was too busy for one of them to read for milliseconds.
        let isDisturbed = [first, second].contains { $0.counter("link_shared_dropped") + $0.counter("timeouts") > 0 }
        #expect(first.counter("retransmissions") == 0 || isDisturbed)
        try first.close()
        try second.close()
    }

    @Test("A key that opens nothing, and a range outside of its region, are refused, and no byte lands")
    func protection() throws {
        for wrong in 0..<2 {
            let (first, second) = try pair()
            first.fill(3)
            var remote = second.description
            for id in 0..<50 as Range<UInt64> {
                #expect(first.post(.IBV_WR_RDMA_WRITE, id: id, offset: 0, length: 64, remote: remote) == 0)
                #expect(first.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
            }
            #expect(first.counter("link_shared_tx_bursts") > 0)
            memset(second.memory, 0, second.byteCount)
            if wrong == 0 { remote.rkey ^= 0x100 } else { remote.address += UInt64(second.byteCount - 65_535) }
            #expect(first.post(.IBV_WR_RDMA_WRITE, id: 7, offset: 0, length: 65_536, remote: remote) == 0)
            #expect(first.completions(1).map(\.status) == [.IBV_WC_REM_ACCESS_ERR])
            #expect((0..<second.byteCount).allSatisfy { second.memory.load(fromByteOffset: $0, as: UInt8.self) == 0 })
            try first.close()
            try second.close()
        }
    }

    @Test("With the option off nothing is shared")
    func off() throws {
        let device = try #require(SoftProvider.shared.devices().first { $0.name == "soft_lo" })
        let interface = try #require(try NetworkInterface.named("lo"))
        var environment = DeviceEnvironment()
        environment.sameHost = false
        let context = try SoftContext.open(interface: interface, device: device, environment: environment)
        let end = try SoftEnd()
        context.withCore { core in
            core.link.meet(slot: UInt8(truncatingIfNeeded: end.description.qpn >> 16), localIndex: 0)
            #expect(core.link.hostPeerCount == 0)
        }
        try context.close()
        try end.close()
    }
}
