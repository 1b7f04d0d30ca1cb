// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Nanoseconds on CLOCK_MONOTONIC, read through the vDSO (about 25 ns).
@inline(__always)
func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    _ = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(bitPattern: Int64(time.tv_sec)) &* 1_000_000_000 &+ UInt64(bitPattern: Int64(time.tv_nsec))
}
