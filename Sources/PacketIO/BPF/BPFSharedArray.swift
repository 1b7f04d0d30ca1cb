// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Synchronization

/// An array of the kernel whose words of 64 bits programs and this process share: neither needs a system call.
///
/// A word that a program adds to (atomically) is read here without an order: it is a counter. A word that is stored here
/// is seen by the programs that run afterwards, whole (release; a program needs no acquire: what else it reads by it, it reads at an
/// address made of it).
@safe package struct BPFSharedArray: ~Copyable {
    /// Entries, which programs find by their number.
    package let entryCount: Int
    /// Words of an entry.
    package let wordCount: Int
    private let descriptor: FileDescriptor
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let byteCount: Int

    /// Zeros.
    ///
    /// - Throws: the error of `bpf`; EPERM without CAP_BPF.
    package init(entryCount: Int, wordCount: Int) throws(PacketIOError) {
        let descriptor = try FileDescriptor(
            clinuxnet_bpf_map_create(
                BPFMap.Kind.array.rawValue, 4, UInt32(wordCount * 8), UInt32(entryCount),
                UInt32(CLINUXNET_BPF_MAP_MAPPABLE.rawValue)), call: "bpf(BPF_MAP_CREATE)")
        try self.init(descriptor, entryCount: entryCount, wordCount: wordCount)
    }

    /// The next of descriptors that another process passed: its array, of this size.
    package init(_ passed: PassedDescriptors, entryCount: Int, wordCount: Int) throws(PacketIOError) {
        guard let descriptor = passed.takeFile() else { throw .invalid("the array of counters is missing") }
        try self.init(descriptor, entryCount: entryCount, wordCount: wordCount)
    }

    private init(
        _ descriptor: consuming FileDescriptor, entryCount: Int, wordCount: Int
    ) throws(PacketIOError) {
        let byteCount = entryCount * wordCount * 8
        guard let memory = unsafe clinuxnet_map_ring(descriptor.number, byteCount, 0) else {
            throw SystemError.last("mmap(BPF array)")
        }
        unsafe words = memory.assumingMemoryBound(to: Atomic<UInt64>.self)
        self.entryCount = entryCount
        self.wordCount = wordCount
        self.byteCount = byteCount
        self.descriptor = descriptor
    }

    deinit { unsafe _ = munmap(words, byteCount) }

    /// Its descriptor, to be passed.
    package var number: Int32 { descriptor.number }

    /// A word of an entry.
    package subscript(entry: Int, word: Int) -> UInt64 {
        get { unsafe words[place(entry, word)].load(ordering: .relaxed) }
        nonmutating set { unsafe words[place(entry, word)].store(newValue, ordering: .releasing) }
    }

    private func place(_ entry: Int, _ word: Int) -> Int {
        precondition(entry >= 0 && entry < entryCount && word >= 0 && word < wordCount, "a word of the array")
        return entry * wordCount + word
    }
}
