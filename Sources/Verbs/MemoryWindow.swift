// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// A key over part of a memory region, opened and closed by work requests instead of by registration.
///
/// A window of type 1 is bound by ``QueuePair/bindType1(_:to:offset:length:access:id:)``, and bound again at will; one of
/// type 2 belongs to the queue pair that binds it, until the key is invalidated (here or by a peer's send with
/// invalidate). The corresponding C type is `struct ibv_mw`.
@safe public final class MemoryWindow {
    /// How a window is bound.
    public enum Kind: Hashable, Sendable {
        case type1
        case type2
    }

    /// The domain that it was made in.
    public let domain: ProtectionDomain
    /// How it is bound.
    public let kind: Kind
    /// The region it was bound to last, which it keeps alive: a region under a window cannot be deregistered.
    public private(set) var region: MemoryRegion?

    let native: UnsafeMutablePointer<ibv_mw>

    /// The key that peers use: of the last bind.
    public var rkey: UInt32 { unsafe native.pointee.rkey }

    init(domain: ProtectionDomain, kind: Kind) throws(VerbsError) {
        self.domain = domain
        self.kind = kind
        // Both calls go through the context's operations: the same on every device.
        errno = 0
        guard let allocate = unsafe domain.context.path.context.pointee.ops.alloc_mw else {
            throw VerbsError(ProviderError("ibv_alloc_mw", code: EOPNOTSUPP))
        }
        let window = unsafe allocate(domain.native, kind == .type1 ? .IBV_MW_TYPE_1 : .IBV_MW_TYPE_2)
        guard let window = unsafe window else {
            throw VerbsError(ProviderError("ibv_alloc_mw", code: errno == 0 ? ENOMEM : errno))
        }
        unsafe native = window
    }

    deinit {
        // Work requests that name the window keep it alive until they resolve.
        if let deallocate = unsafe native.pointee.context.pointee.ops.dealloc_mw { _ = unsafe deallocate(native) }
        _ = region
    }

    func bound(to region: MemoryRegion?) { self.region = region }
}

@available(*, unavailable) extension MemoryWindow: Sendable {}

extension ProtectionDomain {
    /// Makes a memory window, bound to nothing. The corresponding C function is `ibv_alloc_mw`.
    public func makeMemoryWindow(_ kind: MemoryWindow.Kind) throws(VerbsError) -> MemoryWindow {
        try MemoryWindow(domain: self, kind: kind)
    }
}

extension QueuePair {
    /// Posts the binding of a type 2 window to part of a region, under a key whose low 8 bits the caller varies (see
    /// ``MemoryWindow/nextKey()``). Peers may use the key once the bind has completed. The region needs
    /// ``AccessFlags/windowBind``. The corresponding C function is `ibv_post_send` with `IBV_WR_BIND_MW`.
    public func bind(
        _ window: MemoryWindow, rkey: UInt32, to region: MemoryRegion, offset: Int, length: Int, access: AccessFlags,
        id: UInt64 = 0, flags: SendFlags = .signaled
    ) -> PostStatus {
        guard window.kind == .type2, region.remote(offset: offset, length: length) != nil else {
            return .refused(PostError(code: EINVAL))
        }
        guard let record = unsafe sends.freeRecord else { return .full }
        let slot = unsafe slots.pointee.single_send
        unsafe slot.pointee.request.opcode = .IBV_WR_BIND_MW
        unsafe slot.pointee.request.num_sge = 0
        unsafe slot.pointee.request.bind_mw.mw = window.native
        unsafe slot.pointee.request.bind_mw.rkey = rkey
        unsafe slot.pointee.request.bind_mw.bind_info = Self.info(region, offset, length, access)
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        let code = unsafe ring(slot.request, record, flags)
        guard code == 0 else { return status(code) }
        unsafe window.native.pointee.rkey = rkey
        window.bound(to: region)
        unsafe core.sends.hold(window, for: record)
        return .posted
    }

    /// Posts the binding of a type 1 window to part of a region, or with a length of zero to nothing. The window gets its
    /// new key at once; peers may use it once the bind has completed. The corresponding C function is `ibv_bind_mw`.
    public func bindType1(
        _ window: MemoryWindow, to region: MemoryRegion, offset: Int = 0, length: Int, access: AccessFlags,
        id: UInt64 = 0
    ) -> PostStatus {
        guard window.kind == .type1, region.remote(offset: offset, length: length) != nil,
            let bind = unsafe native.pointee.context.pointee.ops.bind_mw
        else { return .refused(PostError(code: EINVAL)) }
        guard let record = unsafe sends.freeRecord else { return .full }
        unsafe record.pointee.id = id
        unsafe record.pointee.buffer = nil
        unsafe record.pointee.flags = 0
        var request = unsafe ibv_mw_bind()
        unsafe request.wr_id = UInt64(UInt(bitPattern: record))
        unsafe request.send_flags = SendFlags.signaled.rawValue
        unsafe request.bind_info = Self.info(region, offset, length, access)
        // A local variable, read during the call.
        let code = unsafe bind(native, window.native, &request)
        guard code == 0 else { return status(code) }
        unsafe sends.pointee.posted &+= 1
        window.bound(to: length == 0 ? nil : region)
        unsafe core.sends.hold(window, for: record)
        return .posted
    }

    private static func info(
        _ region: MemoryRegion, _ offset: Int, _ length: Int, _ access: AccessFlags
    ) -> ibv_mw_bind_info {
        unsafe ibv_mw_bind_info(
            mr: region.native, addr: length == 0 ? 0 : region.ioAddress &+ UInt64(offset), length: UInt64(length),
            mw_access_flags: access.rawValue)
    }
}

extension MemoryWindow {
    /// The key with its low eight bits counted on: what the next bind of a type 2 window may use, so that a key given
    /// out before stays dead. The corresponding C function is `ibv_inc_rkey`.
    public func nextKey() -> UInt32 { rkey & 0xFFFF_FF00 | (rkey &+ 1) & 0xFF }
}
