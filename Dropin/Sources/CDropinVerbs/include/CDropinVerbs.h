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

// Of releases after 44, where verbs.h declares all this by other names: `struct ibv_mr_init_attr` and so on.
struct later_mr_init_attr {
    size_t length;
    int access;
    uint64_t comp_mask;
    uint64_t iova;
    void *addr;
    int fd;
    uint64_t fd_offset;
    void *dmah;
    void *buf;
};
enum later_mr_init_attr_mask {
    LATER_REG_MR_MASK_IOVA = 1 << 0,
    LATER_REG_MR_MASK_ADDR = 1 << 1,
    LATER_REG_MR_MASK_FD = 1 << 2,
    LATER_REG_MR_MASK_FD_OFFSET = 1 << 3,
    LATER_REG_MR_MASK_DMAH = 1 << 4,
    LATER_REG_MR_MASK_BUF = 1 << 5,
};
typedef void *later_ibv_alloc_dmah(struct ibv_context *context, void *attr);
typedef int later_ibv_dealloc_dmah(void *dmah);
typedef struct ibv_mr *later_ibv_reg_mr_ex(struct ibv_pd *pd, struct later_mr_init_attr *attr);
typedef int later_ibv_dm_export_dmabuf_fd(struct ibv_dm *dm);
typedef int later_ibv_query_port_speed(struct ibv_context *context, uint32_t port_num, uint64_t *port_speed);
typedef void *later_ibv_alloc_buf(struct ibv_pd *pd, size_t size, void **buf);
typedef void later_ibv_free_buf(void *buf);
typedef struct ibv_mr *later_ibv_reg_buf_mr(struct ibv_pd *pd, void *buf, void *addr, size_t length, int access);
typedef int later__ibv_query_comp_cntr_caps(struct ibv_context *context, void *caps, size_t caps_size);
typedef void *later_ibv_create_comp_cntr(struct ibv_context *context, void *attr);
typedef int later_ibv_destroy_comp_cntr(void *comp_cntr);
typedef int later_ibv_export_buf_dmabuf_fd(void *buf);
typedef int later_ibv_inc_comp_cntr(void *comp_cntr, uint64_t amount);
typedef int later_ibv_inc_err_comp_cntr(void *comp_cntr, uint64_t amount);
typedef int later_ibv_qp_attach_comp_cntr(struct ibv_qp *qp, void *comp_cntr, void *attr);
typedef int later_ibv_read_comp_cntr(void *comp_cntr, uint64_t *value);
typedef int later_ibv_read_err_comp_cntr(void *comp_cntr, uint64_t *value);
typedef int later_ibv_set_comp_cntr(void *comp_cntr, uint64_t value);
typedef int later_ibv_set_err_comp_cntr(void *comp_cntr, uint64_t value);

// The functions of the system's own libibverbs that are called for the kernel's devices.
struct system_verbs {
#define DEFINED(version, name)
#define NOTHING(version, name)
#define PRIVATE(initial, name)
#define PRIVATE_VERSIONS(first, last)
#define VERB(version, name) __typeof__(name) *name;
#define LATER(version, name) later_##name *name; // NULL where the library is older
#include "../libibverbs.symbols"
#undef DEFINED
#undef LATER
#undef NOTHING
#undef PRIVATE
#undef PRIVATE_VERSIONS
#undef VERB
    __typeof__(ibv_query_gid_type) *ibv_query_gid_type;
};

// Loads that library, once; NULL and in `missing` the file or the function that was not found.
const struct system_verbs *system_verbs_load(const char **missing);
