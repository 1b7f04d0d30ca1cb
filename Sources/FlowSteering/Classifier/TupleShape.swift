// SPDX-License-Identifier: Apache-2.0

/// Coarser masks of a rule's mask: what tables may be made of, so that rules of many masks share few tables.
enum TupleShape {
    /// The prefix lengths that IPv4 addresses are cut to.
    private static let lengths: [UInt64] = [0, 8, 12, 16, 20, 24, 28, 32]
    private static let lengthsHigh: [UInt64] = [0, 16, 32, 48, 64]

    /// The mask with prefixes cut to the next coarser length, for a table that neighbours of the rule find place in, too.
    static func trimmed(_ mask: FlowKey, width: Int) -> FlowKey {
        var cut = candidates(mask, width: width).max { bitCount($0) < bitCount($1) } ?? FlowKey()
        for word in width..<FlowKey.wordCount { cut.words[word] = 0 }
        return cut
    }

    static func bitCount(_ mask: FlowKey) -> Int {
        (0..<FlowKey.wordCount).reduce(0) { $0 + mask.words[$1].nonzeroBitCount }
    }

    /// Masks whose bits are all in `mask`.
    static func candidates(_ mask: FlowKey, width: Int) -> [FlowKey] {
        var found = [FlowKey()]
        func multiply(_ word: Int, _ choices: [UInt64]) {
            found = found.flatMap { base in
                choices.map { choice in
                    var next = base
                    next.words[word] |= choice
                    return next
                }
            }
        }
        let first = mask.words[0]
        let protocolBits = first & 0xFFFF_FF00_0000_0000 & ~(UInt64(FlowLayers.transportFields.rawValue) << 48)
        multiply(0, unique([0, protocolBits]))
        multiply(0, unique([0, first & 0xFFFF]))
        multiply(0, unique([0, first & 0xFFFF_0000]))
        if mask.layers(inner: false).contains(.ipv4) {
            multiply(1, cuts(mask.words[1] >> 32, bitCount: 32, lengths).map { $0 << 32 })
            multiply(1, cuts(mask.words[1] & 0xFFFF_FFFF, bitCount: 32, lengths))
        } else if width > 2 {
            multiply(1, cuts(mask.words[1], bitCount: 64, lengthsHigh))
            multiply(2, cuts(mask.words[2], bitCount: 64, lengthsHigh))
            // The lower half of an address only together with all of the upper one.
            for (low, high) in [(3, 1), (4, 2)] where mask.words[low] != 0 {
                found += found.filter { $0.words[high] == mask.words[high] }.map {
                    var next = $0
                    next.words[low] = mask.words[low]
                    return next
                }
            }
        }
        // Everything else as it is, or not at all.
        let rest = (width > 5 ? 5 : width)..<width
        if rest.contains(where: { mask.words[$0] != 0 }) {
            found += found.map { base in
                var next = base
                for word in rest { next.words[word] = mask.words[word] }
                return next
            }
        }
        return found
    }

    /// The prefixes of a prefix; a mask that is none is taken whole or not at all.
    private static func cuts(_ mask: UInt64, bitCount: UInt64, _ lengths: [UInt64]) -> [UInt64] {
        let ones = UInt64.max >> (64 - bitCount)
        let isPrefix = ((mask ^ ones) &+ 1) & (mask ^ ones) == 0
        guard isPrefix else { return [0, mask] }
        return lengths.map { $0 == 0 ? 0 : ones & (ones << (bitCount - $0)) }.filter { $0 & ~mask == 0 }
    }

    private static func unique(_ values: [UInt64]) -> [UInt64] { values.last == 0 ? [0] : values }
}
