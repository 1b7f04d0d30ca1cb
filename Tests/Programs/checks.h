// SPDX-License-Identifier: Apache-2.0
#pragma once
// How the programs here tell what failed; each ends with the number of failures.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static int failures;

/// Goes on after a failure.
#define CHECK(condition)                                                                  \
    do {                                                                                  \
        errno = 0;                                                                        \
        if (!(condition)) {                                                               \
            failures++;                                                                   \
            printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno);              \
        }                                                                                 \
    } while (0)
/// Ends the program after one, for what the rest stands on.
#define NEEDED(condition)                                                                 \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            printf("line %d: %s (errno %d), and cannot go on\n", __LINE__, #condition, errno); \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)
