// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

// Functions that libibverbs has got since release 44 (IBVERBS_1.15 of release 59 to IBVERBS_1.18, in the sources of 65). Programs that were linked on a
// newer system import them; the header here may not declare them, so each has its C name by `@c` alone.

/// What a function of a kernel's device comes to where the system's library is older than the function.
private func refuse<Object>(_ function: StaticString) -> Object? {
    errno = SoftProvider.report(
        ProviderError(function, code: EOPNOTSUPP, detail: "the device does not have it, or the system's libibverbs"))
    return nil
}

/// The system's functions, if an object that begins with its context is one of theirs.
private func kernelVerbs(object: UnsafeMutableRawPointer?) -> UnsafePointer<system_verbs>? {
    guard let object = unsafe object else { return nil }
    return unsafe kernelVerbs(object.load(as: UnsafeMutablePointer<ibv_context>?.self))
}

// MARK: - Regions

/// `ibv_reg_mr_ex`
@c(ibv_reg_mr_ex)
public func registerExtended(
    _ domain: UnsafeMutablePointer<ibv_pd>, _ attributes: UnsafeMutablePointer<later_mr_init_attr>
) -> UnsafeMutablePointer<ibv_mr>? {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        // What a function that is there returns stays, also NULL with its `errno`.
        guard let function = unsafe kernel.pointee.ibv_reg_mr_ex else { return unsafe refuse("ibv_reg_mr_ex") }
        return unsafe function(domain, attributes)
    }
    let wanted = unsafe attributes.pointee
    func has(_ bit: later_mr_init_attr_mask) -> Bool { unsafe wanted.comp_mask & UInt64(bit.rawValue) != 0 }
    let known = UInt64(LATER_REG_MR_MASK_BUF.rawValue) * 2 - 1
    let hasFile = has(LATER_REG_MR_MASK_FD)
    let fault: String? =
        if unsafe wanted.comp_mask & ~known != 0 {
            "unknown bits in comp_mask"
        } else if has(LATER_REG_MR_MASK_DMAH) {
            "the device has no DMA handles: ibv_alloc_dmah fails"
        } else if hasFile == has(LATER_REG_MR_MASK_ADDR) {
            "either IBV_REG_MR_MASK_ADDR or IBV_REG_MR_MASK_FD is needed"
        } else if hasFile != has(LATER_REG_MR_MASK_FD_OFFSET) {
            "IBV_REG_MR_MASK_FD and IBV_REG_MR_MASK_FD_OFFSET belong together"
        } else if has(LATER_REG_MR_MASK_BUF), unsafe hasFile || !PlainBuffer.holds(wanted, domain) {
            "the range is not within the buffer, or the buffer is of another protection domain"
        } else {
            nil
        }
    if let fault {
        return unsafe softObject { () throws(ProviderError) in
            throw ProviderError("ibv_reg_mr_ex", code: EINVAL, detail: fault)
        }
    }
    if hasFile {
        return unsafe ibv_reg_dmabuf_mr(
            domain, wanted.fd_offset, wanted.length,
            has(LATER_REG_MR_MASK_IOVA) ? wanted.iova : wanted.fd_offset, wanted.fd, wanted.access)
    }
    let iova = unsafe has(LATER_REG_MR_MASK_IOVA) ? wanted.iova : UInt64(UInt(bitPattern: wanted.addr))
    return unsafe ibv_reg_mr_iova2(domain, wanted.addr, wanted.length, iova, UInt32(bitPattern: wanted.access))
}

/// `ibv_alloc_dmah`
@c(ibv_alloc_dmah)
public func allocateDMAHandle(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutableRawPointer?
) -> UnsafeMutableRawPointer? {
    if let kernel = unsafe kernelVerbs(context), let function = unsafe kernel.pointee.ibv_alloc_dmah {
        return unsafe function(context, attributes)
    }
    return unsafe refuse("ibv_alloc_dmah")
}

/// `ibv_dealloc_dmah`
@c(ibv_dealloc_dmah)
public func deallocateDMAHandle(_ handle: UnsafeMutableRawPointer?) -> Int32 {
    unsafe kernelVerbs(object: handle)?.pointee.ibv_dealloc_dmah?(handle) ?? EOPNOTSUPP
}

/// `ibv_dm_export_dmabuf_fd`
@c(ibv_dm_export_dmabuf_fd)
public func exportDeviceMemory(_ memory: UnsafeMutablePointer<ibv_dm>) -> Int32 {
    if let kernel = unsafe kernelVerbs(memory.pointee.context),
        let function = unsafe kernel.pointee.ibv_dm_export_dmabuf_fd
    {
        return unsafe function(memory)
    }
    return minusOne { () throws(ProviderError) in throw ProviderError("ibv_dm_export_dmabuf_fd", code: EOPNOTSUPP) }
}

// MARK: - Buffers

