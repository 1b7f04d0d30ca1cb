// SPDX-License-Identifier: Apache-2.0
// CRC-32 by carry-less multiplication, by the CRC instructions of AArch64, or by tables, whichever the processor has.
//
// The folding method is that of Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ"
// (Intel, 2009): an accumulator of 128 bits stands for all bytes so far; to append D bits, its halves are multiplied by
// x^(D+32) and x^(D-32) mod P and added to the next block. Bits are reflected throughout, so each constant is the
// reflection of its remainder, shifted left by one. Several accumulators side by side hide the multiplier's latency.

#include "crc.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

typedef uint32_t (*crc_function)(uint32_t crc, const uint8_t *bytes, size_t length);

struct kernel {
    enum clinuxnet_crc32_variant variant;
    crc_function crc32;      // any length
    crc_function crc32_bth;  // the byte at offset 4 counts as 0xFF
};

// MARK: Tables

// tables[k][b]: the register after byte b and k zero bytes. Filled once, by select_kernel, before anyone can read it.
static uint32_t tables[16][256];

static void fill_tables(void) {
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1));
        tables[0][b] = crc;
    }
    for (int k = 1; k < 16; k++)
        for (int b = 0; b < 256; b++)
            tables[k][b] = tables[k - 1][b] >> 8 ^ tables[0][tables[k - 1][b] & 0xFF];
}

static inline uint32_t load32(const uint8_t *bytes) {
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap32(word);
#endif
    return word;
}

// The register after the four bytes of `word`, seen from the end of a block of which `k` more bytes follow.
static inline uint32_t table_step(uint32_t word, int k) {
    return tables[k + 3][word & 0xFF] ^ tables[k + 2][word >> 8 & 0xFF] ^ tables[k + 1][word >> 16 & 0xFF] ^
           tables[k][word >> 24];
}

static uint32_t crc32_tables(uint32_t crc, const uint8_t *bytes, size_t length) {
    for (; length >= 16; bytes += 16, length -= 16)
        crc = table_step(crc ^ load32(bytes), 12) ^ table_step(load32(bytes + 4), 8) ^
              table_step(load32(bytes + 8), 4) ^ table_step(load32(bytes + 12), 0);
    for (; length >= 4; bytes += 4, length -= 4) crc = table_step(crc ^ load32(bytes), 0);
    for (; length > 0; bytes++, length--) crc = crc >> 8 ^ tables[0][(crc ^ *bytes) & 0xFF];
    return crc;
}

// A kernel's way to do the BTH where it cannot mask in flight: the first bytes go through a copy.
static inline uint32_t crc32_bth_by_copy(uint32_t crc, const uint8_t *bytes, size_t length, crc_function kernel) {
    uint8_t head[12];
    size_t n = length < sizeof head ? length : sizeof head;
    memcpy(head, bytes, n);
    if (n > 4) head[4] = 0xFF;
    crc = kernel(crc, head, n);
    return length > n ? kernel(crc, bytes + n, length - n) : crc;
}

static uint32_t crc32_bth_tables(uint32_t crc, const uint8_t *bytes, size_t length) {
    return crc32_bth_by_copy(crc, bytes, length, crc32_tables);
}

static const struct kernel tables_kernel = {CLINUXNET_CRC32_TABLES, crc32_tables, crc32_bth_tables};

// MARK: AArch64

#if defined(__aarch64__)

__attribute__((target("+crc"))) static uint32_t crc32_arm(uint32_t crc, const uint8_t *bytes, size_t length) {
    uint64_t word;
    for (; length >= 8; bytes += 8, length -= 8) {
        memcpy(&word, bytes, sizeof word);
        crc = __crc32d(crc, word);
    }
    if (length & 4) {
        uint32_t half;
        memcpy(&half, bytes, sizeof half);
        crc = __crc32w(crc, half);
        bytes += 4;
    }
    for (length &= 3; length > 0; bytes++, length--) crc = __crc32b(crc, *bytes);
    return crc;
}

static uint32_t crc32_bth_arm(uint32_t crc, const uint8_t *bytes, size_t length) {
    return crc32_bth_by_copy(crc, bytes, length, crc32_arm);
}

static const struct kernel arm_kernel = {CLINUXNET_CRC32_ARM, crc32_arm, crc32_bth_arm};

static int has_arm_crc(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
    return 1;  // every Apple processor of this architecture has them
#endif
}

#endif

// MARK: x86-64

#if defined(__x86_64__)

#define TARGET_128 __attribute__((target("pclmul,sse4.1")))
#define TARGET_256 __attribute__((target("pclmul,sse4.1,avx2,vpclmulqdq")))
#define TARGET_512 __attribute__((target("pclmul,sse4.1,avx2,avx512f,avx512vl,vpclmulqdq")))

