// SPDX-License-Identifier: Apache-2.0
//
// What the buffer guard does in a handler of SIGSEGV: find out whose buffer was touched, say so, and pass the signal on. It is C because
// Swift promises about none of its code that it neither allocates nor takes a lock, and a signal handler may do neither.
#pragma once
#include <stdint.h>

/// Pages that are protected because a work request that names them is in flight. The texts are never freed.
struct clinuxnet_guarded_range {
    /// The first page and the end of the last.
    uintptr_t first, end;
    /// What was posted.
    uintptr_t buffer;
    uint64_t length;
    /// The work request: what the caller gave at the post, and its queue pair; zero stands for a shared receive queue.
    uint64_t id;
    uint32_t queue_pair;
    /// The device writes the buffer, so the program must not read it either.
    uint32_t is_written;
    /// `a receive`, `a send`, ...
    const char *_Nonnull operation;
    const char *_Nonnull file;
    uint32_t file_length;
    uint32_t line;
};

/// Sets the handler up, once for the process; errno, or zero. This and what follows may be called by any thread, but no signal handler.
int clinuxnet_guard_start(void);

/// Remembers a range for the handler and returns its number; -1 when the table, of 65536, is full.
int32_t clinuxnet_guard_remember(const struct clinuxnet_guarded_range *_Nonnull range);

/// Forgets the range of that number.
void clinuxnet_guard_forget(int32_t number);
