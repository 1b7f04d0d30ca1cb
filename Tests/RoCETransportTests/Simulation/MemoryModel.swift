// SPDX-License-Identifier: Apache-2.0

/// What was found wrong in a run.
final class Findings {
    private(set) var texts: [String] = []
    var isEmpty: Bool { texts.isEmpty }

    func add(_ text: @autoclosure () -> String) {
        if texts.count < 8 { texts.append(text()) }
    }
}

/// The memory of one node, real and as it should be. Every byte counts, also those that no region covers.
final class MemoryModel {
    let memory: UnsafeMutableRawBufferPointer
    private(set) var expected: [UInt8]
    /// Bytes that nothing is known about, since an operation on them was cut off.
    private var unknown: [Range<Int>] = []
    private var used = 64

    init(byteCount: Int, canary: UInt8) {
        memory = .allocate(byteCount: byteCount, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: canary)
        expected = [UInt8](repeating: canary, count: byteCount)
    }

    deinit { memory.deallocate() }

    /// A range of its own, 8-aligned, with canaries before and after.
    func allocate(_ byteCount: Int) -> Range<Int> {
        let start = (used + 7) & ~7
        used = start + byteCount + 40
        precondition(used <= memory.count, "the simulation's memory is too small")
        return start..<start + byteCount
    }

    func address(_ offset: Int) -> UnsafeMutableRawPointer { memory.baseAddress! + offset }

    /// The application writes.
    func fill(_ range: Range<Int>, _ generator: inout SeededGenerator) {
        var value = generator.next()
        for index in range {
            if index & 7 == 0 { value = value &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407 }
            let byte = UInt8(truncatingIfNeeded: value >> UInt64((index & 7) * 8))
            memory[index] = byte
            expected[index] = byte
        }
    }

    /// The engine is to write.
    func expect(_ bytes: some Collection<UInt8>, at offset: Int) {
        var index = offset
        for byte in bytes {
            expected[index] = byte
            index += 1
        }
    }

    func expectWord(_ value: UInt64, at offset: Int) {
        withUnsafeBytes(of: value) { expect($0, at: offset) }
    }

    func word(at offset: Int) -> UInt64 { memory.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }

    func forget(_ range: Range<Int>) { unknown.append(range) }

    /// The first byte of a range that is not as it should be.
    func firstDifference(in range: Range<Int>) -> Int? {
        let isEqual = expected.withUnsafeBytes { expected in
            memory[range].elementsEqual(expected[range])
        }
        return isEqual ? nil : range.first { memory[$0] != expected[$0] }
    }

    /// Compares everything that is known.
    func check(_ name: String, _ findings: Findings) {
        for range in unknown { for index in range { expected[index] = memory[index] } }
        if let offset = firstDifference(in: 0..<memory.count) {
            findings.add("\(name): byte \(offset) is \(memory[offset]), should be \(expected[offset])")
        }
    }
}
