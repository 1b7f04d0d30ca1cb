// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// Flow rules carried out by an XDP program that the library writes itself: frames go to AF_XDP sockets, end, or go on to the
/// kernel's stack, as ``FlowModel`` says of the same rules and the same bytes.
///
/// ```
/// init ──► setSocket(_:to:) for each queue ──► insert ──► attach(to:mode:) ──► insert, remove, counters
/// ```
/// What it cannot carry out it refuses as a whole, with the rule's name (``XDPRuleError``), and stays as it was: a rule that wants
/// copies (sniffers, rules that do not trap, a second default rule behind one that delivers) or headers in and behind tunnels
/// (VXLAN, GRE, MPLS, inner headers), and a set with more than 16 masks. Tags are the receiver's: a frame names its rule
/// (``Options/marksFrames``).
///
/// Up to four normal rules are part of the program, so each change makes a new one, which replaces the old one between two
/// frames. Of more, a rule whose mask another rule has is inserted and removed by a change of a map, a few microseconds; another
/// mask, and default rules, need a new program; with ``Options/exchangesMasks`` a mask does only where it looks at what the program
/// does not read yet, which it then reads from that time on. A frame that is just being looked up while a rule is removed may still go by it.
///
/// A tag that the driver has taken out of the frame (`ethtool -k`: rx-vlan-offload) XDP does not see. One thread at a time.
///
/// With ``Options/kind`` `ingress` the same program runs on the kernel's packets, behind the sockets that see every frame: all
/// its rules must drop.
package struct XDPRuleTable: ~Copyable {
    /// How a table is made.
    package struct Options: Sendable {
        /// What program it is.
        package var kind = BPFProgram.Kind.xdp
        /// Entries of the socket map: the receive queues of the interface, and further sockets that rules name.
        package var socketCount = 64
        /// The most rules.
        package var ruleCountMax = 4096
        /// What becomes of frames that no rule takes: `pass` to the kernel's stack, or `drop` where the interface is exclusive.
        package var missVerdict = BPFProgram.Verdict.pass
        /// Whether delivered frames carry the rule's identifier in the bytes before them (``XDPFrames/mark``) where there are several
        /// rules. Not where those bytes are the application's.
        package var marksFrames = false
        /// Whether frames may lie in several buffers: needed for an MTU of over 3,400 bytes, and slower.
        package var takesFragments = false
        /// Whether headers are read where they are, by addresses that the program computes, which the kernel allows with CAP_PERFMON alone.
        /// Without it the kernel copies them out (Linux 5.18), as it does with fragments.
        package var readsInPlace = Capability.missing(of: [.performance]).isEmpty
        /// Whether a program that looks rules up stays when their masks change, which costs each frame some nanoseconds a mask: another
        /// program takes the kernel milliseconds to check.
        package var exchangesMasks = false

        package init() {}
    }

    /// What a rule has counted.
    package struct Counters: Sendable, Equatable {
        package var packets: UInt64
        /// From the Ethernet header on.
        package var bytes: UInt64

        package init(packets: UInt64, bytes: UInt64) {
            self.packets = packets
            self.bytes = bytes
        }
    }

    private struct Entry {
        let rule: XDPRule
        let pattern: FlowKeyPattern
        let record: UInt32
    }

    /// Packets, and bytes.
    package static let countWords = 2

    private let options: Options
    private let records: BPFSharedArray
    /// `nil` in TC, which has no sockets to give packets to.
    private let sockets: BPFMap?
    private var engine: Engine
    private var attachment: XDPAttachment?
    private var entries: [FlowID: Entry] = [:]
    /// Normal rules that say the same of a packet, the best first: the map has that one.
    private var holders: [FlowKeyPattern: [Entry]] = [:]
    /// Normal rules by the mask that they have.
    private var countOfMask: [FlowKey: Int] = [:]
    /// Rules removed since some bound of the search could be higher.
    private var staleBounds = 0
    /// Numbers of records that no rule has; the one that is free for the longest time comes first.
    private var freeRecords: [UInt32]

    /// A table without rules.
    ///
    /// - Throws: EPERM without CAP_BPF and CAP_NET_ADMIN.
    package init(_ options: Options = Options()) throws(PacketIOError) {
        let records = try BPFSharedArray(entryCount: options.ruleCountMax, wordCount: Self.countWords)
        let sockets: BPFMap? =
            options.kind == .xdp
            ? try BPFMap(.sockets, keyBytes: 4, valueBytes: 4, entryCount: options.socketCount) : nil
        engine = try Engine(XDPRulePlan(), [], options: options, records: records, sockets: sockets)
        self.records = records
        self.sockets = sockets
        self.options = options
        freeRecords = Array(0..<UInt32(options.ruleCountMax))
    }

    /// Rules in the table.
    package var ruleCount: Int { entries.count }

    /// Whether there is room for a rule: ``insert(_:)`` would not refuse it for the number of rules or of masks.
    package func hasRoom(for rule: XDPRule) -> Bool {
        guard !freeRecords.isEmpty else { return false }
        return rule.rule.kind != .normal || countOfMask.count < XDPRulePlan.maskCountMax
            || countOfMask[FlowKeyPattern(rule.rule).mask] != nil
    }

    /// Makes an AF_XDP socket an entry of the socket map. The kernel forgets it when the socket is closed.
    package func setSocket(_ index: Int, to descriptor: Int32) throws(PacketIOError) {
        try sockets?.set(UInt32(index), to: UInt32(bitPattern: descriptor))
    }

    /// Puts the program on an interface of the calling thread's network namespace, until the table goes.
    ///
    /// - Throws: EBUSY or EEXIST where the interface has a program; EOPNOTSUPP where the driver has no native XDP; ERANGE where
    ///   the MTU needs ``Options/takesFragments``.
    package mutating func attach(to interface: Int, mode: XDPAttachment.Mode) throws(PacketIOError) {
        attachment = try XDPAttachment(engine.program, interface: interface, mode: mode)
    }

    /// What holds the program on the interface, to be passed to another process; `nil` where it is on none.
    package var attachmentDescriptor: Int32? {
        switch attachment {
        case .some(let attachment): attachment.descriptor
        case nil: nil
        }
    }

    /// The array that rules count in, to be passed to another process: ``Options/ruleCountMax`` entries of ``countWords`` words.
    package var countsDescriptor: Int32 { records.number }

    /// The entry of that array that a rule counts in, packets and bytes; `nil` for no such rule.
    package func countsEntry(of id: FlowID) -> Int? { entries[id].map { Int($0.record) } }

    /// Takes the program off the interface: all frames go to the kernel's stack.
    package mutating func detach() { attachment = nil }

    /// What the program says of a frame of at least 14 bytes, without an interface; it counts like any other.
    package func verdict(on frame: [UInt8]) -> BPFProgram.Verdict? { engine.program.verdict(on: frame) }

    /// The kernel's number of the program, as `ip link` shows it.
    package var programID: Int { engine.program.id }

    /// What a rule has counted since it was inserted; `nil` for no such rule.
    package func counters(of id: FlowID) -> Counters? {
        guard let entry = entries[id] else { return nil }
        let record = Int(entry.record)
        return Counters(packets: records[record, 0], bytes: records[record, 1])
    }
}

