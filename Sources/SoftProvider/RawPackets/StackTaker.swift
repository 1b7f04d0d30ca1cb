// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowPrograms
import FlowSteering
import PacketIO
import VerbsABI

/// Takes the flows of sockets that see every frame away from the kernel's stack: a program on the interface's TC ingress, which is
/// behind those sockets, drops what a rule has for itself.
///
/// A frame that any such rule matches is taken, whichever of them acts: so the rules need no order, and one that the program cannot
/// carry out is copied while the others are taken. The program hangs on a BPF link, and goes with the process.
struct StackTaker: ~Copyable {
    private var table: XDPRuleTable?
    /// Why there is no table.
    private let reason: String
    /// Why the stack still sees the frames of a rule.
    private var reasons: [FlowID: String] = [:]
    /// Rules that had no room.
    private var waiting = RuleQueue()
    /// Waiting rules that one removed rule makes way for, if one of them fits: bounds the time.
    private static let waitingTriesMax = 16
    private var age: UInt64 = 0

    /// - Throws: in the exclusive mode, in which the stack has nothing, where it cannot be.
    init(_ interface: NetworkInterface, mode: ProviderFlowMode) throws(FramePlaceRefusal) {
        do throws(FramePlaceRefusal) {
            table = try Self.open(interface, mode)
            reason = ""
        } catch {
            guard mode != .exclusive else {
                throw FramePlaceRefusal(
                    "the exclusive mode needs XDP or TC: \(error.reason)", isOfPrivilege: error.isOfPrivilege)
            }
            table = nil
            reason = error.reason
        }
    }

    private static func open(
        _ interface: NetworkInterface, _ mode: ProviderFlowMode
    ) throws(FramePlaceRefusal) -> XDPRuleTable {
        let missing = Capability.missing(of: [.netAdmin, .bpf])
        guard missing.isEmpty else {
            throw FramePlaceRefusal(
                "taking flows from the kernel's stack needs \(missing.map(\.name).joined(separator: ", ")): run as root, or give the program the capabilities",
                isOfPrivilege: true)
        }
        var options = XDPRuleTable.Options()
        options.kind = .ingress
        // Rules wait for room: each mask that goes makes way for another one.
        options.exchangesMasks = true
        options.missVerdict = mode == .exclusive ? .drop : .pass
        do throws(PacketIOError) {
            var table = try XDPRuleTable(options)
            try table.attach(to: interface.index, mode: .ingress)
            return table
        } catch {
            switch error {
            case .system(let call, EPERM):
                throw FramePlaceRefusal(
                    "the kernel refuses \(call): capabilities of a user namespace do not count for bpf; run as root outside of it",
                    isOfPrivilege: true)
            case .system(let call, EINVAL) where call.contains("BPF_LINK_CREATE"):
                throw FramePlaceRefusal(
                    "taking flows from the kernel's stack needs Linux 6.6 (TC programs by BPF links)")
            default: throw FramePlaceRefusal(error.description)
            }
        }
    }

    /// Takes what a rule has for itself, if that can be.
    mutating func insert(_ rule: FlowRule, _ id: FlowID) {
        guard table != nil else {
            reasons[id] = reason
            return
        }
        guard rule.kind != .sniffer, !rule.doesNotTrap else {
            reasons[id] = "the rule asks for copies"
            return
        }
        var taken = rule
        taken.drops = true
        taken.tag = nil
        taken.counts = false
        insert(XDPRule(taken, id: id, order: FlowOrder(taken, age: age)))
        age += 1
    }

    private mutating func insert(_ rule: XDPRule) {
        do throws(XDPRuleError) {
            try table?.insert([rule])
            reasons[rule.id] = nil
        } catch {
            reasons[rule.id] = error.description
            if case .unsupported = error { return }
            waiting.append(rule)
        }
    }

    mutating func remove(_ id: FlowID) {
        waiting.remove(id)
        if reasons.removeValue(forKey: id) != nil { return }
        do throws(XDPRuleError) {
            _ = try table?.remove(id)
        } catch {
            // For want of memory for another program: nothing is taken that nobody has.
            table = nil
            return
        }
        insertNextWaiting()
    }

    private mutating func insertNextWaiting() {
        for _ in 0..<min(waiting.count, Self.waitingTriesMax) {
            guard let next = waiting.popFirst() else { return }
            if hasRoom(for: next) { return insert(next) }
            waiting.append(next)
        }
    }

    private func hasRoom(for rule: XDPRule) -> Bool {
        switch table {
        case .some(let table): table.hasRoom(for: rule)
        case nil: false
        }
    }

    /// The kernel's number of the program; `nil` where there is none.
    var programID: Int? {
        switch table {
        case .some(let table): table.programID
        case nil: nil
        }
    }

    /// Why the kernel's stack still sees the frames of a rule; `nil` where it does not.
    func reasonForCopies(of id: FlowID) -> String? {
        table == nil && reason.isEmpty ? "the kernel has no memory for the TC program" : reasons[id]
    }
}

/// Rules in the order in which they came, any of which may go.
private struct RuleQueue {
    private var rules: [UInt64: XDPRule] = [:]
    private var places: [FlowID: UInt64] = [:]
    private var first: UInt64 = 0
    private var end: UInt64 = 0

    var count: Int { rules.count }

    mutating func append(_ rule: XDPRule) {
        rules[end] = rule
        places[rule.id] = end
        end += 1
    }

    mutating func remove(_ id: FlowID) {
        if let place = places.removeValue(forKey: id) { rules[place] = nil }
    }

    mutating func popFirst() -> XDPRule? {
        while first < end {
            defer { first += 1 }
            guard let rule = rules.removeValue(forKey: first) else { continue }
            places[rule.id] = nil
            return rule
        }
        return nil
    }
}
