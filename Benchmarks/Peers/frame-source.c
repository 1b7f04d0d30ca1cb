// SPDX-License-Identifier: Apache-2.0
//
// frame-source INTERFACE BYTES SECONDS PORT   sends UDP frames as fast as it can, without sockets: the kernel makes xdp_frames for a
// program that redirects them to the interface (BPF_PROG_TEST_RUN with live frames), which is as near to what a network adapter brings
// as one machine comes. Prints the frames and the seconds. Needs CAP_NET_ADMIN and CAP_BPF.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long bpf(int command, union bpf_attr *attributes) {
    return syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

// To an address that nobody has: the stack of the receiver drops it early, and its taps see it.
static void fill(uint8_t *frame, int size, int port) {
    static const uint8_t head[] = {2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0,
                                   10, 91, 0, 1, 10, 91, 0, 2};
    memset(frame, 0, size);
    memcpy(frame, head, sizeof head);
    *(uint16_t *)(frame + 16) = htons(size - 14);
    uint32_t sum = 0;
    for (int i = 14; i < 34; i += 2) sum += frame[i] << 8 | frame[i + 1];
    while (sum >> 16) sum = (sum & 0xFFFF) + (sum >> 16);
    *(uint16_t *)(frame + 24) = htons(~sum);
    *(uint16_t *)(frame + 34) = htons(9000);
    *(uint16_t *)(frame + 36) = htons(port);
    *(uint16_t *)(frame + 38) = htons(size - 34);
}

int main(int count, char **words) {
    if (count != 5) {
        fprintf(stderr, "usage: frame-source INTERFACE BYTES SECONDS PORT\n");
        return 2;
    }
    int interface = if_nametoindex(words[1]), size = atoi(words[2]), port = atoi(words[4]);
    double seconds = atof(words[3]);
    if (interface == 0 || size < 60 || size > 3000) {
        fprintf(stderr, "no interface %s, or %d is no size of a frame\n", words[1], size);
        return 2;
    }
    // r1 = interface; r2 = 0; call bpf_redirect; exit
    struct bpf_insn program[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 1, .imm = interface},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 0},
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_XDP, .insn_cnt = sizeof program / sizeof *program,
                           .insns = (uintptr_t)program, .license = (uintptr_t)"GPL"};
    int descriptor = bpf(BPF_PROG_LOAD, &load);
    if (descriptor < 0) {
        perror("BPF_PROG_LOAD");
        return 1;
    }
    uint8_t frame[3000];
    fill(frame, size, port);
    const uint32_t batch = 1 << 17;
    uint64_t sent = 0;
    double start = now(), end = start + seconds;
    while (now() < end) {
        union bpf_attr run = {.test = {.prog_fd = descriptor, .data_in = (uintptr_t)frame, .data_size_in = size,
                                       .repeat = batch, .flags = BPF_F_TEST_XDP_LIVE_FRAMES, .batch_size = 64}};
        if (bpf(BPF_PROG_TEST_RUN, &run) < 0) {
            if (errno == EINTR) break;
            perror("BPF_PROG_TEST_RUN");
            return 1;
        }
        sent += batch;
    }
    printf("frames=%llu seconds=%.3f\n", (unsigned long long)sent, now() - start);
    return 0;
}
