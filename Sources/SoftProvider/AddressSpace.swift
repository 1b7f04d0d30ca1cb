// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCETransport

/// The whole address space of the process as the memory of a device (implicit on-demand paging). The program may unmap and protect pages
/// of it at any time, so every copy is made by the kernel, which finds out.
enum AddressSpace {
    static let memory = unsafe CheckedMemory(
        read: { address, target in
            guard let start = target.baseAddress else { return true }
            return unsafe clinuxnet_memory_read(address, start, target.count) == target.count
        },
        write: { address, source in
            guard let start = source.baseAddress else { return true }
            return unsafe clinuxnet_memory_write(address, start, source.count) == source.count
        })

    /// Whether the kernel makes such copies: there are sandboxes that forbid the call.
    static let isReachable: Bool = {
        let original: UInt64 = 0x5EED
        var copy: UInt64 = 0
        unsafe withUnsafeBytes(of: original) { bytes in
            let address = UInt64(UInt(bitPattern: bytes.baseAddress))
            unsafe withUnsafeMutableBytes(of: &copy) { _ = unsafe memory.read(address, $0) }
        }
        return copy == original
    }()
}
