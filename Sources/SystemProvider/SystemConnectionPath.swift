// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

/// The connection manager of the kernel's devices: each call is the function of librdmacm of that name.
///
/// The library crashes on some calls that come before an identifier has a device; here they are EINVAL.
@safe final class SystemConnectionPath: ConnectionPath, @unchecked Sendable {  // librdmacm is thread safe.
    private let library: LibRDMACM
    private let verbs: LibIBVerbs
    /// The devices that librdmacm has opened, by the address of their context. It opens each at first use and keeps it
    /// to the end of the process, unless the device is unplugged; so do we.
    private let devices = Mutex<[UInt: OpenDevice]>([:])

    private struct OpenDevice {
        let description: ProviderDevice
        let path: SystemControlPath
    }

    init(library: LibRDMACM, verbs: LibIBVerbs) {
        self.library = library
        self.verbs = verbs
    }

    func device(of identifier: Identifier) -> (description: ProviderDevice, path: any ControlPath)? {
        guard let context = unsafe identifier.pointee.verbs, let device = unsafe context.pointee.device else {
            return nil
        }
        let open = devices.withLock { devices in
            let key = UInt(bitPattern: context)
            if let known = devices[key] { return known }
            let open = unsafe OpenDevice(
                description: SystemProvider.describe(device, verbs),
                path: SystemControlPath(library: verbs, context: context, isOwner: false))
            devices[key] = open
            return open
        }
        return (open.description, open.path)
    }

    /// Zero is success, -1 says that `errno` has the error.
    private func check(_ function: StaticString, _ result: Int32) throws(ProviderError) {
        guard result != 0 else { return }
        throw ProviderError(function, code: result > 0 ? result : errno == 0 ? EIO : errno)
    }

    private func requireDevice(_ function: StaticString, _ identifier: Identifier) throws(ProviderError) {
        if unsafe identifier.pointee.verbs != nil { return }
        throw ProviderError(function, code: EINVAL, detail: "the identifier has no device: resolve an address first")
    }
}

// Event channels.
extension SystemConnectionPath {
    func makeEventChannel() throws(ProviderError) -> EventChannel {
        errno = 0
        guard let channel = unsafe library.createEventChannel() else {
            let code = errno == 0 ? EIO : errno
            throw ProviderError("rdma_create_event_channel", code: code, detail: SystemFiles.connectionHint(code))
        }
        return unsafe channel
    }

    func destroy(_ channel: EventChannel) { unsafe library.destroyEventChannel(channel) }

    func event(on channel: EventChannel) throws(ProviderError) -> UnsafeMutablePointer<rdma_cm_event> {
        var event: UnsafeMutablePointer<rdma_cm_event>?
        try unsafe check("rdma_get_cm_event", library.getEvent(channel, &event))
        guard let event = unsafe event else { throw ProviderError("rdma_get_cm_event", code: EIO) }
        return unsafe event
    }

    func acknowledge(_ event: UnsafeMutablePointer<rdma_cm_event>) throws(ProviderError) {
        try unsafe check("rdma_ack_cm_event", library.ackEvent(event))
    }
}

// Identifiers.
extension SystemConnectionPath {
    func makeIdentifier(
        on channel: EventChannel, context: UnsafeMutableRawPointer?, portSpace: rdma_port_space
    ) throws(ProviderError) -> Identifier {
        var identifier: Identifier?
        try unsafe check("rdma_create_id", library.createID(channel, &identifier, context, portSpace))
        guard let identifier = unsafe identifier else { throw ProviderError("rdma_create_id", code: EIO) }
        return unsafe identifier
    }

    func destroy(_ identifier: Identifier) throws(ProviderError) {
        try unsafe check("rdma_destroy_id", library.destroyID(identifier))
    }

    func setOption(
        _ identifier: Identifier, level: Int32, name: Int32, value: UnsafeMutableRawPointer, length: Int
    ) throws(ProviderError) {
        try unsafe check("rdma_set_option", library.setOption(identifier, level, name, value, length))
    }
}

