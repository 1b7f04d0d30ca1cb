// SPDX-License-Identifier: Apache-2.0
//
// A verbs provider in one process that only counts: a post walks its list and notes each request, a poll reports them
// as completed. It stands where a driver such as mlx5 would, behind `context->ops`, so what a program spends to reach
// it is what the program would spend to reach a device.
//
// Every function's name begins with `counting_`: the instruction counts are split by that prefix.
#pragma once

#include <infiniband/verbs.h>

/// Requests that a completion queue can hold before a post is refused with ENOMEM. A power of two.
enum { counting_capacity = 256 };

/// A context whose `ops` are the counting ones. Never NULL: running out of memory ends the program.
struct ibv_context *counting_open(void);
void counting_close(struct ibv_context *context);

struct ibv_cq *counting_create_cq(struct ibv_context *context);
void counting_destroy_cq(struct ibv_cq *queue);

/// A queue pair in RTS: it needs no peer.
struct ibv_qp *counting_create_qp(struct ibv_context *context, struct ibv_cq *send, struct ibv_cq *receive);
void counting_destroy_qp(struct ibv_qp *pair);

/// What was posted to a queue pair up to now; a benchmark checks it, so that no loop is optimised away.
struct counting_totals {
    uint64_t requests;
    uint64_t bytes;
};
struct counting_totals counting_totals(const struct ibv_qp *pair);