/// Memory of `ibv_alloc_buf`, whose handle (`ibv_buf`) this is: ordinary pages.
@safe private struct PlainBuffer {
    /// The system's library has handles of its own, which do not begin like this.
    let sign: UInt64
    let domain: UnsafeMutablePointer<ibv_pd>
    let address: UnsafeMutableRawPointer
    let size: Int

    static let sign: UInt64 = 0x7665_7262_735F_6275

    /// The buffer behind a handle; `nil` if that is of the system's library.
    static func of(_ handle: UnsafeMutableRawPointer) -> PlainBuffer? {
        guard unsafe handle.load(as: UInt64.self) == sign else { return nil }
        return unsafe handle.load(as: PlainBuffer.self)
    }

    /// Whether the range to register is within the buffer that is named with it, and the domain is the buffer's.
    static func holds(_ wanted: later_mr_init_attr, _ domain: UnsafeMutablePointer<ibv_pd>) -> Bool {
        guard let handle = unsafe wanted.buf, let buffer = unsafe of(handle), let address = unsafe wanted.addr else {
            return false
        }
        let offset = unsafe address - buffer.address
        // A length past the half of all addresses is negative here.
        return unsafe domain == buffer.domain && offset >= 0 && offset <= buffer.size
            && (0...buffer.size - offset).contains(wanted.length)
    }
}

/// `ibv_alloc_buf`
@c(ibv_alloc_buf)
public func allocateBuffer(
    _ domain: UnsafeMutablePointer<ibv_pd>, _ size: Int, _ result: UnsafeMutablePointer<UnsafeMutableRawPointer?>
) -> UnsafeMutableRawPointer? {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        guard let function = unsafe kernel.pointee.ibv_alloc_buf else {
            return unsafe refuse("ibv_alloc_buf")
        }
        return unsafe function(domain, size, result)
    }
    guard size > 0 else {
        errno = EINVAL
        return nil
    }
    let memory = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let memory = unsafe memory, unsafe memory != MAP_FAILED else { return nil }
    let handle = UnsafeMutablePointer<PlainBuffer>.allocate(capacity: 1)
    unsafe handle.initialize(
        to: PlainBuffer(sign: PlainBuffer.sign, domain: domain, address: memory, size: size))
    unsafe result.pointee = UnsafeMutableRawPointer(handle)
    return unsafe memory
}

/// `ibv_free_buf`
@c(ibv_free_buf)
public func freeBuffer(_ handle: UnsafeMutableRawPointer?) {
    guard let handle = unsafe handle else { return }
    guard let buffer = unsafe PlainBuffer.of(handle) else {
        unsafe KernelDevices.verbs?.pointee.ibv_free_buf?(handle)
        return
    }
    unsafe munmap(buffer.address, buffer.size)
    unsafe handle.assumingMemoryBound(to: PlainBuffer.self).deallocate()
}

/// `ibv_reg_buf_mr`
@c(ibv_reg_buf_mr)
public func registerBuffer(
    _ domain: UnsafeMutablePointer<ibv_pd>, _ handle: UnsafeMutableRawPointer?, _ address: UnsafeMutableRawPointer?,
    _ length: Int, _ access: Int32
) -> UnsafeMutablePointer<ibv_mr>? {
    if let kernel = unsafe kernelVerbs(domain.pointee.context) {
        guard let function = unsafe kernel.pointee.ibv_reg_buf_mr else { return unsafe refuse("ibv_reg_buf_mr") }
        return unsafe function(domain, handle, address, length, access)
    }
    var attributes = unsafe later_mr_init_attr()
    unsafe attributes.length = length
    unsafe attributes.access = access
    unsafe attributes.comp_mask = UInt64(LATER_REG_MR_MASK_ADDR.rawValue | LATER_REG_MR_MASK_BUF.rawValue)
    unsafe attributes.addr = unsafe address
    unsafe attributes.buf = unsafe handle
    return unsafe registerExtended(domain, &attributes)
}

/// `ibv_export_buf_dmabuf_fd`: the buffers of a software device are of no dma-buf.
@c(ibv_export_buf_dmabuf_fd)
public func exportBuffer(_ handle: UnsafeMutableRawPointer) -> Int32 {
    if unsafe PlainBuffer.of(handle) == nil, let function = unsafe KernelDevices.verbs?.pointee.ibv_export_buf_dmabuf_fd
    {
        return unsafe function(handle)
    }
    errno = ENODATA
    return -1
}

// MARK: - Queries

/// `ibv_query_port_speed`: in units of 100 Mbit/s, by the port's width and speed.
@c(ibv_query_port_speed)
public func queryPortSpeed(
    _ context: UnsafeMutablePointer<ibv_context>, _ port: UInt32, _ result: UnsafeMutablePointer<UInt64>
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee.ibv_query_port_speed?(context, port, result) ?? EOPNOTSUPP
    }
    return softCode { () throws(ProviderError) in
        guard let number = UInt8(exactly: port) else {
            throw ProviderError("ibv_query_port_speed", code: EINVAL, detail: "port \(port)")
        }
        var attributes = ibv_port_attr()
        try unsafe SoftContext.of(context).queryPort(number, &attributes)
        guard let lane = laneSpeeds[attributes.active_speed], let lanes = laneCounts[attributes.active_width] else {
            throw ProviderError(
                "ibv_query_port_speed", code: EINVAL,
                detail: "active_speed \(attributes.active_speed), active_width \(attributes.active_width)")
        }
        unsafe result.pointee = lane * lanes
    }
}

