// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A map of the kernel that programs read and this process fills. Closed with its last user: the owner here, or a
/// program that names it.
package struct BPFMap: ~Copyable {
    /// What a map is.
    package enum Kind: UInt32, Sendable {
        case hash = 1
        case array = 2
        /// Numbers to AF_XDP sockets: where frames are redirected to.
        case sockets = 17
    }

    private let descriptor: FileDescriptor
    package let keyByteCount: Int
    package let valueByteCount: Int

    /// - Throws: the error of `bpf`; EPERM without CAP_BPF (and CAP_NET_ADMIN for sockets).
    package init(_ kind: Kind, keyBytes: Int, valueBytes: Int, entryCount: Int) throws(PacketIOError) {
        keyByteCount = keyBytes
        valueByteCount = valueBytes
        descriptor = try FileDescriptor(
            clinuxnet_bpf_map_create(kind.rawValue, UInt32(keyBytes), UInt32(valueBytes), UInt32(entryCount), 0),
            call: "bpf(BPF_MAP_CREATE)")
    }

    var number: Int32 { descriptor.number }

    /// Sets an entry. Key and value are as long as the map says, and read during the call.
    package func set<Key: BitwiseCopyable, Value: BitwiseCopyable>(_ key: Key, to value: Value) throws(PacketIOError) {
        precondition(
            MemoryLayout<Key>.size == keyByteCount && MemoryLayout<Value>.size == valueByteCount,
            "key and value are as long as the map's")
        let result = unsafe withUnsafeBytes(of: key) { key in
            unsafe withUnsafeBytes(of: value) { value in
                unsafe clinuxnet_bpf_map_update(descriptor.number, key.baseAddress!, value.baseAddress!)
            }
        }
        guard result == 0 else { throw SystemError.last("bpf(BPF_MAP_UPDATE_ELEM)") }
    }

    /// Sets an entry whose key and value are words of 64 bits, as many as the map says.
    package func set(words key: [UInt64], to value: [UInt64]) throws(PacketIOError) {
        precondition(key.count * 8 == keyByteCount && value.count * 8 == valueByteCount, "as long as the map's")
        guard unsafe clinuxnet_bpf_map_update(descriptor.number, key, value) == 0 else {
            throw SystemError.last("bpf(BPF_MAP_UPDATE_ELEM)")
        }
    }

    /// Takes an entry out whose key is words of 64 bits; one that is not there is ignored.
    package func remove(words key: [UInt64]) {
        precondition(key.count * 8 == keyByteCount, "the key is as long as the map's")
        _ = unsafe clinuxnet_bpf_map_delete(descriptor.number, key)
    }

    /// The value of an entry, `nil` where there is none.
    package func value<Key: BitwiseCopyable, Value: BitwiseCopyable>(
        of key: Key, initial: Value
    ) -> Value? {
        precondition(
            MemoryLayout<Key>.size == keyByteCount && MemoryLayout<Value>.size == valueByteCount,
            "key and value are as long as the map's")
        var value = initial
        let result = unsafe withUnsafeBytes(of: key) { key in
            unsafe withUnsafeMutableBytes(of: &value) { value in
                unsafe clinuxnet_bpf_map_lookup(descriptor.number, key.baseAddress!, value.baseAddress!)
            }
        }
        return result == 0 ? value : nil
    }

    /// Takes an entry out; one that is not there is ignored.
    package func remove<Key: BitwiseCopyable>(_ key: Key) {
        precondition(MemoryLayout<Key>.size == keyByteCount, "the key is as long as the map's")
        _ = unsafe withUnsafeBytes(of: key) { unsafe clinuxnet_bpf_map_delete(descriptor.number, $0.baseAddress!) }
    }
}
