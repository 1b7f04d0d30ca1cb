// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

/// Runs a control call: 0, or the `errno` of the refusal, as most functions of verbs return it.
func code(_ body: () throws(ProviderError) -> Void) -> Int32 {
    do throws(ProviderError) {
        try body()
        return 0
    } catch {
        return SoftProvider.report(error)
    }
}

/// Runs a control call that makes an object: `nil`, with `errno` set, if it was refused.
func object<Object>(
    _ body: () throws(ProviderError) -> UnsafeMutablePointer<Object>
) -> UnsafeMutablePointer<Object>? {
    do throws(ProviderError) {
        return unsafe try body()
    } catch {
        errno = SoftProvider.report(error)
        return nil
    }
}

/// What the functions of the first release return: 0, or -1 with `errno`.
func minusOne(_ body: () throws(ProviderError) -> Void) -> Int32 {
    let code = code(body)
    guard code != 0 else { return 0 }
    errno = code
    return -1
}
