// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// The XDP or TC program that carries a set of flow rules out. Pure: a description, which ``XDPRuleTable`` loads.
///
/// ```
/// headers ──► words ──► for each tuple: mask, look up, keep the better ──► count ──► drop, or to the socket
///               │           └─ nothing found ──► default rules ──► neither ──► the kernel's stack, or drop
///               └─────► few rules: compare with each, the best first
/// ```
/// What was found is kept in registers as plain numbers, never as an address in the map: the verifier would follow each tuple
/// with every combination of those before it.
struct XDPRuleProgram {
    let plan: XDPRulePlan
    let options: XDPRuleTable.Options
    /// The records of the default rules, by the plan's order.
    let defaultRecords: [UInt32]
    /// Normal rules that are part of the program, the best first. There is a map of rules where there are none.
    let inlined: [XDPInlinedRule]
    /// Whether delivered frames name their rule: where there are several, and the receiver wants to know.
    let namesRules: Bool

    private typealias Stack = XDPHeaderParser.Stack
    private typealias Context = XDPHeaderParser.Context

    /// Registers behind the parser.
    private enum Found {
        /// The order of the best rule so far, all ones for none; then the number of a socket.
        static let order = BPFRegister.r7
        /// ``XDPRuleAction/name``.
        static let name = BPFRegister.r8
        /// ``XDPRuleAction/action``.
        static let action = BPFRegister.r9
    }

    /// The instructions.
    ///
    /// - Parameters:
    ///   - lookup: where the rules are that are not in the program.
    ///   - records: for each rule packets and bytes.
    ///   - sockets: AF_XDP sockets; `nil` where all rules drop.
    func assemble(
        lookup: borrowing XDPRuleLookup?, records: borrowing BPFSharedArray, sockets: borrowing BPFMap?
    ) throws(PacketIOError) -> [BPFInstruction] {
        var code = BPFAssembler()
        let parsed = code.makeLabel()
        let found = code.makeLabel()
        let miss = code.makeLabel()
        code.compute(.r6, .move, .r1)
        parser.emit(&code, done: parsed)
        code.place(parsed)
        switch lookup {
        case .some(let lookup): search(lookup, &code, found: found)
        case nil: for rule in inlined { compare(rule, &code, found: found) }
        }
        applyDefaults(&code, found: found, miss: miss)
        if hasFinds {
            code.place(found)
            count(records, &code)
            switch sockets {
            case .some(let sockets): act(sockets, &code)
            case nil: finish(.drop, &code)
            }
        }
        if hasMisses {
            code.place(miss)
            finish(options.missVerdict, &code)
        }
        return try code.assemble()
    }

    private var parser: XDPHeaderParser {
        XDPHeaderParser(
            plan: plan, kind: options.kind, copiesHeaders: options.takesFragments || !options.readsInPlace)
    }

    // MARK: Few rules

    /// Goes to `found` with what to do if the packet has what the rule wants. What is read was stored as wide or wider: a
    /// processor waits where it has to put what it reads together from several stores.
    private func compare(_ rule: XDPInlinedRule, _ code: inout BPFAssembler, found: BPFAssembler.Label) {
        let next = code.makeLabel()
        for word in plan.words {
            for half in 0..<4 {
                let mask = UInt16(truncatingIfNeeded: rule.pattern.mask.words[word] >> (half * 16))
                guard mask != 0 else { continue }
                let value = UInt16(truncatingIfNeeded: rule.pattern.value.words[word] >> (half * 16))
                let place = Stack.word(word) + Int16(half * 2)
                switch (mask & 0xFF, mask >> 8) {
                case (_, 0): compare(.byte, at: place, Int32(mask), 0xFF, Int32(value), &code, else: next)
                case (0, _): compare(.byte, at: place + 1, Int32(mask >> 8), 0xFF, Int32(value >> 8), &code, else: next)
                default: compare(.half, at: place, Int32(mask), 0xFFFF, Int32(value), &code, else: next)
                }
            }
        }
        code.load(Found.name, constant: rule.action.name)
        code.load(Found.action, constant: rule.action.action)
        code.jump(to: found)
        code.place(next)
    }

    private func compare(
        _ size: BPFSize, at place: Int16, _ mask: Int32, _ ones: Int32, _ value: Int32, _ code: inout BPFAssembler,
        else next: BPFAssembler.Label
    ) {
        code.load(.r1, size, at: .stack, place)
        if mask != ones { code.compute(.r1, .and, mask) }
        code.jump(if: .r1, .notEqual, value, to: next)
    }

    // MARK: Many rules

