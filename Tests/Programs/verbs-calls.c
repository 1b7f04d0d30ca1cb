// SPDX-License-Identifier: Apache-2.0
//
// What manual pages of rdma-core promise of calls that its own tests leave out, in one process. Arguments: a device that has an IPv4
// address at GID index 0, that address, and a free port. Says what failed, and exits with 1 then.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checks.h"

static struct ibv_context *device;
static struct ibv_pd *domain;
static struct ibv_cq *queue;
static struct sockaddr_in address;

enum { REMOTE = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ };

static struct ibv_qp *make_queue_pair(struct ibv_cq *completions, struct ibv_srq *shared) {
    struct ibv_qp_init_attr attributes = {
        .send_cq = completions,
        .recv_cq = completions,
        .srq = shared,
        .cap = {.max_send_wr = 16, .max_recv_wr = 16, .max_send_sge = 4, .max_recv_sge = 4},
        .qp_type = IBV_QPT_RC,
        .sq_sig_all = 1,
    };
    struct ibv_qp *pair = ibv_create_qp(domain, &attributes);
    NEEDED(pair);
    return pair;
}

static void set_state(struct ibv_qp *pair, enum ibv_qp_state state) {
    struct ibv_qp_attr attributes = {.qp_state = state, .port_num = 1, .qp_access_flags = REMOTE};
    int mask = IBV_QP_STATE;
    if (state == IBV_QPS_INIT) mask |= IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
    CHECK(ibv_modify_qp(pair, &attributes, mask) == 0);
}

static void connect_to(struct ibv_qp *pair, struct ibv_qp *other) {
    struct ibv_qp_attr attributes = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = other->qp_num,
        .max_dest_rd_atomic = 1,
        .min_rnr_timer = 12,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.hop_limit = 64}},
    };
    NEEDED(ibv_query_gid(device, 1, 0, &attributes.ah_attr.grh.dgid) == 0);
    set_state(pair, IBV_QPS_INIT);
    CHECK(ibv_modify_qp(pair, &attributes, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                               IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) == 0);
    attributes = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTS, .timeout = 14, .retry_cnt = 7, .rnr_retry = 7, .max_rd_atomic = 1};
    CHECK(ibv_modify_qp(pair, &attributes, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                               IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC) == 0);
}

static void post_receive(struct ibv_qp *pair, uint64_t id, struct ibv_sge *list, int count) {
    struct ibv_recv_wr request = {.wr_id = id, .sg_list = list, .num_sge = count}, *bad;
    CHECK(ibv_post_recv(pair, &request, &bad) == 0);
}

static void post_send(
    struct ibv_qp *pair, enum ibv_wr_opcode opcode, struct ibv_sge *list, int count, uint64_t remote, uint32_t key) {
    struct ibv_send_wr request = {.wr_id = 99, .opcode = opcode, .sg_list = list, .num_sge = count}, *bad;
    request.wr.rdma.remote_addr = remote;
    request.wr.rdma.rkey = key;
    CHECK(ibv_post_send(pair, &request, &bad) == 0);
}

// The status of the next completion, some seconds at most; -1 without one. The work request's number is in `id`.
static int next_status(uint64_t *id) {
    struct ibv_wc completion;
    for (int round = 0; round < 20000; round++) {
        if (ibv_poll_cq(queue, 1, &completion) == 1) {
            if (id) *id = completion.wr_id;
            return completion.status;
        }
        usleep(500);
    }
    return -1;
}

// Control calls between ibv_start_poll and ibv_end_poll of the same thread.
static void poll_section(void) {
    struct ibv_cq_init_attr_ex creation = {.cqe = 16, .wc_flags = IBV_WC_EX_WITH_QP_NUM};
    struct ibv_poll_cq_attr nothing = {};
    struct ibv_cq_ex *completions = ibv_create_cq_ex(device, &creation);
    NEEDED(completions);
    struct ibv_qp *pair = make_queue_pair(ibv_cq_ex_to_cq(completions), NULL);
    struct ibv_qp *other = make_queue_pair(ibv_cq_ex_to_cq(completions), NULL);
    for (int round = 0; round < 2; round++) {
        set_state(pair, IBV_QPS_INIT);
        for (int id = 0; id < 4; id++) post_receive(pair, id, NULL, 0);
        set_state(pair, IBV_QPS_ERR);
        CHECK(ibv_start_poll(completions, &nothing) == 0 && completions->wr_id == 0);
        CHECK(ibv_next_poll(completions) == 0 && completions->wr_id == 1);
        CHECK(ibv_resize_cq(ibv_cq_ex_to_cq(completions), 32 << round) == 0);
        CHECK(ibv_next_poll(completions) == 0 && completions->wr_id == 2);
        set_state(pair, IBV_QPS_RESET);
        CHECK(completions->wr_id == 2 && ibv_wc_read_qp_num(completions) == pair->qp_num);
        CHECK(ibv_next_poll(completions) == ENOENT);
        ibv_end_poll(completions);
        CHECK(ibv_start_poll(completions, &nothing) == ENOENT);
    }

    // A queue pair that goes, while the completions of another one are read.
    set_state(pair, IBV_QPS_INIT);
    for (int id = 0; id < 2; id++) post_receive(pair, id, NULL, 0);
    set_state(pair, IBV_QPS_ERR);
    CHECK(ibv_start_poll(completions, &nothing) == 0 && completions->wr_id == 0);
    CHECK(ibv_destroy_qp(other) == 0);
    CHECK(ibv_next_poll(completions) == 0 && completions->wr_id == 1);
    CHECK(ibv_destroy_qp(pair) == 0);
    ibv_end_poll(completions);
    CHECK(ibv_start_poll(completions, &nothing) == ENOENT);
    CHECK(ibv_destroy_cq(ibv_cq_ex_to_cq(completions)) == 0);
}

