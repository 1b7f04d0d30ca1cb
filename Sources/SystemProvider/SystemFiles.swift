// SPDX-License-Identifier: Apache-2.0
import Glibc

/// What sysfs and the device nodes say about the kernel's RDMA devices, beyond libibverbs.
enum SystemFiles {
    private static let classFolder = "/sys/class/infiniband/"

    /// rxe and siw stand on no bus: their device is under /sys/devices/virtual.
    static func isSoftware(_ device: String) -> Bool {
        guard let path = unsafe realpath(classFolder + device, nil) else { return false }
        // Allocated by realpath for us.
        defer { unsafe free(path) }
        return unsafe String(cString: path).contains("/virtual/")
    }

    /// The network interface: rxe says it itself, others at their first GID.
    static func interface(of device: String) -> String? {
        for file in ["/parent", "/ports/1/gid_attrs/ndevs/0"] {
            if let name = firstLine(of: classFolder + device + file), !name.isEmpty { return name }
        }
        return nil
    }

    /// Why libibverbs finds nothing although it is there.
    static var missingDeviceReason: String {
        if unsafe access("/sys/class/infiniband", F_OK) != 0 {
            return
                "the kernel has no RDMA support loaded (no /sys/class/infiniband): load a driver, e.g. `modprobe rdma_rxe`"
        }
        if unsafe access("/dev/infiniband", F_OK) != 0 {
            return
                "the kernel has RDMA devices, but there is no /dev/infiniband here: load ib_uverbs, or pass it into the container"
        }
        return "the kernel has no RDMA device: `rdma link add rxe0 type rxe netdev IFNAME` makes one"
    }

    /// What to say when a device does not open.
    static func accessHint(_ code: Int32) -> String? {
        code == EACCES || code == EPERM ? "no permission for /dev/infiniband/uverbs*" : nil
    }

    /// What to say when there is no event channel.
    static func connectionHint(_ code: Int32) -> String? {
        switch code {
        case EACCES, EPERM: "no permission for /dev/infiniband/rdma_cm"
        case ENOENT: "there is no /dev/infiniband/rdma_cm: load rdma_ucm, or pass it into the container"
        case ENODEV: missingDeviceReason
        default: nil
        }
    }

    /// `hw_counters` of the device and of port 1: rxe counts ICRC errors, retries and so on there.
    static func counters(of device: String) -> [(name: String, value: UInt64)] {
        ["/hw_counters", "/ports/1/hw_counters", "/ports/1/counters"].flatMap { folder in
            names(in: classFolder + device + folder).compactMap { name in
                firstLine(of: classFolder + device + folder + "/" + name).flatMap { UInt64($0) }.map { (name, $0) }
            }
        }
    }

    /// The files of a folder, sorted.
    private static func names(in folder: String) -> [String] {
        guard let stream = unsafe opendir(folder) else { return [] }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            // The entry is good until the next call; the name ends with a zero inside it.
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                unsafe String(cString: UnsafeRawPointer(pointer).assumingMemoryBound(to: CChar.self))
            }
            if !name.hasPrefix(".") && name != "lifespan" { names.append(name) }
        }
        return names.sorted()
    }

    private static func firstLine(of path: String) -> String? {
        let descriptor = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 256)
        // The array outlives the call; the count is its own.
        let count = unsafe read(descriptor, &bytes, bytes.count)
        guard count > 0 else { return nil }
        return String(decoding: bytes.prefix(count).prefix { $0 != 10 && $0 != 0 }, as: UTF8.self)
    }
}