// MARK: - Changes

extension XDPRuleTable {
    /// Adds valid rules: all of them, or none where it throws. With many rules one call is much cheaper than many.
    package mutating func insert(_ rules: [XDPRule]) throws(XDPRuleError) {
        guard rules.count <= freeRecords.count else { throw .full(maximum: options.ruleCountMax) }
        var known = Set<FlowID>()
        for rule in rules {
            precondition(rule.socket.map { (0..<options.socketCount).contains($0) } ?? true, "a socket of the map")
            guard entries[rule.id] == nil, known.insert(rule.id).inserted else { throw .duplicate(rule.id) }
            try XDPRulePlan.check(rule)
            // Before anything is computed of all rules: there may be thousands like it.
            guard hasRoom(for: rule) else {
                throw .masks(rule.id, rule: rule.rule.description, maximum: XDPRulePlan.maskCountMax)
            }
            precondition(options.kind == .xdp || rule.rule.drops, "in TC there is nobody to deliver to")
        }
        let added = zip(rules, freeRecords).map { rule, record in
            Entry(rule: rule, pattern: FlowKeyPattern(rule.rule), record: record)
        }
        for entry in added {
            for word in 0..<Self.countWords { records[Int(entry.record), word] = 0 }
        }
        if admit(added) {
            try addToMap(added)
        } else {
            try replaceEngine(Array(entries.values) + added)
        }
        freeRecords.removeFirst(rules.count)
        for entry in added { commit(entry) }
    }