// x^(D+32) and x^(D-32) mod P for the distances D in bits that appear below.
#define K_128 0x1751997D0, 0x0CCAA009E
#define K_256 0x0F1DA05AA, 0x15A546366
#define K_512 0x154442BD4, 0x1C6E41596
#define K_1024 0x1E88EF372, 0x14A7FE880
#define K_2048 0x11542778A, 0x1322D1430
#define PAIR(...) PAIR_(__VA_ARGS__)
#define PAIR_(low, high) _mm_set_epi64x(high, low)

TARGET_128 static inline __m128i fold_128(__m128i accumulator, __m128i k, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(accumulator, k, 0x00);
    __m128i high = _mm_clmulepi64_si128(accumulator, k, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// The 32-bit register for an accumulator: down to 96 bits, to 64, and a Barrett reduction.
TARGET_128 static inline uint32_t reduce(__m128i accumulator) {
    const __m128i even = _mm_setr_epi32(-1, 0, -1, 0);
    const __m128i x64 = _mm_set_epi64x(0, 0x163CD6124);                   // x^64 mod P
    const __m128i barrett = _mm_set_epi64x(0x1F7011641, 0x1DB710641);     // floor(x^64 / P), P
    __m128i v = _mm_xor_si128(
        _mm_clmulepi64_si128(accumulator, PAIR(K_128), 0x10), _mm_srli_si128(accumulator, 8));
    v = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(v, even), x64, 0x00), _mm_srli_si128(v, 4));
    __m128i q = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(v, even), barrett, 0x10), even);
    v = _mm_xor_si128(v, _mm_clmulepi64_si128(q, barrett, 0x00));
    return (uint32_t)_mm_extract_epi32(v, 1);
}

// Moves bytes of a vector up by 16 - r or down by r: 16 entries from offset r or 16 + r. High bit: becomes zero.
static const uint8_t shuffles[48] = {
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
    0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15,
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
};

// Appends the remaining bytes and reduces. At least 16 bytes lie before `bytes`, so the last 16 can be loaded at once.
TARGET_128 static inline uint32_t finish_128(__m128i accumulator, const uint8_t *bytes, size_t length) {
    const __m128i k = PAIR(K_128);
    for (; length >= 16; bytes += 16, length -= 16)
        accumulator = fold_128(accumulator, k, _mm_loadu_si128((const __m128i *)bytes));
    if (length > 0) {
        // Accumulator and tail are one string of 16 + r bytes: its first r bytes are folded onto the other 16.
        __m128i up = _mm_loadu_si128((const __m128i *)(shuffles + length));
        __m128i down = _mm_loadu_si128((const __m128i *)(shuffles + 16 + length));
        __m128i tail = _mm_loadu_si128((const __m128i *)(bytes + length - 16));
        __m128i rest = _mm_blendv_epi8(tail, _mm_shuffle_epi8(accumulator, down), up);
        accumulator = fold_128(_mm_shuffle_epi8(accumulator, up), k, rest);
    }
    return reduce(accumulator);
}

// The first block with the register added and, for a BTH, byte 4 set.
TARGET_128 static inline __m128i first_128(uint32_t crc, const uint8_t *bytes, int is_bth) {
    __m128i block = _mm_loadu_si128((const __m128i *)bytes);
    if (is_bth) block = _mm_or_si128(block, _mm_setr_epi32(0, 0xFF, 0, 0));
    return _mm_xor_si128(block, _mm_cvtsi32_si128((int)crc));
}

// Below 16 bytes a multiplication does not pay.
static inline uint32_t crc32_short(uint32_t crc, const uint8_t *bytes, size_t length, int is_bth) {
    return is_bth ? crc32_bth_tables(crc, bytes, length) : crc32_tables(crc, bytes, length);
}

TARGET_128 static inline uint32_t crc32_any_128(uint32_t crc, const uint8_t *bytes, size_t length, int is_bth) {
    if (length < 16) return crc32_short(crc, bytes, length, is_bth);
    __m128i a = first_128(crc, bytes, is_bth);
    if (length < 64) return finish_128(a, bytes + 16, length - 16);

    const __m128i k = PAIR(K_512);
    const __m128i *next = (const __m128i *)bytes;
    __m128i b = _mm_loadu_si128(next + 1), c = _mm_loadu_si128(next + 2), d = _mm_loadu_si128(next + 3);
    for (next += 4, length -= 64; length >= 64; next += 4, length -= 64) {
        a = fold_128(a, k, _mm_loadu_si128(next));
        b = fold_128(b, k, _mm_loadu_si128(next + 1));
        c = fold_128(c, k, _mm_loadu_si128(next + 2));
        d = fold_128(d, k, _mm_loadu_si128(next + 3));
    }
    const __m128i k1 = PAIR(K_128);
    return finish_128(fold_128(fold_128(fold_128(a, k1, b), k1, c), k1, d), (const uint8_t *)next, length);
}

