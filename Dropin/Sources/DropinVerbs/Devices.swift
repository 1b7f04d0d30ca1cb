// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import Synchronization
import VerbsABI

// Devices and contexts.

/// The contexts that the program has open. C holds an address; this holds the object behind it.
private let openContexts = Mutex<[UInt: SoftContext]>([:])

/// The devices in the order that programs get them. Many take the first: one that others can reach comes before loopback.
private func orderedDevices() -> [ProviderDevice] {
    let devices = SoftProvider.shared.devices()
    return devices.filter { $0.interface != "lo" } + devices.filter { $0.interface == "lo" }
}

private func device(of object: UnsafeMutablePointer<ibv_device>) -> ProviderDevice? {
    orderedDevices().first { unsafe DeviceObject.device(for: $0) == object }
}

/// `ibv_get_device_list`
@c @implementation
public func ibv_get_device_list(
    _ count: UnsafeMutablePointer<Int32>!
) -> UnsafeMutablePointer<UnsafeMutablePointer<ibv_device>?>! {
    // Ours come first: a program that takes the first one gets what it gets where the kernel has none.
    let ours = KernelDevices.restriction == "system" ? [] : orderedDevices()
    var kernelCount: Int32 = 0
    let kernelList = unsafe KernelDevices.verbs?.pointee.ibv_get_device_list(&kernelCount)
    if unsafe kernelList == nil { kernelCount = 0 }

    // Freed by ibv_free_device_list. NULL behind the last, as documented; and before the first, where no program looks,
    // the list of the system's library, whose devices live only as long as that.
    let total = ours.count + Int(kernelCount)
    let memory = UnsafeMutablePointer<UnsafeMutablePointer<ibv_device>?>.allocate(capacity: total + 2)
    unsafe memory.initialize(
        to: kernelList.map { unsafe UnsafeMutableRawPointer($0).assumingMemoryBound(to: ibv_device.self) })
    let list = unsafe memory + 1
    for (index, device) in ours.enumerated() {
        unsafe (list + index).initialize(to: DeviceObject.device(for: device))
    }
    for index in 0..<Int(kernelCount) { unsafe (list + ours.count + index).initialize(to: kernelList![index]) }
    unsafe (list + total).initialize(to: nil)
    unsafe count?.pointee = Int32(total)
    return unsafe list
}

/// `ibv_free_device_list`
@c @implementation
public func ibv_free_device_list(_ list: UnsafeMutablePointer<UnsafeMutablePointer<ibv_device>?>!) {
    guard let list = unsafe list else { return }
    let memory = unsafe list - 1
    if let kernelList = unsafe memory.pointee, let kernel = unsafe KernelDevices.verbs {
        unsafe kernel.pointee.ibv_free_device_list(
            UnsafeMutableRawPointer(kernelList).assumingMemoryBound(to: UnsafeMutablePointer<ibv_device>?.self))
    }
    unsafe memory.deallocate()
}

/// `ibv_get_device_name`
@c @implementation
public func ibv_get_device_name(_ device: UnsafeMutablePointer<ibv_device>!) -> UnsafePointer<CChar>! {
    guard let device = unsafe device else { return nil }
    let offset = MemoryLayout<ibv_device>.offset(of: \.name)!
    return unsafe (UnsafeRawPointer(device) + offset).assumingMemoryBound(to: CChar.self)
}

/// `ibv_get_device_guid`
@c @implementation
public func ibv_get_device_guid(_ object: UnsafeMutablePointer<ibv_device>!) -> UInt64 {
    if let kernel = unsafe kernelVerbs(object) { return unsafe kernel.pointee.ibv_get_device_guid(object) }
    guard let object = unsafe object else { return 0 }
    return unsafe device(of: object)?.guid ?? 0
}

