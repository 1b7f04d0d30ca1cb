// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

/// The devices of the kernel, through libibverbs.
///
/// The library is loaded at run time: on a machine without rdma-core the provider has no devices, and says why.
package final class SystemProvider: VerbsProvider {
    package static let shared = SystemProvider()

    private let library: Result<LibIBVerbs, LoadError>
    /// Loaded at the first use: programs that exchange endpoints by other means do not need it.
    private let connectionPath = Mutex<SystemConnectionPath?>(nil)

    package init() { library = LibIBVerbs.load() }

    package func devices() -> [ProviderDevice] {
        guard case .success(let library) = library else { return [] }
        return unsafe withDeviceList(library) { list in
            unsafe list.map { unsafe Self.describe($0, library) }
        } ?? []
    }

    package var unavailabilityReason: String? {
        switch library {
        case .failure(let error): return error.description
        case .success(let library):
            let count = unsafe withDeviceList(library) { unsafe $0.count }
            if let count { return count == 0 ? SystemFiles.missingDeviceReason : nil }
            return "libibverbs cannot list devices: \(unsafe String(cString: strerror(errno)))"
        }
    }

    package func connections() throws(ProviderError) -> any ConnectionPath {
        do throws(LoadError) {
            // One for the process, because it knows which devices librdmacm has opened. Two threads may load at once, which
            // gives the same library twice; the first to be done is kept.
            if let known = connectionPath.withLock({ $0 }) { return known }
            let made = SystemConnectionPath(library: try LibRDMACM.load().get(), verbs: try library.get())
            return connectionPath.withLock { kept in
                let path = kept ?? made
                kept = path
                return path
            }
        } catch {
            throw ProviderError("rdma_create_event_channel", code: ENOSYS, detail: error.description)
        }
    }

    package func open(_ device: ProviderDevice) throws(ProviderError) -> any ControlPath {
        guard case .success(let library) = library else {
            throw ProviderError("ibv_open_device", code: ENODEV, detail: unavailabilityReason)
        }
        // The list is freed after the device is open; the context keeps its own reference.
        let opened = unsafe withDeviceList(library) {
            list -> Result<UnsafeMutablePointer<ibv_context>, ProviderError> in
            guard let entry = unsafe list.first(where: { unsafe Self.name($0, library) == device.name }) else {
                return unsafe .failure(ProviderError("ibv_open_device", code: ENODEV, detail: device.name))
            }
            errno = 0
            guard let context = unsafe library.openDevice(entry) else {
                return unsafe .failure(
                    ProviderError(
                        "ibv_open_device", code: errno == 0 ? EIO : errno, detail: SystemFiles.accessHint(errno)))
            }
            return unsafe .success(context)
        }
        guard let opened = unsafe opened else { throw ProviderError("ibv_get_device_list", code: errno) }
        return unsafe SystemControlPath(library: library, context: try opened.get())
    }

    /// Calls with the list of devices, which is freed afterwards; `nil` where there is none.
    private func withDeviceList<R>(
        _ library: LibIBVerbs, _ body: ([UnsafeMutablePointer<ibv_device>]) -> R
    ) -> R? {
        var count: Int32 = 0
        guard let list = unsafe library.getDeviceList(&count) else { return nil }
        defer { unsafe library.freeDeviceList(list) }
        // The library ends the list with a null as well; the count is the same.
        return unsafe body((0..<Int(count)).compactMap { unsafe list[$0] })
    }

    private static func name(_ device: UnsafeMutablePointer<ibv_device>, _ library: LibIBVerbs) -> String {
        unsafe library.getDeviceName(device).map { unsafe String(cString: $0) } ?? ""
    }

    static func describe(
        _ device: UnsafeMutablePointer<ibv_device>, _ library: LibIBVerbs
    ) -> ProviderDevice {
        let name = unsafe name(device, library)
        return ProviderDevice(
            name: name, interface: SystemFiles.interface(of: name),
            kind: SystemFiles.isSoftware(name) ? .kernelSoftware : .hardware,
            guid: unsafe library.getDeviceGUID(device))
    }
}
