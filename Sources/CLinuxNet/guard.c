// SPDX-License-Identifier: Apache-2.0
#include "clinuxnet_guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLOTS = 1 << 16 };

// One range. Threads write under the lock; the handler, which may take none, reads whenever it is called. So `is_used` is stored last
// and taken down first.
struct slot {
    struct clinuxnet_guarded_range range;
    _Atomic uint32_t is_used;
};

// Mapped by `start`, touched as far as it is used; never unmapped.
static struct slot *slots;
// Slots that have ever been used stand before this one.
static _Atomic uint32_t slots_end;
// Where the search for a free slot goes on; under the lock.
static uint32_t cursor;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
// What was installed before us; constant, but for a handler that asked to be called once.
static struct sigaction previous;
static int start_error;

// MARK: The message

struct message {
    char text[640];
    size_t length;
};

static void add(struct message *message, const char *text, size_t length) {
    if (length > sizeof message->text - message->length) length = sizeof message->text - message->length;
    memcpy(message->text + message->length, text, length);
    message->length += length;
}

static void add_text(struct message *message, const char *text) { add(message, text, strlen(text)); }

static void add_number(struct message *message, uint64_t number, unsigned base) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number != 0);
    if (base == 16) add_text(message, "0x");
    add(message, digits + at, sizeof digits - at);
}

static void report(const struct clinuxnet_guarded_range *range, uintptr_t address) {
    struct message message = {.length = 0};
    add_text(&message, "swift-verbs: buffer ");
    add_number(&message, range->buffer, 16);
    add_text(&message, ", ");
    add_number(&message, range->length, 10);
    add_text(&message, range->is_written ? " bytes, was touched at " : " bytes, was written at ");
    add_number(&message, address, 16);
    add_text(&message, " while ");
    add_text(&message, range->operation);
    add_text(&message, " was in flight: work request ");
    add_number(&message, range->id, 10);
    if (range->queue_pair != 0) {
        add_text(&message, " of queue pair ");
        add_number(&message, range->queue_pair, 16);
    } else {
        add_text(&message, " of a shared receive queue");
    }
    add_text(&message, ", posted at ");
    add(&message, range->file, range->file_length);
    add_text(&message, ":");
    add_number(&message, range->line, 10);
    add_text(&message, ". Wait for its completion before touching the buffer.\n");
    for (size_t written = 0; written < message.length;) {
        ssize_t count = write(STDERR_FILENO, message.text + written, message.length - written);
        if (count <= 0) break;
        written += (size_t)count;
    }
}

// MARK: The handler

// The range that an address lies in. Of several, one that the device writes: it forbids the most.
static const struct clinuxnet_guarded_range *find(uintptr_t address) {
    const struct clinuxnet_guarded_range *found = NULL;
    uint32_t end = atomic_load_explicit(&slots_end, memory_order_acquire);
    for (uint32_t number = 0; number < end; number++) {
        const struct slot *slot = slots + number;
        if (!atomic_load_explicit(&slot->is_used, memory_order_acquire)) continue;
        if (address < slot->range.first || address >= slot->range.end) continue;
        if (slot->range.is_written) return &slot->range;
        if (found == NULL) found = &slot->range;
    }
    return found;
}

static void pass_on(int signal, siginfo_t *info, void *context) {
    struct sigaction next = previous;
    if (next.sa_flags & SA_RESETHAND) previous = (struct sigaction){.sa_handler = SIG_DFL};
    if (next.sa_flags & SA_SIGINFO) {
        next.sa_sigaction(signal, info, context);
    } else if (next.sa_handler != SIG_DFL && next.sa_handler != SIG_IGN) {
        next.sa_handler(signal);
    } else if (info->si_code > 0 || next.sa_handler == SIG_DFL) {
        // A fault comes again when the handler returns, and then ends the process; a signal that was sent does not. The
        // kernel lets nobody ignore a fault.
        struct sigaction standard = {.sa_handler = SIG_DFL};
        sigaction(SIGSEGV, &standard, NULL);
        if (info->si_code <= 0) raise(signal);
    }
}

static void segment_violated(int signal, siginfo_t *info, void *context) {
    int code = errno;
    uintptr_t address = (uintptr_t)info->si_addr;
    // Only a fault in a mapping that forbids the access can be ours.
    const struct clinuxnet_guarded_range *range = info->si_code == SEGV_ACCERR ? find(address) : NULL;
    if (range != NULL) report(range, address);
    errno = code;
    pass_on(signal, info, context);
}

// MARK: Setting up

static void start(void) {
    size_t length = SLOTS * sizeof(struct slot);
    slots = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slots == MAP_FAILED || sigaction(SIGSEGV, NULL, &previous) != 0) {
        start_error = errno;
        return;
    }
    // What the handler before us asked for still holds when it is called through us.
    struct sigaction ours = {.sa_sigaction = segment_violated, .sa_mask = previous.sa_mask};
    ours.sa_flags = (previous.sa_flags & ~(int)SA_RESETHAND) | SA_SIGINFO | SA_ONSTACK;
    if (sigaction(SIGSEGV, &ours, NULL) != 0) start_error = errno;
}

int clinuxnet_guard_start(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    return start_error;
}

// MARK: The table

int32_t clinuxnet_guard_remember(const struct clinuxnet_guarded_range *range) {
    int32_t found = -1;
    pthread_mutex_lock(&lock);
    for (uint32_t tried = 0; tried < SLOTS && found < 0; tried++) {
        uint32_t number = (cursor + tried) % SLOTS;
        if (atomic_load_explicit(&slots[number].is_used, memory_order_relaxed)) continue;
        slots[number].range = *range;
        atomic_store_explicit(&slots[number].is_used, 1, memory_order_release);
        if (number >= atomic_load_explicit(&slots_end, memory_order_relaxed))
            atomic_store_explicit(&slots_end, number + 1, memory_order_release);
        cursor = number + 1;
        found = (int32_t)number;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

void clinuxnet_guard_forget(int32_t number) {
    pthread_mutex_lock(&lock);
    atomic_store_explicit(&slots[number].is_used, 0, memory_order_release);
    // Low numbers first: the handler searches no further than was needed at once.
    if ((uint32_t)number < cursor) cursor = (uint32_t)number;
    pthread_mutex_unlock(&lock);
}
