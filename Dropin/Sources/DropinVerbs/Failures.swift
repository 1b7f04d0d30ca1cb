// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

/// What the functions of the first release return: 0, or -1 with `errno`.
func minusOne(_ body: () throws(ProviderError) -> Void) -> Int32 {
    let code = softCode(body)
    guard code != 0 else { return 0 }
    errno = code
    return -1
}
