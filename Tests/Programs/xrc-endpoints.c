// SPDX-License-Identifier: Apache-2.0
//
// XRC by rdma_cma.h, in one process: endpoints and the states of their queue pairs, what librdmacm makes for a program and what a program
// makes itself, refusals. Arguments: an address of this machine, and a free port. Says what failed, and exits with 1 then.
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

#include "checks.h"

static char *node, *service;
static struct rdma_event_channel *active, *passive;

static struct rdma_addrinfo *resolve(int flags, enum rdma_port_space space, enum ibv_qp_type type) {
    struct rdma_addrinfo hints = {.ai_flags = flags | RAI_NUMERICHOST, .ai_port_space = space, .ai_qp_type = type}, *result;
    NEEDED(rdma_getaddrinfo(node, service, &hints, &result) == 0);
    CHECK(result->ai_port_space == (int)space && result->ai_qp_type == (int)type);
    return result;
}

static struct rdma_cm_id *waiting_endpoint(int flags, enum ibv_qp_type type, struct ibv_qp_init_attr *creation) {
    struct rdma_cm_id *identifier;
    struct rdma_addrinfo *address = resolve(flags, RDMA_PS_IB, type);
    NEEDED(rdma_create_ep(&identifier, address, NULL, creation) == 0);
    rdma_freeaddrinfo(address);
    CHECK(identifier->qp_type == type && identifier->ps == RDMA_PS_IB);
    return identifier;
}

// One whose calls do not wait: its events come by a channel.
static struct rdma_cm_id *endpoint(int flags, enum ibv_qp_type type, struct ibv_qp_init_attr *creation) {
    struct rdma_cm_id *identifier = waiting_endpoint(flags, type, creation);
    NEEDED(rdma_migrate_id(identifier, flags & RAI_PASSIVE ? passive : active) == 0);
    return identifier;
}

static struct rdma_cm_id *listen_for(enum ibv_qp_type type) {
    struct rdma_cm_id *listener = endpoint(RAI_PASSIVE, type, NULL);
    NEEDED(rdma_listen(listener, 4) == 0);
    return listener;
}

struct told {
    struct rdma_cm_id *identifier;
    struct rdma_conn_param connection;
    int status;
    // The first of its private data.
    uint32_t word;
};

// Waits for an event, which must be of this type.
static struct told next(struct rdma_event_channel *channel, enum rdma_cm_event_type type) {
    struct rdma_cm_event *event;
    struct pollfd entry = {.fd = channel->fd, .events = POLLIN};
    NEEDED(poll(&entry, 1, 20000) == 1 && rdma_get_cm_event(channel, &event) == 0);
    if (event->event != type) printf("%s came\n", rdma_event_str(event->event));
    CHECK(event->event == type);
    struct told result = {.identifier = event->id, .connection = event->param.conn, .status = event->status};
    if (event->param.conn.private_data_len >= sizeof result.word)
        memcpy(&result.word, event->param.conn.private_data, sizeof result.word);
    CHECK(rdma_ack_cm_event(event) == 0);
    return result;
}

static struct ibv_qp_attr state_of(struct ibv_qp *pair) {
    struct ibv_qp_attr attributes;
    struct ibv_qp_init_attr initial;
    NEEDED(ibv_query_qp(pair, &attributes, IBV_QP_STATE, &initial) == 0);
    return attributes;
}

// Each message is one number, sent inline.
static void send_number(struct ibv_qp *pair, uint32_t queue, uint32_t number) {
    struct ibv_sge element = {(uintptr_t)&number, sizeof number, 0};
    struct ibv_send_wr request = {
        .wr_id = number, .sg_list = &element, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_INLINE | IBV_SEND_SIGNALED,
        .qp_type.xrc.remote_srqn = queue}, *bad;
    NEEDED(ibv_post_send(pair, &request, &bad) == 0);
}

static enum ibv_wc_status completed(struct ibv_cq *queue, uint64_t id) {
    struct ibv_wc completion;
    int count;
    while ((count = ibv_poll_cq(queue, 1, &completion)) == 0) {}
    CHECK(count == 1 && completion.wr_id == id);
    return completion.status;
}

static struct ibv_qp_init_attr initiator_creation(void) {
    return (struct ibv_qp_init_attr){
        .cap = {.max_send_wr = 4, .max_send_sge = 1}, .qp_type = IBV_QPT_XRC_SEND, .sq_sig_all = 1};
}

static struct ibv_qp_init_attr target_creation(void) { return (struct ibv_qp_init_attr){.qp_type = IBV_QPT_XRC_RECV}; }

