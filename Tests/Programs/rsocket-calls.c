// SPDX-License-Identifier: Apache-2.0
//
// What the functions of rdma/rsocket.h promise, in one process: it listens, and connects to itself. Argument: a free port. Says what
// failed, and exits with 1 then.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <rdma/rsocket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int failures;

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        errno = 0;                                                                        \
        if (!(condition)) {                                                               \
            failures++;                                                                   \
            printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno);              \
        }                                                                                 \
    } while (0)
#define FAILS(call, code) CHECK((call) == -1 && errno == (code))

static struct sockaddr_in address;
static struct sockaddr *const where = (struct sockaddr *)&address;
static int listener;

static short ready(int socket, short events, int milliseconds) {
    struct pollfd entry = {.fd = socket, .events = events};
    int count = rpoll(&entry, 1, milliseconds);
    return count == 1 ? entry.revents : (short)(count == 0 ? 0 : -1);
}

// Two ends of a connection. The client is connected before anybody accepts.
static void connect_pair(int *client, int *server) {
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    *client = rsocket(AF_INET, SOCK_STREAM, 0);
    CHECK(rconnect(*client, where, sizeof address) == 0);
    CHECK(ready(listener, POLLIN, 5000) == POLLIN);
    *server = raccept(listener, (struct sockaddr *)&peer, &size);
    CHECK(*server >= 0);
    CHECK(size == sizeof peer && peer.sin_family == AF_INET && ntohl(peer.sin_addr.s_addr) == INADDR_LOOPBACK);
    size = sizeof peer;
    CHECK(rgetpeername(*client, (struct sockaddr *)&peer, &size) == 0 && peer.sin_port == address.sin_port);
}

static void refusals(void) {
    struct sockaddr_in nobody = address;
    int error, socket = rsocket(AF_INET, SOCK_STREAM, 0);
    socklen_t size = sizeof error;
    nobody.sin_port = htons(1);
    FAILS(rsocket(AF_INET, SOCK_DGRAM, 0), ENOTSUP);
    FAILS(rsocket(AF_UNIX, SOCK_STREAM, 0), ENOTSUP);
    FAILS(rconnect(socket, (struct sockaddr *)&nobody, sizeof nobody), ECONNREFUSED);
    CHECK(rclose(socket) == 0);
    FAILS(rclose(socket), EBADF);
    FAILS(rrecv(socket, &error, 1, 0), EBADF);

    socket = rsocket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    FAILS(rsend(socket, "x", 1, 0), ENOTCONN);
    // The answer may be there before the call returns.
    CHECK(rconnect(socket, (struct sockaddr *)&nobody, sizeof nobody) == -1 && (errno == EINPROGRESS || errno == ECONNREFUSED));
    if (errno == EINPROGRESS) {
        CHECK(ready(socket, POLLOUT, 5000) & POLLERR);
        CHECK(rgetsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == ECONNREFUSED);
    }
    CHECK(rclose(socket) == 0);

    socket = rsocket(AF_INET, SOCK_STREAM, 0);
    FAILS(rbind(socket, where, sizeof address), EADDRINUSE);
    CHECK(rclose(socket) == 0);
}

static void reading(void) {
    char bytes[16] = "";
    int client, server, flags;
    struct iovec pieces[2] = {{"ab", 2}, {"cdef", 4}}, room[2] = {{bytes, 3}, {bytes + 3, 13}};
    connect_pair(&client, &server);
    FAILS(rrecv(server, bytes, 1, MSG_DONTWAIT), EAGAIN);
    CHECK(ready(server, POLLIN, 0) == 0);
    CHECK(ready(server, POLLIN | POLLOUT, 0) == POLLOUT);
    CHECK(rwritev(client, pieces, 2) == 6);
    CHECK(ready(server, POLLIN, 5000) == POLLIN);
    CHECK(rrecv(server, bytes, 2, MSG_PEEK) == 2 && memcmp(bytes, "ab", 2) == 0);
    CHECK(rrecv(server, bytes, 6, MSG_WAITALL) == 6 && memcmp(bytes, "abcdef", 6) == 0);
    CHECK(rsend(client, "0123456789", 10, 0) == 10);
    CHECK(ready(server, POLLIN, 5000) == POLLIN);
    CHECK(rreadv(server, room, 2) == 10 && memcmp(bytes, "0123456789", 10) == 0);
    CHECK((flags = rfcntl(server, F_GETFL)) >= 0 && rfcntl(server, F_SETFL, flags | O_NONBLOCK) == 0);
    FAILS(rread(server, bytes, 1), EAGAIN);

    // One end is half closed: it can still read.
    CHECK(rwrite(client, "last", 4) == 4 && rshutdown(client, SHUT_WR) == 0);
    FAILS(rwrite(client, "x", 1), EPIPE);
    CHECK(rfcntl(server, F_SETFL, flags) == 0);
    CHECK(rrecv(server, bytes, 16, MSG_WAITALL) == 4 && rread(server, bytes, 16) == 0 && rread(server, bytes, 16) == 0);
    CHECK(ready(server, POLLIN | POLLRDHUP, 0) == (POLLIN | POLLRDHUP));
    CHECK(rwrite(server, "answer", 6) == 6 && rrecv(client, bytes, 6, MSG_WAITALL) == 6);
    CHECK(rclose(server) == 0);
    CHECK(rread(client, bytes, 1) == 0);
    CHECK(rclose(client) == 0);

    // The peer ended altogether.
    connect_pair(&client, &server);
    CHECK(rclose(server) == 0);
    CHECK(ready(client, POLLIN, 5000) & POLLHUP);
    FAILS(rwrite(client, "x", 1), ECONNRESET);
    CHECK(rclose(client) == 0);
}

