// SPDX-License-Identifier: Apache-2.0
//
// The symbols that rdma-core's provider libraries (libmlx5, libefa) import from libibverbs. Programs are linked with those libraries,
// and load them with all symbols bound at once, so each must be there. No device here is theirs, so none is ever called, with one
// exception: their constructors register their drivers.
#include <stdbool.h>
#include <stddef.h>

// 95 is EOPNOTSUPP.
#define DEFINED(version, name)
#define STUB(version, name) \
    long name(void);        \
    long name(void) { return 95; }
#include "include/libibverbs.symbols"

void verbs_register_driver_34(const void *operations);
void verbs_register_driver_34(const void *operations) { (void)operations; }

extern bool verbs_allow_disassociate_destroy;
bool verbs_allow_disassociate_destroy = false;

void *_verbs_init_and_alloc_context(void);
void *_verbs_init_and_alloc_context(void) { return NULL; }

void *verbs_open_device(void);
void *verbs_open_device(void) { return NULL; }

unsigned int __ioctl_final_num_attrs(unsigned int count, void *link);
unsigned int __ioctl_final_num_attrs(unsigned int count, void *link) { return (void)link, count; }
