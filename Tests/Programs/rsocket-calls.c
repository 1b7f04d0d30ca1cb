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

#include "checks.h"
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
    FAILS(rsocket(AF_INET, SOCK_RAW, 0), ENOTSUP);
    FAILS(rsocket(AF_INET, SOCK_DGRAM, IPPROTO_TCP), ENOTSUP);
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
    FAILS(rwritev(client, pieces, -1), EINVAL);
    FAILS(rreadv(server, room, -1), EINVAL);
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

static struct sockaddr_in name_of(int socket) {
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    CHECK(rgetsockname(socket, (struct sockaddr *)&name, &size) == 0 && size == sizeof name && name.sin_family == AF_INET);
    return name;
}

// A datagram that a socket has to get in time, from where it came.
static ssize_t next_datagram(int socket, char *bytes, size_t room, int flags, struct sockaddr_in *from) {
    socklen_t size = sizeof *from;
    if (ready(socket, POLLIN, 5000) != POLLIN) return -2;
    memset(bytes, 0, room);
    return rrecvfrom(socket, bytes, room, flags | MSG_DONTWAIT, (struct sockaddr *)from, &size);
}

static void datagrams(void) {
    char bytes[4096], data[4096];
    int one = rsocket(AF_INET, SOCK_DGRAM, 0), two = rsocket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, IPPROTO_UDP), type;
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, first, second, from;
    socklen_t size = sizeof type;
    for (size_t index = 0; index < sizeof data; index++) data[index] = (char)(index * 11 + 1);
    CHECK(rgetsockopt(one, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_DGRAM);
    CHECK(rbind(one, (struct sockaddr *)&local, sizeof local) == 0 && rbind(two, (struct sockaddr *)&local, sizeof local) == 0);
    FAILS(rlisten(one, 1), EOPNOTSUPP);
    FAILS(raccept(one, NULL, NULL), EOPNOTSUPP);
    FAILS(rsend(one, "x", 1, 0), EDESTADDRREQ);
    FAILS(rrecv(two, bytes, 1, 0), EAGAIN);
    FAILS(rrecv(one, bytes, 1, MSG_DONTWAIT), EAGAIN);
    first = name_of(one);
    second = name_of(two);
    CHECK(first.sin_port != 0 && second.sin_port != 0 && first.sin_port != second.sin_port);
    CHECK(ready(one, POLLIN | POLLOUT, 0) == POLLOUT);

    // Back and forth: the first ones by UDP, the others not. Each way, with each length, none of them and some.
    for (int round = 0; round < 300; round++) {
        size_t length = round % 3 == 0 ? (size_t)round : round % 3 == 1 ? 0 : 1900;
        CHECK(rsendto(one, data, length, 0, (struct sockaddr *)&second, sizeof second) == (ssize_t)length);
        CHECK(next_datagram(two, bytes, sizeof bytes, 0, &from) == (ssize_t)length && memcmp(bytes, data, length) == 0);
        CHECK(from.sin_family == AF_INET && from.sin_port == first.sin_port && from.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
        CHECK(rsendto(two, data + 1, length / 2, 0, (struct sockaddr *)&from, sizeof from) == (ssize_t)length / 2);
        CHECK(next_datagram(one, bytes, sizeof bytes, 0, &from) == (ssize_t)length / 2 && memcmp(bytes, data + 1, length / 2) == 0);
        CHECK(from.sin_port == second.sin_port);
    }
    FAILS(rsendto(one, data, 4000, 0, (struct sockaddr *)&second, sizeof second), EMSGSIZE);
    FAILS(rrecv(two, bytes, 1, 0), EAGAIN);

    // Many at once keep their bounds, and their order.
    for (int index = 0; index < 20; index++) CHECK(rsendto(one, data + index, 40, 0, (struct sockaddr *)&second, sizeof second) == 40);
    for (int index = 0; index < 20; index++) CHECK(next_datagram(two, bytes, sizeof bytes, 0, &from) == 40 && memcmp(bytes, data + index, 40) == 0);

    // Looked at; too long for the room; in pieces.
    CHECK(rsendto(one, data, 100, 0, (struct sockaddr *)&second, sizeof second) == 100);
    CHECK(next_datagram(two, bytes, 10, MSG_PEEK, &from) == 10 && memcmp(bytes, data, 10) == 0);
    CHECK(next_datagram(two, bytes, 10, MSG_PEEK | MSG_TRUNC, &from) == 100);
    struct iovec room[2] = {{bytes, 30}, {bytes + 100, 40}}, pieces[3] = {{data, 5}, {NULL, 0}, {data + 50, 20}};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = room, .msg_iovlen = 2};
    CHECK(rrecvmsg(two, &message, 0) == 70 && message.msg_flags == MSG_TRUNC && message.msg_namelen == sizeof from);
    CHECK(memcmp(bytes, data, 30) == 0 && memcmp(bytes + 100, data + 30, 40) == 0);
    message = (struct msghdr){.msg_name = &second, .msg_namelen = sizeof second, .msg_iov = pieces, .msg_iovlen = 3};
    CHECK(rsendmsg(one, &message, 0) == 25);
    CHECK(ready(two, POLLIN, 5000) == POLLIN && rreadv(two, room, 2) == 25);
    CHECK(memcmp(bytes, data, 5) == 0 && memcmp(bytes + 5, data + 50, 20) == 0);

    // Connected: an address for what has none, and none for what is told.
    CHECK(rconnect(one, (struct sockaddr *)&second, sizeof second) == 0);
    size = sizeof from;
    CHECK(rgetpeername(one, (struct sockaddr *)&from, &size) == 0 && from.sin_port == second.sin_port);
    CHECK(name_of(one).sin_port == first.sin_port);
    CHECK(rwrite(one, data, 7) == 7 && next_datagram(two, bytes, sizeof bytes, 0, &from) == 7);
    CHECK(rwritev(one, pieces, 3) == 25 && next_datagram(two, bytes, sizeof bytes, 0, &from) == 25);
    local.sin_family = AF_UNSPEC;
    CHECK(rconnect(one, (struct sockaddr *)&local, sizeof local) == 0);
    FAILS(rwrite(one, data, 7), EDESTADDRREQ);
    FAILS(rgetpeername(one, (struct sockaddr *)&from, &size), ENOTCONN);

    // What librdmacm's document says of the bytes: a peer of UDP alone, whose queue pair is number 0x123456.
    int plain = socket(AF_INET, SOCK_DGRAM, 0);
    struct timeval second_long = {.tv_sec = 5};
    unsigned char greeting[16 + 3] = {0x55, 0x55, 0x55, 0x55, 4, 0, 16, 0, 0, 0x12, 0x34, 0x56, 127, 0, 0, 1, 'a', 'b', 'c'};
    local.sin_family = AF_INET;
    CHECK(bind(plain, (struct sockaddr *)&local, sizeof local) == 0);
    CHECK(setsockopt(plain, SOL_SOCKET, SO_RCVTIMEO, &second_long, sizeof second_long) == 0);
    size = sizeof local;
    CHECK(getsockname(plain, (struct sockaddr *)&local, &size) == 0);
    CHECK(rsendto(one, "hello", 5, 0, (struct sockaddr *)&local, sizeof local) == 5);
    CHECK(recv(plain, bytes, sizeof bytes, 0) == 16 + 5 && memcmp(bytes, greeting, 8) == 0 && memcmp(bytes + 16, "hello", 5) == 0);
    CHECK(bytes[8] == 0 && memcmp(bytes + 12, greeting + 12, 4) == 0);
    memcpy(data, bytes + 8, 4);
    // No rsocket's; not long enough; of another family.
    CHECK(sendto(plain, "UUUUUUUUUUUUUUUUUUUU", 20, 0, (struct sockaddr *)&first, sizeof first) == 20);
    CHECK(sendto(plain, greeting, 15, 0, (struct sockaddr *)&first, sizeof first) == 15);
    greeting[4] = 6;
    CHECK(sendto(plain, greeting, sizeof greeting, 0, (struct sockaddr *)&first, sizeof first) == sizeof greeting);
    greeting[4] = 4;
    CHECK(sendto(plain, greeting, sizeof greeting, 0, (struct sockaddr *)&first, sizeof first) == sizeof greeting);
    CHECK(next_datagram(one, bytes, sizeof bytes, 0, &from) == 3 && memcmp(bytes, "abc", 3) == 0 && from.sin_port == local.sin_port);
    greeting[5] = 7;
    CHECK(recv(plain, bytes, sizeof bytes, 0) == 16 && memcmp(bytes, greeting, 8) == 0 && memcmp(bytes + 8, data, 4) == 0);
    // From here on its queue pair is written to: nothing more comes by UDP, for nobody has that number.
    CHECK(rsendto(one, "lost", 4, 0, (struct sockaddr *)&local, sizeof local) == 4);
    CHECK(recv(plain, bytes, sizeof bytes, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    close(plain);
    CHECK(rclose(one) == 0 && rclose(two) == 0);
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
    datagrams();
    crossing();
    CHECK(rclose(listener) == 0);
    printf("%d failures\n", failures);
    return failures != 0;
}
