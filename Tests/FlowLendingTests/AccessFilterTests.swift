// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowTraffic
import Testing

@testable import FlowLending
@testable import FlowSteering
@testable import PacketIO

@Suite("The filter of a lent socket") struct AccessFilterTests {
    /// Has the kernel run the program: over datagrams of a pair of Unix sockets, which need no privilege.
    private struct KernelFilter: ~Copyable {
        private var ends: [Int32] = [0, 0]

        init(_ program: [SteeringProgram.Instruction]) throws {
            try #require(socketpair(AF_UNIX, clinuxnet_sock_datagram, 0, &ends) == 0)
            try #require(PacketFilter.attach(program, to: ends[1]), "errno \(clinuxnet_errno())")
        }

        deinit { for end in ends { close(end) } }

        func passes(_ frame: [UInt8]) throws -> Bool {
            try #require(send(ends[0], frame, frame.count, 0) == frame.count)
            var buffer = [UInt8](repeating: 0, count: 4096)
            let count = recv(ends[1], &buffer, buffer.count, 0)
            #expect(count < 0 || Array(buffer[..<count]) == frame)
            return count >= 0
        }
    }

    @Test(
        "The kernel lets pass what the model says that one of the rules matches, also of frames that end early",
        arguments: 1...12 as ClosedRange<UInt64>)
    func equalsModel(seed: UInt64) throws {
        var maker = RuleMaker(seed: seed)
        var frames = FrameMaker(seed: seed &* 7)
        var generator = SeededGenerator(seed: seed &* 13)
        var passed = 0
        var refused = 0
        for _ in 0..<30 {
            var rules: [FlowRule] = []
            while rules.count < generator.pick([1, 1, 3]) {
                let rule = FlowRule(specifications: maker.rule().specifications)
                if AccessFilter.isExpressible(rule), !rule.specifications.isEmpty { rules.append(rule) }
            }
            var model = FlowModel()
            for (index, rule) in rules.enumerated() { model.insert(rule, FlowID(rawValue: UInt32(index))) }
            let kernel = try KernelFilter(#require(AccessFilter.program(for: rules, interface: nil)))
            for _ in 0..<60 {
                var frame = frames.frame()
                if generator.oneIn(4) { frame.removeLast(generator.below(frame.count - 14)) }
                let matches = model.verdict(for: PacketHeaders.key(of: frame.span.bytes)).outcome != .unmatched
                let passes = try kernel.passes(frame)
                #expect(passes == matches, "seed \(seed), \(rules), frame \(frame)")
                if passes { passed += 1 } else { refused += 1 }
            }
        }
        #expect(passed > 50 && refused > 50)
    }

    @Test("Without a rule nothing passes; with `any` everything")
    func nothingAndAll() throws {
        let frame = [UInt8](repeating: 0x11, count: 60)
        let none = try KernelFilter(#require(AccessFilter.program(for: [], interface: nil)))
        #expect(try !none.passes(frame))
        let all = try KernelFilter(#require(AccessFilter.program(for: [.any], interface: nil)))
        #expect(try all.passes(frame))
        // What is of no interface is of no other.
        let other = try KernelFilter(#require(AccessFilter.program(for: [.any], interface: 7)))
        #expect(try !other.passes(frame))
    }
}