// ibv_alloc_null_mr(3)
static void null_region(void) {
    static char bytes[64], copy[64];
    struct ibv_qp *a = make_queue_pair(queue, NULL), *b = make_queue_pair(queue, NULL);
    struct ibv_mr *region = ibv_reg_mr(domain, bytes, sizeof bytes, REMOTE), *target = ibv_reg_mr(domain, copy, sizeof copy, REMOTE);
    struct ibv_mr *null = ibv_alloc_null_mr(domain);
    NEEDED(region && target && null);
    CHECK(null->length == SIZE_MAX && null->pd == domain && null->context == device);
    connect_to(a, b);
    connect_to(b, a);
    for (int index = 0; index < 64; index++) bytes[index] = (char)(index + 1);

    // Received, of 24 bytes: 8, then 8 that nobody wants, then 8.
    struct ibv_sge whole = {(uintptr_t)bytes, 24, region->lkey};
    struct ibv_sge parts[3] = {{(uintptr_t)copy, 8, target->lkey}, {1, 8, null->lkey}, {(uintptr_t)copy + 8, 8, target->lkey}};
    post_receive(b, 1, parts, 3);
    post_send(a, IBV_WR_SEND, &whole, 1, 0, 0);
    CHECK(next_status(NULL) == IBV_WC_SUCCESS && next_status(NULL) == IBV_WC_SUCCESS);
    CHECK(memcmp(copy, bytes, 8) == 0 && memcmp(copy + 8, bytes + 16, 8) == 0 && copy[16] == 0);

    // Written: zeros around 8 bytes, from addresses that are none. More than a packet.
    memset(copy, 0x55, sizeof copy);
    struct ibv_sge around[3] = {{0, 8, null->lkey}, {(uintptr_t)bytes, 8, region->lkey}, {UINT64_MAX - 7, 8, null->lkey}};
    post_send(a, IBV_WR_RDMA_WRITE, around, 3, (uintptr_t)copy, target->rkey);
    CHECK(next_status(NULL) == IBV_WC_SUCCESS);
    static const char zeros[8];
    CHECK(memcmp(copy, zeros, 8) == 0 && memcmp(copy + 8, bytes, 8) == 0 && memcmp(copy + 16, zeros, 8) == 0 && copy[24] == 0x55);

    // Read into it: discarded.
    struct ibv_sge nowhere = {0x1234, 64, null->lkey};
    post_send(a, IBV_WR_RDMA_READ, &nowhere, 1, (uintptr_t)copy, target->rkey);
    CHECK(next_status(NULL) == IBV_WC_SUCCESS);

    // Megabytes of nothing.
    static char large[1 << 20];
    struct ibv_mr *room = ibv_reg_mr(domain, large, sizeof large, REMOTE);
    struct ibv_sge megabyte = {0, sizeof large, null->lkey};
    memset(large, 0x55, sizeof large);
    post_send(a, IBV_WR_RDMA_WRITE, &megabyte, 1, (uintptr_t)large, room->rkey);
    CHECK(next_status(NULL) == IBV_WC_SUCCESS);
    CHECK(large[0] == 0 && memcmp(large, large + 1, sizeof large - 1) == 0);
    CHECK(ibv_dereg_mr(room) == 0);

    // No key for peers, no other domain's, and no re-registration.
    CHECK(ibv_rereg_mr(null, IBV_REREG_MR_CHANGE_ACCESS, NULL, NULL, 0, IBV_ACCESS_LOCAL_WRITE) != 0);
    CHECK(ibv_rereg_mr(null, IBV_REREG_MR_CHANGE_TRANSLATION, NULL, bytes, 8, 0) != 0);
    whole.length = 8;
    post_send(a, IBV_WR_RDMA_WRITE, &whole, 1, 0, null->lkey);
    CHECK(next_status(NULL) == IBV_WC_REM_ACCESS_ERR);
    CHECK(ibv_destroy_qp(a) == 0 && ibv_destroy_qp(b) == 0);
    CHECK(ibv_dereg_mr(null) == 0 && ibv_dereg_mr(region) == 0 && ibv_dereg_mr(target) == 0);

    struct ibv_pd *stranger = ibv_alloc_pd(device);
    null = ibv_alloc_null_mr(stranger);
    a = make_queue_pair(queue, NULL), b = make_queue_pair(queue, NULL);
    connect_to(a, b);
    connect_to(b, a);
    nowhere = (struct ibv_sge){0, 8, null->lkey};
    post_send(a, IBV_WR_SEND, &nowhere, 1, 0, 0);
    CHECK(next_status(NULL) == IBV_WC_LOC_PROT_ERR);
    CHECK(ibv_destroy_qp(a) == 0 && ibv_destroy_qp(b) == 0);
    CHECK(ibv_dealloc_pd(stranger) == EBUSY);
    CHECK(ibv_dereg_mr(null) == 0 && ibv_dealloc_pd(stranger) == 0);
}

