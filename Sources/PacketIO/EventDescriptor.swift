// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A descriptor that counts: readable while events wait, each read takes one. Programs poll it, make it non-blocking and
/// hand it to their event loops, so it has to be a real one.
package struct EventDescriptor: ~Copyable {
    private let descriptor: FileDescriptor

    /// The number to poll.
    package var number: Int32 { descriptor.number }

    package init() throws(PacketIOError) {
        descriptor = try FileDescriptor(
            eventfd(0, clinuxnet_eventfd_counting), call: "eventfd")
    }

    /// Adds one event. The counter holds 2^64-2 of them, so this never blocks.
    package borrowing func signal() {
        var one: UInt64 = 1
        _ = unsafe write(descriptor.number, &one, 8)
    }

    /// Takes one event out, and waits for it if the descriptor is blocking.
    /// - Returns: 0, or the `errno` of the read: EAGAIN if there is none and the descriptor is non-blocking; EINTR for a signal, by
    ///   which programs end their waiting, as libibverbs lets them.
    package borrowing func take() -> Int32 {
        var value: UInt64 = 0
        return unsafe read(descriptor.number, &value, 8) == 8 ? 0 : clinuxnet_errno()
    }

    /// Takes an event out if there is one, whatever the mode of the descriptor.
    package borrowing func takeIfAny() {
        if clinuxnet_is_readable(descriptor.number) != 0 { _ = take() }
    }
}
