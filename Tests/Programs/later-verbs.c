// SPDX-License-Identifier: Apache-2.0
//
// later-verbs DEVICE   calls what libibverbs and librdmacm have got since release 44, as programs of newer systems do. The declarations
// are those of the sources of release 65, by other names where the installed header may have them.
#include <arpa/inet.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "checks.h"

struct region_attributes {
    size_t length;
    int access;
    uint64_t comp_mask, iova;
    void *addr;
    int fd;
    uint64_t fd_offset;
    void *dmah, *buf;
};
enum { HAS_IOVA = 1, HAS_ADDR = 2, HAS_FD = 4, HAS_FD_OFFSET = 8, HAS_DMAH = 16, HAS_BUF = 32 };
enum { ADDRINFO_RESOLVED = 16, USER = 18, ASKS_SA = 0x10, ASKS_DNS = 0x20 };

struct ibv_mr *reg_mr_ex(struct ibv_pd *, struct region_attributes *) __asm__("ibv_reg_mr_ex");
void *alloc_dmah(struct ibv_context *, void *) __asm__("ibv_alloc_dmah");
int query_port_speed(struct ibv_context *, uint32_t, uint64_t *) __asm__("ibv_query_port_speed");
void *alloc_buf(struct ibv_pd *, size_t, void **) __asm__("ibv_alloc_buf");
void free_buf(void *) __asm__("ibv_free_buf");
struct ibv_mr *reg_buf_mr(struct ibv_pd *, void *, void *, size_t, int) __asm__("ibv_reg_buf_mr");
int export_buf(void *) __asm__("ibv_export_buf_dmabuf_fd");
int comp_cntr_caps(struct ibv_context *, void *, size_t) __asm__("_ibv_query_comp_cntr_caps");
void *create_comp_cntr(struct ibv_context *, void *) __asm__("ibv_create_comp_cntr");
int write_cm_event(struct rdma_cm_id *, int, int, uint64_t) __asm__("rdma_write_cm_event");
int resolve_addrinfo(struct rdma_cm_id *, const char *, const char *, const struct rdma_addrinfo *) __asm__("rdma_resolve_addrinfo");
int query_addrinfo(struct rdma_cm_id *, struct rdma_addrinfo **) __asm__("rdma_query_addrinfo");

#define REFUSED(call) CHECK(!(call) && errno == EINVAL)

static void regions(struct ibv_pd *domain) {
    static char memory[8192];
    struct region_attributes attributes = {.length = 4096, .access = IBV_ACCESS_LOCAL_WRITE, .comp_mask = HAS_ADDR, .addr = memory + 64};
    struct ibv_mr *region = reg_mr_ex(domain, &attributes);
    CHECK(region && region->addr == memory + 64 && region->length == 4096 && region->pd == domain && region->lkey);
    CHECK(region && ibv_dereg_mr(region) == 0);
    attributes.comp_mask |= HAS_IOVA;
    attributes.iova = 0x1000;
    region = reg_mr_ex(domain, &attributes);
    CHECK(region && ibv_dereg_mr(region) == 0);
    attributes.comp_mask = 0;
    REFUSED(reg_mr_ex(domain, &attributes));
    attributes.comp_mask = HAS_ADDR | HAS_FD | HAS_FD_OFFSET;
    REFUSED(reg_mr_ex(domain, &attributes));
    attributes.comp_mask = HAS_ADDR | HAS_DMAH;
    REFUSED(reg_mr_ex(domain, &attributes));
    attributes.comp_mask = HAS_ADDR | 64;
    REFUSED(reg_mr_ex(domain, &attributes));
}

static void buffers(struct ibv_pd *domain) {
    void *handle = NULL;
    char *memory = alloc_buf(domain, 10000, &handle);
    CHECK(memory && handle && (uintptr_t)memory % (uintptr_t)sysconf(_SC_PAGESIZE) == 0 && memory[9999] == 0);
    struct ibv_mr *region = reg_buf_mr(domain, handle, memory + 1000, 9000, IBV_ACCESS_LOCAL_WRITE);
    CHECK(region && region->addr == memory + 1000 && region->length == 9000);
    CHECK(region && ibv_dereg_mr(region) == 0);
    REFUSED(reg_buf_mr(domain, handle, memory + 1000, 9001, IBV_ACCESS_LOCAL_WRITE));
    REFUSED(reg_buf_mr(domain, handle, memory - 1, 10, IBV_ACCESS_LOCAL_WRITE));
    REFUSED(reg_buf_mr(domain, handle, memory + 10001, 0, IBV_ACCESS_LOCAL_WRITE));
    REFUSED(reg_buf_mr(domain, handle, memory, SIZE_MAX, IBV_ACCESS_LOCAL_WRITE));
    struct ibv_pd *other = ibv_alloc_pd(domain->context);
    REFUSED(reg_buf_mr(other, handle, memory, 10, IBV_ACCESS_LOCAL_WRITE));
    CHECK(ibv_dealloc_pd(other) == 0);
    CHECK(export_buf(handle) == -1 && errno == ENODATA);
    free_buf(handle);
    CHECK(!alloc_buf(domain, 0, &handle) && errno == EINVAL);
}

