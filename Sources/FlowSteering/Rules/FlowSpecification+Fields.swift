// SPDX-License-Identifier: Apache-2.0

/// One field of a specification by its name in the textual form, with how it is written and where it is kept.
struct FieldLayout<Root>: Sendable {
    let name: String
    let format: FieldFormat
    /// The width of the field in the packet.
    let bitCount: Int
    let read: @Sendable (Root) -> (value: UInt128, mask: UInt128)
    let write: @Sendable (inout Root, UInt128, UInt128) -> Void

    init<Value>(
        _ name: String, _ format: FieldFormat, bitCount: Int? = nil,
        _ path: any WritableKeyPath<Root, FlowPattern<Value>> & Sendable
    ) {
        self.name = name
        self.format = format
        self.bitCount = bitCount ?? Value.bitWidth
        read = { (UInt128($0[keyPath: path].value), UInt128($0[keyPath: path].mask)) }
        write = { root, value, mask in
            root[keyPath: path] = FlowPattern(Value(truncatingIfNeeded: value), mask: Value(truncatingIfNeeded: mask))
        }
    }
}

/// A specification whose fields are listed, so that text and validation are written once for all.
protocol FieldListing: Hashable, Sendable {
    static var fields: [FieldLayout<Self>] { get }
    init()
}

extension EthernetSpecification: FieldListing {
    init() { self.init(destination: .any) }
    static let fields = [
        FieldLayout<Self>("dst", .mac, bitCount: 48, \.destination.bits),
        FieldLayout("src", .mac, bitCount: 48, \.source.bits),
        FieldLayout("type", .hexadecimal, \.etherType),
        FieldLayout("vlan-tag", .hexadecimal, \.vlanTag),
    ]
}

extension IPv4Specification: FieldListing {
    init() { self.init(source: .any) }
    static let fields = [
        FieldLayout<Self>("src", .ipv4, \.source.bits),
        FieldLayout("dst", .ipv4, \.destination.bits),
        FieldLayout("proto", .decimal, \.nextProtocol),
        FieldLayout("tos", .hexadecimal, \.typeOfService),
        FieldLayout("ttl", .decimal, \.timeToLive),
        FieldLayout("flags", .hexadecimal, bitCount: 3, \.flags),
    ]
}

extension IPv6Specification: FieldListing {
    init() { self.init(source: .any) }
    static let fields = [
        FieldLayout<Self>("src", .ipv6, \.source.bits),
        FieldLayout("dst", .ipv6, \.destination.bits),
        FieldLayout("flow-label", .hexadecimal, bitCount: 20, \.flowLabel),
        FieldLayout("next-header", .decimal, \.nextHeader),
        FieldLayout("class", .hexadecimal, \.trafficClass),
        FieldLayout("hop-limit", .decimal, \.hopLimit),
    ]
}

extension PortSpecification: FieldListing {
    init() { self.init(source: .any) }
    static let fields = [
        FieldLayout<Self>("src-port", .decimal, \.source),
        FieldLayout("dst-port", .decimal, \.destination),
    ]
}

extension ESPSpecification: FieldListing {
    init() { self.init(sequence: .any) }
    static let fields = [
        FieldLayout<Self>("spi", .hexadecimal, \.securityParametersIndex),
        FieldLayout("seq", .decimal, \.sequence),
    ]
}

extension VXLANSpecification: FieldListing {
    init() { self.init(networkIdentifier: .any) }
    static let fields = [FieldLayout<Self>("vni", .decimal, bitCount: 24, \.networkIdentifier)]
}

extension GRESpecification: FieldListing {
    init() { self.init(key: .any) }
    static let fields = [
        FieldLayout<Self>("flags", .hexadecimal, \.flagsAndVersion),
        FieldLayout("type", .hexadecimal, \.nextProtocol),
        FieldLayout("key", .hexadecimal, \.key),
    ]
}

extension MPLSSpecification: FieldListing {
    init() { self.init(entry: .any) }
    static let fields = [FieldLayout<Self>("entry", .hexadecimal, \.entry)]
}

/// A field of a rule as text and validation see it.
struct FieldView {
    let name: String
    let format: FieldFormat
    let bitCount: Int
    let value: UInt128
    let mask: UInt128

    var text: String { format.text(value, mask, bitCount: bitCount) }
}

extension FlowSpecification.Header {
    /// The word of the textual form.
    var name: String {
        switch self {
        case .ethernet: "eth"
        case .ipv4: "ip"
        case .ipv6: "ip6"
        case .tcp: "tcp"
        case .udp: "udp"
        case .esp: "esp"
        case .vxlan: "vxlan"
        case .gre: "gre"
        case .mpls: "mpls"
        }
    }

    /// One of each, without fields.
    static let all: [FlowSpecification.Header] = [
        .ethernet(.init()), .ipv4(.init()), .ipv6(.init()), .tcp(.init()), .udp(.init()), .esp(.init()),
        .vxlan(.init()),
        .gre(.init()), .mpls(.init()),
    ]

    /// All fields, named ones and others.
    var fields: [FieldView] {
        func views<Root: FieldListing>(_ root: Root) -> [FieldView] {
            Root.fields.map { field in
                let (value, mask) = field.read(root)
                return FieldView(
                    name: field.name, format: field.format, bitCount: field.bitCount, value: value, mask: mask)
            }
        }
        switch self {
        case .ethernet(let root): return views(root)
        case .ipv4(let root): return views(root)
        case .ipv6(let root): return views(root)
        case .tcp(let root), .udp(let root): return views(root)
        case .esp(let root): return views(root)
        case .vxlan(let root): return views(root)
        case .gre(let root): return views(root)
        case .mpls(let root): return views(root)
        }
    }

    /// The same header with another pattern in the field at `index` of ``fields``.
    func setting(_ index: Int, to value: UInt128, mask: UInt128) -> Self {
        func changed<Root: FieldListing>(_ root: Root) -> Root {
            var copy = root
            Root.fields[index].write(&copy, value, mask)
            return copy
        }
        switch self {
        case .ethernet(let root): return .ethernet(changed(root))
        case .ipv4(let root): return .ipv4(changed(root))
        case .ipv6(let root): return .ipv6(changed(root))
        case .tcp(let root): return .tcp(changed(root))
        case .udp(let root): return .udp(changed(root))
        case .esp(let root): return .esp(changed(root))
        case .vxlan(let root): return .vxlan(changed(root))
        case .gre(let root): return .gre(changed(root))
        case .mpls(let root): return .mpls(changed(root))
        }
    }
}
