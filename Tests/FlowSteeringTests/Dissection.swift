// SPDX-License-Identifier: Apache-2.0
import Foundation

@testable import FlowSteering

/// What tshark makes of a capture: for each frame and field, the values from the outside in.
struct Dissection {
    static let program = ["/usr/bin/tshark", "/usr/local/bin/tshark"].first(
        where: FileManager.default.isExecutableFile(atPath:))

    let frames: [[String: [String]]]

    static let fields = [
        "eth.dst", "eth.src", "vlan.id", "vlan.priority", "ieee8021ad.id", "ieee8021ad.priority", "ip.src", "ip.dst",
        "ip.proto", "ip.dsfield", "ip.ttl",
        "ip.flags.df", "ip.flags.mf", "ipv6.src", "ipv6.dst", "ipv6.flow", "ipv6.tclass", "ipv6.hlim", "tcp.srcport",
        "tcp.dstport", "udp.srcport", "udp.dstport", "esp.spi", "esp.sequence", "gre.proto", "gre.key",
        "gre.flags_and_version", "vxlan.vni", "mpls.label", "mpls.exp", "mpls.bottom", "mpls.ttl", "frame.protocols",
        "arp.src.hw_mac", "arp.src.proto_ipv4", "icmpv6.nd.na.target_address", "icmpv6.opt.linkaddr",
    ]

    init(of capture: URL) throws {
        let process = Process()
        process.executableURL = URL(filePath: Self.program ?? "/nonexistent")
        process.arguments =
            [
                "-n", "-r", capture.path, "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=,", "-E",
                "separator=/t",
            ]
            + ["ip.defragment", "ipv6.defragment", "tcp.desegment_tcp_streams"].flatMap { ["-o", "\($0):FALSE"] }
            + Self.fields.flatMap { ["-e", $0] }
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        frames = text.split(separator: "\n").map { line in
            let cells = line.split(separator: "\t", omittingEmptySubsequences: false)
            return Dictionary(
                uniqueKeysWithValues: zip(Self.fields, cells.map { $0.split(separator: ",").map(String.init) }))
        }
    }

    /// A number as tshark writes it.
    static func number(_ text: String) -> UInt64? {
        if text == "True" { return 1 }
        if text == "False" { return 0 }
        return text.hasPrefix("0x") ? UInt64(text.dropFirst(2), radix: 16) : UInt64(text)
    }

    /// Classic little-endian pcap of Ethernet frames, which tshark reads and tcpdump writes.
    static func write(_ frames: [[UInt8]], to file: URL) throws {
        func word(_ value: Int) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) } }
        var bytes = word(0xA1B2_C3D4) + [2, 0, 4, 0] + word(0) + word(0) + word(65535) + word(1)
        for frame in frames { bytes += word(0) + word(0) + word(frame.count) + word(frame.count) + frame }
        try Data(bytes).write(to: file)
    }

    static func frames(of capture: URL) throws -> [[UInt8]] {
        let bytes = try [UInt8](Data(contentsOf: capture))
        func word(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[at + $1]) << ($1 * 8) } }
        var frames: [[UInt8]] = []
        var offset = 24
        while offset + 16 <= bytes.count {
            let end = offset + 16 + word(offset + 8)
            frames.append(Array(bytes[offset + 16..<end]))
            offset = end
        }
        return frames
    }
}

/// The same values out of a key: outer, then inner, where the header is there.
struct KeyDissection {
    let key: FlowKey

    private func both(_ layer: FlowLayers, _ field: FlowKeyField, _ and: FlowLayers = []) -> [UInt64] {
        [false, true].filter { key.layers(inner: $0).isSuperset(of: layer.union(and)) }.map { key[field, inner: $0] }
    }

    private func addresses(_ high: FlowKeyField, _ low: FlowKeyField) -> [String] {
        [false, true].filter { key.layers(inner: $0).contains(.ipv6) }.map {
            IPv6Pattern(FlowPattern(exactly: UInt128(key[high, inner: $0]) << 64 | UInt128(key[low, inner: $0])))
                .description
        }
    }

