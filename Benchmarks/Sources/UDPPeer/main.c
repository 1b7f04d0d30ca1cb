// SPDX-License-Identifier: Apache-2.0
//
// What two plain C processes move over UDP sockets of one host: the yardstick of the software device.
//
//   udp-peer sink                                   prints "port=N", serves one source, ends
//   udp-peer source PORT SEGMENT BURST SECONDS      prints "gigabytes_per_second=X"
//   udp-peer echo                                   prints "port=N", serves one ping, ends
//   udp-peer ping PORT SIZE ITERATIONS              prints "microseconds=X", half the round trip, median
//
// One way: the source sends bursts of equal segments (UDP_SEGMENT), the sink takes them joined (UDP_GRO) and returns
// how many bytes it has seen; at most `window` bytes are on their way. Nothing is retransmitted: a lost segment stalls
// the credit and ends the run with an error. Both ends of both modes spin, each wait bounded by `patience`.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { datagram_max = 65536, payload_max = 65507, segment_unit = 1024 };
enum { window = 1 << 20, credit_every = window / 8, buffer_bytes = 4 << 20 };

static const uint64_t patience = 5000000000, warm_up = 100000000;

// Data is a multiple of `segment_unit` long, a control datagram is not, nor is one that GRO joined to data.
struct control {
    uint32_t kind;
    uint32_t unused;
    uint64_t bytes;
};
enum { control_hello = 0x68656c6f, control_credit = 0x63726564, control_end = 0x656e6421 };

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "udp-peer: %s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int make_socket(void)
{
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0)
        fail("socket");
    int bytes = buffer_bytes;
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    return s;
}

static int serve(void)
{
    int s = make_socket();
    struct sockaddr_in a = loopback(0);
    socklen_t length = sizeof a;
    if (bind(s, (struct sockaddr *)&a, sizeof a) || getsockname(s, (struct sockaddr *)&a, &length))
        fail("bind");
    printf("port=%d\n", ntohs(a.sin_port));
    fflush(stdout);
    return s;
}

static int reach(uint16_t port)
{
    int s = make_socket();
    struct sockaddr_in a = loopback(port);
    if (connect(s, (struct sockaddr *)&a, sizeof a))
        fail("connect");
    return s;
}

// Spins for one datagram; the clock is read once in 256 turns.
static size_t take(int s, void *buffer, size_t size)
{
    uint64_t deadline = 0;
    for (unsigned turn = 1;; turn++) {
        ssize_t n = recv(s, buffer, size, MSG_DONTWAIT);
        if (n >= 0)
            return (size_t)n;
        if (errno != EAGAIN && errno != EINTR)
            fail("recv");
        if (turn % 256)
            continue;
        if (!deadline)
            deadline = now() + patience;
        else if (now() > deadline)
            fail("the peer is silent");
    }
}

static void give(int s, const void *buffer, size_t size)
{
    while (send(s, buffer, size, 0) < 0)
        if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
            fail("send");
}

// Waits for the peer's hello and makes it the peer of the socket.
static void greet(int s)
{
    struct control hello;
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    if (recvfrom(s, &hello, sizeof hello, 0, (struct sockaddr *)&peer, &length) != sizeof hello
        || hello.kind != control_hello)
        fail("hello");
    if (connect(s, (struct sockaddr *)&peer, sizeof peer))
        fail("connect");
    give(s, &hello, sizeof hello);
}

static void introduce(int s)
{
    struct control hello = {.kind = control_hello};
    give(s, &hello, sizeof hello);
    if (take(s, &hello, sizeof hello) != sizeof hello || hello.kind != control_hello)
        fail("hello");
}

