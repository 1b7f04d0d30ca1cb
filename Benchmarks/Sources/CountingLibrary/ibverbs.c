// SPDX-License-Identifier: Apache-2.0
#include "CountingLibrary.h"

#include "CountingVerbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

// verbs.h makes macros of some names that are functions here.
#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

static struct ibv_device the_device = {
    .node_type = IBV_NODE_CA,
    .transport_type = IBV_TRANSPORT_IB,
    .name = "counting0",
    .dev_name = "counting0",
};

// Sizes of the one device; none is reached by a benchmark.
enum { objects_max = 1024, requests_max = 4096, sge_max = 16, port_count = 1 };

static union ibv_gid device_gid(void)
{
    union ibv_gid gid = {.raw = {[10] = 0xff, [11] = 0xff, [12] = 192, [13] = 0, [14] = 2, [15] = 1}};
    return gid;
}

static int not_supported(void)
{
    errno = EOPNOTSUPP;
    return EOPNOTSUPP;
}

static void *none(void)
{
    errno = EOPNOTSUPP;
    return NULL;
}

// Devices

struct ibv_device **ibv_get_device_list(int *count)
{
    struct ibv_device **list = calloc(2, sizeof *list);
    if (!list)
        return NULL;
    list[0] = &the_device;
    if (count)
        *count = 1;
    return list;
}

void ibv_free_device_list(struct ibv_device **list) { free(list); }
const char *ibv_get_device_name(struct ibv_device *device) { return device->name; }

int ibv_get_device_index(struct ibv_device *device)
{
    (void)device;
    return -1;
}

__be64 ibv_get_device_guid(struct ibv_device *device)
{
    (void)device;
    return htonl(0x02000000);
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
    struct ibv_context *context = counting_open();
    context->device = device;
    return context;
}

int ibv_close_device(struct ibv_context *context)
{
    counting_close(context);
    return 0;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attributes)
{
    (void)context;
    *attributes = (struct ibv_device_attr){
        .fw_ver = "counting",
        .max_mr_size = UINT64_MAX,
        .page_size_cap = 4096,
        .max_qp = objects_max,
        .max_qp_wr = requests_max,
        .max_sge = sge_max,
        .max_cq = objects_max,
        .max_cqe = requests_max,
        .max_mr = objects_max,
        .max_pd = objects_max,
        .max_qp_rd_atom = 16,
        .max_qp_init_rd_atom = 16,
        .atomic_cap = IBV_ATOMIC_HCA,
        .max_pkeys = 1,
        .phys_port_cnt = port_count,
    };
    return 0;
}

int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attributes)
{
    (void)context;
    if (port != port_count)
        return EINVAL;
    // The entry point of the library fills the attributes of 2006, a prefix of today's.
    struct ibv_port_attr *full = (struct ibv_port_attr *)attributes;
    full->state = IBV_PORT_ACTIVE;
    full->max_mtu = IBV_MTU_4096;
    full->active_mtu = IBV_MTU_4096;
    full->gid_tbl_len = 1;
    full->max_msg_sz = 1u << 31;
    full->pkey_tbl_len = 1;
    full->phys_state = 5; // link up
    full->link_layer = IBV_LINK_LAYER_ETHERNET;
    return 0;
}

int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
    (void)context;
    if (port != port_count || index != 0)
        return -1;
    *gid = device_gid();
    return 0;
}

ssize_t _ibv_query_gid_table(
    struct ibv_context *context, struct ibv_gid_entry *entries, size_t max, uint32_t flags, size_t size)
{
    (void)context;
    if (flags || size != sizeof *entries || max == 0)
        return -EINVAL;
    entries[0] = (struct ibv_gid_entry){.gid = device_gid(), .port_num = 1, .gid_type = IBV_GID_TYPE_ROCE_V2};
    return 1;
}

int _ibv_query_gid_ex(
    struct ibv_context *context, uint32_t port, uint32_t index, struct ibv_gid_entry *entry, uint32_t flags,
    size_t size)
{
    if (port != port_count || index != 0)
        return ENODATA;
    return _ibv_query_gid_table(context, entry, 1, flags, size) == 1 ? 0 : EINVAL;
}

int ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *key)
{
    (void)context;
    if (port != port_count || index != 0)
        return -1;
    *key = htons(0xffff);
    return 0;
}

// Protection domains and memory

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
    struct ibv_pd *domain = calloc(1, sizeof *domain);
    if (domain)
        domain->context = context;
    return domain;
}

int ibv_dealloc_pd(struct ibv_pd *domain)
{
    free(domain);
    return 0;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *domain, void *address, size_t length, uint64_t iova, unsigned access)
{
    (void)iova;
    (void)access;
    struct ibv_mr *region = calloc(1, sizeof *region);
    if (region)
        *region = (struct ibv_mr){
            .context = domain->context, .pd = domain, .addr = address, .length = length, .lkey = 0x1234, .rkey = 0x1234};
    return region;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *domain, void *address, size_t length, int access)
{
    return ibv_reg_mr_iova2(domain, address, length, (uint64_t)(uintptr_t)address, (unsigned)access);
}

struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *domain, void *address, size_t length, uint64_t iova, int access)
{
    return ibv_reg_mr_iova2(domain, address, length, iova, (unsigned)access);
}

struct ibv_mr *ibv_reg_dmabuf_mr(
    struct ibv_pd *domain, uint64_t offset, size_t length, uint64_t iova, int descriptor, int access)
{
    (void)domain, (void)offset, (void)length, (void)iova, (void)descriptor, (void)access;
    return none();
}

int ibv_dereg_mr(struct ibv_mr *region)
{
    free(region);
    return 0;
}

// Completion

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    (void)context;
    return none();
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
    (void)channel;
    return not_supported();
}

struct ibv_cq *ibv_create_cq(
    struct ibv_context *context, int capacity, void *user, struct ibv_comp_channel *channel, int vector)
{
    (void)channel;
    (void)vector;
    if (capacity > counting_capacity) {
        errno = EINVAL;
        return NULL;
    }
    struct ibv_cq *queue = counting_create_cq(context);
    queue->cq_context = user;
    return queue;
}

int ibv_resize_cq(struct ibv_cq *queue, int capacity)
{
    (void)queue, (void)capacity;
    return not_supported();
}

int ibv_destroy_cq(struct ibv_cq *queue)
{
    counting_destroy_cq(queue);
    return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **queue, void **user)
{
    (void)channel, (void)queue, (void)user;
    not_supported();
    return -1;
}

void ibv_ack_cq_events(struct ibv_cq *queue, unsigned int count) { (void)queue, (void)count; }

// Queue pairs

struct ibv_qp *ibv_create_qp(struct ibv_pd *domain, struct ibv_qp_init_attr *attributes)
{
    struct ibv_qp *pair = counting_create_qp(domain->context, attributes->send_cq, attributes->recv_cq);
    pair->pd = domain;
    pair->qp_context = attributes->qp_context;
    pair->qp_type = attributes->qp_type;
    pair->state = IBV_QPS_RESET;
    return pair;
}

int ibv_modify_qp(struct ibv_qp *pair, struct ibv_qp_attr *attributes, int mask)
{
    if (mask & IBV_QP_STATE)
        pair->state = attributes->qp_state;
    return 0;
}

int ibv_query_qp(
    struct ibv_qp *pair, struct ibv_qp_attr *attributes, int mask, struct ibv_qp_init_attr *initial)
{
    (void)mask;
    memset(attributes, 0, sizeof *attributes);
    memset(initial, 0, sizeof *initial);
    attributes->qp_state = attributes->cur_qp_state = pair->state;
    attributes->cap = initial->cap = (struct ibv_qp_cap){
        .max_send_wr = counting_capacity, .max_recv_wr = counting_capacity, .max_send_sge = sge_max,
        .max_recv_sge = sge_max};
    initial->send_cq = pair->send_cq;
    initial->recv_cq = pair->recv_cq;
    initial->qp_type = pair->qp_type;
    return 0;
}

int ibv_destroy_qp(struct ibv_qp *pair)
{
    counting_destroy_qp(pair);
    return 0;
}

// What no benchmark uses

struct ibv_srq *ibv_create_srq(struct ibv_pd *domain, struct ibv_srq_init_attr *attributes)
{
    (void)domain, (void)attributes;
    return none();
}

int ibv_modify_srq(struct ibv_srq *queue, struct ibv_srq_attr *attributes, int mask)
{
    (void)queue, (void)attributes, (void)mask;
    return not_supported();
}

int ibv_query_srq(struct ibv_srq *queue, struct ibv_srq_attr *attributes)
{
    (void)queue, (void)attributes;
    return not_supported();
}

int ibv_destroy_srq(struct ibv_srq *queue)
{
    (void)queue;
    return not_supported();
}

struct ibv_ah *ibv_create_ah(struct ibv_pd *domain, struct ibv_ah_attr *attributes)
{
    (void)domain, (void)attributes;
    return none();
}

int ibv_destroy_ah(struct ibv_ah *handle)
{
    (void)handle;
    return not_supported();
}

int ibv_attach_mcast(struct ibv_qp *pair, const union ibv_gid *group, uint16_t lid)
{
    (void)pair, (void)group, (void)lid;
    return not_supported();
}

int ibv_detach_mcast(struct ibv_qp *pair, const union ibv_gid *group, uint16_t lid)
{
    (void)pair, (void)group, (void)lid;
    return not_supported();
}

// No event ever comes: the descriptor is not readable, and a caller that reads it anyway is told to try again.
int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
    (void)context, (void)event;
    errno = EAGAIN;
    return -1;
}

void ibv_ack_async_event(struct ibv_async_event *event) { (void)event; }

int ibv_fork_init(void) { return 0; }
const char *ibv_wc_status_str(enum ibv_wc_status status) { return status == IBV_WC_SUCCESS ? "success" : "error"; }
