// SPDX-License-Identifier: Apache-2.0
//
// librdmacm.so.1: a jump for each function of the connection manager and of its sockets. The functions are in libibverbs.so.1, beside
// the only copy of the device's state, under a version that no program asks for. Dropin/build compiles this; it is no target of the
// package.

#if defined(__x86_64__)
#define GO(name) "jmp " #name "@PLT"
#elif defined(__aarch64__)
#define GO(name) "b " #name
#else
#error "no jump is known for this processor"
#endif

#define JUMP(version, name)                              \
    __asm__(".text\n"                                    \
            ".symver seam_" #name ", " #name "@VERBS_DROPIN_1\n" \
            ".globl " #name "\n"                         \
            ".type " #name ", @function\n" #name ":\n"   \
            GO(seam_##name) "\n"                         \
            ".size " #name ", . - " #name "\n");
#include "librdmacm.symbols"