/// What the codes of `active_speed` and `active_width` mean (`ib_port_attr` of the kernel: SDR to XDR).
private let laneSpeeds: [UInt8: UInt64] = [1: 25, 2: 50, 4: 100, 8: 100, 16: 140, 32: 250, 64: 500, 128: 1_000]
private let laneCounts: [UInt8: UInt64] = [1: 1, 2: 4, 4: 8, 8: 12, 16: 2]

// MARK: - Completion counters

// The software device has none, so no object of it comes to these functions.

/// `ibv_query_comp_cntr_caps`
@c(_ibv_query_comp_cntr_caps)
public func queryCompletionCounterLimits(
    _ context: UnsafeMutablePointer<ibv_context>?, _ limits: UnsafeMutableRawPointer?, _ size: Int
) -> Int32 {
    unsafe kernelVerbs(context)?.pointee._ibv_query_comp_cntr_caps?(context, limits, size) ?? EOPNOTSUPP
}

/// `ibv_create_comp_cntr`
@c(ibv_create_comp_cntr)
public func createCompletionCounter(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutableRawPointer?
) -> UnsafeMutableRawPointer? {
    if let kernel = unsafe kernelVerbs(context), let function = unsafe kernel.pointee.ibv_create_comp_cntr {
        return unsafe function(context, attributes)
    }
    return unsafe refuse("ibv_create_comp_cntr")
}

/// `ibv_destroy_comp_cntr`
@c(ibv_destroy_comp_cntr)
public func destroyCompletionCounter(_ counter: UnsafeMutableRawPointer?) -> Int32 {
    unsafe kernelVerbs(object: counter)?.pointee.ibv_destroy_comp_cntr?(counter) ?? EOPNOTSUPP
}

/// `ibv_set_comp_cntr`
@c(ibv_set_comp_cntr)
public func setCompletionCounter(_ counter: UnsafeMutableRawPointer?, _ value: UInt64) -> Int32 {
    unsafe kernelVerbs(object: counter)?.pointee.ibv_set_comp_cntr?(counter, value) ?? EOPNOTSUPP
}

/// `ibv_set_err_comp_cntr`
@c(ibv_set_err_comp_cntr)
public func setErrorCounter(_ counter: UnsafeMutableRawPointer?, _ value: UInt64) -> Int32 {
    unsafe kernelVerbs(object: counter)?.pointee.ibv_set_err_comp_cntr?(counter, value) ?? EOPNOTSUPP
}

/// `ibv_inc_comp_cntr`
@c(ibv_inc_comp_cntr)
public func addToCompletionCounter(_ counter: UnsafeMutableRawPointer?, _ amount: UInt64) -> Int32 {
    unsafe kernelVerbs(object: counter)?.pointee.ibv_inc_comp_cntr?(counter, amount) ?? EOPNOTSUPP
}

/// `ibv_inc_err_comp_cntr`
@c(ibv_inc_err_comp_cntr)
public func addToErrorCounter(_ counter: UnsafeMutableRawPointer?, _ amount: UInt64) -> Int32 {
    unsafe kernelVerbs(object: counter)?.pointee.ibv_inc_err_comp_cntr?(counter, amount) ?? EOPNOTSUPP
}

/// `ibv_read_comp_cntr`
@c(ibv_read_comp_cntr)
public func readCompletionCounter(_ counter: UnsafeMutableRawPointer?, _ value: UnsafeMutablePointer<UInt64>?) -> Int32
{
    unsafe kernelVerbs(object: counter)?.pointee.ibv_read_comp_cntr?(counter, value) ?? EOPNOTSUPP
}

/// `ibv_read_err_comp_cntr`
@c(ibv_read_err_comp_cntr)
public func readErrorCounter(_ counter: UnsafeMutableRawPointer?, _ value: UnsafeMutablePointer<UInt64>?) -> Int32 {
    unsafe kernelVerbs(object: counter)?.pointee.ibv_read_err_comp_cntr?(counter, value) ?? EOPNOTSUPP
}

/// `ibv_qp_attach_comp_cntr`
@c(ibv_qp_attach_comp_cntr)
public func attachCompletionCounter(
    _ queuePair: UnsafeMutablePointer<ibv_qp>, _ counter: UnsafeMutableRawPointer?,
    _ attributes: UnsafeMutableRawPointer?
) -> Int32 {
    unsafe kernelVerbs(queuePair.pointee.context)?.pointee.ibv_qp_attach_comp_cntr?(queuePair, counter, attributes)
        ?? EOPNOTSUPP
}
