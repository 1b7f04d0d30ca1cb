// SPDX-License-Identifier: Apache-2.0
#pragma once
// A C routine that is more than a shim: the CRC-32 of Ethernet, which is also that of the RoCE v2
// ICRC. It is C because Swift has no carry-less multiplication.

#include <stddef.h>
#include <stdint.h>

/// Feeds bytes to a CRC-32 (polynomial 0x04C11DB7, bits reflected: 0xEDB88320) and returns the register.
///
/// The register is raw: zlib's crc32(0, p, n) is ~clinuxnet_crc32(0xFFFFFFFF, p, n).
uint32_t clinuxnet_crc32(uint32_t crc, const void *bytes, size_t length);

/// The same, but the byte at offset 4 counts as 0xFF, as the ICRC wants it of a BTH (FECN, BECN, reserved).
uint32_t clinuxnet_crc32_bth(uint32_t crc, const void *bytes, size_t length);

/// The variants of the routine, in rising order of speed. The fastest that the processor has is used.
enum clinuxnet_crc32_variant {
    CLINUXNET_CRC32_TABLES,       // slice-by-16
    CLINUXNET_CRC32_ARM,          // AArch64 CRC32 instructions
    CLINUXNET_CRC32_PCLMUL,       // 4 x 128 bits
    CLINUXNET_CRC32_VPCLMUL_256,  // 4 x 256 bits
    CLINUXNET_CRC32_VPCLMUL_512,  // 4 x 512 bits
    CLINUXNET_CRC32_VARIANTS
};

/// The variant in use.
enum clinuxnet_crc32_variant clinuxnet_crc32_variant_in_use(void);

/// Uses one variant (for tests and measurements). Returns 0, or -1 if the processor does not have it.
/// Not to be called while another thread computes and cares which variant it gets; the results are the same.
int clinuxnet_crc32_use(enum clinuxnet_crc32_variant variant);
