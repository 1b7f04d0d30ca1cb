// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import PacketIO
import RoCETransport
import RoCEWire
import Synchronization
import VerbsABI

/// The events of a channel that its application has not read yet, behind `rdma_event_channel.fd`.
@safe final class SoftEventChannel: @unchecked Sendable {
    typealias Event = UnsafeMutablePointer<rdma_cm_event>

    // Unchecked because of `native`: constant, and written before anybody else has it.
    let native: UnsafeMutablePointer<rdma_event_channel>
    private let descriptor: EventDescriptor
    private let waiting = Mutex(Waiting())

    @safe private struct Waiting: @unchecked Sendable {
        // Each event is owned by this list until it is read, then by who acknowledges it.
        var events: [Event] = unsafe []
    }

    init() throws(PacketIOError) {
        descriptor = try EventDescriptor()
        unsafe native = .allocate(capacity: 1)
        unsafe native.initialize(to: rdma_event_channel(fd: descriptor.number))
    }

    deinit {
        waiting.withLock { waiting in
            while let event = unsafe waiting.events.popLast() { unsafe Self.free(event) }
        }
        unsafe native.deallocate()
    }

    func post(_ event: Event) {
        waiting.withLock { unsafe $0.events.append(event) }
        descriptor.signal()
    }

    /// Takes the oldest event; waits for one if the descriptor is blocking.
    func next() -> Result<Event, ProviderError> {
        while true {
            let code = descriptor.take()
            guard code == 0 else { return unsafe .failure(ProviderError("rdma_get_cm_event", code: code)) }
            let event = unsafe waiting.withLock { waiting -> Event? in
                guard unsafe !waiting.events.isEmpty else { return nil }
                let event = unsafe waiting.events.removeFirst()
                // Under the lock: whoever destroys the identifier finds the event here, or counted there.
                if let identifier = unsafe event.pointee.listen_id ?? event.pointee.id {
                    unsafe SoftIdentifier.of(identifier).noteRead()
                }
                return unsafe event
            }
            if let event = unsafe event {
                return unsafe .success(event)
            }
        }
    }

    /// Takes the unread events of an identifier out; that they were signalled stays, and a reader finds nothing then. The
    /// identifiers of connections that they offer go to nobody.
    func removeEvents(of identifier: UnsafeMutablePointer<rdma_cm_id>) -> [SoftIdentifier] {
        var orphans: [SoftIdentifier] = []
        while let event = unsafe takeEvent(of: identifier) {
            if let id = unsafe event.pointee.id, unsafe id != identifier {
                unsafe orphans.append(SoftIdentifier.of(id))
            }
            unsafe Self.free(event)
        }
        return orphans
    }

    /// Moves the unread events that are about an identifier to another channel.
    func moveEvents(of identifier: UnsafeMutablePointer<rdma_cm_id>, to other: SoftEventChannel) {
        while let event = unsafe takeEvent(of: identifier) { unsafe other.post(event) }
    }

    private func takeEvent(of identifier: UnsafeMutablePointer<rdma_cm_id>) -> Event? {
        unsafe waiting.withLock { waiting in
            let place = unsafe waiting.events.firstIndex { event in
                unsafe event.pointee.id == identifier || event.pointee.listen_id == identifier
            }
            return unsafe place.map { unsafe waiting.events.remove(at: $0) }
        }
    }

    static func free(_ event: Event) {
        // Private data stands right behind the event, in the same piece of memory.
        unsafe Glibc.free(event)
    }
}

/// What stands behind an `rdma_cm_id` of the software device.
@safe final class SoftIdentifier: @unchecked Sendable {
    /// What an identifier is at, guarded by its mutex. The mutex is never held while a device's lock is taken; events
    /// come with the device's lock held and take the mutex then.
    struct State {
        /// The device that it is bound to; all of its interface's for a wildcard that listens.
        var context: SoftContext?
        var localIndex = 0
        var local: GID?
        var localPort: UInt16 = 0
        var remote: GID?
        var remotePort: UInt16 = 0
        /// What its messages belong to.
        var communication: CommunicationID?
        /// Of the passive side: what was asked for.
        var request: ConnectionRequest?
        /// Of the active side: the queue pair that connects.
        var queuePair: QPN?
        /// Of the passive side: what the peer offers beyond the specification.
        var offered: PeerCapabilities = []
        var listening: [Listening] = []
        var groups: [GID] = []
        var trafficClass: UInt8 = 0
        var ackTimeout: UInt8?
        var isAddressShared = false
        /// See ``ConnectOptions/asksAgainFor``.
        var asksAgainNanoseconds: UInt64 = 0
        /// Events that were read and not acknowledged.
        var unacknowledged = 0
    }