// ibv_reg_mr(3): the whole address space, with pages that come and go.
static void address_space(void) {
    static char bytes[16384], copy[16384];
    struct ibv_device_attr_ex limits;
    CHECK(ibv_query_device_ex(device, NULL, &limits) == 0);
    if (!(limits.odp_caps.general_caps & IBV_ODP_SUPPORT_IMPLICIT)) {
        puts("skipped the whole address space: process_vm_readv(2) is forbidden here");
        return;
    }
    CHECK(!ibv_reg_mr(domain, NULL, SIZE_MAX, IBV_ACCESS_LOCAL_WRITE));
    CHECK(!ibv_reg_mr(domain, NULL, SIZE_MAX, IBV_ACCESS_ON_DEMAND | REMOTE));
    CHECK(!ibv_reg_mr(domain, NULL, 4096, IBV_ACCESS_ON_DEMAND));
    struct ibv_mr *all = ibv_reg_mr(domain, NULL, SIZE_MAX, IBV_ACCESS_ON_DEMAND | IBV_ACCESS_LOCAL_WRITE);
    struct ibv_mr *reading = ibv_reg_mr(domain, NULL, SIZE_MAX, IBV_ACCESS_ON_DEMAND);
    struct ibv_mr *target = ibv_reg_mr(domain, copy, sizeof copy, REMOTE);
    NEEDED(all && reading && target);
    CHECK(all->length == SIZE_MAX && all->addr == NULL);
    for (size_t index = 0; index < sizeof bytes; index++) bytes[index] = (char)(index * 7);

    // Each of these ends the queue pairs, but for the first: what is done, from what address, and what becomes of it.
    long page = sysconf(_SC_PAGESIZE);
    char *place = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NEEDED(place != MAP_FAILED && munmap(place + page, page) == 0 && mprotect(place + 2 * page, page, PROT_READ) == 0);
    memset(place, 0x11, page);
    struct {
        int is_receive;
        uint64_t address;
        uint32_t length, key;
        int status;
    } cases[] = {
        {0, (uintptr_t)bytes, sizeof bytes, all->lkey, IBV_WC_SUCCESS},
        {0, (uintptr_t)bytes, sizeof bytes, reading->lkey, IBV_WC_SUCCESS},
        {1, (uintptr_t)copy, sizeof copy, all->lkey, IBV_WC_SUCCESS},
        {1, (uintptr_t)copy, sizeof copy, reading->lkey, IBV_WC_LOC_PROT_ERR},
        {0, (uintptr_t)place + page, 8, all->lkey, IBV_WC_LOC_PROT_ERR},
        {0, (uintptr_t)place + page - 8, 16, all->lkey, IBV_WC_LOC_PROT_ERR},
        {1, (uintptr_t)place + page - 8, 16, all->lkey, IBV_WC_LOC_PROT_ERR},
        {0, (uintptr_t)place + 2 * page, 16, all->lkey, IBV_WC_SUCCESS},
        {1, (uintptr_t)place + 2 * page, 16, all->lkey, IBV_WC_LOC_PROT_ERR},
        {0, 8, 8, all->lkey, IBV_WC_LOC_PROT_ERR},
        {1, UINT64_MAX - 3, 8, all->lkey, IBV_WC_LOC_PROT_ERR},
        {0, (uint64_t)1 << 63, 8, all->lkey, IBV_WC_LOC_PROT_ERR},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        struct ibv_qp *a = make_queue_pair(queue, NULL), *b = make_queue_pair(queue, NULL);
        struct ibv_sge named = {cases[index].address, cases[index].length, cases[index].key};
        struct ibv_sge plain = {(uintptr_t)bytes, cases[index].length, all->lkey};
        connect_to(a, b);
        connect_to(b, a);
        memset(copy, 0, sizeof copy);
        uint64_t id = 0;
        int status = IBV_WC_SUCCESS, other;
        if (cases[index].is_receive) {
            post_receive(b, 1, &named, 1);
            post_send(a, IBV_WR_SEND, &plain, 1, 0, 0);
            // Both ends complete, in any order.
            for (int half = 0; half < 2; half++)
                if ((other = next_status(&id)), id == 1) status = other;
            if (status == IBV_WC_SUCCESS) CHECK(memcmp(bytes, copy, cases[index].length) == 0);
        } else {
            post_send(a, IBV_WR_RDMA_WRITE, &named, 1, (uintptr_t)copy, target->rkey);
            status = next_status(&id);
            if (status == IBV_WC_SUCCESS) CHECK(memcmp((void *)(uintptr_t)cases[index].address, copy, cases[index].length) == 0);
        }
        if (status != cases[index].status) printf("case %zu: status %d, not %d\n", index, status, cases[index].status);
        CHECK(status == cases[index].status);
        CHECK(ibv_destroy_qp(a) == 0 && ibv_destroy_qp(b) == 0);
        while (ibv_poll_cq(queue, 1, &(struct ibv_wc){}) > 0) continue;
    }

    // A page that is unmapped and mapped again while megabytes of it are sent.
    char *moving = mmap(NULL, 256 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    static char large[1 << 20];
    struct ibv_mr *room = ibv_reg_mr(domain, large, sizeof large, REMOTE);
    NEEDED(moving != MAP_FAILED && room);
    for (int round = 0; round < 100; round++) {
        struct ibv_qp *a = make_queue_pair(queue, NULL), *b = make_queue_pair(queue, NULL);
        struct ibv_sge named = {(uintptr_t)moving, 256 * (uint32_t)page, all->lkey};
        connect_to(a, b);
        connect_to(b, a);
        post_send(a, IBV_WR_RDMA_WRITE, &named, 1, (uintptr_t)large, room->rkey);
        NEEDED(munmap(moving + round * page, page) == 0);
        int status = next_status(NULL);
        CHECK(status == IBV_WC_SUCCESS || status == IBV_WC_LOC_PROT_ERR);
        NEEDED(mmap(moving + round * page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
        CHECK(ibv_destroy_qp(a) == 0 && ibv_destroy_qp(b) == 0);
    }
    munmap(moving, 256 * page);
    munmap(place, 3 * page);
    CHECK(ibv_dereg_mr(room) == 0 && ibv_dereg_mr(all) == 0 && ibv_dereg_mr(reading) == 0 && ibv_dereg_mr(target) == 0);
}

// ibv_modify_srq(3)
static int post_shared(struct ibv_srq *shared, uint64_t id) {
    struct ibv_recv_wr request = {.wr_id = id}, *bad;
    return ibv_post_srq_recv(shared, &request, &bad);
}

static void shared_queue(void) {
    struct ibv_device_attr limits;
    struct ibv_srq_init_attr creation = {.attr = {.max_wr = 4, .max_sge = 1}};
    struct ibv_srq_attr attributes;
    struct ibv_async_event event;
    uint64_t id;
    CHECK(ibv_query_device(device, &limits) == 0 && limits.device_cap_flags & IBV_DEVICE_SRQ_RESIZE);
    struct ibv_srq *shared = ibv_create_srq(domain, &creation);
    NEEDED(shared);
    struct ibv_qp *a = make_queue_pair(queue, NULL), *b = make_queue_pair(queue, shared);
    connect_to(a, b);
    connect_to(b, a);
    // Not from the start of the ring: 3 are taken before it is resized.
    for (id = 0; id < 4; id++) CHECK(post_shared(shared, id) == 0);
    CHECK(post_shared(shared, 4) == ENOMEM);
    for (int index = 0; index < 3; index++) {
        post_send(a, IBV_WR_SEND, NULL, 0, 0, 0);
        for (int half = 0; half < 2; half++) CHECK(next_status(&id) == IBV_WC_SUCCESS && (id == 99 || id == (uint64_t)index));
    }
    for (id = 4; id < 7; id++) CHECK(post_shared(shared, id) == 0);
    CHECK(post_shared(shared, 7) == ENOMEM);

    attributes.max_wr = 100;
    CHECK(ibv_modify_srq(shared, &attributes, IBV_SRQ_MAX_WR) == 0);
    CHECK(ibv_query_srq(shared, &attributes) == 0 && attributes.max_wr >= 100 && attributes.srq_limit == 0);
    for (id = 7; id < 20; id++) CHECK(post_shared(shared, id) == 0);

    // What is refused changes nothing.
    attributes = (struct ibv_srq_attr){.max_wr = 8, .srq_limit = 4};
    CHECK(ibv_modify_srq(shared, &attributes, IBV_SRQ_MAX_WR | IBV_SRQ_LIMIT) == EINVAL);
    attributes = (struct ibv_srq_attr){.max_wr = 64, .srq_limit = 65};
    CHECK(ibv_modify_srq(shared, &attributes, IBV_SRQ_MAX_WR | IBV_SRQ_LIMIT) == EINVAL);
    attributes.max_wr = (uint32_t)limits.max_srq_wr + 1;
    CHECK(ibv_modify_srq(shared, &attributes, IBV_SRQ_MAX_WR) == EINVAL);
    CHECK(ibv_query_srq(shared, &attributes) == 0 && attributes.max_wr >= 100 && attributes.srq_limit == 0);

    // Smaller, with a limit that counts in the new ring: 17 are posted, and the second that is taken leaves 15.
    attributes = (struct ibv_srq_attr){.max_wr = 32, .srq_limit = 16};
    CHECK(ibv_modify_srq(shared, &attributes, IBV_SRQ_MAX_WR | IBV_SRQ_LIMIT) == 0);
    CHECK(ibv_query_srq(shared, &attributes) == 0 && attributes.max_wr == 32 && attributes.srq_limit == 16);
    for (int index = 3; index < 20; index++) {
        post_send(a, IBV_WR_SEND, NULL, 0, 0, 0);
        for (int half = 0; half < 2; half++) CHECK(next_status(&id) == IBV_WC_SUCCESS && (id == 99 || id == (uint64_t)index));
    }
    CHECK(ibv_get_async_event(device, &event) == 0 && event.event_type == IBV_EVENT_SRQ_LIMIT_REACHED && event.element.srq == shared);
    ibv_ack_async_event(&event);
    CHECK(ibv_destroy_qp(a) == 0 && ibv_destroy_qp(b) == 0 && ibv_destroy_srq(shared) == 0);
}

// A connection, or a datagram service, that nobody listens for, by a channel that does not block.
static struct rdma_cm_id *begin_connecting(struct rdma_event_channel *channel, enum rdma_port_space space) {
    struct rdma_conn_param parameters = {.retry_count = 7, .rnr_retry_count = 7};
    struct rdma_cm_event *event;
    struct rdma_cm_id *identifier;
    struct ibv_qp_init_attr creation = {
        .cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = space == RDMA_PS_TCP ? IBV_QPT_RC : IBV_QPT_UD};
    NEEDED(rdma_create_id(channel, &identifier, NULL, space) == 0);
    NEEDED(rdma_resolve_addr(identifier, NULL, (struct sockaddr *)&address, 1000) == 0);
    CHECK(rdma_get_cm_event(channel, &event) == 0 && event->event == RDMA_CM_EVENT_ADDR_RESOLVED && rdma_ack_cm_event(event) == 0);
    NEEDED(rdma_resolve_route(identifier, 1000) == 0);
    CHECK(rdma_get_cm_event(channel, &event) == 0 && event->event == RDMA_CM_EVENT_ROUTE_RESOLVED && rdma_ack_cm_event(event) == 0);
    NEEDED(rdma_create_qp(identifier, NULL, &creation) == 0);
    NEEDED(rdma_connect(identifier, &parameters) == 0);
    return identifier;
}

// Waits by poll(2). What it says is there is there; before, there is nothing.
static enum rdma_cm_event_type next_event(struct rdma_event_channel *channel, struct rdma_cm_id **identifier, int *status) {
    struct rdma_cm_event *event;
    struct pollfd entry = {.fd = channel->fd, .events = POLLIN};
    if (poll(&entry, 1, 0) == 0) CHECK(rdma_get_cm_event(channel, &event) == -1 && errno == EAGAIN);
    NEEDED(poll(&entry, 1, 20000) == 1);
    NEEDED(rdma_get_cm_event(channel, &event) == 0);
    enum rdma_cm_event_type type = event->event;
    if (identifier) *identifier = event->id;
    if (status) *status = event->status;
    CHECK(rdma_ack_cm_event(event) == 0);
    return type;
}

static void asking_again(enum rdma_port_space space) {
    bool is_connected = space == RDMA_PS_TCP;
    struct rdma_event_channel *channel = rdma_create_event_channel(), *passive = rdma_create_event_channel();
    struct rdma_cm_id *identifier, *listener, *child, *about;
    struct rdma_conn_param parameters = {};
    struct ibv_qp_init_attr creation = {
        .cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
        .qp_type = is_connected ? IBV_QPT_RC : IBV_QPT_UD};
    int status = 0;
    NEEDED(channel && passive);
    NEEDED(fcntl(channel->fd, F_SETFL, O_NONBLOCK) == 0 && fcntl(passive->fd, F_SETFL, O_NONBLOCK) == 0);
    identifier = begin_connecting(channel, space);
    // 8: invalid service identifier. 1: the service is not supported.
    CHECK(next_event(channel, &about, &status) == (is_connected ? RDMA_CM_EVENT_REJECTED : RDMA_CM_EVENT_UNREACHABLE));
    CHECK(about == identifier && status == (is_connected ? 8 : 1));
    rdma_destroy_qp(identifier);
    CHECK(rdma_destroy_id(identifier) == 0);

    // Gone while it asks.
    identifier = begin_connecting(channel, space);
    usleep(50000);
    rdma_destroy_qp(identifier);
    CHECK(rdma_destroy_id(identifier) == 0);

    // Somebody listens meanwhile.
    identifier = begin_connecting(channel, space);
    usleep(100000);
    NEEDED(rdma_create_id(passive, &listener, NULL, space) == 0);
    NEEDED(rdma_bind_addr(listener, (struct sockaddr *)&address) == 0 && rdma_listen(listener, 1) == 0);
    CHECK(next_event(passive, &child, NULL) == RDMA_CM_EVENT_CONNECT_REQUEST);
    NEEDED(rdma_create_qp(child, NULL, &creation) == 0);
    CHECK(rdma_accept(child, &parameters) == 0);
    CHECK(next_event(channel, &about, NULL) == RDMA_CM_EVENT_ESTABLISHED && about == identifier);
    if (is_connected) CHECK(next_event(passive, &about, NULL) == RDMA_CM_EVENT_ESTABLISHED && about == child);
    rdma_destroy_qp(identifier);
    rdma_destroy_qp(child);
    CHECK(rdma_destroy_id(identifier) == 0 && rdma_destroy_id(child) == 0 && rdma_destroy_id(listener) == 0);
    rdma_destroy_event_channel(channel);
    rdma_destroy_event_channel(passive);
}

// rdma_create_srq(3): what is made for an identifier is its queue pair's, unless that brings another.
static void identifier_with_queue(void) {
    struct ibv_srq_init_attr of_queue = {.attr = {.max_wr = 4, .max_sge = 1}};
    struct ibv_qp_init_attr creation = {.cap = {.max_send_wr = 1, .max_send_sge = 1}, .qp_type = IBV_QPT_RC};
    struct rdma_cm_id *identifier;
    NEEDED(rdma_create_id(NULL, &identifier, NULL, RDMA_PS_TCP) == 0);
    NEEDED(rdma_resolve_addr(identifier, NULL, (struct sockaddr *)&address, 1000) == 0);
    NEEDED(rdma_create_srq(identifier, NULL, &of_queue) == 0 && rdma_create_qp(identifier, NULL, &creation) == 0);
    CHECK(identifier->srq && identifier->qp->srq == identifier->srq && identifier->pd == identifier->srq->pd);
    rdma_destroy_qp(identifier);
    rdma_destroy_srq(identifier);

    // A shared queue of XRC keeps what it completes in when a queue pair fails, which another queue, or such a one, makes it do.
    struct ibv_srq_init_attr_ex of_xrc = {
        .attr = {.max_wr = 4, .max_sge = 1}, .comp_mask = IBV_SRQ_INIT_ATTR_TYPE, .srq_type = IBV_SRQT_XRC};
    NEEDED(rdma_create_srq_ex(identifier, &of_xrc) == 0);
    struct ibv_cq *made = identifier->recv_cq, *other = ibv_create_cq(identifier->verbs, 1, NULL, NULL, 0);
    CHECK(made && identifier->recv_cq_channel && other);
    creation.recv_cq = other;
    CHECK(rdma_create_qp(identifier, NULL, &creation) == -1 && errno == EINVAL);
    creation.recv_cq = NULL;
    CHECK(rdma_create_qp(identifier, NULL, &creation) == -1);
    CHECK(identifier->recv_cq == made && identifier->recv_cq_channel && !identifier->send_cq);
    rdma_destroy_srq(identifier);
    CHECK(!identifier->srq && !identifier->recv_cq && !identifier->recv_cq_channel && ibv_destroy_cq(other) == 0);
    CHECK(rdma_destroy_id(identifier) == 0);
}

// ibv_create_counters(3), ibv_attach_counters_point_flow(3), ibv_read_counters(3)
struct counted_flow {
    struct ibv_flow_attr attributes;
    struct ibv_flow_spec_eth ethernet;
    struct ibv_flow_spec_ipv4 ip;
    struct ibv_flow_spec_tcp_udp udp;
    struct ibv_flow_spec_counter_action count;
} __attribute__((packed));

static struct ibv_flow *make_flow(struct ibv_qp *pair, int port, struct ibv_counters *counters) {
    struct counted_flow flow = {
        .attributes = {.type = IBV_FLOW_ATTR_NORMAL, .size = sizeof flow, .num_of_specs = counters ? 4 : 3, .port = 1},
        .ethernet = {.type = IBV_FLOW_SPEC_ETH, .size = sizeof flow.ethernet},
        .ip = {.type = IBV_FLOW_SPEC_IPV4, .size = sizeof flow.ip},
        .udp = {.type = IBV_FLOW_SPEC_UDP, .size = sizeof flow.udp},
        .count = {.type = IBV_FLOW_SPEC_ACTION_COUNT, .size = sizeof flow.count, .counters = counters},
    };
    flow.udp.val.dst_port = htons(port);
    flow.udp.mask.dst_port = 0xFFFF;
    return ibv_create_flow(pair, (void *)&flow);
}

static void send_datagrams(int port, int count, size_t length) {
    static const char bytes[1000];
    struct sockaddr_in target = address;
    int socket_number = socket(AF_INET, SOCK_DGRAM, 0);
    target.sin_port = htons(port);
    NEEDED(socket_number >= 0);
    for (int index = 0; index < count; index++)
        CHECK(sendto(socket_number, bytes, length, 0, (struct sockaddr *)&target, sizeof target) == (ssize_t)length);
    close(socket_number);
}

// Polls until so many datagrams came.
static void take_datagrams(int count) {
    while (count-- > 0) CHECK(next_status(NULL) == IBV_WC_SUCCESS);
}

static void counting(int port) {
    enum { HEADERS = 14 + 20 + 8 };
    static char room[16 * 2048];
    uint64_t values[4];
    struct ibv_counters_init_attr none = {};
    struct ibv_qp_init_attr creation = {
        .send_cq = queue, .recv_cq = queue, .qp_type = IBV_QPT_RAW_PACKET, .cap = {.max_send_wr = 1, .max_recv_wr = 32, .max_send_sge = 1, .max_recv_sge = 1}};
    struct ibv_qp_attr state = {.qp_state = IBV_QPS_INIT, .port_num = 1};
    struct ibv_qp *pair = ibv_create_qp(domain, &creation);
    struct ibv_mr *region = ibv_reg_mr(domain, room, sizeof room, IBV_ACCESS_LOCAL_WRITE);
    NEEDED(pair && region);
    CHECK(ibv_modify_qp(pair, &state, IBV_QP_STATE | IBV_QP_PORT) == 0);
    state.qp_state = IBV_QPS_RTR;
    CHECK(ibv_modify_qp(pair, &state, IBV_QP_STATE) == 0);
    for (int index = 0; index < 16; index++) {
        struct ibv_sge entry = {(uintptr_t)room + 2048 * (unsigned)index, 2048, region->lkey};
        post_receive(pair, 1, &entry, 1);
    }

    struct ibv_counters *counters = ibv_create_counters(device, &none);
    NEEDED(counters);
    struct ibv_counter_attach_attr packets = {.counter_desc = IBV_COUNTER_PACKETS, .index = 2},
                                   bytes = {.counter_desc = IBV_COUNTER_BYTES, .index = 0}, unknown = {.counter_desc = 77};
    CHECK(ibv_attach_counters_point_flow(counters, &unknown, NULL) == ENOTSUP);
    CHECK(ibv_attach_counters_point_flow(counters, &packets, NULL) == 0);
    CHECK(ibv_attach_counters_point_flow(counters, &bytes, NULL) == 0);
    memset(values, 0xFF, sizeof values);
    CHECK(ibv_read_counters(counters, values, 4, 0) == 0 && !values[0] && !values[1] && !values[2] && !values[3]);

    struct ibv_flow *one = make_flow(pair, port, counters);
    if (!one && (errno == EPERM || errno == EACCES)) {
        puts("skipped counters: flows need CAP_NET_RAW");
    } else {
        NEEDED(one);
        struct ibv_flow *two = make_flow(pair, port + 1, counters), *plain = make_flow(pair, port + 2, NULL);
        NEEDED(two && plain);
        CHECK(ibv_attach_counters_point_flow(counters, &packets, NULL) == EBUSY);
        CHECK(ibv_destroy_counters(counters) == EBUSY);
        CHECK(ibv_read_counters(counters, values, 4, 64) == EINVAL);
        send_datagrams(port, 3, 100);
        send_datagrams(port + 1, 2, 200);
        send_datagrams(port + 2, 1, 300);
        take_datagrams(6);
        CHECK(ibv_read_counters(counters, values, 4, IBV_READ_COUNTERS_ATTR_PREFER_CACHED) == 0);
        CHECK(values[2] == 5 && values[0] == 3 * (HEADERS + 100) + 2 * (HEADERS + 200) && !values[1] && !values[3]);

        // Another object, attached to flows that there are: from now on.
        struct ibv_counters *later = ibv_create_counters(device, &none);
        NEEDED(later);
        packets.index = 0;
        CHECK(ibv_attach_counters_point_flow(later, &packets, plain) == 0 && ibv_attach_counters_point_flow(later, &packets, one) == 0);
        send_datagrams(port, 1, 10);
        send_datagrams(port + 2, 2, 10);
        take_datagrams(3);
        CHECK(ibv_read_counters(later, values, 1, 0) == 0 && values[0] == 3);
        // What a flow counted stays when it goes.
        CHECK(ibv_destroy_flow(one) == 0 && ibv_destroy_flow(plain) == 0 && ibv_destroy_flow(two) == 0);
        send_datagrams(port, 1, 10);
        CHECK(ibv_read_counters(later, values, 1, 0) == 0 && values[0] == 3);
        CHECK(ibv_read_counters(counters, values, 3, 0) == 0 && values[2] == 6);
        CHECK(ibv_destroy_counters(later) == 0);
    }
    CHECK(ibv_destroy_counters(counters) == 0);
    CHECK(ibv_destroy_qp(pair) == 0 && ibv_dereg_mr(region) == 0);
}

static struct ibv_xrcd *open_domain(int file, int flags) {
    struct ibv_xrcd_init_attr attributes = {
        .comp_mask = IBV_XRCD_INIT_ATTR_FD | IBV_XRCD_INIT_ATTR_OFLAGS, .fd = file, .oflags = flags};
    return ibv_open_xrcd(device, &attributes);
}

static void to_ready(struct ibv_qp *pair, uint32_t number) {
    int sends = pair->qp_type == IBV_QPT_XRC_SEND;
    struct ibv_qp_attr attributes = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = number,
        .max_dest_rd_atomic = 1,
        .min_rnr_timer = 12,
        .ah_attr = {.is_global = 1, .port_num = 1, .grh = {.hop_limit = 64}},
    };
    NEEDED(ibv_query_gid(device, 1, 0, &attributes.ah_attr.grh.dgid) == 0);
    set_state(pair, IBV_QPS_INIT);
    CHECK(ibv_modify_qp(pair, &attributes, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                               (sends ? 0 : IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER)) == 0);
    attributes = (struct ibv_qp_attr){
        .qp_state = IBV_QPS_RTS, .timeout = 14, .retry_cnt = 7, .rnr_retry = 7, .max_rd_atomic = 1};
    CHECK(ibv_modify_qp(pair, &attributes, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_SQ_PSN |
                                               (sends ? IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC : 0)) == 0);
}

static void send_to(struct ibv_qp *pair, uint32_t number) {
    struct ibv_send_wr request = {.wr_id = 77, .opcode = IBV_WR_SEND, .qp_type.xrc.remote_srqn = number}, *bad;
    CHECK(ibv_post_send(pair, &request, &bad) == 0);
}

// XRC: domains by a file and without one, a target that is opened twice, and what either end has not.
static void extended_connections(void) {
    char name[] = "/tmp/verbs-calls-XXXXXX", other_name[] = "/tmp/verbs-calls-XXXXXX";
    int file = mkstemp(name), other_file = mkstemp(other_name);
    NEEDED(file >= 0 && other_file >= 0);
    unlink(name);
    unlink(other_name);
    struct ibv_xrcd *first = open_domain(file, O_CREAT), *second = open_domain(file, 0), *own = open_domain(-1, O_CREAT);
    NEEDED(first && second && own);
    CHECK(!open_domain(file, O_CREAT | O_EXCL) && errno == EINVAL);
    CHECK(!open_domain(other_file, 0) && errno == EAGAIN);
    CHECK(!open_domain(-1, 0) && errno == EINVAL);

    struct ibv_srq_init_attr_ex creation = {
        .attr = {.max_wr = 4, .max_sge = 1},
        .comp_mask = IBV_SRQ_INIT_ATTR_TYPE | IBV_SRQ_INIT_ATTR_PD | IBV_SRQ_INIT_ATTR_XRCD | IBV_SRQ_INIT_ATTR_CQ,
        .srq_type = IBV_SRQT_XRC,
        .pd = domain,
        .xrcd = second,
        .cq = queue,
    };
    struct ibv_srq_init_attr plain = {.attr = {.max_wr = 1, .max_sge = 1}};
    struct ibv_srq *shared = ibv_create_srq_ex(device, &creation), *basic = ibv_create_srq(domain, &plain);
    uint32_t number = 0, none;
    NEEDED(shared && basic);
    CHECK(ibv_get_srq_num(shared, &number) == 0 && number > 0 && number < 1 << 24);
    CHECK(ibv_get_srq_num(basic, &none) == EINVAL);
    CHECK(ibv_destroy_srq(basic) == 0);

    struct ibv_qp_init_attr_ex making = {.qp_type = IBV_QPT_XRC_RECV, .comp_mask = IBV_QP_INIT_ATTR_XRCD, .xrcd = first};
    struct ibv_qp *target = ibv_create_qp_ex(device, &making);
    making = (struct ibv_qp_init_attr_ex){
        .qp_type = IBV_QPT_XRC_SEND,
        .comp_mask = IBV_QP_INIT_ATTR_PD,
        .pd = domain,
        .send_cq = queue,
        .cap = {.max_send_wr = 4, .max_send_sge = 1},
        .sq_sig_all = 1,
    };
    struct ibv_qp *initiator = ibv_create_qp_ex(device, &making);
    NEEDED(target && initiator);
    to_ready(target, initiator->qp_num);
    to_ready(initiator, target->qp_num);
    struct ibv_send_wr send = {.opcode = IBV_WR_SEND}, *bad_send;
    struct ibv_recv_wr receive = {.wr_id = 88}, *bad_receive;
    CHECK(ibv_post_send(target, &send, &bad_send) == EINVAL);
    CHECK(ibv_post_recv(target, &receive, &bad_receive) == EINVAL && ibv_post_recv(initiator, &receive, &bad_receive) == EINVAL);

    // The target lives as long as one of its handles.
    struct ibv_qp_open_attr opening = {
        .comp_mask = IBV_QP_OPEN_ATTR_NUM | IBV_QP_OPEN_ATTR_XRCD | IBV_QP_OPEN_ATTR_TYPE,
        .qp_num = target->qp_num,
        .xrcd = own,
        .qp_type = IBV_QPT_XRC_RECV,
    };
    CHECK(!ibv_open_qp(device, &opening) && errno == EINVAL);
    opening.xrcd = second;
    struct ibv_qp *handle = ibv_open_qp(device, &opening);
    NEEDED(handle);
    CHECK(handle->qp_num == target->qp_num);
    CHECK(ibv_close_xrcd(first) == EBUSY && ibv_destroy_qp(target) == 0 && ibv_close_xrcd(first) == 0);
    CHECK(ibv_post_srq_recv(shared, &receive, &bad_receive) == 0);
    send_to(initiator, number);
    uint64_t one = 0, two = 0;
    CHECK(next_status(&one) == IBV_WC_SUCCESS && next_status(&two) == IBV_WC_SUCCESS && one + two == 77 + 88);

    // What no queue of the domain has as its number ends both ends.
    send_to(initiator, number ^ 0x1000);
    CHECK(next_status(&one) == IBV_WC_REM_ACCESS_ERR);
    struct ibv_async_event event;
    CHECK(ibv_get_async_event(device, &event) == 0 && event.event_type == IBV_EVENT_QP_ACCESS_ERR && event.element.qp == handle);
    ibv_ack_async_event(&event);
    CHECK(ibv_close_xrcd(second) == EBUSY && ibv_destroy_cq(queue) == EBUSY);
    CHECK(ibv_destroy_srq(shared) == 0 && ibv_destroy_qp(handle) == 0 && ibv_destroy_qp(initiator) == 0);
    CHECK(ibv_close_xrcd(second) == 0 && ibv_close_xrcd(own) == 0);
    CHECK(!open_domain(file, 0) && errno == EAGAIN);
    close(file);
    close(other_file);
}

int main(int count, char **arguments) {
    int devices;
    NEEDED(count == 4);
    struct ibv_device **list = ibv_get_device_list(&devices);
    for (int index = 0; list && index < devices; index++)
        if (strcmp(ibv_get_device_name(list[index]), arguments[1]) == 0) device = ibv_open_device(list[index]);
    NEEDED(device);
    NEEDED(inet_pton(AF_INET, arguments[2], &address.sin_addr) == 1);
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(arguments[3]));
    NEEDED((domain = ibv_alloc_pd(device)) && (queue = ibv_create_cq(device, 64, NULL, NULL, 0)));
    poll_section();
    asking_again(RDMA_PS_TCP);
    asking_again(RDMA_PS_UDP);
    identifier_with_queue();
    null_region();
    address_space();
    shared_queue();
    extended_connections();
    counting(atoi(arguments[3]));
    CHECK(ibv_destroy_cq(queue) == 0 && ibv_dealloc_pd(domain) == 0 && ibv_close_device(device) == 0);
    ibv_free_device_list(list);
    printf("%d failures\n", failures);
    return failures > 0;
}
