// SPDX-License-Identifier: Apache-2.0
//
// rdma-core's <infiniband/verbs.h> and <rdma/rdma_cma.h> for Swift. The headers are included, never linked: the data path calls through
// `context->ops`, and the control path goes through a table of functions found at run time.
//
// Clang merges attributes of a forward declaration into the definition that follows, so the enumerations below
// become Swift's own: `flag_enum` makes an OptionSet, an open enum keeps unknown values.
#pragma once

#define VERBS_FLAGS __attribute__((flag_enum, enum_extensibility(open)))
#define VERBS_OPEN __attribute__((enum_extensibility(open)))

enum VERBS_FLAGS ibv_access_flags;
enum VERBS_FLAGS ibv_send_flags;
enum VERBS_FLAGS ibv_wc_flags;
enum VERBS_FLAGS ibv_qp_attr_mask;
enum VERBS_FLAGS ibv_srq_attr_mask;
enum VERBS_FLAGS ibv_device_cap_flags;
enum VERBS_OPEN ibv_wc_status;
enum VERBS_OPEN ibv_wc_opcode;
enum VERBS_OPEN ibv_wr_opcode;
enum VERBS_OPEN ibv_qp_type;
enum VERBS_OPEN ibv_qp_state;
enum VERBS_OPEN ibv_mtu;
enum VERBS_OPEN ibv_port_state;
enum VERBS_OPEN ibv_event_type;
enum VERBS_OPEN ibv_mw_type;
enum VERBS_OPEN rdma_cm_event_type;
enum VERBS_OPEN rdma_port_space;

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

// `ibv_query_port` is a macro over this function; the plain name imports as the entry point for programs of 2006.
static inline int cverbs_query_port(
    struct ibv_context *_Nonnull context, uint8_t port, struct ibv_port_attr *_Nonnull attributes)
{
    return ___ibv_query_port(context, port, attributes);
}

// `IBV_ACCESS_OPTIONAL_RANGE` aliases another enumerator, which Swift does not import.
static const unsigned cverbs_access_optional_range = IBV_ACCESS_OPTIONAL_RANGE;

// The placement extensions (IBTA annex A19), as far as the headers of rdma-core 44 do not name them; the numbers are those of its later
// releases and of the kernel.
static const enum ibv_wr_opcode cverbs_wr_flush = (enum ibv_wr_opcode)14;
static const enum ibv_wc_opcode cverbs_wc_flush = (enum ibv_wc_opcode)8;
static const unsigned cverbs_access_flush_global = 1u << 8;
static const unsigned cverbs_access_flush_persistent = 1u << 9;
// Bits of device_cap_flags_ex.
static const uint64_t cverbs_device_flush_global = 1ull << 38;
static const uint64_t cverbs_device_flush_persistent = 1ull << 39;
static const uint64_t cverbs_device_atomic_write = 1ull << 40;

// The mark of a `verbs_context`: a pointer constant made from an integer, which Swift does not import.
static inline void *_Nonnull cverbs_extended_abi(void) { return __VERBS_ABI_IS_EXTENDED; }

// `ibv_wc` without its union: Swift then knows that it is bitwise copyable and sendable.
struct cverbs_wc {
    uint64_t wr_id;
    enum ibv_wc_status status;
    enum ibv_wc_opcode opcode;
    uint32_t vendor_err;
    uint32_t byte_len;
    uint32_t imm_data_or_invalidated_rkey;
    uint32_t qp_num;
    uint32_t src_qp;
    uint32_t wc_flags;
    uint16_t pkey_index;
    uint16_t slid;
    uint8_t sl;
    uint8_t dlid_path_bits;
};
_Static_assert(sizeof(struct cverbs_wc) == sizeof(struct ibv_wc), "cverbs_wc mirrors ibv_wc");
_Static_assert(
    __builtin_offsetof(struct cverbs_wc, imm_data_or_invalidated_rkey) == __builtin_offsetof(struct ibv_wc, imm_data),
    "cverbs_wc mirrors ibv_wc");
_Static_assert(
    __builtin_offsetof(struct cverbs_wc, dlid_path_bits) == __builtin_offsetof(struct ibv_wc, dlid_path_bits),
    "cverbs_wc mirrors ibv_wc");

static inline int cverbs_poll_cq(struct ibv_cq *_Nonnull cq, int count, struct cverbs_wc *_Nonnull wc)
{
    return ibv_poll_cq(cq, count, (struct ibv_wc *)wc);
}

// Memory that a peer or a device may be writing: Swift has no atomic load from memory that is not an Atomic of its own.
static inline uint8_t cverbs_load_acquire_8(const void *_Nonnull address)
{
    return __atomic_load_n((const uint8_t *)address, __ATOMIC_ACQUIRE);
}

static inline uint64_t cverbs_load_acquire_64(const void *_Nonnull address)
{
    return __atomic_load_n((const uint64_t *)address, __ATOMIC_ACQUIRE);
}