    /// Removes a rule; `false` if it is not there.
    @discardableResult
    package mutating func remove(_ id: FlowID) throws(XDPRuleError) -> Bool {
        guard let entry = entries[id] else { return false }
        if entry.rule.rule.kind != .normal || !engine.looksUp {
            try replaceEngine(entries.values.filter { $0.rule.id != id })
        }
        if entry.rule.rule.kind == .normal {
            let rest = holders[entry.pattern, default: []].filter { $0.rule.id != id }
            do {
                try engine.setFirst(rest.first, of: entry.pattern)
            } catch {
                throw .system(error)
            }
            holders[entry.pattern] = rest.isEmpty ? nil : rest
        }
        entries[id] = nil
        freeRecords.append(entry.record)
        if entry.rule.rule.kind == .normal {
            count(entry.pattern.mask, by: -1)
            noteBound(of: entry)
        }
        return true
    }

    /// The rule is gone that a bound may be of: searches could end earlier. The bounds are made right once for many such rules, as that
    /// takes a look at all that are left.
    private mutating func noteBound(of removed: Entry) {
        guard staleBounds > 0 || engine.isBound(removed) else { return }
        staleBounds += 1
        guard staleBounds > entries.count / 8 else { return }
        engine.raiseBounds(left: entries.values)
        staleBounds = 0
    }

    private mutating func count(_ mask: FlowKey, by step: Int) {
        let count = countOfMask[mask, default: 0] + step
        countOfMask[mask] = count == 0 ? nil : count
    }

    /// Whether the program can have more rules as it is. A mask that no rule has any more may make way for a new one.
    private mutating func admit(_ added: [Entry]) -> Bool {
        guard engine.looksUp, added.allSatisfy({ $0.rule.rule.kind == .normal }) else { return false }
        let wanted = Set(added.map(\.pattern.mask))
        for mask in wanted where engine.plan.tuple(of: mask) == nil {
            let unused = engine.plan.masks.firstIndex { countOfMask[$0] == nil && !wanted.contains($0) }
            guard engine.setMask(mask, tuple: unused ?? engine.plan.masks.count) else { return false }
        }
        return true
    }

    private func addToMap(_ added: [Entry]) throws(XDPRuleError) {
        var best: [FlowKeyPattern: Entry] = [:]
        for entry in added {
            let first = best[entry.pattern] ?? holders[entry.pattern]?.first
            if first.map({ entry.rule.order < $0.rule.order }) ?? true { best[entry.pattern] = entry }
        }
        var done: [FlowKeyPattern] = []
        do throws(PacketIOError) {
            for (pattern, entry) in best {
                try engine.setFirst(entry, of: pattern)
                done.append(pattern)
            }
        } catch {
            for pattern in done { try? engine.setFirst(holders[pattern]?.first, of: pattern) }
            throw .system(error)
        }
    }

    private mutating func replaceEngine(_ entries: [Entry]) throws(XDPRuleError) {
        let plan = try XDPRulePlan(
            entries.map(\.rule), growing: options.exchangesMasks && engine.looksUp ? engine.plan : XDPRulePlan())
        do throws(PacketIOError) {
            let next = try Engine(plan, entries, options: options, records: records, sockets: sockets)
            try next.fill(entries)
            try attachment?.replace(with: next.program)
            engine = next
            staleBounds = 0
        } catch {
            throw .system(error)
        }
    }

    private mutating func commit(_ entry: Entry) {
        entries[entry.rule.id] = entry
        guard entry.rule.rule.kind == .normal else { return }
        count(entry.pattern.mask, by: 1)
        var same = holders[entry.pattern, default: []]
        same.insert(entry, at: same.firstIndex { entry.rule.order < $0.rule.order } ?? same.endIndex)
        holders[entry.pattern] = same
    }
}

