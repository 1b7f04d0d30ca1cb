// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import RoCEWire

extension FuzzTarget {
    /// The check of what is sent, on frames that want to look as if they were of the captures' first end, 02:00:0a:09:02:01.
    static let sources = FuzzTarget(name: "sources", seeds: { $0 + neighbours }) { bytes in
        let frame = UnsafeRawBufferPointer(rebasing: bytes.prefix(SourceCheck.headerByteCountMax))
        let verdict = strict.verdict(on: frame.bytes)
        require((verdict == .tooShort) == (bytes.count < 14), "the length of \(bytes.count) bytes is \(verdict)")
        var lenient = strict
        lenient.allowsOtherTypes = true
        let other = lenient.verdict(on: frame.bytes)
        require(other == (verdict == .otherType ? .allowed : verdict), "other types change \(verdict) to \(other)")
        let whole = everything.verdict(on: frame.bytes)
        require([.allowed, .unreadable, .tooShort].contains(whole), "where all is allowed, \(whole)")
        guard verdict == .allowed else { return }
        require(whole == .allowed, "what is allowed to one is \(whole) to all")
        // Another reader of headers, on all of the frame.
        let summary = FrameSummary(of: bytes.bytes)
        require(summary.source.rawValue == 0x0200_0A09_0201, "a frame of \(summary.source) passed")
        if summary.etherType == 0x0806 { return }
        let address = summary.from?.address ?? "nobody"
        require(address == "10.9.2.1" || address.hasPrefix("fe80::"), "a frame of \(address) passed")
    }

    private static let strict = SourceCheck(ethernet: ["02:00:0a:09:02:01"], ipv4: ["10.9.2.1"], ipv6: ["fe80::/64"])
    private static let everything = SourceCheck(ethernet: [.any], ipv4: [.any], ipv6: [.any], otherTypes: true)

    /// An ARP request (RFC 826), and a neighbour advertisement (RFC 4861) behind hop-by-hop options, of the same end.
    private static let neighbours: [[UInt8]] = [
        [UInt8](repeating: 0xFF, count: 6) + [
            2, 0, 10, 9, 2, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 10, 9, 2, 1, 10, 9, 2, 1,
        ]
            + [0, 0, 0, 0, 0, 0, 10, 9, 2, 2],
        [2, 0, 10, 9, 2, 2, 2, 0, 10, 9, 2, 1, 0x86, 0xDD, 0x60, 0, 0, 0, 0, 40, 0, 255] + address(1) + address(2)
            + [58, 0, 1, 4, 0, 0, 0, 0, 136, 0, 0, 0, 0x60, 0, 0, 0] + address(1) + [2, 1, 2, 0, 10, 9, 2, 1],
    ]

    private static func address(_ last: UInt8) -> [UInt8] { [0xFE, 0x80] + [UInt8](repeating: 0, count: 13) + [last] }
}
