// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Memory for the frames of an AF_XDP socket (a UMEM): page-aligned, and of this process and the kernel alone.
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

    deinit { unsafe _ = munmap(base, byteCount) }
}
