// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Memory for the frames of an AF_XDP socket (a UMEM): page-aligned, and of this process and the kernel alone, or of the one that lent it, too.
///
/// The kernel pins it. That counts against the limit on locked memory (RLIMIT_MEMLOCK) where CAP_IPC_LOCK is missing.
@safe package struct XDPMemory: ~Copyable {
    package let base: UnsafeMutableRawPointer
    package let byteCount: Int

    package init(byteCount: Int) throws(PacketIOError) {
        guard let memory = unsafe clinuxnet_map_memory(byteCount) else { throw SystemError.last("mmap(frames)") }
        unsafe base = memory
        self.byteCount = byteCount
    }

    /// The pages of a file that nobody can make shorter, of this length.
    init(file: borrowing FileDescriptor, byteCount: Int) throws(PacketIOError) {
        guard clinuxnet_sealed_length(file.number) == Int64(byteCount) else {
            throw .invalid("the memory of frames has another length, or can be made shorter")
        }
        guard let memory = unsafe clinuxnet_map_shared(file.number, byteCount, 1) else {
            throw SystemError.last("mmap(frames)")
        }
        unsafe base = memory
        self.byteCount = byteCount
    }

    deinit { unsafe _ = munmap(base, byteCount) }
}
