// SPDX-License-Identifier: Apache-2.0
//
// The system's own libibverbs.so.1, which has the kernel's devices, and what its provider libraries (librxe, libmlx5) import from it.
//
// The library is loaded by its path, since its soname is that of this one: the dynamic linker takes a path for another library, but
// whoever needs "libibverbs.so.1" afterwards, as each provider does, gets this one, which was first. Hence a jump for each symbol that
// providers import: through a slot to the system's function, or, until there is one, to a function that refuses. Programs are linked
// with some of those providers and load them with all symbols bound at once, so each must be there at any rate.
//
// Providers ask for them by a private version whose number changes with rdma-core (IBVERBS_PRIVATE_34, _57, _59, ...). The dynamic linker
// wants to find that name among the versions of this library, and takes a symbol that has no version for one of each: so the versions are
// there, and the symbols are without. `.symver NAME, SYMBOL@@` says that to the linker, in spite of the version script.
#define _GNU_SOURCE
#include "include/CDropinVerbs.h"
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

#if defined(__x86_64__)
#define TRIPLE "x86_64-linux-gnu"
#define GO(slot) "jmp *" #slot "(%rip)"
#define REGISTER(number) "movl $" number ", %esi\njmp register_provider"
#elif defined(__aarch64__)
#define TRIPLE "aarch64-linux-gnu"
#define GO(slot) "adrp x16, " #slot "\nldr x16, [x16, :lo12:" #slot "]\nbr x16"
#define REGISTER(number) "mov w1, #" number "\nb register_provider"
#else
#error "no jump is known for this processor"
#endif

// 95 is EOPNOTSUPP.
static long refuse(void) { return 95; }
static long nothing(void) { return 0; }

#define SLOT(name, label, initial)                                                                           \
    __attribute__((used, visibility("hidden"))) void *slot_##name = (void *)initial;                         \
    __asm__(".text\n.globl " #label "\n.type " #label ", %function\n" #label ":\n" GO(slot_##name) "\n.size " #label ", . - " #label "\n");
#define WITHOUT_VERSION(name) __asm__(".symver private_" #name ", " #name "@@");
#define DEFINED(version, name)
#define VERB(version, name)
#define LATER(version, name)
#define NOTHING(version, name) SLOT(name, name, nothing)
#define PRIVATE(initial, name) SLOT(name, private_##name, initial) WITHOUT_VERSION(name)
// verbs_register_driver_34 and so on, each in the version of its number: register_provider with the number as one more argument.
#define PRIVATE_VERSIONS(first, last)                                                                        \
    enum { version_first = first, version_last = last };                                                     \
    __asm__(".altmacro\n.macro registration number\n.globl verbs_register_driver_\\number\n"                 \
            ".type verbs_register_driver_\\number, %function\nverbs_register_driver_\\number:\n"              \
            REGISTER("\\number") "\n.endm\n.text\n.set next, " #first "\n.rept " #last " - " #first " + 1\n"  \
            "registration %next\n.set next, next + 1\n.endr\n.noaltmacro\n");
#include "libibverbs.symbols"
#undef VERB
#undef LATER
#undef NOTHING
#undef PRIVATE
#undef PRIVATE_VERSIONS
#define PRIVATE_VERSIONS(first, last)

int private_ibv_query_gid_type(struct ibv_context *context, uint8_t port_num, unsigned int index, unsigned int *type);
int private_ibv_query_gid_type(struct ibv_context *context, uint8_t port_num, unsigned int index, unsigned int *type) {
    return dropin_query_gid_type(context, port_num, index, type);
}
WITHOUT_VERSION(ibv_query_gid_type)

extern bool private_verbs_allow_disassociate_destroy;
bool private_verbs_allow_disassociate_destroy = false;
WITHOUT_VERSION(verbs_allow_disassociate_destroy)

// Providers register when they are loaded: those that a program is linked with before anything asks for the system's library.
static struct {
    const void *operations;
    unsigned version;
} drivers[64];
static unsigned driver_count;
static void (*register_driver)(const void *);
static unsigned private_version;

__attribute__((used, visibility("hidden"))) void register_provider(const void *operations, unsigned version);
void register_provider(const void *operations, unsigned version) {
    if (register_driver) {
        // What a provider of another version means by its operations the system's library does not know.
        if (version == private_version) register_driver(operations);
    } else if (driver_count < sizeof drivers / sizeof *drivers) {
        drivers[driver_count].operations = operations;
        drivers[driver_count++].version = version;
    }
}

static struct system_verbs verbs;

// The name of a function that the library has not, or NULL.
static const char *find_functions(void *library) {
#define FIND(name) \
    if (!(verbs.name = (__typeof__(verbs.name))dlsym(library, #name))) return #name;
#define VERB(version, name) FIND(name)
#define LATER(version, name) verbs.name = (__typeof__(verbs.name))dlsym(library, #name);
#define NOTHING(version, name) \
    if (!dlsym(library, #name)) return #name;
#define PRIVATE(initial, name)
#include "libibverbs.symbols"
#undef LATER
#define LATER(version, name)
    FIND(ibv_query_gid_type)
    char registration[] = "verbs_register_driver_000";
    void *found = NULL;
    for (private_version = version_first; private_version <= version_last; private_version++) {
        snprintf(registration, sizeof registration, "verbs_register_driver_%u", private_version);
        if ((found = dlsym(library, registration))) break;
    }
    if (!found) return "verbs_register_driver_NN";
    register_driver = (void (*)(const void *))found;
// All are there: only now may one be called. Each release has its own of the private ones, and its providers ask for no others.
#undef VERB
#undef NOTHING
#undef PRIVATE
#define VERB(version, name)
#define NOTHING(version, name) slot_##name = dlsym(library, #name);
#define PRIVATE(initial, name) \
    if ((found = dlsym(library, #name))) slot_##name = found;
#include "libibverbs.symbols"
    for (unsigned i = 0; i < driver_count; i++) register_provider(drivers[i].operations, drivers[i].version);
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
        // Global: what providers of a later release import and the list does not know they find there, behind this library.
        void *library = dlopen(paths[i], RTLD_NOW | RTLD_GLOBAL);
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
