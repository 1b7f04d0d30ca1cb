// SPDX-License-Identifier: Apache-2.0
import PacketIO

/// Puts a classic BPF program together: instructions in their order, and labels for what is jumped to.
///
/// A conditional jump reaches 255 instructions, an unconditional one any: what is far goes by ``jump(to:)``.
struct FilterAssembler {
    /// A place of the program.
    struct Label: Hashable { fileprivate let number: Int }

    /// A word of the sixteen that a program may keep.
    enum Word: UInt32 { case length, tag, hasTag, type, network, version, proto, transport, end, a, b, c, isTransport }

    private struct Step {
        var code: UInt16
        var value: UInt32 = 0
        var ifTrue: Label?
        var ifFalse: Label?
        var target: Label?
    }

    private var steps: [Step] = []
    private var places: [Label: Int] = [:]
    private var labelCount = 0

    mutating func makeLabel() -> Label {
        labelCount += 1
        return Label(number: labelCount)
    }
    mutating func place(_ label: Label) { places[label] = steps.count }

    // Into the accumulator. The offsets are from the frame's first byte, or from the index register.
    mutating func load(_ value: UInt32) { steps.append(Step(code: 0x00, value: value)) }
    mutating func loadFact(_ offset: UInt32) { steps.append(Step(code: 0x20, value: offset)) }
    mutating func loadLength() { steps.append(Step(code: 0x80)) }
    mutating func loadWord(at offset: UInt32) { steps.append(Step(code: 0x20, value: offset)) }
    mutating func loadHalf(at offset: UInt32) { steps.append(Step(code: 0x28, value: offset)) }
    mutating func loadIndexedWord(_ offset: UInt32) { steps.append(Step(code: 0x40, value: offset)) }
    mutating func loadIndexedHalf(_ offset: UInt32) { steps.append(Step(code: 0x48, value: offset)) }
    mutating func loadIndexedByte(_ offset: UInt32) { steps.append(Step(code: 0x50, value: offset)) }
    mutating func load(_ word: Word) { steps.append(Step(code: 0x60, value: word.rawValue)) }
    /// The index register.
    mutating func index(_ word: Word) { steps.append(Step(code: 0x61, value: word.rawValue)) }
    mutating func store(_ word: Word) { steps.append(Step(code: 0x02, value: word.rawValue)) }

    mutating func add(_ value: UInt32) { steps.append(Step(code: 0x04, value: value)) }
    mutating func addIndex() { steps.append(Step(code: 0x0C)) }
    mutating func subtract(_ value: UInt32) { steps.append(Step(code: 0x14, value: value)) }
    mutating func subtractIndex() { steps.append(Step(code: 0x1C)) }
    mutating func and(_ value: UInt32) { steps.append(Step(code: 0x54, value: value)) }
    mutating func shiftLeft(_ count: UInt32) { steps.append(Step(code: 0x64, value: count)) }
    mutating func shiftRight(_ count: UInt32) { steps.append(Step(code: 0x74, value: count)) }

    mutating func jump(to label: Label) { steps.append(Step(code: 0x05, target: label)) }
    mutating func require(_ value: UInt32, else label: Label) {
        steps.append(Step(code: 0x15, value: value, ifFalse: label))
    }
    mutating func jump(ifEqual value: UInt32, to label: Label) {
        steps.append(Step(code: 0x15, value: value, ifTrue: label))
    }
    mutating func requireAtLeast(_ value: UInt32, else label: Label) {
        steps.append(Step(code: 0x35, value: value, ifFalse: label))
    }
    mutating func requireAtLeastIndex(else label: Label) { steps.append(Step(code: 0x3D, ifFalse: label)) }
    mutating func jump(ifAnyOf bits: UInt32, to label: Label) {
        steps.append(Step(code: 0x45, value: bits, ifTrue: label))
    }
    mutating func accept() { steps.append(Step(code: 0x06, value: .max)) }
    mutating func refuse() { steps.append(Step(code: 0x06, value: 0)) }

    /// The program, jumps resolved; `nil` where a conditional jump does not reach, or the program is longer than the kernel takes.
    func assembled() -> [SteeringProgram.Instruction]? {
        guard steps.count <= 4096 else { return nil }
        var result: [SteeringProgram.Instruction] = []
        for (index, step) in steps.enumerated() {
            func distance(_ label: Label?) -> Int { label.map { (places[$0] ?? .max) - index - 1 } ?? 0 }
            let ifTrue = distance(step.ifTrue)
            let ifFalse = distance(step.ifFalse)
            guard (0...255).contains(ifTrue), (0...255).contains(ifFalse) else { return nil }
            result.append(
                SteeringProgram.Instruction(
                    code: step.code, jumpTrue: UInt8(ifTrue), jumpFalse: UInt8(ifFalse),
                    value: step.target == nil ? step.value : UInt32(distance(step.target))))
        }
        return result
    }
}
