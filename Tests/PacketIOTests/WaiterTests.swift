// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import Synchronization
import Testing

@testable import PacketIO

@Suite("A waiter") struct WaiterTests {
    @Test("is woken by a call that came before it slept, once for several")
    func wokenBefore() throws {
        let waiter = try Waiter()
        waiter.wake()
        waiter.wake()
        #expect(waiter.wait(until: .max).isWoken)
        #expect(waiter.wait(until: 0).isTimedOut)
    }

    @Test("is woken by another thread while it sleeps")
    func wokenAsleep() throws {
        let waiter = try Waiter()
        for _ in 0..<200 {
            let thread = try #require(startThread { waiter.wake() })
            #expect(waiter.wait(until: .max).isWoken)
            pthread_join(thread, nil)
        }
        // No wake-up is left over.
        #expect(waiter.wait(until: 0) == Waiter.Outcome())
    }

    @Test("ends at its deadline, not before, and only looks when that is past")
    func deadline() throws {
        let waiter = try Waiter()
        let deadline = Waiter.now + 3_000_000
        #expect(waiter.wait(until: deadline).isTimedOut)
        #expect(Waiter.now >= deadline)
        #expect(waiter.wait(until: 1).isTimedOut)
    }

    @Test("tells which descriptors are readable, unless it is told not to listen")
    func descriptors() throws {
        let waiter = try Waiter()
        let first = eventfd(0, clinuxnet_eventfd_flags)
        let second = eventfd(0, clinuxnet_eventfd_flags)
        defer {
            close(first)
            close(second)
        }
        try waiter.add(first, token: 11)
        try waiter.add(second, token: 22)
        #expect(throws: PacketIOError.self) { try waiter.add(first, token: 33) }
        var one: UInt64 = 1
        #expect(write(second, &one, 8) == 8)
        var outcome = waiter.wait(until: .max)
        #expect(outcome.readyCount == 1)
        #expect(waiter.readyToken(0) == 22)
        #expect(!outcome.isWoken)

        try waiter.setListening(false, to: second, token: 22)
        #expect(waiter.wait(until: 0).isTimedOut)
        try waiter.setListening(true, to: second, token: 22)
        waiter.wake()
        outcome = waiter.wait(until: .max)
        #expect(outcome.isWoken)
        #expect(outcome.readyCount == 1)
        try waiter.remove(second)
        #expect(waiter.wait(until: 0).isTimedOut)
    }

    @Test("is told by a link that something has arrived")
    func link() throws {
        let address = freshAddress()
        let link = try TestLink([address])
        let waiter = try Waiter()
        try waiter.add(link.descriptor, token: 5)
        #expect(waiter.wait(until: 0).isTimedOut)
        link.send(packet(to: link.slot), to: address)
        #expect(waiter.wait(until: Waiter.now + 10_000_000_000).readyCount == 1)
        #expect(waiter.readyToken(0) == 5)
        #expect(turn([link]) { link.segments.count == 1 })
        settle([link])
        #expect(waiter.wait(until: 0).isTimedOut)
    }
}

/// Starts a thread that runs the body.
private func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t? {
    final class Box {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    let result = pthread_create(
        &thread, nil,
        { argument in
            Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().body()
            return nil
        }, Unmanaged.passRetained(Box(body)).toOpaque())
    return result == 0 ? thread : nil
}
