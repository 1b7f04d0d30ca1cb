// SPDX-License-Identifier: Apache-2.0

/// The five-bit code of an RNR NAK: how long a requester waits before it tries again (`min_rnr_timer`).
public struct RNRTimer: Hashable, Sendable {
    /// The code, 0...31. Code 0 is the longest time; code 1 is the shortest.
    public let code: UInt8

    /// Takes the low five bits of `code`.
    @inlinable @inline(__always)
    public init(truncating code: UInt8) {
        self.code = code & 0x1F
    }

    /// The wait in nanoseconds: 10 us for code 1 to 491.52 ms for code 31, and 655.36 ms for code 0.
    ///
    /// In units of 10 us the codes 1...5 are 1 2 3 4 6, and from there each pair is the doubled pair before; the table
    /// of IBTA (and `rxe_comp.c`, which has 61.41 ms for code 25 by a slip).
    @inlinable
    public var nanoseconds: UInt64 {
        let units: UInt64
        switch code {
        case 0: units = 65_536
        case 1: units = 1
        default:
            // 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 12, ... 31: 49152
            units = UInt64(2 | code & 1) << UInt64((code - 2) >> 1)
        }
        return units * 10_000
    }

    /// The shortest timer that is not below `nanoseconds`; the longest if there is none.
    @inlinable
    public init(atLeastNanoseconds nanoseconds: UInt64) {
        var code: UInt8 = 1
        while code < 32, RNRTimer(truncating: code).nanoseconds < nanoseconds { code += 1 }
        self.init(truncating: code)
    }
}

extension RNRTimer: CustomStringConvertible {
    /// The wait in milliseconds and the code.
    public var description: String {
        let microseconds = nanoseconds / 1000
        let fraction = String(microseconds % 1000 / 10)
        return "\(microseconds / 1000).\(fraction.count < 2 ? "0" : "")\(fraction) ms (code \(code))"
    }
}
