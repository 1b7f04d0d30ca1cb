// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// The classic BPF program that a reuseport group runs over each UDP payload to choose the receiving socket.
///
/// It returns an index into the group's array of sockets, which the kernel neither shows nor keeps in an order of ours
/// (the last takes the place of one that leaves); an index past the end lets the kernel choose by hash. So the indices
/// are learnt: the program returns the index that a probe asks for, and whoever gets the probe says which slot it is.
/// All else goes by the slot in the destination queue pair number, byte 5 of the BTH.
///
/// Pure: a description of the program; the link attaches it.
package struct SteeringProgram: Sendable, Equatable {
    /// One instruction, as the kernel's `sock_filter`.
    package struct Instruction: Sendable, Equatable {
        package var code: UInt16
        package var jumpTrue: UInt8
        package var jumpFalse: UInt8
        package var value: UInt32

        package init(code: UInt16, jumpTrue: UInt8, jumpFalse: UInt8, value: UInt32) {
            self.code = code
            self.jumpTrue = jumpTrue
            self.jumpFalse = jumpFalse
            self.value = value
        }
    }

    package private(set) var instructions: [Instruction]

    /// - Parameter table: which index serves each slot, at most 254 pairs; slots that are missing go by hash.
    package init(table: [(slot: UInt8, index: UInt16)]) {
        // A load past the end of the payload ends a classic program with 0: too short for RoCE, so whoever gets it
        // drops it.
        instructions = [
            .loadByte(at: 0),
            .jump(ifEqual: UInt32(SteeringProbe.opcode), else: 4),
            .loadWord(at: SteeringProbe.magicOffset),
            .jump(ifEqual: SteeringProbe.magic, else: 2),
            .loadHalf(at: SteeringProbe.indexOffset),
            .returnAccumulator,
            .loadByte(at: 5),
        ]
        for entry in table.prefix(254) {
            instructions.append(.jump(ifEqual: UInt32(entry.slot), else: 1))
            instructions.append(.return(UInt32(entry.index)))
        }
        instructions.append(.return(.max))
    }

    /// Puts the program in place for the whole group of the socket; `false` where the kernel refuses.
    func attach(to descriptor: Int32) -> Bool {
        var filters = instructions.map {
            sock_filter(code: $0.code, jt: $0.jumpTrue, jf: $0.jumpFalse, k: $0.value)
        }
        return unsafe filters.withUnsafeMutableBufferPointer { buffer in
            // The kernel copies the instructions during the call.
            var program = unsafe sock_fprog(len: UInt16(buffer.count), filter: buffer.baseAddress)
            return unsafe setsockopt(
                descriptor, SOL_SOCKET, clinuxnet_so_attach_reuseport_cbpf, &program,
                UInt32(MemoryLayout<sock_fprog>.size)) == 0
        }
    }
}

extension SteeringProgram.Instruction {
    // Codes of include/uapi/linux/bpf_common.h and filter.h.
    fileprivate static func loadByte(at offset: UInt32) -> Self {
        Self(code: 0x30, jumpTrue: 0, jumpFalse: 0, value: offset)
    }
    fileprivate static func loadHalf(at offset: UInt32) -> Self {
        Self(code: 0x28, jumpTrue: 0, jumpFalse: 0, value: offset)
    }
    fileprivate static func loadWord(at offset: UInt32) -> Self {
        Self(code: 0x20, jumpTrue: 0, jumpFalse: 0, value: offset)
    }
    fileprivate static func jump(ifEqual value: UInt32, else skip: UInt8) -> Self {
        Self(code: 0x15, jumpTrue: 0, jumpFalse: skip, value: value)
    }
    fileprivate static func `return`(_ value: UInt32) -> Self {
        Self(code: 0x06, jumpTrue: 0, jumpFalse: 0, value: value)
    }
    fileprivate static var returnAccumulator: Self { Self(code: 0x16, jumpTrue: 0, jumpFalse: 0, value: 0) }
}

/// The datagram that asks "who is socket number `index` of this group?".
///
/// Sent from an address to itself, so it never leaves the host. To a process of another program, or of another version,
/// it is a BTH with an opcode of the vendor range and without an ICRC: dropped.
package struct SteeringProbe: Sendable, Equatable {
    package static let opcode: UInt8 = 0xFE
    package static let magic: UInt32 = 0x7377_7662
    package static let indexOffset: UInt32 = 2
    package static let magicOffset: UInt32 = 8
    package static let byteCount = 24

    package var index: UInt16
    /// Whom to answer: the slot of the process that learns. Stands where a BTH has the destination's slot.
    package var learner: UInt8
    /// Chosen by the learner at random for each attempt, so that answers to another attempt are not taken.
    package var nonce: UInt64

    package init(index: UInt16, learner: UInt8, nonce: UInt64) {
        self.index = index
        self.learner = learner
        self.nonce = nonce
    }

    /// `nil` for anything else than a probe.
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount == Self.byteCount,
            unsafe bytes.unsafeLoad(fromByteOffset: 0, as: UInt8.self) == Self.opcode
        else { return nil }
        // In bounds: the length has just been checked.
        let magic = unsafe UInt32(bigEndian: bytes.unsafeLoadUnaligned(fromByteOffset: 8, as: UInt32.self))
        guard magic == Self.magic else { return nil }
        index = unsafe UInt16(bigEndian: bytes.unsafeLoadUnaligned(fromByteOffset: 2, as: UInt16.self))
        learner = unsafe bytes.unsafeLoad(fromByteOffset: 5, as: UInt8.self)
        nonce = unsafe UInt64(bigEndian: bytes.unsafeLoadUnaligned(fromByteOffset: 12, as: UInt64.self))
    }

    /// Writes ``byteCount`` bytes.
    package func store(to memory: UnsafeMutableRawPointer) {
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: Self.byteCount)
        unsafe memory.storeBytes(of: Self.opcode, as: UInt8.self)
        unsafe memory.storeBytes(of: index.bigEndian, toByteOffset: 2, as: UInt16.self)
        unsafe memory.storeBytes(of: learner, toByteOffset: 5, as: UInt8.self)
        unsafe memory.storeBytes(of: Self.magic.bigEndian, toByteOffset: 8, as: UInt32.self)
        unsafe memory.storeBytes(of: nonce.bigEndian, toByteOffset: 12, as: UInt64.self)
    }
}
