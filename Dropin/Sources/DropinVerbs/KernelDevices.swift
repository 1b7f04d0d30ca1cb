// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

/// The kernel's devices, which the system's own libibverbs serves.
///
/// Its devices, contexts and objects are handed to the program as they are. What inline functions of verbs.h do with
/// them goes through the operations of the context; each exported function looks whose the object is. That library is
/// loaded when the first function asks, and only where the kernel has a device.
enum KernelDevices {
    /// What `VERBS_PROVIDER` restricts the devices to: `soft` or `system`; nil for both.
    static let restriction = unsafe getenv("VERBS_PROVIDER").map { unsafe String(cString: $0) }

    /// The functions of the system's library; nil where the kernel has no devices or they are not wanted.
    static var verbs: UnsafePointer<system_verbs>? { unsafe UnsafePointer(bitPattern: address) }

    /// The address of C's static table, 0 for none.
    private static let address: UInt = {
        guard restriction != "soft", !names().isEmpty else { return 0 }
        var missing: UnsafePointer<CChar>?
        let verbs = unsafe system_verbs_load(&missing)
        if unsafe verbs == nil {
            let name = unsafe missing.map { unsafe String(cString: $0) } ?? ""
            _ = SoftProvider.report(
                ProviderError(
                    "ibv_get_device_list", code: ENOENT,
                    detail: "the kernel's devices are not listed: the system has no libibverbs of rdma-core 44 or "
                        + "later with its providers (no \(name)); install it, or set VERBS_PROVIDER=soft"))
        }
        return UInt(bitPattern: verbs)
    }()

    /// As the kernel names them.
    private static func names() -> [String] {
        guard let folder = unsafe opendir(String(cString: ibv_get_sysfs_path()) + "/class/infiniband") else {
            return []
        }
        defer { unsafe closedir(folder) }
        var names: [String] = []
        while let entry = unsafe readdir(folder) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }

    /// An address that no software device gets may be meant for one of the kernel's, which the connection manager of
    /// this library does not have: rxe, for one, has UDP port 4791 of all addresses.
    static func hinted(_ error: ProviderError) -> ProviderError {
        let names = error.code == EADDRNOTAVAIL || error.code == EADDRINUSE ? names() : []
        guard !names.isEmpty else { return error }
        return ProviderError(
            error.function, code: error.code,
            detail: "\(error.detail ?? ""); librdmacm of the drop-in library connects software devices only, so a "
                + "program for the kernel's devices (\(names.joined(separator: ", "))) is to be started without it")
    }
}

/// The system's functions, if the device is one of the kernel's.
func kernelVerbs(_ device: UnsafeMutablePointer<ibv_device>?) -> UnsafePointer<system_verbs>? {
    guard let verbs = unsafe KernelDevices.verbs, let device = unsafe device, unsafe !DeviceObject.isOne(device) else {
        return nil
    }
    return unsafe verbs
}

/// The system's functions, if the context is of one of the kernel's devices.
func kernelVerbs(_ context: UnsafeMutablePointer<ibv_context>?) -> UnsafePointer<system_verbs>? {
    guard unsafe KernelDevices.verbs != nil, let context = unsafe context else { return nil }
    return unsafe kernelVerbs(context.pointee.device)
}
