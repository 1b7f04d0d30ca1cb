// SPDX-License-Identifier: Apache-2.0
//
// The rules of the tests as a C program writes them, with the structures of <infiniband/verbs.h> and <linux/ethtool.h>.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum flow_case {
    FLOW_UDP4,
    FLOW_ETHERNET,
    FLOW_IPV4_EXTENDED,
    FLOW_TCP6,
    FLOW_ESP,
    FLOW_VXLAN_INNER,
    FLOW_GRE_MPLS,
    FLOW_DROP_COUNT,
    FLOW_SNIFFER,
    FLOW_ALL_DEFAULT,
};

/// Writes `ibv_flow_attr` and its specifications; returns their length.
size_t flow_attributes(enum flow_case which, uint8_t *_Nonnull bytes, size_t capacity, uintptr_t counters);

enum ntuple_case {
    NTUPLE_UDP4,
    NTUPLE_TCP6,
    NTUPLE_ETHERNET,
    NTUPLE_IPV4_WITH_MAC_AND_TAG,
    NTUPLE_IPV6_DROP,
    NTUPLE_ESP4,
    NTUPLE_ESP6,
};

/// Writes `ethtool_rxnfc`; returns its length.
size_t flow_ntuple(enum ntuple_case which, uint8_t *_Nonnull bytes, size_t capacity);