// What librdmacm makes for a program, whichever of target and shared receive queue is first.
static void made_by_library(bool queue_is_first) {
    struct rdma_cm_id *listener = listen_for(IBV_QPT_XRC_RECV);
    struct ibv_qp_init_attr creation = initiator_creation(), of_target = target_creation();
    struct rdma_cm_id *client = endpoint(0, IBV_QPT_XRC_SEND, &creation);
    CHECK(client->qp->qp_type == IBV_QPT_XRC_SEND && client->send_cq && !client->recv_cq);
    CHECK(rdma_connect(client, NULL) == 0);

    struct told told = next(passive, RDMA_CM_EVENT_CONNECT_REQUEST);
    struct rdma_cm_id *child = told.identifier;
    CHECK(child->qp_type == IBV_QPT_XRC_RECV && told.connection.qp_num == client->qp->qp_num);
    CHECK(told.connection.srq == 0 && told.connection.retry_count == 0 && told.connection.initiator_depth == 0);
    struct ibv_srq_init_attr of_queue = {.attr = {.max_wr = 4, .max_sge = 1}, .srq_context = child};
    if (!queue_is_first) NEEDED(rdma_create_qp(child, NULL, &of_target) == 0);
    NEEDED(rdma_create_srq(child, NULL, &of_queue) == 0);
    of_target.cap.max_recv_wr = 1;
    struct ibv_cq *queue = child->recv_cq;
    if (queue_is_first) NEEDED(rdma_create_qp(child, NULL, &of_target) == 0);
    CHECK(child->srq && queue && child->recv_cq == queue && child->recv_cq_channel && !child->send_cq);
    uint32_t number, received = 0;
    NEEDED(ibv_get_srq_num(child->srq, &number) == 0);
    struct ibv_mr *region = rdma_reg_msgs(child, &received, sizeof received);
    NEEDED(region && rdma_post_recv(child, (void *)88, &received, sizeof received, region) == 0);
    struct rdma_conn_param parameters = {.private_data = &number, .private_data_len = sizeof number, .rnr_retry_count = 3};
    CHECK(rdma_accept(child, &parameters) == 0);
    struct ibv_qp_attr attributes = state_of(child->qp);
    CHECK(attributes.qp_state == IBV_QPS_RTS && attributes.dest_qp_num == client->qp->qp_num);

    told = next(active, RDMA_CM_EVENT_ESTABLISHED);
    CHECK(told.identifier == client && told.connection.qp_num == child->qp->qp_num && told.connection.srq == 1 && told.word == number);
    attributes = state_of(client->qp);
    CHECK(attributes.qp_state == IBV_QPS_RTS && attributes.dest_qp_num == child->qp->qp_num);
    CHECK(attributes.retry_cnt == 7 && attributes.rnr_retry == 3);
    CHECK(next(passive, RDMA_CM_EVENT_ESTABLISHED).identifier == child);

    struct ibv_wc completion;
    send_number(client->qp, number, 4711);
    CHECK(rdma_get_send_comp(client, &completion) == 1 && completion.status == IBV_WC_SUCCESS && completion.wr_id == 4711);
    CHECK(rdma_get_recv_comp(child, &completion) == 1 && completion.status == IBV_WC_SUCCESS && completion.wr_id == 88);
    CHECK(completion.qp_num == child->qp->qp_num && received == 4711);

    // A server without such a queue.
    send_number(client->qp, number ^ 0x1000, 4712);
    CHECK(completed(client->send_cq, 4712) == IBV_WC_REM_ACCESS_ERR);
    struct ibv_async_event event;
    CHECK(ibv_get_async_event(child->verbs, &event) == 0 && event.event_type == IBV_EVENT_QP_ACCESS_ERR && event.element.qp == child->qp);
    ibv_ack_async_event(&event);

    CHECK(rdma_disconnect(client) == 0);
    CHECK(next(passive, RDMA_CM_EVENT_DISCONNECTED).identifier == child && next(active, RDMA_CM_EVENT_DISCONNECTED).identifier == client);
    CHECK(rdma_dereg_mr(region) == 0);
    rdma_destroy_ep(client);
    rdma_destroy_ep(child);
    rdma_destroy_ep(listener);
}

