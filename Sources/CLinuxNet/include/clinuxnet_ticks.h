// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

/// The processor's time-stamp counter, or 0 where a program cannot read one. Swift has no such instruction.
static inline uint64_t clinuxnet_ticks(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}
