// SPDX-License-Identifier: Apache-2.0
import FlowTraffic
import Testing

@testable import FlowSteering

@Suite("Classifier in user space") struct FlowClassifierTests {
    /// The classifier and the model, which get the same rules.
    private struct Pair {
        let classifier: FlowClassifier
        var model = FlowModel()
        var ids: [FlowID] = []

        init(allowsVectors: Bool = true) { classifier = FlowClassifier(allowsVectors: allowsVectors) }

        mutating func insert(_ rule: FlowRule) throws {
            let id = try classifier.insert(rule)
            model.insert(rule, id)
            ids.append(id)
        }

        mutating func remove(at index: Int) {
            let id = ids.remove(at: index)
            let isRemoved = model.remove(id)
            #expect(isRemoved && classifier.remove(id))
        }
    }

    @Test(
        "It does what the model says, with rules that come and go between lookups",
        arguments: 1...12 as ClosedRange<UInt64>)
    func equalsModel(seed: UInt64) throws {
        var pair = Pair()
        var generator = SeededGenerator(seed: seed)
        var rules = RuleMaker(seed: seed &* 3)
        var frames = FrameMaker(seed: seed &* 7)
        // Few rules or many, from seed to seed.
        let many = [5, 60, 150][Int(seed % 3)]
        var job: FlowClassifier.RebuildJob?
        for step in 0..<200 {
            while pair.ids.count < many / 2 || generator.oneIn(2) {
                try pair.insert(rules.rule())
                if pair.ids.count > many { pair.remove(at: generator.below(pair.ids.count)) }
            }
            if pair.ids.count > 1, generator.oneIn(3) { pair.remove(at: generator.below(pair.ids.count)) }
            switch generator.below(100) {
            case 0: job = pair.classifier.beginRebuild()
            case 1:
                if let begun = job { pair.classifier.adopt(begun.run()) }
                job = nil
            default: break
            }
            let key = key(of: frames.frame())
            let expected = pair.model.verdict(for: key)
            let verdict = pair.classifier.verdict(for: key)
            try #require(verdict == expected, "seed \(seed), step \(step), key \(key)")
        }
    }

    @Test("A free lane of a bucket is never taken for a group, whatever was there before")
    func freeLanes() {
        // Borrows run from a lane that is equal into those above it.
        for tag in UInt64(0x8000)...0xFFFF {
            let found = TupleTable.lanes(of: tag, with: tag)
            #expect(found == 0x8000)
        }
        #expect(TupleTable.lanes(of: 0x8001_0000_8001_9000, with: 0x8001) == 0x8000_0000_8000_0000)
    }

    // On a processor without AVX-512 both ways are the same one.
    @Test(
        "A batch gives each packet what it would get alone, eight at a time and one by one",
        arguments: 1...3 as ClosedRange<UInt64>, [true, false])
    func batches(seed: UInt64, allowsVectors: Bool) throws {
        var rules = RuleMaker(seed: seed)
        var frames = FrameMaker(seed: seed)
        var made: [FlowRule] = []
        while made.count < 300 {
            let rule = rules.rule()
            if rule.kind == .normal && !rule.doesNotTrap { made.append(rule) }
        }
        let classifier = try FlowClassifier(made, allowsVectors: allowsVectors)
        var model = FlowModel()
        for (id, rule) in made.enumerated() { model.insert(rule, FlowID(rawValue: UInt32(id))) }
        // Not a multiple of the batch.
        let keys = (0..<333).map { _ in key(of: frames.frame()) }
        var ids = [UInt32](repeating: 7, count: keys.count)
        var span = ids.mutableSpan
        classifier.winners(keys.span, into: &span)
        var found = 0
        for (key, id) in zip(keys, ids) {
            let verdict = model.verdict(for: key)
            let winner: UInt32 =
                switch verdict.effects.last {
                case .deliver(let id, _), .drop(let id): id.rawValue
                case .count, nil: .max
                }
            try #require(winner == id, "seed \(seed), key \(key)")
            if id != .max { found += 1 }
        }
        #expect(found > 100, "seed \(seed)")
    }

    @Test("Thousands of addresses with few masks make few tables, and all are found", arguments: [true, false])
    func manyRules(allowsVectors: Bool) throws {
        var generator = SeededGenerator(seed: 1)
        var rules: [FlowRule] = []
        var keys: [FlowKey] = []
        for index in 0..<1_200 {
            let source = UInt32(truncatingIfNeeded: generator.next())
            let mask = UInt32.max << UInt32(generator.pick([0, 0, 8, 8, 4, 12]))
            rules.append(
                FlowRule.ipv4(
                    source: IPv4Pattern(FlowPattern(source & mask, mask: mask)),
                    destination: IPv4Pattern(FlowPattern(exactly: UInt32(index)))
                ).udp(destinationPort: 53))
            var key = FlowKey()
            key.insert([.ipv4, .udp, .transportFields], inner: false)
            key[.ipv4Source, inner: false] = UInt64(source)
            key[.ipv4Destination, inner: false] = UInt64(index)
            key[.destinationPort, inner: false] = 53
            keys.append(key)
        }
        let classifier = try FlowClassifier(rules, allowsVectors: allowsVectors)
        #expect(classifier.shape.tables <= 4)
        var ids = [UInt32](repeating: 7, count: keys.count)
        var span = ids.mutableSpan
        classifier.winners(keys.span, into: &span)
        let all: [UInt32] = Array(0..<1_200)
        #expect(ids == all)
        for index in stride(from: 0, to: 1_200, by: 2) { classifier.remove(FlowID(rawValue: UInt32(index))) }
        span = ids.mutableSpan
        classifier.winners(keys.span, into: &span)
        let odd: [UInt32] = all.map { $0 % 2 == 0 ? UInt32.max : $0 }
        #expect(ids == odd)
        #expect(classifier.count == 600)
    }

