// SPDX-License-Identifier: Apache-2.0
//
// The C side of the instruction counts: the loops a C programmer writes over verbs.h's inline functions.
//
//   instructions-c CASE OPERATIONS
//
// "idiom" fills the work request afresh in the frame for each post, as the examples of rdma-core do; "careful" keeps
// the request and writes only what changes.
#include "CountingVerbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { batch_size = 16, region_size = 4096, message_size = 64, local_key = 0x1234 };

struct fixture {
    struct ibv_context *context;
    struct ibv_cq *cq;
    struct ibv_qp *qp;
    char *region;
};

static _Noreturn void fail(const char *what, int code)
{
    fprintf(stderr, "instructions-c: %s: %d\n", what, code);
    exit(1);
}

static inline uint64_t address(const struct fixture *f, uint64_t i)
{
    return (uint64_t)(uintptr_t)f->region + (i % (region_size / message_size)) * message_size;
}

static void send_idiom(const struct fixture *f, uint64_t operations)
{
    for (uint64_t i = 0; i < operations; i++) {
        struct ibv_sge sge = {.addr = address(f, i), .length = message_size, .lkey = local_key};
        struct ibv_send_wr wr = {
            .wr_id = i, .sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED};
        struct ibv_send_wr *bad;
        int result = ibv_post_send(f->qp, &wr, &bad);
        if (result)
            fail("post", result);
        struct ibv_wc wc;
        int polled = ibv_poll_cq(f->cq, 1, &wc);
        if (polled != 1 || wc.status != IBV_WC_SUCCESS || wc.wr_id != i)
            fail("poll", polled);
    }
}

static void send_careful(const struct fixture *f, uint64_t operations)
{
    struct ibv_sge sge = {.length = message_size, .lkey = local_key};
    struct ibv_send_wr wr = {.sg_list = &sge, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED};
    struct ibv_send_wr *bad;
    struct ibv_wc wc;
    for (uint64_t i = 0; i < operations; i++) {
        sge.addr = address(f, i);
        wr.wr_id = i;
        int result = ibv_post_send(f->qp, &wr, &bad);
        if (result)
            fail("post", result);
        int polled = ibv_poll_cq(f->cq, 1, &wc);
        if (polled != 1 || wc.status != IBV_WC_SUCCESS || wc.wr_id != i)
            fail("poll", polled);
    }
}

static void reap_batch(const struct fixture *f, struct ibv_wc *wc, uint64_t first)
{
    int polled = ibv_poll_cq(f->cq, batch_size, wc);
    if (polled != batch_size)
        fail("poll", polled);
    for (int k = 0; k < batch_size; k++)
        if (wc[k].status != IBV_WC_SUCCESS || wc[k].wr_id != first + (uint64_t)k)
            fail("completion", (int)wc[k].status);
}

static void batch_idiom(const struct fixture *f, uint64_t operations)
{
    for (uint64_t i = 0; i < operations; i += batch_size) {
        struct ibv_sge sge[batch_size];
        struct ibv_send_wr wr[batch_size];
        for (int k = 0; k < batch_size; k++) {
            sge[k] = (struct ibv_sge){.addr = address(f, i + k), .length = message_size, .lkey = local_key};
            memset(&wr[k], 0, sizeof wr[k]);
            wr[k].wr_id = i + k;
            wr[k].next = k + 1 < batch_size ? &wr[k + 1] : NULL;
            wr[k].sg_list = &sge[k];
            wr[k].num_sge = 1;
            wr[k].opcode = IBV_WR_SEND;
            wr[k].send_flags = IBV_SEND_SIGNALED;
        }
        struct ibv_send_wr *bad;
        int result = ibv_post_send(f->qp, wr, &bad);
        if (result)
            fail("post", result);
        struct ibv_wc wc[batch_size];
        reap_batch(f, wc, i);
    }
}

