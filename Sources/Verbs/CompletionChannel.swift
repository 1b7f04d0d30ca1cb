// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// Where a program waits for completion queues instead of polling.
///
/// A queue made with a channel sends one event when it is armed and then gets a completion. Because a completion may
/// come before the arming, the order is: arm, poll once more, wait. ``CompletionQueue/wait(timeout:solicitedOnly:)`` does
/// it. The corresponding C type is `struct ibv_comp_channel`.
@safe public final class CompletionChannel {
    /// The device that it was made on.
    public let context: Context

    /// Readable when an event waits; for `epoll` and its like. Non-blocking; do not read from it.
    public let descriptor: Int32

    let native: UnsafeMutablePointer<ibv_comp_channel>

    init(context: Context) throws(VerbsError) {
        self.context = context
        do throws(ProviderError) {
            unsafe native = try context.path.makeCompletionChannel()
        } catch {
            throw VerbsError(error)
        }
        descriptor = unsafe native.pointee.fd
        Context.makeNonBlocking(descriptor)
    }

    deinit {
        // Completion queues made with the channel keep it alive.
        try? unsafe context.path.destroy(native)
    }

    /// Waits for an event and says of which queue it was; `nil` when the time is over. `nil` waits for ever, zero looks
    /// once. The corresponding C functions are `poll` and `ibv_get_cq_event`; acknowledging is the library's.
    public func wait(timeout: Duration? = nil) throws(VerbsError) -> CompletionQueue.ID? {
        guard let core = try waitForEvent(until: Deadline(timeout)) else { return nil }
        core.pendingEvents -= 1
        return CompletionQueue.ID(core)
    }

    func waitForEvent(until deadline: Deadline) throws(VerbsError) -> CompletionQueueCore? {
        while true {
            do throws(ProviderError) {
                let queue = try unsafe context.path.completionEvent(on: native)
                // Set at creation; the queue is alive, its destroy call takes its events off the channel.
                guard let pointer = unsafe queue.pointee.cq_context else { continue }
                let core = unsafe Unmanaged<CompletionQueueCore>.fromOpaque(pointer).takeUnretainedValue()
                core.eventArrived()
                return core
            } catch {
                guard error.code == EAGAIN || error.code == EINTR else { throw VerbsError(error) }
            }
            guard deadline.waitReadable(descriptor) else { return nil }
        }
    }
}

@available(*, unavailable) extension CompletionChannel: Sendable {}

extension Context {
    /// Makes a channel. The corresponding C function is `ibv_create_comp_channel`.
    public func makeCompletionChannel() throws(VerbsError) -> CompletionChannel {
        try CompletionChannel(context: self)
    }
}

// Waiting for a completion queue.
extension CompletionQueue {
    /// Asks for one event at the next completion, or at the next solicited one (and every failed one). The
    /// corresponding C function is `ibv_req_notify_cq`.
    public func arm(solicitedOnly: Bool = false) throws(VerbsError) {
        // One call through the context's operations; the handle is alive.
        let code = unsafe ibv_req_notify_cq(native, solicitedOnly ? 1 : 0)
        if code != 0 { throw VerbsError(ProviderError("ibv_req_notify_cq", code: abs(code))) }
    }

    /// Waits until there is something to poll: true, or false when the time is over. `nil` waits for ever.
    ///
    /// With `solicitedOnly` only completions of messages sent with ``SendFlags/solicited``, and failures, end a wait that
    /// has begun. The queue must have been made with a channel.
    public func wait(timeout: Duration? = nil, solicitedOnly: Bool = false) throws(VerbsError) -> Bool {
        guard let channel = core.channel else {
            throw VerbsError(
                .invalidAttribute, verb: "ibv_get_cq_event", subject: "channel",
                remedy: "Make the completion queue with a completion channel, or poll it")
        }
        let deadline = Deadline(timeout)
        while true {
            if unsafe ready.pointee.cursor != ready.pointee.end { return true }
            if try refill() { return true }
            try arm(solicitedOnly: solicitedOnly)
            // A completion that came before the arming makes no event.
            if try refill() { return true }
            while core.pendingEvents == 0 {
                guard try channel.waitForEvent(until: deadline) != nil else { return try refill() }
            }
            core.pendingEvents = 0
        }
    }
}
