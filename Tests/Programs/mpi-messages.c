// SPDX-License-Identifier: Apache-2.0
//
// What the stage dropin runs under Open MPI: a ring and a ping-pong, of several sizes, every byte checked. Rank 0 prints one line for the
// ring and one for each size of the ping-pong: bytes, microseconds of half a round trip.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int sizes[] = {0, 1, 8, 64, 1024, 8192, 65536, 1 << 20, 4 << 20};
enum { size_count = sizeof sizes / sizeof *sizes, largest = 4 << 20, rounds = 50 };

// The bytes of a message differ with its number, so that an old one is not taken for a new one.
static void fill(unsigned char *bytes, int count, int number) {
    for (int index = 0; index < count; index++) bytes[index] = (unsigned char)(index * 7 + number * 31 + 1);
}

static void check(const unsigned char *bytes, int count, int number) {
    for (int index = 0; index < count; index++) {
        if (bytes[index] == (unsigned char)(index * 7 + number * 31 + 1)) continue;
        fprintf(stderr, "message %d of %d bytes: byte %d is wrong\n", number, count, index);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

int main(int argc, char **argv) {
    int rank, ranks, sum = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    unsigned char *sent = malloc(largest), *received = malloc(largest);

    // Each passes a message on to the next, all at once, until every message is back where it came from.
    for (int step = 0; step < ranks; step++) {
        fill(sent, 100000, rank + ranks * step);
        MPI_Sendrecv(sent, 100000, MPI_BYTE, (rank + 1) % ranks, step, received, 100000, MPI_BYTE,
                     (rank + ranks - 1) % ranks, step, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        check(received, 100000, (rank + ranks - 1) % ranks + ranks * step);
    }
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (sum != ranks * (ranks - 1) / 2) MPI_Abort(MPI_COMM_WORLD, 1);
    if (rank == 0) printf("ring of %d: ok\n", ranks);

    for (int entry = 0; entry < size_count; entry++) {
        int size = sizes[entry];
        double elapsed = 0;
        MPI_Barrier(MPI_COMM_WORLD);
        for (int round = 0; rank < 2 && round < rounds; round++) {
            fill(sent, size, 2 * round + rank);
            double begin = MPI_Wtime();
            if (rank == 0) MPI_Send(sent, size, MPI_BYTE, 1, round, MPI_COMM_WORLD);
            MPI_Recv(received, size, MPI_BYTE, 1 - rank, round, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            if (rank == 1) MPI_Send(sent, size, MPI_BYTE, 0, round, MPI_COMM_WORLD);
            elapsed += MPI_Wtime() - begin;
            check(received, size, 2 * round + 1 - rank);
        }
        if (rank == 0) printf("%d %.2f\n", size, elapsed / rounds / 2 * 1e6);
    }
    MPI_Finalize();
    return 0;
}
