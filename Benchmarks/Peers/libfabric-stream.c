// SPDX-License-Identifier: Apache-2.0
//
// One-way messages over a libfabric provider with many in flight: Debian ships only libfabric's ping-pong, which keeps
// one message in flight and would flatter us.
//
//   libfabric-stream PROVIDER SIZE MESSAGES PORT           the sink; prints "port=PORT" when it can be reached
//   libfabric-stream PROVIDER SIZE MESSAGES PORT source    prints "gigabytes_per_second=X"
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_tagged.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { in_flight = 64, tag_greeting = 1, tag_data = 2, tag_end = 3, name_max = 256 };

struct endpoint {
    struct fid_ep *ep;
    struct fid_av *av;
    struct fid_cq *cq;
    char *memory;
    struct fi_context contexts[in_flight + 1];
};

static void check(const char *what, long result)
{
    if (result < 0) {
        fprintf(stderr, "libfabric-stream: %s: %s\n", what, fi_strerror((int)-result));
        exit(1);
    }
}

static struct fi_info *discover(const char *provider, const char *port, int is_sink)
{
    struct fi_info *hints = fi_allocinfo(), *found = NULL;
    if (!hints)
        check("fi_allocinfo", -FI_ENOMEM);
    hints->ep_attr->type = FI_EP_RDM;
    hints->caps = FI_TAGGED;
    hints->mode = FI_CONTEXT;
    hints->fabric_attr->prov_name = strdup(provider);
    check("fi_getinfo", fi_getinfo(FI_VERSION(1, 17), "127.0.0.1", port, is_sink ? FI_SOURCE : 0, hints, &found));
    fi_freeinfo(hints);
    return found;
}

static void open_endpoint(struct endpoint *e, struct fi_info *info, size_t bytes)
{
    struct fid_fabric *fabric;
    struct fid_domain *domain;
    struct fi_cq_attr cq = {.format = FI_CQ_FORMAT_CONTEXT, .size = 4 * in_flight};
    struct fi_av_attr av = {.type = FI_AV_TABLE, .count = 2};
    check("fi_fabric", fi_fabric(info->fabric_attr, &fabric, NULL));
    check("fi_domain", fi_domain(fabric, info, &domain, NULL));
    check("fi_endpoint", fi_endpoint(domain, info, &e->ep, NULL));
    check("fi_cq_open", fi_cq_open(domain, &cq, &e->cq, NULL));
    check("fi_av_open", fi_av_open(domain, &av, &e->av, NULL));
    check("bind cq", fi_ep_bind(e->ep, &e->cq->fid, FI_TRANSMIT | FI_RECV));
    check("bind av", fi_ep_bind(e->ep, &e->av->fid, 0));
    check("fi_enable", fi_enable(e->ep));
    e->memory = calloc(1, bytes);
    if (!e->memory)
        check("calloc", -FI_ENOMEM);
}

// Waits for one completion and returns which context has completed.
static struct fi_context *reap(struct endpoint *e)
{
    struct fi_cq_entry entry;
    for (;;) {
        ssize_t n = fi_cq_read(e->cq, &entry, 1);
        if (n == 1)
            return entry.op_context;
        if (n != -FI_EAGAIN)
            check("fi_cq_read", n);
    }
}

static void receive(struct endpoint *e, size_t size, uint64_t tag, struct fi_context *context)
{
    ssize_t result;
    while ((result = fi_trecv(e->ep, e->memory, size, NULL, FI_ADDR_UNSPEC, tag, 0, context)) == -FI_EAGAIN)
        fi_cq_read(e->cq, NULL, 0);
    check("fi_trecv", result);
}

static void transmit(struct endpoint *e, fi_addr_t to, size_t size, uint64_t tag, struct fi_context *context)
{
    ssize_t result;
    while ((result = fi_tsend(e->ep, e->memory, size, NULL, to, tag, context)) == -FI_EAGAIN)
        fi_cq_read(e->cq, NULL, 0);
    check("fi_tsend", result);
}

static fi_addr_t insert(struct endpoint *e, const void *name)
{
    fi_addr_t address;
    if (fi_av_insert(e->av, name, 1, &address, 0, NULL) != 1)
        check("fi_av_insert", -FI_EINVAL);
    return address;
}

static void sink(struct endpoint *e, size_t size, uint64_t messages, const char *port)
{
    receive(e, name_max, tag_greeting, &e->contexts[in_flight]);
    printf("port=%s\n", port);
    fflush(stdout);
    reap(e);
    fi_addr_t source = insert(e, e->memory);
    for (uint64_t i = 0; i < in_flight; i++)
        receive(e, size, tag_data, &e->contexts[i]);
    transmit(e, source, 1, tag_greeting, &e->contexts[in_flight]);
    for (uint64_t done = 0, posted = in_flight; done < messages;) {
        struct fi_context *finished = reap(e);
        if (finished == &e->contexts[in_flight])
            continue;
        if (posted++ < messages)
            receive(e, size, tag_data, finished);
        done++;
    }
    transmit(e, source, 1, tag_end, &e->contexts[in_flight]);
    reap(e);
    usleep(100000); // answers what the source may still repeat
    fi_cq_read(e->cq, NULL, 0);
}

static void source(struct endpoint *e, size_t size, uint64_t messages, const void *peer)
{
    fi_addr_t to = insert(e, peer);
    size_t length = name_max;
    check("fi_getname", fi_getname(&e->ep->fid, e->memory, &length));
    struct fi_context answer;
    receive(e, 1, tag_greeting, &answer);
    transmit(e, to, name_max, tag_greeting, &e->contexts[0]);
    reap(e);
    reap(e);

    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    receive(e, 1, tag_end, &answer);
    uint64_t posted = 0;
    for (; posted < in_flight; posted++)
        transmit(e, to, size, tag_data, &e->contexts[posted]);
    for (;;) {
        struct fi_context *finished = reap(e);
        if (finished == &answer)
            break;
        if (posted < messages) {
            posted++;
            transmit(e, to, size, tag_data, finished);
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double nanoseconds = (double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec);
    printf("gigabytes_per_second=%.4f\n", (double)(size * messages) / nanoseconds);
}

int main(int argc, char **argv)
{
    if (argc < 5 || atoll(argv[3]) < in_flight) {
        fputs("usage: libfabric-stream PROVIDER SIZE MESSAGES(>= 64) PORT [source]\n", stderr);
        return 2;
    }
    size_t size = (size_t)atoll(argv[2]);
    uint64_t messages = (uint64_t)atoll(argv[3]);
    int is_sink = argc == 5;
    struct fi_info *info = discover(argv[1], argv[4], is_sink);
    struct endpoint e = {.ep = NULL};
    open_endpoint(&e, info, size > name_max ? size : name_max);
    if (is_sink)
        sink(&e, size, messages, argv[4]);
    else
        source(&e, size, messages, info->dest_addr);
    return 0;
}
