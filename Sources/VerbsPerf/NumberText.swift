// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Numbers as `printf` writes them, which rounds the exact binary value; the standard library has no such rounding.

/// `%-W.Df`: fixed places, left-aligned.
func fixed(_ value: Double, _ places: Int, width: Int = 0) -> String {
    padded(formatted("%.*f", Int32(places), value), width)
}

/// `%g`: six significant digits.
func shortest(_ value: Double) -> String {
    formatted("%g", value)
}

/// Left-aligned in a column.
func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.utf8.count))
}

private func formatted(_ format: String, _ arguments: any CVarArg...) -> String {
    // The longest fixed-point Double has 309 digits before its point; the buffer lives for the call.
    var buffer = [CChar](repeating: 0, count: 400)
    let length = unsafe withVaList(arguments) { unsafe vsnprintf(&buffer, buffer.count, format, $0) }
    return String(decoding: buffer.prefix(max(0, Int(length))).map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
