// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftEnds
import Testing
import VerbsABI

@testable import SoftProvider

@Suite("Two open software devices on loopback, through the C ABI", .serialized, .timeLimit(.minutes(2)))
struct SoftContextTests {
    @Test("SEND, RDMA WRITE and RDMA READ move the bytes", arguments: [1, 64, 4096, 4097, 65_536, 1_000_003])
    func transfers(length: Int) throws {
        let (a, b) = (try SoftEnd(byteCount: 1 << 21), try SoftEnd(byteCount: 1 << 21))
        a.fill(1)
        try a.connect(to: b.description)
        try b.connect(to: a.description)
        #expect(b.postReceive(id: 7, offset: 0, length: length) == 0)
        #expect(a.post(.IBV_WR_SEND, id: 1, offset: 0, length: length) == 0)
        let received = b.completions(1)
        #expect(received.map(\.wr_id) == [7])
        #expect(received.first?.status == .IBV_WC_SUCCESS)
        #expect(received.first.map { Int($0.byte_len) } == length)
        #expect(memcmp(a.memory, b.memory, length) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_SUCCESS])

        b.fill(2)
        #expect(a.post(.IBV_WR_RDMA_READ, id: 2, offset: 0, length: length, remote: b.description) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
        #expect(memcmp(a.memory, b.memory, length) == 0)

        a.fill(3)
        #expect(a.post(.IBV_WR_RDMA_WRITE, id: 3, offset: 0, length: length, remote: b.description) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
        #expect(memcmp(a.memory, b.memory, length) == 0)
        try a.close()
        try b.close()
    }

    @Test("A one-sided WRITE needs nothing of a target that does not poll, and many messages keep their order")
    func manyMessages() throws {
        let (a, b) = (try SoftEnd(), try SoftEnd())
        try a.connect(to: b.description)
        try b.connect(to: a.description)
        var expected: UInt64 = 0
        for round in 0..<200 {
            for index in 0..<16 {
                let result = a.post(
                    .IBV_WR_RDMA_WRITE, id: UInt64(round * 16 + index), offset: 0, length: 65_536, remote: b.description
                )
                #expect(result == 0)
            }
            for completion in a.completions(16) {
                #expect(completion.wr_id == expected)
                #expect(completion.status == .IBV_WC_SUCCESS)
                expected += 1
            }
        }
        #expect(expected == 3200)
        try a.close()
        try b.close()
    }

    @Test("A peer that goes away is noticed: retry exceeded, then flushes, and the device goes on")
    func goneAway() throws {
        let a = try SoftEnd()
        let b = try SoftEnd()
        try a.connect(to: b.description, timeout: 8)
        try b.connect(to: a.description)
        try b.close()
        for index in 0..<4 {
            #expect(
                a.post(.IBV_WR_RDMA_WRITE, id: UInt64(index), offset: 0, length: 100_000, remote: a.description) == 0)
        }
        let completions = a.completions(4)
        #expect(
            completions.map(\.status) == [
                .IBV_WC_RETRY_EXC_ERR, .IBV_WC_WR_FLUSH_ERR, .IBV_WC_WR_FLUSH_ERR, .IBV_WC_WR_FLUSH_ERR,
            ])
        // Receives that are posted in the error state are flushed too.
        #expect(a.postReceive(id: 9, offset: 0, length: 64) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_WR_FLUSH_ERR])
        try a.close()
    }
}
