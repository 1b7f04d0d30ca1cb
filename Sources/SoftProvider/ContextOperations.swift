// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

// The operations of `verbs_context`: what inline functions of verbs.h call beyond the data path. One that is not
// supported is left NULL, for which those functions return EOPNOTSUPP.

extension DeviceObject {
    static func installExtendedOperations(_ operations: inout verbs_context) {
        unsafe operations.query_port = softQueryPort
        unsafe operations.query_device_ex = softQueryDevice
        unsafe operations.alloc_dm = softAllocateDeviceMemory
        unsafe operations.free_dm = softFreeDeviceMemory
        unsafe operations.reg_dm_mr = softRegisterDeviceMemory
        unsafe operations.advise_mr = softAdviseMemory
        unsafe operations.alloc_null_mr = softAllocateNullRegion
        unsafe operations.query_rt_values = softQueryValues
        unsafe operations.create_cq_ex = softCreateExtendedCompletionQueue
        unsafe operations.create_qp_ex = softCreateExtendedQueuePair
        unsafe operations.create_srq_ex = softCreateExtendedSharedQueue
        unsafe operations.open_qp = softOpenQueuePair
        unsafe operations.get_srq_num = softQuerySharedQueueNumber
        unsafe operations.open_xrcd = softOpenXRCDomain
        unsafe operations.close_xrcd = softCloseXRCDomain
        unsafe operations.alloc_td = softAllocateThreadDomain
        unsafe operations.dealloc_td = softDeallocateThreadDomain
        unsafe operations.alloc_parent_domain = softAllocateParentDomain
        unsafe operations.create_counters = softCreateCounters
        unsafe operations.destroy_counters = softDestroyCounters
        unsafe operations.attach_counters_point_flow = softAttachCounters
        unsafe operations.read_counters = softReadCounters
        unsafe operations.ibv_create_flow = softCreateFlow
        unsafe operations.ibv_destroy_flow = softDestroyFlow
    }
}

extension SoftContext {
    /// The open device that a context of ours is. Valid for such contexts only, as all functions of verbs.
    package static func of(_ context: UnsafeMutablePointer<ibv_context>) -> SoftContext {
        unsafe Unmanaged<SoftContext>.fromOpaque(UnsafeRawPointer(extended(context).pointee.priv)!)
            .takeUnretainedValue()
    }

    /// The length of the GID table as C programs see it: with free places, as on every RoCE device.
    package static let gidTableLength: Int32 = 16

    /// Makes the context lead here.
    func adoptContext() {
        unsafe Self.extended(context).pointee.priv = OpaquePointer(Unmanaged.passUnretained(self).toOpaque())
    }

    private static func extended(_ context: UnsafeMutablePointer<ibv_context>) -> UnsafeMutablePointer<verbs_context> {
        let offset = unsafe MemoryLayout<verbs_context>.offset(of: \.context)!
        return unsafe (UnsafeMutableRawPointer(context) - offset).assumingMemoryBound(to: verbs_context.self)
    }
}

/// Runs a control call of a C caller: 0, or the `errno` of the refusal.
package func softCode(_ body: () throws(ProviderError) -> Void) -> Int32 {
    do throws(ProviderError) {
        try body()
        return 0
    } catch {
        return SoftProvider.report(error)
    }
}

/// Runs a control call of a C caller that makes an object: `nil`, with `errno` set, if it was refused.
package func softObject<Object>(
    _ body: () throws(ProviderError) -> UnsafeMutablePointer<Object>
) -> UnsafeMutablePointer<Object>? {
    do throws(ProviderError) {
        return unsafe try body()
    } catch {
        errno = SoftProvider.report(error)
        return nil
    }
}

/// `verbs_context.query_port`: as much of the attributes as the caller has room for.
@c func softQueryPort(
    _ context: UnsafeMutablePointer<ibv_context>?, _ port: UInt8, _ attributes: UnsafeMutablePointer<ibv_port_attr>?,
    _ size: Int
) -> Int32 {
    guard let context = unsafe context, let attributes = unsafe attributes else { return EINVAL }
    return softCode { () throws(ProviderError) in
        var whole = ibv_port_attr()
        try unsafe SoftContext.of(context).queryPort(port, &whole)
        whole.gid_tbl_len = SoftContext.gidTableLength
        unsafe copy(of: whole, to: attributes, size: size)
    }
}

/// `verbs_context.query_device_ex`.
@c func softQueryDevice(
    _ context: UnsafeMutablePointer<ibv_context>?, _ input: UnsafePointer<ibv_query_device_ex_input>?,
    _ attributes: UnsafeMutablePointer<ibv_device_attr_ex>?, _ size: Int
) -> Int32 {
    guard let context = unsafe context, let attributes = unsafe attributes else { return EINVAL }
    if let input = unsafe input, unsafe input.pointee.comp_mask != 0 { return EINVAL }
    return softCode { () throws(ProviderError) in
        var whole = ibv_device_attr_ex()
        try unsafe SoftContext.of(context).queryDevice(&whole)
        unsafe copy(of: whole, to: attributes, size: size)
    }
}

/// Copies the first `size` bytes of a structure that grew from release to release; what the caller has more is zero.
private func copy<Structure>(of whole: Structure, to target: UnsafeMutablePointer<Structure>, size: Int) {
    unsafe withUnsafeBytes(of: whole) { bytes in
        let known = min(size, bytes.count)
        let target = UnsafeMutableRawPointer(target)
        unsafe target.copyMemory(from: bytes.baseAddress!, byteCount: known)
        if size > known { unsafe memset(target + known, 0, size - known) }
    }
}
