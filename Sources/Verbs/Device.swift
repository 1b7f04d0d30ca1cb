// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import SystemProvider
import VerbsABI

/// A device that speaks verbs: hardware, a software device of the kernel, or the one embedded in this library.
///
/// A `Device` is a name; ``open()`` makes it usable.
///
/// ```swift
/// let context = try Device.best.open()
/// ```
///
/// The corresponding C type is `struct ibv_device`.
public struct Device: Sendable {
    /// Where a device lives.
    public enum Kind: Hashable, Sendable, CustomStringConvertible {
        case hardware
        /// A software device of the kernel: rxe (RoCE v2) or siw (iWARP).
        case kernelSoftware
        /// The userspace RoCE v2 device of this library.
        case embedded

        /// The name, with kind and interface.
        public var description: String {
            switch self {
            case .hardware: "hardware"
            case .kernelSoftware: "kernel software"
            case .embedded: "embedded"
            }
        }
    }

    /// The verbs name: `mlx5_0`, `rxe0`, `soft_lo`.
    public var name: String { native.name }

    /// The network interface behind port 1, where there is one and it is known.
    public var interface: String? { native.interface }

    /// The node GUID, in host order.
    public var guid: UInt64 { UInt64(bigEndian: native.guid) }

    /// Where it lives.
    public var kind: Kind {
        switch native.kind {
        case .hardware: .hardware
        case .kernelSoftware: .kernelSoftware
        case .embedded: .embedded
        }
    }

    let native: ProviderDevice
    let provider: any VerbsProvider

    /// Opens the device. The corresponding C function is `ibv_open_device`.
    ///
    /// `guardsBuffers` is for finding bugs: the pages of buffers in flight are protected. A program that touches a buffer
    /// between its post and its completion (of a send: that writes to it) ends by SIGSEGV, and standard error names the
    /// buffer, the work request and the line that posted it. `nil` does so where the environment variable `VERBS_GUARD`
    /// is set, and not to `0`.
    ///
    /// Guarded is memory that the library allocates: of ``ProtectionDomain/makeBufferPool(count:size:access:pages:)``, and
    /// of ``ProtectionDomain/makeRegion(length:access:pages:)`` the pages that lie wholly in what a request names. Memory
    /// of the caller's, and pages that are not pinned (``AccessFlags/onDemand``), are not. Each post and each completion
    /// then costs a system call.
    public func open(guardsBuffers: Bool? = nil) throws(VerbsError) -> Context {
        let bufferGuard = guardsBuffers ?? BufferGuard.isAskedFor ? try BufferGuard() : nil
        do throws(ProviderError) {
            return Context(device: self, path: try provider.open(native), bufferGuard: bufferGuard)
        } catch {
            throw VerbsError(error)
        }
    }
}

// Discovery.
extension Device {
    /// All devices: hardware first, then the kernel's software devices, then the embedded ones.
    ///
    /// The environment variable `VERBS_PROVIDER` restricts them: `system` to those of the kernel, `soft` to the
    /// embedded ones.
    public static func all() -> [Device] {
        let devices = providers.flatMap { provider in
            provider.devices().map { Device(native: $0, provider: provider) }
        }
        // Within a kind each provider's own order stays.
        return [Kind.hardware, .kernelSoftware, .embedded].flatMap { kind in devices.filter { $0.kind == kind } }
    }

    /// The device of that verbs name, or of that network interface.
    public static func named(_ name: String) throws(VerbsError) -> Device {
        let devices = all()
        if let device = devices.first(where: { $0.name == name }) ?? devices.first(where: { $0.interface == name }) {
            return device
        }
        let names = devices.map(\.name).joined(separator: ", ")
        throw VerbsError(
            .noDevice, verb: "ibv_get_device_list", subject: "device", value: name,
            limit: names.isEmpty ? "no device at all" : names,
            remedy: unavailabilityReasons.joined(separator: "; "))
    }

    /// The first device, in the order of ``all()``, that has an active port with a GID.
    public static var best: Device {
        get throws(VerbsError) {
            let devices = all()
            for device in devices {
                guard let context = try? device.open(), let port = try? context.port(1) else { continue }
                if port.state == .active && (port.linkLayer == .infiniBand || !port.gids.isEmpty) { return device }
            }
            throw VerbsError(
                .noDevice, verb: "ibv_get_device_list", subject: "device with an active port",
                value: devices.isEmpty ? "none" : devices.map(\.name).joined(separator: ", "),
                remedy: unavailabilityReasons.joined(separator: "; "))
        }
    }

    /// Why devices may be missing, one sentence each: empty where nothing is amiss.
    public static var unavailabilityReasons: [String] {
        providers.compactMap(\.unavailabilityReason)
    }

    static var providers: [any VerbsProvider] {
        // The environment is read, the string copied at once.
        let restriction = unsafe getenv("VERBS_PROVIDER").map { unsafe String(cString: $0) }
        switch restriction {
        case "system": return [SystemProvider.shared]
        case "soft": return [SoftProvider.shared]
        default: return [SystemProvider.shared, SoftProvider.shared]
        }
    }
}

extension Device: CustomStringConvertible {
    /// The name, with kind and interface.
    public var description: String { "\(name) (\(kind)\(interface.map { ", \($0)" } ?? ""))" }
}
