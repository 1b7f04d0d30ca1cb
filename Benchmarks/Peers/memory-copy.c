// SPDX-License-Identifier: Apache-2.0
//
// How fast one thread copies memory: the yardstick of what goes through shared memory.
//
//   memory-copy server           prints "port=0" and ends: there is no other end
//   memory-copy AREA SECONDS     copies 64 KiB at a time through two areas of AREA bytes, again and again; prints
//                                "gigabytes_per_second=X"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { piece = 65536 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "server") == 0) {
        puts("port=0");
        return 0;
    }
    if (argc != 3) return 2;
    size_t area = strtoull(argv[1], NULL, 10);
    double seconds = strtod(argv[2], NULL);
    if (area < piece || area % piece != 0) return 2;
    char *source = aligned_alloc(4096, area), *target = aligned_alloc(4096, area);
    if (!source || !target) return 1;
    memset(source, 1, area);
    memset(target, 2, area);

    uint64_t count = 0;
    size_t offset = 0;
    double start = now(), end;
    do {
        for (int index = 0; index < 256; index++) {
            memcpy(target + offset, source + offset, piece);
            // The compiler must believe that somebody looks.
            __asm__ volatile("" : : "r"(target) : "memory");
            offset = (offset + piece) % area;
        }
        count += 256;
        end = now();
    } while (end - start < seconds);
    printf("gigabytes_per_second=%.3f\n", (double)count * piece / (end - start) / 1e9);
    return 0;
}
