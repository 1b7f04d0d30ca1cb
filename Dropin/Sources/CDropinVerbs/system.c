// SPDX-License-Identifier: Apache-2.0
//
// The system's own libibverbs.so.1, which has the kernel's devices, and what its provider libraries (librxe, libmlx5) import from it.
//
// The library is loaded by its path, since its soname is that of this one: the dynamic linker takes a path for another library, but
// whoever needs "libibverbs.so.1" afterwards, as each provider does, gets this one, which was first. Hence a jump for each symbol that
// providers import: through a slot to the system's function, or, until there is one, to a function that refuses. Programs are linked
// with some of those providers and load them with all symbols bound at once, so each must be there at any rate.
#define _GNU_SOURCE
#include "include/CDropinVerbs.h"
#include <dlfcn.h>
#include <stdbool.h>
#include <sys/stat.h>

#if defined(__x86_64__)
#define TRIPLE "x86_64-linux-gnu"
#define GO(slot) "jmp *" #slot "(%rip)"
#elif defined(__aarch64__)
#define TRIPLE "aarch64-linux-gnu"
#define GO(slot) "adrp x16, " #slot "\nldr x16, [x16, :lo12:" #slot "]\nbr x16"
#else
#error "no jump is known for this processor"
#endif

// 95 is EOPNOTSUPP.
static long refuse(void) { return 95; }
static long nothing(void) { return 0; }

#define SLOT(name, initial)                                                                                  \
    __attribute__((used, visibility("hidden"))) void *slot_##name = (void *)initial;                         \
    __asm__(".text\n.globl " #name "\n.type " #name ", %function\n" #name ":\n" GO(slot_##name) "\n.size " #name ", . - " #name "\n");
#define DEFINED(version, name)
#define VERB(version, name)
#define STUB(version, name) SLOT(name, refuse)
#define NOTHING(version, name) SLOT(name, nothing)
#include "libibverbs.symbols"
#undef VERB
#undef STUB
#undef NOTHING

extern bool verbs_allow_disassociate_destroy;
bool verbs_allow_disassociate_destroy = false;

// Providers register when they are loaded: those that a program is linked with before anything asks for the system's library.
static const void *drivers[64];
static unsigned driver_count;
static void (*register_driver)(const void *);

void verbs_register_driver_34(const void *operations);
void verbs_register_driver_34(const void *operations) {
    if (register_driver) {
        register_driver(operations);
    } else if (driver_count < sizeof drivers / sizeof *drivers) {
        drivers[driver_count++] = operations;
    }
}

static struct system_verbs verbs;

// The name of a function that the library has not, or NULL.
static const char *find_functions(void *library) {
#define VERB(version, name) \
    if (!(verbs.name = (__typeof__(verbs.name))dlsym(library, #name))) return #name;
#define STUB(version, name) \
    if (!dlvsym(library, #name, #version)) return #name;
#define NOTHING(version, name) STUB(version, name)
#include "libibverbs.symbols"
#undef STUB
// All are there: only now may one be called.
#undef VERB
#define VERB(version, name)
#define STUB(version, name) slot_##name = dlvsym(library, #name, #version);
#include "libibverbs.symbols"
    register_driver = (void (*)(const void *))dlvsym(library, "verbs_register_driver_34", "IBVERBS_PRIVATE_34");
    for (unsigned i = 0; i < driver_count; i++) register_driver(drivers[i]);
    return NULL;
}

static bool is_this_library(const char *path) {
    Dl_info own;
    struct stat file, own_file;
    return !dladdr((void *)refuse, &own) || stat(own.dli_fname, &own_file) || stat(path, &file) ||
           (file.st_dev == own_file.st_dev && file.st_ino == own_file.st_ino);
}

const struct system_verbs *system_verbs_load(const char **missing) {
    static const char *const paths[] = {
        "/usr/lib/" TRIPLE "/libibverbs.so.1", "/lib/" TRIPLE "/libibverbs.so.1", "/usr/lib64/libibverbs.so.1",
        "/lib64/libibverbs.so.1",              "/usr/lib/libibverbs.so.1",        "/lib/libibverbs.so.1",
    };
    *missing = "libibverbs.so.1";
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (is_this_library(paths[i])) continue;
        void *library = dlopen(paths[i], RTLD_NOW | RTLD_LOCAL);
        if (!library) continue;
        // A copy of this library has rsocket, which no other libibverbs has.
        if (!dlsym(library, "rsocket")) {
            *missing = find_functions(library);
            if (!*missing) return &verbs;
        }
        dlclose(library);
    }
    return NULL;
}
