// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// All memory regions and windows of an engine, by key.
///
/// A key is 24 random bits, its *tag*, and 8 bits of *variant*, random at first and chosen by the owner of a type 2
/// window later. The tag is looked up in an open hash table, for which it is its own hash; the whole key must then be
/// equal. Tags are random because a key that can be guessed lets anyone who can forge a packet write (ReDMArk, 2021).
///
/// The table grows in control functions, up to its limit; lookups never allocate.
@safe struct MemoryTable: ~Copyable {
    /// Allocated here; `0..<capacity`.
    private var objects: UnsafeMutablePointer<MemoryObject>
    /// Allocated here: index + 1 of an object, or 0; linear probing, no tombstones.
    private var buckets: UnsafeMutablePointer<UInt32>
    private var capacity: Int
    private let countMax: Int
    private(set) var count = 0
    private var firstFree: UInt32 = 0
    let checked: CheckedMemory?

    init(countMax: Int, checked: CheckedMemory? = nil) {
        self.countMax = countMax
        self.checked = checked
        capacity = 64
        unsafe objects = .allocate(capacity: capacity)
        unsafe objects.initialize(repeating: .free, count: capacity)
        unsafe buckets = .allocate(capacity: capacity * 4)
        unsafe buckets.initialize(repeating: 0, count: capacity * 4)
        for index in 0..<capacity { unsafe objects[index].link = UInt32(index + 1) }
    }

    deinit {
        unsafe objects.deallocate()
        unsafe buckets.deallocate()
    }

    private var bucketMask: Int { capacity * 4 - 1 }

    // MARK: Data path

    @inline(__always)
    private func index(of key: UInt32) -> Int? {
        var bucket = Int(key >> 8) & bucketMask
        while true {
            let entry = unsafe buckets[bucket]
            if entry == 0 { return nil }
            if unsafe objects[Int(entry) - 1].key >> 8 == key >> 8 { return Int(entry) - 1 }
            bucket = (bucket + 1) & bucketMask
        }
    }

    /// The memory that a local key opens; `nil` if key, domain, bounds or permission do not allow it.
    @inline(__always)
    func local(
        _ key: UInt32, address: UInt64, byteCount: UInt32, protectionDomain: UInt32, access: AccessFlags
    ) -> UnsafeMutableRawPointer? {
        guard let index = index(of: key) else { return nil }
        let object = unsafe objects + index
        guard unsafe object.pointee.kind == .region, unsafe object.pointee.key == key,
            unsafe object.pointee.protectionDomain == protectionDomain,
            unsafe object.pointee.access.isSuperset(of: access)
        else { return nil }
        return unsafe object.pointee.memory(at: address, byteCount: UInt64(byteCount))
    }

    /// The same with the memory of the whole region.
    func localRegion(
        _ key: UInt32, address: UInt64, byteCount: UInt32, protectionDomain: UInt32, access: AccessFlags
    ) -> (memory: UnsafeMutableRawPointer, region: UnsafeMutableRawBufferPointer)? {
        guard
            let memory = unsafe local(
                key, address: address, byteCount: byteCount, protectionDomain: protectionDomain, access: access),
            let index = index(of: key)
        else { return nil }
        let object = unsafe objects[index]
        return unsafe (memory, UnsafeMutableRawBufferPointer(start: object.pointer, count: Int(object.length)))
    }

    /// A region that every range lies in, and that has no memory of its own.
    enum Boundless {
        case null
        case addressSpace
    }

    /// Which such region a local key names; `nil` if none, or if domain or permission do not allow it.
    @inline(never)
    func boundless(_ key: UInt32, protectionDomain: UInt32, access: AccessFlags) -> Boundless? {
        guard let index = index(of: key) else { return nil }
        let object = unsafe objects[index]
        guard object.key == key, object.protectionDomain == protectionDomain else { return nil }
        return switch object.kind {
        case .null: .null
        case .addressSpace: object.access.isSuperset(of: access) ? .addressSpace : nil
        default: nil
        }
    }

    /// The memory that a remote key opens to the peer of a queue pair; `nil` if anything does not allow it.
    ///
    /// - Parameter queuePair: the serial number of the queue pair, for windows of type 2.
    @inline(__always)
    func remote(
        _ key: UInt32, address: UInt64, byteCount: UInt32, protectionDomain: UInt32, queuePair: UInt64,
        access: AccessFlags
    ) -> UnsafeMutableRawPointer? {
        guard let index = index(of: key) else { return nil }
        let object = unsafe objects + index
        guard unsafe object.pointee.key == key, unsafe object.pointee.protectionDomain == protectionDomain,
            unsafe object.pointee.access.isSuperset(of: access),
            unsafe object.pointee.owner == 0 || object.pointee.owner == queuePair
        else { return nil }
        return unsafe object.pointee.memory(at: address, byteCount: UInt64(byteCount))
    }

