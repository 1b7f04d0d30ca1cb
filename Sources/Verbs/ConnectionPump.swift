// SPDX-License-Identifier: Apache-2.0

/// Reads the events of a channel as they come and gives each to the inbox of its identifier.
///
/// A pump belongs to one listener with the connections accepted there, or to one outgoing connection. It runs on a queue of
/// Dispatch, so neither a thread nor a task of the program has to read for the others.
final class ConnectionPump: Sendable {
    let channel: ConnectionChannel
    private let source: ReadableSource

    /// `backlog` requests may wait in the listener's inbox; beyond it the identifiers of requests are let go, which
    /// refuses them.
    init(_ channel: ConnectionChannel, backlog: Int = 0) {
        self.channel = channel
        // The source keeps the channel, and so its descriptor, until it has been cancelled.
        source = ReadableSource(descriptor: channel.descriptor) {
            do throws(VerbsError) {
                while let event = try channel.nextEvent(timeout: .zero) { Self.deliver(event, backlog: backlog) }
                return true
            } catch {
                channel.closeInboxes()
                return false
            }
        }
    }

    deinit { source.cancel() }

    private static func deliver(_ event: ConnectionEvent, backlog: Int) {
        let inbox = event.identifier.inbox
        if case .connectRequest = event.kind, inbox.count >= backlog { return }
        inbox.put(event.kind)
        // The peer waits for our consent; if the end was ours, this call fails and has no effect.
        if case .disconnected = event.kind { try? event.identifier.disconnect() }
    }
}
