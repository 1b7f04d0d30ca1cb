// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// Memory of one verbs object: the C structure that programs see, and behind it the record that only we see.
///
/// libibverbs lets a provider embed its structures the same way. The memory comes first, because its address names the
/// object in the engine's events; `initialize` fills it, and the destroy verb calls `free`. A storage that is dropped
/// before that frees its memory. This file holds all pointer arithmetic between the two parts.
@safe struct ObjectStorage<Object, Record: ~Copyable>: ~Copyable {
    /// Owned until `initialize` gives it to the object.
    private let raw: UnsafeMutableRawPointer

    private static var recordOffset: Int {
        (MemoryLayout<Object>.size + alignment - 1) / alignment * alignment
    }

    /// A cache line: the hot words of two objects never share one.
    private static var alignment: Int { 64 }

    init() {
        let size = Self.recordOffset + MemoryLayout<Record>.size
        unsafe raw = .allocate(byteCount: size, alignment: Self.alignment)
        unsafe raw.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    }

    deinit {
        unsafe raw.deallocate()
    }

    /// The object's name in the engine.
    var tag: UInt { unsafe UInt(bitPattern: raw) }

    /// Ends the storage: from now on the object owns the memory. The C part is zero.
    consuming func initialize(_ record: consuming Record) -> UnsafeMutablePointer<Object> {
        let raw = unsafe raw
        discard self
        unsafe (raw + Self.recordOffset).bindMemory(to: Record.self, capacity: 1).initialize(to: record)
        return unsafe raw.assumingMemoryBound(to: Object.self)
    }

    /// The record behind an object that `initialize` made.
    @inline(__always)
    static func record(_ object: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Record> {
        unsafe (object + recordOffset).assumingMemoryBound(to: Record.self)
    }

    /// Ends the record and frees both parts.
    static func free(_ object: UnsafeMutableRawPointer) {
        unsafe record(object).deinitialize(count: 1)
        unsafe object.deallocate()
    }
}
