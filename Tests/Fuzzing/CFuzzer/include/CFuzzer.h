// SPDX-License-Identifier: Apache-2.0
//
// Functions of the sanitizers' runtime that Swift cannot name: no module of the toolchain declares them.
#pragma once
#include <stddef.h>
#include <stdint.h>

// Of libFuzzer, which has no header for it: runs with these arguments and calls back for each input. An executable of Swift has a main of
// its own, so libFuzzer's is of no use.
int LLVMFuzzerRunDriver(int *count, char ***arguments, int (*test)(const uint8_t *bytes, size_t count));

// Of sanitizer/allocator_interface.h: bytes on the heap now.
size_t __sanitizer_get_current_allocated_bytes(void);

// Of sanitizer/asan_interface.h: from here on a read or a write of the range ends the process, until it is allowed again.
void __asan_poison_memory_region(void const volatile *start, size_t count);
void __asan_unpoison_memory_region(void const volatile *start, size_t count);