// The account of work requests. It lives in plain memory of fixed layout, because the inlined data path of another
// module reads and writes it; only one thread at a time does (Swift's `QueuePair` and `CompletionQueue` are not
// Sendable and of one isolation region).

struct cverbs_queue;

// A registered buffer. The scatter/gather element stands first: a work request points straight at it.
struct cverbs_buffer {
    struct ibv_sge element;               // address for the device, bytes in use, local key
    void *_Nonnull bytes;                 // the first byte for the processor
    struct cverbs_buffer *_Nullable next; // the next element of a scatter/gather list
    const void *_Nonnull pool;            // the Swift object that takes it back, unretained
    uint32_t capacity;
    uint32_t rkey;
};
_Static_assert(__builtin_offsetof(struct cverbs_buffer, element) == 0, "a buffer is its scatter/gather element");

enum {
    CVERBS_RECORD_SILENT = 1,  // the library asked for the completion, the caller did not
    CVERBS_RECORD_HOLDS = 2,   // objects are kept alive until it resolves
    CVERBS_RECORD_LIVE = 4,    // posted to a shared queue, not resolved yet
    CVERBS_RECORD_GUARDED = 8, // pages are protected until it resolves
};

// One work request between its post and its completion; the provider's wr_id is its address.
struct cverbs_record {
    uint64_t id;                            // the caller's
    struct cverbs_buffer *_Nullable buffer; // owned until the completion, with all that follows by `next`
    struct cverbs_queue *_Nonnull queue;    // constant
    uint32_t index;                         // constant: its place in the queue's records
    uint32_t flags;                         // CVERBS_RECORD_*
};

// A send or receive queue: records [retired, posted) modulo the ring size are in flight. A shared receive queue, whose
// requests complete in any order, keeps a list of free records instead.
struct cverbs_queue {
    struct cverbs_record *_Nonnull records;
    uint32_t mask;            // ring size - 1, the size a power of two
    uint32_t limit;           // work requests that may be in flight
    uint32_t posted;          // ever, modulo 2^32
    uint32_t retired;         // ever, modulo 2^32
    uint32_t unsignaled;      // unsignaled ones since the last completion that the library asked for
    uint32_t signal_interval; // so many unsignaled ones, then the library asks for a completion of its own
    uint32_t always_flags;    // IBV_SEND_SIGNALED where all requests complete
    uint32_t max_elements;
    uint32_t max_inline;
    uint32_t has_placement; // of a send queue: the provider's post_send carries ATOMIC WRITE and FLUSH
    uint32_t is_shared;
    uint32_t is_receive;
    uint32_t free_count;
    uint32_t is_guarded; // posts protect their pages
    uint32_t batch;      // number of the last batch that was opened, modulo 2^32
    uint32_t *_Nullable free_indices; // of a shared queue: a stack
    const void *_Nonnull owner;       // the Swift object that holds this account, unretained
};

// Work requests prepared once, so that a post stores only what differs. The request stands first, its usual single
// element right behind it.
struct cverbs_send_slot {
    struct ibv_send_wr request;
    struct ibv_sge element;
};
struct cverbs_receive_slot {
    struct ibv_recv_wr request;
    struct ibv_sge element;
};
_Static_assert(__builtin_offsetof(struct cverbs_send_slot, request) == 0, "a slot is its request");
_Static_assert(__builtin_offsetof(struct cverbs_receive_slot, request) == 0, "a slot is its request");
_Static_assert(
    __builtin_offsetof(struct cverbs_send_slot, element) == sizeof(struct ibv_send_wr), "no gap before the element");
_Static_assert(
    __builtin_offsetof(struct cverbs_receive_slot, element) == sizeof(struct ibv_recv_wr), "no gap before the element");

// The slots of a queue. A batch uses those of `send` or `receive`, linked to each other; single posts have one of their own.
struct cverbs_slots {
    struct cverbs_send_slot *_Nonnull single_send;
    struct cverbs_receive_slot *_Nonnull single_receive;
    struct ibv_send_wr *_Nullable bad_send;
    struct ibv_recv_wr *_Nullable bad_receive;
    struct cverbs_send_slot *_Nonnull send;
    struct cverbs_send_slot *_Nonnull send_end;  // also the one for single posts
    struct ibv_sge *_Nonnull send_lists;         // `list_stride` elements for each slot, for lists of more than one
    uint32_t list_stride;
    struct cverbs_receive_slot *_Nonnull receive;
    struct cverbs_receive_slot *_Nonnull receive_end;  // also the one for single posts
    struct ibv_sge *_Nonnull receive_lists;
    uint32_t receive_list_stride;
};

// Completions taken from the device and not yet delivered.
struct cverbs_ready {
    struct cverbs_wc *_Nonnull entries;
    uint32_t capacity;
    uint32_t cursor;
    uint32_t end;
    uint32_t has_backlog; // more is kept beside, or memory waits for the last delivery
};
