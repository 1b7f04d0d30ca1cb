// SPDX-License-Identifier: Apache-2.0

/// A remainder modulo the CRC-32 polynomial over GF(2), bits reflected: bit 31 is the coefficient of x^0.
///
/// A CRC register is such a number, and a zero byte multiplies it by x^8. So a difference between two packets of equal
/// length travels through the bytes behind it by a multiplication, and travels back by the inverse.
struct CRCPolynomial: Equatable {
    var bits: UInt32

    static var one: CRCPolynomial { CRCPolynomial(bits: 0x8000_0000) }

    /// x^8: what one zero byte does.
    static var byte: CRCPolynomial { CRCPolynomial(bits: 0x0080_0000) }

    /// x^-8: what takes back one zero byte.
    static var inverseByte: CRCPolynomial {
        var value = one
        for _ in 0..<8 { value = value.dividedByX }
        return value
    }

    private static var modulus: UInt32 { 0xEDB8_8320 }

    /// The modulus has the term x^0, so x divides whatever lacks it once the modulus is added.
    private var dividedByX: CRCPolynomial {
        let overflow = bits >> 31
        return CRCPolynomial(bits: (bits ^ Self.modulus & (0 &- overflow)) << 1 | overflow)
    }

    /// The product, in 32 steps without a branch.
    static func * (a: CRCPolynomial, b: CRCPolynomial) -> CRCPolynomial {
        var product: UInt32 = 0
        var shifted = a.bits
        var remaining = b.bits
        for _ in 0..<32 {
            product ^= shifted & (0 &- remaining >> 31)
            remaining <<= 1
            shifted = shifted >> 1 ^ modulus & (0 &- (shifted & 1))
        }
        return CRCPolynomial(bits: product)
    }

    /// x^(8 * count): what `count` zero bytes do.
    static func appending(byteCount: Int) -> CRCPolynomial { byte.power(byteCount) }

    /// x^(-8 * count): what takes back `count` zero bytes.
    static func undoing(byteCount: Int) -> CRCPolynomial { inverseByte.power(byteCount) }

    private func power(_ exponent: Int) -> CRCPolynomial {
        var result = Self.one
        var square = self
        var exponent = exponent
        while exponent > 0 {
            if exponent & 1 != 0 { result = result * square }
            square = square * square
            exponent >>= 1
        }
        return result
    }
}
