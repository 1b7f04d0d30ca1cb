// SPDX-License-Identifier: Apache-2.0
#include "include/clinuxnet_tuples.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WITH_AVX512 __attribute__((target("avx512f,avx512dq,avx512cd")))
#define LANES 8

int clinuxnet_tuple_available(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512cd");
}

WITH_AVX512 uint32_t clinuxnet_tuple_hash(const struct clinuxnet_tuple_batch *batch,
                                          const struct clinuxnet_tuple_table *table, uint32_t width, uint32_t active) {
    const __m512i best = _mm512_set1_epi64((long long)table->best_order);
    const __m512i base = _mm512_set1_epi64((long long)(uintptr_t)table->buckets);
    const __m512i last = _mm512_set1_epi64((long long)0x9FB21C651E98DF25);
    const __m128i shift = _mm_cvtsi64_si128((long long)table->shift);
    uint32_t left = 0;
    for (uint32_t at = 0; at < CLINUXNET_TUPLE_BATCH; at += LANES) {
        const __m512i orders = _mm512_loadu_si512(batch->orders + at);
        const __mmask8 some = _mm512_mask_cmpgt_epu64_mask((__mmask8)(active >> at), orders, best);
        if (some == 0) continue;
        __m512i sum = _mm512_setzero_si512();
        for (uint32_t word = 0; word < width; word++) {
            const __m512i key = _mm512_loadu_si512(batch->words + word * CLINUXNET_TUPLE_BATCH + at);
            const __m512i part = _mm512_and_si512(key, _mm512_set1_epi64((long long)table->mask[word]));
            const __m512i factor = _mm512_set1_epi64((long long)table->multipliers[word]);
            sum = _mm512_add_epi64(sum, _mm512_mullo_epi64(part, factor));
        }
        // As TupleTable.finish and TupleTable.tag.
        __m512i hash = _mm512_mullo_epi64(_mm512_xor_si512(sum, _mm512_srli_epi64(sum, 32)), last);
        hash = _mm512_xor_si512(hash, _mm512_srli_epi64(hash, 29));
        const __m512i bucket = _mm512_add_epi64(base, _mm512_slli_epi64(_mm512_srl_epi64(hash, shift), 6));
        __m512i tag = _mm512_or_si512(_mm512_and_si512(hash, _mm512_set1_epi64(0xFFFF)), _mm512_set1_epi64(0x8000));
        tag = _mm512_or_si512(tag, _mm512_slli_epi64(tag, 16));
        tag = _mm512_or_si512(tag, _mm512_slli_epi64(tag, 32));
        // Who is not looked up has the first bucket: an address like any other.
        _mm512_storeu_si512(batch->buckets + at, _mm512_mask_blend_epi64(some, base, bucket));
        _mm512_storeu_si512(batch->tags + at, tag);
        for (uint32_t lane = 0; lane < LANES; lane++) __builtin_prefetch((const void *)(uintptr_t)batch->buckets[at + lane]);
        left |= (uint32_t)some << at;
    }
    return left;
}

/// As TupleTable.lanes(of:with:), of four lanes: their top bits.
WITH_AVX512 static inline __m512i same(__m512i word, __m512i tags) {
    const __m512i difference = _mm512_xor_si512(word, tags);
    const __m512i less = _mm512_sub_epi64(difference, _mm512_set1_epi64(0x0001000100010001));
    return _mm512_and_si512(_mm512_andnot_si512(difference, less), _mm512_set1_epi64((long long)0x8000800080008000));
}

WITH_AVX512 uint32_t clinuxnet_tuple_hits(const struct clinuxnet_tuple_batch *batch, uint32_t active,
                                          uint32_t *others) {
    const __m512i zero = _mm512_setzero_si512();
    uint32_t count = 0, more = 0;
    __m512i packets = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    for (uint32_t at = 0; at < CLINUXNET_TUPLE_BATCH; at += LANES) {
        const __mmask8 some = (__mmask8)(active >> at);
        const __m512i packet = _mm512_slli_epi64(packets, 32);
        packets = _mm512_add_epi64(packets, _mm512_set1_epi64(LANES));
        if (some == 0) continue;
        const __m512i bucket = _mm512_loadu_si512(batch->buckets + at);
        const __m512i tags = _mm512_loadu_si512(batch->tags + at);
        const __m512i low = _mm512_mask_i64gather_epi64(zero, some, bucket, (const void *)0, 1);
        const __m512i high = _mm512_mask_i64gather_epi64(zero, some, bucket, (const void *)8, 1);
        const __m512i further = _mm512_mask_i64gather_epi64(zero, some, bucket, (const void *)48, 1);
        // As TupleTable.lanes(in:with:). A lane of zeros is free, and no tag is zero.
        const __m512i lanes = _mm512_or_si512(_mm512_srli_epi64(same(low, tags), 8), same(high, tags));
        const __m512i rest = _mm512_and_si512(lanes, _mm512_sub_epi64(lanes, _mm512_set1_epi64(1)));
        const __m512i rare = _mm512_or_si512(rest, further);
        more |= (uint32_t)_mm512_mask_test_epi64_mask(some, rare, rare) << at;
        const __mmask8 found = _mm512_mask_test_epi64_mask(some, lanes, lanes);
        if (found == 0) continue;
        // As TupleTable.index(in:at:).
        const __m512i lowest = _mm512_xor_si512(lanes, rest);
        const __m512i bit = _mm512_sub_epi64(_mm512_set1_epi64(63), _mm512_lzcnt_epi64(lowest));
        const __m512i lane = _mm512_or_si512(_mm512_srli_epi64(bit, 4),
                                             _mm512_and_si512(_mm512_srli_epi64(bit, 1), _mm512_set1_epi64(4)));
        const __m512i place = _mm512_add_epi64(bucket, _mm512_slli_epi64(lane, 2));
        const __m256i first = _mm512_mask_i64gather_epi32(_mm256_setzero_si256(), found, place, (const void *)16, 1);
        const __m512i hit = _mm512_or_si512(packet, _mm512_cvtepu32_epi64(first));
        _mm512_storeu_si512(batch->hits + count, _mm512_maskz_compress_epi64(found, hit));
        count += (uint32_t)__builtin_popcount(found);
    }
    *others = more;
    return count;
}

#else

int clinuxnet_tuple_available(void) { return 0; }

uint32_t clinuxnet_tuple_hash(const struct clinuxnet_tuple_batch *batch, const struct clinuxnet_tuple_table *table,
                              uint32_t width, uint32_t active) {
    (void)batch, (void)table, (void)width, (void)active;
    return 0;
}

uint32_t clinuxnet_tuple_hits(const struct clinuxnet_tuple_batch *batch, uint32_t active, uint32_t *others) {
    (void)batch, (void)active;
    *others = 0;
    return 0;
}

#endif
