// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import Synchronization
import Testing
import VerbsABI

@Suite("Event channels of the connection manager")
struct EventChannelTests {
    // The library's Mutex goes from thread to thread in the kernel (FUTEX_UNLOCK_PI) where both are at it, as here all the time.
    @Test(
        "Events that come while their identifier changes its channel are all read, in their order",
        .enabled(if: getenv("TSAN_OPTIONS") == nil, "the thread sanitizer sees no lock that the kernel hands over"))
    func migration() async throws {
        let path = try SoftProvider.shared.connections()
        let channels = try [path.makeEventChannel(), path.makeEventChannel()]
        for channel in channels { #expect(fcntl(channel.pointee.fd, F_SETFL, O_NONBLOCK) == 0) }
        let identifier = try path.makeIdentifier(on: channels[0], context: nil, portSpace: .RDMA_PS_TCP)
        let address = UInt(bitPattern: identifier)
        let count: UInt64 = 20_000
        let isPosting = Flag()
        let poster = Task.detached {
            let identifier = UnsafeMutablePointer<rdma_cm_id>(bitPattern: address)!
            // RDMA_CM_EVENT_USER
            let user = rdma_cm_event_type(rawValue: 18)!
            for number in 0..<count { SoftProvider.shared.post(user, of: identifier, argument: number) }
            isPosting.clear()
        }
        var next: UInt64 = 0
        func readAll(_ turn: Int) throws {
            while let event = try? path.event(on: channels[turn]) {
                let number = withUnsafeBytes(of: &event.pointee.param) { $0.load(as: UInt64.self) }
                try path.acknowledge(event)
                try #require(number == next)
                next += 1
            }
        }
        var turn = 0
        while isPosting.isSet {
            try readAll(turn)
            turn = 1 - turn
            try SoftProvider.shared.migrate(identifier, to: channels[turn])
        }
        await poster.value
        try readAll(turn)
        #expect(next == count)
        try path.destroy(identifier)
        for channel in channels { path.destroy(channel) }
    }
}

/// Set until one thread clears it.
private final class Flag: Sendable {
    private let value = Atomic(true)
    var isSet: Bool { value.load(ordering: .acquiring) }
    func clear() { value.store(false, ordering: .releasing) }
}
