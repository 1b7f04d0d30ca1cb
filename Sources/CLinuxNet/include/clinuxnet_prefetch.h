// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Asks the processor to bring a cache line near. Swift has no such instruction; it is harmless at any address.
static inline void clinuxnet_prefetch(const void *_Nonnull address) { __builtin_prefetch(address); }

/// As above, into the second cache: for more than the first one holds.
static inline void clinuxnet_prefetch_far(const void *_Nonnull address) { __builtin_prefetch(address, 0, 2); }