static void queries(struct ibv_context *context) {
    struct ibv_port_attr port;
    uint64_t speed = 0;
    CHECK(ibv_query_port(context, 1, &port) == 0);
    // What the device says of itself: 25 Gbit/s by 4 lanes.
    CHECK(port.active_speed == 32 && port.active_width == 2);
    CHECK(query_port_speed(context, 1, &speed) == 0 && speed == 1000);
    CHECK(query_port_speed(context, 2, &speed) == EINVAL && query_port_speed(context, 257, &speed) == EINVAL);
    char limits[16], attributes[16] = {0};
    CHECK(comp_cntr_caps(context, limits, sizeof limits) == EOPNOTSUPP);
    CHECK(!create_comp_cntr(context, attributes) && errno == EOPNOTSUPP);
    CHECK(!alloc_dmah(context, attributes) && errno == EOPNOTSUPP);
}

static void events(void) {
    struct rdma_event_channel *channel = rdma_create_event_channel();
    struct rdma_cm_id *id = NULL;
    struct rdma_cm_event *event = NULL;
    struct rdma_addrinfo *found = NULL, hints = {.ai_port_space = RDMA_PS_TCP};
    CHECK(channel && rdma_create_id(channel, &id, NULL, RDMA_PS_TCP) == 0);
    CHECK(write_cm_event(id, USER, 7, UINT64_C(0x0123456789abcdef)) == 0);
    CHECK(rdma_get_cm_event(channel, &event) == 0);
    CHECK(event->id == id && (int)event->event == USER && event->status == 7);
    // `param.arg`, which the header here may not have.
    CHECK(*(uint64_t *)&event->param == UINT64_C(0x0123456789abcdef));
    CHECK(rdma_ack_cm_event(event) == 0);
    CHECK(write_cm_event(id, RDMA_CM_EVENT_ESTABLISHED, 0, 0) == -1 && errno == EINVAL);

    CHECK(query_addrinfo(id, &found) == -1 && errno == ENOENT);
    hints.ai_flags = ASKS_DNS;
    CHECK(resolve_addrinfo(id, "127.0.0.1", "7471", &hints) == 0);
    CHECK(resolve_addrinfo(id, "127.0.0.1", "7471", &hints) == -1 && errno == EBUSY);
    CHECK(rdma_get_cm_event(channel, &event) == 0 && (int)event->event == ADDRINFO_RESOLVED && event->status == 0);
    CHECK(rdma_ack_cm_event(event) == 0);
    CHECK(query_addrinfo(id, &found) == 0 && found);
    struct sockaddr_in *address = (struct sockaddr_in *)found->ai_dst_addr;
    CHECK(address->sin_port == htons(7471) && address->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    rdma_freeaddrinfo(found);
    CHECK(query_addrinfo(id, &found) == -1 && errno == ENOENT);
    hints.ai_flags = ASKS_SA;
    CHECK(resolve_addrinfo(id, NULL, "7471", &hints) == -1 && errno == EOPNOTSUPP);
    hints.ai_flags = RAI_NUMERICHOST;
    CHECK(resolve_addrinfo(id, "no address", "7471", &hints) == -1 && errno == ENOENT);
    CHECK(resolve_addrinfo(id, NULL, NULL, NULL) == -1 && errno == EINVAL);
    // A result that nobody took goes with the identifier.
    CHECK(resolve_addrinfo(id, "127.0.0.1", "7471", NULL) == 0);
    CHECK(rdma_destroy_id(id) == 0);

    // Without a channel the call waits for its event.
    CHECK(rdma_create_id(NULL, &id, NULL, RDMA_PS_TCP) == 0);
    CHECK(resolve_addrinfo(id, "127.0.0.1", "7471", NULL) == 0 && id->event && (int)id->event->event == ADDRINFO_RESOLVED);
    CHECK(query_addrinfo(id, &found) == 0 && found);
    rdma_freeaddrinfo(found);
    CHECK(rdma_destroy_id(id) == 0);
    rdma_destroy_event_channel(channel);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: later-verbs DEVICE\n");
        return 2;
    }
    struct ibv_device **list = ibv_get_device_list(NULL);
    struct ibv_context *context = NULL;
    NEEDED(list != NULL);
    for (int index = 0; list[index] && !context; index++)
        if (strcmp(ibv_get_device_name(list[index]), arguments[1]) == 0) context = ibv_open_device(list[index]);
    NEEDED(context != NULL);
    ibv_free_device_list(list);
    struct ibv_pd *domain = ibv_alloc_pd(context);
    NEEDED(domain != NULL);
    regions(domain);
    buffers(domain);
    queries(context);
    events();
    CHECK(ibv_dealloc_pd(domain) == 0);
    CHECK(ibv_close_device(context) == 0);
    printf("%d failures\n", failures);
    return failures > 0;
}
