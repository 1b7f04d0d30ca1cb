// SPDX-License-Identifier: Apache-2.0
import Glibc

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
        var words = (0..<(range.count + 7) / 8).map { _ in generator.next() }
        words.withUnsafeMutableBytes { words in
            expected.withUnsafeMutableBytes { expected in
                guard let start = words.baseAddress else { return }
                memcpy(expected.baseAddress! + range.lowerBound, start, range.count)
            }
        }
        memcpy(address(range.lowerBound), expectedBytes(range), range.count)
    }

    /// The engine is to write.
    func expect(_ bytes: [UInt8], at offset: Int) { expect(bytes[...], at: offset) }

    func expect(_ bytes: ArraySlice<UInt8>, at offset: Int) {
        bytes.withUnsafeBytes { bytes in
            guard let start = bytes.baseAddress else { return }
            expected.withUnsafeMutableBytes { _ = memcpy($0.baseAddress! + offset, start, bytes.count) }
        }
    }

    func expectedBytes(_ range: Range<Int>) -> [UInt8] { Array(expected[range]) }

    func bytes(_ range: Range<Int>) -> [UInt8] {
        Array(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(memory)[range]))
    }

    func expectWord(_ value: UInt64, at offset: Int) {
        withUnsafeBytes(of: value) { expect(Array($0), at: offset) }
    }

    func word(at offset: Int) -> UInt64 { memory.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }

    /// Whatever an operation that was cut off left there is how it should be from now on.
    func adopt(_ range: Range<Int>) { expect(bytes(range), at: range.lowerBound) }

    func forget(_ range: Range<Int>) { unknown.append(range) }

    /// The first byte of a range that is not as it should be.
    func firstDifference(in range: Range<Int>) -> Int? {
        let isEqual = expected.withUnsafeBytes {
            memcmp($0.baseAddress! + range.lowerBound, address(range.lowerBound), range.count) == 0
        }
        return isEqual ? nil : range.first { memory[$0] != expected[$0] }
    }

    /// Compares everything that is known.
    func check(_ name: String, _ findings: Findings) {
        for range in unknown { adopt(range) }
        if let offset = firstDifference(in: 0..<memory.count) {
            findings.add("\(name): byte \(offset) is \(memory[offset]), should be \(expected[offset])")
        }
    }
}
