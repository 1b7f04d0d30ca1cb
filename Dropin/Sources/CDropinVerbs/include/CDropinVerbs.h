// SPDX-License-Identifier: Apache-2.0
//
// Functions that libibverbs.so.1 exports and rdma-core's installed headers do not declare: programs of rdma-core itself import them.
#pragma once
#include <infiniband/verbs.h>
#include <rdma/rsocket.h>

struct ibv_kern_ah_attr;
struct ibv_kern_qp_attr;
struct ibv_kern_path_rec;
struct ibv_sa_path_rec;

// Of driver.h.
const char *ibv_get_sysfs_path(void);
int ibv_read_sysfs_file(const char *dir, const char *file, char *buf, size_t size);
// The type is `enum ibv_gid_type_sysfs`: 0 for InfiniBand and RoCE v1, 1 for RoCE v2.
int ibv_query_gid_type(struct ibv_context *context, uint8_t port_num, unsigned int index, unsigned int *type);
// The same, which system.c exports by that name for every private version.
int dropin_query_gid_type(struct ibv_context *context, uint8_t port_num, unsigned int index, unsigned int *type);

// Of rdma_verbs.h, which has inline functions besides.
struct rdma_cm_id;
int rdma_create_srq(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_srq_init_attr *attr);
int rdma_create_srq_ex(struct rdma_cm_id *id, struct ibv_srq_init_attr_ex *attr);
void rdma_destroy_srq(struct rdma_cm_id *id);

// The functions of the system's own libibverbs that are called for the kernel's devices.
struct system_verbs {
#define DEFINED(version, name)
#define NOTHING(version, name)
#define PRIVATE(initial, name)
#define PRIVATE_VERSIONS(first, last)
#define VERB(version, name) __typeof__(name) *name;
#include "../libibverbs.symbols"
#undef DEFINED
#undef NOTHING
#undef PRIVATE
#undef PRIVATE_VERSIONS
#undef VERB
    __typeof__(ibv_query_gid_type) *ibv_query_gid_type;
};

// Loads that library, once; NULL and in `missing` the file or the function that was not found.
const struct system_verbs *system_verbs_load(const char **missing);
