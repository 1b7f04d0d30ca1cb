// SPDX-License-Identifier: Apache-2.0

/// Writes eBPF programs: one call an instruction, jumps to labels that may be placed later.
///
/// Pure: nothing is loaded here. The instruction set is that of the kernel's `Documentation/bpf/standardization`.
package struct BPFAssembler: Sendable {
    /// A place in the program that jumps name.
    package struct Label: Sendable, Hashable {
        fileprivate let index: Int
    }

    private var instructions: [BPFInstruction] = []
    /// Where each label is; `nil` until it is placed.
    private var places: [Int?] = []
    private var jumps: [(instruction: Int, label: Label)] = []

    package init() {}

    /// Instructions so far.
    package var count: Int { instructions.count }

    /// A label to jump to, to be placed once.
    package mutating func makeLabel() -> Label {
        places.append(nil)
        return Label(index: places.count - 1)
    }

    /// The next instruction is where the label is.
    package mutating func place(_ label: Label) {
        precondition(places[label.index] == nil, "a label is placed once")
        places[label.index] = instructions.count
    }

    /// `destination op= source`, in 64 bits.
    package mutating func compute(_ destination: BPFRegister, _ operation: BPFOperation, _ source: BPFRegister) {
        append(0x0F | operation.rawValue, destination, source: source.rawValue)
    }

    /// `destination op= constant`, in 64 bits, the constant extended by its sign.
    package mutating func compute(_ destination: BPFRegister, _ operation: BPFOperation, _ constant: Int32) {
        append(0x07 | operation.rawValue, destination, immediate: constant)
    }

    /// Turns the low `bits` (16, 32 or 64) between this machine's order and that of the network; the rest becomes 0.
    package mutating func swapToNetworkOrder(_ register: BPFRegister, bits: Int32) {
        append(0xDC, register, immediate: bits)
    }

    /// `destination = constant`, 64 bits: two instructions.
    package mutating func load(_ destination: BPFRegister, constant: UInt64) {
        append(0x18, destination, immediate: Int32(truncatingIfNeeded: constant))
        instructions.append(BPFInstruction(opcode: 0, immediate: Int32(truncatingIfNeeded: constant >> 32)))
    }

    /// `destination = the map`, for calls: two instructions. The map must be open while the program is loaded.
    package mutating func load(_ destination: BPFRegister, map: borrowing BPFMap) {
        load(destination, mapDescriptor: map.number)
    }

    /// The same by the map's descriptor.
    mutating func load(_ destination: BPFRegister, mapDescriptor: Int32) {
        append(0x18, destination, source: 1, immediate: mapDescriptor)
        instructions.append(BPFInstruction(opcode: 0))
    }

    /// `destination = the address of an array's words`: two instructions. The array has one entry.
    package mutating func load(_ destination: BPFRegister, wordsOf array: borrowing BPFSharedArray) {
        precondition(array.entryCount == 1, "the words of an array with one entry have an address")
        append(0x18, destination, source: 2, immediate: array.number)
        instructions.append(BPFInstruction(opcode: 0))
    }

    /// `destination = the array`, for calls: two instructions.
    package mutating func load(_ destination: BPFRegister, array: borrowing BPFSharedArray) {
        load(destination, mapDescriptor: array.number)
    }

    /// `destination = memory at base + offset`.
    package mutating func load(_ destination: BPFRegister, _ size: BPFSize, at base: BPFRegister, _ offset: Int16) {
        append(0x61 | size.rawValue, destination, source: base.rawValue, offset: offset)
    }

    /// `memory at base + offset = source`.
    package mutating func store(_ source: BPFRegister, _ size: BPFSize, at base: BPFRegister, _ offset: Int16) {
        append(0x63 | size.rawValue, base, source: source.rawValue, offset: offset)
    }

    /// `memory at base + offset = constant`.
    package mutating func store(constant: Int32, _ size: BPFSize, at base: BPFRegister, _ offset: Int16) {
        append(0x62 | size.rawValue, base, offset: offset, immediate: constant)
    }

    /// `memory at base + offset += source`, for all processors at once; word or double.
    package mutating func atomicAdd(_ source: BPFRegister, _ size: BPFSize, at base: BPFRegister, _ offset: Int16) {
        append(0xC3 | size.rawValue, base, source: source.rawValue, offset: offset)
    }

    package mutating func jump(to label: Label) {
        jumps.append((instructions.count, label))
        append(0x05, .r0)
    }

    /// Compares 64 bits.
    package mutating func jump(
        if left: BPFRegister, _ condition: BPFCondition, _ right: BPFRegister, to label: Label
    ) {
        jumps.append((instructions.count, label))
        append(0x0D | condition.rawValue, left, source: right.rawValue)
    }

    /// Compares 64 bits with a constant that is extended by its sign.
    package mutating func jump(if left: BPFRegister, _ condition: BPFCondition, _ right: Int32, to label: Label) {
        jumps.append((instructions.count, label))
        append(0x05 | condition.rawValue, left, immediate: right)
    }

    /// Compares the low 32 bits with a constant.
    package mutating func jump(
        ifWord left: BPFRegister, _ condition: BPFCondition, _ right: UInt32, to label: Label
    ) {
        jumps.append((instructions.count, label))
        append(0x06 | condition.rawValue, left, immediate: Int32(bitPattern: right))
    }

    package mutating func call(_ function: BPFFunction) { append(0x85, .r0, immediate: function.rawValue) }

    package mutating func exit() { append(0x95, .r0) }

    /// The finished program.
    /// - Throws: `invalid` for a label that was not placed, or is farther away than a jump reaches (32,767 instructions).
    package func assemble() throws(PacketIOError) -> [BPFInstruction] {
        var result = instructions
        for (instruction, label) in jumps {
            guard let place = places[label.index] else { throw .invalid("a BPF label was not placed") }
            guard let offset = Int16(exactly: place - instruction - 1) else {
                throw .invalid("a BPF jump over \(place - instruction - 1) instructions is too far")
            }
            result[instruction].offset = offset
        }
        return result
    }

    private mutating func append(
        _ opcode: UInt8, _ destination: BPFRegister, source: UInt8 = 0, offset: Int16 = 0, immediate: Int32 = 0
    ) {
        instructions.append(
            BPFInstruction(
                opcode: opcode, destination: destination, source: source, offset: offset, immediate: immediate))
    }
}
