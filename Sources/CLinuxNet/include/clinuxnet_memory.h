// SPDX-License-Identifier: Apache-2.0
#pragma once

// Copies of this process's own memory by the kernel, which says EFAULT where a page is missing or protected and sends no signal. The C
// library declares process_vm_readv and process_vm_writev with _GNU_SOURCE alone, and syscall(2) is variadic, which Swift cannot call.

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/// How many bytes were copied, fewer than `count` up to the first that is not there; -1 with errno.
static inline ssize_t clinuxnet_memory_read(uint64_t address, void *_Nonnull target, size_t count) {
    struct iovec local = {target, count}, remote = {(void *)(uintptr_t)address, count};
    return syscall(SYS_process_vm_readv, (long)getpid(), &local, 1UL, &remote, 1UL, 0UL);
}

/// The same in the other direction.
static inline ssize_t clinuxnet_memory_write(uint64_t address, const void *_Nonnull source, size_t count) {
    struct iovec local = {(void *)(uintptr_t)source, count}, remote = {(void *)(uintptr_t)address, count};
    return syscall(SYS_process_vm_writev, (long)getpid(), &local, 1UL, &remote, 1UL, 0UL);
}
