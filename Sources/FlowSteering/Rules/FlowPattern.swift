// SPDX-License-Identifier: Apache-2.0

/// What a field of a header must be: the bits of ``value`` wherever ``mask`` has a one.
///
/// A mask without ones takes any value; it is the mask of every field that a rule does not name. Most network adapters take only
/// masks of all ones or all zeros; the places in software take any.
public struct FlowPattern<Value: FixedWidthInteger & UnsignedInteger & Sendable>: Hashable, Sendable {
    /// The bits that are wanted, zero where the mask is.
    public var value: Value
    /// Ones where the packet's bit must be the value's.
    public var mask: Value

    /// The bits of `value` where `mask` has ones.
    @inlinable
    public init(_ value: Value, mask: Value) {
        self.value = value
        self.mask = mask
    }

    /// Any value.
    @inlinable public static var any: FlowPattern { FlowPattern(0, mask: 0) }

    /// Whether every value fits.
    @inlinable public var isAny: Bool { mask == 0 }

    /// Whether a packet with this value in the field fits.
    @inlinable
    public func matches(_ other: Value) -> Bool { other & mask == value & mask }
}

extension FlowPattern: ExpressibleByIntegerLiteral {
    /// Exactly this value. In a field that is narrower than its type (a VXLAN network identifier has 24 of 32 bits) the
    /// specification keeps the mask within the field.
    @inlinable
    public init(integerLiteral value: Value.IntegerLiteralType) {
        self.init(exactly: Value(integerLiteral: value))
    }

    /// Exactly this value.
    @inlinable
    public init(exactly value: Value) {
        self.init(value, mask: .max)
    }
}

extension FlowPattern {
    /// The same with the mask cut to the low `bitCount` bits, for fields that are narrower than their type.
    func narrowed(to bitCount: Int) -> FlowPattern {
        let width = Value.max >> Value(Value.bitWidth - bitCount)
        // Only the mask of `init(exactly:)` is cut; one that was given stays, for the validation to refuse.
        return mask == .max ? FlowPattern(value, mask: width) : self
    }
}
