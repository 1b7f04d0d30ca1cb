// SPDX-License-Identifier: Apache-2.0

/// The kind of a memory window.
public enum MemoryWindowType: UInt8, Sendable {
    /// Bound by `ibv_bind_mw`, usable by every queue pair of its protection domain.
    case type1 = 1
    /// Bound by a work request, usable by the queue pair that bound it, invalidated by either side (type 2B).
    case type2 = 2
}

/// What a key names: a memory region, or a window on one. One entry of the ``MemoryTable``.
@safe struct MemoryObject {
    enum Kind: UInt8 {
        case free
        case region
        /// Memory that is none: nothing is written to it, and zeros are read. For local keys only.
        case null
        /// The whole address space, any page of which may be missing. For local keys only.
        case addressSpace
        case windowType1
        case windowType2
    }

    var kind: Kind
    /// The full key, with its present variant.
    var key: UInt32
    var protectionDomain: UInt32
    var access: AccessFlags
    /// First address, in the address space of work requests.
    var base: UInt64
    /// Bytes; 0 in a window that is not bound, so that it opens nothing.
    var length: UInt64
    /// Where `base` is. The application keeps the memory until it deregisters.
    var pointer: UnsafeMutableRawPointer?
    /// Bound type 2 windows: the serial number of the one queue pair that may use it; 0 otherwise.
    var owner: UInt64
    /// Bound windows: the index of their region. Free entries: the next free index.
    var link: UInt32
    /// Regions: windows bound to it. Windows: 1 if bound.
    var bindCount: UInt32

    static var free: Self {
        unsafe Self(
            kind: .free, key: 0, protectionDomain: 0, access: [], base: 0, length: 0, pointer: nil, owner: 0, link: 0,
            bindCount: 0)
    }

    /// What a region is, apart from its key.
    mutating func describeRegion(
        protectionDomain: UInt32, base: UInt64, pointer: UnsafeMutableRawPointer, byteCount: Int, access: AccessFlags
    ) {
        kind = .region
        self.protectionDomain = protectionDomain
        self.access = access
        self.base = access.contains(.zeroBased) ? 0 : base
        length = UInt64(byteCount)
        unsafe self.pointer = unsafe pointer
    }

    var isWindow: Bool { kind == .windowType1 || kind == .windowType2 }

    /// The memory of a range, if the whole range lies inside. The comparison cannot overflow: a base above the address
    /// gives a huge difference.
    @inline(__always)
    func memory(at address: UInt64, byteCount: UInt64) -> UnsafeMutableRawPointer? {
        let offset = address &- base
        guard byteCount <= length, offset <= length &- byteCount, let pointer = unsafe pointer else { return nil }
        return unsafe pointer + Int(truncatingIfNeeded: offset)
    }
}
