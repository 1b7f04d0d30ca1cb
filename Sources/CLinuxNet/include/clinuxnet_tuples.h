// SPDX-License-Identifier: Apache-2.0
#pragma once
// The classifier's first two passes over a batch of packets, eight packets at a time. They are C because Swift has neither gathers
// nor a way to use instructions that not every processor has. FlowSteering's TupleLookup does the same in Swift, one by one.

#include <stddef.h>
#include <stdint.h>

/// Packets in a batch.
#define CLINUXNET_TUPLE_BATCH 32

/// A batch on its way through tables. `words[w * 32 + p]` is word w of packet p's key.
struct clinuxnet_tuple_batch {
    const uint64_t *_Nonnull words;
    /// The order of the best rule that each packet has so far.
    const uint64_t *_Nonnull orders;
    /// Per packet, for the table that was hashed last: its bucket, and its tag four times.
    uint64_t *_Nonnull buckets;
    uint64_t *_Nonnull tags;
    /// Hits: the packet in the upper half, an index in the lower. Room for the batch and eight more.
    uint64_t *_Nonnull hits;
};

/// A hash table, as TupleTable lays it out.
struct clinuxnet_tuple_table {
    const uint64_t *_Nonnull buckets;
    const uint64_t *_Nonnull mask;
    const uint64_t *_Nonnull multipliers;
    uint64_t shift;
    uint64_t best_order;
};

/// Whether this processor has the instructions (AVX-512 F, DQ and CD).
int clinuxnet_tuple_available(void);

/// Hashes the packets that have their bit in `active` and no rule before the table's best one, and asks for their buckets.
/// Returns the bits of those packets.
uint32_t clinuxnet_tuple_hash(const struct clinuxnet_tuple_batch *_Nonnull batch,
                              const struct clinuxnet_tuple_table *_Nonnull table, uint32_t width, uint32_t active);

/// Compares tags in the buckets of the packets in `active`: writes the first hit of each, and returns how many there are. `others` gets the
/// bits of packets that have more than one, or whose bucket went on to the next one.
uint32_t clinuxnet_tuple_hits(const struct clinuxnet_tuple_batch *_Nonnull batch, uint32_t active,
                              uint32_t *_Nonnull others);