// Passive side.
extension SystemConnectionPath {
    func bind(_ identifier: Identifier, to address: UnsafeMutablePointer<sockaddr>) throws(ProviderError) {
        try unsafe check("rdma_bind_addr", library.bind(identifier, address))
    }

    func listen(_ identifier: Identifier, backlog: Int32) throws(ProviderError) {
        try unsafe check("rdma_listen", library.listen(identifier, backlog))
    }

    func accept(
        _ identifier: Identifier, _ parameters: UnsafeMutablePointer<rdma_conn_param>
    ) throws(ProviderError) {
        try unsafe requireDevice("rdma_accept", identifier)
        try unsafe check("rdma_accept", library.accept(identifier, parameters))
    }

    func reject(_ identifier: Identifier, privateData: UnsafeRawPointer?, count: UInt8) throws(ProviderError) {
        try unsafe check("rdma_reject", library.reject(identifier, privateData, count))
    }
}

// Active side.
extension SystemConnectionPath {
    func resolveAddress(
        _ identifier: Identifier, source: UnsafeMutablePointer<sockaddr>?,
        destination: UnsafeMutablePointer<sockaddr>, timeoutMilliseconds: Int32
    ) throws(ProviderError) {
        let result = unsafe library.resolveAddress(identifier, source, destination, timeoutMilliseconds)
        try check("rdma_resolve_addr", result)
    }

    func resolveRoute(_ identifier: Identifier, timeoutMilliseconds: Int32) throws(ProviderError) {
        try unsafe requireDevice("rdma_resolve_route", identifier)
        try unsafe check("rdma_resolve_route", library.resolveRoute(identifier, timeoutMilliseconds))
    }

    func connect(
        _ identifier: Identifier, _ parameters: UnsafeMutablePointer<rdma_conn_param>
    ) throws(ProviderError) {
        try unsafe requireDevice("rdma_connect", identifier)
        try unsafe check("rdma_connect", library.connect(identifier, parameters))
    }

    func establish(_ identifier: Identifier) throws(ProviderError) {
        guard let establish = unsafe library.establish else {
            throw ProviderError("rdma_establish", code: EOPNOTSUPP, detail: "librdmacm has it since rdma-core 20")
        }
        try unsafe check("rdma_establish", establish(identifier))
    }
}

// Both sides.
extension SystemConnectionPath {
    func disconnect(_ identifier: Identifier) throws(ProviderError) {
        try unsafe check("rdma_disconnect", library.disconnect(identifier))
    }

    func notify(_ identifier: Identifier, _ event: ibv_event_type) throws(ProviderError) {
        try unsafe check("rdma_notify", library.notify(identifier, event))
    }

    func queuePairAttributes(
        _ identifier: Identifier, _ attributes: UnsafeMutablePointer<ibv_qp_attr>
    ) throws(ProviderError) -> ibv_qp_attr_mask {
        guard let initQPAttributes = unsafe library.initQPAttributes else {
            throw ProviderError("rdma_init_qp_attr", code: EOPNOTSUPP, detail: "librdmacm has it since rdma-core 20")
        }
        var mask: Int32 = 0
        try unsafe check("rdma_init_qp_attr", initQPAttributes(identifier, attributes, &mask))
        return ibv_qp_attr_mask(rawValue: UInt32(bitPattern: mask))
    }

    func joinMulticast(
        _ identifier: Identifier, _ address: UnsafeMutablePointer<sockaddr>, context: UnsafeMutableRawPointer?
    ) throws(ProviderError) {
        try unsafe check("rdma_join_multicast", library.joinMulticast(identifier, address, context))
    }

    func leaveMulticast(
        _ identifier: Identifier, _ address: UnsafeMutablePointer<sockaddr>
    ) throws(ProviderError) {
        try unsafe check("rdma_leave_multicast", library.leaveMulticast(identifier, address))
    }
}
