// SPDX-License-Identifier: Apache-2.0
//
// libverbs-nodes.so, for LD_PRELOAD. Some programs (UCX) use a device only if /dev/infiniband/NAME is a character device that they may
// read and write; they never open it. The software device has no such node, and a process without privilege can make none. So what such
// a program asks about the node of a software device is answered for /dev/null. Dropin/build compiles this; it is no target of the package.
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *node(const char *path) {
    static const char prefix[] = "/dev/infiniband/soft_";
    return path && strncmp(path, prefix, sizeof prefix - 1) == 0 ? "/dev/null" : path;
}

// The C library's own are these calls too, so that of the next library need not be looked up.
int stat(const char *path, struct stat *status) { return fstatat(AT_FDCWD, node(path), status, 0); }

int access(const char *path, int mode) { return faccessat(AT_FDCWD, node(path), mode, 0); }
