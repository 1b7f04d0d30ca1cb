// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftEnds
import Synchronization
import Testing
import VerbsABI

@testable import SoftProvider

@Suite("Two open software devices on loopback, through the C ABI", .serialized, .timeLimit(.minutes(10)))
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

    @Test("Several threads post to one queue pair and poll one completion queue; each request completes once")
    func severalThreads() throws {
        let (a, b) = (try SoftEnd(), try SoftEnd())
        try a.connect(to: b.description)
        try b.connect(to: a.description)
        let crowd = Crowd(end: a, remote: b.description)
        var threads: [pthread_t] = []
        for _ in 0..<Crowd.posterCount { threads.append(crowd.start { $0.post() }) }
        for _ in 0..<3 { threads.append(crowd.start { $0.poll() }) }
        for thread in threads { pthread_join(thread, nil) }
        #expect(crowd.failures.load(ordering: .relaxed) == 0)
        #expect(crowd.completed.load(ordering: .relaxed) == Crowd.posterCount * Crowd.requestCount)
        #expect(a.completions(1, within: 0.05).isEmpty)
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

/// Threads that share one queue pair and one completion queue. Each poster has one request under way, and writes to its
/// bytes again when that is complete: whoever sees the completion must see the device's last look at them too.
private final class Crowd: @unchecked Sendable {
    static let posterCount = 4
    static let requestCount = 500

    let end: SoftEnd
    let remote: RemoteEnd
    let completed = Atomic<Int>(0)
    let failures = Atomic<Int>(0)
    private let nextPoster = Atomic<Int>(0)
    /// By poster, the requests that completed.
    private let done: [Counter] = (0..<posterCount).map { _ in Counter() }

    private final class Counter: Sendable {
        let value = Atomic<Int>(0)
    }

    init(end: SoftEnd, remote: RemoteEnd) {
        self.end = end
        self.remote = remote
    }

    func start(_ body: @escaping @Sendable (Crowd) -> Void) -> pthread_t {
        let job = Job { body(self) }
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<Job>.fromOpaque(argument!).takeRetainedValue().body()
                return nil
            }, Unmanaged.passRetained(job).toOpaque())
        return thread
    }

    private final class Job {
        let body: () -> Void
        init(_ body: @escaping () -> Void) { self.body = body }
    }

    func post() {
        let poster = nextPoster.wrappingAdd(1, ordering: .relaxed).oldValue
        let offset = poster * 4096
        for request in 0..<Self.requestCount {
            end.memory.storeBytes(of: UInt64(request), toByteOffset: offset, as: UInt64.self)
            let id = UInt64(poster << 32 | request)
            let code = end.post(
                .IBV_WR_RDMA_WRITE, id: id, offset: offset, length: 64, remote: remote, remoteOffset: offset)
            if code != 0 { failures.wrappingAdd(1, ordering: .relaxed) }
            while done[poster].value.load(ordering: .acquiring) == request {
                if failures.load(ordering: .relaxed) > 0 { return }
                sched_yield()
            }
        }
    }

    func poll() {
        var completion = ibv_wc()
        while completed.load(ordering: .relaxed) < Self.posterCount * Self.requestCount,
            failures.load(ordering: .relaxed) == 0
        {
            guard ibv_poll_cq(end.queue, 1, &completion) == 1 else {
                sched_yield()
                continue
            }
            let (poster, request) = (Int(completion.wr_id >> 32), Int(completion.wr_id & 0xFFFF_FFFF))
            // A poster's requests are one after another, so the next one is the only one that may complete.
            let isNext = done[poster].value.compareExchange(
                expected: request, desired: request + 1, ordering: .acquiringAndReleasing
            ).exchanged
            if !isNext || completion.status != .IBV_WC_SUCCESS { failures.wrappingAdd(1, ordering: .relaxed) }
            completed.wrappingAdd(1, ordering: .relaxed)
        }
    }
}
