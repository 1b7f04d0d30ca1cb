// SPDX-License-Identifier: Apache-2.0
//
// The counting provider under the names that libibverbs exports. Built as a shared library and found by the loader as
// `libibverbs.so.1`, it gives a program one device, `counting0`, through the same calls as the kernel's devices; the
// program needs no special entry, and pays on the data path what it would pay with a driver.
//
// What the benchmarks do not use (shared receive queues, address handles, events) fails with EOPNOTSUPP.
#pragma once

#include <infiniband/verbs.h>