// MARK: - What is in the kernel

extension XDPRuleTable {
    /// A program with the maps that belong to its plan.
    private struct Engine: ~Copyable {
        private(set) var plan: XDPRulePlan
        let program: BPFProgram
        /// `nil` where the rules are few, and part of the program.
        private let lookup: XDPRuleLookup?

        init(
            _ plan: XDPRulePlan, _ entries: [Entry], options: Options, records: borrowing BPFSharedArray,
            sockets: borrowing BPFMap?
        ) throws(PacketIOError) {
            let recordOf = Dictionary(uniqueKeysWithValues: entries.map { ($0.rule.id, $0.record) })
            let normal = entries.filter { $0.rule.rule.kind == .normal }.sorted { $0.rule.order < $1.rule.order }
            // Behind a rule for all frames there would be instructions that nothing reaches, which the verifier refuses.
            let looksUp =
                normal.count > XDPInlinedRule.countMax || normal.contains { $0.pattern.mask == FlowKey() }
            let inlined =
                looksUp
                ? []
                : normal.map {
                    XDPInlinedRule(pattern: $0.pattern, action: XDPRuleAction($0.rule, record: $0.record))
                }
            let description = XDPRuleProgram(
                plan: plan, options: options, defaultRecords: plan.defaults.map { recordOf[$0.id] ?? 0 },
                inlined: inlined,
                namesRules: options.marksFrames && entries.count > 1)
            let lookup =
                looksUp
                ? try XDPRuleLookup(
                    plan, ruleCountMax: options.ruleCountMax, exchangesMasks: options.exchangesMasks) : nil
            program = try BPFProgram(
                options.kind, description.assemble(lookup: lookup, records: records, sockets: sockets),
                takesFragments: options.takesFragments)
            self.plan = plan
            self.lookup = lookup
        }

        /// Whether rules are in a map, not part of the program.
        var looksUp: Bool { lookup != nil }

        /// Puts the rules into the map that the program was made for, if it has one.
        func fill(_ entries: [Entry]) throws(PacketIOError) {
            guard looksUp else { return }
            var best: [FlowKeyPattern: Entry] = [:]
            for entry in entries where entry.rule.rule.kind == .normal {
                if let first = best[entry.pattern], first.rule.order < entry.rule.order { continue }
                best[entry.pattern] = entry
            }
            for (pattern, entry) in best { try setFirst(entry, of: pattern) }
        }

        /// Makes a rule the one that acts on a pattern, whose mask the plan has; `nil` for none.
        func setFirst(_ entry: Entry?, of pattern: FlowKeyPattern) throws(PacketIOError) {
            guard let tuple = plan.tuple(of: pattern.mask) else { return }
            let key = plan.key(pattern, tuple: tuple, tag: lookup?.tag(of: tuple))
            guard let entry else {
                lookup?.remove(key)
                return
            }
            let action = XDPRuleAction(entry.rule, record: entry.record)
            try lookup?.set(key, tuple: tuple, order: entry.rule.order.rawValue, action)
        }

        /// Gives a tuple without rules another mask, or one more the first; `false` where that takes another program.
        mutating func setMask(_ mask: FlowKey, tuple: Int) -> Bool {
            guard tuple < XDPRulePlan.maskCountMax, plan.covers(mask), lookup?.setMask(mask, tuple: tuple, plan) == true
            else { return false }
            plan.setMask(mask, tuple: tuple)
            return true
        }

        /// Whether the bound of its mask is that of this rule.
        func isBound(_ entry: Entry) -> Bool {
            guard let tuple = plan.tuple(of: entry.pattern.mask) else { return false }
            return lookup?.bound(tuple) == entry.rule.order.rawValue
        }

        func raiseBounds(left: some Collection<Entry>) {
            var best = [UInt64](repeating: .max, count: XDPRulePlan.maskCountMax)
            for entry in left where entry.rule.rule.kind == .normal {
                guard let tuple = plan.tuple(of: entry.pattern.mask) else { continue }
                best[tuple] = min(best[tuple], entry.rule.order.rawValue)
            }
            lookup?.raiseBounds(best)
        }
    }
}
