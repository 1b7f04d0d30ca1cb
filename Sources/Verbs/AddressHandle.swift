// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// The way to a peer's port, for datagrams. The corresponding C type is `struct ibv_ah`.
@safe public final class AddressHandle {
    /// The domain that it was made in, whose queue pairs may use it.
    public let domain: ProtectionDomain
    /// What it was made of.
    public let path: PathAttributes

    @usableFromInline let native: UnsafeMutablePointer<ibv_ah>
    /// The account of the queue pair that keeps this handle alive for its sends in flight.
    @usableFromInline private(set) var keeper: UnsafeMutableRawPointer?

    init(domain: ProtectionDomain, path: PathAttributes) throws(VerbsError) {
        self.domain = domain
        self.path = path
        do throws(ProviderError) {
            var attributes = path.native
            // A local variable, read during the call.
            unsafe native = try domain.context.path.makeAddressHandle(domain.native, &attributes)
        } catch {
            var attributes = QueuePairAttributes()
            attributes.path = path
            let port = try? domain.context.port(path.port)
            if let bad = Diagnosis.badValue(attributes, transport: .unreliableDatagram, port: port, device: nil) {
                throw VerbsError(
                    .invalidAttribute, verb: error.function.description, code: error.code, subject: bad.name,
                    value: bad.value, limit: bad.limit, remedy: "`verbs info` lists the GIDs of the port")
            }
            throw VerbsError(error)
        }
    }

    deinit { try? unsafe domain.context.path.destroy(native) }

    func remember(_ queue: UnsafeMutableRawPointer) { unsafe keeper = queue }

    func forget(_ queue: UnsafeMutableRawPointer) {
        if unsafe keeper == queue { unsafe keeper = nil }
    }
}

@available(*, unavailable) extension AddressHandle: Sendable {}

/// Where a datagram goes: the way to the port, the queue pair there, and the key that it checks.
@frozen public struct DatagramDestination {
    /// The way to the port.
    public let handle: AddressHandle
    /// The queue pair number there, 24 bits.
    public let queuePair: UInt32
    /// The key that the queue pair there checks.
    public let qkey: UInt32

    /// A queue pair behind a port, with its key.
    @inlinable public init(_ handle: AddressHandle, queuePair: UInt32, qkey: UInt32) {
        self.handle = handle
        self.queuePair = queuePair
        self.qkey = qkey
    }
}

extension ProtectionDomain {
    /// Makes an address handle. The corresponding C function is `ibv_create_ah`.
    public func makeAddressHandle(_ path: PathAttributes) throws(VerbsError) -> AddressHandle {
        try AddressHandle(domain: self, path: path)
    }
}