    /// One device and address that it listens at.
    struct Listening {
        let context: SoftContext
        let localIndex: Int
        let address: GID
    }

    let native: UnsafeMutablePointer<rdma_cm_id>
    /// Where its events go; another one once it migrates.
    var channel: SoftEventChannel { currentChannel.withLock { $0 } }
    private let currentChannel: Mutex<SoftEventChannel>
    let portSpace: ServiceID.PortSpace
    /// Of the queue pairs that it connects.
    let type: ibv_qp_type
    let state = Mutex(State())

    /// What is asked for, and answered, for such queue pairs; of datagrams nothing.
    var transport: ConnectionRequest.Transport {
        type == .IBV_QPT_XRC_SEND || type == .IBV_QPT_XRC_RECV ? .extendedReliableConnected : .reliableConnected
    }

    /// The tag of its events, and how C finds it.
    var tag: UInt { UInt(bitPattern: unsafe native) }

    init(
        channel: SoftEventChannel, context: UnsafeMutableRawPointer?, portSpace: ServiceID.PortSpace, type: ibv_qp_type
    ) {
        currentChannel = Mutex(channel)
        self.portSpace = portSpace
        self.type = type
        let size = unsafe MemoryLayout<rdma_cm_id>.stride + MemoryLayout<UnsafeRawPointer>.size
        let memory = unsafe UnsafeMutableRawPointer.allocate(
            byteCount: size, alignment: MemoryLayout<rdma_cm_id>.alignment)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        unsafe native = memory.bindMemory(to: rdma_cm_id.self, capacity: 1)
        unsafe native.pointee.channel = unsafe channel.native
        unsafe native.pointee.context = unsafe context
        unsafe native.pointee.ps = rdma_port_space(rawValue: UInt32(portSpace.rawValue))!
        unsafe native.pointee.qp_type = type
        // Retained until `release`: the C object keeps its own reference behind it.
        unsafe Self.reference(native).pointee = unsafe Unmanaged.passRetained(self).toOpaque()
    }

    deinit { unsafe UnsafeMutableRawPointer(native).deallocate() }

    /// Lets go of the reference that the C object has of it.
    func release() {
        unsafe Unmanaged<SoftIdentifier>.fromOpaque(Self.reference(native).pointee).release()
    }

    static func of(_ native: UnsafeMutablePointer<rdma_cm_id>) -> SoftIdentifier {
        unsafe Unmanaged<SoftIdentifier>.fromOpaque(reference(native).pointee).takeUnretainedValue()
    }

    private static func reference(
        _ native: UnsafeMutablePointer<rdma_cm_id>
    ) -> UnsafeMutablePointer<UnsafeMutableRawPointer> {
        unsafe (UnsafeMutableRawPointer(native) + MemoryLayout<rdma_cm_id>.stride).assumingMemoryBound(
            to: UnsafeMutableRawPointer.self)
    }

    /// Takes its events to another channel, those that wait as well.
    func migrate(to channel: SoftEventChannel) {
        // Under the lock, so that no event is posted to the one before when the others have left it.
        currentChannel.withLock { current in
            unsafe current.moveEvents(of: native, to: channel)
            current = channel
        }
        unsafe native.pointee.channel = unsafe channel.native
    }

    func noteRead() { state.withLock { $0.unacknowledged += 1 } }
    func noteAcknowledged() { state.withLock { $0.unacknowledged -= 1 } }
    var isAcknowledged: Bool { state.withLock { $0.unacknowledged == 0 } }

    /// Binds to an address of a device, and writes that where C reads it.
    func bind(_ context: SoftContext, localIndex: Int, local: GID, port: UInt16) {
        state.withLock { state in
            state.context = context
            state.localIndex = localIndex
            state.local = local
            state.localPort = port
        }
        unsafe native.pointee.verbs = unsafe context.context
        unsafe native.pointee.port_num = 1
        unsafe native.pointee.route.addr.addr.ibaddr.sgid = ibv_gid(local)
        unsafe native.pointee.route.addr.addr.ibaddr.pkey = UInt16(0xFFFF)
        unsafe CSocketAddress.store(
            local, port: port, scope: context.scope(of: local), to: &native.pointee.route.addr.src_storage)
    }

    func setPeer(_ remote: GID, port: UInt16, scope: UInt32) {
        state.withLock { state in
            state.remote = remote
            state.remotePort = port
        }
        unsafe native.pointee.route.addr.addr.ibaddr.dgid = ibv_gid(remote)
        unsafe CSocketAddress.store(remote, port: port, scope: scope, to: &native.pointee.route.addr.dst_storage)
    }