    /// Numbers by tshark's name. Where tshark lists more (a second tag, a second MPLS entry) only the first counts.
    var numbers: [(field: String, values: [UInt64], onlyFirst: Bool)] {
        let flags = both(.ipv4, .ipv4Flags)
        let mpls = both(.mpls, .mplsEntry)
        let tag = both(.tag, .tag)
        return [
            ("vlan.id", tag.map { $0 & 0xFFF }, true), ("vlan.priority", tag.map { $0 >> 13 }, true),
            ("ip.proto", both(.ipv4, .nextProtocol), false), ("ip.dsfield", both(.ipv4, .trafficClass), false),
            ("ip.ttl", both(.ipv4, .hopLimit), false), ("ip.flags.df", flags.map { $0 >> 1 & 1 }, false),
            ("ip.flags.mf", flags.map { $0 >> 2 & 1 }, false),
            ("ipv6.flow", both(.ipv6, .flowLabel), false), ("ipv6.tclass", both(.ipv6, .trafficClass), false),
            ("ipv6.hlim", both(.ipv6, .hopLimit), false),
            ("tcp.srcport", both(.tcp, .sourcePort, .transportFields), false),
            ("tcp.dstport", both(.tcp, .destinationPort, .transportFields), false),
            ("udp.srcport", both(.udp, .sourcePort, .transportFields), false),
            ("udp.dstport", both(.udp, .destinationPort, .transportFields), false),
            ("esp.spi", both(.esp, .espIndex, .transportFields), false),
            ("esp.sequence", both(.esp, .espSequence, .transportFields), false),
            ("gre.proto", both(.gre, .greProtocol, .transportFields), false),
            ("gre.flags_and_version", both(.gre, .greFlags, .transportFields), false),
            ("vxlan.vni", both(.vxlan, .vxlanIdentifier), false),
            ("mpls.label", mpls.map { $0 >> 12 }, true), ("mpls.exp", mpls.map { $0 >> 9 & 7 }, true),
            ("mpls.bottom", mpls.map { $0 >> 8 & 1 }, true), ("mpls.ttl", mpls.map { $0 & 0xFF }, true),
        ]
    }

    /// Texts by tshark's name.
    var texts: [(field: String, values: [String])] {
        func macs(_ field: FlowKeyField) -> [String] {
            both(.ethernet, field).map { MACPattern(FlowPattern($0, mask: 0xFFFF_FFFF_FFFF)).description }
        }
        func dotted(_ field: FlowKeyField) -> [String] {
            both(.ipv4, field).map {
                IPv4Pattern(FlowPattern(exactly: UInt32(truncatingIfNeeded: $0))).description
            }
        }
        return [
            ("eth.dst", macs(.ethernetDestination)), ("eth.src", macs(.ethernetSource)),
            ("ip.src", dotted(.ipv4Source)), ("ip.dst", dotted(.ipv4Destination)),
            ("ipv6.src", addresses(.ipv6SourceHigh, .ipv6SourceLow)),
            ("ipv6.dst", addresses(.ipv6DestinationHigh, .ipv6DestinationLow)),
        ]
    }

    /// Where tshark sees something else.
    func differences(from frame: [String: [String]]) -> [String] {
        var found: [String] = []
        for (field, values) in texts where frame[field, default: []] != values {
            found.append("\(field): tshark \(frame[field, default: []]), key \(values)")
        }
        let protocols = frame["frame.protocols", default: []].first?.split(separator: ":") ?? []
        for (field, values, onlyFirst) in numbers {
            var name = field
            if field.hasPrefix("vlan."), protocols.first(where: { $0 == "vlan" || $0 == "ieee8021ad" }) == "ieee8021ad"
            {
                name = field.replacing("vlan", with: "ieee8021ad")
            }
            var expected = frame[name, default: []].compactMap(Dissection.number)
            if onlyFirst { expected = Array(expected.prefix(1)) }
            if (onlyFirst ? Array(values.prefix(1)) : values) != expected {
                found.append("\(field): tshark \(expected), key \(values)")
            }
        }
        return found
    }
}
