// SPDX-License-Identifier: Apache-2.0

/// Frames of random headers for the parser, which tshark judges, and for the classifier. Few values for each field, so that rules of
/// ``RuleMaker`` match.
package struct FrameMaker {
    package var generator: SeededGenerator
    private var bytes: [UInt8] = []

    package init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

    package static let macs: [UInt64] = [
        0x0200_0000_0001, 0x0200_0000_0002, 0x0200_0000_0101, 0x0100_5E00_0001, 0xFFFF_FFFF_FFFF,
    ]
    package static let ports: [UInt16] = [53, 80, 443, 7000, 7001, 1024, 4096, 61000]
    package static let tags: [UInt16] = [100, 0x2064, 0xE005, 4094]

    package mutating func frame() -> [UInt8] {
        bytes = []
        ethernet(depth: 0)
        for _ in 0..<generator.below(12) { bytes.append(UInt8(generator.below(256))) }
        while bytes.count < 60 { bytes.append(0) }
        return bytes
    }

    private mutating func put(_ value: UInt64, _ byteCount: Int) {
        for index in (0..<byteCount).reversed() { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(index * 8))) }
    }

    private mutating func ethernet(depth: Int) {
        put(generator.pick(Self.macs), 6)
        put(generator.pick(Array(Self.macs[..<3])), 6)
        for index in 0..<generator.pick([0, 0, 0, 1, 1, 2]) {
            put(index == 0 && generator.oneIn(2) ? 0x88A8 : 0x8100, 2)
            put(UInt64(generator.pick(Self.tags)), 2)
        }
        switch generator.below(depth == 0 ? 12 : 10) {
        case 0...5:
            put(0x0800, 2)
            ipv4(depth: depth)
        case 6...8:
            put(0x86DD, 2)
            ipv6(depth: depth)
        case 9:
            put(0x88B5, 2)
            put(generator.next(), 8)
        default:
            put(0x8847, 2)
            mpls()
        }
    }

    /// Entries and an IP packet, as a tunnel has them.
    private mutating func mpls() {
        let count = 1 + generator.below(3)
        for index in 0..<count {
            let label = UInt64(generator.pick([16, 17, 1000]))
            put(label << 12 | UInt64(generator.below(8)) << 9 | (index == count - 1 ? 0x100 : 0) | 64, 4)
        }
        if generator.oneIn(2) { ipv4(depth: 1) } else { ipv6(depth: 1) }
    }

    private mutating func ipv4(depth: Int) {
        let start = bytes.count
        let options = generator.pick([0, 0, 0, 4, 40])
        put(0x40 | UInt64(5 + options / 4), 1)
        put(UInt64(generator.pick([0, 0xB8, 0x10])), 1)
        put(0, 4)
        let fragment: UInt64 = generator.pick([0, 0, 0, 0, 0x4000, 0x2000, 0x2005, 0x0010])
        put(fragment, 2)
        put(UInt64(generator.pick([1, 64, 255])), 1)
        let number = transportNumber(depth: depth)
        put(number, 1)
        put(0, 2)
        for _ in 0..<2 { put(UInt64(generator.pick([0x0A00_0001, 0x0A00_0002, 0x0A00_0101, 0xC0A8_0109])), 4) }
        bytes += [UInt8](repeating: 1, count: options)
        if fragment & 0x1FFF == 0 { transport(number, depth: depth) } else { put(generator.next(), 8) }
        let byteCount = bytes.count - start
        bytes[start + 2] = UInt8(byteCount >> 8)
        bytes[start + 3] = UInt8(byteCount & 0xFF)
    }

    private mutating func ipv6(depth: Int) {
        let start = bytes.count
        put(6 << 28 | UInt64(generator.pick([0, 0xB8])) << 20 | UInt64(generator.pick([0, 1, 0xABCDE])), 4)
        put(0, 2)
        let number = transportNumber(depth: depth)
        let extensions: [UInt64] = generator.pick([[], [], [], [0], [60], [0, 60], [43], [44], [0, 44]])
        let chain = extensions + [number]
        put(chain[0], 1)
        put(UInt64(generator.pick([1, 64, 255])), 1)
        for _ in 0..<2 {
            put(generator.pick([0x2001_0DB8_0000_0000, 0xFE80_0000_0000_0000]), 8)
            put(UInt64(generator.pick([1, 2, 0x101])), 8)
        }
        var isFirst = true
        for (index, extra) in extensions.enumerated() {
            put(chain[index + 1], 1)
            switch extra {
            case 44:
                isFirst = !generator.oneIn(3)
                put(isFirst ? 0x00_0001 : 0x00_0809, 3)
                put(generator.next() & 0xFFFF_FFFF, 4)
            case 43: put(0x00_FD_00_0000_0000, 7)  // an experimental type, no segments left
            default: put(0x00_01_04_0000_0000, 7)  // one padding option
            }
        }
        if isFirst { transport(number, depth: depth) } else { put(generator.next(), 8) }
        let byteCount = bytes.count - start - 40
        bytes[start + 4] = UInt8(byteCount >> 8)
        bytes[start + 5] = UInt8(byteCount & 0xFF)
    }

    private mutating func transportNumber(depth: Int) -> UInt64 {
        generator.pick(depth == 0 ? [6, 6, 17, 17, 17, 50, 47, 47, 4, 41, 59] : [6, 17, 17, 50, 59])
    }

    private mutating func transport(_ number: UInt64, depth: Int) {
        switch number {
        case 6:
            put(UInt64(generator.pick(Self.ports)), 2)
            put(UInt64(generator.pick(Self.ports)), 2)
            put(1, 4)
            put(1, 4)
            put(0x5010_0100_0000_0000, 8)
        case 17: udp(depth: depth)
        case 50:
            put(UInt64(generator.pick([0xC0FFEE, 0x1234_5678])), 4)
            put(UInt64(generator.pick([1, 2])), 4)
            put(generator.next(), 8)
            put(generator.next(), 8)
        case 47: gre()
        case 4: ipv4(depth: 1)
        case 41: ipv6(depth: 1)
        default: break
        }
    }

    private mutating func udp(depth: Int) {
        let start = bytes.count
        let destination = depth == 0 && generator.oneIn(3) ? generator.pick([4789, 6635]) : generator.pick(Self.ports)
        put(UInt64(generator.pick([1024, 4096, 61000])), 2)
        put(UInt64(destination), 2)
        put(0, 4)
        switch destination {
        case 4789:
            put(0x0800_0000, 4)
            put(UInt64(generator.pick([5, 5000, 0xABCDEF])) << 8, 4)
            ethernet(depth: 1)
        case 6635: mpls()
        default: bytes += [UInt8](repeating: 0, count: generator.below(16))
        }
        let byteCount = bytes.count - start
        bytes[start + 4] = UInt8(byteCount >> 8)
        bytes[start + 5] = UInt8(byteCount & 0xFF)
    }

    private mutating func gre() {
        let flags: UInt64 = generator.pick([0, 0x2000, 0x3000, 0xB000, 0x1000])
        let type = generator.pick([0x0800, 0x86DD, 0x6558, 0x8847])
        put(flags, 2)
        put(UInt64(type), 2)
        if flags & 0x8000 != 0 { put(0, 4) }
        if flags & 0x2000 != 0 { put(UInt64(generator.pick([7, 0x0102_0304])), 4) }
        if flags & 0x1000 != 0 { put(1, 4) }
        switch type {
        case 0x0800: ipv4(depth: 1)
        case 0x86DD: ipv6(depth: 1)
        case 0x6558: ethernet(depth: 1)
        default: mpls()
        }
    }
}
