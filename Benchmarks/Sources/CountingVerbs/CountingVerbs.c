// SPDX-License-Identifier: Apache-2.0
#include "CountingVerbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

// One finished request. The producer is a post, the consumer a poll, both of one thread: no ordering is needed.
struct entry {
    uint64_t wr_id;
    enum ibv_wc_opcode opcode;
    uint32_t byte_len;
    uint32_t qp_num;
};

struct counting_cq {
    struct ibv_cq cq;
    uint32_t produced;
    uint32_t consumed;
    struct entry entries[counting_capacity];
};

struct counting_qp {
    struct ibv_qp qp;
    struct counting_totals totals;
};

static void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return memory;
}

static enum ibv_wc_opcode completed(enum ibv_wr_opcode opcode)
{
    switch (opcode) {
    case IBV_WR_RDMA_WRITE:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
        return IBV_WC_RDMA_WRITE;
    case IBV_WR_RDMA_READ:
        return IBV_WC_RDMA_READ;
    case IBV_WR_ATOMIC_CMP_AND_SWP:
        return IBV_WC_COMP_SWAP;
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
        return IBV_WC_FETCH_ADD;
    case IBV_WR_LOCAL_INV:
        return IBV_WC_LOCAL_INV;
    case IBV_WR_BIND_MW:
        return IBV_WC_BIND_MW;
    default:
        return IBV_WC_SEND;
    }
}

static inline uint32_t total_length(const struct ibv_sge *list, int count)
{
    uint32_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += list[i].length;
    return sum;
}

static inline void note(
    struct counting_qp *pair, struct counting_cq *queue, uint64_t wr_id, enum ibv_wc_opcode opcode, uint32_t length)
{
    queue->entries[queue->produced++ % counting_capacity] =
        (struct entry){.wr_id = wr_id, .opcode = opcode, .byte_len = length, .qp_num = pair->qp.qp_num};
    pair->totals.requests += 1;
    pair->totals.bytes += length;
}

static inline int full(const struct counting_cq *queue)
{
    return queue->produced - queue->consumed == counting_capacity;
}

static int counting_post_send(struct ibv_qp *qp, struct ibv_send_wr *request, struct ibv_send_wr **bad)
{
    struct counting_qp *pair = (struct counting_qp *)qp;
    struct counting_cq *queue = (struct counting_cq *)qp->send_cq;
    for (; request; request = request->next) {
        if (full(queue)) {
            *bad = request;
            return ENOMEM;
        }
        note(pair, queue, request->wr_id, completed(request->opcode), total_length(request->sg_list, request->num_sge));
    }
    return 0;
}

static int counting_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *request, struct ibv_recv_wr **bad)
{
    struct counting_qp *pair = (struct counting_qp *)qp;
    struct counting_cq *queue = (struct counting_cq *)qp->recv_cq;
    for (; request; request = request->next) {
        if (full(queue)) {
            *bad = request;
            return ENOMEM;
        }
        note(pair, queue, request->wr_id, IBV_WC_RECV, total_length(request->sg_list, request->num_sge));
    }
    return 0;
}

static int counting_poll_cq(struct ibv_cq *cq, int count, struct ibv_wc *completion)
{
    struct counting_cq *queue = (struct counting_cq *)cq;
    int polled = 0;
    for (; polled < count && queue->consumed != queue->produced; polled++, completion++) {
        const struct entry *entry = &queue->entries[queue->consumed++ % counting_capacity];
        completion->wr_id = entry->wr_id;
        completion->status = IBV_WC_SUCCESS;
        completion->opcode = entry->opcode;
        completion->vendor_err = 0;
        completion->byte_len = entry->byte_len;
        completion->imm_data = 0;
        completion->qp_num = entry->qp_num;
        completion->src_qp = 0;
        completion->wc_flags = 0;
        completion->pkey_index = 0;
        completion->slid = 0;
        completion->sl = 0;
        completion->dlid_path_bits = 0;
    }
    return polled;
}

static int counting_req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
    (void)cq;
    (void)solicited_only;
    return 0;
}

struct ibv_context *counting_open(void)
{
    struct ibv_context *context = allocate(sizeof *context);
    context->ops.post_send = counting_post_send;
    context->ops.post_recv = counting_post_recv;
    context->ops.poll_cq = counting_poll_cq;
    context->ops.req_notify_cq = counting_req_notify_cq;
    context->cmd_fd = -1;
    context->async_fd = -1;
    context->num_comp_vectors = 1;
    return context;
}

void counting_close(struct ibv_context *context) { free(context); }

struct ibv_cq *counting_create_cq(struct ibv_context *context)
{
    struct counting_cq *queue = allocate(sizeof *queue);
    queue->cq.context = context;
    queue->cq.cqe = counting_capacity;
    return &queue->cq;
}

void counting_destroy_cq(struct ibv_cq *queue) { free(queue); }

struct ibv_qp *counting_create_qp(struct ibv_context *context, struct ibv_cq *send, struct ibv_cq *receive)
{
    static uint32_t number = 0x100;
    struct counting_qp *pair = allocate(sizeof *pair);
    pair->qp.context = context;
    pair->qp.send_cq = send;
    pair->qp.recv_cq = receive;
    pair->qp.qp_num = number++;
    pair->qp.state = IBV_QPS_RTS;
    pair->qp.qp_type = IBV_QPT_RC;
    return &pair->qp;
}

void counting_destroy_qp(struct ibv_qp *pair) { free(pair); }

struct counting_totals counting_totals(const struct ibv_qp *pair) { return ((const struct counting_qp *)pair)->totals; }