// Brings a queue pair to RTS by what the connection manager says, which is no more than the kernel's says of such a queue pair.
static void make_ready(struct rdma_cm_id *identifier, struct ibv_qp *pair, int receiving, int sending) {
    int masks[] = {IBV_QP_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX | IBV_QP_PORT, receiving, sending};
    enum ibv_qp_state states[] = {IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS};
    for (int index = 0; index < 3; index++) {
        struct ibv_qp_attr attributes = {.qp_state = states[index]};
        int mask;
        CHECK(rdma_init_qp_attr(identifier, &attributes, &mask) == 0 && mask == masks[index]);
        CHECK(ibv_modify_qp(pair, &attributes, mask) == 0);
    }
}

enum {
    RECEIVING = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN,
    SENDING = IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT,
};

// Queue pairs of the program's own, whose numbers it gives.
static void made_by_program(void) {
    struct rdma_cm_id *listener = listen_for(IBV_QPT_XRC_RECV), *client = endpoint(0, IBV_QPT_XRC_SEND, NULL);
    struct ibv_cq *sends = ibv_create_cq(client->verbs, 8, NULL, NULL, 0), *receives = ibv_create_cq(client->verbs, 8, NULL, NULL, 0);
    struct ibv_xrcd_init_attr of_domain = {
        .comp_mask = IBV_XRCD_INIT_ATTR_FD | IBV_XRCD_INIT_ATTR_OFLAGS, .fd = -1, .oflags = O_CREAT};
    struct ibv_xrcd *domain = ibv_open_xrcd(client->verbs, &of_domain);
    NEEDED(sends && receives && domain);
    struct ibv_qp_init_attr_ex making = {.qp_type = IBV_QPT_XRC_RECV, .comp_mask = IBV_QP_INIT_ATTR_XRCD, .xrcd = domain};
    struct ibv_qp *target = ibv_create_qp_ex(client->verbs, &making);
    struct ibv_qp_init_attr creation = initiator_creation();
    creation.send_cq = sends;
    struct ibv_qp *initiator = ibv_create_qp(client->pd, &creation);
    NEEDED(target && initiator);

    struct rdma_conn_param parameters = {
        .qp_num = initiator->qp_num, .srq = 1, .retry_count = 6, .rnr_retry_count = 2, .initiator_depth = 3, .responder_resources = 5};
    CHECK(rdma_connect(client, &parameters) == 0);
    struct told told = next(passive, RDMA_CM_EVENT_CONNECT_REQUEST);
    struct rdma_cm_id *child = told.identifier;
    CHECK(told.connection.qp_num == initiator->qp_num && told.connection.srq == 0);
    CHECK(told.connection.responder_resources == 3 && told.connection.initiator_depth == 0);
    make_ready(child, target, RECEIVING | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER, SENDING);
    struct ibv_srq_init_attr_ex of_queue = {
        .attr = {.max_wr = 4, .max_sge = 1}, .comp_mask = IBV_SRQ_INIT_ATTR_TYPE | IBV_SRQ_INIT_ATTR_XRCD | IBV_SRQ_INIT_ATTR_CQ,
        .srq_type = IBV_SRQT_XRC, .xrcd = domain, .cq = receives};
    NEEDED(rdma_create_srq_ex(child, &of_queue) == 0);
    struct ibv_srq *queue = child->srq;
    uint32_t number, received = 0;
    NEEDED(ibv_get_srq_num(queue, &number) == 0);
    struct ibv_mr *region = rdma_reg_msgs(child, &received, sizeof received);
    NEEDED(region);
    parameters = (struct rdma_conn_param){.qp_num = target->qp_num, .rnr_retry_count = 4, .responder_resources = 3};
    CHECK(rdma_accept(child, &parameters) == 0);
    told = next(active, RDMA_CM_EVENT_CONNECT_RESPONSE);
    CHECK(told.connection.qp_num == target->qp_num && told.connection.srq == 1);
    make_ready(client, initiator, RECEIVING, SENDING | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);
    struct ibv_qp_attr attributes = state_of(initiator);
    CHECK(attributes.dest_qp_num == target->qp_num && attributes.retry_cnt == 6 && attributes.rnr_retry == 4 && attributes.max_rd_atomic == 3);
    CHECK(rdma_establish(client) == 0);
    CHECK(next(passive, RDMA_CM_EVENT_ESTABLISHED).identifier == child);

    // The target outlives the end that made its connection, and so does the connection: others may have handles of it.
    for (uint32_t round = 1; round <= 2; round++) {
        struct ibv_sge element = {(uintptr_t)&received, sizeof received, region->lkey};
        struct ibv_recv_wr receive = {.wr_id = 100 + round, .sg_list = &element, .num_sge = 1}, *bad;
        CHECK(ibv_post_srq_recv(queue, &receive, &bad) == 0);
        send_number(initiator, number, round);
        CHECK(completed(sends, round) == IBV_WC_SUCCESS && completed(receives, 100 + round) == IBV_WC_SUCCESS && received == round);
        if (round == 1) CHECK(rdma_destroy_id(child) == 0);
    }
    CHECK(rdma_disconnect(client) == 0);
    CHECK(next(active, RDMA_CM_EVENT_DISCONNECTED).identifier == client);
    CHECK(ibv_destroy_qp(initiator) == 0 && ibv_destroy_qp(target) == 0 && ibv_destroy_srq(queue) == 0);
    CHECK(ibv_destroy_cq(sends) == 0 && ibv_destroy_cq(receives) == 0 && ibv_close_xrcd(domain) == 0 && rdma_dereg_mr(region) == 0);
    rdma_destroy_ep(client);
    rdma_destroy_ep(listener);
}

