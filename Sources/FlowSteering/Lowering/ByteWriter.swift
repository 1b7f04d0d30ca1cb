// SPDX-License-Identifier: Apache-2.0

/// Bytes of a C structure on their way out: network order unless `native` says otherwise.
struct ByteWriter {
    private(set) var bytes: [UInt8] = []

    mutating func append(_ value: some FixedWidthInteger & UnsignedInteger) {
        for shift in stride(from: value.bitWidth - 8, through: 0, by: -8) {
            bytes.append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }

    /// The low `byteCount` bytes.
    mutating func append(_ value: UInt64, byteCount: Int) {
        for index in (0..<byteCount).reversed() { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(index * 8))) }
    }

    mutating func append(native value: some FixedWidthInteger & UnsignedInteger) {
        append(value.littleEndian.byteSwapped)
    }

    mutating func pad(to byteCount: Int) {
        if byteCount > bytes.count { bytes += [UInt8](repeating: 0, count: byteCount - bytes.count) }
    }
}