TARGET_128 static uint32_t crc32_128(uint32_t crc, const uint8_t *bytes, size_t length) {
    return crc32_any_128(crc, bytes, length, 0);
}

TARGET_128 static uint32_t crc32_bth_128(uint32_t crc, const uint8_t *bytes, size_t length) {
    return crc32_any_128(crc, bytes, length, 1);
}

static const struct kernel pclmul_kernel = {CLINUXNET_CRC32_PCLMUL, crc32_128, crc32_bth_128};

TARGET_256 static inline __m256i fold_256(__m256i accumulator, __m256i k, __m256i next) {
    __m256i low = _mm256_clmulepi64_epi128(accumulator, k, 0x00);
    __m256i high = _mm256_clmulepi64_epi128(accumulator, k, 0x11);
    return _mm256_xor_si256(_mm256_xor_si256(low, high), next);
}

TARGET_256 static inline uint32_t finish_256(__m256i accumulator, const uint8_t *bytes, size_t length) {
    const __m256i k = _mm256_broadcastsi128_si256(PAIR(K_256));
    for (; length >= 32; bytes += 32, length -= 32)
        accumulator = fold_256(accumulator, k, _mm256_loadu_si256((const __m256i *)bytes));
    __m128i joined = fold_128(
        _mm256_castsi256_si128(accumulator), PAIR(K_128), _mm256_extracti128_si256(accumulator, 1));
    return finish_128(joined, bytes, length);
}

TARGET_256 static inline uint32_t crc32_any_256(uint32_t crc, const uint8_t *bytes, size_t length, int is_bth) {
    if (length < 16) return crc32_short(crc, bytes, length, is_bth);
    __m128i first = first_128(crc, bytes, is_bth);
    if (length < 64) return finish_128(first, bytes + 16, length - 16);

    const __m256i *next = (const __m256i *)bytes;
    __m256i a = _mm256_inserti128_si256(_mm256_loadu_si256(next), first, 0);
    if (length < 128) return finish_256(a, bytes + 32, length - 32);

    const __m256i k = _mm256_broadcastsi128_si256(PAIR(K_1024));
    __m256i b = _mm256_loadu_si256(next + 1), c = _mm256_loadu_si256(next + 2), d = _mm256_loadu_si256(next + 3);
    for (next += 4, length -= 128; length >= 128; next += 4, length -= 128) {
        a = fold_256(a, k, _mm256_loadu_si256(next));
        b = fold_256(b, k, _mm256_loadu_si256(next + 1));
        c = fold_256(c, k, _mm256_loadu_si256(next + 2));
        d = fold_256(d, k, _mm256_loadu_si256(next + 3));
    }
    const __m256i k1 = _mm256_broadcastsi128_si256(PAIR(K_256));
    return finish_256(fold_256(fold_256(fold_256(a, k1, b), k1, c), k1, d), (const uint8_t *)next, length);
}

TARGET_256 static uint32_t crc32_256(uint32_t crc, const uint8_t *bytes, size_t length) {
    return crc32_any_256(crc, bytes, length, 0);
}

TARGET_256 static uint32_t crc32_bth_256(uint32_t crc, const uint8_t *bytes, size_t length) {
    return crc32_any_256(crc, bytes, length, 1);
}

static const struct kernel vpclmul_256_kernel = {CLINUXNET_CRC32_VPCLMUL_256, crc32_256, crc32_bth_256};

TARGET_512 static inline __m512i fold_512(__m512i accumulator, __m512i k, __m512i next) {
    __m512i low = _mm512_clmulepi64_epi128(accumulator, k, 0x00);
    __m512i high = _mm512_clmulepi64_epi128(accumulator, k, 0x11);
    return _mm512_ternarylogic_epi64(low, high, next, 0x96);  // low ^ high ^ next
}

TARGET_512 static inline uint32_t finish_512(__m512i accumulator, const uint8_t *bytes, size_t length) {
    const __m512i k = _mm512_broadcast_i32x4(PAIR(K_512));
    for (; length >= 64; bytes += 64, length -= 64)
        accumulator = fold_512(accumulator, k, _mm512_loadu_si512(bytes));
    __m256i joined = fold_256(
        _mm512_castsi512_si256(accumulator), _mm256_broadcastsi128_si256(PAIR(K_256)),
        _mm512_extracti64x4_epi64(accumulator, 1));
    return finish_256(joined, bytes, length);
}

