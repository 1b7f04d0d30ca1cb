// SPDX-License-Identifier: Apache-2.0
import CFuzzer
import Glibc
import RoCETransport
import RoCEWire

/// Application memory with four regions in it, and between them what nobody may touch: poisoned, so that the address
/// sanitizer stops a read as well as a write.
final class FuzzMemory {
    enum Name: Int, CaseIterable {
        /// Open to everything.
        case open
        /// May be read by peers, and written by nobody.
        case constant
        /// Open to everything, in another protection domain than all queue pairs.
        case foreign
        /// Written by receives and read by sends, closed to peers.
        case local
    }

    struct Region {
        var offset: Int
        var byteCount: Int
        var access: AccessFlags
        var protectionDomain: UInt32
        /// `nil` while it is not registered.
        var key: MemoryKey?
    }

    static let byteCount = 0x10000
    /// The address of the memory as work requests and peers see it.
    static let iova: UInt64 = 0x7000_0000
    let base: UnsafeMutableRawPointer
    private(set) var regions: [Region]

    init() {
        base = .allocate(byteCount: Self.byteCount, alignment: 4096)
        let all: AccessFlags = [.localWrite, .remoteWrite, .remoteRead, .remoteAtomic, .windowBind]
        regions = [
            Region(offset: 0x1000, byteCount: 0x4000, access: all, protectionDomain: 1),
            Region(offset: 0x6000, byteCount: 0x1000, access: [.remoteRead], protectionDomain: 1),
            Region(offset: 0x8000, byteCount: 0x1000, access: all, protectionDomain: 2),
            Region(offset: 0xA008, byteCount: 0x1FF8, access: [.localWrite], protectionDomain: 1),
        ]
        Self.pattern.withUnsafeBytes { base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        __asan_poison_memory_region(base, Self.byteCount)
    }

    /// Call when no engine knows the memory any more: checks what the sanitizer cannot.
    func checkAndFree() {
        __asan_unpoison_memory_region(base, Self.byteCount)
        let open = regions[Name.open.rawValue]
        let local = regions[Name.local.rawValue]
        for gap in [
            0..<open.offset, open.offset + open.byteCount..<local.offset,
            local.offset + local.byteCount..<Self.byteCount,
        ] {
            let isWhole = Self.pattern.withUnsafeBytes {
                memcmp($0.baseAddress! + gap.lowerBound, base + gap.lowerBound, gap.count) == 0
            }
            require(isWhole, "memory at \(gap) was written, which nothing permits")
        }
        base.deallocate()
    }

    private static let pattern = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 37 ^ 0xC5) }

    func region(_ name: Name) -> Region { regions[name.rawValue] }

    static func address(_ offset: Int) -> UInt64 { iova &+ UInt64(bitPattern: Int64(offset)) }

    // MARK: Registering

    func register(
        _ name: Name, with engine: UnsafeMutablePointer<Engine>, _ generator: inout some RandomNumberGenerator
    ) {
        let region = regions[name.rawValue]
        guard region.key == nil else { return }
        // The foreign region stays poisoned: no queue pair is of its domain.
        if region.protectionDomain == 1 { __asan_unpoison_memory_region(base + region.offset, region.byteCount) }
        regions[name.rawValue].key = try! engine.pointee.registerMemory(
            protectionDomain: region.protectionDomain, iova: Self.address(region.offset), pointer: base + region.offset,
            byteCount: region.byteCount, access: region.access, using: &generator)
    }

    /// Poisons the region, if no window is bound to it.
    func deregister(_ name: Name, from engine: UnsafeMutablePointer<Engine>) {
        guard let key = regions[name.rawValue].key, (try? engine.pointee.deregisterMemory(key)) != nil else { return }
        __asan_poison_memory_region(base + regions[name.rawValue].offset, regions[name.rawValue].byteCount)
        regions[name.rawValue].key = nil
    }

    // MARK: Choosing, near what is valid

    func key(_ input: inout FuzzInput, windows: [MemoryKey]) -> UInt32 {
        let known = regions.compactMap(\.key) + windows
        let choice = Int(input.byte())
        if choice < 160, let open = regions[0].key { return open.rawValue }
        if choice < 248, !known.isEmpty { return input.pick(known).rawValue }
        if choice < 252, !known.isEmpty { return input.pick(known).rawValue ^ UInt32(1) << UInt32(input.below(32)) }
        return input.integer()
    }

    /// An address in, at the borders of, or far from the regions.
    func address(_ input: inout FuzzInput) -> UInt64 {
        let region = input.pick(regions)
        switch input.below(8) {
        case 0: return input.integer()
        case 1: return Self.address(region.offset + region.byteCount - input.below(40))
        case 2: return Self.address(region.offset - input.below(40))
        case 3: return UInt64.max - UInt64(input.byte())
        case 4: return Self.address(input.below(Self.byteCount) & ~7)
        default: return Self.address(regions[0].offset + input.below(0x800) * 8)
        }
    }

    /// A length of a message or of a scatter/gather entry.
    static func length(_ input: inout FuzzInput) -> UInt32 {
        switch input.below(8) {
        case 0: input.integer()
        case 1: 0x8000_0000 &+ UInt32(input.below(3)) &- 1
        case 2: 8
        case 3: 0
        default: UInt32(input.below(5_000))
        }
    }
}