static void batch_careful(const struct fixture *f, uint64_t operations)
{
    struct ibv_sge sge[batch_size];
    struct ibv_send_wr wr[batch_size];
    memset(wr, 0, sizeof wr);
    for (int k = 0; k < batch_size; k++) {
        sge[k] = (struct ibv_sge){.length = message_size, .lkey = local_key};
        wr[k].next = k + 1 < batch_size ? &wr[k + 1] : NULL;
        wr[k].sg_list = &sge[k];
        wr[k].num_sge = 1;
        wr[k].opcode = IBV_WR_SEND;
        wr[k].send_flags = IBV_SEND_SIGNALED;
    }
    struct ibv_send_wr *bad;
    struct ibv_wc wc[batch_size];
    for (uint64_t i = 0; i < operations; i += batch_size) {
        for (int k = 0; k < batch_size; k++) {
            sge[k].addr = address(f, i + k);
            wr[k].wr_id = i + k;
        }
        int result = ibv_post_send(f->qp, wr, &bad);
        if (result)
            fail("post", result);
        reap_batch(f, wc, i);
    }
}

static void receive_idiom(const struct fixture *f, uint64_t operations)
{
    for (uint64_t i = 0; i < operations; i++) {
        struct ibv_sge sge = {.addr = address(f, i), .length = message_size, .lkey = local_key};
        struct ibv_recv_wr wr = {.wr_id = i, .sg_list = &sge, .num_sge = 1};
        struct ibv_recv_wr *bad;
        int result = ibv_post_recv(f->qp, &wr, &bad);
        if (result)
            fail("post", result);
        struct ibv_wc wc;
        int polled = ibv_poll_cq(f->cq, 1, &wc);
        if (polled != 1 || wc.status != IBV_WC_SUCCESS || wc.wr_id != i)
            fail("poll", polled);
    }
}

static void receive_careful(const struct fixture *f, uint64_t operations)
{
    struct ibv_sge sge = {.length = message_size, .lkey = local_key};
    struct ibv_recv_wr wr = {.sg_list = &sge, .num_sge = 1};
    struct ibv_recv_wr *bad;
    struct ibv_wc wc;
    for (uint64_t i = 0; i < operations; i++) {
        sge.addr = address(f, i);
        wr.wr_id = i;
        int result = ibv_post_recv(f->qp, &wr, &bad);
        if (result)
            fail("post", result);
        int polled = ibv_poll_cq(f->cq, 1, &wc);
        if (polled != 1 || wc.status != IBV_WC_SUCCESS || wc.wr_id != i)
            fail("poll", polled);
    }
}

static const struct {
    const char *name;
    void (*run)(const struct fixture *, uint64_t);
} cases[] = {
    {"send-idiom", send_idiom},       {"send-careful", send_careful},       {"batch-idiom", batch_idiom},
    {"batch-careful", batch_careful}, {"receive-idiom", receive_idiom}, {"receive-careful", receive_careful},
};

int main(int argc, char **argv)
{
    const uint64_t operations = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (operations == 0 || operations % batch_size != 0) {
        fprintf(stderr, "usage: instructions-c CASE OPERATIONS (a multiple of %d)\n", batch_size);
        return 2;
    }
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        if (strcmp(cases[c].name, argv[1]) != 0)
            continue;
        struct fixture f = {.context = counting_open(), .region = calloc(1, region_size)};
        f.cq = counting_create_cq(f.context);
        f.qp = counting_create_qp(f.context, f.cq, f.cq);
        cases[c].run(&f, operations);
        struct counting_totals totals = counting_totals(f.qp);
        if (totals.requests != operations || totals.bytes != operations * message_size)
            fail("totals", (int)totals.requests);
        counting_destroy_qp(f.qp);
        counting_destroy_cq(f.cq);
        counting_close(f.context);
        free(f.region);
        return 0;
    }
    fprintf(stderr, "instructions-c: no case %s\n", argv[1]);
    return 2;
}
