// SPDX-License-Identifier: Apache-2.0

extension FlowRule {
    /// Throws if no device could have this rule: what `ibv_create_flow` would answer with `EINVAL`, said by name.
    ///
    /// Whether a certain place can carry a rule out is for that place to say.
    public func validate() throws(FlowRuleError) {
        try validateKind()
        try validateActions()
        for specification in specifications { try specification.validate() }
        try validateOrder()
        try validateNeeds(isInner: false)
        try validateNeeds(isInner: true)
        try validateTunnel()
        if devicePort == 0 {
            throw FlowRuleError("device-port", .fieldTooNarrow, "ports are numbered from 1", remedy: "give 1 or more")
        }
    }

    private func validateKind() throws(FlowRuleError) {
        guard kind != .normal else { return }
        if let first = specifications.first {
            throw FlowRuleError(
                first.name, .conflict, "a rule of the type \(kind.name) takes no headers",
                remedy: "leave the headers out, or make it a normal rule with a high priority number")
        }
        if doesNotTrap {
            throw FlowRuleError(
                "dont-trap", .conflict, "nothing comes behind a rule of the type \(kind.name)",
                remedy: "leave it out: only normal rules have it")
        }
    }

    private func validateActions() throws(FlowRuleError) {
        guard drops else { return }
        if tag != nil {
            throw FlowRuleError(
                "action tag", .conflict, "a dropped packet has no completion to carry a tag",
                remedy: "leave out the tag or the drop")
        }
        if doesNotTrap {
            throw FlowRuleError(
                "dont-trap", .conflict, "a rule cannot both drop a packet and leave it to others",
                remedy: "leave out the drop; `action count` alone counts without taking")
        }
        if kind == .sniffer {
            throw FlowRuleError(
                "action drop", .conflict, "a sniffer has copies only",
                remedy: "use `all-default action drop` to end what no rule takes")
        }
    }

    private func validateOrder() throws(FlowRuleError) {
        for (before, after) in zip(specifications, specifications.dropFirst()) {
            if before.layer > after.layer {
                throw FlowRuleError(
                    after.name, .order, "stands behind \(before.name), which it encloses in a packet",
                    remedy: "put \(after.name) before \(before.name)")
            }
            if before.layer == after.layer {
                throw FlowRuleError(
                    after.name, .conflict,
                    before.header.name == after.header.name
                        ? "is there twice" : "no packet has both \(before.name) and \(after.name)",
                    remedy: before.header.name == after.header.name
                        ? "put all fields into one" : "make two rules, one for each")
            }
        }
    }

    /// What a header needs below it, and what that must not say.
    private func validateNeeds(isInner: Bool) throws(FlowRuleError) {
        let own = specifications.filter { $0.isInner == isInner }
        let ethernet = own.lazy.compactMap { if case .ethernet(let header) = $0.header { header } else { nil } }.first
        let network = own.first { $0.layer == (isInner ? .innerNetwork : .network) }
        let transport = own.first { $0.layer == (isInner ? .innerTransport : .transport) }
        let prefix = isInner ? "inner " : ""
        if let transport, network == nil {
            throw FlowRuleError(
                transport.name, .missing, "which IP is below is not said",
                remedy: "add `\(prefix)ip` or `\(prefix)ip6`; without a field it takes any address")
        }
        guard let network else { return }
        let etherType: UInt16 = if case .ipv4 = network.header { 0x0800 } else { 0x86DD }
        if let ethernet, !ethernet.etherType.matches(etherType) {
            throw FlowRuleError(
                "\(prefix)eth type", .conflict,
                "\(FieldFormat.hexadecimal.valueText(UInt128(ethernet.etherType.value))) is not that of \(network.name)",
                remedy: "leave it out: \(network.name) says it")
        }
        guard let transport else { return }
        let (name, pattern): (String, FlowPattern<UInt8>) =
            switch network.header {
            case .ipv4(let header): ("\(network.name) proto", header.nextProtocol)
            case .ipv6(let header): ("\(network.name) next-header", header.nextHeader)
            default: ("", .any)
            }
        let number: UInt8 =
            switch transport.header {
            case .tcp: 6
            case .udp: 17
            default: 50
            }
        if !pattern.matches(number) {
            throw FlowRuleError(
                name, .conflict, "\(pattern.value) is not that of \(transport.name), which is \(number)",
                remedy: "leave it out: \(transport.name) says it")
        }
    }

    private func validateTunnel() throws(FlowRuleError) {
        guard let tunnel = specifications.first(where: { $0.layer == .tunnel }),
            let transport = specifications.first(where: { $0.layer == .transport })
        else { return }
        if case .vxlan = tunnel.header, case .udp(let ports) = transport.header {
            if ports.destination.matches(VXLANSpecification.port) { return }
            throw FlowRuleError(
                "udp dst-port", .conflict, "\(ports.destination.value) is not that of VXLAN, which is 4789",
                remedy: "leave it out: vxlan says it")
        }
        throw FlowRuleError(
            tunnel.name, .conflict, "no packet has both \(transport.name) and \(tunnel.name)",
            remedy: "leave out \(transport.name), or mark it with `inner` if it is inside of the tunnel")
    }
}

extension FlowRule.Kind {
    /// The word of the textual form.
    package var name: String {
        switch self {
        case .normal: "normal"
        case .allDefault: "all-default"
        case .multicastDefault: "multicast-default"
        case .sniffer: "sniffer"
        }
    }
}

extension VXLANSpecification {
    /// The port that IANA gave it.
    static let port: UInt16 = 4789
}

extension FlowSpecification {
    func validate() throws(FlowRuleError) {
        if isInner, layer == .tunnel || layer == .label {
            throw FlowRuleError(
                name, .conflict, "only headers inside of the first tunnel can be told, and this is a tunnel itself",
                remedy: "leave out `inner`")
        }
        for field in header.fields {
            let place = "\(name) \(field.name)"
            let ones = FieldFormat.ones(field.bitCount)
            if field.mask & ~ones != 0 || field.value & ~ones != 0 {
                throw FlowRuleError(
                    place, .fieldTooNarrow,
                    "\(field.format.valueText(field.value)) with this mask does not fit in \(field.bitCount) bits",
                    remedy: "give a value and a mask up to \(field.format.valueText(ones))")
            }
            if field.value & ~field.mask != 0 {
                let fixed = field.format.text(field.value & field.mask, field.mask, bitCount: field.bitCount)
                throw FlowRuleError(
                    place, .valueOutsideMask, "\(field.text) has bits outside of its mask",
                    remedy: field.mask == 0 ? "leave the field out to take any value" : "write \(fixed)")
            }
        }
        if case .ipv4(let header) = header, header.flags.value & 1 != 0 {
            throw FlowRuleError(
                "\(name) flags", .fieldTooNarrow, "bit 0 means nothing",
                remedy: "0x2 is don't fragment, 0x4 is more fragments")
        }
    }
}