    /// Whether a remote key permits something to the peer of a queue pair, without regard to a range.
    func permits(_ key: UInt32, protectionDomain: UInt32, queuePair: UInt64, access: AccessFlags) -> Bool {
        guard let index = index(of: key) else { return false }
        return unsafe remote(
            key, address: objects[index].base, byteCount: 0, protectionDomain: protectionDomain, queuePair: queuePair,
            access: access) != nil
    }

    // MARK: Control

    mutating func register(
        protectionDomain: UInt32, base: UInt64, pointer: UnsafeMutableRawPointer, byteCount: Int, access: AccessFlags,
        using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        try Self.check(base: base, byteCount: byteCount, access: access)
        return try insert(using: &generator) { object in
            unsafe object.describeRegion(
                protectionDomain: protectionDomain, base: base, pointer: pointer, byteCount: byteCount, access: access)
        }
    }

    mutating func register(
        _ boundless: Boundless, protectionDomain: UInt32, access: AccessFlags,
        using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        try insert(using: &generator) { object in
            object.kind = boundless == .null ? .null : .addressSpace
            object.protectionDomain = protectionDomain
            object.access = access
        }
    }

    /// Makes a region another one of the same key; busy while windows are bound to it.
    mutating func change(
        _ key: MemoryKey, protectionDomain: UInt32, base: UInt64, pointer: UnsafeMutableRawPointer, byteCount: Int,
        access: AccessFlags
    ) throws(EngineError) {
        try Self.check(base: base, byteCount: byteCount, access: access)
        guard let index = index(of: key.rawValue), unsafe objects[index].kind == .region,
            unsafe objects[index].key == key.rawValue
        else { throw .unknownObject }
        guard unsafe objects[index].bindCount == 0 else { throw .busy("memory windows are bound to the region") }
        unsafe objects[index].describeRegion(
            protectionDomain: protectionDomain, base: base, pointer: pointer, byteCount: byteCount, access: access)
    }

    /// An empty region is one: device memory may be registered so.
    private static func check(base: UInt64, byteCount: Int, access: AccessFlags) throws(EngineError) {
        guard byteCount >= 0 else { throw .invalidArgument("length") }
        guard base &+ UInt64(byteCount) >= base || base &+ UInt64(byteCount) == 0 else {
            throw .invalidArgument("iova + length")
        }
        // C11-32: remote write or atomic without local write makes no sense, and ibv_reg_mr refuses it.
        if !access.isDisjoint(with: [.remoteWrite, .remoteAtomic]), !access.contains(.localWrite) {
            throw .invalidArgument("access")
        }
    }

    mutating func deregister(_ key: MemoryKey) throws(EngineError) {
        guard let index = index(of: key.rawValue),
            unsafe [.region, .null, .addressSpace].contains(objects[index].kind),
            unsafe objects[index].key == key.rawValue
        else { throw .unknownObject }
        guard unsafe objects[index].bindCount == 0 else { throw .busy("memory windows are bound to the region") }
        remove(index)
    }

    mutating func allocateWindow(
        protectionDomain: UInt32, type: MemoryWindowType, using generator: inout some RandomNumberGenerator
    ) throws(EngineError) -> MemoryKey {
        try insert(using: &generator) { object in
            object.kind = type == .type1 ? .windowType1 : .windowType2
            object.protectionDomain = protectionDomain
        }
    }

    mutating func deallocateWindow(_ key: MemoryKey) throws(EngineError) {
        guard let index = index(of: key.rawValue), unsafe objects[index].isWindow else { throw .unknownObject }
        unbind(index)
        remove(index)
    }

    private mutating func insert(
        using generator: inout some RandomNumberGenerator, _ fill: (inout MemoryObject) -> Void
    ) throws(EngineError) -> MemoryKey {
        guard count < countMax else { throw .limitReached("memory keys") }
        if count == capacity { grow() }
        var key = UInt32.random(in: 256...UInt32.max, using: &generator)
        while index(of: key) != nil { key = UInt32.random(in: 256...UInt32.max, using: &generator) }
        let index = firstFree
        firstFree = unsafe objects[Int(index)].link
        var object = MemoryObject.free
        object.key = key
        fill(&object)
        unsafe objects[Int(index)] = object
        count += 1
        addBucket(Int(index))
        return MemoryKey(rawValue: key)
    }

    private mutating func addBucket(_ index: Int) {
        var bucket = unsafe Int(objects[index].key >> 8) & bucketMask
        while unsafe buckets[bucket] != 0 { bucket = (bucket + 1) & bucketMask }
        unsafe buckets[bucket] = UInt32(index + 1)
    }

