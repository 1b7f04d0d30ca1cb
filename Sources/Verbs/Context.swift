// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

/// An open device.
///
/// Everything that is made on a device keeps its context open, and so on down: queue pairs keep their protection domain
/// and completion queues, buffers their pool, pools their memory region. Objects may be let go in any order.
/// Any thread may use a context. The corresponding C type is `struct ibv_context`.
public final class Context: @unchecked Sendable {  // All members are constant; the provider's calls are thread safe.
    /// The device that is open.
    public let device: Device

    /// What the device can do. Queried once, at the first use.
    public var attributes: DeviceAttributes {
        get throws(VerbsError) {
            if let known = knownAttributes.withLock({ $0 }) { return known }
            var native = ibv_device_attr_ex()
            do throws(ProviderError) {
                // A local variable, written during the call.
                try unsafe path.queryDevice(&native)
            } catch {
                throw VerbsError(error)
            }
            let attributes = DeviceAttributes(native)
            knownAttributes.withLock { $0 = attributes }
            return attributes
        }
    }

    private let knownAttributes = Mutex<DeviceAttributes?>(nil)

    let path: any ControlPath
    private let closesPath: Bool
    /// Protects buffers in flight, where that was asked for.
    let bufferGuard: BufferGuard?

    /// `closesPath` is false for a path that the provider's connection manager shares with its identifiers.
    init(device: Device, path: any ControlPath, closesPath: Bool = true, bufferGuard: BufferGuard?) {
        self.bufferGuard = bufferGuard
        self.device = device
        self.path = path
        self.closesPath = closesPath
        // Events are read with a deadline, so the read itself must never block.
        Self.makeNonBlocking(unsafe path.context.pointee.async_fd)
    }

    deinit {
        // Explicit, while we still hold it: an embedded device lingers here to answer its peers, and stops its thread.
        // Everything made on the device keeps the context, so nothing is left that could make it busy.
        if closesPath { try? path.close() }
    }

    /// The state of a port, with its table of GIDs. Ports count from 1. The corresponding C functions are
    /// `ibv_query_port` and `ibv_query_gid_table`.
    public func port(_ number: UInt8) throws(VerbsError) -> PortAttributes {
        var native = ibv_port_attr()
        do throws(ProviderError) {
            // A local variable, written during the call.
            try unsafe path.queryPort(number, &native)
            let gids = try path.queryGIDTable().filter { $0.port_num == UInt32(number) }
            return PortAttributes(number: number, native, gids: gids.map(GIDEntry.init))
        } catch {
            guard error.code == EINVAL else { throw VerbsError(error) }
            throw VerbsError(
                .invalidAttribute, verb: error.function.description, code: error.code, subject: "port",
                value: "\(number)", limit: "1...\((try? attributes.portCount) ?? 1)", remedy: "Ports count from 1")
        }
    }

    /// An entry of a port's table of partition keys. The corresponding C function is `ibv_query_pkey`.
    public func partitionKey(port: UInt8 = 1, index: Int = 0) throws(VerbsError) -> UInt16 {
        do throws(ProviderError) {
            return try path.queryPKey(port: port, index: Int32(clamping: index))
        } catch {
            throw VerbsError(error)
        }
    }

    /// The device's own counters by name; empty where it has none.
    public var counters: [(name: String, value: UInt64)] { path.counters() }

    /// What the packets of an embedded device go by; `nil` for a device of the kernel.
    public var link: DeviceLink? { path.link.map { DeviceLink(kind: $0.kind, detail: $0.detail, reason: $0.reason) } }

    static func makeNonBlocking(_ descriptor: Int32) {
        guard descriptor >= 0 else { return }
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    }
}

extension GIDEntry {
    init(_ native: ibv_gid_entry) {
        let kind: Kind =
            switch native.gid_type {
            case IBV_GID_TYPE_IB.rawValue: .infiniBand
            case IBV_GID_TYPE_ROCE_V1.rawValue: .roceV1
            case IBV_GID_TYPE_ROCE_V2.rawValue: .roceV2
            default: .unknown(native.gid_type)
            }
        var name = [CChar](repeating: 0, count: Int(IF_NAMESIZE))
        // The array is as long as if_indextoname asks for, and is read after the call.
        let known = unsafe native.ndev_ifindex != 0 && if_indextoname(native.ndev_ifindex, &name) != nil
        self.init(
            index: Int(native.gid_index), gid: GID(native.gid), kind: kind,
            interface: known
                ? String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self) : nil)
    }
}