    @Test(
        "Open and specific rules in any order are found as a search in order finds them, and few tables are visited",
        arguments: [1, 2], [true, false])
    func overlaps(seed: UInt64, allowsVectors: Bool) throws {
        var generator = SeededGenerator(seed: seed)
        var pair = Pair(allowsVectors: allowsVectors)
        func rule() -> FlowRule {
            // Few addresses with many prefixes each, so that dozens of rules fit a packet and groups are full.
            func prefix() -> IPv4Pattern {
                let mask = UInt32(
                    truncatingIfNeeded: UInt64(0xFFFF_FFFF)
                        << UInt64(32 - generator.pick([0, 1, 2, 22, 24, 30, 31, 32])))
                let address = 0x0A00_0000 &+ UInt32(generator.below(8)) &* 0x2800_0101
                return IPv4Pattern(FlowPattern(address & mask, mask: mask))
            }
            let addresses = FlowRule.ipv4(source: prefix(), destination: prefix())
            return generator.oneIn(4)
                ? addresses : addresses.udp(destinationPort: FlowPattern(exactly: UInt16(generator.below(6))))
        }
        for _ in 0..<1_500 { try pair.insert(rule()) }
        for round in 0..<3 {
            // By insertion; after a rebuild; after many changes of the rebuilt tables.
            if round == 1 { pair.classifier.adopt(pair.classifier.beginRebuild().run()) }
            if round == 2 {
                for _ in 0..<500 {
                    pair.remove(at: generator.below(pair.ids.count))
                    try pair.insert(rule())
                }
            }
            #expect(pair.classifier.shape.tables <= TupleSet.tableCountMax)
            let keys = (0..<200).map { _ in
                var key = FlowKey()
                key.insert([.ipv4, .udp, .transportFields], inner: false)
                for field in [FlowKeyField.ipv4Source, .ipv4Destination] {
                    let address = 0x0A00_0000 &+ UInt32(generator.below(8)) &* 0x2800_0101
                    key[field, inner: false] = UInt64(address ^ UInt32(generator.below(3)))
                }
                key[.destinationPort, inner: false] = UInt64(generator.below(8))
                return key
            }
            var ids = [UInt32](repeating: 7, count: keys.count)
            var span = ids.mutableSpan
            pair.classifier.winners(keys.span, into: &span)
            for (key, id) in zip(keys, ids) {
                var winner = UInt32.max
                if case .deliver(let found, _) = pair.model.verdict(for: key).effects.last { winner = found.rawValue }
                try #require(winner == id, "seed \(seed), round \(round), key \(key)")
            }
        }
    }

    @Test("A mask has one number for all rules that have it, and gives it back with the last of them")
    func masks() {
        var masks = RuleMasks(width: 2)
        func mask(_ number: Int) -> FlowKey {
            var mask = FlowKey()
            mask.words[0] = UInt64(number)
            mask.words[1] = ~UInt64(number)
            return mask
        }
        for round in 0..<5 {
            let numbers = (0..<200).map { masks.take(mask(round * 1_000 + $0)) }
            #expect(Set(numbers) == Set(0..<200), "round \(round): numbers are used again")
            #expect((0..<200).map { masks.take(mask(round * 1_000 + $0)) } == numbers)
            for (index, number) in numbers.enumerated() {
                #expect(unsafe masks.base[number * 2] == UInt64(round * 1_000 + index))
                masks.release(number)
                masks.release(number)
            }
        }
    }

    @Test("Rules of more masks than there may be tables are still all found")
    func manyMasks() throws {
        var generator = SeededGenerator(seed: 2)
        var pair = Pair()
        for _ in 0..<200 {
            // Any bits of both addresses and ports: nearly every rule has a mask of its own.
            let mask = generator.next() | generator.next()
            let ports = UInt32(truncatingIfNeeded: generator.next())
            try pair.insert(
                FlowRule.ipv4(
                    source: IPv4Pattern(
                        FlowPattern(
                            0x0A00_0001 & UInt32(truncatingIfNeeded: mask), mask: UInt32(truncatingIfNeeded: mask))),
                    destination: IPv4Pattern(FlowPattern(0x0A00_0002 & UInt32(mask >> 32), mask: UInt32(mask >> 32)))
                ).udp(
                    sourcePort: FlowPattern(0, mask: UInt16(truncatingIfNeeded: ports)),
                    destinationPort: FlowPattern(0x55AA & UInt16(ports >> 16), mask: UInt16(ports >> 16))))
        }
        #expect(pair.classifier.shape.tables <= TupleSet.tableCountMax)
        for _ in 0..<400 {
            var key = FlowKey()
            key.insert([.ipv4, .udp, .transportFields], inner: false)
            let noise = generator.next() & generator.next() & generator.next()
            key.words[1] = 0x0A00_0001_0A00_0002 ^ noise
            key[.destinationPort, inner: false] = 0x55AA ^ (generator.next() & generator.next() & generator.next())
            #expect(pair.classifier.verdict(for: key) == pair.model.verdict(for: key))
        }
    }

    @Test("Rules beyond the age of the tables ask for a rebuild, and it ends the asking")
    func rebuilding() throws {
        let classifier = FlowClassifier()
        for index in 0..<200 {
            _ = try classifier.insert(FlowRule.ipv4(destination: IPv4Pattern(FlowPattern(exactly: UInt32(index)))))
        }
        #expect(classifier.wantsRebuild)
        let job = classifier.beginRebuild()
        #expect(!classifier.wantsRebuild)
        classifier.adopt(job.run())
        #expect(!classifier.wantsRebuild)
    }
}
