// SPDX-License-Identifier: Apache-2.0
#pragma once

// bpf(2). The C library has no wrapper, and Swift cannot fill the anonymous members of `union bpf_attr`: each function
// here fills them for one command and calls. Results are as of the system call: a descriptor or 0, or -1 with errno.

#include <stdint.h>

/// Kernel numbers (include/uapi/linux/bpf.h), which headers older than the kernel lack in part.
enum clinuxnet_bpf_constant {
    CLINUXNET_BPF_MAP_HASH = 1,
    CLINUXNET_BPF_MAP_ARRAY = 2,
    CLINUXNET_BPF_MAP_XSK = 17,
    CLINUXNET_BPF_MAP_MAPPABLE = 1 << 10, // BPF_F_MMAPABLE
    CLINUXNET_BPF_PROGRAM_INGRESS = 3, // BPF_PROG_TYPE_SCHED_CLS
    CLINUXNET_BPF_PROGRAM_XDP = 6,
    CLINUXNET_BPF_PROGRAM_HAS_FRAGMENTS = 1 << 5, // BPF_F_XDP_HAS_FRAGS
    CLINUXNET_BPF_XDP = 37,
    CLINUXNET_BPF_INGRESS = 46,                   // BPF_TCX_INGRESS, Linux 6.6
    CLINUXNET_BPF_BEFORE = 1 << 3,                // BPF_F_BEFORE: in front of other programs
    CLINUXNET_XDP_GENERIC = 1 << 1,               // XDP_FLAGS_SKB_MODE
    CLINUXNET_XDP_NATIVE = 1 << 2,                // XDP_FLAGS_DRV_MODE
};

int clinuxnet_bpf_map_create(uint32_t type, uint32_t key_bytes, uint32_t value_bytes, uint32_t entries, uint32_t flags);
int clinuxnet_bpf_map_update(int map, const void *_Nonnull key, const void *_Nonnull value);
int clinuxnet_bpf_map_lookup(int map, const void *_Nonnull key, void *_Nonnull value);
int clinuxnet_bpf_map_delete(int map, const void *_Nonnull key);
/// `log` gets the verifier's words, where it is not NULL.
int clinuxnet_bpf_program_load(
    uint32_t type, const uint64_t *_Nonnull instructions, uint32_t count, uint32_t flags, char *_Nullable log,
    uint32_t log_bytes);
/// Runs a program once over a frame (BPF_PROG_TEST_RUN).
int clinuxnet_bpf_program_run(
    int program, const void *_Nonnull frame, uint32_t length, uint32_t *_Nonnull verdict);
/// `type` is where on the interface: CLINUXNET_BPF_XDP or CLINUXNET_BPF_INGRESS.
int clinuxnet_bpf_link_create(int program, uint32_t interface, uint32_t type, uint32_t flags);
int clinuxnet_bpf_link_update(int link, int program);
/// The kernel's number of a program, or -1.
int clinuxnet_bpf_program_id(int program);
