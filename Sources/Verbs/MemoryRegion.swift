// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// Memory that a device may use: pinned, and opened by a local key to this process and by a remote key to the peers of
/// its protection domain.
///
/// For messages, take ``RegisteredBuffer``s from a ``BufferPool`` over it: the compiler then sees to it that nobody
/// touches a buffer while the device has it. The region's own bytes, its addresses and keys are the raw level: what
/// the device or a peer writes there, it writes without asking Swift. Programs that touch what they have posted are found
/// by ``Device/open(guardsBuffers:)``.
///
/// Any thread may use it. The corresponding C type is `struct ibv_mr`.
@safe public final class MemoryRegion: @unchecked Sendable {  // Constant; bytes by unsafe calls.
    /// What backs memory that the region owns.
    public enum Pages: Hashable, Sendable {
        case standard
        /// 2 MiB pages that the administrator has reserved; an error where there are none left.
        case huge
        /// Ordinary pages that the kernel may merge to huge ones.
        case transparentHuge
    }

    /// The domain that it is registered in.
    public let domain: ProtectionDomain
    /// What may be done with it.
    public let access: AccessFlags
    /// In bytes.
    public let length: Int
    /// The key of work requests of this side.
    public var lkey: UInt32 { unsafe native.pointee.lkey }
    /// The key of the peers.
    public var rkey: UInt32 { unsafe native.pointee.rkey }

    /// The address that work requests and peers name: the virtual one, or what was given as `iova`.
    public let ioAddress: UInt64

    let native: UnsafeMutablePointer<ibv_mr>
    /// The first byte as this process sees it; `nil` for a dmabuf.
    let base: UnsafeMutableRawPointer?
    /// The pages, where they are the region's own.
    private let mapping: MemoryMapping?

    /// All of the region for the other side, as a value to send there. Its use is refused there unless ``access`` has
    /// the flag of the operation.
    public var remote: RemoteMemory { RemoteMemory(address: ioAddress, rkey: rkey, length: UInt64(length)) }

    /// A part for the other side; `nil` where it is not wholly inside.
    public func remote(offset: Int, length: Int) -> RemoteMemory? { remote.part(offset: offset, length: length) }

    /// A part as a work request of the raw level names it; the range must be inside, and shorter than 4 GiB.
    public func local(offset: Int = 0, length: Int? = nil) -> LocalMemory {
        let count = length ?? self.length - offset
        precondition(offset >= 0 && count >= 0 && offset <= self.length && count <= self.length - offset)
        return LocalMemory(address: ioAddress &+ UInt64(offset), length: UInt32(count), lkey: lkey)
    }

    /// The bytes, as long as the region lives. Nothing keeps a device or peer from writing them meanwhile: use it
    /// when the protocol at hand says that they are yours. A dmabuf has none.
    @unsafe public var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: base, count: base == nil ? 0 : length)
    }

    fileprivate init(
        domain: ProtectionDomain, native: UnsafeMutablePointer<ibv_mr>, base: UnsafeMutableRawPointer?, length: Int,
        ioAddress: UInt64, access: AccessFlags, mapping: MemoryMapping?
    ) {
        self.domain = domain
        unsafe self.native = native
        unsafe self.base = base
        self.length = length
        self.ioAddress = ioAddress
        self.access = access
        self.mapping = mapping
    }

    deinit {
        domain.context.bufferGuard?.remove(lkey: lkey)
        // Windows bound to the region, and buffers in it, keep it alive.
        try? unsafe domain.context.path.deregister(native)
    }
}

// Watching memory that a peer writes.
extension MemoryRegion {
    /// Reads one byte that a peer may be writing, with acquire ordering: what the peer wrote before it is seen after.
    public func load(at offset: Int) -> UInt8 {
        unsafe precondition(offset >= 0 && offset < length && base != nil)
        // Inside the region, which is alive during the call.
        return unsafe cverbs_load_acquire_8(base! + offset)
    }

    /// Reads eight bytes that a peer may be writing, in host order, with acquire ordering. `offset` is a multiple of 8
    /// (from a region that starts at one).
    public func load64(at offset: Int) -> UInt64 {
        unsafe precondition(offset >= 0 && offset & 7 == 0 && length >= 8 && offset <= length - 8 && base != nil)
        // Inside the region, which is alive during the call.
        return unsafe cverbs_load_acquire_64(base! + offset)
    }
}