static void sink(void)
{
    static char buffer[datagram_max];
    int s = serve(), on = 1;
    if (setsockopt(s, IPPROTO_UDP, UDP_GRO, &on, sizeof on))
        fail("UDP_GRO");
    greet(s);
    struct control credit = {.kind = control_credit};
    for (uint64_t told = 0;;) {
        size_t n = take(s, buffer, sizeof buffer);
        if (n % segment_unit) {
            give(s, &(struct control){.kind = control_end}, sizeof credit);
            return;
        }
        credit.bytes += n;
        if (credit.bytes - told >= credit_every) {
            give(s, &credit, sizeof credit);
            told = credit.bytes;
        }
    }
}

static uint64_t await_credit(int s, uint64_t at_least)
{
    struct control credit = {.bytes = 0};
    do {
        if (take(s, &credit, sizeof credit) != sizeof credit || credit.kind != control_credit)
            fail("credit");
    } while (credit.bytes < at_least);
    return credit.bytes;
}

static void source(uint16_t port, int segment, size_t burst, double seconds)
{
    char *message = calloc(1, datagram_max);
    if (!message || segment < segment_unit || segment % segment_unit || burst == 0 || burst % (size_t)segment
        || burst > payload_max)
        fail("arguments");
    int s = reach(port);
    introduce(s);
    if (setsockopt(s, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment))
        fail("UDP_SEGMENT");

    uint64_t sent = 0, credited = 0, credited_at_start = 0, start = now() + warm_up, end = 0;
    for (uint64_t round = 0;; round++) {
        while (sent + burst - credited > window)
            credited = await_credit(s, sent + burst - window);
        give(s, message, burst);
        sent += burst;
        if (round % 16)
            continue;
        uint64_t t = now();
        if (!end && t >= start) {
            start = t;
            credited_at_start = credited;
            end = t + (uint64_t)(seconds * 1e9);
        } else if (end && t >= end) {
            printf("gigabytes_per_second=%.4f\n", (double)(credited - credited_at_start) / (double)(t - start));
            break;
        }
    }
    segment = 0;
    setsockopt(s, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
    struct control last = {.kind = control_end};
    give(s, &last, sizeof last);
    do
        take(s, &last, sizeof last);
    while (last.kind != control_end);
    free(message);
}

static void echo(void)
{
    static char buffer[datagram_max];
    int s = serve();
    greet(s);
    for (;;) {
        size_t n = take(s, buffer, sizeof buffer);
        if (n == sizeof(struct control))
            return;
        give(s, buffer, n);
    }
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void ping(uint16_t port, size_t size, size_t iterations)
{
    static char buffer[datagram_max];
    uint64_t *samples = calloc(iterations, sizeof *samples);
    if (!samples || iterations == 0 || size > payload_max || size == sizeof(struct control))
        fail("arguments");
    int s = reach(port);
    introduce(s);
    const size_t warm = iterations / 10;
    for (size_t i = 0; i < warm + iterations; i++) {
        uint64_t start = now();
        give(s, buffer, size);
        if (take(s, buffer, sizeof buffer) != size)
            fail("size");
        if (i >= warm)
            samples[i - warm] = now() - start;
    }
    qsort(samples, iterations, sizeof *samples, ascending);
    printf("microseconds=%.3f\n", (double)samples[iterations / 2] / 2000);
    give(s, &(struct control){.kind = control_end}, sizeof(struct control));
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    errno = 0;
    if (argc == 2 && !strcmp(mode, "sink"))
        sink();
    else if (argc == 6 && !strcmp(mode, "source"))
        source((uint16_t)atoi(argv[2]), atoi(argv[3]), (size_t)atol(argv[4]), atof(argv[5]));
    else if (argc == 2 && !strcmp(mode, "echo"))
        echo();
    else if (argc == 5 && !strcmp(mode, "ping"))
        ping((uint16_t)atoi(argv[2]), (size_t)atol(argv[3]), (size_t)atol(argv[4]));
    else {
        fputs("usage: udp-peer sink | source PORT SEGMENT BURST SECONDS | echo | ping PORT SIZE ITERATIONS\n", stderr);
        return 2;
    }
    return 0;
}