    private func search(_ lookup: borrowing XDPRuleLookup, _ code: inout BPFAssembler, found: BPFAssembler.Label) {
        let searched = code.makeLabel()
        forget(&code)
        for tuple in 0..<(lookup.masks == nil ? plan.masks.count : XDPRulePlan.maskCountMax) {
            search(tuple, lookup, &code, end: searched)
        }
        code.place(searched)
        code.jump(if: Found.order, .notEqual, -1, to: found)
    }

    /// Nothing was found: all ones, which the verifier must not know. It follows a number that it knows through all tuples, and
    /// again one that it does not.
    private func forget(_ code: inout BPFAssembler) {
        parser.loadUnknown(.r1, &code)
        code.compute(Found.order, .move, .r1)
        code.compute(Found.order, .shiftLeft, 32)
        code.compute(Found.order, .or, .r1)
        code.compute(.r1, .move, Found.order)
        code.compute(.r1, .exclusiveOr, -1)
        for register in [Found.name, Found.action] {
            code.compute(register, .move, Found.order)
            code.compute(register, .exclusiveOr, .r1)
        }
        code.compute(Found.order, .or, .r1)
    }

    private func search(
        _ tuple: Int, _ lookup: borrowing XDPRuleLookup, _ code: inout BPFAssembler, end: BPFAssembler.Label
    ) {
        let next = code.makeLabel()
        if tuple > 0 || lookup.masks != nil {
            code.load(.r1, wordsOf: lookup.bounds)
            code.load(.r1, .double, at: .r1, Int16(tuple * 8))
            code.jump(if: Found.order, .lessOrEqual, .r1, to: end)
        }
        switch lookup.masks {
        case .some(let masks): storeKey(by: masks, tuple, &code, else: next)
        case nil: storeKey(tuple, &code, else: next)
        }
        code.load(.r1, map: lookup.rules)
        code.compute(.r2, .move, .stack)
        code.compute(.r2, .add, Int32(Stack.key(0)))
        code.call(.mapLookup)
        code.jump(if: .r0, .equal, 0, to: next)
        code.load(.r1, .double, at: .r0, 0)
        code.jump(if: .r1, .greaterOrEqual, Found.order, to: next)
        code.compute(Found.order, .move, .r1)
        code.load(Found.name, .double, at: .r0, 8)
        code.load(Found.action, .double, at: .r0, 16)
        code.place(next)
    }

    /// The key for the map of rules, by the mask that the tuple has now.
    private func storeKey(
        by masks: borrowing XDPMaskTable, _ tuple: Int, _ code: inout BPFAssembler, else next: BPFAssembler.Label
    ) {
        code.load(.r1, wordsOf: masks.tags)
        code.load(.r1, .double, at: .r1, Int16(tuple * 8))
        code.store(.r1, .double, at: .stack, Stack.key(0))
        // The tuple again, but by the tag: so the mask is read after it.
        code.compute(.r1, .and, Int32(XDPMaskTable.tupleOnes))
        code.store(.r1, .word, at: .stack, Stack.number)
        code.load(.r1, array: masks.words)
        code.compute(.r2, .move, .stack)
        code.compute(.r2, .add, Int32(Stack.number))
        code.call(.mapLookup)
        code.jump(if: .r0, .equal, 0, to: next)
        code.load(.r1, .half, at: .r0, Int16(FlowKeyField.layers.shift / 8))
        code.load(.r2, .half, at: .stack, Stack.place(.layers))
        code.compute(.r2, .and, .r1)
        code.jump(if: .r1, .notEqual, .r2, to: next)
        for (index, word) in plan.words.enumerated() {
            code.load(.r1, .double, at: .r0, Int16(index * 8))
            code.load(.r2, .double, at: .stack, Stack.word(word))
            code.compute(.r1, .and, .r2)
            code.store(.r1, .double, at: .stack, Stack.key(index + 1))
        }
    }

    /// The same by a mask that is part of the program.
    private func storeKey(_ tuple: Int, _ code: inout BPFAssembler, else next: BPFAssembler.Label) {
        // Most packets miss most tuples by their headers: that is cheaper to see than to look up.
        let layers = Int32(plan.masks[tuple].layers(inner: false).rawValue)
        if layers != 0 {
            code.load(.r1, .half, at: .stack, Stack.place(.layers))
            code.compute(.r1, .and, layers)
            code.jump(if: .r1, .notEqual, layers, to: next)
        }
        for (index, word) in plan.words.enumerated() {
            storeMasked(word, plan.masks[tuple].words[word], to: Stack.key(index), tuple: tuple, &code)
        }
    }

