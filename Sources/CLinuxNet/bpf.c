// SPDX-License-Identifier: Apache-2.0

// bpf(2), one function a command: the attributes are an anonymous union that must be zero but for what is set.
#include "clinuxnet_bpf.h"

#include <linux/bpf.h>
#include <linux/if_link.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert((int)CLINUXNET_BPF_MAP_HASH == BPF_MAP_TYPE_HASH, "BPF_MAP_TYPE_HASH");
_Static_assert((int)CLINUXNET_BPF_MAP_ARRAY == BPF_MAP_TYPE_ARRAY, "BPF_MAP_TYPE_ARRAY");
_Static_assert((int)CLINUXNET_BPF_MAP_XSK == BPF_MAP_TYPE_XSKMAP, "BPF_MAP_TYPE_XSKMAP");
_Static_assert((int)CLINUXNET_BPF_MAP_MAPPABLE == BPF_F_MMAPABLE, "BPF_F_MMAPABLE");
_Static_assert((int)CLINUXNET_BPF_PROGRAM_XDP == BPF_PROG_TYPE_XDP, "BPF_PROG_TYPE_XDP");
_Static_assert((int)CLINUXNET_BPF_PROGRAM_INGRESS == BPF_PROG_TYPE_SCHED_CLS, "BPF_PROG_TYPE_SCHED_CLS");
_Static_assert((int)CLINUXNET_BPF_XDP == BPF_XDP, "BPF_XDP");
_Static_assert((int)CLINUXNET_XDP_GENERIC == XDP_FLAGS_SKB_MODE, "XDP_FLAGS_SKB_MODE");
_Static_assert((int)CLINUXNET_XDP_NATIVE == XDP_FLAGS_DRV_MODE, "XDP_FLAGS_DRV_MODE");
_Static_assert(sizeof(struct bpf_insn) == sizeof(uint64_t), "bpf_insn");

static int call(int command, union bpf_attr *attributes) {
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

int clinuxnet_bpf_map_create(
    uint32_t type, uint32_t key_bytes, uint32_t value_bytes, uint32_t entries, uint32_t flags) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = type;
    attributes.key_size = key_bytes;
    attributes.value_size = value_bytes;
    attributes.max_entries = entries;
    attributes.map_flags = flags;
    return call(BPF_MAP_CREATE, &attributes);
}

static int element(int command, int map, const void *key, const void *value) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = (uint32_t)map;
    attributes.key = (uint64_t)(uintptr_t)key;
    attributes.value = (uint64_t)(uintptr_t)value;
    return call(command, &attributes);
}

int clinuxnet_bpf_map_update(int map, const void *key, const void *value) {
    return element(BPF_MAP_UPDATE_ELEM, map, key, value);
}
int clinuxnet_bpf_map_lookup(int map, const void *key, void *value) {
    return element(BPF_MAP_LOOKUP_ELEM, map, key, value);
}
int clinuxnet_bpf_map_delete(int map, const void *key) { return element(BPF_MAP_DELETE_ELEM, map, key, NULL); }

int clinuxnet_bpf_program_load(
    uint32_t type, const uint64_t *instructions, uint32_t count, uint32_t flags, char *log, uint32_t log_bytes) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = type;
    attributes.insns = (uint64_t)(uintptr_t)instructions;
    attributes.insn_cnt = count;
    attributes.prog_flags = flags;
    attributes.license = (uint64_t)(uintptr_t) "Apache-2.0";
    if (log) {
        attributes.log_level = 1;
        attributes.log_buf = (uint64_t)(uintptr_t)log;
        attributes.log_size = log_bytes;
    }
    memcpy(attributes.prog_name, "swift_verbs", 11);
    return call(BPF_PROG_LOAD, &attributes);
}

int clinuxnet_bpf_program_run(int program, const void *frame, uint32_t length, uint32_t *verdict) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.test.prog_fd = (uint32_t)program;
    attributes.test.data_in = (uint64_t)(uintptr_t)frame;
    attributes.test.data_size_in = length;
    attributes.test.repeat = 1;
    int result = call(BPF_PROG_TEST_RUN, &attributes);
    *verdict = attributes.test.retval;
    return result;
}

int clinuxnet_bpf_link_create(int program, uint32_t interface, uint32_t type, uint32_t flags) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.link_create.prog_fd = (uint32_t)program;
    attributes.link_create.target_ifindex = interface;
    attributes.link_create.attach_type = type;
    attributes.link_create.flags = flags;
    return call(BPF_LINK_CREATE, &attributes);
}

int clinuxnet_bpf_link_update(int link, int program) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.link_update.link_fd = (uint32_t)link;
    attributes.link_update.new_prog_fd = (uint32_t)program;
    return call(BPF_LINK_UPDATE, &attributes);
}

int clinuxnet_bpf_program_id(int program) {
    struct bpf_prog_info info;
    union bpf_attr attributes;
    memset(&info, 0, sizeof info);
    memset(&attributes, 0, sizeof attributes);
    attributes.info.bpf_fd = (uint32_t)program;
    attributes.info.info_len = sizeof info;
    attributes.info.info = (uint64_t)(uintptr_t)&info;
    return call(BPF_OBJ_GET_INFO_BY_FD, &attributes) == 0 ? (int)info.id : -1;
}