// A sender without a reader fills what there is and gets no further.
static void filling(void) {
    static char chunk[10000], copy[10000];
    int client, server, size = 8192;
    long sent = 0, received = 0, done;
    connect_pair(&client, &server);
    CHECK(rsetsockopt(client, IPPROTO_TCP, TCP_NODELAY, &size, sizeof size) == 0);
    for (int index = 0; index < (int)sizeof chunk; index++) chunk[index] = (char)(index * 7);
    do {
        // Partial sends: the next goes on where the one before ended.
        done = rsend(client, chunk + sent % (long)sizeof chunk, sizeof chunk - sent % sizeof chunk, MSG_DONTWAIT);
        if (done > 0) sent += done;
    } while (done > 0 && sent < 100000000);
    CHECK(done == -1 && sent >= 65536 && sent < 10000000);
    CHECK(ready(client, POLLOUT, 0) == 0);
    while (received < sent) {
        done = rrecv(server, copy, sizeof chunk - received % sizeof chunk, 0);
        if (done <= 0 || memcmp(copy, chunk + received % (long)sizeof chunk, done) != 0) break;
        received += done;
    }
    CHECK(received == sent);
    CHECK(ready(client, POLLOUT, 5000) == POLLOUT);
    CHECK(rclose(client) == 0 && rclose(server) == 0);
}

static void *write_late(void *pointer) {
    int *descriptors = pointer;
    usleep(100000);
    if (descriptors[1] < 0) rwrite(descriptors[0], "r", 1);
    else if (write(descriptors[1], "p", 1) != 1) failures++;
    return NULL;
}

// rsockets and a pipe in one call, each of which wakes it.
static void mixing(void) {
    int client, server, ends[2];
    char byte;
    fd_set set;
    pthread_t thread;
    connect_pair(&client, &server);
    CHECK(pipe(ends) == 0);
    struct pollfd entries[3] = {{.fd = server, .events = POLLIN}, {.fd = ends[0], .events = POLLIN}, {.fd = -1}};
    CHECK(rpoll(entries, 3, 50) == 0);
    pthread_create(&thread, NULL, write_late, (int[2]){client, ends[1]});
    CHECK(rpoll(entries, 3, 5000) == 1 && entries[1].revents == POLLIN && entries[0].revents == 0);
    pthread_join(thread, NULL);
    CHECK(read(ends[0], &byte, 1) == 1);
    pthread_create(&thread, NULL, write_late, (int[2]){client, -1});
    CHECK(rpoll(entries, 3, 5000) == 1 && entries[0].revents == POLLIN && entries[1].revents == 0);
    pthread_join(thread, NULL);
    FD_ZERO(&set);
    FD_SET(server, &set);
    FD_SET(ends[0], &set);
    struct timeval second = {.tv_sec = 1};
    CHECK(rselect((server > ends[0] ? server : ends[0]) + 1, &set, NULL, NULL, &second) == 1);
    CHECK(FD_ISSET(server, &set) && !FD_ISSET(ends[0], &set));
    CHECK(rread(server, &byte, 1) == 1 && byte == 'r');
    close(ends[0]);
    close(ends[1]);
    CHECK(rclose(client) == 0 && rclose(server) == 0);
}

struct transfer {
    int socket;
    long count;
    int isWrong;
};

static char byte_at(long place) { return (char)(place * 31 >> 3); }

static void *send_all(void *pointer) {
    struct transfer *transfer = pointer;
    char chunk[70000];
    for (long done = 0, count; done < transfer->count; done += count) {
        long rest = transfer->count - done;
        for (int index = 0; index < (int)sizeof chunk; index++) chunk[index] = byte_at(done + index);
        count = rsend(transfer->socket, chunk, rest < (long)sizeof chunk ? rest : (long)sizeof chunk, 0);
        if (count <= 0) return transfer->isWrong = 1, NULL;
    }
    return NULL;
}

static void *receive_all(void *pointer) {
    struct transfer *transfer = pointer;
    char chunk[30011];
    for (long done = 0, count; done < transfer->count; done += count) {
        count = rrecv(transfer->socket, chunk, sizeof chunk, 0);
        if (count <= 0) return transfer->isWrong = 1, NULL;
        for (long index = 0; index < count; index++)
            if (chunk[index] != byte_at(done + index)) transfer->isWrong = 1;
    }
    return NULL;
}

// Both directions at once, each end with a thread that sends and one that receives.
static void crossing(void) {
    int client, server;
    pthread_t threads[3];
    connect_pair(&client, &server);
    struct transfer out[2] = {{client, 20000000, 0}, {server, 20000000, 0}}, in[2] = {{client, 20000000, 0}, {server, 20000000, 0}};
    pthread_create(&threads[0], NULL, send_all, &out[0]);
    pthread_create(&threads[1], NULL, send_all, &out[1]);
    pthread_create(&threads[2], NULL, receive_all, &in[0]);
    receive_all(&in[1]);
    for (int index = 0; index < 3; index++) pthread_join(threads[index], NULL);
    CHECK(rclose(client) == 0 && rclose(server) == 0);
    CHECK(!out[0].isWrong && !out[1].isWrong && !in[0].isWrong && !in[1].isWrong);
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)atoi(arguments[1]));
    listener = rsocket(AF_INET, SOCK_STREAM, 0);
    CHECK(rbind(listener, where, sizeof address) == 0 && rlisten(listener, 4) == 0);
    FAILS(raccept(rsocket(AF_INET, SOCK_STREAM, 0), NULL, NULL), EINVAL);
    refusals();
    reading();
    filling();
    mixing();
    crossing();
    CHECK(rclose(listener) == 0);
    printf("%d failures\n", failures);
    return failures != 0;
}