// Who listens for one transport refuses the other (28, consumer), and the queue pair is in ERR.
static void another_transport(enum ibv_qp_type listened, enum ibv_qp_type asked) {
    struct rdma_cm_id *listener = listen_for(listened);
    struct ibv_qp_init_attr creation = initiator_creation();
    creation.cap.max_recv_wr = creation.cap.max_recv_sge = 1;
    struct rdma_cm_id *client = endpoint(0, asked, &creation);
    CHECK(rdma_connect(client, NULL) == 0);
    CHECK(next(active, RDMA_CM_EVENT_REJECTED).status == 28 && state_of(client->qp).qp_state == IBV_QPS_ERR);
    rdma_destroy_ep(client);
    rdma_destroy_ep(listener);
}

static void refusals(void) {
    another_transport(IBV_QPT_XRC_RECV, IBV_QPT_RC);
    another_transport(IBV_QPT_RC, IBV_QPT_XRC_SEND);

    // By the server, with its reason.
    struct rdma_cm_id *listener = listen_for(IBV_QPT_XRC_RECV);
    struct ibv_qp_init_attr creation = initiator_creation();
    struct rdma_cm_id *client = endpoint(0, IBV_QPT_XRC_SEND, &creation);
    uint32_t why = 99;
    CHECK(rdma_connect(client, NULL) == 0);
    struct rdma_cm_id *child = next(passive, RDMA_CM_EVENT_CONNECT_REQUEST).identifier;
    CHECK(rdma_reject(child, &why, sizeof why) == 0 && rdma_destroy_id(child) == 0);
    struct told told = next(active, RDMA_CM_EVENT_REJECTED);
    CHECK(told.status == 28 && told.word == why);
    rdma_destroy_ep(client);

    // An end that cannot do what it is told to.
    struct ibv_qp_init_attr of_target = target_creation();
    client = endpoint(0, IBV_QPT_XRC_RECV, &of_target);
    CHECK(rdma_connect(client, NULL) == -1 && errno == EINVAL);
    rdma_destroy_ep(client);
    rdma_destroy_ep(listener);
    listener = waiting_endpoint(RAI_PASSIVE, IBV_QPT_XRC_SEND, NULL);
    CHECK(rdma_listen(listener, 4) == -1 && errno == EINVAL);
    rdma_destroy_ep(listener);
    struct {
        enum rdma_port_space space;
        enum ibv_qp_type type;
    } others[] = {{RDMA_PS_TCP, IBV_QPT_XRC_SEND}, {RDMA_PS_IB, IBV_QPT_UC}, {RDMA_PS_IB, IBV_QPT_UD}};
    for (int index = 0; index < 3; index++) {
        struct rdma_addrinfo *address = resolve(0, others[index].space, others[index].type);
        CHECK(rdma_create_ep(&client, address, NULL, NULL) == -1 && errno == EPROTONOSUPPORT);
        rdma_freeaddrinfo(address);
    }

    // Nobody listens.
    client = waiting_endpoint(0, IBV_QPT_XRC_SEND, &creation);
    CHECK(rdma_connect(client, NULL) == -1 && errno == ECONNREFUSED);
    CHECK(client->event && client->event->event == RDMA_CM_EVENT_REJECTED && client->event->status == 8);
    rdma_destroy_ep(client);
}

int main(int count, char **arguments) {
    NEEDED(count == 3);
    node = arguments[1];
    service = arguments[2];
    NEEDED((active = rdma_create_event_channel()) && (passive = rdma_create_event_channel()));
    made_by_library(false);
    made_by_library(true);
    made_by_program();
    refusals();
    rdma_destroy_event_channel(active);
    rdma_destroy_event_channel(passive);
    printf("%d failures\n", failures);
    return failures > 0;
}
