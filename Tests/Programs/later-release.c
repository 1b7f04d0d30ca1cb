// SPDX-License-Identifier: Apache-2.0
//
// A libibverbs of a release whose private version nobody knows yet (-DLIBRARY), its provider (-DPROVIDER; -DLINKED for one that programs
// are linked with), and a program that lists the devices. It shows what the drop-in library makes of a system that has such a release;
// Tests/Stages/parts/dropin-releases.sh builds and runs it. A private function answers with OWN where it is the release's.
#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdio.h>

enum { OWN = 7777, REFUSED = 95 };

int execute_ioctl(void);            // of rdma-core 44 as well
int ibv_cmd_query_port_speed(void); // of rdma-core 62
int ibv_cmd_of_177(void);           // of none that there is
extern bool verbs_allow_disassociate_destroy;

struct provider {
    const char *name;
    bool (*is_bound)(void);
};
void verbs_register_driver_177(const struct provider *provider);

#if defined(LIBRARY)
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#define JUMP "jmp "
#define PLT "@PLT"
#else
#define JUMP "b "
#define PLT ""
#endif
// Every public function is there; those without a body below are not called.
#define FUNCTION(name) \
    __asm__(".text\n.weak own_" #name "\n.globl " #name "\n.type " #name ", %function\n" #name ":\n" JUMP "own_" #name PLT "\n");
#define DEFINED(version, name) FUNCTION(name)
#define VERB(version, name) FUNCTION(name)
#define LATER(version, name) FUNCTION(name)
#define NOTHING(version, name) FUNCTION(name)
#define PRIVATE(initial, name)
#define PRIVATE_VERSIONS(first, last)
#include "../../Dropin/Sources/CDropinVerbs/libibverbs.symbols"
FUNCTION(ibv_query_gid_type)

int execute_ioctl(void) { return OWN; }
int ibv_cmd_query_port_speed(void) { return OWN; }
int ibv_cmd_of_177(void) { return OWN; }
bool verbs_allow_disassociate_destroy = false;

static const struct provider *providers[4];
static int provider_count;
void verbs_register_driver_177(const struct provider *provider) { providers[provider_count++] = provider; }

__attribute__((weak)) struct ibv_device **own_ibv_get_device_list(int *count);
struct ibv_device **own_ibv_get_device_list(int *count) {
    static struct ibv_device devices[4];
    static struct ibv_device *list[5];
    const char *path = getenv("LATER_PROVIDER");
    if (path && !dlopen(path, RTLD_NOW)) fprintf(stderr, "%s\n", dlerror());
    *count = 0;
    for (int index = 0; index < provider_count; index++) {
        // A call within the library takes the same way as one of a provider.
        if (!providers[index]->is_bound() || execute_ioctl() != OWN || !verbs_allow_disassociate_destroy) continue;
        strcpy(devices[index].name, providers[index]->name);
        list[(*count)++] = &devices[index];
    }
    return list;
}

__attribute__((weak)) void own_ibv_free_device_list(struct ibv_device **list);
void own_ibv_free_device_list(struct ibv_device **list) { (void)list; }

__attribute__((weak)) struct ibv_context *own_ibv_open_device(struct ibv_device *device);
struct ibv_context *own_ibv_open_device(struct ibv_device *device) {
    static struct ibv_context context;
    context.device = device;
    return &context;
}

__attribute__((weak)) int own_ibv_close_device(struct ibv_context *context);
int own_ibv_close_device(struct ibv_context *context) { return context->device ? 0 : OWN; }

__attribute__((weak)) int own_ibv_query_port_speed(struct ibv_context *context, uint32_t port, uint64_t *speed);
int own_ibv_query_port_speed(struct ibv_context *context, uint32_t port, uint64_t *speed) {
    *speed = OWN + port;
    return context->device ? 0 : OWN;
}

__attribute__((weak)) struct ibv_mr *own_ibv_reg_buf_mr(struct ibv_pd *domain, void *buffer, void *address, size_t length, int access);
struct ibv_mr *own_ibv_reg_buf_mr(struct ibv_pd *domain, void *buffer, void *address, size_t length, int access) {
    (void)domain, (void)buffer, (void)address, (void)length, (void)access;
    errno = ENOMEM;
    return NULL;
}

static uint64_t handle; // its first eight bytes are looked at
__attribute__((weak)) void *own_ibv_alloc_buf(struct ibv_pd *domain, size_t size, void **buffer);
void *own_ibv_alloc_buf(struct ibv_pd *domain, size_t size, void **buffer) {
    static char memory[64];
    *buffer = &handle;
    return domain->context && size <= sizeof memory ? memory : NULL;
}

__attribute__((weak)) void own_ibv_free_buf(void *buffer);
void own_ibv_free_buf(void *buffer) {
    if (buffer == &handle) puts("freed");
}

#elif defined(PROVIDER)

static bool is_bound(void) {
    return execute_ioctl() == OWN && ibv_cmd_query_port_speed() == OWN
#if !defined(LINKED)
           && ibv_cmd_of_177() == OWN
#endif
        ;
}

__attribute__((constructor)) static void be_registered(void) {
#if defined(LINKED)
    static const struct provider provider = {"linked0", is_bound};
    if (execute_ioctl() != REFUSED) return; // nobody has asked for the system's library yet
#else
    static const struct provider provider = {"later0", is_bound};
#endif
    verbs_allow_disassociate_destroy = true;
    verbs_register_driver_177(&provider);
}

#else
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

// What releases after 44 have, of the device that the release has.
static void call_later(struct ibv_device *device) {
    int (*query_port_speed)(struct ibv_context *, uint32_t, uint64_t *) =
        (int (*)(struct ibv_context *, uint32_t, uint64_t *))dlsym(RTLD_DEFAULT, "ibv_query_port_speed");
    void *(*alloc_buf)(struct ibv_pd *, size_t, void **) = (void *(*)(struct ibv_pd *, size_t, void **))dlsym(RTLD_DEFAULT, "ibv_alloc_buf");
    struct ibv_mr *(*reg_buf_mr)(struct ibv_pd *, void *, void *, size_t, int) =
        (struct ibv_mr * (*)(struct ibv_pd *, void *, void *, size_t, int)) dlsym(RTLD_DEFAULT, "ibv_reg_buf_mr");
    void (*free_buf)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "ibv_free_buf");
    struct ibv_context *context = ibv_open_device(device);
    struct ibv_pd domain = {.context = context};
    uint64_t speed = 0;
    void *buffer = NULL;
    if (!context || !query_port_speed || !alloc_buf || !reg_buf_mr || !free_buf) return;
    if (query_port_speed(context, 1, &speed) == 0) printf("speed %llu\n", (unsigned long long)speed);
    if (alloc_buf(&domain, 64, &buffer)) free_buf(buffer);
    // Its error is the library's own, not that of a function that is missing.
    if (!reg_buf_mr(&domain, buffer, NULL, 0, 0) && errno == ENOMEM) puts("no memory");
    ibv_close_device(context);
}

int main(void) {
    int count = 0;
    struct ibv_device **list = ibv_get_device_list(&count);
    for (int index = 0; list && index < count; index++) {
        puts(ibv_get_device_name(list[index]));
        if (strcmp(ibv_get_device_name(list[index]), "later0") == 0) call_later(list[index]);
    }
    ibv_free_device_list(list);
    return list == NULL;
}

#endif
