// SPDX-License-Identifier: Apache-2.0

/// A register of the eBPF machine.
///
/// `r0` is a call's result and the verdict, `r1`...`r5` are arguments and lost in a call, `r6`...`r9` survive it, and
/// `stack` is the end of 512 bytes of stack: use negative offsets.
package enum BPFRegister: UInt8, Sendable {
    case r0, r1, r2, r3, r4, r5, r6, r7, r8, r9
    case stack
}

/// How much an instruction loads or stores.
package enum BPFSize: UInt8, Sendable {
    case word = 0x00
    case half = 0x08
    case byte = 0x10
    case double = 0x18
}

/// What a jump asks of its two operands. Comparisons are of unsigned numbers.
package enum BPFCondition: UInt8, Sendable {
    case equal = 0x10
    case greater = 0x20
    case greaterOrEqual = 0x30
    case anyBitSet = 0x40
    case notEqual = 0x50
    case less = 0xA0
    case lessOrEqual = 0xB0
}

/// What an instruction computes; the result replaces the left operand.
package enum BPFOperation: UInt8, Sendable {
    case add = 0x00
    case subtract = 0x10
    case multiply = 0x20
    case or = 0x40
    case and = 0x50
    case shiftLeft = 0x60
    case shiftRight = 0x70
    case exclusiveOr = 0xA0
    case move = 0xB0
}

/// A function of the kernel that a program may call, by its number (`enum bpf_func_id`).
package enum BPFFunction: Int32, Sendable {
    /// r1 map, r2 key: r0 is the address of the value, or 0.
    case mapLookup = 1
    /// r1 the context of a TC program, and else as ``loadFrameBytes``.
    case loadPacketBytes = 26
    /// r1 map, r2 key (a number), r3 the verdict where the map has no such entry: r0 is the verdict.
    case redirectMap = 51
    /// r1 the context, r2 bytes (a number, negative for more): moves the start of the metadata before the frame. r0 is 0
    /// where the driver has room for it. Addresses in the frame are lost.
    case adjustMetadata = 54
    /// r1 the context: r0 is the length of the frame, all of its buffers together.
    case frameByteCount = 188
    /// r1 the context, r2 the offset, r3 where to (on the stack), r4 how many: copies bytes of the frame, whichever of
    /// its buffers they are in. r0 is 0 where they are there.
    case loadFrameBytes = 189
}

/// One instruction as the kernel's `struct bpf_insn`; a 64-bit constant takes two.
package struct BPFInstruction: Sendable, Equatable {
    package var opcode: UInt8
    package var destination: BPFRegister
    /// A register's number, or what a constant is of.
    package var source: UInt8
    package var offset: Int16
    package var immediate: Int32

    package init(
        opcode: UInt8, destination: BPFRegister = .r0, source: UInt8 = 0, offset: Int16 = 0, immediate: Int32 = 0
    ) {
        self.opcode = opcode
        self.destination = destination
        self.source = source
        self.offset = offset
        self.immediate = immediate
    }

    /// The eight bytes as the kernel reads them, on a little-endian machine.
    package var word: UInt64 {
        UInt64(opcode) | UInt64(destination.rawValue) << 8 | UInt64(source) << 12
            | UInt64(UInt16(bitPattern: offset)) << 16 | UInt64(UInt32(bitPattern: immediate)) << 32
    }
}