TARGET_512 static inline uint32_t crc32_any_512(uint32_t crc, const uint8_t *bytes, size_t length, int is_bth) {
    if (length < 16) return crc32_short(crc, bytes, length, is_bth);
    __m128i first = first_128(crc, bytes, is_bth);
    if (length < 64) return finish_128(first, bytes + 16, length - 16);

    __m512i a = _mm512_inserti32x4(_mm512_loadu_si512(bytes), first, 0);
    if (length < 256) return finish_512(a, bytes + 64, length - 64);

    const __m512i k = _mm512_broadcast_i32x4(PAIR(K_2048));
    const uint8_t *next = bytes;
    __m512i b = _mm512_loadu_si512(next + 64), c = _mm512_loadu_si512(next + 128), d = _mm512_loadu_si512(next + 192);
    for (next += 256, length -= 256; length >= 256; next += 256, length -= 256) {
        a = fold_512(a, k, _mm512_loadu_si512(next));
        b = fold_512(b, k, _mm512_loadu_si512(next + 64));
        c = fold_512(c, k, _mm512_loadu_si512(next + 128));
        d = fold_512(d, k, _mm512_loadu_si512(next + 192));
    }
    const __m512i k1 = _mm512_broadcast_i32x4(PAIR(K_512));
    return finish_512(fold_512(fold_512(fold_512(a, k1, b), k1, c), k1, d), next, length);
}

TARGET_512 static uint32_t crc32_512(uint32_t crc, const uint8_t *bytes, size_t length) {
    return crc32_any_512(crc, bytes, length, 0);
}

TARGET_512 static uint32_t crc32_bth_512(uint32_t crc, const uint8_t *bytes, size_t length) {
    return crc32_any_512(crc, bytes, length, 1);
}

static const struct kernel vpclmul_512_kernel = {CLINUXNET_CRC32_VPCLMUL_512, crc32_512, crc32_bth_512};

#endif

// MARK: Choice

// The kernel of a variant, or NULL if the processor does not have it.
static const struct kernel *kernel_of(enum clinuxnet_crc32_variant variant) {
    switch (variant) {
    case CLINUXNET_CRC32_TABLES: return &tables_kernel;
#if defined(__aarch64__)
    case CLINUXNET_CRC32_ARM: return has_arm_crc() ? &arm_kernel : NULL;
#endif
#if defined(__x86_64__)
    case CLINUXNET_CRC32_PCLMUL:
        return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1") ? &pclmul_kernel : NULL;
    case CLINUXNET_CRC32_VPCLMUL_256:
        return __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx2") ? &vpclmul_256_kernel : NULL;
    case CLINUXNET_CRC32_VPCLMUL_512:
        return __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx512f") &&
                       __builtin_cpu_supports("avx512vl")
                   ? &vpclmul_512_kernel
                   : NULL;
#endif
    default: return NULL;
    }
}

static uint32_t crc32_first_call(uint32_t crc, const uint8_t *bytes, size_t length);
static uint32_t crc32_bth_first_call(uint32_t crc, const uint8_t *bytes, size_t length);

// Stands in until the first call has chosen.
static const struct kernel first_call_kernel = {CLINUXNET_CRC32_TABLES, crc32_first_call, crc32_bth_first_call};

// Written by select_kernel and clinuxnet_crc32_use; release/acquire carries the tables along with the choice.
static _Atomic(const struct kernel *) current = &first_call_kernel;
static pthread_once_t selected = PTHREAD_ONCE_INIT;

static void select_kernel(void) {
    fill_tables();
    for (int variant = CLINUXNET_CRC32_VARIANTS - 1; variant >= 0; variant--) {
        const struct kernel *kernel = kernel_of((enum clinuxnet_crc32_variant)variant);
        if (kernel) {
            atomic_store_explicit(&current, kernel, memory_order_release);
            return;
        }
    }
}

static const struct kernel *current_kernel(void) { return atomic_load_explicit(&current, memory_order_acquire); }

static uint32_t crc32_first_call(uint32_t crc, const uint8_t *bytes, size_t length) {
    pthread_once(&selected, select_kernel);
    return current_kernel()->crc32(crc, bytes, length);
}

static uint32_t crc32_bth_first_call(uint32_t crc, const uint8_t *bytes, size_t length) {
    pthread_once(&selected, select_kernel);
    return current_kernel()->crc32_bth(crc, bytes, length);
}

uint32_t clinuxnet_crc32(uint32_t crc, const void *bytes, size_t length) {
    return current_kernel()->crc32(crc, bytes, length);
}

uint32_t clinuxnet_crc32_bth(uint32_t crc, const void *bytes, size_t length) {
    return current_kernel()->crc32_bth(crc, bytes, length);
}

enum clinuxnet_crc32_variant clinuxnet_crc32_variant_in_use(void) {
    pthread_once(&selected, select_kernel);
    return current_kernel()->variant;
}

int clinuxnet_crc32_use(enum clinuxnet_crc32_variant variant) {
    pthread_once(&selected, select_kernel);
    const struct kernel *kernel = kernel_of(variant);
    if (!kernel) return -1;
    atomic_store_explicit(&current, kernel, memory_order_release);
    return 0;
}
