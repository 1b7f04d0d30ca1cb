// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

/// The C structures that make up an open device: `ibv_device` and the `verbs_context` around `ibv_context`.
///
/// Programs read names and operations in them through inline functions of verbs.h, so they are laid out as libibverbs
/// does it. A context lives from `makeContext` to `free`; a device, once named, for good, since C programs keep pointers
/// to devices whatever became of the list they had them from.
package enum DeviceObject {
    /// libmlx5 and libefa look behind a device's public part to see whether it is theirs; zeros say that it is not.
    private static let zerosBehindDevice = 128

    static func makeContext(device: ProviderDevice, eventDescriptor: Int32) -> UnsafeMutablePointer<ibv_context> {
        let raw = unsafe zeroed(MemoryLayout<verbs_context>.size)
        let verbs = unsafe raw.assumingMemoryBound(to: verbs_context.self)
        unsafe verbs.pointee.sz = MemoryLayout<verbs_context>.size
        unsafe verbs.pointee.context.device = self.device(for: device)
        // No commands go through it, but programs duplicate it and hand it on.
        unsafe verbs.pointee.context.cmd_fd = open("/dev/null", O_RDWR | O_CLOEXEC)
        unsafe verbs.pointee.context.async_fd = eventDescriptor
        unsafe verbs.pointee.context.num_comp_vectors = 1
        unsafe verbs.pointee.context.abi_compat = unsafe cverbs_extended_abi()
        unsafe installOperations(&verbs.pointee.context.ops)
        unsafe installExtendedOperations(&verbs.pointee)
        let offset = unsafe MemoryLayout<verbs_context>.offset(of: \.context)!
        return unsafe (raw + offset).assumingMemoryBound(to: ibv_context.self)
    }

    static func free(_ context: UnsafeMutablePointer<ibv_context>) {
        unsafe close(context.pointee.cmd_fd)
        let offset = unsafe MemoryLayout<verbs_context>.offset(of: \.context)!
        unsafe Glibc.free(UnsafeMutableRawPointer(context) - offset)
    }

    private static func installOperations(_ operations: inout ibv_context_ops) {
        unsafe operations.post_send = softPostSend
        unsafe operations.post_recv = softPostReceive
        unsafe operations.post_srq_recv = softPostSharedReceive
        unsafe operations.poll_cq = softPollCompletionQueue
        unsafe operations.req_notify_cq = softRequestNotification
        unsafe operations.alloc_mw = softAllocateWindow
        unsafe operations.bind_mw = softBindWindow
        unsafe operations.dealloc_mw = softDeallocateWindow
    }

    /// The `ibv_device` of a device: always the same for the same name.
    package static func device(for device: ProviderDevice) -> UnsafeMutablePointer<ibv_device> {
        let address = devices.withLock { devices in
            if let known = devices[device.name] { return known }
            let made = unsafe UInt(bitPattern: makeDevice(device))
            devices[device.name] = made
            return made
        }
        return unsafe UnsafeMutablePointer(bitPattern: address)!
    }

    /// Whether a device is one of these, and not one that another library made.
    package static func isOne(_ device: UnsafeMutablePointer<ibv_device>) -> Bool {
        let address = UInt(bitPattern: device)
        return devices.withLock { $0.values.contains(address) }
    }

    /// Addresses by name; there are as many as the host ever had interfaces.
    private static let devices = Mutex<[String: UInt]>([:])

    private static func makeDevice(_ device: ProviderDevice) -> UnsafeMutablePointer<ibv_device> {
        let raw = unsafe zeroed(MemoryLayout<ibv_device>.size + zerosBehindDevice)
        let object = unsafe raw.assumingMemoryBound(to: ibv_device.self)
        unsafe object.pointee.node_type = IBV_NODE_CA
        unsafe object.pointee.transport_type = IBV_TRANSPORT_IB
        unsafe copy(device.name, to: &object.pointee.name)
        unsafe copy(device.name, to: &object.pointee.dev_name)
        return unsafe object
    }

    /// Copies as much of a name as fits a field of 64 bytes with its terminator.
    private static func copy<Field>(_ name: String, to field: inout Field) {
        unsafe withUnsafeMutableBytes(of: &field) { bytes in
            for (index, byte) in name.utf8.prefix(bytes.count - 1).enumerated() { unsafe bytes[index] = byte }
        }
    }

    private static func zeroed(_ size: Int) -> UnsafeMutableRawPointer {
        guard let memory = unsafe calloc(1, size) else { preconditionFailure("no memory for \(size) bytes") }
        return unsafe memory
    }
}
