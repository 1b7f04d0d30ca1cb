// SPDX-License-Identifier: Apache-2.0
//
// librdmacm.so.1: a jump for each function of the connection manager. The functions are in libibverbs.so.1, beside the only copy of the
// device's state, under a version that no program asks for. Dropin/build compiles this; it is no target of the package.
#include <errno.h>
#include <poll.h>
#include <sys/select.h>

#if defined(__x86_64__)
#define GO(name) "jmp " #name "@PLT"
#elif defined(__aarch64__)
#define GO(name) "b " #name
#else
#error "no jump is known for this processor"
#endif

#define DEFINED(version, name)
#define JUMP(version, name)                              \
    __asm__(".text\n"                                    \
            ".symver seam_" #name ", " #name "@VERBS_DROPIN_1\n" \
            ".globl " #name "\n"                         \
            ".type " #name ", @function\n" #name ":\n"   \
            GO(seam_##name) "\n"                         \
            ".size " #name ", . - " #name "\n");
// Sockets over RDMA are not offered: each call fails as one that the system does not have.
#define STUB(version, name) \
    long name(void);        \
    long name(void) { return errno = ENOSYS, -1; }
#include "librdmacm.symbols"

// Programs of rdma-core wait with these for descriptors that are no sockets over RDMA; there are no others here.
int rpoll(struct pollfd *descriptors, nfds_t count, int timeout);
int rpoll(struct pollfd *descriptors, nfds_t count, int timeout) { return poll(descriptors, count, timeout); }

int rselect(int count, fd_set *reading, fd_set *writing, fd_set *failing, struct timeval *timeout);
int rselect(int count, fd_set *reading, fd_set *writing, fd_set *failing, struct timeval *timeout) {
    return select(count, reading, writing, failing, timeout);
}