    /// Posts an event; the private data is copied behind it.
    func post(
        _ type: rdma_cm_event_type, status: Int32 = 0, listener: SoftIdentifier? = nil, privateData: [UInt8] = [],
        _ fill: (inout rdma_cm_event) -> Void = { _ in }
    ) {
        let size = unsafe MemoryLayout<rdma_cm_event>.stride
        // Freed by who acknowledges it.
        guard let memory = unsafe calloc(1, size + privateData.count) else { return }
        let event = unsafe memory.bindMemory(to: rdma_cm_event.self, capacity: 1)
        unsafe event.pointee.id = unsafe native
        unsafe event.pointee.listen_id = unsafe listener?.native
        unsafe event.pointee.event = type
        unsafe event.pointee.status = status
        unsafe fill(&event.pointee)
        if !privateData.isEmpty {
            unsafe (memory + size).copyMemory(from: privateData, byteCount: privateData.count)
            let isDatagram = portSpace == .udp
            if isDatagram {
                unsafe event.pointee.param.ud.private_data = unsafe UnsafeRawPointer(memory + size)
                unsafe event.pointee.param.ud.private_data_len = UInt8(clamping: privateData.count)
            } else {
                unsafe event.pointee.param.conn.private_data = unsafe UnsafeRawPointer(memory + size)
                unsafe event.pointee.param.conn.private_data_len = UInt8(clamping: privateData.count)
            }
        }
        (listener ?? self).currentChannel.withLock { unsafe $0.post(event) }
    }
}

/// `sockaddr` and GIDs.
enum CSocketAddress {
    /// Address, port and scope; `nil` for another family than IPv4 and IPv6.
    static func read(_ address: UnsafePointer<sockaddr>) -> (gid: GID, port: UInt16, scope: UInt32)? {
        switch Int32(unsafe address.pointee.sa_family) {
        case AF_INET:
            let value = unsafe UnsafeRawPointer(address).loadUnaligned(as: sockaddr_in.self)
            return (
                GID(ipv4: UInt32(bigEndian: value.sin_addr.s_addr)), UInt16(bigEndian: value.sin_port), 0
            )
        case AF_INET6:
            let value = unsafe UnsafeRawPointer(address).loadUnaligned(as: sockaddr_in6.self)
            let gid = unsafe withUnsafeBytes(of: value.sin6_addr) { bytes in
                GID(
                    high: UInt64(bigEndian: unsafe bytes.loadUnaligned(as: UInt64.self)),
                    low: UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
            }
            return (gid, UInt16(bigEndian: value.sin6_port), value.sin6_scope_id)
        default: return nil
        }
    }

    /// Writes an address where there is room for any.
    static func store(_ gid: GID, port: UInt16, scope: UInt32, to storage: inout sockaddr_storage) {
        unsafe withUnsafeMutableBytes(of: &storage) { bytes in
            if gid.isIPv4Mapped {
                var value = sockaddr_in()
                value.sin_family = sa_family_t(AF_INET)
                value.sin_port = port.bigEndian
                value.sin_addr.s_addr = gid.ipv4.bigEndian
                unsafe bytes.storeBytes(of: value, as: sockaddr_in.self)
            } else {
                var value = sockaddr_in6()
                value.sin6_family = sa_family_t(AF_INET6)
                value.sin6_port = port.bigEndian
                value.sin6_scope_id = scope
                unsafe withUnsafeMutableBytes(of: &value.sin6_addr) { address in
                    unsafe address.storeBytes(of: gid.high.bigEndian, as: UInt64.self)
                    unsafe address.storeBytes(of: gid.low.bigEndian, toByteOffset: 8, as: UInt64.self)
                }
                unsafe bytes.storeBytes(of: value, as: sockaddr_in6.self)
            }
        }
    }

    /// The address of ours that packets to a destination leave from: `bound`, if it is given; `nil` where no route leads
    /// there.
    static func source(towards destination: GID, from bound: GID? = nil, scope: UInt32) -> GID? {
        let descriptor = clinuxnet_udp_socket(destination.isIPv4Mapped ? AF_INET : AF_INET6)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        if let bound, unsafe call(bound, port: 0, scope: scope, { unsafe bind(descriptor, $0, $1) }) != 0 { return nil }
        // Nothing is sent by connecting a datagram socket.
        guard unsafe call(destination, port: 4791, scope: scope, { unsafe connect(descriptor, $0, $1) }) == 0 else {
            return nil
        }
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        // The storage is as large as any address.
        return unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                unsafe getsockname(descriptor, address, &size) == 0 ? read(address)?.gid : nil
            }
        }
    }

    /// Calls with an address as C has it, and its length.
    private static func call(
        _ gid: GID, port: UInt16, scope: UInt32, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        var storage = sockaddr_storage()
        store(gid, port: port, scope: scope, to: &storage)
        let size = gid.isIPv4Mapped ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
        return unsafe withUnsafePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(size)) }
        }
    }
}
