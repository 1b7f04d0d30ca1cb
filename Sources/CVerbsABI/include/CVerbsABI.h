// SPDX-License-Identifier: Apache-2.0
//
// rdma-core's <infiniband/verbs.h> for Swift. The header is included, never linked: the data path calls through
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

#include <infiniband/verbs.h>

// `ibv_query_port` is a macro over this function; the plain name imports as the entry point for programs of 2006.
static inline int cverbs_query_port(
    struct ibv_context *_Nonnull context, uint8_t port, struct ibv_port_attr *_Nonnull attributes)
{
    return ___ibv_query_port(context, port, attributes);
}

// `IBV_ACCESS_OPTIONAL_RANGE` aliases another enumerator, which Swift does not import.
static const unsigned cverbs_access_optional_range = IBV_ACCESS_OPTIONAL_RANGE;

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