/// `ibv_get_device_index`
@c @implementation
public func ibv_get_device_index(_ device: UnsafeMutablePointer<ibv_device>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(device) { return unsafe kernel.pointee.ibv_get_device_index(device) }
    // The kernel's number of a device; ours have none.
    return -1
}

/// `ibv_open_device`
@c @implementation
public func ibv_open_device(_ object: UnsafeMutablePointer<ibv_device>!) -> UnsafeMutablePointer<ibv_context>! {
    if let kernel = unsafe kernelVerbs(object) { return unsafe kernel.pointee.ibv_open_device(object) }
    guard let object = unsafe object, let device = unsafe device(of: object) else {
        errno = ENODEV
        return nil
    }
    do throws(ProviderError) {
        let context = try SoftProvider.shared.openSoft(device)
        openContexts.withLock { $0[unsafe UInt(bitPattern: context.context)] = context }
        return unsafe context.context
    } catch {
        errno = SoftProvider.report(error)
        return nil
    }
}

/// `ibv_close_device`
@c @implementation
public func ibv_close_device(_ context: UnsafeMutablePointer<ibv_context>!) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) { return unsafe kernel.pointee.ibv_close_device(context) }
    let key = UInt(bitPattern: context)
    guard let context = openContexts.withLock({ $0[key] }) else {
        errno = EINVAL
        return -1
    }
    return minusOne { () throws(ProviderError) in
        do throws(ProviderError) {
            try context.close()
        } catch {
            // Objects are left. A kernel frees them with the context, so programs forget some and count on success;
            // here the context stays, unreachable, until the process ends.
            guard error.code == EBUSY else { throw error }
            return
        }
        _ = openContexts.withLock { $0.removeValue(forKey: key) }
    }
}

// Memory of our devices is not pinned, so a child that writes to its copy takes nothing away from the device of its
// parent. That of the kernel's devices is.

/// `ibv_fork_init`
@c @implementation
public func ibv_fork_init() -> Int32 {
    if let kernel = unsafe KernelDevices.verbs { return unsafe kernel.pointee.ibv_fork_init() }
    return 0
}

/// `ibv_is_fork_initialized`
@c @implementation
public func ibv_is_fork_initialized() -> ibv_fork_status {
    if let kernel = unsafe KernelDevices.verbs { return unsafe kernel.pointee.ibv_is_fork_initialized() }
    return IBV_FORK_UNNEEDED
}

// The kernel's description of a device in files: there is none of ours.

/// A C string, kept as long as the process, as an address.
private let sysfs: UInt = {
    // The program's own choice, as in rdma-core; copied once and kept.
    let chosen = unsafe getenv("SYSFS_PATH").map { unsafe String(cString: $0) }
    return unsafe UInt(bitPattern: strdup(chosen ?? "/sys"))
}()

/// `ibv_get_sysfs_path`
@c @implementation
public func ibv_get_sysfs_path() -> UnsafePointer<CChar>! { unsafe UnsafePointer(bitPattern: sysfs) }

/// `ibv_read_sysfs_file`
@c @implementation
public func ibv_read_sysfs_file(
    _ folder: UnsafePointer<CChar>!, _ file: UnsafePointer<CChar>!, _ buffer: UnsafeMutablePointer<CChar>!,
    _ size: Int
) -> Int32 {
    guard let folder = unsafe folder, let file = unsafe file, let buffer = unsafe buffer, size > 0 else { return -1 }
    let descriptor = unsafe open(String(cString: folder) + "/" + String(cString: file), O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return -1 }
    defer { close(descriptor) }
    var count = unsafe read(descriptor, buffer, size)
    guard count > 0 else { return -1 }
    // As rdma-core does: without the newline, and with a terminator where there is room.
    if unsafe buffer[count - 1] == CChar(UInt8(ascii: "\n")) {
        count -= 1
        unsafe buffer[count] = 0
    } else if count < size {
        unsafe buffer[count] = 0
    } else {
        return -1
    }
    return Int32(count)
}
