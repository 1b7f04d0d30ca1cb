// SPDX-License-Identifier: Apache-2.0
//
// classifier files SET RULES TRACE   writes the rule set and a trace as ClassBench does, for dpdk-test-acl
// classifier measure SET             prints what our classifier does with the same rules and packets, as JSON
// classifier profile SET ROUNDS      looks the trace up ROUNDS times, and nothing else, for callgrind
//
// SET is KIND:COUNT:SEED, for a set that is generated, or the name of a file in ClassBench's format.

import Glibc
import Verbs
import VerbsPerf

private let traceCount = 200_000

private func fail(_ text: String) -> Never {
    print(text)
    exit(2)
}

private func write(_ lines: some Sequence<String>, to path: String) {
    guard let file = unsafe fopen(path, "w") else { fail("\(path): cannot be written") }
    for line in lines { _ = unsafe fputs(line + "\n", file) }
    _ = unsafe fclose(file)
}

private func lines(of path: String) -> [Substring] {
    guard let file = unsafe fopen(path, "r") else { fail("\(path): cannot be read") }
    defer { _ = unsafe fclose(file) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        let count = unsafe fread(&buffer, 1, buffer.count, file)
        if count == 0 { return String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline) }
        bytes += buffer[..<count]
    }
}

/// Rules, and packets drawn from them.
private struct RuleSet {
    /// How many there are in the file; as values and masks they may be more.
    let count: Int
    let tuples: [FiveTuple]
    let packets: [PacketFields]

    init(_ name: String) {
        let parts = name.split(separator: ":")
        if parts.count == 3, let kind = RuleSetKind(rawValue: String(parts[0])), let count = Int(parts[1]),
            let seed = UInt64(parts[2])
        {
            tuples = kind.rules(count, seed: seed)
            self.count = count
            packets = RuleSetKind.trace(tuples, traceCount, seed: seed &+ 1)
        } else {
            let rules = lines(of: name).map { line in
                guard let rule = ClassBenchRule(line) else { fail("\(name): not a rule of ClassBench: \(line)") }
                return rule
            }
            if rules.isEmpty { fail("\(name): no rules") }
            tuples = rules.flatMap(\.tuples)
            count = rules.count
            var generator = SeededGenerator(seed: 2)
            packets = (0..<traceCount).map { _ in rules[generator.below(rules.count)].packet(&generator) }
        }
    }
}

/// The keys of the packets, as the parser makes them of frames, for one batch at a time: a trace of whole keys would measure memory.
private struct Trace {
    /// The two words that rules of five fields look at.
    let words: [(UInt64, UInt64)]

    init(_ headers: [PacketFields]) {
        words = headers.map { header in
            var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]
            frame += [0x45, 0, 0, 40, 0, 1, 0, 0, 64, header.number, 0, 0]
            for address in [header.source, header.destination] {
                frame += [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: address >> $0) }
            }
            for port in [header.sourcePort, header.destinationPort] { frame += [UInt8(port >> 8), UInt8(port & 0xFF)] }
            frame += [UInt8](repeating: 0, count: 16)
            let key = unsafe PacketHeaders.key(of: frame.span.bytes)
            return (key.words[0], key.words[1])
        }
    }
}

/// Batches of keys that stay in the cache, as they do between a parser and the classifier.
private struct Runner {
    let classifier: FlowClassifier
    let trace: Trace
    private var keys = [FlowKey](repeating: FlowKey(), count: 32)
    private var ids = [UInt32](repeating: 0, count: 32)

    init(_ classifier: FlowClassifier, _ trace: Trace) {
        self.classifier = classifier
        self.trace = trace
    }

    /// Looks `count` packets up from `start` on; returns a sum of the ids, so that nothing is left out.
    mutating func run(from start: Int = 0, count: Int) -> UInt64 {
        var sum: UInt64 = 0
        var position = start
        // Out of self meanwhile: two members cannot be lent at once.
        var (found, made): ([UInt32], [FlowKey]) = ([], [])
        swap(&found, &ids)
        swap(&made, &keys)
        defer {
            swap(&found, &ids)
            swap(&made, &keys)
        }
        let words = trace.words.span
        while position + 32 <= start + count {
            var batch = made.mutableSpan
            for index in 0..<32 {
                let (first, second) = words[position + index]
                batch[index].words[0] = first
                batch[index].words[1] = second
            }
            var span = found.mutableSpan
            classifier.winners(made.span, into: &span)
            for index in 0..<32 { sum &+= UInt64(found[index]) }
            position += 32
        }
        return sum
    }

