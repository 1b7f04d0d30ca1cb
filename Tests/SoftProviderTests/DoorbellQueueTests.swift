// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import Testing

@testable import SoftProvider

@Suite("Doorbells that nobody could carry out at once")
struct DoorbellQueueTests {
    @Test("Each queue pair that rang is drained once, however often it rang")
    func once() {
        let queue = DoorbellQueue(capacity: 8)
        let isEmpty = queue.isEmpty
        #expect(isEmpty)
        for index in [3, 0, 3, 7, 0] { queue.ring(index) }
        var drained: [Int] = []
        queue.drain { drained.append($0) }
        #expect(drained.sorted() == [0, 3, 7])
        let isEmptyAgain = queue.isEmpty
        #expect(isEmptyAgain)
        queue.ring(3)
        drained = []
        queue.drain { drained.append($0) }
        #expect(drained == [3])
    }

    /// What the threads share.
    final class Shared: Sendable {
        let queue = DoorbellQueue(capacity: 4)
        /// Work published before the bell, and the largest that a drain saw.
        let published = Atomic<Int>(0)
        let seen = Atomic<Int>(0)
        let ringersLeft = Atomic<Int>(2)
    }

    @Test("No ring is lost while two threads ring and a third drains")
    func concurrent() throws {
        let shared = Shared()
        let rings = 20_000
        let threads = (0..<2).map { index in
            Thread {
                for _ in 0..<rings {
                    shared.published.add(1, ordering: .releasing)
                    shared.queue.ring(index)
                }
                shared.ringersLeft.subtract(1, ordering: .releasing)
            }
        }
        var last = false
        while true {
            last = shared.ringersLeft.load(ordering: .acquiring) == 0
            shared.queue.drain { _ in
                shared.seen.store(shared.published.load(ordering: .acquiring), ordering: .relaxed)
            }
            if last { break }
            sched_yield()
        }
        for thread in threads { thread.join() }
        let seen = shared.seen.load(ordering: .relaxed)
        #expect(seen == 2 * rings)
        let isEmpty = shared.queue.isEmpty
        #expect(isEmpty)
    }
}

/// A POSIX thread that is joined.
final class Thread {
    private var thread = pthread_t()

    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    init(_ body: @escaping @Sendable () -> Void) {
        let argument = Unmanaged.passRetained(Body(body)).toOpaque()
        pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue().run()
                return nil
            }, argument)
    }

    func join() { pthread_join(thread, nil) }
}
