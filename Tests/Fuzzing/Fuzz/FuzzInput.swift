// SPDX-License-Identifier: Apache-2.0

/// The bytes that libFuzzer chose, read as decisions. Behind their end everything is zero, so that each prefix of an
/// input is an input.
struct FuzzInput {
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var isAtEnd: Bool { position >= bytes.count }

    mutating func byte() -> UInt8 {
        guard position < bytes.count else { return 0 }
        defer { position += 1 }
        return bytes[position]
    }

    mutating func integer<T: FixedWidthInteger>(_ type: T.Type = T.self) -> T {
        var value: T = 0
        for _ in 0..<T.bitWidth / 8 { value = value << 8 | T(truncatingIfNeeded: byte()) }
        return value
    }

    mutating func below(_ bound: Int) -> Int {
        bound <= 256 ? Int(byte()) % bound : Int(integer(UInt16.self)) % bound
    }

    /// True once in `count` times, if bytes are random.
    mutating func oneIn(_ count: Int) -> Bool { below(count) == count - 1 }

    mutating func pick<T>(_ values: [T]) -> T { values[below(values.count)] }

    mutating func take(_ count: Int) -> [UInt8] { (0..<count).map { _ in byte() } }
}
