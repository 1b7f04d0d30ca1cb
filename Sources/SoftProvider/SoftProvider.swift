// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import RoCEWire
import VerbsABI

/// The embedded devices: a userspace RoCEv2 adapter for each network interface that has an address.
package final class SoftProvider: VerbsProvider {
    package static let shared = SoftProvider()

    private init() {}

    package func devices() -> [ProviderDevice] {
        Self.interfaces().map { Self.device(of: $0) }
    }

    package var unavailabilityReason: String? {
        Self.interfaces().isEmpty ? "no network interface is up and has an address" : nil
    }

    package func connections() throws(ProviderError) -> any ConnectionPath {
        SoftConnectionPath.shared
    }

    package func open(_ device: ProviderDevice) throws(ProviderError) -> any ControlPath {
        try openSoft(device)
    }

    /// ``open(_:)`` for who needs more of the context than the control path.
    package func openSoft(_ device: ProviderDevice) throws(ProviderError) -> SoftContext {
        let interface = Self.interfaces().first { Self.name(of: $0) == device.name }
        guard let interface else {
            throw ProviderError(
                "ibv_open_device", code: ENODEV,
                detail: "\(device.name): its network interface is gone, or is down, or has no address left")
        }
        return try SoftContext.open(interface: interface, device: device, environment: DeviceEnvironment())
    }

    /// Tells whoever set `VERBS_EXPLAIN` why a call of a C program was refused, of which it sees no more than the code.
    /// - Returns: the code.
    package static func report(_ error: ProviderError) -> Int32 {
        guard explains else { return error.code }
        let reason = unsafe error.detail ?? String(cString: strerror(error.code))
        var text = "verbs: \(error.function): \(reason) (errno \(error.code))\n"
        text.makeContiguousUTF8()
        unsafe text.utf8.withContiguousStorageIfAvailable { bytes in
            _ = unsafe write(2, bytes.baseAddress, bytes.count)
        }
        return error.code
    }

    private static let explains = unsafe getenv("VERBS_EXPLAIN") != nil

    /// The interfaces that carry a device: those that are up and have an address.
    static func interfaces() -> [NetworkInterface] {
        // Unreadable interfaces are no interfaces: `unavailabilityReason` is asked next, and open says the same.
        ((try? NetworkInterface.all()) ?? []).filter { $0.isUp && !$0.addresses.isEmpty }
    }

    private static func name(of interface: NetworkInterface) -> String { "soft_" + interface.name }

    static func device(of interface: NetworkInterface) -> ProviderDevice {
        ProviderDevice(name: name(of: interface), interface: interface.name, kind: .embedded, guid: guid(of: interface))
    }

    /// The node GUID: the EUI-64 of the interface's MAC address as rxe makes it, in network byte order. An interface
    /// without one (loopback) gets its index in a locally administered EUI-64.
    private static func guid(of interface: NetworkInterface) -> UInt64 {
        let mac = interface.hardwareAddress
        guard mac.count == 6, mac.contains(where: { $0 != 0 }) else {
            return (0x0200_00FF_FE00_0000 | UInt64(interface.index & 0xFFFF)).bigEndian
        }
        let bytes = [mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5]]
        return bytes.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }.bigEndian
    }
}
