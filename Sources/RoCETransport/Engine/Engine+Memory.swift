// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Control functions: our addresses, memory regions and windows.
extension Engine {
    /// Sets or clears one of our addresses. Queue pairs keep the address that it was when they were given its index.
    public mutating func setLocalAddress(_ index: Int, to address: LocalAddress?) throws(EngineError) {
        guard index >= 0, index < min(configuration.localAddressCountMax, 256) else {
            throw .limitReached("local addresses")
        }
        unsafe core.addresses[index] = address
    }

    /// Registers memory.
    ///
    /// - Parameters:
    ///   - protectionDomain: as in ``QueuePairCreation``.
    ///   - iova: the address by which work requests and peers name `pointer` (with `zeroBased`, 0).
    ///   - pointer: the memory; it must stay until the region is deregistered.
    /// - Returns: the key, which is both L_Key and R_Key.
    public mutating func registerMemory(
        protectionDomain: UInt32, iova: UInt64, pointer: UnsafeMutableRawPointer, byteCount: Int, access: AccessFlags,
        using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        try unsafe core.memory.register(
            protectionDomain: protectionDomain, base: iova, pointer: pointer, byteCount: byteCount, access: access,
            using: &generator)
    }

    /// Makes a region without memory, which holds every address: what is written to it is discarded, zeros are read. It is for the
    /// scatter/gather lists of SENDs, receives, WRITEs and READs; peers cannot name it, and frames are not sent from it.
    public mutating func registerNullMemory(
        protectionDomain: UInt32, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        try core.memory.register(.null, protectionDomain: protectionDomain, access: [], using: &generator)
    }

    /// Makes a region of the whole address space, where any page may be missing at any time: what is not there ends a work request with
    /// a protection error. It is for scatter/gather lists, as ``registerNullMemory``.
    ///
    /// - Parameter access: nothing or ``AccessFlags/localWrite``.
    /// - Throws: invalid without ``EngineConfiguration/checkedMemory``.
    public mutating func registerAddressSpace(
        protectionDomain: UInt32, access: AccessFlags, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        guard core.memory.checked != nil, access.isSubset(of: .localWrite) else { throw .invalidArgument("access") }
        return try core.memory.register(
            .addressSpace, protectionDomain: protectionDomain, access: access, using: &generator)
    }

    /// Makes a region another one, of the same key, as ``registerMemory`` would; busy while windows are bound to it.
    public mutating func changeMemory(
        _ key: MemoryKey, protectionDomain: UInt32, iova: UInt64, pointer: UnsafeMutableRawPointer, byteCount: Int,
        access: AccessFlags
    ) throws(EngineError) {
        try unsafe core.memory.change(
            key, protectionDomain: protectionDomain, base: iova, pointer: pointer, byteCount: byteCount, access: access)
    }

    /// Deregisters memory; busy while windows are bound to it. From the return on, nothing of it is touched.
    public mutating func deregisterMemory(_ key: MemoryKey) throws(EngineError) { try core.memory.deregister(key) }

    /// Allocates a window, bound to nothing. Binding is a work request (``SendOperation/bindWindow``), for both types.
    public mutating func allocateWindow(
        protectionDomain: UInt32, type: MemoryWindowType, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        try core.memory.allocateWindow(protectionDomain: protectionDomain, type: type, using: &generator)
    }

    /// Frees a window, bound or not; `key` may have any variant.
    public mutating func deallocateWindow(_ key: MemoryKey) throws(EngineError) {
        try core.memory.deallocateWindow(key)
    }
}