    private mutating func remove(_ index: Int) {
        var hole = unsafe Int(objects[index].key >> 8) & bucketMask
        while unsafe buckets[hole] != UInt32(index + 1) { hole = (hole + 1) & bucketMask }
        // Move back what probed past the hole, so that no tombstone is needed.
        var next = (hole + 1) & bucketMask
        while unsafe buckets[next] != 0 {
            let home = unsafe Int(objects[Int(buckets[next]) - 1].key >> 8) & bucketMask
            if (next - home) & bucketMask >= (next - hole) & bucketMask {
                unsafe buckets[hole] = buckets[next]
                hole = next
            }
            next = (next + 1) & bucketMask
        }
        unsafe buckets[hole] = 0
        unsafe objects[index] = .free
        unsafe objects[index].link = firstFree
        firstFree = UInt32(index)
        count -= 1
    }

    private mutating func grow() {
        let old = capacity
        let oldObjects = unsafe objects
        capacity *= 2
        unsafe objects = .allocate(capacity: capacity)
        unsafe objects.initialize(from: oldObjects, count: old)
        unsafe (objects + old).initialize(repeating: .free, count: old)
        for index in old..<capacity { unsafe objects[index].link = UInt32(index + 1) }
        firstFree = UInt32(old)
        unsafe oldObjects.deallocate()
        unsafe buckets.deallocate()
        unsafe buckets = .allocate(capacity: capacity * 4)
        unsafe buckets.initialize(repeating: 0, count: capacity * 4)
        for index in 0..<old { addBucket(index) }
    }

    // MARK: Windows

    /// Takes a window's memory away; nothing if it is not bound.
    private mutating func unbind(_ index: Int) {
        guard unsafe objects[index].bindCount != 0 else { return }
        unsafe objects[Int(objects[index].link)].bindCount -= 1
        unsafe objects[index].bindCount = 0
        unsafe objects[index].length = 0
        unsafe objects[index].pointer = nil
        unsafe objects[index].owner = 0
        unsafe objects[index].access = []
    }

    /// Executes a bind. `false` is `IBV_WC_MW_BIND_ERR`.
    ///
    /// The rules are those of rxe_check_bind_mw: same domain all over; a type 2 window must be unbound and needs a
    /// length; the region must permit binding, local write if the window permits write or atomic, and FLUSH if the
    /// window does; the new key differs from the old in the variant at most.
    mutating func bind(_ request: SendWorkRequest, protectionDomain: UInt32, queuePair: UInt64) -> Bool {
        guard let index = index(of: request.bindWindowKey), unsafe objects[index].isWindow,
            unsafe objects[index].key == request.bindWindowKey,
            unsafe objects[index].protectionDomain == protectionDomain,
            request.bindNewKey >> 8 == request.bindWindowKey >> 8
        else { return false }
        let isType2 = unsafe objects[index].kind == .windowType2
        if isType2 {
            // The variant must change, or the old key would go on working.
            guard unsafe objects[index].bindCount == 0, request.bindLength > 0,
                request.bindNewKey != request.bindWindowKey
            else { return false }
        }
        guard request.bindLength > 0 else {
            unbind(index)
            unsafe objects[index].key = request.bindNewKey
            return true
        }
        guard let region = self.index(of: request.bindRegionKey) else { return false }
        let object = unsafe objects[region]
        let access = request.bindAccess
        guard object.kind == .region, object.key == request.bindRegionKey,
            object.protectionDomain == protectionDomain, object.access.contains(.windowBind),
            access.isDisjoint(with: [.remoteWrite, .remoteAtomic]) || object.access.contains(.localWrite),
            object.access.isSuperset(of: access.intersection([.flushGlobal, .flushPersistent])),
            let memory = unsafe object.memory(at: request.bindAddress, byteCount: request.bindLength)
        else { return false }
        unbind(index)
        unsafe objects[index].key = request.bindNewKey
        unsafe objects[index].base = access.contains(.zeroBased) ? 0 : request.bindAddress
        unsafe objects[index].length = request.bindLength
        unsafe objects[index].pointer = unsafe memory
        unsafe objects[index].access = access.intersection([
            .remoteRead, .remoteWrite, .remoteAtomic, .flushGlobal, .flushPersistent,
        ])
        unsafe objects[index].owner = isType2 ? queuePair : 0
        unsafe objects[index].link = UInt32(region)
        unsafe objects[index].bindCount = 1
        unsafe objects[region].bindCount += 1
        return true
    }

    /// Unbinds a type 2 window. `false` if the key is none that may be invalidated so: regions and windows of type 1
    /// never may.
    ///
    /// - Parameter queuePair: the queue pair whose peer asked; `nil` for a local request.
    mutating func invalidate(_ key: UInt32, protectionDomain: UInt32, queuePair: UInt64?) -> Bool {
        guard let index = index(of: key), unsafe objects[index].kind == .windowType2, unsafe objects[index].key == key,
            unsafe objects[index].protectionDomain == protectionDomain, unsafe objects[index].bindCount != 0
        else { return false }
        if let queuePair, unsafe objects[index].owner != queuePair { return false }
        unbind(index)
        return true
    }
}