    /// One word of the key.
    private func storeMasked(_ word: Int, _ mask: UInt64, to place: Int16, tuple: Int, _ code: inout BPFAssembler) {
        let number = word == 0 ? UInt64(tuple) << XDPRulePlan.tupleShift : 0
        guard mask != 0 else {
            code.load(.r1, constant: number)
            code.store(.r1, .double, at: .stack, place)
            return
        }
        code.load(.r1, .double, at: .stack, Stack.word(word))
        if let short = Int32(exactly: Int64(bitPattern: mask)) {
            if short != -1 { code.compute(.r1, .and, short) }
        } else {
            code.load(.r2, constant: mask)
            code.compute(.r1, .and, .r2)
        }
        if number != 0 {
            code.load(.r2, constant: number)
            code.compute(.r1, .or, .r2)
        }
        code.store(.r1, .double, at: .stack, place)
    }

    // MARK: What was found

    private func applyDefaults(_ code: inout BPFAssembler, found: BPFAssembler.Label, miss: BPFAssembler.Label) {
        for (rule, record) in zip(plan.defaults, defaultRecords) {
            let next = code.makeLabel()
            if rule.rule.kind == .multicastDefault {
                code.load(.r1, .byte, at: .stack, Stack.destinationByte)
                code.compute(.r1, .and, 1)
                code.jump(if: .r1, .equal, 0, to: next)
            }
            let action = XDPRuleAction(rule, record: record)
            code.load(Found.name, constant: action.name)
            code.load(Found.action, constant: action.action)
            code.jump(to: found)
            code.place(next)
        }
        if hasMisses { code.jump(to: miss) }
    }

    /// Whether a frame may be nobody's. The verifier wants no instruction that is never reached.
    private var hasMisses: Bool { !plan.defaults.contains { $0.rule.kind == .allDefault } }

    /// Whether some rule may have a frame.
    private var hasFinds: Bool { !plan.masks.isEmpty || !plan.defaults.isEmpty }

    private func count(_ records: borrowing BPFSharedArray, _ code: inout BPFAssembler) {
        let isCounted = code.makeLabel()
        code.compute(.r1, .move, Found.name)
        code.compute(.r1, .shiftRight, 32)
        code.store(.r1, .word, at: .stack, Stack.number)
        code.load(.r1, array: records)
        code.compute(.r2, .move, .stack)
        code.compute(.r2, .add, Int32(Stack.number))
        code.call(.mapLookup)
        code.jump(if: .r0, .equal, 0, to: isCounted)
        code.compute(.r1, .move, 1)
        code.atomicAdd(.r1, .double, at: .r0, 0)
        code.load(.r1, .double, at: .stack, Stack.frameByteCount)
        code.atomicAdd(.r1, .double, at: .r0, 8)
        code.place(isCounted)
    }

    private func act(_ sockets: borrowing BPFMap, _ code: inout BPFAssembler) {
        let drop = code.makeLabel()
        let deliver = code.makeLabel()
        code.jump(ifWord: Found.action, .equal, XDPRuleAction.drop, to: drop)
        code.load(.r7, .word, at: .r6, Context.queue)
        code.jump(ifWord: Found.action, .equal, XDPRuleAction.toOwnQueue, to: deliver)
        code.compute(.r7, .move, Found.action)
        code.compute(.r7, .shiftRight, 32)
        code.place(deliver)
        if namesRules { mark(&code) }
        code.load(.r1, map: sockets)
        code.compute(.r2, .move, .r7)
        // Without a socket: the rule has the frame, so nobody else gets it.
        code.compute(.r3, .move, BPFProgram.Verdict.drop.rawValue)
        code.call(.redirectMap)
        code.exit()
        code.place(drop)
        finish(.drop, &code)
    }

    /// Puts the rule's identifier before the frame, as ``XDPFrames/mark`` reads it. Drivers without room for it leave it out.
    private func mark(_ code: inout BPFAssembler) {
        let isMarked = code.makeLabel()
        code.compute(.r1, .move, .r6)
        code.compute(.r2, .move, -Int32(XDPFrames.markByteCount))
        code.call(.adjustMetadata)
        code.jump(if: .r0, .notEqual, 0, to: isMarked)
        code.load(.r1, .word, at: .r6, Context.metadata)
        code.load(.r2, .word, at: .r6, Context.data)
        code.compute(.r3, .move, .r1)
        code.compute(.r3, .add, Int32(XDPFrames.markByteCount))
        code.jump(if: .r3, .greater, .r2, to: isMarked)
        code.store(Found.name, .word, at: .r1, 0)
        code.store(constant: Int32(XDPFrames.markSign), .word, at: .r1, 4)
        code.place(isMarked)
    }

    private func finish(_ verdict: BPFProgram.Verdict, _ code: inout BPFAssembler) {
        code.compute(.r0, .move, options.kind.code(of: verdict))
        code.exit()
    }
}

/// A rule that is part of a program.
struct XDPInlinedRule {
    /// So many are cheaper to compare with than to look up.
    static let countMax = 4

    let pattern: FlowKeyPattern
    let action: XDPRuleAction
}
