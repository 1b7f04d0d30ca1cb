// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

// What programs in C ask of the connection manager and `ConnectionPath` has no word for.
extension SoftProvider {
    /// An identifier for queue pairs of a type: XRC, which the port space does not say. The corresponding C function is
    /// `rdma_create_ep`.
    package func makeIdentifier(
        on channel: UnsafeMutablePointer<rdma_event_channel>, context: UnsafeMutableRawPointer?,
        portSpace: rdma_port_space, type: ibv_qp_type
    ) throws(ProviderError) -> UnsafeMutablePointer<rdma_cm_id> {
        unsafe try SoftConnectionPath.shared.makeIdentifier(
            on: channel, context: context, portSpace: portSpace, type: type)
    }

    /// Takes an identifier to another event channel; waits until its events of before are acknowledged. The corresponding C
    /// function is `rdma_migrate_id`.
    package func migrate(
        _ identifier: UnsafeMutablePointer<rdma_cm_id>, to channel: UnsafeMutablePointer<rdma_event_channel>
    ) throws(ProviderError) {
        let target = try unsafe SoftConnectionPath.shared.find("rdma_migrate_id", channel)
        let identifier = unsafe SoftIdentifier.of(identifier)
        identifier.migrate(to: target)
        while !identifier.isAcknowledged { sleepNanoseconds(100_000) }
    }

    /// From now on an identifier that connects, or asks for a datagram service, where nobody listens asks again for some
    /// time, before it is told so.
    package func askAgain(_ identifier: UnsafeMutablePointer<rdma_cm_id>, forNanoseconds time: UInt64) {
        unsafe SoftIdentifier.of(identifier).state.withLock { $0.asksAgainNanoseconds = time }
    }

    /// Puts an event of the program's own behind those that wait on the channel of an identifier, with `argument` in `param.arg`.
    /// The corresponding C function is `rdma_write_cm_event`.
    package func post(
        _ event: rdma_cm_event_type, of identifier: UnsafeMutablePointer<rdma_cm_id>, status: Int32 = 0,
        argument: UInt64 = 0
    ) {
        unsafe SoftIdentifier.of(identifier).post(event, status: status) { event in
            unsafe withUnsafeMutableBytes(of: &event.param) { unsafe $0.storeBytes(of: argument, as: UInt64.self) }
        }
    }

    /// The multicast group that an address stands for; `nil` for another family than IPv4 and IPv6.
    package func group(of address: UnsafePointer<sockaddr>) -> ibv_gid? {
        unsafe CSocketAddress.read(address).map { ibv_gid($0.gid) }
    }

    /// The contexts of all devices, which identifiers are bound to and which are never closed; opens those that are not open
    /// yet. The corresponding C function is `rdma_get_devices`.
    package func connectionContexts() -> [SoftContext] {
        // Not every interface can carry a device.
        let interfaces = Self.interfaces()
        return (interfaces.filter { $0.name != "lo" } + interfaces.filter { $0.name == "lo" }).compactMap {
            try? SoftConnectionPath.shared.context(of: $0)
        }
    }
}
