// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import Synchronization
import VerbsABI

/// The asynchronous events of a context that its application has not read yet, behind `ibv_context.async_fd`.
///
/// Bounded: an application that never reads them loses the newest, which is counted, and never memory.
struct AsynchronousEventQueue: ~Copyable {
    private static let capacity = 1024

    let descriptor: EventDescriptor
    private let waiting: Mutex<Waiting>

    @safe struct Waiting: @unchecked Sendable {
        // The objects that events name stay alive while they stand here: `remove` runs before one is freed.
        var events: [ibv_async_event] = unsafe []
        var dropped: UInt64 = 0
    }

    init() throws(PacketIOError) {
        descriptor = try EventDescriptor()
        var waiting = Waiting()
        unsafe waiting.events.reserveCapacity(Self.capacity)
        self.waiting = Mutex(waiting)
    }

    /// Events lost because the application did not read.
    var dropped: UInt64 { waiting.withLock { $0.dropped } }

    borrowing func post(_ event: ibv_async_event) {
        let kept = waiting.withLock { waiting in
            guard unsafe waiting.events.count < Self.capacity else {
                waiting.dropped += 1
                return false
            }
            unsafe waiting.events.append(event)
            return true
        }
        if kept { descriptor.signal() }
    }

    /// Takes the oldest event; waits for one if the descriptor is blocking.
    borrowing func next() -> (event: ibv_async_event, code: Int32) {
        while true {
            let code = descriptor.take()
            guard code == 0 else { return unsafe (ibv_async_event(), code) }
            let event = unsafe waiting.withLock { waiting in
                unsafe waiting.events.isEmpty ? nil : waiting.events.removeFirst()
            }
            if let event = unsafe event { return unsafe (event, 0) }
        }
    }

    /// Forgets the undelivered events of an object that is being destroyed.
    borrowing func remove(where isOfObject: (ibv_async_event) -> Bool) {
        let removed = waiting.withLock { waiting in
            let before = unsafe waiting.events.count
            unsafe waiting.events.removeAll(where: isOfObject)
            return unsafe before - waiting.events.count
        }
        for _ in 0..<removed { descriptor.takeIfAny() }
    }
}