    /// Packets of the trace that another rule takes than the first in the list that fits.
    mutating func wrongCount(_ rules: [FiveTuple], _ headers: [PacketFields], sample: Int) -> Int {
        var wrong = 0
        for position in stride(from: 0, to: sample, by: 32) {
            _ = run(from: position, count: 32)
            for index in 0..<32 {
                let header = headers[position + index]
                let expected = rules.firstIndex { $0.matches(header) }.map(UInt32.init) ?? .max
                if ids[index] != expected { wrong += 1 }
            }
        }
        return wrong
    }
}

extension FiveTuple {
    /// Without any of the classifier's means.
    func matches(_ header: PacketFields) -> Bool {
        (header.source ^ source) & Self.mask32(sourceLength) == 0
            && (header.destination ^ destination) & Self.mask32(destinationLength) == 0
            && (header.sourcePort ^ sourcePort) & Self.mask16(sourcePortLength) == 0
            && (header.destinationPort ^ destinationPort) & Self.mask16(destinationPortLength) == 0
            && (number == nil || number == header.number)
    }
}

private func seconds(_ body: () throws -> Void) rethrows -> Double {
    let duration = try ContinuousClock().measure(body)
    return Double(duration.components.seconds) + Double(duration.components.attoseconds) * 1e-18
}

/// Rules that come and go, one of each for every batch of 32 packets: changes and lookups in a second.
private func updates(_ rules: [FiveTuple], _ runner: inout Runner) throws -> (changes: Double, lookups: Double) {
    let classifier = runner.classifier
    var generator = SeededGenerator(seed: 99)
    let spare = rules.map(\.rule)
    var ids = (0..<rules.count).map { FlowID(rawValue: UInt32($0)) }
    let rounds = 6000
    let time = try seconds {
        for round in 0..<rounds {
            let index = generator.below(ids.count)
            classifier.remove(ids[index])
            ids[index] = try classifier.insert(spare[index])
            _ = runner.run(from: round * 32 % (traceCount - 32), count: 32)
        }
    }
    return (Double(rounds * 2) / time, Double(rounds * 32) / time)
}

private func measure(_ set: RuleSet) throws {
    let flows = set.tuples.map(\.rule)
    var classifier = FlowClassifier()
    let build = try seconds { classifier = try FlowClassifier(flows) }
    var runner = Runner(classifier, Trace(set.packets))
    let wrong = runner.wrongCount(set.tuples, set.packets, sample: 512)
    var sum: UInt64 = runner.run(count: traceCount)
    let times = (0..<7).map { _ in seconds { sum &+= runner.run(count: traceCount) } }
    let (changes, lookups) = try updates(set.tuples, &runner)
    let looked = Double(traceCount / 32 * 32)
    print(
        "{\"rules\": \(set.count), \"values\": \(flows.count), \"build\": \(build), "
            + "\"tables\": \(classifier.shape.tables), \"group\": \(classifier.shape.groupLimit), \"wrong\": \(wrong), "
            + "\"lookups\": [\(times.map { String(looked / $0) }.joined(separator: ", "))], "
            + "\"changes\": \(changes), \"lookups_meanwhile\": \(lookups), \"sum\": \(sum)}")
}

let arguments = CommandLine.arguments
guard arguments.count >= 3 else { fail("usage: classifier files|measure|profile SET ...") }
private let set = RuleSet(arguments[2])
switch arguments[1] {
case "files" where arguments.count == 5:
    write(set.tuples.map(\.line), to: arguments[3])
    write(set.packets.map(\.line), to: arguments[4])
case "measure": try measure(set)
case "profile" where arguments.count == 4:
    var runner = Runner(try FlowClassifier(set.tuples.map(\.rule)), Trace(set.packets))
    for _ in 0..<(Int(arguments[3]) ?? 1) { _ = runner.run(count: traceCount) }
default: fail("usage: classifier files|measure|profile SET ...")
}