extension ProtectionDomain {
    /// Registers zeroed pages of the region's own. `length` is in bytes; the pages are unmapped with the region. They
    /// are standard ones where the device guards buffers (``Device/open(guardsBuffers:)``).
    /// The corresponding C functions are `mmap` and `ibv_reg_mr`.
    public func makeRegion(
        length: Int, access: AccessFlags = .localWrite, pages: MemoryRegion.Pages = .standard
    ) throws(VerbsError) -> MemoryRegion {
        let kind: MemoryMapping.Pages =
            switch pages {
            case .standard: .standard
            case .huge: .huge
            case .transparentHuge: .transparentHuge
            }
        // An embedded device reads and writes in this process, so by a mapping that is never protected.
        let guarded = context.bufferGuard != nil
        let mapping =
            guarded && context.device.kind == .embedded
            ? try MemoryMapping(twice: length) : try MemoryMapping(length: length, pages: guarded ? .standard : kind)
        return unsafe try register(
            mapping.address, length: length, ioAddress: nil, access: access, mapping: mapping)
    }

    /// Registers memory of the caller, who keeps it mapped as long as the region lives, and away from other uses while
    /// work requests name it. `ioAddress` is what work requests and peers will name instead of the virtual address.
    /// The corresponding C functions are `ibv_reg_mr` and `ibv_reg_mr_iova`.
    @unsafe public func register(
        _ memory: UnsafeMutableRawBufferPointer, access: AccessFlags = .localWrite, ioAddress: UInt64? = nil
    ) throws(VerbsError) -> MemoryRegion {
        guard let base = memory.baseAddress, memory.count > 0 else {
            throw VerbsError(
                .invalidAttribute, verb: "ibv_reg_mr", code: EINVAL, subject: "length", value: "0",
                remedy: "Register at least one byte")
        }
        return try unsafe register(
            base, length: memory.count, ioAddress: ioAddress, access: access, mapping: nil)
    }

    /// Registers memory of another device that the kernel names by a dmabuf descriptor. The descriptor may be closed
    /// afterwards. The corresponding C function is `ibv_reg_dmabuf_mr`.
    public func registerDmabuf(
        descriptor: Int32, offset: UInt64 = 0, length: Int, ioAddress: UInt64 = 0, access: AccessFlags = .localWrite
    ) throws(VerbsError) -> MemoryRegion {
        do throws(ProviderError) {
            let region = try unsafe context.path.registerDmabuf(
                native, offset: offset, length: length, iova: ioAddress, descriptor: descriptor,
                access: access.rawValue)
            return unsafe MemoryRegion(
                domain: self, native: region, base: nil, length: length, ioAddress: ioAddress, access: access,
                mapping: nil)
        } catch {
            throw Diagnosis.registration(
                error, length: length, access: access, device: try? context.attributes, locked: .current())
        }
    }

    private func register(
        _ base: UnsafeMutableRawPointer, length: Int, ioAddress: UInt64?, access: AccessFlags, mapping: MemoryMapping?
    ) throws(VerbsError) -> MemoryRegion {
        let virtual = access.contains(.zeroBased) ? 0 : UInt64(UInt(bitPattern: base))
        let address = ioAddress ?? virtual
        do throws(ProviderError) {
            let region = try unsafe context.path.register(
                native, address: mapping?.deviceAddress ?? base, length: length, iova: address,
                access: access.rawValue)
            // Pages that are not pinned, the device faults in by the program's mapping.
            if let mapping, !access.contains(.onDemand) {
                unsafe context.bufferGuard?.add(
                    GuardedRegion(mapping, ioAddress: address, length: length), lkey: region.pointee.lkey)
            }
            return unsafe MemoryRegion(
                domain: self, native: region, base: base, length: length, ioAddress: address, access: access,
                mapping: mapping)
        } catch {
            throw Diagnosis.registration(
                error, length: length, access: access, device: try? context.attributes, locked: .current())
        }
    }
}
