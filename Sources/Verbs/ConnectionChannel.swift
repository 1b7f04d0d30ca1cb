// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

/// A connection manager: makes identifiers, and reports what happens to them.
///
/// This is the level of librdmacm, call by call. ``Listener`` and ``OutgoingConnection`` stand above it and do the usual
/// sequence; this level is for datagram services, multicast, and programs with an event loop of their own.
///
/// ```swift
/// let channel = try ConnectionChannel()
/// let identifier = try channel.makeIdentifier(.tcp)
/// try identifier.resolveAddress(SocketAddress("192.0.2.1:7471")!, timeout: .seconds(2))
/// while let event = try channel.nextEvent(timeout: .seconds(5)) {
///     switch event.kind {
///     case .addressResolved: try identifier.resolveRoute(timeout: .seconds(2))
///     …
/// ```
///
/// Any thread may use it; each event goes to one caller. The corresponding C type is `struct rdma_event_channel`.
@safe public final class ConnectionChannel: @unchecked Sendable {  // Constant, but for tables behind mutexes.
    let provider: any VerbsProvider
    let path: any ConnectionPath
    private let native: UnsafeMutablePointer<rdma_event_channel>
    /// The identifiers, by the address of their C object, to find them by their events.
    private let identifiers = Mutex<[UInt: WeakIdentifier]>([:])

    private struct WeakIdentifier {
        weak var identifier: ConnectionIdentifier?
    }

    /// Readable when an event waits; for `epoll` and its like. Non-blocking; do not read from it.
    public let descriptor: Int32

    /// The connection manager of the kernel's devices if there are any, else that of the embedded ones. `VERBS_PROVIDER`
    /// chooses as for ``Device/all()``. The corresponding C function is `rdma_create_event_channel`.
    public convenience init() throws(VerbsError) {
        let providers = Device.providers
        try self.init(provider: providers.first { !$0.devices().isEmpty } ?? providers[0])
    }

    /// The connection manager of the kind of that device: of the kernel's, or of the embedded ones.
    public convenience init(on device: Device) throws(VerbsError) { try self.init(provider: device.provider) }

    private init(provider: any VerbsProvider) throws(VerbsError) {
        self.provider = provider
        do throws(ProviderError) {
            path = try provider.connections()
            unsafe native = try path.makeEventChannel()
        } catch {
            throw ConnectionDiagnosis.error(error)
        }
        descriptor = unsafe native.pointee.fd
        Context.makeNonBlocking(descriptor)
    }

    // Identifiers keep their channel, so none is left.
    deinit { unsafe path.destroy(native) }

    /// Makes an identifier. The corresponding C function is `rdma_create_id`.
    public func makeIdentifier(_ portSpace: ConnectionIdentifier.PortSpace) throws(VerbsError) -> ConnectionIdentifier {
        do throws(ProviderError) {
            let identifier = try unsafe path.makeIdentifier(on: native, context: nil, portSpace: portSpace.native)
            return unsafe ConnectionIdentifier(identifier, portSpace: portSpace, channel: self)
        } catch {
            throw ConnectionDiagnosis.error(error)
        }
    }
}

// Events.
extension ConnectionChannel {
    /// The next event; `nil` when the time is over. `nil` waits for ever, zero looks once. The corresponding C function is
    /// `rdma_get_cm_event`; acknowledging is the library's.
    public func nextEvent(timeout: Duration? = nil) throws(VerbsError) -> ConnectionEvent? {
        let deadline = Deadline(timeout)
        while true {
            do throws(ProviderError) {
                if let event = try readEvent() { return event }
                continue
            } catch {
                guard error.code == EAGAIN || error.code == EINTR else { throw ConnectionDiagnosis.error(error) }
            }
            guard deadline.waitReadable(descriptor) else { return nil }
        }
    }

    /// The events from now on, as they come; ends when the device fails or the task is cancelled.
    public var events: AsyncStream<ConnectionEvent> {
        AsyncStream { continuation in
            let source = ReadableSource(descriptor: descriptor) {
                do throws(VerbsError) {
                    while let event = try self.nextEvent(timeout: .zero) { continuation.yield(event) }
                    return true
                } catch {
                    continuation.finish()
                    return false
                }
            }
            continuation.onTermination = { _ in source.cancel() }
        }
    }

    /// Reads one event; `nil` if it was of an identifier that is just being let go.
    private func readEvent() throws(ProviderError) -> ConnectionEvent? {
        let native = try unsafe path.event(on: native)
        // Until it is acknowledged the identifiers that it names cannot be destroyed. An identifier whose last reference
        // is dropped on another thread waits for that; so nothing that was retained here may be let go before.
        let event = unsafe convert(native)
        try unsafe path.acknowledge(native)
        switch consume event {
        case .of(let event): return event
        case .ofNobody(let request):
            if let request = unsafe request { try unsafe path.destroy(request) }
            return nil
        }
    }

    @safe private enum ReadEvent {
        case of(ConnectionEvent)
        /// The identifier has ended. A request to it has an identifier of its own, which nobody will answer.
        case ofNobody(request: UnsafeMutablePointer<rdma_cm_id>?)
    }

    private func convert(_ native: UnsafeMutablePointer<rdma_cm_event>) -> ReadEvent {
        let isRequest = unsafe native.pointee.event == .RDMA_CM_EVENT_CONNECT_REQUEST
        let subject = unsafe isRequest ? native.pointee.listen_id : native.pointee.id
        let made = unsafe isRequest ? native.pointee.id : nil
        guard let subject = unsafe subject, let identifier = unsafe find(subject) else {
            return unsafe .ofNobody(request: made)
        }
        let request = unsafe made.map {
            unsafe ConnectionIdentifier($0, portSpace: identifier.portSpace, channel: self)
        }
        let group = unsafe identifier.group(of: native.pointee)
        let kind = unsafe ConnectionEvent.Kind(
            native.pointee, portSpace: identifier.portSpace, request: request, group: group)
        return .of(ConnectionEvent(identifier: identifier, kind: kind))
    }

    private func find(_ native: UnsafeMutablePointer<rdma_cm_id>) -> ConnectionIdentifier? {
        identifiers.withLock { $0[UInt(bitPattern: native)]?.identifier }
    }

    func enter(_ identifier: ConnectionIdentifier, _ native: UnsafeMutablePointer<rdma_cm_id>) {
        identifiers.withLock { $0[UInt(bitPattern: native)] = WeakIdentifier(identifier: identifier) }
    }

    /// No event will come any more.
    func closeInboxes() {
        let all = identifiers.withLock { $0.values.compactMap(\.identifier) }
        for identifier in all { identifier.inbox.close() }
    }

    /// Before the C object is destroyed: its address may come back at once.
    func forget(_ native: UnsafeMutablePointer<rdma_cm_id>) {
        identifiers.withLock { $0[UInt(bitPattern: native)] = nil }
    }
}
